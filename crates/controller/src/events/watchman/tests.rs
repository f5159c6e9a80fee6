//! What is said of what the planner and engines tell.

use super::*;
use crate::bootstrap;
use crate::engines::outbox::Outbox;
use crate::objects::Author;
use model::reason::Reason;
use model::schema::object_type;
use proto::v1::{Hello, Interface, MemberProblem, VirtualServiceStatus};
use std::time::SystemTime;

/// Engines `se-1` and `se-2` with sessions, and a virtual service `vs-1` that is scaled natively and is nowhere yet.
struct World {
    events: Arc<Events>,
    registry: Arc<Registry>,
    planner: Arc<Planner>,
    watchman: Arc<Watchman>,
    vs: String,
    vsvip: String,
    engines: Vec<String>,
    sessions: Vec<u64>,
}

async fn create(objects: &Objects, path: &str, body: Value) -> String {
    let ty = object_type(path).expect("known");
    let body = body.as_object().expect("object").clone();
    let author = Author::system("test");
    let created = objects.change(&author, "test", |draft| {
        draft.create(ty, body, None, &author)
    });
    created.await.unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn connect(registry: &Registry, engine: &str, address: &str) -> u64 {
    let (outbox, receiver) = Outbox::new();
    std::mem::forget(receiver);
    let hello = Hello {
        interfaces: vec![Interface {
            name: "eth0".into(),
            up: true,
            addresses: vec![address.into()],
            ..Interface::default()
        }],
        protocol_version: proto::PROTOCOL_VERSION,
        ..Hello::default()
    };
    registry.open(engine, hello, outbox)
}

impl World {
    async fn new() -> Self {
        let objects = Objects::open(Arc::new(store::Memory::default())).await;
        let objects = Arc::new(objects.expect("an empty store"));
        bootstrap::ensure(&objects).await.expect("made");
        let registry = Arc::new(Registry::default());
        let planner = Planner::open(objects.clone(), registry.clone()).await;
        let planner = Arc::new(planner.expect("an empty store"));
        let events = Arc::new(Events::new(Vec::new()));
        let watchman = Watchman::begin(
            events.clone(),
            objects.clone(),
            registry.clone(),
            planner.clone(),
            Arc::new(Series::default()),
        );
        let address = json!({"addr": "10.10.10.100", "type": "V4"});
        let vip = json!([{"vip_id": "1", "ip_address": address}]);
        let vsvip = json!({"name": "vip-1", "vip": vip});
        let vsvip = create(&objects, "vsvip", vsvip).await;
        let vs = json!({"name": "vs-1", "services": [{"port": 80}], "vsvip_ref": vsvip});
        let vs = create(&objects, "virtualservice", vs).await;
        let (mut engines, mut sessions) = (Vec::new(), Vec::new());
        for number in 1..=2 {
            let body = json!({"name": format!("se-{number}")});
            let engine = create(&objects, "serviceengine", body).await;
            let address = format!("10.10.10.1{number}/24");
            sessions.push(connect(&registry, &engine, &address));
            engines.push(engine);
        }
        Self {
            events,
            registry,
            planner,
            watchman,
            vs,
            vsvip,
            engines,
            sessions,
        }
    }

    /// `min_scaleout_per_vs` of the SE group.
    async fn ask_for(&self, engines: u32) {
        let snapshot = self.watchman.objects.snapshot();
        let group = snapshot.by_name("serviceenginegroup", "Default-Group");
        let (uuid, _) = group.expect("made at the start");
        let field = "min_scaleout_per_vs";
        self.set("serviceenginegroup", uuid, field, json!(engines))
            .await;
    }

    async fn set(&self, path: &str, uuid: &str, field: &str, value: Value) {
        let ty = object_type(path).expect("known");
        let author = Author::system("test");
        let objects = &self.watchman.objects;
        let changed = objects.change(&author, "test", |draft| {
            let mut object = draft.snapshot.require(ty, uuid)?.object.clone();
            object.insert(field.into(), value);
            draft.put(ty, uuid, object);
            Ok(())
        });
        changed.await.expect("changed");
    }

    async fn scale_out(&self, engine: usize) {
        let engine = Some(self.engines[engine].as_str());
        let scaled = self.planner.scale_out(&self.vsvip, engine).await;
        scaled.expect("it fits");
    }

    /// The planner says that it has done this, or has not.
    fn step(&self, action: Action, success: bool, engine: Option<usize>) {
        let step = LastScale {
            action,
            success,
            reason: "for this test".into(),
            engine: engine.map(|n| self.engines[n].clone()),
            at: SystemTime::now(),
            ended: None,
        };
        self.watchman.scaled(&self.vsvip, &step);
    }

    /// The engine reports that the virtual service is up there.
    fn is_up(&self, engine: usize) {
        let report = Report {
            virtual_services: vec![VirtualServiceStatus {
                uuid: self.vs.clone(),
                state: OperState::Up.into(),
                ..VirtualServiceStatus::default()
            }],
            ..Report::default()
        };
        self.report(engine, report);
    }

    fn report(&self, engine: usize, report: Report) {
        let report = Report {
            interfaces: self.registry.get(&self.engines[engine]).interfaces,
            ..report
        };
        let (engine, session) = (&self.engines[engine], self.sessions[engine]);
        self.registry.reported(engine, session, report);
    }

    /// What has been said by these events, oldest first.
    fn said(&self, ids: &[Id]) -> Vec<(&'static str, String)> {
        let all = self.events.all().into_iter();
        let these = all.filter(|e| ids.contains(&e.id));
        these.map(|e| (e.id.code(), e.summary.clone())).collect()
    }

    /// Codes of the events that come of this.
    fn codes_of(&self, what: impl FnOnce()) -> Vec<&'static str> {
        let before = *self.events.newest().borrow();
        what();
        let new = self.events.since(before, 100).into_iter();
        new.map(|e| e.id.code()).collect()
    }
}

#[tokio::test]
async fn each_step_of_the_planner_has_its_events() {
    let world = World::new().await;
    let steps: [(Action, bool, &[&str]); 8] = [
        (Action::ScaleOut, true, &["VIP_SCALEOUT"]),
        (
            Action::MigrateScaleout,
            true,
            &["VIP_SCALEOUT", "VS_MIGRATE_STARTED"],
        ),
        (
            Action::MigrateScalein,
            true,
            &["VIP_SCALEIN", "VS_MIGRATE_COMPLETE"],
        ),
        (
            Action::MigrateRolledBack,
            false,
            &["VIP_SCALEOUT_FAILED", "VS_MIGRATE_FAILED"],
        ),
        (
            Action::ScaleOutRolledBack,
            false,
            &["VIP_SCALEOUT_FAILED", "VS_SCALEOUT_FAILED"],
        ),
        (
            Action::Switchover,
            true,
            &["VIP_SWITCHOVER", "VS_SWITCHOVER"],
        ),
        (
            Action::SwitchoverRolledBack,
            false,
            &["VIP_SWITCHOVER_FAILED", "VS_SWITCHOVER_FAILED"],
        ),
        (Action::Switchover, false, &[]),
    ];
    for (action, success, expected) in steps {
        let codes = world.codes_of(|| world.step(action, success, success.then_some(0)));
        assert_eq!(codes, expected, "{action:?} {success}");
    }
    let (w, se) = (&world.watchman, world.engines[0].as_str());
    let vsvip = world.vsvip.as_str();
    let told = [
        world.codes_of(|| w.switched(vsvip, se, "")),
        world.codes_of(|| w.move_ended(vsvip, true, "")),
        world.codes_of(|| w.move_ended(vsvip, false, "")),
        world.codes_of(|| w.released(vsvip, se, "")),
        world.codes_of(|| w.not_released(vsvip, se, "")),
    ];
    let expected = [
        "VS_SWITCHOVER",
        "VS_MIGRATE_COMPLETE",
        "VS_MIGRATE_FAILED",
        "SE_SCALEIN_READY",
        "SE_SCALEIN_READY_TIMEDOUT",
    ];
    assert_eq!(told.concat(), expected);
}

#[tokio::test]
async fn the_details_of_a_step_are_under_the_key_of_the_contract() {
    let world = World::new().await;
    world.step(Action::Switchover, true, Some(1));
    world.step(Action::MigrateScaleout, true, Some(1));
    world
        .watchman
        .not_released(&world.vsvip, &world.engines[1], "it has 3 flows left");
    let details = |id: Id| {
        let all = world.events.all();
        let event = all.iter().find(|e| e.id == id);
        event.expect("it was said").details()
    };
    for id in [Id::VipSwitchover, Id::VsSwitchover] {
        let details = details(id);
        assert!(details["vs_switchover_details"].is_object(), "{details}");
    }
    let migrated = details(Id::VsMigrateStarted);
    assert_eq!(migrated["vs_migrate_details"]["vs_uuid"], json!(world.vs));
    let late = details(Id::SeScaleinReadyTimedout);
    let text = &late["vs_scalein_details"]["error_message"];
    assert_eq!(text, "it has 3 flows left");
}

#[tokio::test]
async fn an_engine_that_was_lost_before_it_was_up_completes_nothing_when_it_comes_back() {
    let world = World::new().await;
    world.scale_out(1).await;
    world.step(Action::InitialPlacement, true, Some(0));
    world.step(Action::SeRemoved, true, Some(1));
    world.is_up(1);
    world.is_up(0);
    world.is_up(1);
    let complete = ("VS_SCALEOUT_COMPLETE", "vs-1 at se-2: it is up there");
    let complete = (complete.0, complete.1.to_owned());
    assert_eq!(world.said(&[Id::VsScaleoutComplete]), [complete]);
}

#[tokio::test]
async fn a_scale_out_to_an_engine_that_was_lost_before_it_was_up_is_complete_once() {
    let world = World::new().await;
    world.step(Action::InitialPlacement, true, Some(0));
    world.scale_out(0).await;
    world.is_up(0);
    assert_eq!(world.said(&[Id::VsScaleoutComplete]), []);
    // This is how the planner says so.
    world
        .watchman
        .arrived(&world.vsvip, &world.engines[0], "it is up there");
    world.is_up(0);
    assert_eq!(world.said(&[Id::VsScaleoutComplete]).len(), 1);
}

/// A report with so many connections of the virtual service.
fn counted(vs: &str, total_connections: u64) -> Report {
    Report {
        virtual_services: vec![VirtualServiceStatus {
            uuid: vs.into(),
            total_connections,
            ..VirtualServiceStatus::default()
        }],
        ..Report::default()
    }
}

#[tokio::test]
async fn what_an_engine_counts_between_two_sessions_is_left_out_also_where_one_replaces_the_other()
{
    let mut world = World::new().await;
    world.report(0, counted(&world.vs, 1000));
    world.sessions[0] = connect(&world.registry, &world.engines[0], "10.10.10.11/24");
    world.report(0, counted(&world.vs, 900_000));
    // Whatever the time is, all of it is over then.
    let later_s = now_us() / 1_000_000 + 600;
    let (series, kind) = (&world.watchman.series, series::Kind::VirtualService);
    series.tick(later_s, &|_, _| Some(0.0));
    let rows = series.read(kind, &world.vs, 300, (0, u64::MAX), later_s);
    let mut metrics = kind.metrics();
    let new = metrics.find(|m| m.id == "l4_client.avg_new_established_conns");
    let new = new.expect("known");
    let rows = rows.into_iter().filter_map(|(_, row)| new.value(&row?));
    let rows: Vec<f32> = rows.collect();
    assert!(!rows.is_empty(), "it has reported");
    assert!(rows.iter().all(|n| *n < 0.01), "{rows:?}");
}

#[tokio::test]
async fn a_switchover_that_waits_is_one_of_the_vip_first_and_of_its_services_when_it_is_done() {
    let world = World::new().await;
    world.scale_out(0).await;
    world.scale_out(1).await;
    let switched = world.planner.switch_over(&world.vsvip, None).await;
    assert_eq!(switched.expect("it has another one").name, "se-2");
    assert_eq!(world.said(&[Id::VipSwitchover]).len(), 1);
    assert_eq!(world.said(&[Id::VsSwitchover]), [], "it does not serve yet");
}

#[tokio::test]
async fn an_engine_that_others_hear_no_more_and_again_is_told() {
    let world = World::new().await;
    world.scale_out(0).await;
    world.scale_out(1).await;
    let ids = [Id::SeDpHbFailed, Id::SeDpHbRecovered];
    let silent = |code: Reason| Report {
        member_problems: vec![MemberProblem {
            vip: "10.10.10.100".into(),
            se_uuid: world.engines[1].clone(),
            reason_code: code.code().into(),
            reason: "a sentence".into(),
        }],
        ..Report::default()
    };
    world.report(0, silent(Reason::NoTunnelPath));
    assert_eq!(world.said(&ids), [], "that is no matter of hellos");
    world.report(0, silent(Reason::MemberSilent));
    world.report(0, silent(Reason::MemberSilent));
    for other in [Reason::SteeringFailed, Reason::NoTunnelPath] {
        world.report(0, silent(other));
        let recovered = world.said(&[Id::SeDpHbRecovered]);
        assert_eq!(recovered, [], "{other} says nothing of hellos");
    }
    world.report(0, Report::default());
    world.report(0, Report::default());
    let said = world.said(&ids);
    let codes: Vec<&str> = said.iter().map(|(code, _)| *code).collect();
    assert_eq!(codes, ["SE_DP_HB_FAILED", "SE_DP_HB_RECOVERED"]);
    let failed = "se-2 answers no hello of se-1 any more";
    assert!(said[0].1.starts_with(failed), "{said:?}");
    assert_eq!(said[1].1, "se-2 answers the hellos of se-1 again");
}

#[tokio::test]
async fn a_service_that_has_too_few_engines_is_told_and_that_it_has_them_again() {
    let mut world = World::new().await;
    world.scale_out(0).await;
    let ids = [Id::VsSeHaCompromised, Id::VsSeHaActive];
    let now = Instant::now();
    let second = Duration::from_secs(1);
    world.watchman.look_at_redundancy(now);
    world.watchman.lock().settled = true;
    world.watchman.look_at_redundancy(now);
    world
        .registry
        .close(&world.engines[0], world.sessions[0], "gone");
    world.watchman.look_at_redundancy(now + 5 * second);
    world.watchman.look_at_redundancy(now + 10 * second);
    assert_eq!(world.said(&ids), [], "it may just start again");
    world.watchman.look_at_redundancy(now + 16 * second);
    world.watchman.look_at_redundancy(now + 60 * second);
    world.sessions[0] = connect(&world.registry, &world.engines[0], "10.10.10.11/24");
    world.watchman.look_at_redundancy(now + 65 * second);
    world.watchman.look_at_redundancy(now + 70 * second);
    let said = world.said(&ids);
    let codes: Vec<&str> = said.iter().map(|(code, _)| *code).collect();
    assert_eq!(codes, ["VS_SE_HA_COMPROMISED", "VS_SE_HA_ACTIVE"]);
    let short = "vs-1: its SE group asks for 1 engine, and it has 0 (none)";
    assert!(said[0].1.starts_with(short), "{said:?}");
    assert!(
        said[1].1.ends_with("its SE group asks for: se-1"),
        "{said:?}"
    );
}

#[tokio::test]
async fn a_service_that_is_switched_off_while_it_has_too_few_engines_is_told_of_when_it_has_them() {
    let mut world = World::new().await;
    world.scale_out(0).await;
    world.watchman.lock().settled = true;
    let now = Instant::now();
    let look_in = |world: &World, seconds| {
        let at = now + Duration::from_secs(seconds);
        world.watchman.look_at_redundancy(at);
        let said = world.said(&[Id::VsSeHaCompromised, Id::VsSeHaActive]);
        said.into_iter().map(|(code, _)| code).collect::<Vec<_>>()
    };
    world
        .registry
        .close(&world.engines[0], world.sessions[0], "gone");
    look_in(&world, 0);
    assert_eq!(look_in(&world, 60), ["VS_SE_HA_COMPROMISED"]);
    let enabled = async |world: &World, is: bool| {
        let path = "virtualservice";
        world.set(path, &world.vs, "enabled", json!(is)).await;
    };
    enabled(&world, false).await;
    assert_eq!(look_in(&world, 70), ["VS_SE_HA_COMPROMISED"]);
    world.sessions[0] = connect(&world.registry, &world.engines[0], "10.10.10.11/24");
    assert_eq!(look_in(&world, 80), ["VS_SE_HA_COMPROMISED"]);
    enabled(&world, true).await;
    let both = ["VS_SE_HA_COMPROMISED", "VS_SE_HA_ACTIVE"];
    assert_eq!(look_in(&world, 90), both);
}

#[tokio::test]
async fn an_engine_where_a_service_is_not_up_while_it_is_up_elsewhere_does_not_count() {
    let world = World::new().await;
    world.ask_for(2).await;
    world.scale_out(0).await;
    world.scale_out(1).await;
    world.watchman.lock().settled = true;
    let now = Instant::now();
    let look_in = |seconds| {
        let at = now + Duration::from_secs(seconds);
        world.watchman.look_at_redundancy(at);
        world.said(&[Id::VsSeHaCompromised])
    };
    assert_eq!(look_in(0), []);
    assert_eq!(look_in(60), [], "it is up nowhere: no matter of engines");
    world.is_up(1);
    assert_eq!(look_in(65), []);
    let said = look_in(76);
    let short = "vs-1: its SE group asks for 2 engines, and it has 1 (se-2)";
    assert!(said[0].1.starts_with(short), "{said:?}");
}
