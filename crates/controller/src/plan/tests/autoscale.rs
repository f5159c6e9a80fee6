//! VIPs are scaled by what engines report, at times and under loads that the tests give.

use super::*;
use crate::plan::autoscale::Measured;
use proto::v1::{EngineLoad, EngineStats, OperState};

/// Seconds that load is measured for.
const INTERVAL_S: u64 = 10;

/// A clock, and what engines carry.
struct World {
    fixture: Fixture,
    engines: Vec<Engine>,
    measured: Measured,
    now_s: u64,
    /// Open connections of the VIP, by engine.
    open: Vec<u64>,
}

impl World {
    /// `se-1`, which has the VIP, and so many more; an engine can carry 100 connections.
    async fn new(more: usize, auto_rebalance: bool) -> Self {
        let (fixture, engines) = Fixture::with_engines(more).await;
        for (field, value) in [
            ("auto_rebalance", json!(auto_rebalance)),
            (
                "auto_rebalance_criteria",
                json!(["SE_AUTO_REBALANCE_OPEN_CONNS"]),
            ),
            ("auto_rebalance_capacity_per_se", json!([100])),
            ("auto_rebalance_interval", json!(INTERVAL_S)),
        ] {
            fixture.group_setting(field, value).await;
        }
        Self {
            open: vec![0; engines.len()],
            fixture,
            engines,
            measured: Measured::default(),
            now_s: now_unix_s(),
        }
    }

    /// Every engine has put in force what it was told, serves it and says what it carries.
    fn report(&self) {
        self.fixture.planner.publish();
        self.fixture.acknowledge(&self.engines);
        for (engine, open) in self.engines.iter().zip(&self.open) {
            let report = Report {
                stats: Some(EngineStats {
                    load: Some(EngineLoad {
                        at_ms: self.now_s * 1000,
                        ..EngineLoad::default()
                    }),
                    ..EngineStats::default()
                }),
                virtual_services: vec![VirtualServiceStatus {
                    uuid: self.fixture.uuid("virtualservice", "vs-1"),
                    state: OperState::Up.into(),
                    open_connections: *open,
                    ..VirtualServiceStatus::default()
                }],
                interfaces: self.fixture.registry.get(&engine.uuid).interfaces,
                ..Report::default()
            };
            let registry = &self.fixture.registry;
            registry.reported(&engine.uuid, engine.session, report);
        }
    }

    /// Time goes on by so many seconds, in each of which engines report. What is under way comes to its end where it `ends`.
    async fn pass(&mut self, seconds: u64, ends: bool) {
        for _ in 0..seconds {
            self.now_s += 1;
            self.report();
            let planner = &self.fixture.planner;
            planner.autoscale(&mut self.measured, self.now_s).await;
            if ends {
                planner.finish_joins(Instant::now() + Duration::from_secs(1));
                self.report();
                let ahead_s = self.now_s.saturating_sub(now_unix_s());
                let at = Instant::now() + Duration::from_secs(ahead_s);
                planner.finish_moves(at).await;
            }
        }
    }

    fn num_se(&self) -> usize {
        let planner = &self.fixture.planner;
        planner.assignment(&self.fixture.vsvip).engines.len()
    }

    fn autoscale(&self) -> Value {
        self.fixture.runtime()["autoscale"].clone()
    }

    fn reason(&self) -> String {
        let last = self.fixture.planner.last_scale(&self.fixture.vsvip);
        last.map(|l| l.reason).unwrap_or_default()
    }
}

#[tokio::test]
async fn a_vip_is_scaled_out_with_its_load_one_engine_an_interval_and_in_again() {
    let mut world = World::new(3, true).await;
    world.open[0] = 200;
    world.pass(INTERVAL_S, true).await;
    assert_eq!(world.num_se(), 1, "not measured for long enough");
    world.pass(1, true).await;
    assert_eq!(world.num_se(), 2);
    let reason = world.reason();
    assert!(
        reason.starts_with("auto_rebalance: 200 open connections on 1 service engine are 200 %")
            && reason.contains("; se-2 comes first"),
        "{reason}"
    );
    world.pass(INTERVAL_S, true).await;
    assert_eq!(world.num_se(), 2, "the change is not an interval ago");
    world.pass(2, true).await;
    assert_eq!(world.num_se(), 3, "200 connections fill two engines");
    world.pass(5 * INTERVAL_S, true).await;
    assert_eq!(world.num_se(), 3, "and three have room for them");
    assert_eq!(world.autoscale()["reason_code"], "load_within_limits");
    // Longer than the time of this test is ahead of the host's.
    let timeout_s = json!(3600);
    world
        .fixture
        .group_setting("vs_scalein_timeout", timeout_s)
        .await;
    world.open = vec![10, 10, 10, 0];
    world.pass(2 * INTERVAL_S + 1, true).await;
    assert_eq!(world.num_se(), 2);
    let reason = world.reason();
    assert!(reason.contains("below 30 % (min_cpu_usage)"), "{reason}");
    world.pass(20, true).await;
    assert_eq!(
        world.num_se(),
        2,
        "the engine that leaves has connections: the scale-in is under way"
    );
    world.open = vec![10, 10, 0, 0];
    world.pass(3 * INTERVAL_S, true).await;
    assert_eq!(world.num_se(), 1);
    world.open = vec![10, 0, 0, 0];
    world.pass(3 * INTERVAL_S, true).await;
    assert_eq!(world.num_se(), 1);
    assert_eq!(world.autoscale()["reason_code"], "at_minimum");
}

#[tokio::test]
async fn where_it_is_off_nothing_is_done_and_what_would_be_is_said_once() {
    let mut world = World::new(2, false).await;
    let ear = world.fixture.ear();
    assert_eq!(world.autoscale(), Value::Null);
    world.open[0] = 90;
    world.pass(4 * INTERVAL_S, true).await;
    assert_eq!(world.num_se(), 1);
    assert_eq!(ear.heard(), ["recommended SCALE_OUT: load_high"]);
    let shown = world.autoscale();
    assert_eq!(
        (&shown["action"], &shown["auto_rebalance"]),
        (&json!("SCALE_OUT"), &json!(false))
    );
    let criterion = &shown["criteria"][0];
    let number = |field: &str| criterion[field].as_f64().expect(field);
    assert_eq!(criterion["criterion"], "SE_AUTO_REBALANCE_OPEN_CONNS");
    assert_eq!((number("load"), number("capacity_per_se")), (90.0, 100.0));
    assert_eq!(
        (number("percent"), number("percent_with_one_more")),
        (90.0, 45.0)
    );
    let since_s = shown["since_unix_s"].as_u64().expect("a time");
    assert!(since_s < shown["decided_unix_s"].as_u64().expect("a time"));
    world.open[0] = 50;
    world.pass(3 * INTERVAL_S, true).await;
    assert_eq!(ear.heard(), ["recommended NONE: load_within_limits"]);
}

#[tokio::test]
async fn nothing_is_done_amid_a_change_nor_for_an_interval_after_one_that_an_operator_made() {
    let mut world = World::new(3, true).await;
    world.open[0] = 500;
    world.pass(INTERVAL_S - 1, true).await;
    let (fixture, engines) = (&world.fixture, &world.engines);
    fixture.scale_out(&engines[1]).await;
    world.pass(3 * INTERVAL_S, false).await;
    assert_eq!(world.num_se(), 2, "the new engine is joining");
    world.pass(INTERVAL_S, true).await;
    assert_eq!(world.num_se(), 2);
    world.pass(1, true).await;
    assert_eq!(world.num_se(), 3);
}

#[tokio::test]
async fn an_engine_that_is_not_there_is_said_once_and_one_without_a_session_stops_all() {
    let mut world = World::new(1, true).await;
    world.open[0] = 500;
    world.pass(INTERVAL_S + 1, true).await;
    assert_eq!(world.num_se(), 2);
    let ear = world.fixture.ear();
    world.pass(4 * INTERVAL_S, true).await;
    let heard = ear.heard();
    assert_eq!(heard.len(), 1, "{heard:?}");
    assert!(
        heard[0].starts_with("SCALE_OUT failed: no service engine can take"),
        "{heard:?}"
    );
    assert_eq!(world.autoscale()["action"], "SCALE_OUT");
    let gone = &world.engines[1];
    world
        .fixture
        .registry
        .close(&gone.uuid, gone.session, "gone");
    world.pass(2 * INTERVAL_S, true).await;
    let shown = world.autoscale();
    assert_eq!(shown["reason_code"], "no_figures");
    let reason = shown["reason"].as_str().expect("a sentence");
    assert!(reason.starts_with("se-2 has not said"), "{reason}");
}

#[tokio::test]
async fn the_bounds_of_the_group_hold_and_a_service_that_is_switched_off_is_left_alone() {
    let mut world = World::new(3, true).await;
    world
        .fixture
        .group_setting("max_scaleout_per_vs", json!(2))
        .await;
    world.open[0] = 900;
    world.pass(6 * INTERVAL_S, true).await;
    assert_eq!(world.num_se(), 2);
    assert_eq!(world.autoscale()["reason_code"], "at_maximum");
    let vs = world.fixture.uuid("virtualservice", "vs-1");
    let off = set("enabled", json!(false));
    world.fixture.update("virtualservice", &vs, off).await;
    world.open[0] = 0;
    world.pass(4 * INTERVAL_S, true).await;
    assert_eq!((world.num_se(), world.autoscale()), (2, Value::Null));
}
