//! From objects to what an engine is told.

use super::super::fixture::{Fixture, peer, v4};
use super::*;
use model::object::Object;
use serde_json::{Value, json};

fn set(field: &'static str, value: Value) -> impl FnOnce(&mut Object) {
    move |object| drop(object.insert(field.to_owned(), value))
}

impl Fixture {
    async fn profile(&self, profile: Value) -> v1::BgpProfile {
        let vrf = self.uuid("vrfcontext", "global");
        self.update("vrfcontext", &vrf, set("bgp_profile", profile))
            .await;
        self.told()
            .vrf
            .clone()
            .expect("a VRF")
            .bgp
            .expect("a profile")
    }

    async fn only_peer(&self, profile: Value, more: Value) -> v1::BgpPeer {
        let mut profile = profile;
        profile["peers"] = json!([peer(more)]);
        self.profile(profile).await.peers.remove(0)
    }
}

#[tokio::test]
async fn every_setting_of_a_peer_reaches_the_engine() {
    let fixture = Fixture::new().await;
    let bare = fixture
        .only_peer(json!({"local_as": 65001, "ibgp": true}), json!({}))
        .await;
    let expected = v1::BgpPeer {
        address: "10.10.10.1".into(),
        subnet: "10.10.10.0/24".into(),
        remote_as: 65001,
        local_as: 65001,
        keepalive_s: 60,
        hold_time_s: 180,
        connect_timer_s: 10,
        advertisement_interval_s: 5,
        bfd: true,
        advertise_vip: true,
        advertise_snat_ip: true,
        ..v1::BgpPeer::default()
    };
    assert_eq!(bare, expected, "defaults");
    let ebgp = json!({"local_as": 65001, "ibgp": false, "keepalive_interval": 20, "hold_time": 70});
    let own = json!({"remote_as": 65002, "local_as": 65009, "keepalive_interval": 3, "hold_time": 9, "connect_timer": 7,
        "advertisement_interval": 6, "ebgp_multihop": 64, "md5_secret": "s", "bfd": true, "bfd_strict": true, "shutdown": true,
        "advertise_vip": false, "advertise_snat_ip": false, "label": "up", "ttl_security": true});
    let expected = v1::BgpPeer {
        remote_as: 65002,
        local_as: 65009,
        keepalive_s: 3,
        hold_time_s: 9,
        connect_timer_s: 7,
        advertisement_interval_s: 6,
        ebgp_multihop: 64,
        md5_secret: "s".into(),
        bfd_strict: true,
        shutdown: true,
        advertise_vip: false,
        advertise_snat_ip: false,
        label: "up".into(),
        ttl_security: true,
        ..bare
    };
    assert_eq!(fixture.only_peer(ebgp, own).await, expected);
}

#[tokio::test]
async fn timers_and_as_numbers_fall_back_to_the_profile() {
    let fixture = Fixture::new().await;
    let ibgp =
        || json!({"local_as": 65001, "ibgp": true, "keepalive_interval": 20, "hold_time": 70});
    let timers = |p: &v1::BgpPeer| (p.keepalive_s, p.hold_time_s);
    for (own, expected) in [
        (json!({}), (20, 70)),
        (json!({"hold_time": 30}), (20, 30)),
        (json!({"keepalive_interval": 5}), (5, 70)),
        (json!({"keepalive_interval": 0, "hold_time": 0}), (0, 0)),
    ] {
        assert_eq!(timers(&fixture.only_peer(ibgp(), own).await), expected);
    }
    let numbers = |p: &v1::BgpPeer| (p.local_as, p.remote_as);
    for (own, expected) in [
        (json!({}), (65001, 65001)),
        (json!({"local_as": 65005}), (65005, 65005)),
        // As a member of the peer's AS.
        (
            json!({"remote_as": 65007, "ibgp_local_as_override": true}),
            (65007, 65007),
        ),
    ] {
        assert_eq!(numbers(&fixture.only_peer(ibgp(), own).await), expected);
    }
    let ebgp = json!({"local_as": 65001, "ibgp": false});
    let external = fixture.only_peer(ebgp, json!({"remote_as": 65002})).await;
    assert_eq!(numbers(&external), (65001, 65002));
}

#[tokio::test]
async fn the_profile_with_communities_preferences_and_routing_options_reaches_the_engine() {
    let fixture = Fixture::new().await;
    let body = |send: bool| {
        json!({"local_as": 65001, "ibgp": true, "send_community": send, "community": ["65000:1", "no-export"],
            "local_preference": 4_294_967_295_u32, "shutdown": true,
            "ip_communities": [{"ip_begin": v4("10.1.0.1"), "ip_end": v4("10.1.0.9"), "community": ["1:2:3"]},
                {"ip_begin": v4("10.2.0.1"), "community": ["65000:9"]}],
            "routing_options": [{"label": "a", "learn_routes": true, "max_learn_limit": 60, "advertise_default_route": true},
                {"label": "b", "learn_only_default_route": true, "advertise_learned_routes": true}]})
    };
    let profile = fixture.profile(body(true)).await;
    assert_eq!(profile.communities, ["65000:1", "no-export"]);
    assert_eq!(
        (profile.local_preference, profile.shutdown),
        (Some(u32::MAX), true)
    );
    let range = |first: &str, last: &str, community: &str| v1::IpCommunities {
        first: first.into(),
        last: last.into(),
        communities: vec![community.into()],
    };
    let ranges = [
        range("10.1.0.1", "10.1.0.9", "1:2:3"),
        range("10.2.0.1", "10.2.0.1", "65000:9"),
    ];
    assert_eq!(profile.ip_communities, ranges);
    let options = [
        v1::RoutingOptions {
            label: "a".into(),
            advertise_default_route: true,
            learn_routes: true,
            max_learn_limit: 60,
            ..v1::RoutingOptions::default()
        },
        v1::RoutingOptions {
            label: "b".into(),
            advertise_learned_routes: true,
            learn_only_default_route: true,
            max_learn_limit: 50,
            ..v1::RoutingOptions::default()
        },
    ];
    assert_eq!(profile.routing_options, options);
    let silent = fixture.profile(body(false)).await;
    assert!(silent.communities.is_empty(), "send_community is false");
    assert!(
        silent
            .ip_communities
            .iter()
            .all(|r| r.communities.is_empty())
    );
    let ebgp = json!({"local_as": 65001, "ibgp": false, "num_as_path_prepend": 3});
    assert_eq!(fixture.profile(ebgp).await.num_as_path_prepend, Some(3));
}

#[tokio::test]
async fn a_peer_with_two_addresses_is_two_sessions() {
    let fixture = Fixture::new().await;
    let v6 = |addr: &str| json!({"addr": addr, "type": "V6"});
    let both = peer(
        json!({"peer_ip6": v6("fd00:10::1"), "subnet6": {"ip_addr": v6("fd00:10::"), "mask": 64}}),
    );
    let profile = fixture
        .profile(json!({"local_as": 65001, "ibgp": true, "peers": [both]}))
        .await;
    let peers: Vec<_> = profile
        .peers
        .iter()
        .map(|p| (p.address.as_str(), p.subnet.as_str()))
        .collect();
    assert_eq!(
        peers,
        [
            ("10.10.10.1", "10.10.10.0/24"),
            ("fd00:10::1", "fd00:10::/64")
        ]
    );
}

#[tokio::test]
async fn snat_addresses_are_told_where_they_are_to_be_announced() {
    let fixture = Fixture::new().await;
    let vs = fixture.uuid("virtualservice", "vs-1");
    fixture
        .update(
            "virtualservice",
            &vs,
            set("snat_ip", json!([v4("10.100.9.1")])),
        )
        .await;
    assert!(
        fixture.told().snat_ips.is_empty(),
        "enable_rhi_snat is not set"
    );
    fixture
        .update("virtualservice", &vs, set("enable_rhi_snat", json!(true)))
        .await;
    let expected = v1::SnatIp {
        vs_uuid: vs,
        address: "10.100.9.1".into(),
        own: true,
    };
    assert_eq!(fixture.told().snat_ips, [expected]);
}

#[tokio::test]
async fn each_engine_has_a_source_address_of_its_own() {
    let fixture = Fixture::new().await;
    let vs = fixture.uuid("virtualservice", "vs-1");
    let v6 = json!({"addr": "fd00::9:1", "type": "V6"});
    let addresses = json!([v4("10.100.9.1"), v6, v4("10.100.9.2")]);
    let change = |o: &mut Object| {
        o.insert("snat_ip".into(), addresses);
        o.insert("enable_rhi_snat".into(), json!(true));
    };
    fixture.update("virtualservice", &vs, change).await;
    let mut engines = vec![fixture.engine.clone()];
    for name in ["se-2", "se-3"] {
        let engine = fixture.create("serviceengine", json!({"name": name}));
        engines.push(engine.await);
    }
    let all: Vec<&str> = engines.iter().map(String::as_str).collect();
    fixture.place(&fixture.vsvip, &all).await;
    let told = |engine: &str| {
        let told = fixture.told_to(engine);
        let each = told.snat_ips.iter().map(|s| s.address.clone());
        each.collect::<Vec<_>>()
    };
    assert_eq!(told(&engines[0]), ["10.100.9.1", "fd00::9:1"]);
    assert_eq!(told(&engines[1]), ["10.100.9.2"]);
    assert_eq!(told(&engines[2]), Vec::<String>::new(), "none is left");
}

/// Local preference, prepend and labels of the only VIP.
fn of_vip(told: &v1::DesiredState, address: &str) -> (Option<u32>, Option<u32>, Vec<String>) {
    let vip = told
        .vips
        .iter()
        .find(|v| v.address == address)
        .expect("told");
    (
        vip.local_preference,
        vip.num_as_path_prepend,
        vip.peer_labels.clone(),
    )
}

fn bgp_fields(object: &mut Object, preference: u32, prepend: u32, label: &str) {
    object.insert("bgp_local_preference".into(), preference.into());
    object.insert("bgp_num_as_path_prepend".into(), prepend.into());
    object.insert("bgp_peer_labels".into(), json!([label]));
}

/// avi-api section 12, virtualservice: "VS wins if it has its own `vip`".
#[tokio::test]
async fn a_virtual_service_with_its_own_vip_says_how_it_is_announced() {
    let fixture = Fixture::new().await;
    let address = "10.100.0.7";
    let body = json!({"name": "own", "services": [{"port": 80}], "enable_rhi": true, "bgp_local_preference": 300,
        "bgp_num_as_path_prepend": 2, "bgp_peer_labels": ["up"], "vip": [{"vip_id": "1", "ip_address": v4(address)}]});
    let vs = fixture.create("virtualservice", body).await;
    let vsvip = fixture.uuid("vsvip", "vsvip-own");
    fixture.place(&vsvip, &[&fixture.engine]).await;
    let told = |fixture: &Fixture| of_vip(&fixture.told(), address);
    assert_eq!(told(&fixture), (Some(300), Some(2), vec!["up".to_owned()]));
    fixture
        .update("virtualservice", &vs, |o| bgp_fields(o, 400, 3, "down"))
        .await;
    assert_eq!(
        told(&fixture),
        (Some(400), Some(3), vec!["down".to_owned()])
    );
    fixture
        .update("vsvip", &vsvip, |o| bgp_fields(o, 1, 1, "x"))
        .await;
    assert_eq!(
        told(&fixture),
        (Some(400), Some(3), vec!["down".to_owned()]),
        "the VS wins"
    );
    let clear = |o: &mut Object| {
        for field in [
            "bgp_local_preference",
            "bgp_num_as_path_prepend",
            "bgp_peer_labels",
        ] {
            o.shift_remove(field);
        }
    };
    fixture.update("virtualservice", &vs, clear).await;
    assert_eq!(
        told(&fixture),
        (Some(1), Some(1), vec!["x".to_owned()]),
        "what is left"
    );
}

#[tokio::test]
async fn a_vsvip_of_its_own_says_how_its_vips_are_announced() {
    let fixture = Fixture::new().await;
    let vs = fixture.uuid("virtualservice", "vs-1");
    fixture
        .update("virtualservice", &vs, |o| bgp_fields(o, 400, 3, "vs"))
        .await;
    fixture
        .update("vsvip", &fixture.vsvip, |o| bgp_fields(o, 0, 10, "vip"))
        .await;
    let told = of_vip(&fixture.told(), super::super::fixture::VIP);
    assert_eq!(told, (Some(0), Some(10), vec!["vip".to_owned()]));
}

/// What an older version stored and this one cannot read must not take VIPs off engines.
#[tokio::test]
async fn an_object_that_cannot_be_read_leaves_in_force_what_is() {
    let fixture = Fixture::new().await;
    let vs = fixture.uuid("virtualservice", "vs-1");
    let vrf = fixture.uuid("vrfcontext", "global");
    let profile = json!({"local_as": 65001, "local_preference": -1});
    let engine = fixture.engine.clone();
    for (path, uuid, field, value) in [
        (
            "vsvip",
            fixture.vsvip.clone(),
            "bgp_local_preference",
            json!(-1),
        ),
        (
            "virtualservice",
            vs,
            "bgp_local_preference",
            json!(4_294_967_296_u64),
        ),
        ("vrfcontext", vrf, "bgp_profile", profile),
        (
            "serviceengine",
            engine,
            "data_vnics",
            json!([{"vnic_networks": [{}]}]),
        ),
    ] {
        let before = fixture.told();
        assert!(!before.vips.is_empty() && !before.virtual_services.is_empty());
        let stored = fixture
            .snapshot()
            .get(path, &uuid)
            .expect("there")
            .object
            .clone();
        fixture.change(path, &uuid, set(field, value)).await;
        assert_eq!(fixture.told(), before, "{path}");
        let state = fixture.registry.get(&fixture.engine);
        let status = fixture.observe(|o| o.engine_status(&state));
        assert_eq!(
            status["reason_code_string"], "desired_state_not_made",
            "{status}"
        );
        fixture.round().await;
        assert_eq!(
            fixture.planner.assignment(&fixture.vsvip).engines,
            std::slice::from_ref(&fixture.engine),
            "{path}"
        );
        fixture.change(path, &uuid, |o| *o = stored).await;
        fixture.told();
        assert_eq!(fixture.registry.get(&fixture.engine).stuck, None);
    }
}

#[tokio::test]
async fn an_engine_that_is_disabled_is_told_to_drain() {
    let fixture = Fixture::new().await;
    for (state, draining) in [
        ("SE_STATE_DISABLED", true),
        ("SE_STATE_DISABLED_FOR_PLACEMENT", false),
        ("SE_STATE_DISABLED_FORCE", true),
        ("SE_STATE_ENABLED", false),
    ] {
        fixture
            .update(
                "serviceengine",
                &fixture.engine,
                set("enable_state", json!(state)),
            )
            .await;
        assert_eq!(fixture.told().draining, draining, "{state}");
    }
}

fn reference(fixture: &Fixture, path: &str, name: &str) -> Value {
    json!(format!("/api/{path}/{}", fixture.uuid(path, name)))
}

/// Ports with their protocols, and the idle timeouts of TCP and UDP.
fn carried(told: &v1::DesiredState) -> (Vec<(u32, v1::Protocol)>, u32, u32) {
    let vs = &told.virtual_services[0];
    let ports = vs.ports.iter().map(|p| (p.first, p.protocol()));
    (ports.collect(), vs.idle_timeout_s, vs.udp_idle_timeout_s)
}

#[tokio::test]
async fn network_profiles_say_which_ports_are_udp_and_when_flows_are_idle() {
    use v1::Protocol::{Tcp, Udp};
    let fixture = Fixture::new().await;
    let vs = fixture.uuid("virtualservice", "vs-1");
    assert_eq!(carried(&fixture.told()), (vec![(80, Tcp)], 600, 0));
    let slow = json!({"type": "PROTOCOL_TYPE_UDP_PROXY", "udp_proxy_profile": {"session_idle_timeout": 60}});
    let slow = fixture
        .create("networkprofile", json!({"name": "slow", "profile": slow}))
        .await;
    let udp = |o: &mut Object| {
        let l4 = reference(&fixture, "applicationprofile", "System-L4-Application");
        o.insert("application_profile_ref".into(), l4);
        let udp = reference(&fixture, "networkprofile", "System-UDP-Fast-Path");
        o.insert("network_profile_ref".into(), udp);
    };
    fixture.update("virtualservice", &vs, udp).await;
    assert_eq!(carried(&fixture.told()), (vec![(80, Udp)], 600, 10));
    let slow = format!("/api/networkprofile/{slow}");
    let tcp = reference(&fixture, "networkprofile", "System-TCP-Proxy");
    let services = json!([{"port": 80}, {"port": 80, "override_network_profile_ref": tcp},
        {"port": 81, "override_network_profile_ref": slow}]);
    fixture
        .update("virtualservice", &vs, set("services", services))
        .await;
    let ports = vec![(80, Udp), (80, Tcp), (81, Udp)];
    assert_eq!(carried(&fixture.told()), (ports, 600, 60));
}

#[tokio::test]
async fn idle_connections_are_kept_unless_the_network_profile_ends_them() {
    let fixture = Fixture::new().await;
    let vs = fixture.uuid("virtualservice", "vs-1");
    assert!(fixture.told().virtual_services[0].keeps_idle);
    let tcp = json!({"idle_connection_type": "CLOSE_IDLE", "idle_connection_timeout": 30});
    let tcp = json!({"type": "PROTOCOL_TYPE_TCP_PROXY", "tcp_proxy_profile": tcp});
    let profile = json!({"name": "short", "profile": tcp});
    let profile = fixture.create("networkprofile", profile).await;
    let profile = json!(format!("/api/networkprofile/{profile}"));
    fixture
        .update("virtualservice", &vs, set("network_profile_ref", profile))
        .await;
    let told = &fixture.told().virtual_services[0];
    assert_eq!((told.idle_timeout_s, told.keeps_idle), (30, false));
    let fast = reference(&fixture, "networkprofile", "System-TCP-Fast-Path");
    fixture
        .update("virtualservice", &vs, set("network_profile_ref", fast))
        .await;
    let told = &fixture.told().virtual_services[0];
    assert_eq!((told.idle_timeout_s, told.keeps_idle), (300, false));
}

#[tokio::test]
async fn the_settings_of_tcp_reach_the_engine_where_the_profile_is_not_automatic() {
    let fixture = Fixture::new().await;
    let vs = fixture.uuid("virtualservice", "vs-1");
    let told = || fixture.told().virtual_services[0].tcp;
    assert_eq!(told(), None, "the kernel chooses");
    let profile = |tcp: Value| json!({"type": "PROTOCOL_TYPE_TCP_PROXY", "tcp_proxy_profile": tcp});
    let body = json!({"name": "own", "profile": profile(json!({"automatic": false}))});
    let own = fixture.create("networkprofile", body).await;
    let reference = json!(format!("/api/networkprofile/{own}"));
    fixture
        .update("virtualservice", &vs, set("network_profile_ref", reference))
        .await;
    let reno = v1::TcpSettings {
        congestion_control: v1::CongestionControl::NewReno.into(),
        ..v1::TcpSettings::default()
    };
    assert_eq!(told(), Some(reno), "defaults");
    let all = json!({"automatic": false, "nagles_algorithm": true, "auto_window_growth": false, "receive_window": 256,
        "use_interface_mtu": false, "max_segment_size": 1200, "cc_algo": "CC_ALGO_CUBIC", "ip_dscp": 46});
    let change = set("profile", profile(all));
    fixture.update("networkprofile", &own, change).await;
    let expected = v1::TcpSettings {
        nagle: true,
        receive_window_kb: 256,
        segment_bytes_max: 1200,
        congestion_control: v1::CongestionControl::Cubic.into(),
        dscp: 46,
    };
    assert_eq!(told(), Some(expected));
    let automatic = set("profile", profile(json!({"ip_dscp": 46})));
    fixture.update("networkprofile", &own, automatic).await;
    assert_eq!(told(), None);
}

#[tokio::test]
async fn the_weight_and_how_many_may_be_half_open_reach_the_engine() {
    let fixture = Fixture::new().await;
    let told = || {
        let vs = &fixture.told().virtual_services[0];
        (vs.weight, vs.half_open_max)
    };
    assert_eq!(told(), (1, 0));
    let vs = fixture.uuid("virtualservice", "vs-1");
    let heavy = set("weight", json!(128));
    fixture.update("virtualservice", &vs, heavy).await;
    let group = fixture.uuid("serviceenginegroup", "Default-Group");
    let few = set("flow_table_new_syn_max_entries", json!(500));
    fixture.update("serviceenginegroup", &group, few).await;
    assert_eq!(told(), (128, 500));
}

#[tokio::test]
async fn the_application_profile_of_a_port_is_looked_at_before_that_of_the_virtual_service() {
    let fixture = Fixture::new().await;
    let vs = fixture.uuid("virtualservice", "vs-1");
    let l4 = reference(&fixture, "applicationprofile", "System-L4-Application");
    let http = reference(&fixture, "applicationprofile", "System-HTTP");
    let udp = reference(&fixture, "networkprofile", "System-UDP-Fast-Path");
    let with = |own: Option<&Value>, all: &Value| {
        let mut service = json!({"port": 53, "override_network_profile_ref": udp});
        if let Some(own) = own {
            service["override_application_profile_ref"] = own.clone();
        }
        let (services, all) = (json!([{"port": 80}, service]), all.clone());
        move |o: &mut Object| {
            o.insert("application_profile_ref".into(), all);
            o.insert("services".into(), services);
        }
    };
    let update = async |own, all| {
        fixture
            .try_update("virtualservice", &vs, with(own, all))
            .await
    };
    for (own, all, refused) in [
        (None, &l4, ""),
        (Some(&l4), &http, ""),
        (
            None,
            &http,
            "application_profile_ref: System-HTTP is for TCP",
        ),
        (
            Some(&http),
            &l4,
            "services[1].override_application_profile_ref: System-HTTP is for TCP",
        ),
    ] {
        let found = update(own, all).await.err().unwrap_or_default();
        assert!(
            found.starts_with(refused) && found.is_empty() == refused.is_empty(),
            "{found}"
        );
    }
}

/// What the engine is told of the only monitor of the virtual service's pool.
async fn monitor_kind(fixture: &Fixture, monitor: Value) -> v1::health_monitor::Kind {
    let name = monitor["name"].clone();
    let monitor = fixture.create("healthmonitor", monitor).await;
    let monitor = format!("/api/healthmonitor/{monitor}");
    let pool = json!({"name": name, "health_monitor_refs": [monitor]});
    let pool = fixture.create("pool", pool).await;
    let vs = fixture.uuid("virtualservice", "vs-1");
    let pool = json!(format!("/api/pool/{pool}"));
    fixture
        .update("virtualservice", &vs, set("pool_ref", pool))
        .await;
    let told = fixture.told();
    told.health_monitors[0].kind.clone().expect("a kind")
}

#[tokio::test]
async fn a_udp_or_tcp_monitor_reaches_the_engine_as_one() {
    use v1::health_monitor::Kind;
    let fixture = Fixture::new().await;
    let own =
        json!({"udp_request": "ping", "udp_response": "pong", "maintenance_response": "away"});
    let monitor = json!({"name": "u", "type": "HEALTH_MONITOR_UDP", "udp_monitor": own});
    let expected = v1::UdpMonitor {
        request: "ping".into(),
        response: "pong".into(),
        maintenance_response: "away".into(),
    };
    assert_eq!(monitor_kind(&fixture, monitor).await, Kind::Udp(expected));
    let own = json!({"tcp_request": "helo", "tcp_response": "220", "maintenance_response": "421"});
    let monitor = json!({"name": "t", "type": "HEALTH_MONITOR_TCP", "tcp_monitor": own});
    let expected = v1::TcpMonitor {
        request: "helo".into(),
        response: "220".into(),
        maintenance_response: "421".into(),
        half_open: false,
    };
    assert_eq!(monitor_kind(&fixture, monitor).await, Kind::Tcp(expected));
    let own = json!({"tcp_half_open": true});
    let monitor = json!({"name": "h", "type": "HEALTH_MONITOR_TCP", "tcp_monitor": own});
    let expected = v1::TcpMonitor {
        half_open: true,
        ..v1::TcpMonitor::default()
    };
    assert_eq!(monitor_kind(&fixture, monitor).await, Kind::Tcp(expected));
}

#[tokio::test]
async fn an_http_monitor_reaches_the_engine_with_its_defaults() {
    use v1::health_monitor::Kind;
    let fixture = Fixture::new().await;
    let bare = json!({"name": "bare", "type": "HEALTH_MONITOR_HTTP"});
    let expected = v1::HttpMonitor {
        request: "GET / HTTP/1.0".into(),
        ..v1::HttpMonitor::default()
    };
    assert_eq!(monitor_kind(&fixture, bare).await, Kind::Http(expected));
    let own = json!({"http_request": "HEAD /a HTTP/1.1\nHost: b", "exact_http_request": true,
        "http_response_code": ["HTTP_ANY", "HTTP_3XX"], "http_response": "fine", "maintenance_code": [503, 418],
        "maintenance_response": "back soon"});
    let full = json!({"name": "full", "type": "HEALTH_MONITOR_HTTPS", "https_monitor": own});
    let expected = v1::HttpMonitor {
        request: "HEAD /a HTTP/1.1\nHost: b".into(),
        exact_request: true,
        response_classes: vec![0, 3],
        maintenance_codes: vec![503, 418],
        response: "fine".into(),
        maintenance_response: "back soon".into(),
    };
    assert_eq!(monitor_kind(&fixture, full).await, Kind::Https(expected));
}

/// What the engine is told of the only pool, which has these settings.
async fn told_of_pool(settings: Value) -> v1::Pool {
    let fixture = Fixture::new().await;
    let vs = fixture.uuid("virtualservice", "vs-1");
    let mut pool = json!({"name": "p"});
    let all = pool.as_object_mut().expect("an object");
    all.extend(settings.as_object().expect("an object").clone());
    let pool = fixture.create("pool", pool).await;
    let reference = json!(format!("/api/pool/{pool}"));
    fixture
        .update("virtualservice", &vs, set("pool_ref", reference))
        .await;
    fixture.told().pools[0].clone()
}

#[tokio::test]
async fn how_much_of_a_pool_must_be_up_reaches_the_engine() {
    let least = |pool: v1::Pool| (pool.min_health_monitors_up, pool.min_servers_up);
    assert_eq!(least(told_of_pool(json!({})).await), (0, 0));
    let some = json!({"min_health_monitors_up": 2, "min_servers_up": 3});
    assert_eq!(least(told_of_pool(some).await), (2, 3));
    let odd = json!({"min_health_monitors_up": -1, "min_servers_up": 5_000_000_000_i64});
    assert_eq!(least(told_of_pool(odd).await), (0, u32::MAX));
}

#[tokio::test]
async fn the_algorithm_of_a_pool_reaches_the_engine_or_its_default() {
    use v1::LbAlgorithm as Lb;
    let fixture = Fixture::new().await;
    let vs = fixture.uuid("virtualservice", "vs-1");
    let pool = fixture.create("pool", json!({"name": "p"})).await;
    let reference = json!(format!("/api/pool/{pool}"));
    fixture
        .update("virtualservice", &vs, set("pool_ref", reference))
        .await;
    for (algorithm, hash, expected) in [
        ("ROUND_ROBIN", "SOURCE_IP_ADDRESS", Lb::RoundRobin),
        ("RANDOM", "SOURCE_IP_ADDRESS", Lb::Random),
        ("FASTEST_RESPONSE", "URI", Lb::FastestResponse),
        ("LEAST_LOAD", "URI", Lb::LeastConnections),
        (
            "CONSISTENT_HASH",
            "SOURCE_IP_ADDRESS",
            Lb::ConsistentHashSourceIpAddress,
        ),
        (
            "CONSISTENT_HASH",
            "SOURCE_IP_ADDRESS_AND_PORT",
            Lb::ConsistentHashSourceIpAddressAndPort,
        ),
        ("CONSISTENT_HASH", "URI", Lb::ConsistentHashSourceIpAddress),
    ] {
        let change = |object: &mut Object| {
            let algorithm = format!("LB_ALGORITHM_{algorithm}");
            let hash = format!("LB_ALGORITHM_CONSISTENT_HASH_{hash}");
            object.insert("lb_algorithm".into(), algorithm.into());
            object.insert("lb_algorithm_hash".into(), hash.into());
        };
        fixture.update("pool", &pool, change).await;
        assert_eq!(fixture.told().pools[0].lb_algorithm(), expected);
    }
}

#[tokio::test]
async fn how_long_a_disabled_server_keeps_its_connections_reaches_the_engine() {
    for (settings, expected) in [
        (json!({}), 1),
        (json!({"graceful_disable_timeout": 0}), 0),
        (json!({"graceful_disable_timeout": -1}), -1),
        (json!({"graceful_disable_timeout": 30}), 30),
    ] {
        let told = told_of_pool(settings).await;
        assert_eq!(told.graceful_disable_timeout_min, Some(expected));
    }
}

#[tokio::test]
async fn the_services_port_is_for_servers_only_where_the_pool_says_so() {
    assert!(!told_of_pool(json!({})).await.use_service_port);
    let set = json!({"use_service_port": true});
    assert!(told_of_pool(set).await.use_service_port);
}

/// Puts a pool group in place of the pool of `vs-1`.
async fn grouped(fixture: &Fixture, members: Value) {
    let group = json!({"name": "g", "members": members, "min_servers": 3});
    let group = fixture.create("poolgroup", group).await;
    let vs = fixture.uuid("virtualservice", "vs-1");
    let change = |o: &mut Object| {
        o.remove("pool_ref");
        let reference = format!("/api/poolgroup/{group}");
        o.insert("pool_group_ref".into(), reference.into());
    };
    fixture.update("virtualservice", &vs, change).await;
}

#[tokio::test]
async fn engines_are_told_of_the_pools_of_a_group_and_in_which_order_they_are_used() {
    let fixture = Fixture::new().await;
    let mut uuids = Vec::new();
    for name in ["a", "b", "c"] {
        let servers = json!([{"ip": v4("10.1.0.1"), "port": 80}]);
        let pool = json!({"name": name, "servers": servers});
        uuids.push(fixture.create("pool", pool).await);
    }
    let member = |i: usize| format!("/api/pool/{}", uuids[i]);
    let members = json!([{"pool_ref": member(0), "priority_label": "10", "ratio": 0},
        {"pool_ref": member(1), "priority_label": "18446744073709551615", "ratio": 1000}, {"pool_ref": member(2)}]);
    grouped(&fixture, members).await;
    let told = fixture.told();
    let vs = &told.virtual_services[0];
    let group = vs.pool_group.as_ref().expect("a group");
    assert_eq!(
        (&*vs.pool_uuid, &*group.name, group.min_servers),
        ("", "g", 3)
    );
    let each = group.members.iter();
    let each: Vec<_> = each
        .map(|m| (m.pool_uuid.clone(), m.priority, m.ratio))
        .collect();
    let expected = [(0, 1, 0), (1, 2, 1000), (2, 0, 1)];
    let expected = expected.map(|(i, priority, ratio)| (uuids[i].clone(), priority, ratio));
    assert_eq!(each, expected);
    let pools: BTreeSet<&str> = told.pools.iter().map(|p| &*p.uuid).collect();
    assert_eq!(pools, uuids.iter().map(|u| &**u).collect());
}

#[tokio::test]
async fn connects_to_servers_count_unless_the_pool_says_otherwise() {
    assert!(told_of_pool(json!({})).await.inline_health_monitor);
    let off = json!({"inline_health_monitor": false});
    assert!(!told_of_pool(off).await.inline_health_monitor);
}

#[tokio::test]
async fn a_vip_is_a_source_where_it_is_on_one_engine_alone() {
    let fixture = Fixture::new().await;
    let vs = fixture.uuid("virtualservice", "vs-1");
    let from_vip = |told: Arc<v1::DesiredState>| told.virtual_services[0].vip_as_source;
    assert!(!from_vip(fixture.told()));
    let group = fixture.uuid("serviceenginegroup", "Default-Group");
    let single = set("max_scaleout_per_vs", json!(1));
    fixture.update("serviceenginegroup", &group, single).await;
    let on = set("use_vip_as_snat", json!(true));
    fixture.update("virtualservice", &vs, on).await;
    assert!(from_vip(fixture.told()));
    let other = fixture
        .create("serviceengine", json!({"name": "se-2"}))
        .await;
    let vsvip = &fixture.vsvip;
    // As it may be when its group was made one for one engine afterwards.
    fixture.place(vsvip, &[&fixture.engine, &other]).await;
    assert!(
        !from_vip(fixture.told()),
        "routers would bring answers to both"
    );
    fixture.place(vsvip, &[&fixture.engine]).await;
    assert!(from_vip(fixture.told()));
}

#[tokio::test]
async fn a_cloud_has_vips_that_are_scaled_natively_answered_for_on_all_interfaces() {
    let fixture = Fixture::new().await;
    let vs = fixture.uuid("virtualservice", "vs-1");
    let natively = set("enable_rhi", json!(false));
    fixture.update("virtualservice", &vs, natively).await;
    let everywhere = || {
        let native = fixture.told().groups[0].native;
        native.expect("native").on_all_interfaces
    };
    assert!(!everywhere());
    let cloud = fixture.uuid("cloud", "Default-Cloud");
    let all = set("enable_vip_on_all_interfaces", json!(true));
    fixture.update("cloud", &cloud, all).await;
    assert!(everywhere());
}

#[tokio::test]
async fn a_vip_without_route_health_injection_is_scaled_natively_and_its_first_engine_answers() {
    let fixture = Fixture::new().await;
    assert_eq!(fixture.told().groups[0].native, None, "it is announced");
    let vs = fixture.uuid("virtualservice", "vs-1");
    fixture
        .update("virtualservice", &vs, set("enable_rhi", json!(false)))
        .await;
    let second = fixture
        .create("serviceengine", json!({"name": "se-2"}))
        .await;
    fixture
        .place(&fixture.vsvip, &[&second, &fixture.engine])
        .await;
    let native = |told: &v1::DesiredState| {
        let group = &told.groups[0];
        (group.native.expect("native"), group.members[0].id)
    };
    let (told, id_of_second) = native(&fixture.told());
    assert_eq!((told.first_id, told.spreads), (id_of_second, true));
    assert_eq!(told.distribution(), v1::FlowDistribution::LoadAware);
    let by_address = json!("CONSISTENT_HASH_SOURCE_IP_ADDRESS");
    fixture
        .update("virtualservice", &vs, set("flow_dist", by_address))
        .await;
    let group = fixture.uuid("serviceenginegroup", "Default-Group");
    let pairs = json!("HA_MODE_LEGACY_ACTIVE_STANDBY");
    fixture
        .update("serviceenginegroup", &group, set("ha_mode", pairs))
        .await;
    let (told, _) = native(&fixture.told());
    let expected = v1::FlowDistribution::ConsistentHashSourceIpAddress;
    assert_eq!((told.spreads, told.distribution()), (false, expected));
}
