//! Who is in the group of a VIP, in which order engines join and leave, and what each is told of the others.

use super::fixture::{Fixture, VIP, established};
use super::*;
use crate::plan::leave::CUT_FOR;
use model::object::Object;
use proto::v1::{DesiredState, MemberProblem, Nack, Report, VirtualServiceStatus};
use serde_json::{Value, json};
use std::time::Duration;
use store::{Expect, Meta, Op};

mod autoscale;
mod networks;
mod observed;
mod scaling;

/// An engine with a session.
struct Engine {
    uuid: String,
    session: u64,
}

fn set(field: &'static str, value: Value) -> impl FnOnce(&mut Object) {
    move |object| drop(object.insert(field.to_owned(), value))
}

impl Fixture {
    /// `se-1`, which has the VIP, and more engines of the same kind; their interfaces are known.
    async fn with_engines(more: usize) -> (Self, Vec<Engine>) {
        let fixture = Self::new().await;
        let mut engines = vec![Engine {
            uuid: fixture.engine.clone(),
            session: fixture.session,
        }];
        for number in 2..2 + more {
            let body = json!({"name": format!("se-{number}")});
            let uuid = fixture.create("serviceengine", body).await;
            let session = fixture.open_session(&uuid, &format!("10.10.10.1{number}/24"));
            engines.push(Engine { uuid, session });
        }
        fixture.round().await;
        fixture.acknowledge(&engines);
        (fixture, engines)
    }

    /// These engines acknowledge what they were told last.
    fn acknowledge(&self, engines: &[Engine]) {
        for engine in engines {
            let told = self.registry.get(&engine.uuid).desired;
            let generation = told.map_or(0, |d| d.generation);
            self.registry
                .acked(&engine.uuid, engine.session, generation);
        }
    }

    async fn scale_out(&self, engine: &Engine) {
        let scaled = self
            .planner
            .scale_out(&self.vsvip, Some(engine.uuid.as_str()))
            .await;
        scaled.expect("it fits");
    }

    async fn scale_in(&self, engine: &Engine, force: bool) -> Result<Option<u64>, String> {
        let ask = ScaleIn {
            wanted: Some(&engine.uuid),
            primary: false,
            force,
        };
        let scaled = self.planner.scale_in(&self.vsvip, ask).await;
        scaled
            .map(|(_, left)| left.map(|l| l.flows))
            .map_err(|e| e.text)
    }

    /// The group as this engine was told.
    fn group(&self, engine: &Engine) -> Option<proto::v1::Group> {
        let told = self.registry.get(&engine.uuid).desired?;
        told.groups.first().cloned()
    }

    fn holds_back(&self, engine: &Engine) -> bool {
        self.group(engine).expect("it has the VIP").hold
    }

    fn ids(&self) -> Vec<(String, u8)> {
        let group = self.planner.assignment(&self.vsvip).group;
        let each = group.members.iter();
        each.map(|m| (self.planner.name(&m.engine), m.id)).collect()
    }

    /// It has put in force by then what it has acknowledged.
    fn says(&self, engine: &Engine, flows: u64, oldest_s: u64) {
        let report = Report {
            applied_generation: self.registry.get(&engine.uuid).acked,
            virtual_services: vec![VirtualServiceStatus {
                uuid: self.uuid("virtualservice", "vs-1"),
                open_connections: flows,
                oldest_connection_s: oldest_s,
                ..VirtualServiceStatus::default()
            }],
            interfaces: self.registry.get(&engine.uuid).interfaces,
            ..Report::default()
        };
        self.registry.reported(&engine.uuid, engine.session, report);
    }

    fn runtime(&self) -> Value {
        let vs = self.uuid("virtualservice", "vs-1");
        self.observe(|o| o.virtual_service(&vs)).expect("there")
    }

    /// The reconciler looks at engines that linger, at this time from now.
    async fn look_in(&self, seconds: u64) {
        let at = Instant::now() + Duration::from_secs(seconds);
        let done = self.planner.end_lingering(&self.snapshot(), at).await;
        done.expect("written");
        self.planner.publish();
    }

    async fn group_setting(&self, field: &'static str, value: Value) {
        let group = self.uuid("serviceenginegroup", "Default-Group");
        self.update("serviceenginegroup", &group, set(field, value))
            .await;
        self.planner.publish();
    }
}

fn ids(of: &[(&str, u8)]) -> Vec<(String, u8)> {
    of.iter().map(|(se, id)| ((*se).to_owned(), *id)).collect()
}

#[tokio::test]
async fn ids_and_keys_outlive_the_controller() {
    let (fixture, engines) = Fixture::with_engines(2).await;
    fixture.scale_out(&engines[1]).await;
    fixture.scale_out(&engines[2]).await;
    fixture.scale_in(&engines[1], false).await.expect("done");
    assert_eq!(fixture.ids(), ids(&[("se-1", 0), ("se-2", 1), ("se-3", 2)]));
    let (before, group) = (
        fixture.told(),
        fixture.planner.assignment(&fixture.vsvip).group,
    );
    let again = Planner::open(fixture.objects.clone(), Arc::default()).await;
    let again = again.expect("it reads what it has written");
    assert_eq!(again.assignment(&fixture.vsvip).group, group);
    again.publish();
    let told = again.registry.get(&fixture.engine).desired.expect("told");
    assert_eq!((&told.groups, &told.peers), (&before.groups, &before.peers));
    let keys = told.flow.as_ref().expect("settings");
    assert_eq!(Some(keys), before.flow.as_ref());
    assert_eq!((keys.message_keys.len(), keys.hint_key.len()), (1, 16));
    let lingers = again.registry.get(&engines[1].uuid).desired.expect("told");
    assert!(lingers.groups[0].lingers && !lingers.vips.is_empty());
}

#[tokio::test]
async fn a_placement_from_before_there_were_groups_is_taken_over() {
    let (fixture, engines) = Fixture::with_engines(1).await;
    let old = json!({"engines": [engines[1].uuid, engines[0].uuid]});
    let key = format!("{PREFIX}{}", fixture.vsvip);
    let op = Op::put(key, old.to_string(), Expect::Any);
    let written = fixture.objects.store().commit(vec![op], Meta::default());
    written.await.expect("written");
    let planner = Planner::open(fixture.objects.clone(), fixture.registry.clone()).await;
    let fixture = Fixture {
        planner: planner.expect("it is read"),
        ..fixture
    };
    assert_eq!(fixture.ids(), ids(&[("se-2", 0), ("se-1", 1)]));
    fixture.planner.publish();
    let group = fixture.group(&engines[0]).expect("told");
    assert_eq!(
        (group.member_id, group.members[0].id, group.hold),
        (1, 0, false)
    );
    fixture.scale_in(&engines[1], false).await.expect("done");
    assert_eq!(fixture.ids(), ids(&[("se-2", 0), ("se-1", 1)]));
}

#[tokio::test]
async fn the_first_engines_of_a_vip_wait_for_nobody() {
    let (fixture, engines) = Fixture::with_engines(2).await;
    fixture.group_setting("min_scaleout_per_vs", json!(3)).await;
    fixture.place(&fixture.vsvip, &[]).await;
    fixture
        .planner
        .end(&fixture.vsvip, &engines[0].uuid, Vec::new(), "anew".into())
        .await
        .expect("written");
    fixture.round().await;
    assert_eq!(fixture.planner.assignment(&fixture.vsvip).engines.len(), 3);
    for engine in &engines {
        assert!(!fixture.holds_back(engine));
    }
    assert_eq!(fixture.planner.finish_joins(Instant::now()), None);
}

#[tokio::test]
async fn an_engine_announces_when_all_members_know_it() {
    let (fixture, engines) = Fixture::with_engines(1).await;
    fixture.scale_out(&engines[1]).await;
    let (known, new) = (
        fixture.group(&engines[0]).expect("told"),
        fixture.group(&engines[1]).expect("told at once"),
    );
    assert!(new.hold && !known.hold);
    assert_eq!((known.generation, new.generation), (2, 2));
    assert_eq!(known.members[0].se_uuid, engines[1].uuid);
    assert!(fixture.runtime()["scaleout_in_progress"] == true);
    let now = Instant::now();
    let until = fixture.planner.finish_joins(now).expect("it waits");
    assert!(until <= now + Duration::from_millis(500));
    fixture.acknowledge(&engines[..1]);
    fixture.planner.finish_joins(now);
    assert!(fixture.holds_back(&engines[1]), "it does not know itself");
    fixture.acknowledge(&engines[1..]);
    assert_eq!(fixture.planner.finish_joins(now), None);
    assert!(!fixture.holds_back(&engines[1]));
    let reasons = fixture.runtime()["scale_status"]["reason"].clone();
    assert_eq!(reasons.as_array().map(Vec::len), Some(1), "{reasons}");
}

#[tokio::test]
async fn a_member_that_does_not_answer_is_named_and_not_waited_for() {
    let (fixture, engines) = Fixture::with_engines(2).await;
    fixture.scale_out(&engines[1]).await;
    fixture.acknowledge(&engines);
    fixture.planner.finish_joins(Instant::now());
    fixture.scale_out(&engines[2]).await;
    fixture.acknowledge(&engines[..1]);
    fixture.acknowledge(&engines[2..]);
    // A refusal is no acknowledgement.
    let nack = Nack::default();
    fixture
        .registry
        .nacked(&engines[1].uuid, engines[1].session, nack);
    let until = fixture.planner.finish_joins(Instant::now()).expect("waits");
    assert!(fixture.holds_back(&engines[2]));
    assert_eq!(fixture.planner.finish_joins(until), None);
    assert!(!fixture.holds_back(&engines[2]));
    let sentence = "se-2 has not confirmed se-3 within 500 ms and was not waited for";
    let reasons = fixture.runtime()["scale_status"]["reason"].clone();
    assert_eq!(reasons[1], sentence, "{reasons}");
    let new = &engines[2];
    fixture.report_of(&new.uuid, new.session, vec![established()]);
    let explained = fixture.observe(|o| o.explain_vip(VIP, Some("se-3"), &|_, _| true));
    let text = explained.expect("explained").to_string();
    fixture.acknowledge(&engines);
    fixture.planner.finish_joins(until);
    let reasons = fixture.runtime()["scale_status"]["reason"].clone();
    assert_eq!(reasons.as_array().map(Vec::len), Some(1), "it has answered");
    let failed = format!("\"condition\":\"members_informed\",\"text\":\"{sentence}\"");
    assert!(text.contains(&failed), "{text}");
}

#[tokio::test]
async fn several_engines_join_at_the_same_time() {
    let (fixture, engines) = Fixture::with_engines(3).await;
    for engine in &engines[1..] {
        fixture.scale_out(engine).await;
    }
    let held: Vec<bool> = engines.iter().map(|e| fixture.holds_back(e)).collect();
    assert_eq!(held, [false, true, true, true]);
    fixture.acknowledge(&engines);
    assert_eq!(fixture.planner.finish_joins(Instant::now()), None);
    let held: Vec<bool> = engines.iter().map(|e| fixture.holds_back(e)).collect();
    assert_eq!(held, [false; 4]);
    let group = fixture.group(&engines[3]).expect("told");
    assert_eq!((group.generation, group.members.len()), (4, 3));
}

#[tokio::test]
async fn members_without_a_session_hold_nobody_up() {
    let (fixture, engines) = Fixture::with_engines(2).await;
    fixture.scale_out(&engines[1]).await;
    fixture.acknowledge(&engines);
    fixture.planner.finish_joins(Instant::now());
    for gone in &engines[..2] {
        fixture.registry.close(&gone.uuid, gone.session, "gone");
    }
    fixture.scale_out(&engines[2]).await;
    assert!(!fixture.holds_back(&engines[2]));
    assert_eq!(fixture.group(&engines[2]).expect("told").members.len(), 2);
}

#[tokio::test]
async fn a_restarted_controller_holds_nothing_back_and_withdraws_nothing() {
    let (fixture, engines) = Fixture::with_engines(1).await;
    fixture.scale_out(&engines[1]).await;
    let again = Planner::open(fixture.objects.clone(), Arc::default()).await;
    let again = again.expect("it reads what it has written");
    again.publish();
    for engine in &engines {
        let told = again.registry.get(&engine.uuid).desired.expect("told");
        assert!(!told.groups[0].hold && !told.groups[0].lingers);
        assert_eq!(told.vips.len(), 1);
        assert!(told.peers[0].alive, "nobody has been heard yet");
        assert_eq!(told.peers[0].addresses.len(), 1, "known from the store");
    }
}

#[tokio::test]
async fn a_scaled_in_engine_keeps_the_vip_until_its_last_flow_has_ended() {
    let (fixture, engines) = Fixture::with_engines(1).await;
    fixture.scale_out(&engines[1]).await;
    fixture.acknowledge(&engines);
    fixture.planner.finish_joins(Instant::now());
    fixture.says(&engines[1], 312, 250);
    assert_eq!(fixture.scale_in(&engines[1], false).await, Ok(Some(312)));
    let told = fixture.told_to(&engines[1].uuid);
    assert_eq!((told.vips.len(), told.virtual_services.len()), (1, 1));
    assert!(told.groups[0].lingers);
    let others = fixture.group(&engines[0]).expect("told");
    assert_eq!((others.members[0].takes_new, others.generation), (false, 3));
    let runtime = fixture.runtime();
    assert_eq!(runtime["num_se_assigned"], 1);
    let left = &runtime["lingering_service_engine"][0];
    assert_eq!(left["reason"], "312 flows left, oldest 4 min", "{left}");
    assert_eq!(runtime["scalein_in_progress"], true);
    assert_eq!(
        runtime["scale_status"]["state"],
        "SCALEIN_AWAITING_SE_RELEASE"
    );
    fixture.look_in(24 * 3600).await;
    assert_eq!(fixture.ids().len(), 2, "as long as there are flows");
    fixture.says(&engines[1], 0, 0);
    assert_eq!(
        fixture.runtime()["scale_status"]["state"],
        "SCALEIN_SUCCESS"
    );
    fixture.look_in(0).await;
    fixture.look_in(29).await;
    assert_eq!(fixture.ids().len(), 2, "it may have half-open ones");
    fixture.look_in(31).await;
    assert_eq!(fixture.ids(), ids(&[("se-1", 0)]));
    assert!(fixture.told_to(&engines[1].uuid).vips.is_empty());
    assert!(fixture.group(&engines[0]).expect("told").members.is_empty());
}

#[tokio::test]
async fn vs_scalein_timeout_ends_the_operation_and_not_the_flows() {
    let (fixture, engines) = Fixture::with_engines(1).await;
    fixture.scale_out(&engines[1]).await;
    fixture.says(&engines[1], 5, 1);
    fixture.group_setting("vs_scalein_timeout", json!(0)).await;
    fixture.scale_in(&engines[1], false).await.expect("done");
    let runtime = fixture.runtime();
    assert_eq!(runtime["scalein_in_progress"], false);
    assert_eq!(runtime["scale_status"]["state"], "SCALEIN_SUCCESS");
    assert_eq!(runtime["lingering_service_engine"][0]["flows"], 5);
    assert!(fixture.group(&engines[1]).expect("there").lingers);
}

#[tokio::test]
async fn an_engine_that_lingers_is_taken_back_with_its_id() {
    let (fixture, engines) = Fixture::with_engines(2).await;
    fixture.scale_out(&engines[1]).await;
    fixture.scale_out(&engines[2]).await;
    fixture.scale_in(&engines[1], false).await.expect("done");
    let error = fixture
        .scale_in(&engines[1], false)
        .await
        .expect_err("twice");
    assert!(error.contains("se-2 was scaled in already"), "{error}");
    fixture.scale_out(&engines[1]).await;
    assert_eq!(fixture.ids(), ids(&[("se-1", 0), ("se-2", 1), ("se-3", 2)]));
    let group = fixture.group(&engines[1]).expect("told");
    assert!(!group.lingers && group.hold);
    fixture.acknowledge(&engines);
    fixture.planner.finish_joins(Instant::now());
    assert!(!fixture.holds_back(&engines[1]));
    assert!(fixture.group(&engines[0]).expect("told").members[0].takes_new);
}

#[tokio::test]
async fn a_forced_scale_in_cuts_what_is_left_and_says_how_much() {
    let (fixture, engines) = Fixture::with_engines(1).await;
    for lingers_first in [false, true] {
        fixture.scale_out(&engines[1]).await;
        let told = fixture.told_to(&engines[1].uuid);
        assert!(told.cut_virtual_service_uuids.is_empty(), "taken back");
        fixture.says(&engines[1], 7, 1);
        if lingers_first {
            fixture.scale_in(&engines[1], false).await.expect("done");
        }
        assert_eq!(fixture.scale_in(&engines[1], true).await, Ok(Some(7)));
        let told = fixture.told_to(&engines[1].uuid);
        let vs = fixture.uuid("virtualservice", "vs-1");
        assert_eq!(told.cut_virtual_service_uuids, [vs]);
        assert!(told.vips.is_empty() && told.groups.is_empty());
        assert_eq!(fixture.ids(), ids(&[("se-1", 0)]));
    }
    fixture.look_in(CUT_FOR.as_secs() + 1).await;
    let told = fixture.told_to(&engines[1].uuid);
    assert!(told.cut_virtual_service_uuids.is_empty(), "once");
}

#[tokio::test]
async fn engines_that_are_deleted_or_disabled_by_force_are_out_at_once() {
    let (fixture, engines) = Fixture::with_engines(2).await;
    fixture.scale_out(&engines[1]).await;
    fixture.scale_out(&engines[2]).await;
    fixture.says(&engines[1], 3, 1);
    fixture.scale_in(&engines[1], false).await.expect("done");
    let state = |state: &str| set("enable_state", json!(state));
    let takes_nothing = state("SE_STATE_DISABLED_FOR_PLACEMENT");
    fixture
        .update("serviceengine", &engines[1].uuid, takes_nothing)
        .await;
    let disabled = fixture.update(
        "serviceengine",
        &engines[2].uuid,
        state("SE_STATE_DISABLED"),
    );
    disabled.await;
    fixture.round().await;
    let group = fixture.group(&engines[0]).expect("told");
    let takes_new: Vec<bool> = group.members.iter().map(|m| m.takes_new).collect();
    assert_eq!(takes_new, [false, false]);
    assert!(
        !fixture
            .group(&engines[2])
            .expect("it keeps its place")
            .lingers
    );
    let forced = fixture.update(
        "serviceengine",
        &engines[2].uuid,
        state("SE_STATE_DISABLED_FORCE"),
    );
    forced.await;
    fixture.round().await;
    assert_eq!(fixture.ids(), ids(&[("se-1", 0), ("se-2", 1)]));
    assert_eq!(
        fixture
            .told_to(&engines[2].uuid)
            .cut_virtual_service_uuids
            .len(),
        1
    );
    let ty = model::schema::object_type("serviceengine").expect("known");
    let author = crate::objects::Author::system("test");
    let deleted = fixture.objects.change(&author, "test", |draft| {
        draft.remove(ty, &engines[1].uuid);
        Ok(())
    });
    deleted.await.expect("deleted");
    fixture.planner.publish();
    assert!(fixture.group(&engines[0]).expect("told").members.is_empty());
    fixture.round().await;
    assert_eq!(fixture.ids(), ids(&[("se-1", 0)]));
}

fn flow(told: &DesiredState) -> (bool, bool, u32, u32) {
    let (vs, flow) = (
        &told.virtual_services[0],
        told.flow.as_ref().expect("there"),
    );
    (
        vs.flow_hints,
        vs.flow_probes,
        flow.probe_retries,
        flow.probe_retry_timer_ms,
    )
}

#[tokio::test]
async fn the_rhythm_of_hellos_is_that_of_the_se_group() {
    let (fixture, _) = Fixture::with_engines(0).await;
    let hellos = || {
        let flow = fixture.told().flow.clone().expect("there");
        (flow.hello_interval_ms, flow.hello_count)
    };
    assert_eq!(hellos(), (100, 3));
    fixture.group_setting("dp_hb_frequency", json!(500)).await;
    fixture.group_setting("dp_hb_timeout_count", json!(4)).await;
    assert_eq!(hellos(), (500, 4));
    fixture
        .group_setting("aggressive_failure_detection", json!(true))
        .await;
    assert_eq!(hellos(), (50, 3));
}

#[tokio::test]
async fn engines_speak_by_the_port_of_their_group_and_forget_owners_as_it_says() {
    let (fixture, _) = Fixture::with_engines(0).await;
    let port = || fixture.told().flow.as_ref().expect("there").port;
    assert_eq!(port(), 1550);
    fixture
        .group_setting("se_tunnel_udp_port", json!(4790))
        .await;
    assert_eq!(port(), 4790);
    let forgets = || fixture.told().flow.as_ref().expect("there").forgets_at_once;
    assert!(!forgets());
    let field = "se_delayed_flow_delete";
    fixture.group_setting(field, json!(false)).await;
    assert!(forgets());
}

#[tokio::test]
async fn the_settings_of_flow_resiliency_act_at_run_time() {
    let (fixture, _) = Fixture::with_engines(0).await;
    let vs = fixture.uuid("virtualservice", "vs-1");
    assert_eq!(flow(&fixture.told()), (true, true, 2, 40));
    fixture
        .group_setting("se_flow_probe_retries", json!(0))
        .await;
    fixture
        .group_setting("se_flow_probe_retry_timer", json!(20))
        .await;
    assert_eq!(flow(&fixture.told()), (true, true, 0, 20));
    fixture
        .group_setting("disable_flow_probes", json!(true))
        .await;
    assert_eq!(flow(&fixture.told()), (true, false, 0, 20));
    fixture
        .group_setting("disable_flow_probes", json!(false))
        .await;
    let everywhere = |off: bool| json!({"disable_flow_probes": off});
    for off in [true, false] {
        let set = set("se_runtime_properties", everywhere(off));
        fixture.update("seproperties", "global", set).await;
        assert_eq!(flow(&fixture.told()), (true, !off, 0, 20));
    }
    fixture
        .update("virtualservice", &vs, set("scaleout_ecmp", json!(true)))
        .await;
    assert_eq!(flow(&fixture.told()), (true, false, 0, 20));
    fixture
        .update("virtualservice", &vs, set("scaleout_ecmp", json!(false)))
        .await;
    fixture
        .update("virtualservice", &vs, set("flow_hints", json!(false)))
        .await;
    assert_eq!(flow(&fixture.told()), (false, true, 0, 20));
}

#[tokio::test]
async fn engines_are_told_how_to_reach_each_other() {
    let (fixture, engines) = Fixture::with_engines(1).await;
    fixture.scale_out(&engines[1]).await;
    let peer = |fixture: &Fixture| fixture.told().peers.first().cloned().expect("one");
    let seen = peer(&fixture);
    assert_eq!(
        (seen.se_uuid, seen.name),
        (engines[1].uuid.clone(), "se-2".to_owned())
    );
    assert_eq!(seen.addresses, ["10.10.10.12/24"]);
    let keys = |engine: &str| fixture.told_to(engine).flow.clone();
    assert_eq!(keys(&engines[0].uuid), keys(&engines[1].uuid));
    let vnics = |up: bool| {
        let address = |addr: &str, kind: &str, mask: u8| json!({"mode": "STATIC", "ip": {"ip_addr": {"addr": addr, "type": kind}, "mask": mask}});
        json!([
            {"if_name": "eth0", "link_up": up, "vnic_networks": [address("10.10.10.12", "V4", 24)]},
            {"if_name": "eth1", "link_up": true, "vnic_networks": [address("fd00::12", "V6", 64)]},
        ])
    };
    for (up, expected) in [
        (true, vec!["10.10.10.12/24", "fd00::12/64"]),
        (false, vec!["fd00::12/64"]),
    ] {
        fixture
            .change(
                "serviceengine",
                &engines[1].uuid,
                set("data_vnics", vnics(up)),
            )
            .await;
        assert_eq!(peer(&fixture).addresses, expected);
    }
    fixture
        .registry
        .close(&engines[1].uuid, engines[1].session, "gone");
    assert!(peer(&fixture).alive, "a process may be starting again");
}

#[tokio::test]
async fn a_member_without_a_tunnel_path_is_shown_with_its_vip() {
    let (fixture, engines) = Fixture::with_engines(1).await;
    fixture.scale_out(&engines[1]).await;
    let problem = |vip: &str| MemberProblem {
        vip: vip.into(),
        se_uuid: engines[1].uuid.clone(),
        reason_code: "no_tunnel_path".into(),
        reason: "why".into(),
    };
    let report = Report {
        member_problems: vec![problem("10.100.0.99"), problem(VIP)],
        ..Report::default()
    };
    let session = engines[0].session;
    fixture.registry.reported(&engines[0].uuid, session, report);
    let shown = fixture.runtime()["service_engine"][0]["member_problems"].clone();
    let expected =
        json!([{"vip": VIP, "se_name": "se-2", "reason_code": "no_tunnel_path", "reason": "why"}]);
    assert_eq!(shown, expected, "of this VIP only");
}

#[tokio::test]
async fn the_others_keep_their_ids_when_one_is_scaled_in_and_another_out() {
    let (fixture, engines) = Fixture::with_engines(3).await;
    for engine in &engines[1..3] {
        fixture.scale_out(engine).await;
    }
    fixture.scale_in(&engines[1], true).await.expect("done");
    fixture.scale_out(&engines[3]).await;
    assert_eq!(fixture.ids(), ids(&[("se-1", 0), ("se-3", 2), ("se-4", 3)]));
    fixture.scale_out(&engines[1]).await;
    assert_eq!(
        fixture.ids()[3],
        ("se-2".to_owned(), 1),
        "its own id has rested"
    );
}

#[tokio::test]
async fn a_reset_is_later_than_the_one_before_whatever_the_clock_says() {
    let fixture = Fixture::new().await;
    let peer: IpAddr = super::fixture::PEER.parse().expect("an address");
    let told = || {
        let told = fixture.told();
        let profile = told.vrf.as_ref().and_then(|vrf| vrf.bgp.as_ref());
        profile.expect("a profile").peers[0].reset_unix_ms
    };
    for (clock, at) in [(5000, 5000), (1000, 5001), (9000, 9000)] {
        let planner = &fixture.planner;
        assert_eq!(planner.reset_sessions(&fixture.engine, &[peer], clock), at);
        assert_eq!(told(), at);
    }
}
