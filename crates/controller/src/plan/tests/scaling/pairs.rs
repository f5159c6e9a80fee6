//! Which engine of a pair is active, where virtual services prefer one (`active_standby_se_tag`).

use super::super::super::fixture::v4;
use super::*;

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
