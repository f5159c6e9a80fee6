use super::*;
use proto::v1::{EngineStats, PoolStatus, ResponseStats, ServerStatus, VirtualServiceStatus};

const VS: &str = "virtualservice-1";
/// A full hour.
const START_S: u64 = 3600 * 100;

fn report(total: u64, open: u64, bytes: u64) -> Report {
    Report {
        virtual_services: vec![VirtualServiceStatus {
            uuid: VS.into(),
            total_connections: total,
            open_connections: open,
            bytes_in: bytes,
            bytes_out: 2 * bytes,
            ..VirtualServiceStatus::default()
        }],
        pools: vec![PoolStatus {
            uuid: "pool-1".into(),
            servers: vec![ServerStatus {
                total_connections: total,
                open_connections: open,
                bytes_sent: Some(bytes),
                bytes_received: Some(2 * bytes),
                ..ServerStatus::default()
            }],
            ..PoolStatus::default()
        }],
        stats: Some(EngineStats {
            rss_bytes: 1000,
            ..EngineStats::default()
        }),
        ..Report::default()
    }
}

fn values(series: &Series, kind: Kind, uuid: &str, id: &str, step_s: u64) -> Vec<Option<f32>> {
    let metric = kind.metrics().find(|m| m.id == id).unwrap();
    let rows = series.read(kind, uuid, step_s, (0, u64::MAX), START_S);
    rows.into_iter()
        .map(|(_, row)| row.and_then(|r| metric.value(&r)))
        .collect()
}

fn close(found: &[Option<f32>], expected: &[f32]) {
    let near =
        |(a, b): (&Option<f32>, &f32)| a.is_some_and(|a| (a - b).abs() < 0.01 * b.abs().max(0.01));
    let same = found.len() == expected.len() && found.iter().zip(expected).all(near);
    assert!(same, "{found:?} is not {expected:?}");
}

#[test]
fn engines_are_added_up_and_the_first_report_is_what_is_compared_with() {
    let series = Series::default();
    for second in (0..=300).step_by(5) {
        let now_s = START_S + second;
        series.report("se-1", &report(1000 + second, 7, 50 * second), now_s);
        series.report("se-2", &report(2 * second, 3, 0), now_s);
    }
    let of = |id| values(&series, Kind::VirtualService, VS, id, 300);
    // 295 seconds of 300: the last report is of the step that follows.
    let share = 295.0 / 300.0;
    close(&of("l4_client.avg_new_established_conns"), &[3.0 * share]);
    close(&of("l4_client.avg_bandwidth"), &[8.0 * 150.0 * share]);
    close(&of("l4_client.max_open_conns"), &[10.0]);
    let pool = |id| values(&series, Kind::Pool, "pool-1", id, 300);
    close(&pool("l4_server.max_open_conns"), &[10.0]);
    close(&pool("l4_server.avg_rx_bytes"), &[100.0 * share]);
    close(&pool("l4_server.avg_bandwidth"), &[8.0 * 150.0 * share]);
    let engine = values(
        &series,
        Kind::ServiceEngine,
        "se-1",
        "se_stats.rss_bytes",
        300,
    );
    close(&engine, &[1000.0]);
}

#[test]
fn a_counter_that_begins_anew_and_a_service_that_is_new_count_from_nothing() {
    let series = Series::default();
    series.report("se-1", &Report::default(), START_S);
    series.report("se-1", &report(600, 0, 0), START_S + 10);
    series.report("se-1", &report(300, 0, 0), START_S + 20);
    series.report("se-1", &report(300, 0, 0), START_S + 300);
    let found = values(
        &series,
        Kind::VirtualService,
        VS,
        "l4_client.avg_complete_conns",
        300,
    );
    // The service is 290 seconds old at the end of the step.
    close(&found, &[900.0 / 290.0]);
}

#[test]
fn what_comes_while_an_engine_has_no_session_is_left_out_and_a_gap() {
    let series = Series::default();
    series.report("se-1", &report(0, 5, 0), START_S);
    series.report("se-1", &report(300, 5, 0), START_S + 5);
    series.lost("se-1");
    series.report("se-1", &report(90_000, 5, 0), START_S + 600);
    series.report("se-1", &report(90_300, 5, 0), START_S + 605);
    series.tick(START_S + 900, &|_, _| Some(0.0));
    let of = |id| values(&series, Kind::VirtualService, VS, id, 300);
    let new = of("l4_client.avg_new_established_conns");
    assert_eq!(new.len(), 3);
    assert_eq!(new[1], None);
    close(&[new[0], new[2]], &[1.0, 1.0]);
    close(&[of("l4_client.max_open_conns")[2]], &[5.0]);
}

#[test]
fn the_newest_step_is_the_last_that_is_over_and_asking_for_it_begins_nothing() {
    let series = Series::default();
    let newest = |now_s: u64| {
        let (at_s, row) = series.newest(Kind::VirtualService, VS, now_s)?;
        let mut metrics = Kind::VirtualService.metrics();
        let open = metrics.find(|m| m.id == "l4_client.max_open_conns");
        Some((at_s, open.unwrap().value(&row)))
    };
    assert_eq!(newest(START_S), None);
    for (second, open) in [(0, 7), (300, 9), (600, 11)] {
        series.report("se-1", &report(0, open, 0), START_S + second);
    }
    assert_eq!(newest(START_S + 600), Some((START_S + 300, Some(9.0))));
    assert_eq!(newest(START_S + 901), Some((START_S + 300, Some(9.0))));
    assert_eq!(
        newest(START_S + 2000),
        None,
        "nobody has said anything lately"
    );
    let inner = series.lock();
    assert!(inner.watched.is_empty());
    assert!(inner.entities.values().all(|e| e.real_time.is_none()));
}

#[test]
fn real_time_begins_with_the_first_question_and_ends_when_nobody_asks() {
    let series = Series::default();
    let ask = |now_s: u64| {
        series
            .read(Kind::VirtualService, VS, 5, (0, u64::MAX), now_s)
            .len()
    };
    series.report("se-1", &report(0, 0, 0), START_S);
    series.report("se-1", &report(5, 0, 0), START_S + 5);
    assert_eq!(ask(START_S + 6), 0);
    for second in (10..=60).step_by(5) {
        series.report("se-1", &report(second, 0, 0), START_S + second);
    }
    assert_eq!(ask(START_S + 60), 11);
    let found = values(
        &series,
        Kind::VirtualService,
        VS,
        "l4_client.avg_new_established_conns",
        5,
    );
    close(&found, &[1.0; 11]);
    series.tick(START_S + 60 + 901, &|_, _| Some(0.0));
    assert_eq!(ask(START_S + 60 + 902), 0);
}

#[test]
fn real_time_is_for_so_many_at_once() {
    let series = Series::default();
    let many = (0..100).map(|n| VirtualServiceStatus {
        uuid: format!("virtualservice-{n}"),
        ..VirtualServiceStatus::default()
    });
    let report = Report {
        virtual_services: many.collect(),
        ..Report::default()
    };
    series.report("se-1", &report, START_S);
    for n in 0..100 {
        let uuid = format!("virtualservice-{n}");
        series.read(Kind::VirtualService, &uuid, 5, (0, u64::MAX), START_S);
    }
    let watched = || -> Vec<String> {
        let inner = series.lock();
        let watched = inner.entities.iter().filter(|(_, e)| e.real_time.is_some());
        watched.map(|((_, uuid), _)| uuid.clone()).collect()
    };
    assert_eq!(watched().len(), REAL_TIME_MAX);
    let ask = |uuid: &str, now_s| {
        series.read(Kind::VirtualService, uuid, 5, (0, u64::MAX), now_s);
    };
    for n in 1..REAL_TIME_MAX {
        ask(&format!("virtualservice-{n}"), START_S + 1);
    }
    ask("virtualservice-99", START_S + GIVES_WAY_S - 1);
    assert!(
        !watched().contains(&"virtualservice-99".to_owned()),
        "all are in use"
    );
    ask("virtualservice-99", START_S + GIVES_WAY_S);
    let now = watched();
    assert_eq!(now.len(), REAL_TIME_MAX);
    assert!(now.contains(&"virtualservice-99".to_owned()));
    assert!(
        !now.contains(&"virtualservice-0".to_owned()),
        "nobody asked for it any more"
    );
}

#[test]
fn the_score_is_kept_with_the_rest_and_hours_have_all_of_their_parts() {
    let series = Series::default();
    for minute in 0..=60 {
        let now_s = START_S + 60 * minute;
        series.tick(now_s, &|_, _| Some(87.0));
        series.report("se-1", &report(60 * minute, 0, 0), now_s);
    }
    let scores = values(&series, Kind::VirtualService, VS, metric::HEALTH_SCORE, 300);
    close(&scores, &[87.0; 12]);
    let hour = values(
        &series,
        Kind::VirtualService,
        VS,
        "l4_client.avg_new_established_conns",
        3600,
    );
    // 59 minutes: the first report is what is compared with.
    close(&hour, &[59.0 / 60.0]);
}

#[test]
fn what_does_not_exist_any_more_is_forgotten() {
    let series = Series::default();
    series.report("se-1", &report(0, 0, 0), START_S);
    series.tick(START_S + 5, &|_, uuid| (uuid != VS).then_some(0.0));
    let left: Vec<_> = series
        .lock()
        .entities
        .keys()
        .map(|(kind, _)| *kind)
        .collect();
    assert!(
        !left.contains(&Kind::VirtualService) && left.contains(&Kind::Pool),
        "{left:?}"
    );
}

/// Of an engine that tells of HTTP, too: so many 2xx, a tenth as many 5xx, and as many connections dropped.
fn http(count: u64) -> Report {
    let mut report = report(0, 0, 0);
    let status = &mut report.virtual_services[0];
    status.connections_dropped = Some(count / 10);
    status.responses = Some(ResponseStats {
        class_2xx: count,
        class_5xx: count / 10,
        ..ResponseStats::default()
    });
    report
}

#[test]
fn responses_and_drops_are_those_of_the_engines_that_tell_them() {
    let series = Series::default();
    for (second, count) in [(0, 1000), (100, 1600), (300, 1600)] {
        series.report("se-1", &http(count), START_S + second);
        series.report("se-2", &report(0, 0, 0), START_S + second);
    }
    let of = |id| values(&series, Kind::VirtualService, VS, id, 300);
    close(&of("l7_client.sum_total_responses"), &[660.0]);
    close(&of("l7_client.avg_complete_responses"), &[2.2]);
    close(&of("l7_client.avg_resp_2xx"), &[2.0]);
    close(&of("l7_client.avg_resp_5xx"), &[0.2]);
    close(&of("l4_client.avg_connections_dropped"), &[0.2]);
    let total = "l7_client.sum_total_responses";
    let engine = |se| values(&series, Kind::ServiceEngine, se, total, 300);
    close(&engine("se-1"), &[660.0]);
    assert_eq!(engine("se-2"), [None], "an older one");
}

/// Of an engine that carries something; its clock says this.
fn carrying(at_s: u64) -> Report {
    let load = EngineLoad {
        at_ms: 1000 * at_s,
        processors: 2,
        process_cpu_ms: 250 * at_s,
        host_busy_ms: 1000 * at_s,
        host_cpu_ms: 4000 * at_s,
        rx_packets: 10 * at_s,
        rx_bytes: 1000 * at_s,
        tx_packets: 20 * at_s,
        tx_bytes: 3000 * at_s,
        host_memory_bytes: 8000,
        host_memory_available_bytes: 6000,
        ..EngineLoad::default()
    };
    Report {
        stats: Some(EngineStats {
            load: Some(load),
            ..EngineStats::default()
        }),
        ..Report::default()
    }
}

#[test]
fn processors_memory_and_links_are_those_of_the_engine_and_a_gap_of_an_older_one() {
    let series = Series::default();
    for second in [0, 150, 300] {
        series.report("se-1", &carrying(7000 + second), START_S + second);
        series.report("se-2", &report(0, 0, 0), START_S + second);
    }
    for (id, expected) in [
        ("se_stats.avg_cpu_usage", 25.0),
        ("se_stats.avg_mem_usage", 25.0),
        ("se_stats.avg_process_cpu_usage", 12.5),
        // What came in 150 seconds of 300.
        ("se_if.avg_rx_bytes", 500.0),
        ("se_if.avg_tx_bytes", 1500.0),
        ("se_if.avg_bandwidth", 16_000.0),
        ("se_if.avg_rx_pkts", 5.0),
        ("se_if.avg_tx_pkts", 10.0),
    ] {
        let of = |se| values(&series, Kind::ServiceEngine, se, id, 300);
        close(&of("se-1"), &[expected]);
        assert_eq!(of("se-2"), [None], "{id}");
    }
}

#[test]
fn an_entity_takes_the_memory_that_is_said_and_one_without_traffic_none() {
    let series = Series::default();
    let quiet = Report {
        virtual_services: vec![VirtualServiceStatus {
            uuid: "virtualservice-2".into(),
            ..VirtualServiceStatus::default()
        }],
        ..Report::default()
    };
    for n in 0..=72 {
        let now_s = START_S + 100 * n;
        series.tick(now_s, &|_, _| Some(100.0));
        series.report("se-1", &report(n * n, n, n * n), now_s);
        series.report("se-2", &quiet, now_s);
    }
    let bytes = |kind: Kind, uuid: &str| {
        let inner = series.lock();
        let entity = &inner.entities[&(kind, uuid.to_owned())];
        entity.kept.iter().map(Table::bytes).sum::<usize>()
    };
    let column = (144 + 168) * 4;
    assert_eq!(bytes(Kind::VirtualService, VS), 5 * column);
    assert_eq!(bytes(Kind::Pool, "pool-1"), 5 * column);
    assert_eq!(bytes(Kind::VirtualService, "virtualservice-2"), 0);
    for kind in [Kind::VirtualService, Kind::Pool, Kind::ServiceEngine] {
        let row = Figures::default().row(kind, 1, 0.0);
        let expected = match kind {
            Kind::VirtualService => 13,
            Kind::Pool => 5,
            Kind::ServiceEngine => 20,
            Kind::Controller => 3,
        };
        assert_eq!(row.len(), expected, "{kind:?}: as the documentation says");
    }
}
