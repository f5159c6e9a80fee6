use super::*;
use crate::plan::fixture::{Fixture, v4};
use crate::plan::reconcile;
use serde_json::json;

/// What was marked by the changes since it was last asked.
struct Marked {
    vips: Vips,
    engines: Vec<String>,
}

fn marked(fixture: &Fixture, published: &mut Published) -> Marked {
    let (_, engines) = fixture.planner.take_marks(published);
    let vips = fixture.planner.write().marks.take_vips();
    Marked { vips, engines }
}

/// Two engines, each with a VIP and a pool of its own.
async fn two() -> (Fixture, [String; 2], [String; 2]) {
    let fixture = Fixture::new().await;
    let other = fixture
        .create("serviceengine", json!({"name": "se-2"}))
        .await;
    let vip = json!([{"vip_id": "1", "ip_address": v4("10.100.0.2")}]);
    let vsvip = fixture
        .create("vsvip", json!({"name": "two", "vip": vip}))
        .await;
    let pool = json!({"name": "pool-2", "servers": [{"ip": v4("10.1.0.1"), "port": 80}]});
    fixture.create("pool", pool).await;
    let vs = json!({
        "name": "vs-2", "services": [{"port": 80}], "vsvip_ref": format!("/api/vsvip/{vsvip}"),
        "pool_ref": "/api/pool?name=pool-2",
    });
    fixture.create("virtualservice", vs).await;
    fixture.place(&vsvip, &[&other]).await;
    let engines = [fixture.engine.clone(), other];
    let vips = [fixture.vsvip.clone(), vsvip];
    (fixture, engines, vips)
}

#[tokio::test]
async fn a_change_of_a_pool_concerns_its_engines_alone() {
    let (fixture, [_, second], [_, vip]) = two().await;
    let mut published = Published::default();
    let first = marked(&fixture, &mut published);
    assert_eq!(first.vips, Vips::Every, "the first time nothing is known");
    assert_eq!(first.engines.len(), 2);
    let nothing = marked(&fixture, &mut published);
    assert_eq!(
        (nothing.vips, nothing.engines),
        (Vips::These([].into()), vec![])
    );
    let pool = fixture.uuid("pool", "pool-2");
    fixture
        .update("pool", &pool, |o| {
            drop(o.insert("description".into(), "x".into()))
        })
        .await;
    let changed = marked(&fixture, &mut published);
    assert_eq!(changed.engines, [second]);
    assert_eq!(changed.vips, Vips::These([vip].into()));
}

#[tokio::test]
async fn a_change_of_a_pool_group_or_of_a_pool_in_it_concerns_its_engines_alone() {
    let (fixture, [_, second], [_, vip]) = two().await;
    let member = json!({"pool_ref": "/api/pool?name=pool-2"});
    let group = json!({"name": "g", "members": [member]});
    let group = fixture.create("poolgroup", group).await;
    let vs = fixture.uuid("virtualservice", "vs-2");
    let to = format!("/api/poolgroup/{group}");
    fixture
        .update("virtualservice", &vs, |o| {
            o.remove("pool_ref");
            o.insert("pool_group_ref".into(), to.into());
        })
        .await;
    let mut published = Published::default();
    marked(&fixture, &mut published);
    let pool = fixture.uuid("pool", "pool-2");
    for (path, uuid) in [("poolgroup", &group), ("pool", &pool)] {
        let describe = |o: &mut model::object::Object| {
            o.insert("description".into(), "x".into());
        };
        fixture.update(path, uuid, describe).await;
        let changed = marked(&fixture, &mut published);
        assert_eq!(changed.engines, std::slice::from_ref(&second), "{path}");
        assert_eq!(changed.vips, Vips::These([vip.clone()].into()), "{path}");
    }
}

#[tokio::test]
async fn a_virtual_service_that_moves_concerns_both_vips() {
    let (fixture, engines, [first, second]) = two().await;
    let mut published = Published::default();
    marked(&fixture, &mut published);
    let vs = fixture.uuid("virtualservice", "vs-2");
    let to = format!("/api/vsvip/{first}");
    fixture
        .update("virtualservice", &vs, |o| {
            o.insert("vsvip_ref".into(), to.into());
            o.insert("services".into(), json!([{"port": 81}]));
        })
        .await;
    let changed = marked(&fixture, &mut published);
    assert_eq!(changed.vips, Vips::These([first, second].into()));
    let mut all = engines.to_vec();
    all.sort_unstable();
    assert_eq!(changed.engines, all);
}

#[tokio::test]
async fn what_all_have_in_common_concerns_all() {
    let (fixture, _, _) = two().await;
    let mut published = Published::default();
    for (path, name) in [
        ("vrfcontext", "global"),
        ("cloud", "Default-Cloud"),
        ("serviceenginegroup", "Default-Group"),
        ("serviceengine", "se-2"),
    ] {
        marked(&fixture, &mut published);
        let uuid = fixture.uuid(path, name);
        fixture
            .update(path, &uuid, |o| {
                drop(o.insert("description".into(), "x".into()))
            })
            .await;
        let changed = marked(&fixture, &mut published);
        assert_eq!(
            (changed.vips, changed.engines.len()),
            (Vips::Every, 2),
            "{path}"
        );
    }
}

#[tokio::test]
async fn users_and_networks_concern_nobody() {
    let (fixture, _, _) = two().await;
    let mut published = Published::default();
    marked(&fixture, &mut published);
    fixture.create("role", json!({"name": "looks-on"})).await;
    fixture.create("network", json!({"name": "front"})).await;
    let changed = marked(&fixture, &mut published);
    assert_eq!(
        (changed.vips, changed.engines),
        (Vips::These([].into()), vec![])
    );
}

/// What engines are told after single changes is what they would be told if everything were looked at and made anew.
#[tokio::test]
async fn marks_miss_nothing() {
    let (fixture, engines, _) = two().await;
    fixture.round().await;
    let profile = fixture.uuid("networkprofile", "System-TCP-Proxy");
    let pool = fixture.uuid("pool", "pool-2");
    let monitor = json!({"name": "m", "type": "HEALTH_MONITOR_TCP", "tcp_monitor": {}});
    let monitor = fixture.create("healthmonitor", monitor).await;
    let group = fixture.uuid("serviceenginegroup", "Default-Group");
    let vs = fixture.uuid("virtualservice", "vs-2");
    let cloud = fixture.uuid("cloud", "Default-Cloud");
    let changes: [(&str, &str, &str, serde_json::Value); 7] = [
        (
            "pool",
            &pool,
            "health_monitor_refs",
            json!([format!("/api/healthmonitor/{monitor}")]),
        ),
        ("healthmonitor", &monitor, "send_interval", json!(7)),
        (
            "networkprofile",
            &profile,
            "profile",
            json!({
                "type": "PROTOCOL_TYPE_TCP_PROXY", "tcp_proxy_profile": {"idle_connection_timeout": 77},
            }),
        ),
        ("vsvip", &fixture.vsvip, "bgp_local_preference", json!(7)),
        ("virtualservice", &vs, "flow_hints", json!(false)),
        (
            "serviceenginegroup",
            &group,
            "disable_flow_probes",
            json!(true),
        ),
        // The second VIP is scaled natively.
        ("cloud", &cloud, "enable_vip_on_all_interfaces", json!(true)),
    ];
    for (path, uuid, field, value) in changes {
        let before = engines.each_ref().map(|e| fixture.registry.get(e).desired);
        fixture
            .update(path, uuid, |o| drop(o.insert(field.into(), value)))
            .await;
        fixture.planner.publish();
        let marked = engines.each_ref().map(|e| fixture.registry.get(e).desired);
        assert_ne!(marked, before, "{path}: an engine is told");
        fixture.planner.mark_engines(&engines);
        fixture.planner.publish();
        let all = engines.each_ref().map(|e| fixture.registry.get(e).desired);
        assert_eq!(marked, all, "{path}");
    }
}

#[tokio::test]
async fn a_vip_whose_virtual_service_is_gone_is_taken_off() {
    let (fixture, _, [_, vip]) = two().await;
    fixture.round().await;
    let vs = fixture.uuid("virtualservice", "vs-2");
    fixture.delete("virtualservice", &vs).await;
    let these = std::slice::from_ref(&vip);
    let placed = reconcile::place(&fixture.planner, &fixture.snapshot(), these).await;
    placed.expect("stored");
    assert_eq!(
        fixture.planner.assignment(&vip).engines,
        Vec::<String>::new()
    );
}

#[tokio::test]
async fn what_concerns_all_has_every_state_looked_at_and_those_of_the_vips_that_it_is_about() {
    let (fixture, _, [_, vip]) = two().await;
    let mut published = Published::default();
    let looks = |published: &mut Published| {
        marked(&fixture, published);
        fixture.planner.write().marks.take_looks()
    };
    assert!(looks(&mut published).every, "the first time");
    let describe = async |path: &str, uuid: &str, text: &str| {
        fixture
            .update(path, uuid, |o| {
                drop(o.insert("description".into(), text.into()));
            })
            .await;
    };
    let vs = fixture.uuid("virtualservice", "vs-2");
    describe("virtualservice", &vs, "x").await;
    let one = looks(&mut published);
    assert_eq!(one.vips, BTreeSet::from([vip.clone()]));
    assert!(!one.every);
    describe("virtualservice", &vs, "y").await;
    let cloud = fixture.uuid("cloud", "Default-Cloud");
    describe("cloud", &cloud, "x").await;
    let both = looks(&mut published);
    assert!(both.every && both.vips.contains(&vip), "{both:?}");
}

#[tokio::test]
async fn a_vip_that_is_new_takes_nothing_away() {
    let (fixture, _, _) = two().await;
    let mut published = Published::default();
    let is_gone = |published: &mut Published| {
        marked(&fixture, published);
        fixture.planner.write().marks.take_looks().gone
    };
    is_gone(&mut published);
    let vip = json!([{"vip_id": "1", "ip_address": v4("10.100.0.3")}]);
    let body = json!({"name": "three", "vip": vip});
    let vsvip = fixture.create("vsvip", body).await;
    assert!(!is_gone(&mut published));
    fixture
        .update("vsvip", &vsvip, |o| {
            drop(o.insert("bgp_local_preference".into(), json!(7)));
        })
        .await;
    assert!(is_gone(&mut published), "it may have lost an address");
    fixture.delete("vsvip", &vsvip).await;
    assert!(is_gone(&mut published));
}
