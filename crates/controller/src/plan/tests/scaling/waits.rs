//! How long operations wait for engines, by the settings of the SE group.

use super::*;
use crate::witness::{Committed, Witness};
use std::sync::{Arc, Mutex};

/// Hears what becomes of operations.
#[derive(Default)]
pub(in crate::plan::tests) struct Ear(Mutex<Vec<String>>);

impl Ear {
    pub(in crate::plan::tests) fn heard(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().expect("not poisoned"))
    }

    fn note(&self, what: &str, why: &str) {
        let mut all = self.0.lock().expect("not poisoned");
        all.push(format!("{what}: {why}"));
    }
}

impl Witness for Ear {
    fn committed(&self, _: &Committed<'_>) {}
    fn engine_came(&self, _: &str) {}
    fn engine_went(&self, _: &str, _: &str) {}
    fn engine_reported(&self, _: &str, _: &Report) {}
    fn joined(&self, _: &str, _: &str, _: &[String]) {}
    fn left(&self, _: &str, _: &str, why: &str) {
        self.note("left", why);
    }

    fn switched(&self, _: &str, _: &str, why: &str) {
        self.note("switched", why);
    }

    fn move_ended(&self, _: &str, done: bool, why: &str) {
        let what = if done { "moved" } else { "not moved" };
        self.note(what, why);
    }

    fn released(&self, _: &str, _: &str, why: &str) {
        self.note("released", why);
    }

    fn not_released(&self, _: &str, _: &str, why: &str) {
        self.note("not released", why);
    }

    fn scaled(&self, _: &str, step: &LastScale) {
        let outcome = if step.success { "done" } else { "failed" };
        self.note(&format!("{} {outcome}", step.action.word()), &step.reason);
    }

    fn arrived(&self, _: &str, _: &str, why: &str) {
        self.note("arrived", why);
    }

    fn time_is_up(&self, _: &str, _: &str, why: &str) {
        self.note("time is up", why);
    }

    fn not_ready(&self, _: &str, _: &str, why: &str) {
        self.note("not ready", why);
    }

    fn recommended(&self, _: &str, advice: &placement::autoscale::Decision) {
        self.note(
            &format!("recommended {}", advice.step.word()),
            advice.why.code(),
        );
    }
}

impl Fixture {
    pub(in crate::plan::tests) fn ear(&self) -> Arc<Ear> {
        let ear = Arc::new(Ear::default());
        let witness: Arc<dyn Witness> = ear.clone();
        self.planner.witness.take(&witness);
        ear
    }

    /// An active and a standby engine, which both serve.
    pub(super) async fn pair(&self, engines: &[Engine]) {
        let mode = json!("HA_MODE_LEGACY_ACTIVE_STANDBY");
        self.group_setting("ha_mode", mode).await;
        self.round().await;
        // Both know each other first.
        self.moves_in(0).await;
        for engine in &engines[..2] {
            self.serves(engine, OperState::Up);
        }
    }

    /// What these two are told to announce with; `None` for the active one.
    fn preferences(&self, engines: &[Engine]) -> Vec<Option<u32>> {
        let of = |e: &Engine| self.told_to(&e.uuid).vips[0].local_preference;
        engines.iter().take(2).map(of).collect()
    }
}

#[tokio::test]
async fn a_migration_goes_on_when_the_new_engine_has_served_for_the_additional_wait() {
    let (fixture, engines) = Fixture::with_engines(1).await;
    fixture.serves(&engines[0], OperState::Up);
    let wait = json!(20);
    fixture
        .group_setting("vs_se_scaleout_additional_wait_time", wait)
        .await;
    let moved = fixture.planner.migrate(&fixture.vsvip, None, Some("se-2"));
    moved.await.expect("it fits");
    fixture.moves_in(1).await;
    fixture.serves(&engines[1], OperState::Up);
    fixture.moves_in(1).await;
    assert_eq!(fixture.placed(), ["se-1", "se-2"]);
    assert_eq!(fixture.scale_state(), "MIGRATE_SCALEOUT_WAIT_FOR_SE_READY");
    fixture.serves(&engines[1], OperState::Initializing);
    fixture.moves_in(30).await;
    fixture.serves(&engines[1], OperState::Up);
    fixture.moves_in(0).await;
    fixture.moves_in(18).await;
    assert_eq!(
        fixture.placed(),
        ["se-1", "se-2"],
        "it has not served all the time"
    );
    fixture.moves_in(22).await;
    assert_eq!(fixture.placed(), ["se-2"]);
}

#[tokio::test]
async fn an_engine_that_is_not_ready_is_named_once_and_has_until_the_timeout() {
    let (fixture, engines) = Fixture::with_engines(1).await;
    fixture.serves(&engines[0], OperState::Up);
    let ear = fixture.ear();
    fixture.scale_out(&engines[1]).await;
    assert_eq!(ear.heard().len(), 1);
    fixture
        .registry
        .connected_for(&engines[1].uuid, Duration::from_secs(30));
    fixture.moves_in(58).await;
    assert_eq!(ear.heard(), [""; 0]);
    fixture.moves_in(61).await;
    fixture.moves_in(62).await;
    let late =
        "not ready: se-2 does not serve within 60 s (vs_se_scaleout_ready_timeout of the SE group)";
    assert_eq!(ear.heard(), [late]);
    assert_eq!(fixture.placed(), ["se-1", "se-2"]);
    fixture.moves_in(601).await;
    assert_eq!(fixture.placed(), ["se-1"]);
    let heard = ear.heard();
    assert!(heard[0].starts_with("SCALE_OUT failed: se-2"), "{heard:?}");
}

#[tokio::test]
async fn a_scale_out_is_complete_when_it_serves_and_a_placement_has_its_time() {
    let (fixture, engines) = Fixture::with_engines(2).await;
    fixture.serves(&engines[0], OperState::Up);
    let ear = fixture.ear();
    fixture.scale_out(&engines[1]).await;
    fixture.moves_in(0).await;
    fixture.serves(&engines[1], OperState::Up);
    ear.heard();
    fixture.moves_in(1).await;
    assert_eq!(ear.heard(), ["arrived: it is up there"]);
    fixture.group_setting("min_scaleout_per_vs", json!(3)).await;
    fixture.round().await;
    ear.heard();
    fixture.moves_in(599).await;
    assert_eq!(ear.heard(), [""; 0]);
    fixture.moves_in(601).await;
    fixture.moves_in(602).await;
    let late = "time is up: it is not up there within vs_scaleout_timeout of the SE group";
    assert_eq!(ear.heard(), [late]);
    assert_eq!(fixture.placed().len(), 3, "nothing is taken back");
}

#[tokio::test]
async fn in_a_switchover_both_announce_as_active_ones_for_the_additional_wait() {
    let (fixture, engines) = Fixture::with_engines(1).await;
    fixture.pair(&engines).await;
    assert_eq!(fixture.preferences(&engines), [None, Some(50)]);
    let wait = json!(20);
    let field = "vs_se_primary_switchover_additional_wait_time";
    fixture.group_setting(field, wait).await;
    fixture.serves(&engines[1], OperState::Up);
    let switched = fixture.planner.switch_over(&fixture.vsvip, None).await;
    assert_eq!(switched.expect("done").name, "se-2");
    assert_eq!(fixture.placed(), ["se-2", "se-1"]);
    assert_eq!(fixture.preferences(&engines), [None, None]);
    fixture.serves(&engines[1], OperState::Up);
    fixture.moves_in(1).await;
    fixture.moves_in(19).await;
    assert_eq!(fixture.preferences(&engines), [None, None]);
    assert_eq!(fixture.scale_state(), "SCALEOUT_WAIT_FOR_SE_READY");
    fixture.moves_in(22).await;
    assert_eq!(fixture.preferences(&engines), [Some(50), None]);
    assert_eq!(fixture.scale_state(), "SCALEOUT_SUCCESS");
}

#[tokio::test]
async fn a_switchover_without_a_wait_is_done_at_once_where_the_standby_serves() {
    let (fixture, engines) = Fixture::with_engines(1).await;
    fixture.pair(&engines).await;
    fixture.moves_in(1).await;
    fixture.serves(&engines[1], OperState::Up);
    let switched = fixture.planner.switch_over(&fixture.vsvip, None).await;
    switched.expect("done");
    assert_eq!(fixture.preferences(&engines), [Some(50), None]);
}

#[tokio::test]
async fn a_switchover_to_an_engine_that_does_not_serve_in_time_is_taken_back() {
    let (fixture, engines) = Fixture::with_engines(1).await;
    fixture.pair(&engines).await;
    fixture.serves(&engines[1], OperState::Down);
    let ear = fixture.ear();
    let switched = fixture.planner.switch_over(&fixture.vsvip, None).await;
    switched.expect("it has a session");
    fixture.serves(&engines[0], OperState::Up);
    fixture.serves(&engines[1], OperState::Down);
    fixture
        .registry
        .connected_for(&engines[1].uuid, Duration::from_secs(30));
    ear.heard();
    fixture.moves_in(299).await;
    assert_eq!(fixture.preferences(&engines), [None, None]);
    fixture.moves_in(301).await;
    assert_eq!(fixture.placed(), ["se-1", "se-2"]);
    assert_eq!(fixture.preferences(&engines), [None, Some(50)]);
    let heard = ear.heard();
    assert!(
        heard[0].starts_with("SWITCHOVER failed: se-2 does not serve after 30"),
        "{heard:?}"
    );
    assert_eq!(fixture.scale_state(), "SCALEOUT_ERROR");
}

#[tokio::test]
async fn an_engine_that_was_scaled_in_stays_for_the_additional_wait() {
    let (fixture, engines) = Fixture::with_engines(1).await;
    let wait = json!(100);
    fixture
        .group_setting("vs_se_scalein_additional_wait_time", wait)
        .await;
    fixture.scale_out(&engines[1]).await;
    fixture.scale_in(&engines[1], false).await.expect("done");
    fixture.says(&engines[1], 0, 0);
    fixture.look_in(0).await;
    fixture.look_in(129).await;
    assert_eq!(fixture.ids().len(), 2);
    assert_eq!(fixture.runtime()["scalein_in_progress"], true);
    fixture.look_in(131).await;
    assert_eq!(fixture.ids().len(), 1);
}
