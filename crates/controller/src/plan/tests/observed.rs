//! What the runtime of a virtual service says of its VIPs, of its engines, and of what becomes of a scaling.

use super::super::fixture::v4;
use super::*;
use crate::plan::service::{ServiceView, server_fields};
use proto::v1::{OperState, VipStatus};

impl Fixture {
    /// The engine has this state of the virtual service, and reports these VIPs of its VsVip.
    fn says_of(&self, engine: &Engine, state: OperState, vips: &[&str]) {
        let is_up = state == OperState::Up;
        let code = if is_up { "" } else { "pool_down" };
        let vip = |id: &&str| VipStatus {
            vsvip_uuid: self.vsvip.clone(),
            vip_id: (*id).into(),
            announced: is_up,
            reason_code: code.into(),
            ..VipStatus::default()
        };
        let report = Report {
            virtual_services: vec![VirtualServiceStatus {
                uuid: self.uuid("virtualservice", "vs-1"),
                state: state.into(),
                reason_code: "pool_down".into(),
                ..VirtualServiceStatus::default()
            }],
            vips: vips.iter().map(vip).collect(),
            interfaces: self.registry.get(&engine.uuid).interfaces,
            ..Report::default()
        };
        self.registry.reported(&engine.uuid, engine.session, report);
    }

    /// Of the virtual service, and of each of its VIPs.
    fn states(&self) -> Vec<String> {
        let runtime = self.runtime();
        let vips = runtime["vip_summary"].as_array().expect("a list");
        let all = std::iter::once(&runtime).chain(vips);
        let word = |of: &Value| of["oper_status"]["state"].as_str().map(str::to_owned);
        all.map(|of| word(of).expect("a word")).collect()
    }

    fn changed_at(&self) -> Value {
        self.runtime()["oper_status"]["last_changed_time"].clone()
    }
}

#[tokio::test]
async fn each_vip_has_a_summary_with_its_own_address_and_state_and_the_engines_of_all() {
    let (fixture, engines) = Fixture::with_engines(0).await;
    let vips = json!([
        {"vip_id": "1", "ip_address": v4("10.100.0.1")},
        {"vip_id": "2", "ip_address": v4("10.100.0.2"), "enabled": false},
        {"vip_id": "3", "ip_address": v4("10.100.0.3")},
    ]);
    fixture
        .update("vsvip", &fixture.vsvip, set("vip", vips))
        .await;
    fixture.says_of(&engines[0], OperState::Up, &["1"]);
    let whole = "OPER_UP";
    assert_eq!(
        fixture.states(),
        [whole, "OPER_UP", "OPER_DISABLED", "OPER_INITIALIZING"]
    );
    let runtime = fixture.runtime();
    let all = |field: &str| {
        let vips = runtime["vip_summary"].as_array().expect("a list");
        let each = vips.iter().map(|vip| vip[field].clone());
        Value::from(each.collect::<Vec<_>>())
    };
    assert_eq!(all("vip_id"), json!(["1", "2", "3"]));
    assert_eq!(all("num_se_assigned"), json!([1, 1, 1]));
    assert_eq!(all("percent_ses_up"), json!([100, 0, 0]));
    assert_eq!(all("ip_address")[2], v4("10.100.0.3"));
    let second = &runtime["vip_summary"][1]["service_engine"][0];
    assert_eq!(second["oper_status"]["reason_code_string"], "vip_disabled");
    assert_eq!(second["oper_status"]["reason_code"], 21);
    assert_eq!(runtime["vip_id"], "1", "the form of 16.3");
    assert_eq!(runtime["percent_ses_up"], 100);
    fixture.says_of(&engines[0], OperState::Up, &["1", "3"]);
    assert_eq!(fixture.states()[3], "OPER_UP");
    fixture.says_of(&engines[0], OperState::Down, &["1", "3"]);
    let third = fixture.runtime()["vip_summary"][2]["service_engine"][0].clone();
    assert_eq!(third["oper_status"]["state"], "OPER_DOWN");
    assert_eq!(third["route_revoked_pool_down"], true);
    let vs = fixture.uuid("virtualservice", "vs-1");
    let scale = fixture.observe(|o| o.service_view(&vs, ServiceView::ScaleoutStatus));
    assert_eq!(scale.expect("there").as_array().map(Vec::len), Some(3));
}

#[tokio::test]
async fn the_time_of_a_change_is_shown_once_it_was_seen_and_stays_as_long_as_the_state() {
    let (fixture, engines) = Fixture::with_engines(0).await;
    fixture.planner.look_at_news().await;
    assert_eq!(fixture.states()[0], "OPER_INITIALIZING");
    assert!(fixture.changed_at().is_null(), "it may have been so before");
    fixture.says_of(&engines[0], OperState::Up, &["1"]);
    assert!(fixture.changed_at().is_null(), "not looked at yet");
    fixture.planner.look_at_news().await;
    let up = fixture.changed_at();
    assert!(
        up["secs"].as_u64() > Some(0) && up["usecs"].is_u64(),
        "{up}"
    );
    let vip = fixture.runtime()["vip_summary"][0].clone();
    assert_eq!(vip["oper_status"]["last_changed_time"], up);
    let there = &vip["service_engine"][0]["oper_status"];
    assert_eq!(there["last_changed_time"], up);
    fixture.says_of(&engines[0], OperState::Up, &["1"]);
    fixture.planner.look_at_news().await;
    assert_eq!(fixture.changed_at(), up);
    let engine = || {
        fixture.observe(|o| o.service_engine(&engines[0].uuid, &|_, _| true))["oper_status"].clone()
    };
    assert!(engine().get("last_changed_time").is_none());
    fixture
        .registry
        .close(&engines[0].uuid, engines[0].session, "gone");
    fixture.planner.look_at_news().await;
    assert_eq!(engine()["state"], "OPER_DOWN");
    assert!(engine().get("last_changed_time").is_some());
    assert_eq!(fixture.states()[0], "OPER_DOWN");
    assert!(fixture.changed_at().is_object());
}

#[tokio::test]
async fn a_switch_that_is_written_is_seen_without_a_word_of_an_engine() {
    let (fixture, _) = Fixture::with_engines(0).await;
    fixture.planner.look_at_news().await;
    let vs = fixture.uuid("virtualservice", "vs-1");
    fixture
        .update("virtualservice", &vs, set("enabled", json!(false)))
        .await;
    fixture.planner.publish();
    fixture.planner.look_at_news().await;
    assert_eq!(fixture.states()[0], "OPER_DISABLED");
    assert!(fixture.changed_at().is_object());
}

#[tokio::test]
async fn config_status_says_whether_the_engines_have_in_force_what_they_are_told() {
    let (fixture, engines) = Fixture::with_engines(0).await;
    let status = || {
        let status = fixture.runtime()["config_status"].clone();
        let word = |field: &str| status[field].as_str().unwrap_or_default().to_owned();
        let reason = status["reason"][0].as_str().unwrap_or_default().to_owned();
        (word("state"), word("reason_code_string"), reason)
    };
    let (up, code, reason) = status();
    assert_eq!(
        (up.as_str(), code.as_str(), reason.as_str()),
        ("CONFIG_UP", "", "")
    );
    let vs = fixture.uuid("virtualservice", "vs-1");
    let port = json!([{"port": 81}]);
    fixture
        .update("virtualservice", &vs, set("services", port))
        .await;
    fixture.planner.publish();
    assert_eq!(status().0, "CONFIG_SE_PROCESSING");
    let row = fixture.runtime()["service_engine"][0].clone();
    assert_eq!(row["se_ready_in_progress"], true);
    let nack = Nack {
        generation: fixture.told().generation,
        field: "vips[0].address".into(),
        reason: "why".into(),
    };
    fixture
        .registry
        .nacked(&engines[0].uuid, engines[0].session, nack);
    let (down, code, reason) = status();
    assert_eq!(
        (down.as_str(), code.as_str()),
        ("CONFIG_DOWN", "desired_state_refused")
    );
    assert!(reason.starts_with("se-1: it refuses"), "{reason}");
    fixture.acknowledge(&engines);
    assert_eq!(status().0, "CONFIG_UP");
    fixture
        .registry
        .close(&engines[0].uuid, engines[0].session, "gone");
    assert_eq!(status().0, "CONFIG_PARTITIONED");
    fixture.place(&fixture.vsvip, &[]).await;
    assert_eq!(status().0, "CONFIG_RESOURCES");
}

#[tokio::test]
async fn a_scale_out_shows_how_far_it_is_and_when_it_began_and_ended() {
    let (fixture, engines) = Fixture::with_engines(1).await;
    fixture.says_of(&engines[0], OperState::Up, &["1"]);
    assert_eq!(fixture.runtime()["progress_percent"], 100);
    assert!(fixture.runtime()["first_se_assigned_time"]["secs"].as_u64() > Some(0));
    fixture.scale_out(&engines[1]).await;
    let begun = fixture.runtime();
    assert_eq!(begun["progress_percent"], 0);
    assert_eq!(begun["user_scaleout_pending"], true);
    assert_eq!(begun["last_scale_status"], Value::Null);
    let status = &begun["scale_status"];
    assert!(status["start_time_str"].is_string() && status["end_time_str"].is_null());
    assert_eq!(status["num_se_requested"], 2);
    fixture.acknowledge(&engines);
    fixture.planner.finish_joins(Instant::now());
    fixture.acknowledge(&engines);
    assert_eq!(fixture.runtime()["progress_percent"], 50);
    fixture.says_of(&engines[1], OperState::Up, &["1"]);
    fixture.planner.finish_moves(Instant::now()).await;
    let done = fixture.runtime();
    assert_eq!(done["progress_percent"], 100);
    assert_eq!(done["user_scaleout_pending"], false);
    assert_eq!(done["last_scale_status"]["state"], "SCALEOUT_SUCCESS");
    assert!(done["last_scale_status"]["end_time_str"].is_string());
    fixture.says(&engines[1], 3, 1);
    fixture.scale_in(&engines[1], false).await.expect("done");
    let leaving = fixture.runtime();
    assert_eq!(leaving["progress_percent"], 50);
    assert_eq!(leaving["last_scale_status"]["action"], "SCALE_OUT");
    assert!(leaving["scale_status"]["end_time_str"].is_null());
    fixture.says(&engines[1], 0, 0);
    fixture.look_in(0).await;
    fixture.look_in(31).await;
    let left = fixture.runtime();
    assert_eq!(left["last_scale_status"]["action"], "SCALE_IN");
    assert!(left["scale_status"]["end_time_str"].is_string());
}

#[tokio::test]
async fn a_placement_that_nobody_asked_for_is_over_when_the_engine_serves() {
    let (fixture, engines) = Fixture::with_engines(1).await;
    fixture.group_setting("min_scaleout_per_vs", json!(2)).await;
    fixture.round().await;
    let end = || fixture.runtime()["scale_status"]["end_time_str"].clone();
    fixture.planner.look_at_news().await;
    assert!(end().is_null());
    fixture.says_of(&engines[1], OperState::Up, &["1"]);
    fixture.planner.look_at_news().await;
    assert!(end().is_string());
}

#[tokio::test]
async fn a_pair_asks_for_two_engines_of_which_one_stands_by_in_one_mode_alone() {
    for (mode, standby) in [
        ("HA_MODE_LEGACY_ACTIVE_STANDBY", 1),
        ("HA_MODE_SHARED_PAIR", 0),
    ] {
        let (fixture, _) = Fixture::with_engines(1).await;
        fixture.group_setting("ha_mode", json!(mode)).await;
        let asked = json!({"num_se": 2, "num_standby_se": standby});
        let shown = || {
            let snapshot = fixture.snapshot();
            let (_, vs) = snapshot.by_name("virtualservice", "vs-1").expect("there");
            server_fields(&fixture.planner, &snapshot, vs)["vip_runtime"][0].clone()
        };
        assert_eq!(shown()["requested_resource"], asked, "before it has them");
        fixture.round().await;
        assert_eq!(shown()["requested_resource"], asked);
        assert_eq!(shown()["num_additional_se"], 0);
        assert_eq!(fixture.runtime()["one_plus_one_ha"], standby == 1);
    }
}
