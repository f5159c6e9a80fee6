use super::super::super::fixture::{Fixture, VIP};
use super::*;
use proto::v1::{EngineLoad, Report};

fn view(fixture: &Fixture, view: EngineView) -> Value {
    fixture.observe(|o| o.engine_view(&fixture.engine, view, &|_, _| true))
}

fn counters_of(fixture: &Fixture) -> Value {
    view(fixture, EngineView::Detail)["counters"].clone()
}

#[tokio::test]
async fn sessions_are_counted_and_one_that_takes_anothers_place_is_no_coming() {
    let mut fixture = Fixture::new().await;
    let counts = |begun, refused, came, went| json!({"reg_cnt": begun, "reg_fail_cnt": refused, "se_up_cnt": came, "se_down_cnt": went});
    assert_eq!(counters_of(&fixture), counts(1, 0, 1, 0));
    let first = fixture.session;
    fixture.connect();
    fixture.registry.close(&fixture.engine, first, "replaced");
    assert_eq!(counters_of(&fixture), counts(2, 0, 1, 0));
    let (engine, session) = (&fixture.engine, fixture.session);
    fixture.registry.close(engine, session, "gone");
    fixture.registry.refused(engine);
    fixture.connect();
    assert_eq!(counters_of(&fixture), counts(3, 1, 2, 1));
}

#[tokio::test]
async fn what_the_engine_says_of_its_host_is_shown_while_it_has_a_session() {
    let fixture = Fixture::new().await;
    let shown = view(&fixture, EngineView::Detail);
    assert_eq!(
        (&shown["name"], &shown["se_connected"]),
        (&json!("se-1"), &json!(true))
    );
    assert_eq!(shown["resources"], Value::Null, "it has not said so yet");
    let vnic = &shown["vnic"][0];
    assert_eq!(
        (&vnic["if_name"], &vnic["state"]),
        (&json!("eth0"), &json!("VNIC_STATE_UP"))
    );
    let network = json!({"mode": "STATIC", "ip": {"ip_addr": {"addr": "10.10.10.11", "type": "V4"}, "mask": 24}});
    assert_eq!(vnic["vnic_networks"], json!([network]));
    assert_eq!(vnic["linux_name"], "eth0");
    let (engine, session) = (&fixture.engine, fixture.session);
    let load = EngineLoad {
        processors: 4,
        process_cpu_ms: 70,
        host_memory_bytes: 4000,
        host_memory_available_bytes: 3000,
        ..EngineLoad::default()
    };
    let report = Report {
        stats: Some(EngineStats {
            rss_bytes: 1000,
            load: Some(load),
            ..EngineStats::default()
        }),
        ..Report::default()
    };
    fixture.registry.reported(engine, session, report);
    let detail = view(&fixture, EngineView::Detail);
    assert_eq!(detail["resources"], json!({"num_vcpus": 4}));
    let cpu = view(&fixture, EngineView::Cpu);
    assert_eq!(cpu[0]["cpu"]["process_cpu_ms"], 70);
    let memory = view(&fixture, EngineView::Memory);
    assert_eq!(
        memory[0]["memory"],
        json!({"rss_bytes": 1000, "host_memory_bytes": 4000, "host_memory_available_bytes": 3000})
    );
    fixture.registry.close(engine, session, "gone");
    let gone = view(&fixture, EngineView::Detail);
    assert_eq!((gone.get("vnic"), gone.get("resources")), (None, None));
    let gone = view(&fixture, EngineView::Memory);
    assert_eq!(gone[0]["not_answered"], NO_SESSION);
}

#[tokio::test]
async fn placement_has_the_vips_that_an_engine_serves_and_those_that_linger() {
    let fixture = Fixture::new().await;
    let vip = |fixture: &Fixture| view(fixture, EngineView::Placement)[0]["vips"][0].clone();
    let serves = vip(&fixture);
    assert_eq!(
        (
            &serves["role"],
            &serves["primary"],
            &serves["addresses"][0]["addr"]
        ),
        (&json!("serving"), &json!(true), &json!(VIP))
    );
    assert_eq!(serves["virtualservices"], json!(["vs-1"]));
    let other = json!({"name": "se-2"});
    let other = fixture.create("serviceengine", other).await;
    fixture.place(&fixture.vsvip, &[&other]).await;
    let lingers = vip(&fixture);
    assert_eq!(
        (&lingers["role"], &lingers["primary"]),
        (&json!("lingering"), &json!(false))
    );
}

#[tokio::test]
async fn the_runtime_says_how_far_it_is_that_an_engine_is_disabled() {
    let fixture = Fixture::new().await;
    let state = |fixture: &Fixture| {
        let runtime = fixture.observe(|o| o.service_engine(&fixture.engine, &|_, _| true));
        runtime["migrate_state"].clone()
    };
    assert_eq!(state(&fixture), "SE_MIGRATE_STATE_IDLE");
    fixture
        .update("serviceengine", &fixture.engine, |o| {
            drop(o.insert("enable_state".into(), "SE_STATE_DISABLED".into()));
        })
        .await;
    assert_eq!(state(&fixture), "SE_MIGRATE_STATE_STARTED");
    fixture.place(&fixture.vsvip, &[]).await;
    assert_eq!(state(&fixture), "SE_MIGRATE_STATE_FINISHED");
}

#[tokio::test]
async fn an_engine_is_active_for_tags_where_its_group_goes_by_them() {
    let fixture = Fixture::new().await;
    let tags = |fixture: &Fixture| {
        let runtime = fixture.observe(|o| o.service_engine(&fixture.engine, &|_, _| true));
        runtime["active_tags"].clone()
    };
    assert_eq!(tags(&fixture), Value::Null);
    let group = fixture.uuid("serviceenginegroup", "Default-Group");
    fixture
        .change("serviceenginegroup", &group, |o| {
            o.insert("ha_mode".into(), "HA_MODE_LEGACY_ACTIVE_STANDBY".into());
            o.insert("distribute_load_active_standby".into(), true.into());
        })
        .await;
    let vs = fixture.uuid("virtualservice", "vs-1");
    fixture
        .change("virtualservice", &vs, |o| {
            drop(o.insert("active_standby_se_tag".into(), "ACTIVE_STANDBY_SE_2".into()));
        })
        .await;
    assert_eq!(tags(&fixture), json!(["ACTIVE_STANDBY_SE_2"]));
}
