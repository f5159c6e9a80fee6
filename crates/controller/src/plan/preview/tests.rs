use super::*;
use crate::objects::{Author, Draft, Planned};
use crate::plan::fixture::{Fixture, PEER, VIP, established, peer, v4};
use model::schema::object_type;
use proto::v1::{OperState, PoolStatus, Report, ServerStatus, VipStatus, VirtualServiceStatus};

fn dry() -> Author {
    let mut author = Author::system("test");
    author.dry_run = true;
    author
}

/// The plan of a change.
async fn plan(
    fixture: &Fixture,
    change: impl FnOnce(&mut Draft, &Author) -> Result<(), crate::error::ApiError>,
) -> Value {
    let author = dry();
    let refused = fixture
        .objects
        .change(&author, "test", |draft| change(draft, &author))
        .await;
    assert!(refused.is_err(), "a dry run stores nothing");
    let planned: Planned = author.planned().expect("checked");
    fixture.observe(|o| Preview::of_change(o, &planned).show(&|_, _, _| true))
}

/// The plan of deleting an object.
async fn plan_of_delete(fixture: &Fixture, path: &str, name: &str) -> Value {
    let (ty, uuid) = (object_type(path).expect("known"), fixture.uuid(path, name));
    plan(fixture, |draft, _| draft.delete(ty, &uuid)).await
}

/// The plan of changing an object.
async fn plan_of_update(
    fixture: &Fixture,
    path: &str,
    name: &str,
    field: &str,
    value: Value,
) -> Value {
    let (ty, uuid) = (object_type(path).expect("known"), fixture.uuid(path, name));
    plan(fixture, |draft, author| {
        let mut object = draft.snapshot.require(ty, &uuid)?.object.clone();
        object.insert(field.into(), value);
        draft.update(ty, &uuid, object, author)
    })
    .await
}

/// The engine serves the VIP and its route is out; so many connections are open.
fn report(fixture: &Fixture, open: u64) {
    let report = Report {
        interfaces: fixture.registry.get(&fixture.engine).interfaces,
        bgp_sessions: vec![established()],
        vips: vec![VipStatus {
            address: VIP.into(),
            announced: true,
            ..VipStatus::default()
        }],
        virtual_services: vec![VirtualServiceStatus {
            uuid: fixture.uuid("virtualservice", "vs-1"),
            state: OperState::Up.into(),
            open_connections: open,
            oldest_connection_s: 60,
            ..VirtualServiceStatus::default()
        }],
        ..Report::default()
    };
    fixture
        .registry
        .reported(&fixture.engine, fixture.session, report);
}

fn results<'a>(plan: &'a Value, pointer: &str) -> &'a [Value] {
    let list = plan.pointer(pointer).unwrap_or_else(|| panic!("{plan}"));
    let results = list["results"].as_array().expect("a list");
    assert_eq!(list["count"], results.len(), "{list}");
    results
}

/// What the plan must not have changed.
fn state(fixture: &Fixture) -> (u64, BTreeMap<String, Assignment>) {
    let assignments = fixture.planner.assignments();
    let all = assignments.iter();
    let all = all.map(|(vsvip, a)| (vsvip.to_owned(), a.clone()));
    (fixture.snapshot().revision, all.collect())
}

#[tokio::test]
async fn a_deleted_service_takes_its_route_and_says_whose_flows_lose_it() {
    let fixture = Fixture::new().await;
    report(&fixture, 312);
    let before = state(&fixture);
    let plan = plan_of_delete(&fixture, "virtualservice", "vs-1").await;
    assert_eq!(state(&fixture), before);
    let [placement] = results(&plan, "/placement") else {
        panic!("{plan}");
    };
    assert_eq!(
        (&placement["result"], &placement["engines_before"]),
        (&json!("removed"), &json!(["se-1"]))
    );
    assert_eq!(
        placement["removed"][0]["reason"],
        "no virtual service uses the VIP"
    );
    let [withdrawn] = results(&plan, "/routes/withdrawn") else {
        panic!("{plan}");
    };
    assert_eq!(
        (
            &withdrawn["vip"],
            &withdrawn["peers"],
            &withdrawn["in_force"]
        ),
        (&json!(VIP), &json!([PEER]), &json!(true))
    );
    assert!(results(&plan, "/routes/announced").is_empty());
    let [flows] = results(&plan, "/flows") else {
        panic!("{plan}");
    };
    assert_eq!(
        (&flows["flows"], &flows["oldest_s"], &flows["outcome"]),
        (&json!(312), &json!(60), &json!("without_route"))
    );
    assert_eq!(flows["virtual_service"], "vs-1");
}

#[tokio::test]
async fn a_new_service_is_placed_on_the_engine_that_the_planner_would_choose() {
    let fixture = Fixture::new().await;
    let before = state(&fixture);
    let plan = plan(&fixture, |draft, author| {
        let vip = json!([{"vip_id": "1", "ip_address": v4("10.100.0.2")}]);
        let body =
            json!({"name": "vs-2", "services": [{"port": 80}], "vip": vip, "enable_rhi": true});
        let body = body.as_object().expect("an object").clone();
        let ty = object_type("virtualservice").expect("known");
        draft.create(ty, body, None, author).map(drop)
    })
    .await;
    assert_eq!(state(&fixture), before);
    let placement = &results(&plan, "/placement")[0];
    assert_eq!(
        (&placement["result"], &placement["engines"]),
        (&json!("placed"), &json!(["se-1"]))
    );
    let reason = placement["added"][0]["reason"].as_str().expect("a reason");
    assert!(reason.contains("the only one"), "{reason}");
    let [announced] = results(&plan, "/routes/announced") else {
        panic!("{plan}");
    };
    assert_eq!(
        (
            &announced["vip"],
            &announced["se_name"],
            &announced["peers"]
        ),
        (&json!("10.100.0.2"), &json!("se-1"), &json!([PEER]))
    );
    assert!(results(&plan, "/flows").is_empty());
}

#[tokio::test]
async fn a_service_that_no_engine_can_take_waits_with_the_planners_reason() {
    let fixture = Fixture::new().await;
    fixture
        .registry
        .close(&fixture.engine, fixture.session, "gone");
    let plan = plan(&fixture, |draft, author| {
        let vip = json!([{"vip_id": "1", "ip_address": v4("10.100.0.2")}]);
        let body = json!({"name": "vs-2", "services": [{"port": 80}], "vip": vip});
        let body = body.as_object().expect("an object").clone();
        let ty = object_type("virtualservice").expect("known");
        draft.create(ty, body, None, author).map(drop)
    })
    .await;
    let placement = &results(&plan, "/placement")[0];
    assert_eq!(placement["result"], "waiting");
    let why = placement["waits_for"].as_str().expect("a reason");
    assert!(why.contains("no session with the controller"), "{why}");
    assert!(results(&plan, "/routes/announced").is_empty());
}

#[tokio::test]
async fn an_engine_that_is_disabled_withdraws_and_keeps_and_by_force_ends() {
    let fixture = Fixture::new().await;
    report(&fixture, 5);
    for (word, outcome, removed) in [
        ("SE_STATE_DISABLED", "without_route", false),
        ("SE_STATE_DISABLED_FORCE", "ended", true),
    ] {
        let plan = plan_of_update(
            &fixture,
            "serviceengine",
            "se-1",
            "enable_state",
            json!(word),
        );
        let plan = plan.await;
        assert_eq!(results(&plan, "/routes/withdrawn").len(), 1, "{word}");
        let flows = &results(&plan, "/flows")[0];
        assert_eq!(
            (&flows["flows"], &flows["outcome"]),
            (&json!(5), &json!(outcome)),
            "{word}"
        );
        assert_eq!(!results(&plan, "/placement").is_empty(), removed, "{word}");
    }
}

#[tokio::test]
async fn a_peer_that_is_shut_down_loses_the_routes_of_the_vrf_and_a_new_one_gets_them() {
    let fixture = Fixture::new().await;
    let profile = |peers: Value| json!({"local_as": 65001, "ibgp": true, "peers": peers});
    let shut = profile(json!([peer(json!({"shutdown": true}))]));
    let plan = plan_of_update(&fixture, "vrfcontext", "global", "bgp_profile", shut).await;
    assert_eq!(
        results(&plan, "/routes/withdrawn")[0]["peers"],
        json!([PEER])
    );
    let second = peer(json!({"peer_ip": v4("10.10.10.2")}));
    let more = profile(json!([peer(json!({})), second]));
    let plan = plan_of_update(&fixture, "vrfcontext", "global", "bgp_profile", more).await;
    let [announced] = results(&plan, "/routes/announced") else {
        panic!("{plan}");
    };
    assert_eq!(announced["peers"], json!(["10.10.10.2"]));
    assert!(results(&plan, "/routes/withdrawn").is_empty());
}

#[tokio::test]
async fn a_label_that_no_peer_has_and_a_service_without_rhi_withdraw() {
    let fixture = Fixture::new().await;
    report(&fixture, 1);
    let labels = json!(["blue"]);
    let plan = plan_of_update(&fixture, "vsvip", "vip-1", "bgp_peer_labels", labels).await;
    assert_eq!(results(&plan, "/routes/withdrawn").len(), 1);
    let off = json!(false);
    let plan = plan_of_update(&fixture, "virtualservice", "vs-1", "enable_rhi", off).await;
    assert_eq!(results(&plan, "/routes/withdrawn").len(), 1);
    assert_eq!(results(&plan, "/flows")[0]["outcome"], "without_route");
    assert!(results(&plan, "/placement").is_empty());
}

#[tokio::test]
async fn connections_to_a_server_that_is_taken_out_are_counted_and_kept() {
    let fixture = Fixture::new().await;
    let servers = json!([{"ip": v4("10.20.20.11")}, {"ip": v4("10.20.20.12")}]);
    let body = json!({"name": "web", "servers": servers, "default_server_port": 8080});
    let pool = fixture.create("pool", body).await;
    let server = |address: &str| ServerStatus {
        address: address.into(),
        port: 8080,
        open_connections: 7,
        ..ServerStatus::default()
    };
    let report = Report {
        pools: vec![PoolStatus {
            uuid: pool.clone(),
            servers: vec![server("10.20.20.11"), server("10.20.20.12")],
            ..PoolStatus::default()
        }],
        ..Report::default()
    };
    fixture
        .registry
        .reported(&fixture.engine, fixture.session, report);
    let fewer = json!([{"ip": v4("10.20.20.11")}]);
    let plan = plan_of_update(&fixture, "pool", "web", "servers", fewer).await;
    let [flows] = results(&plan, "/flows") else {
        panic!("{plan}");
    };
    assert_eq!(
        (&flows["server"], &flows["flows"], &flows["outcome"]),
        (&json!("10.20.20.12"), &json!(7), &json!("kept"))
    );
}

#[tokio::test]
async fn connections_of_a_pool_whose_group_changes_are_looked_at() {
    let fixture = Fixture::new().await;
    let body = json!({"name": "web", "servers": [{"ip": v4("10.20.20.11"), "port": 80}]});
    let pool = fixture.create("pool", body).await;
    let member = json!({"pool_ref": format!("/api/pool/{pool}")});
    let body = json!({"name": "g", "members": [member]});
    let group = fixture.create("poolgroup", body).await;
    let vs = fixture.uuid("virtualservice", "vs-1");
    let reference = format!("/api/poolgroup/{group}");
    fixture
        .update("virtualservice", &vs, |o| {
            o.shift_remove("pool_ref");
            o.insert("pool_group_ref".into(), reference.into());
        })
        .await;
    let snapshot = fixture.snapshot();
    for (path, uuid) in [("poolgroup", &group), ("virtualservice", &vs)] {
        let mut touched = Touched::default();
        touched.add(&snapshot, path, uuid, &Assignments::default());
        assert_eq!(touched.pools, [pool.clone()].into(), "{path}");
    }
}

/// A report of pools with so many servers that are up and down.
fn pools_report(pools: &[(&str, OperState, u32, u32)]) -> Report {
    let server = |port: u32, state: OperState| ServerStatus {
        address: "10.20.20.11".into(),
        port,
        state: state.into(),
        ..ServerStatus::default()
    };
    let each = pools.iter().map(|(uuid, state, up, down)| {
        let up_ports = (1..=*up).map(|port| server(port, OperState::Up));
        let down_ports = (up + 1..=up + down).map(|port| server(port, OperState::Down));
        PoolStatus {
            uuid: (*uuid).to_owned(),
            state: (*state).into(),
            servers: up_ports.chain(down_ports).collect(),
        }
    });
    Report {
        pools: each.collect(),
        ..Report::default()
    }
}

#[tokio::test]
async fn a_pool_group_is_as_well_as_its_best_pool() {
    use OperState::{Down, Up};
    let fixture = Fixture::new().await;
    let mut pools = Vec::new();
    for (name, ports) in [("a", vec![1, 2]), ("b", vec![1])] {
        let servers = ports
            .iter()
            .map(|p| json!({"ip": v4("10.20.20.11"), "port": p}));
        let body = json!({"name": name, "servers": servers.collect::<Vec<_>>()});
        pools.push(fixture.create("pool", body).await);
    }
    let member = |uuid: &String| json!({"pool_ref": format!("/api/pool/{uuid}")});
    let members: Vec<Value> = pools.iter().map(member).collect();
    let body = json!({"name": "g", "members": members});
    let group = fixture.create("poolgroup", body).await;
    let seen = |group: &str| {
        let runtime = fixture.observe(|o| o.pool_group(group)).expect("there");
        let state = runtime["oper_status"]["state"].clone();
        let number = |name: &str| runtime[name].clone();
        (state, number("num_servers"), number("num_servers_up"))
    };
    let tell = |first, up| {
        let report = pools_report(&[(&pools[0], first, up, 2 - up), (&pools[1], Down, 0, 1)]);
        let registry = &fixture.registry;
        registry.reported(&fixture.engine, fixture.session, report);
    };
    tell(Up, 1);
    assert_eq!(seen(&group), (json!("OPER_UP"), json!(3), json!(1)));
    tell(Down, 0);
    assert_eq!(seen(&group), (json!("OPER_DOWN"), json!(3), json!(0)));
    let empty = fixture.create("poolgroup", json!({"name": "none"})).await;
    assert_eq!(seen(&empty).0, "OPER_UNUSED");
}

#[tokio::test]
async fn scaling_is_planned_without_being_done_or_noted() {
    let fixture = Fixture::new().await;
    report(&fixture, 9);
    let second = fixture
        .create("serviceengine", json!({"name": "se-2"}))
        .await;
    fixture.open_session(&second, "10.10.10.12/24");
    fixture.round().await;
    let before = state(&fixture);
    let noted = |f: &Fixture| f.planner.last_scale(&f.vsvip).map(|l| l.action);
    let last = noted(&fixture);
    let show = |kind, engine: &str| {
        let asked = Asked {
            vsvip: &fixture.vsvip,
            engine,
            reason: "because",
            kind,
        };
        fixture.observe(|o| Preview::of_scaling(o, &asked).show(&|_, _, _| true))
    };
    let out = show(AskedKind::ScaleOut, &second);
    let placement = &results(&out, "/placement")[0];
    assert_eq!(
        (&placement["result"], &placement["engines"]),
        (&json!("scaled_out"), &json!(["se-1", "se-2"]))
    );
    assert_eq!(results(&out, "/routes/announced")[0]["se_name"], "se-2");
    assert!(results(&out, "/flows").is_empty());

    fixture
        .place(&fixture.vsvip, &[&fixture.engine, &second])
        .await;
    let scaled = state(&fixture);
    for (kind, outcome) in [
        (AskedKind::ScaleIn, "kept"),
        (AskedKind::ForcedScaleIn, "ended"),
    ] {
        let plan = show(kind, &fixture.engine);
        assert_eq!(results(&plan, "/placement")[0]["result"], "scaled_in");
        assert_eq!(results(&plan, "/routes/withdrawn")[0]["se_name"], "se-1");
        let flows = &results(&plan, "/flows")[0];
        assert_eq!(
            (&flows["flows"], &flows["outcome"]),
            (&json!(9), &json!(outcome))
        );
    }
    assert_eq!(state(&fixture), scaled);
    assert_ne!(before, scaled);
    assert_eq!(noted(&fixture), last);
}

#[tokio::test]
async fn an_engine_that_comes_free_goes_to_who_waits_for_it_and_is_told_to_who_sees_it() {
    let fixture = Fixture::new().await;
    let group = fixture.uuid("serviceenginegroup", "Default-Group");
    fixture
        .update("serviceenginegroup", &group, |o| {
            o.insert("max_vs_per_se".into(), json!(1));
        })
        .await;
    let vip = json!([{"vip_id": "1", "ip_address": v4("10.100.0.2")}]);
    let body = json!({"name": "vs-2", "services": [{"port": 80}], "vip": vip, "enable_rhi": true});
    fixture.create("virtualservice", body).await;
    fixture.round().await;
    let plan = plan_of_delete(&fixture, "virtualservice", "vs-1").await;
    let seen: Vec<_> = results(&plan, "/placement")
        .iter()
        .map(|p| (&p["result"], &p["virtual_services"][0]))
        .collect();
    let expected = [
        (&json!("removed"), &json!("vs-1")),
        (&json!("placed"), &json!("vs-2")),
    ];
    assert!(
        expected.iter().all(|e| seen.contains(e)) && seen.len() == 2,
        "{plan}"
    );
    let author = dry();
    let (ty, uuid) = (
        object_type("virtualservice").expect("known"),
        fixture.uuid("virtualservice", "vs-1"),
    );
    let change = fixture
        .objects
        .change(&author, "test", |d| d.delete(ty, &uuid));
    change.await.expect_err("a dry run");
    let planned = author.planned().expect("checked");
    let own = |_: &str, uuid: &str, _: &Snapshot| uuid == fixture.vsvip;
    let plan = fixture.observe(|o| Preview::of_change(o, &planned).show(&own));
    assert_eq!(results(&plan, "/placement").len(), 1, "{plan}");
}

/// A second engine that can take VIPs.
async fn with_another(fixture: &Fixture) -> String {
    let uuid = fixture
        .create("serviceengine", json!({"name": "se-2"}))
        .await;
    fixture.open_session(&uuid, "10.10.10.12/24");
    fixture.round().await;
    uuid
}

#[tokio::test]
async fn the_plan_of_a_drain_says_who_takes_over_or_why_nobody_does() {
    let fixture = Fixture::new().await;
    let disabled = || json!("SE_STATE_DISABLED");
    let plan = plan_of_update(
        &fixture,
        "serviceengine",
        "se-1",
        "enable_state",
        disabled(),
    )
    .await;
    assert!(
        results(&plan, "/placement").is_empty(),
        "nobody can: {plan}"
    );
    with_another(&fixture).await;
    let before = state(&fixture);
    let plan = plan_of_update(
        &fixture,
        "serviceengine",
        "se-1",
        "enable_state",
        disabled(),
    )
    .await;
    assert_eq!(state(&fixture), before);
    let [moved] = results(&plan, "/placement") else {
        panic!("{plan}");
    };
    assert_eq!(moved["engines"], json!(["se-2"]));
    assert_eq!(moved["added"][0]["se_name"], "se-2");
    let reason = "se-1 is disabled, and se-2 takes its place";
    assert_eq!(moved["removed"][0]["reason"], reason);
}

#[tokio::test]
async fn the_plan_of_a_drain_says_that_the_standby_becomes_active() {
    let fixture = Fixture::new().await;
    with_another(&fixture).await;
    let group = fixture.uuid("serviceenginegroup", "Default-Group");
    fixture
        .update("serviceenginegroup", &group, |o| {
            let mode = json!("HA_MODE_LEGACY_ACTIVE_STANDBY");
            o.insert("ha_mode".into(), mode);
        })
        .await;
    fixture.round().await;
    let disabled = json!("SE_STATE_DISABLED");
    let plan = plan_of_update(&fixture, "serviceengine", "se-1", "enable_state", disabled).await;
    let [moved] = results(&plan, "/placement") else {
        panic!("{plan}");
    };
    assert_eq!(moved["becomes_active"]["se_name"], "se-2", "{plan}");
    assert_eq!(moved["engines"], json!(["se-2", "se-1"]));
    let waits = moved["waits_for"].as_str().unwrap_or_default();
    assert!(waits.contains("nothing can take its place"), "{plan}");
}

#[tokio::test]
async fn the_plan_of_taking_the_active_engine_off_at_once_says_that_the_standby_becomes_active() {
    let fixture = Fixture::new().await;
    with_another(&fixture).await;
    let group = fixture.uuid("serviceenginegroup", "Default-Group");
    fixture
        .update("serviceenginegroup", &group, |o| {
            let mode = json!("HA_MODE_LEGACY_ACTIVE_STANDBY");
            o.insert("ha_mode".into(), mode);
        })
        .await;
    fixture.round().await;
    let forced = json!("SE_STATE_DISABLED_FORCE");
    let plan = plan_of_update(&fixture, "serviceengine", "se-1", "enable_state", forced).await;
    let [moved] = results(&plan, "/placement") else {
        panic!("{plan}");
    };
    let active = &moved["becomes_active"];
    assert_eq!(active["se_name"], "se-2", "{plan}");
    let reason = "se-2 becomes active: the one before was disabled by force";
    assert_eq!(active["reason"], reason);
    assert_eq!(moved["engines"], json!(["se-2"]));
}

#[tokio::test]
async fn the_plan_of_a_switchover_of_an_engine_says_what_becomes_active_where() {
    let fixture = Fixture::new().await;
    with_another(&fixture).await;
    let group = fixture.uuid("serviceenginegroup", "Default-Group");
    fixture
        .update("serviceenginegroup", &group, |o| {
            let mode = json!("HA_MODE_LEGACY_ACTIVE_STANDBY");
            o.insert("ha_mode".into(), mode);
        })
        .await;
    fixture.round().await;
    let before = state(&fixture);
    let roles = fixture.planner.choose_hand_over(&fixture.engine);
    let roles = roles.expect("se-2 stands by");
    let plan = fixture.observe(|o| Preview::of_roles(o, &roles).show(&|_, _, _| true));
    assert_eq!(state(&fixture), before);
    let [moved] = results(&plan, "/placement") else {
        panic!("{plan}");
    };
    assert_eq!(moved["result"], "switched_over", "{plan}");
    assert_eq!(moved["becomes_active"]["se_name"], "se-2");
    assert_eq!(moved["engines"], json!(["se-2", "se-1"]));
    assert_eq!(moved["engines_before"], json!(["se-1", "se-2"]));
    assert_eq!(plan["routes"]["withdrawn"]["count"], 0, "{plan}");
}

#[tokio::test]
async fn the_plan_of_a_migration_is_what_it_comes_to() {
    let fixture = Fixture::new().await;
    with_another(&fixture).await;
    let before = state(&fixture);
    let chosen = fixture
        .planner
        .choose_migration(&fixture.vsvip, None, Wanted::default());
    let (from, choice) = chosen.expect("it fits");
    let plan = fixture.observe(|o| {
        let asked = Asked {
            vsvip: &fixture.vsvip,
            engine: &choice.engine,
            reason: &choice.reason,
            kind: AskedKind::Migrate { from: &from },
        };
        Preview::of_scaling(o, &asked).show(&|_, _, _| true)
    });
    assert_eq!(state(&fixture), before);
    let moved = &results(&plan, "/placement")[0];
    assert_eq!(
        (&moved["engines_before"], &moved["engines"]),
        (&json!(["se-1"]), &json!(["se-2"]))
    );
    assert_eq!(results(&plan, "/routes/announced").len(), 1);
    assert_eq!(results(&plan, "/routes/withdrawn").len(), 1);
}
