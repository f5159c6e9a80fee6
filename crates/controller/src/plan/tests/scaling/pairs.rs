//! Which engine of a pair is active, where virtual services prefer one (`active_standby_se_tag`).

use super::super::super::fixture::{PEER, v4};
use super::*;
use crate::engines::registry::DEAD_AFTER;
use proto::v1::{BgpSession, BgpState, PoolStatus};

impl Fixture {
    async fn distribute(&self) {
        let field = "distribute_load_active_standby";
        self.group_setting(field, json!(true)).await;
    }

    /// A VIP more, of a virtual service that prefers this engine; names of its engines, the active one first.
    async fn second_vip(&self, tag: &str) -> Vec<String> {
        let vip = json!([{"vip_id": "1", "ip_address": v4("10.100.0.2")}]);
        let vsvip = json!({"name": "vip-2", "vip": vip});
        let vsvip = self.create("vsvip", vsvip).await;
        let vs = json!({
            "name": "vs-2", "services": [{"port": 80}], "vsvip_ref": format!("/api/vsvip/{vsvip}"),
            "active_standby_se_tag": tag,
        });
        self.create("virtualservice", vs).await;
        self.round().await;
        let engines = self.planner.assignment(&vsvip).engines;
        engines.iter().map(|se| self.planner.name(se)).collect()
    }

    /// The virtual service gets a pool that is checked; its uuid.
    async fn with_checked_pool(&self) -> String {
        let monitor = self.uuid("healthmonitor", "System-TCP");
        let monitor = format!("/api/healthmonitor/{monitor}");
        let body = json!({"name": "p1", "health_monitor_refs": [monitor]});
        let pool = self.create("pool", body).await;
        let vs = self.uuid("virtualservice", "vs-1");
        let reference = set("pool_ref", json!(format!("/api/pool/{pool}")));
        self.update("virtualservice", &vs, reference).await;
        pool
    }

    /// The engine reports the pool.
    fn sees_pool(&self, engine: &Engine, pool: &str, state: OperState) {
        let report = Report {
            pools: vec![PoolStatus {
                uuid: pool.to_owned(),
                state: state.into(),
                ..PoolStatus::default()
            }],
            interfaces: self.registry.get(&engine.uuid).interfaces,
            ..Report::default()
        };
        self.registry.reported(&engine.uuid, engine.session, report);
    }

    async fn prefer(&self, tag: &str) {
        let vs = self.uuid("virtualservice", "vs-1");
        let tag = set("active_standby_se_tag", json!(tag));
        self.update("virtualservice", &vs, tag).await;
    }
}

#[tokio::test]
async fn a_new_vip_is_active_on_the_engine_of_its_tag_where_the_load_is_distributed() {
    for (distributed, expected) in [(true, ["se-2", "se-1"]), (false, ["se-1", "se-2"])] {
        let (fixture, engines) = Fixture::with_engines(1).await;
        fixture.pair(&engines).await;
        if distributed {
            fixture.distribute().await;
        }
        assert_eq!(fixture.second_vip("ACTIVE_STANDBY_SE_2").await, expected);
        assert_eq!(fixture.placed(), ["se-1", "se-2"]);
    }
}

#[tokio::test]
async fn after_a_loss_a_vip_goes_back_to_its_tag_only_where_the_group_redistributes() {
    let (fixture, engines) = Fixture::with_engines(1).await;
    fixture.pair(&engines).await;
    fixture.distribute().await;
    fixture.goes(&engines[0]);
    fixture.sees(&engines[1], &engines[0], false);
    fixture.losses_in(60).await;
    assert_eq!(fixture.placed(), ["se-2", "se-1"]);
    let session = fixture.open_session(&engines[0].uuid, "10.10.10.11/24");
    let back = Engine {
        uuid: engines[0].uuid.clone(),
        session,
    };
    fixture.losses_in(0).await;
    fixture
        .registry
        .connected_for(&back.uuid, Duration::from_secs(60));
    fixture.serves(&back, OperState::Up);
    fixture.serves(&engines[1], OperState::Up);
    fixture.round().await;
    assert_eq!(fixture.placed(), ["se-2", "se-1"], "it stays where it is");
    let field = "auto_redistribute_active_standby_load";
    fixture.group_setting(field, json!(true)).await;
    fixture.serves(&engines[1], OperState::Up);
    fixture.serves(&back, OperState::Initializing);
    fixture.round().await;
    assert_eq!(fixture.placed(), ["se-2", "se-1"], "it does not serve yet");
    fixture.serves(&back, OperState::Up);
    fixture.round().await;
    assert_eq!(fixture.placed(), ["se-1", "se-2"]);
    let last = fixture.planner.last_scale(&fixture.vsvip).expect("noted");
    assert_eq!(last.action, Action::Switchover);
    assert!(
        last.reason.contains("active_standby_se_tag"),
        "{}",
        last.reason
    );
}

#[tokio::test]
async fn a_tag_that_changes_moves_nothing_by_itself() {
    let (fixture, engines) = Fixture::with_engines(1).await;
    fixture.pair(&engines).await;
    fixture.distribute().await;
    fixture.prefer("ACTIVE_STANDBY_SE_2").await;
    fixture.round().await;
    assert_eq!(fixture.placed(), ["se-1", "se-2"]);
}

impl Fixture {
    fn se_group(&self) -> String {
        self.uuid("serviceenginegroup", "Default-Group")
    }

    fn stays(roles: &Roles) -> Vec<&str> {
        roles.stay.iter().map(|(_, why)| why.as_str()).collect()
    }
}

#[tokio::test]
async fn all_that_an_engine_is_active_for_goes_to_the_standby_and_nothing_else() {
    let (fixture, engines) = Fixture::with_engines(1).await;
    fixture.pair(&engines).await;
    fixture.distribute().await;
    assert_eq!(
        fixture.second_vip("ACTIVE_STANDBY_SE_2").await,
        ["se-2", "se-1"]
    );
    let chosen = fixture.planner.choose_hand_over(&engines[0].uuid);
    assert_eq!(chosen.expect("it can").moves.len(), 1);
    assert_eq!(fixture.placed(), ["se-1", "se-2"], "nothing is done");
    let done = fixture.planner.hand_over(&engines[0].uuid).await;
    let done = done.expect("it can");
    assert_eq!(done.moves[0].0, fixture.vsvip);
    assert_eq!(done.moves[0].1.name, "se-2");
    assert_eq!(fixture.placed(), ["se-2", "se-1"]);
    let last = fixture.planner.last_scale(&fixture.vsvip).expect("noted");
    assert_eq!((last.action, last.success), (Action::Switchover, true));
    let again = fixture.planner.hand_over(&engines[0].uuid).await;
    let again = again.expect("nothing to do is no failure");
    assert!(again.moves.is_empty() && again.stay.is_empty());
    let both = fixture.planner.hand_over(&engines[1].uuid).await;
    assert_eq!(both.expect("it can").moves.len(), 2);
    assert_eq!(fixture.placed(), ["se-1", "se-2"]);
}

#[tokio::test]
async fn an_engine_whose_standby_has_no_session_keeps_its_active_roles() {
    let (fixture, engines) = Fixture::with_engines(1).await;
    let alike = fixture.planner.hand_over(&engines[0].uuid).await;
    assert!(alike.expect("no VIP has an active one").stay.is_empty());
    fixture.pair(&engines).await;
    fixture.goes(&engines[1]);
    let refused = fixture.planner.hand_over(&engines[0].uuid).await;
    let text = refused.expect_err("its standby is away").text;
    assert!(text.starts_with("none of 1 VIPs can be"), "{text}");
    assert!(text.contains("se-2"), "{text}");
    assert_eq!(fixture.placed(), ["se-1", "se-2"]);
}

#[tokio::test]
async fn redistributing_takes_each_vip_to_its_tag_also_where_the_group_does_not_by_itself() {
    let (fixture, engines) = Fixture::with_engines(1).await;
    fixture.pair(&engines).await;
    fixture.distribute().await;
    fixture.second_vip("ACTIVE_STANDBY_SE_2").await;
    fixture
        .planner
        .hand_over(&engines[0].uuid)
        .await
        .expect("it can");
    fixture.round().await;
    assert_eq!(fixture.placed(), ["se-2", "se-1"]);
    let under_way = fixture.planner.redistribute(&fixture.se_group()).await;
    let text = under_way.expect_err("a switchover is under way").text;
    assert!(text.contains("under way"), "{text}");
    fixture.serves(&engines[1], OperState::Up);
    fixture.moves_in(0).await;
    let done = fixture.planner.redistribute(&fixture.se_group()).await;
    let done = done.expect("se-1 can");
    assert_eq!(done.moves.len(), 1, "{done:?}");
    assert_eq!(Fixture::stays(&done), [""; 0]);
    assert!(done.moves[0].1.reason.contains("active_standby_se_tag"));
    assert_eq!(fixture.placed(), ["se-1", "se-2"]);
}

#[tokio::test]
async fn only_a_pair_whose_load_is_distributed_is_redistributed() {
    let (fixture, engines) = Fixture::with_engines(1).await;
    let text = |refused: Result<Roles, ApiError>| refused.expect_err("no such group").text;
    let shared = fixture.planner.redistribute(&fixture.se_group()).await;
    assert!(text(shared).starts_with("ha_mode: "));
    fixture.pair(&engines).await;
    let one = fixture.planner.redistribute(&fixture.se_group()).await;
    assert!(text(one).starts_with("distribute_load_active_standby: "));
    fixture.distribute().await;
    let there = fixture.planner.redistribute(&fixture.se_group()).await;
    assert!(there.expect("it is where it belongs").moves.is_empty());
}

#[tokio::test]
async fn a_group_with_active_standby_is_one_of_pairs_whatever_its_ha_mode() {
    let (fixture, _) = Fixture::with_engines(1).await;
    fixture.group_setting("active_standby", json!(true)).await;
    fixture.round().await;
    assert_eq!(fixture.placed(), ["se-1", "se-2"]);
    let runtime = fixture.runtime();
    assert_eq!(runtime["service_engine"][1]["standby"], json!(true));
}

#[tokio::test]
async fn standbys_check_servers_unless_the_group_says_no() {
    let (fixture, engines) = Fixture::with_engines(1).await;
    fixture.with_checked_pool().await;
    fixture.pair(&engines).await;
    let monitors = |n: usize| {
        let told = fixture.told_to(&engines[n].uuid);
        (
            told.pools[0].health_monitor_uuids.len(),
            told.health_monitors.len(),
        )
    };
    assert_eq!((monitors(0), monitors(1)), ((1, 1), (1, 1)));
    fixture.group_setting("hm_on_standby", json!(false)).await;
    assert_eq!((monitors(0), monitors(1)), ((1, 1), (0, 0)));
    fixture.serves(&engines[0], OperState::Down);
    fixture.serves(&engines[1], OperState::Up);
    let oper = fixture.runtime()["oper_status"]["state"].clone();
    assert_eq!(oper, "OPER_DOWN", "the standby does not know");
    let switched = fixture.planner.switch_over(&fixture.vsvip, None).await;
    switched.expect("done");
    assert_eq!(monitors(1), (1, 1), "it is active now");
}

#[tokio::test]
async fn a_pool_is_as_those_say_who_check_it_and_as_others_say_where_nobody_does() {
    let (fixture, engines) = Fixture::with_engines(1).await;
    let pool = fixture.with_checked_pool().await;
    fixture.pair(&engines).await;
    let state = || {
        fixture.planner.publish();
        let runtime = fixture.observe(|o| o.pool(&pool)).expect("there");
        runtime["oper_status"]["state"].clone()
    };
    fixture.sees_pool(&engines[0], &pool, OperState::Down);
    fixture.sees_pool(&engines[1], &pool, OperState::Up);
    assert_eq!(state(), "OPER_UP", "both check it");
    fixture.group_setting("hm_on_standby", json!(false)).await;
    assert_eq!(state(), "OPER_DOWN", "the standby takes it for up");
    let active = &engines[0];
    fixture.registry.close(&active.uuid, active.session, "gone");
    assert_eq!(state(), "OPER_UP", "nobody else has it");
}

#[tokio::test]
async fn an_active_engine_that_no_peer_is_up_for_gives_its_role_up_where_the_group_asks_for_it() {
    let (fixture, engines) = Fixture::with_engines(1).await;
    fixture.pair(&engines).await;
    let peers = |engine: &Engine, state: BgpState| {
        let session = BgpSession {
            peer: PEER.into(),
            state: state.into(),
            ..BgpSession::default()
        };
        let interfaces = fixture.registry.get(&engine.uuid).interfaces;
        let report = Report {
            bgp_sessions: vec![session],
            interfaces,
            ..Report::default()
        };
        fixture
            .registry
            .reported(&engine.uuid, engine.session, report);
    };
    peers(&engines[0], BgpState::Active);
    peers(&engines[1], BgpState::Established);
    fixture.round().await;
    assert_eq!(fixture.placed(), ["se-1", "se-2"], "routers do without");
    let field = "bgp_peer_monitor_failover_enabled";
    fixture.group_setting(field, json!(true)).await;
    fixture.round().await;
    assert_eq!(
        fixture.placed(),
        ["se-1", "se-2"],
        "a restart takes as long"
    );
    for engine in &engines[..2] {
        fixture.registry.peers_for(&engine.uuid, DEAD_AFTER);
    }
    peers(&engines[0], BgpState::Connect);
    fixture.round().await;
    assert_eq!(fixture.placed(), ["se-2", "se-1"]);
    let last = fixture.planner.last_scale(&fixture.vsvip).expect("noted");
    assert!(
        last.reason.contains("has no BGP peer that is up"),
        "{}",
        last.reason
    );
}
