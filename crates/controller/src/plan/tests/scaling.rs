//! What becomes of VIPs when engines are lost, drained, migrated from, or stand by.

use super::*;
use proto::v1::{OperState, Sighting};

mod pairs;
mod told;
mod waits;

impl Fixture {
    /// Names of the VIP's engines, the primary first.
    fn placed(&self) -> Vec<String> {
        let engines = self.planner.assignment(&self.vsvip).engines;
        engines.iter().map(|se| self.planner.name(se)).collect()
    }

    fn lingering(&self) -> Vec<String> {
        let group = self.planner.assignment(&self.vsvip).group;
        let lingering = group.lingering();
        lingering
            .map(|(m, _)| self.planner.name(&m.engine))
            .collect()
    }

    /// The engine has put everything in force, and the virtual service is in this state there.
    fn serves(&self, engine: &Engine, state: OperState) {
        self.planner.publish();
        self.acknowledge(std::slice::from_ref(engine));
        let report = Report {
            virtual_services: vec![VirtualServiceStatus {
                uuid: self.uuid("virtualservice", "vs-1"),
                state: state.into(),
                ..VirtualServiceStatus::default()
            }],
            interfaces: self.registry.get(&engine.uuid).interfaces,
            ..Report::default()
        };
        self.registry.reported(&engine.uuid, engine.session, report);
    }

    /// The engine says whether another one answers it.
    fn sees(&self, engine: &Engine, other: &Engine, answers: bool) {
        let report = Report {
            sightings: vec![Sighting {
                se_uuid: other.uuid.clone(),
                answers,
                since_ms: 0,
            }],
            interfaces: self.registry.get(&engine.uuid).interfaces,
            ..Report::default()
        };
        self.registry.reported(&engine.uuid, engine.session, report);
    }

    /// Long enough ago that others are to ask it.
    fn goes(&self, engine: &Engine) {
        self.registry.close(&engine.uuid, engine.session, "gone");
        self.registry.gone_for(&engine.uuid, Duration::from_secs(4));
    }

    /// Losses are looked for at this time from now, and acted on.
    async fn losses_in(&self, seconds: u64) {
        let at = Instant::now() + Duration::from_secs(seconds);
        self.planner.look_for_losses(at);
        self.round().await;
    }

    /// What is under way is brought on at this time from now. Who joins waits for nobody.
    async fn moves_in(&self, seconds: u64) {
        let at = Instant::now() + Duration::from_secs(1);
        self.planner.finish_joins(at);
        let at = Instant::now() + Duration::from_secs(seconds);
        self.planner.finish_moves(at).await;
    }

    async fn enable(&self, engine: &Engine, word: &str) {
        let word = json!(word);
        self.update("serviceengine", &engine.uuid, set("enable_state", word))
            .await;
        self.round().await;
    }

    fn engine_reason(&self, engine: &Engine) -> (String, String) {
        let status =
            self.observe(|o| o.service_engine(&engine.uuid, &|_, _| true))["oper_status"].clone();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (
            text(&status["reason_code_string"]),
            text(&status["reason"][0]),
        )
    }

    fn scale_state(&self) -> String {
        let state = &self.runtime()["scale_status"]["state"];
        state.as_str().unwrap_or_default().to_owned()
    }
}

#[tokio::test]
async fn an_engine_is_lost_when_it_has_no_session_and_answers_nobody_and_gets_nothing_by_coming_back()
 {
    let (fixture, engines) = Fixture::with_engines(2).await;
    fixture.goes(&engines[0]);
    let watched = &fixture.told_to(&engines[1].uuid).watched;
    assert_eq!(watched[0].se_uuid, engines[0].uuid);
    assert!(fixture.told_to(&engines[0].uuid).watched.is_empty());
    fixture.losses_in(60).await;
    assert_eq!(fixture.placed(), ["se-1"], "nobody has said anything of it");
    fixture.sees(&engines[1], &engines[0], false);
    fixture.losses_in(5).await;
    assert_eq!(fixture.placed(), ["se-1"], "it may just start again");
    fixture.losses_in(60).await;
    assert_eq!(fixture.placed(), ["se-2"]);
    assert_eq!(fixture.lingering(), ["se-1"]);
    assert_eq!(fixture.engine_reason(&engines[0]).0, "se_lost");
    let last = fixture.planner.last_scale(&fixture.vsvip).expect("noted");
    assert_eq!((last.action, last.success), (Action::SeRemoved, true));
    assert!(
        last.reason.contains("se-1, which is lost"),
        "{}",
        last.reason
    );
    fixture.open_session(&engines[0].uuid, "10.10.10.11/24");
    fixture.losses_in(0).await;
    assert_eq!(fixture.placed(), ["se-2"]);
    assert!(fixture.told_to(&engines[1].uuid).watched.is_empty());
}

#[tokio::test]
async fn an_engine_that_is_cut_off_from_the_controller_alone_keeps_its_vips() {
    let (fixture, engines) = Fixture::with_engines(2).await;
    fixture.goes(&engines[0]);
    fixture.sees(&engines[1], &engines[0], false);
    fixture.sees(&engines[2], &engines[0], true);
    fixture.losses_in(600).await;
    assert_eq!(fixture.placed(), ["se-1"]);
    let (code, reason) = fixture.engine_reason(&engines[0]);
    assert_eq!(code, "se_disconnected");
    assert!(reason.contains("cut off from the controller"), "{reason}");
}

#[tokio::test]
async fn nobody_is_lost_where_it_would_be_more_than_half_of_the_group() {
    let (fixture, engines) = Fixture::with_engines(2).await;
    for engine in &engines[..2] {
        fixture.goes(engine);
    }
    let report = Report {
        sightings: engines[..2]
            .iter()
            .map(|engine| Sighting {
                se_uuid: engine.uuid.clone(),
                ..Sighting::default()
            })
            .collect(),
        interfaces: fixture.registry.get(&engines[2].uuid).interfaces,
        ..Report::default()
    };
    let reporter = &engines[2];
    fixture
        .registry
        .reported(&reporter.uuid, reporter.session, report);
    fixture.losses_in(600).await;
    assert_eq!(fixture.placed(), ["se-1"]);
    let (code, reason) = fixture.engine_reason(&engines[0]);
    assert_eq!(code, "se_disconnected");
    assert!(reason.contains("answers no other engine"), "{reason}");
}

#[tokio::test]
async fn an_older_engine_is_not_asked_and_not_lost() {
    let (fixture, engines) = Fixture::with_engines(2).await;
    let (outbox, _receiver) = crate::engines::outbox::Outbox::new();
    let older = proto::v1::Hello {
        protocol_version: proto::PROTOCOL_VERSION_MIN,
        ..proto::v1::Hello::default()
    };
    let session = fixture.registry.open(&engines[0].uuid, older, outbox);
    let older = Engine {
        uuid: engines[0].uuid.clone(),
        session,
    };
    fixture.goes(&older);
    assert!(fixture.told_to(&engines[1].uuid).watched.is_empty());
    fixture.sees(&engines[1], &older, false);
    fixture.losses_in(600).await;
    assert_eq!(fixture.placed(), ["se-1"]);
}

#[tokio::test]
async fn where_no_engine_can_take_its_place_a_lost_one_keeps_it_and_the_reason_is_told() {
    let (fixture, engines) = Fixture::with_engines(1).await;
    fixture.scale_out(&engines[1]).await;
    fixture.goes(&engines[0]);
    fixture.sees(&engines[1], &engines[0], false);
    fixture.losses_in(60).await;
    assert_eq!(fixture.placed(), ["se-1", "se-2"]);
    let last = fixture.planner.last_scale(&fixture.vsvip).expect("noted");
    assert!(!last.success);
    assert!(
        last.reason
            .starts_with("se-1 is lost, and nothing can take its place"),
        "{}",
        last.reason
    );
}

#[tokio::test]
async fn a_disabled_engine_goes_when_another_one_serves_in_its_place() {
    let (fixture, engines) = Fixture::with_engines(2).await;
    fixture.serves(&engines[0], OperState::Up);
    fixture
        .enable(&engines[0], "SE_STATE_DISABLED_FOR_PLACEMENT")
        .await;
    assert_eq!(fixture.placed(), ["se-1"]);
    fixture.enable(&engines[0], "SE_STATE_DISABLED").await;
    assert_eq!(fixture.placed(), ["se-1", "se-2"]);
    assert_eq!(
        fixture.scale_state(),
        "MIGRATE_SCALEOUT_AWAITING_SE_PROGRAMMING"
    );
    fixture.moves_in(1).await;
    fixture.serves(&engines[1], OperState::Initializing);
    assert_eq!(fixture.scale_state(), "MIGRATE_SCALEOUT_WAIT_FOR_SE_READY");
    assert_eq!(fixture.runtime()["migrate_in_progress"], true);
    fixture.moves_in(1).await;
    fixture.round().await;
    assert_eq!(fixture.placed(), ["se-1", "se-2"], "one move is enough");
    fixture.serves(&engines[1], OperState::Up);
    fixture.moves_in(1).await;
    assert_eq!(fixture.placed(), ["se-2"]);
    assert_eq!(fixture.lingering(), ["se-1"]);
    assert_eq!(fixture.runtime()["migrate_in_progress"], false);
    fixture.enable(&engines[0], "SE_STATE_ENABLED").await;
    assert_eq!(fixture.placed(), ["se-2"], "nothing moves back");
}

#[tokio::test]
async fn a_move_goes_on_after_a_restart_of_the_controller() {
    let (fixture, engines) = Fixture::with_engines(2).await;
    let moved = fixture.planner.migrate(&fixture.vsvip, None, Some("se-3"));
    let choice = moved.await.expect("it fits");
    assert!(
        choice.reason.starts_with("se-3 takes the place of se-1"),
        "{}",
        choice.reason
    );
    let again = Planner::open(fixture.objects.clone(), fixture.registry.clone()).await;
    let fixture = Fixture {
        planner: again.expect("it reads what it has written"),
        ..fixture
    };
    fixture.moves_in(1).await;
    assert_eq!(fixture.placed(), ["se-1", "se-3"]);
    fixture.serves(&engines[2], OperState::Up);
    fixture.moves_in(1).await;
    assert_eq!(fixture.placed(), ["se-3"]);
    assert_eq!(fixture.lingering(), ["se-1"]);
}

#[tokio::test]
async fn what_cannot_be_migrated_is_refused_with_the_reason() {
    let (fixture, _) = Fixture::with_engines(2).await;
    let migrate = async |from: Option<&str>, to: Option<&str>| {
        let moved = fixture.planner.migrate(&fixture.vsvip, from, to).await;
        moved.map(|c| c.name).map_err(|e| e.text)
    };
    let refused = migrate(Some("se-2"), None).await.expect_err("not there");
    assert_eq!(refused, "the virtual service is not placed on se-2");
    let refused = migrate(None, Some("se-1")).await.expect_err("it is there");
    assert!(refused.contains("placed there already"), "{refused}");
    assert_eq!(migrate(None, None).await, Ok("se-2".to_owned()));
    let refused = migrate(None, None).await.expect_err("under way");
    assert!(
        refused.contains("being migrated from se-1 already"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_scale_out_that_does_not_serve_in_time_is_rolled_back_and_one_that_serves_stays() {
    let (fixture, engines) = Fixture::with_engines(2).await;
    fixture.serves(&engines[0], OperState::Up);
    fixture.scale_out(&engines[1]).await;
    fixture.moves_in(599).await;
    assert_eq!(fixture.placed(), ["se-1", "se-2"]);
    fixture.serves(&engines[1], OperState::Down);
    fixture.moves_in(601).await;
    assert_eq!(fixture.placed(), ["se-1", "se-2"], "its session is young");
    fixture
        .registry
        .connected_for(&engines[1].uuid, Duration::from_secs(30));
    fixture.moves_in(601).await;
    assert_eq!(fixture.placed(), ["se-1"], "it is up at the other one");
    assert_eq!(fixture.scale_state(), "SCALEOUT_ERROR");
    let last = fixture.planner.last_scale(&fixture.vsvip).expect("noted");
    assert!(
        last.reason.contains("se-2 does not serve after 60"),
        "{}",
        last.reason
    );
    fixture.scale_out(&engines[2]).await;
    fixture.moves_in(1).await;
    fixture.serves(&engines[2], OperState::Up);
    fixture.moves_in(1).await;
    assert_eq!(fixture.scale_state(), "SCALEOUT_SUCCESS");
    fixture.moves_in(10_000).await;
    assert_eq!(fixture.placed(), ["se-1", "se-3"]);
}

#[tokio::test]
async fn what_is_under_way_is_cancelled_by_a_scale_in_from_the_engine_that_it_goes_to() {
    let (fixture, engines) = Fixture::with_engines(2).await;
    fixture.serves(&engines[0], OperState::Up);
    fixture.scale_out(&engines[1]).await;
    assert_eq!(fixture.runtime()["scaleout_in_progress"], true);
    fixture
        .scale_in(&engines[1], false)
        .await
        .expect("cancelled");
    assert_eq!(fixture.runtime()["scaleout_in_progress"], false);
    let moved = fixture.planner.migrate(&fixture.vsvip, None, Some("se-3"));
    moved.await.expect("it fits");
    fixture
        .scale_in(&engines[2], false)
        .await
        .expect("cancelled");
    assert_eq!(fixture.runtime()["migrate_in_progress"], false);
    fixture.serves(&engines[2], OperState::Up);
    fixture.moves_in(10_000).await;
    assert_eq!(fixture.placed(), ["se-1"], "and nothing comes of it");
}

#[tokio::test]
async fn an_engine_that_the_controller_does_not_reach_is_not_taken_out_for_it() {
    let (fixture, engines) = Fixture::with_engines(2).await;
    fixture.serves(&engines[0], OperState::Up);
    fixture.scale_out(&engines[1]).await;
    fixture.goes(&engines[1]);
    fixture.moves_in(10_000).await;
    assert_eq!(fixture.placed(), ["se-1", "se-2"]);
}

#[tokio::test]
async fn a_virtual_service_that_is_down_everywhere_is_scaled_out_all_the_same() {
    let (fixture, engines) = Fixture::with_engines(1).await;
    fixture.serves(&engines[0], OperState::Down);
    fixture.scale_out(&engines[1]).await;
    fixture.moves_in(1).await;
    fixture.serves(&engines[1], OperState::Down);
    fixture.moves_in(1).await;
    assert!(
        fixture
            .planner
            .assignment(&fixture.vsvip)
            .scaling
            .is_empty()
    );
    assert_eq!(fixture.placed(), ["se-1", "se-2"]);
}

#[tokio::test]
async fn a_pair_gets_its_second_engine_and_a_standby_announces_a_worse_route() {
    let (fixture, engines) = Fixture::with_engines(2).await;
    fixture
        .group_setting("ha_mode", json!("HA_MODE_SHARED_PAIR"))
        .await;
    fixture.round().await;
    assert_eq!(fixture.placed(), ["se-1", "se-2"]);
    let preference = |engine: &Engine| fixture.told_to(&engine.uuid).vips[0].local_preference;
    assert_eq!(preference(&engines[1]), None);
    let mode = json!("HA_MODE_LEGACY_ACTIVE_STANDBY");
    fixture.group_setting("ha_mode", mode).await;
    assert_eq!(
        (preference(&engines[0]), preference(&engines[1])),
        (None, Some(50))
    );
    let runtime = fixture.runtime();
    let standby = |n: usize| runtime["service_engine"][n]["standby"].clone();
    assert_eq!((standby(0), standby(1)), (json!(false), json!(true)));
}

#[tokio::test]
async fn a_vip_that_lacks_engines_says_how_many_it_is_to_have() {
    let (fixture, _) = Fixture::with_engines(0).await;
    let requested = || fixture.runtime()["num_se_requested"].clone();
    assert_eq!(requested(), 1);
    fixture.group_setting("min_scaleout_per_vs", json!(3)).await;
    fixture.round().await;
    assert_eq!(fixture.placed(), ["se-1"]);
    assert_eq!(requested(), 3);
    fixture
        .group_setting("ha_mode", json!("HA_MODE_LEGACY_ACTIVE_STANDBY"))
        .await;
    assert_eq!(requested(), 2);
}

#[tokio::test]
async fn a_switchover_and_a_loss_make_the_standby_active_for_good() {
    let (fixture, engines) = Fixture::with_engines(1).await;
    let refused = fixture.planner.switch_over(&fixture.vsvip, None).await;
    let refused = refused.expect_err("another mode").text;
    assert!(
        refused.contains("HA_MODE_LEGACY_ACTIVE_STANDBY"),
        "{refused}"
    );
    let mode = json!("HA_MODE_LEGACY_ACTIVE_STANDBY");
    fixture.group_setting("ha_mode", mode).await;
    fixture.round().await;
    assert_eq!(fixture.placed(), ["se-1", "se-2"]);
    let switched = fixture.planner.switch_over(&fixture.vsvip, None).await;
    assert_eq!(switched.expect("done").name, "se-2");
    assert_eq!(fixture.placed(), ["se-2", "se-1"]);
    fixture.goes(&engines[1]);
    fixture.sees(&engines[0], &engines[1], false);
    fixture.losses_in(60).await;
    assert_eq!(fixture.placed(), ["se-1", "se-2"]);
    fixture.open_session(&engines[1].uuid, "10.10.10.12/24");
    fixture.losses_in(0).await;
    assert_eq!(fixture.placed(), ["se-1", "se-2"]);
}

#[tokio::test]
async fn another_host_is_taken_before_one_that_has_the_vip_already() {
    let (fixture, engines) = Fixture::with_engines(2).await;
    for (n, host) in ["rack-1", "rack-1", "rack-2"].into_iter().enumerate() {
        let address = format!("10.10.10.1{}/24", n + 1);
        fixture.open_session_on(host, &engines[n].uuid, &address);
    }
    fixture.group_setting("min_scaleout_per_vs", json!(2)).await;
    fixture.round().await;
    assert_eq!(fixture.placed(), ["se-1", "se-3"]);
}

#[tokio::test]
async fn a_scale_out_and_a_migration_go_to_the_host_that_is_asked_for() {
    let (fixture, engines) = Fixture::with_engines(2).await;
    fixture.open_session_on("rack-2", &engines[2].uuid, "10.10.10.13/24");
    let on = |host| Wanted {
        engine: None,
        host: Some(host),
    };
    let refused = fixture
        .planner
        .scale_out(&fixture.vsvip, on("rack-9"))
        .await;
    let refused = refused.expect_err("nobody is there").text;
    assert!(refused.contains("its host is not \"rack-9\""), "{refused}");
    let moved = fixture.planner.migrate(&fixture.vsvip, None, on("rack-2"));
    assert_eq!(moved.await.expect("it fits").name, "se-3");
}

#[tokio::test]
async fn the_room_for_lost_engines_is_shown() {
    let (fixture, engines) = Fixture::with_engines(1).await;
    let group = fixture.uuid("serviceenginegroup", "Default-Group");
    let spare = || fixture.observe(|o| o.se_group(&group)).expect("there");
    let expected = json!({
        "num_se": 2, "num_se_connected": 2, "buffer_se": {"wanted": 1, "survives": 1, "short": false},
    });
    assert_eq!(spare(), expected);
    fixture.goes(&engines[1]);
    fixture.sees(&engines[0], &engines[1], false);
    fixture.losses_in(60).await;
    let short = json!({"wanted": 1, "survives": 0, "short": true});
    assert_eq!(spare()["buffer_se"], short);
    assert_eq!(spare()["num_se_connected"], 1);
}

#[tokio::test]
async fn more_next_hops_than_a_router_uses_are_pointed_out_to_who_is_told_of_the_vip() {
    use super::super::fixture::{peer, v4};
    let (fixture, engines) = Fixture::with_engines(1).await;
    fixture.scale_out(&engines[1]).await;
    let vrf = fixture.uuid("vrfcontext", "global");
    let codes = async |more: Value| {
        let profile = json!({"local_as": 65001, "ibgp": true, "peers": [peer(more)]});
        fixture
            .update("vrfcontext", &vrf, set("bgp_profile", profile))
            .await;
        let runtime = fixture.runtime();
        let warnings = runtime["warnings"].as_array().cloned().unwrap_or_default();
        let each = warnings.iter();
        each.map(|w| (w["reason_code"].clone(), w["next_hops"].clone()))
            .collect::<Vec<_>>()
    };
    let exceeded = vec![(json!("ecmp_width_exceeded"), json!(2))];
    assert_eq!(codes(json!({"ecmp_width": 1})).await, exceeded);
    assert_eq!(codes(json!({"ecmp_width": 2})).await, []);
    assert_eq!(codes(json!({})).await, [], "two are no reason to ask");
    for not_told in [json!({"advertise_vip": false}), json!({"shutdown": true})] {
        let mut peer = json!({"ecmp_width": 1});
        let fields = not_told.as_object().expect("object").clone();
        peer.as_object_mut().expect("object").extend(fields);
        assert_eq!(codes(peer).await, [], "{not_told}");
    }
    let six = json!({
        "ecmp_width": 1, "peer_ip6": {"addr": "2001:db8::1", "type": "V6"},
        "subnet6": {"ip_addr": {"addr": "2001:db8::", "type": "V6"}, "mask": 64},
    });
    assert_eq!(codes(six).await, exceeded, "one family carries it");
    let labels = set("bgp_peer_labels", json!(["far"]));
    fixture.update("vsvip", &fixture.vsvip, labels).await;
    assert_eq!(
        codes(json!({"ecmp_width": 1})).await,
        [],
        "not of this label"
    );
    assert_eq!(
        codes(json!({"ecmp_width": 1, "label": "far", "peer_ip": v4("10.10.10.1")})).await,
        exceeded
    );
}

#[tokio::test]
async fn a_standby_of_another_as_announces_a_longer_path() {
    use super::super::fixture::peer;
    let (fixture, engines) = Fixture::with_engines(1).await;
    let mode = json!("HA_MODE_LEGACY_ACTIVE_STANDBY");
    fixture.group_setting("ha_mode", mode).await;
    fixture.round().await;
    let vrf = fixture.uuid("vrfcontext", "global");
    for (own, standby) in [(Value::Null, 3), (json!(2), 5)] {
        let mut profile =
            json!({"local_as": 65001, "ibgp": false, "peers": [peer(json!({"remote_as": 65000}))]});
        if own != Value::Null {
            profile["num_as_path_prepend"] = own;
        }
        fixture
            .update("vrfcontext", &vrf, set("bgp_profile", profile))
            .await;
        let prepend = |engine: &Engine| fixture.told_to(&engine.uuid).vips[0].num_as_path_prepend;
        assert_eq!(
            (prepend(&engines[0]), prepend(&engines[1])),
            (None, Some(standby))
        );
    }
}
