//! Networks that say where VIPs are placed, and how routers are reached.

use super::super::fixture::v4;
use super::*;
use crate::plan::service::ServiceView;

fn subnet(addr: &str, mask: u8) -> Value {
    json!({"prefix": {"ip_addr": v4(addr), "mask": mask}})
}

impl Fixture {
    async fn network(&self, subnets: &[Value]) -> String {
        let body = json!({"name": "links", "configured_subnets": subnets});
        self.create("network", body).await
    }

    /// Places VIPs only where an engine has an interface in this.
    async fn place_in(&self, wanted: Value) {
        let vip = json!([{"vip_id": "1", "ip_address": v4(VIP), "placement_networks": [wanted]}]);
        self.update("vsvip", &self.vsvip, set("vip", vip)).await;
    }

    /// Reason code of each engine that cannot take the VIP.
    fn unfit(&self) -> Vec<(String, String)> {
        let vs = self.uuid("virtualservice", "vs-1");
        let seen = self.observe(|o| o.service_view(&vs, ServiceView::Candidates));
        let seen = seen.expect("there");
        let all = seen["unfit_se"].as_array().expect("a list").iter();
        let text = |v: &Value| v.as_str().expect("text").to_owned();
        let mut all: Vec<_> = all
            .map(|se| (text(&se["se_name"]), text(&se["reason_code"])))
            .collect();
        all.sort_unstable();
        all
    }

    async fn peer_of(&self, network: &str, address: &str) -> Result<String, String> {
        let vrf = self.uuid("vrfcontext", "global");
        let peers = json!([{"peer_ip": v4(address), "remote_as": 65000, "network_ref": network}]);
        let profile = json!({"local_as": 65001, "ibgp": false, "peers": peers});
        self.try_update("vrfcontext", &vrf, set("bgp_profile", profile))
            .await?;
        let told = self.told();
        let profile = told.vrf.as_ref().and_then(|v| v.bgp.as_ref());
        Ok(profile.expect("told").peers[0].subnet.clone())
    }
}

#[tokio::test]
async fn a_vip_is_placed_where_its_networks_are_and_elsewhere_it_is_said_why_not() {
    let (fixture, _) = Fixture::with_engines(1).await;
    let network = fixture.network(&[subnet("10.9.0.0", 16)]).await;
    fixture.place_in(json!({"network_ref": network})).await;
    let nowhere = |se: &str| {
        (
            se.to_owned(),
            "no_interface_in_placement_network".to_owned(),
        )
    };
    let placed = ("se-1".to_owned(), "already_placed".to_owned());
    assert_eq!(fixture.unfit(), [placed.clone(), nowhere("se-2")]);
    fixture.group_setting("min_scaleout_per_vs", json!(2)).await;
    fixture.round().await;
    assert_eq!(fixture.ids(), [("se-1".to_owned(), 0)], "it stays");
    let own = json!({"network_ref": network, "subnet": {"ip_addr": v4("10.10.10.0"), "mask": 24}});
    fixture.place_in(own).await;
    assert_eq!(fixture.unfit(), [placed], "the subnet that is given counts");
    fixture.place_in(json!({"network_ref": network})).await;
    let subnets = json!([subnet("10.9.0.0", 16), subnet("10.10.0.0", 16)]);
    let wider = set("configured_subnets", subnets);
    fixture.update("network", &network, wider).await;
    fixture.planner.publish();
    fixture.short_round().await;
    assert_eq!(fixture.ids().len(), 2, "a change of the network is noticed");
    let none = set("configured_subnets", json!([]));
    fixture.update("network", &network, none).await;
    let said = fixture.unfit();
    assert!(
        !said.contains(&nowhere("se-2")),
        "it says nothing: {said:?}"
    );
}

#[tokio::test]
async fn a_peer_without_a_subnet_is_reached_by_its_networks() {
    let fixture = Fixture::new().await;
    let subnets = [subnet("10.9.0.0", 16), subnet("10.10.10.0", 24)];
    let network = fixture.network(&subnets).await;
    assert_eq!(
        fixture.peer_of(&network, "10.10.10.1").await,
        Ok("10.10.10.0/24".to_owned())
    );
    let refused = fixture.peer_of(&network, "10.7.0.1").await;
    let expected =
        "bgp_profile.peers[0].network_ref: the peer 10.7.0.1 is in no subnet of network links";
    let refused = refused.expect_err("another subnet");
    assert!(refused.starts_with(expected), "{refused}");
    let fewer = set("configured_subnets", json!([subnet("10.9.0.0", 16)]));
    let refused = fixture.try_update("network", &network, fewer).await;
    let refused = refused.expect_err("a peer is reached by it");
    assert!(
        refused.starts_with("configured_subnets: VRF context global: "),
        "{refused}"
    );
    let other = json!([subnet("10.10.0.0", 16)]);
    let other = set("configured_subnets", other);
    fixture.update("network", &network, other).await;
    let told = fixture.told();
    let profile = told.vrf.as_ref().and_then(|v| v.bgp.as_ref());
    assert_eq!(profile.expect("told").peers[0].subnet, "10.10.0.0/16");
}

/// `se-1` has the VIP, which is scaled natively and which a static route has by way of the link of `se-2`; `se-3` has this address.
async fn with_static_route(third: &str) -> Fixture {
    let (fixture, _) = Fixture::with_engines(0).await;
    for (name, address) in [("se-2", "10.9.9.12/24"), ("se-3", third)] {
        let uuid = fixture.create("serviceengine", json!({"name": name})).await;
        fixture.open_session(&uuid, address);
    }
    let vs = fixture.uuid("virtualservice", "vs-1");
    let natively = set("enable_rhi", json!(false));
    fixture.update("virtualservice", &vs, natively).await;
    let vrf = fixture.uuid("vrfcontext", "global");
    let prefix = json!({"ip_addr": v4("10.100.0.0"), "mask": 24});
    let route = json!({"route_id": "1", "prefix": prefix, "next_hop": v4("10.9.9.1")});
    let routes = set("static_routes", json!([route]));
    fixture.update("vrfcontext", &vrf, routes).await;
    fixture
}

/// Engines that cannot take it besides the one that has it, with these fields of its cloud.
async fn unfit_with(third: &str, fields: &[&'static str]) -> Vec<(String, String)> {
    let fixture = with_static_route(third).await;
    let cloud = fixture.uuid("cloud", "Default-Cloud");
    for field in fields {
        let on = set(field, json!(true));
        fixture.update("cloud", &cloud, on).await;
    }
    let mut unfit = fixture.unfit();
    unfit.retain(|(_, code)| code != "already_placed");
    unfit
}

#[tokio::test]
async fn a_cloud_says_whether_static_routes_or_subnets_place_a_vip_that_is_scaled_natively() {
    const ROUTES: &str = "enable_vip_static_routes";
    const FIRST: &str = "prefer_static_routes";
    const EVERYWHERE: &str = "enable_vip_on_all_interfaces";
    let off = |se: &str, code: &str| vec![(se.to_owned(), code.to_owned())];
    let by_route = off("se-3", "no_interface_to_static_route");
    let by_subnet = off("se-2", "no_interface_in_vip_subnet");
    let nobody: Vec<(String, String)> = Vec::new();
    let elsewhere = "10.10.10.13/24";
    assert_eq!(unfit_with(elsewhere, &[]).await, nobody);
    assert_eq!(unfit_with(elsewhere, &[ROUTES]).await, by_route);
    let in_subnet = "10.100.0.13/24";
    assert_eq!(unfit_with(in_subnet, &[]).await, by_subnet);
    assert_eq!(unfit_with(in_subnet, &[ROUTES]).await, by_subnet);
    assert_eq!(unfit_with(in_subnet, &[FIRST]).await, by_route);
    assert_eq!(unfit_with(in_subnet, &[FIRST, EVERYWHERE]).await, by_subnet);
    assert_eq!(unfit_with(elsewhere, &[FIRST, EVERYWHERE]).await, nobody);
}
