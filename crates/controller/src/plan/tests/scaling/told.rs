//! What the witness is told of operations, and when.

use super::*;

impl Fixture {
    /// The step before the last one is this, and all of it is over.
    fn first_step_is_over(&self, action: Action) {
        let step = self.planner.scale_before(&self.vsvip).expect("noted");
        assert_eq!((step.action, step.ended.is_some()), (action, true));
    }
}

#[tokio::test]
async fn a_migration_is_told_when_it_begins_and_when_it_is_done_and_by_nothing_else() {
    let (fixture, engines) = Fixture::with_engines(1).await;
    fixture.serves(&engines[0], OperState::Up);
    let ear = fixture.ear();
    let moved = fixture.planner.migrate(&fixture.vsvip, None, Some("se-2"));
    moved.await.expect("it fits");
    fixture.moves_in(1).await;
    let heard = ear.heard();
    assert_eq!(heard.len(), 1, "{heard:?}");
    assert!(heard[0].starts_with("MIGRATE_SCALEOUT done: se-2 takes the place of se-1"));
    fixture.serves(&engines[1], OperState::Up);
    fixture.moves_in(1).await;
    fixture.moves_in(1).await;
    let done = "MIGRATE_SCALEIN done: migrated from se-1 to se-2: it serves";
    assert_eq!(ear.heard(), [done]);
    fixture.first_step_is_over(Action::MigrateScaleout);
}

#[tokio::test]
async fn a_migration_that_is_taken_back_has_one_end() {
    let (fixture, engines) = Fixture::with_engines(1).await;
    fixture.serves(&engines[0], OperState::Up);
    let moved = fixture.planner.migrate(&fixture.vsvip, None, Some("se-2"));
    moved.await.expect("it fits");
    fixture.moves_in(1).await;
    fixture.serves(&engines[1], OperState::Down);
    fixture
        .registry
        .connected_for(&engines[1].uuid, Duration::from_secs(30));
    let ear = fixture.ear();
    fixture.moves_in(601).await;
    fixture.moves_in(602).await;
    let heard = ear.heard();
    assert_eq!(heard.len(), 2, "{heard:?}");
    assert!(heard[0].starts_with("not ready: se-2"), "{heard:?}");
    let failed = "MIGRATE_SCALEOUT failed: se-2 does not serve after 60";
    assert!(heard[1].starts_with(failed), "{heard:?}");
}

#[tokio::test]
async fn a_migration_that_is_cancelled_has_failed_also_after_a_restart_of_the_controller() {
    for restarts in [false, true] {
        let (mut fixture, engines) = Fixture::with_engines(2).await;
        fixture.serves(&engines[0], OperState::Up);
        let moved = fixture.planner.migrate(&fixture.vsvip, None, Some("se-3"));
        moved.await.expect("it fits");
        if restarts {
            let again = Planner::open(fixture.objects.clone(), fixture.registry.clone()).await;
            fixture.planner = again.expect("it reads what it has written");
        }
        let ear = fixture.ear();
        fixture.moves_in(1).await;
        assert_eq!(ear.heard(), [""; 0], "it is under way");
        let cancelled = fixture.scale_in(&engines[2], false).await;
        cancelled.expect("it has another one");
        fixture.moves_in(1).await;
        fixture.moves_in(1).await;
        let expected = [
            "SCALE_IN done: se-3 was asked for",
            "not moved: se-3 has it no more, and se-1 keeps its place",
        ];
        assert_eq!(ear.heard(), expected, "restarts: {restarts}");
        if !restarts {
            fixture.first_step_is_over(Action::MigrateScaleout);
        }
    }
}

#[tokio::test]
async fn of_an_engine_that_is_not_to_come_any_more_nothing_is_kept_in_mind() {
    let (fixture, engines) = Fixture::with_engines(1).await;
    fixture.serves(&engines[0], OperState::Up);
    fixture.scale_out(&engines[1]).await;
    let key = (fixture.vsvip.clone(), engines[1].uuid.clone());
    fixture.planner.write().not_ready.insert(key);
    let cancelled = fixture.scale_in(&engines[1], false).await;
    cancelled.expect("it has another one");
    fixture.moves_in(1).await;
    fixture.first_step_is_over(Action::ScaleOut);
    assert!(fixture.planner.read().not_ready.is_empty());
}

#[tokio::test]
async fn a_migration_whose_former_engine_is_lost_is_done() {
    let (fixture, engines) = Fixture::with_engines(2).await;
    fixture.serves(&engines[0], OperState::Up);
    let moved = fixture.planner.migrate(&fixture.vsvip, None, Some("se-3"));
    moved.await.expect("it fits");
    let ear = fixture.ear();
    fixture.goes(&engines[0]);
    fixture.sees(&engines[1], &engines[0], false);
    fixture.losses_in(60).await;
    assert_eq!(fixture.placed(), ["se-3"]);
    fixture.moves_in(1).await;
    fixture.moves_in(1).await;
    let done = "moved: se-1 has it no more, and se-3 has its place";
    assert_eq!(ear.heard(), [done]);
}

#[tokio::test]
async fn a_migration_whose_new_engine_is_lost_has_failed_and_nobody_takes_its_place() {
    let (fixture, engines) = Fixture::with_engines(2).await;
    fixture.serves(&engines[0], OperState::Up);
    let moved = fixture.planner.migrate(&fixture.vsvip, None, Some("se-3"));
    moved.await.expect("it fits");
    let ear = fixture.ear();
    fixture.goes(&engines[2]);
    fixture.sees(&engines[1], &engines[2], false);
    fixture.losses_in(60).await;
    assert_eq!(fixture.placed(), ["se-1"], "as many as before");
    fixture.moves_in(1).await;
    fixture.moves_in(1).await;
    let failed = "not moved: se-3 has it no more, and se-1 keeps its place";
    assert_eq!(ear.heard(), [failed]);
    fixture.round().await;
    assert_eq!(fixture.placed(), ["se-1"]);
    assert_eq!(fixture.runtime()["migrate_in_progress"], false);
}

#[tokio::test]
async fn a_pair_stays_as_it_was_when_the_engine_that_was_to_join_it_is_lost() {
    let (fixture, engines) = Fixture::with_engines(3).await;
    fixture.pair(&engines).await;
    let moved = fixture.planner.migrate(&fixture.vsvip, None, Some("se-3"));
    moved.await.expect("it fits");
    let ear = fixture.ear();
    fixture.goes(&engines[2]);
    fixture.sees(&engines[3], &engines[2], false);
    fixture.losses_in(60).await;
    assert_eq!(fixture.placed(), ["se-1", "se-2"]);
    fixture.moves_in(1).await;
    let failed = "not moved: se-3 has it no more, and se-1 keeps its place";
    assert_eq!(ear.heard(), [failed], "and nobody else becomes active");
}

#[tokio::test]
async fn a_drained_engine_whose_successor_is_lost_gives_its_place_to_another_one() {
    let (fixture, engines) = Fixture::with_engines(2).await;
    fixture.serves(&engines[0], OperState::Up);
    fixture.enable(&engines[0], "SE_STATE_DISABLED").await;
    assert_eq!(fixture.placed(), ["se-1", "se-2"]);
    let ear = fixture.ear();
    fixture.goes(&engines[1]);
    fixture.sees(&engines[2], &engines[1], false);
    fixture.losses_in(60).await;
    assert_eq!(fixture.placed(), ["se-1", "se-3"]);
    fixture.moves_in(1).await;
    let failed = "not moved: se-2 has it no more, and another engine is to have the place of se-1";
    let heard = ear.heard();
    assert!(heard.iter().any(|h| h == failed), "{heard:?}");
    fixture.serves(&engines[2], OperState::Up);
    fixture.moves_in(1).await;
    assert_eq!(fixture.placed(), ["se-3"]);
}

#[tokio::test]
async fn a_switchover_is_done_when_nothing_is_waited_for_any_more() {
    let (fixture, engines) = Fixture::with_engines(1).await;
    fixture.pair(&engines).await;
    let field = "vs_se_primary_switchover_additional_wait_time";
    fixture.group_setting(field, json!(20)).await;
    fixture.serves(&engines[1], OperState::Up);
    let ear = fixture.ear();
    let switched = fixture.planner.switch_over(&fixture.vsvip, None).await;
    switched.expect("done");
    let begun = "SWITCHOVER done: se-2 becomes active: it was asked for";
    assert_eq!(ear.heard(), [begun]);
    fixture.serves(&engines[1], OperState::Up);
    fixture.moves_in(1).await;
    fixture.moves_in(15).await;
    assert_eq!(ear.heard(), [""; 0]);
    fixture.moves_in(30).await;
    fixture.moves_in(31).await;
    assert_eq!(ear.heard(), ["switched: switched over to se-2: it serves"]);
}

#[tokio::test]
async fn a_switchover_whose_former_active_engine_is_lost_is_done() {
    let (fixture, engines) = Fixture::with_engines(2).await;
    fixture.pair(&engines).await;
    let field = "vs_se_primary_switchover_additional_wait_time";
    fixture.group_setting(field, json!(20)).await;
    fixture.serves(&engines[1], OperState::Up);
    let switched = fixture.planner.switch_over(&fixture.vsvip, None).await;
    switched.expect("done");
    fixture.moves_in(1).await;
    let ear = fixture.ear();
    fixture.goes(&engines[0]);
    fixture.sees(&engines[1], &engines[0], false);
    fixture.losses_in(60).await;
    assert_eq!(fixture.placed(), ["se-2", "se-3"]);
    fixture.moves_in(1).await;
    fixture.moves_in(1).await;
    let heard = ear.heard();
    assert_eq!(heard.len(), 2, "{heard:?}");
    assert!(heard[0].starts_with("SE_REMOVED done: se-3"), "{heard:?}");
    let done = "switched: se-2 stays the active engine: se-1 has it no more";
    assert_eq!(heard[1], done);
    fixture.first_step_is_over(Action::Switchover);
}

#[tokio::test]
async fn a_standby_becomes_active_also_where_another_engine_has_taken_the_place_of_the_active_one()
{
    let (fixture, engines) = Fixture::with_engines(2).await;
    fixture.pair(&engines).await;
    let moved = fixture.planner.migrate(&fixture.vsvip, None, Some("se-3"));
    moved.await.expect("it fits");
    fixture.moves_in(1).await;
    fixture.serves(&engines[2], OperState::Up);
    let ear = fixture.ear();
    fixture.moves_in(1).await;
    assert_eq!(fixture.placed(), ["se-2", "se-3"]);
    let expected = [
        "SWITCHOVER done: se-2 becomes active: the one before has given its place up",
        "MIGRATE_SCALEIN done: migrated from se-1 to se-3: it serves",
    ];
    assert_eq!(ear.heard(), expected);
}

#[tokio::test]
async fn a_standby_becomes_active_also_where_the_active_one_is_taken_off_at_once() {
    for (is_deleted, why) in [(false, "was disabled by force"), (true, "was deleted")] {
        let (fixture, engines) = Fixture::with_engines(2).await;
        fixture.pair(&engines).await;
        let ear = fixture.ear();
        if is_deleted {
            let ty = model::schema::object_type("serviceengine").expect("known");
            let author = crate::objects::Author::system("test");
            let deleted = fixture.objects.change(&author, "test", |draft| {
                draft.remove(ty, &engines[0].uuid);
                Ok(())
            });
            deleted.await.expect("deleted");
            fixture.round().await;
        } else {
            fixture.enable(&engines[0], "SE_STATE_DISABLED_FORCE").await;
        }
        assert_eq!(fixture.placed(), ["se-2", "se-3"], "{why}");
        let active = format!("SWITCHOVER done: se-2 becomes active: the one before {why}");
        let heard = ear.heard();
        let said = heard.iter().filter(|h| **h == active).count();
        assert_eq!(said, 1, "{heard:?}");
    }
}

#[tokio::test]
async fn a_standby_becomes_active_also_where_another_engine_replaces_the_lost_one() {
    let (fixture, engines) = Fixture::with_engines(2).await;
    fixture.pair(&engines).await;
    assert_eq!(fixture.placed(), ["se-1", "se-2"]);
    let ear = fixture.ear();
    fixture.goes(&engines[0]);
    fixture.sees(&engines[1], &engines[0], false);
    fixture.losses_in(60).await;
    assert_eq!(fixture.placed(), ["se-2", "se-3"]);
    let heard = ear.heard();
    let active = "SWITCHOVER done: se-2 becomes active: the one before is lost";
    assert_eq!(heard.first().map(String::as_str), Some(active), "{heard:?}");
    assert!(heard[1].starts_with("SE_REMOVED done: se-3"), "{heard:?}");
    assert_eq!(heard.len(), 2, "{heard:?}");
}

#[tokio::test]
async fn what_an_engine_has_left_is_told_when_its_time_is_up_and_when_it_has_nothing_any_more() {
    let (fixture, engines) = Fixture::with_engines(1).await;
    fixture.scale_out(&engines[1]).await;
    fixture.moves_in(1).await;
    fixture.acknowledge(&engines);
    fixture.says(&engines[1], 312, 250);
    fixture.scale_in(&engines[1], false).await.expect("done");
    fixture.acknowledge(&engines);
    let ear = fixture.ear();
    fixture.look_in(20).await;
    assert_eq!(ear.heard(), [""; 0]);
    fixture.look_in(31).await;
    fixture.look_in(40).await;
    let late = "not released: se-2 has 312 flows left, oldest 4 min after 30 s (vs_scalein_timeout of the SE group); they go on there until they end";
    assert_eq!(ear.heard(), [late]);
    fixture.says(&engines[1], 0, 0);
    fixture.look_in(50).await;
    fixture.look_in(51).await;
    assert_eq!(ear.heard(), ["released: se-2 has no flows of it left"]);
    fixture.look_in(90).await;
    assert_eq!(ear.heard(), ["left: its last flow has ended"]);
}

#[tokio::test]
async fn an_engine_that_has_not_heard_that_it_is_scaled_in_may_get_connections_yet() {
    let (fixture, engines) = Fixture::with_engines(1).await;
    fixture.scale_out(&engines[1]).await;
    fixture.says(&engines[1], 0, 0);
    fixture.scale_in(&engines[1], false).await.expect("done");
    let ear = fixture.ear();
    fixture.look_in(0).await;
    assert_eq!(ear.heard(), [""; 0]);
    fixture.acknowledge(&engines);
    fixture.look_in(1).await;
    assert_eq!(ear.heard(), [""; 0], "it has said so before");
    fixture.says(&engines[1], 0, 0);
    fixture.look_in(2).await;
    assert_eq!(ear.heard(), ["released: se-2 has no flows of it left"]);
}

#[tokio::test]
async fn an_engine_that_is_late_and_does_not_confirm_says_what_it_has_all_the_same() {
    let (fixture, engines) = Fixture::with_engines(1).await;
    fixture.scale_out(&engines[1]).await;
    fixture.says(&engines[1], 312, 250);
    fixture.scale_in(&engines[1], false).await.expect("done");
    let ear = fixture.ear();
    fixture.look_in(31).await;
    let heard = ear.heard();
    let late = "not released: se-2 has 312 flows left";
    assert!(heard[0].starts_with(late), "{heard:?}");
}
