use super::*;
use proto::v1::{EngineStats, PoolStatus, ServerStatus, VirtualServiceStatus};

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
    let metric = kind.metrics().iter().find(|m| m.id == id).unwrap();
    let rows = series.read(kind, uuid, step_s, (0, u64::MAX), START_S);
    rows.into_iter()
        .map(|(_, row)| row.map(|r| metric.value(&r)))
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
    let pool = values(
        &series,
        Kind::Pool,
        "pool-1",
        "l4_server.max_open_conns",
        300,
    );
    close(&pool, &[10.0]);
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
        let mut metrics = Kind::VirtualService.metrics().iter();
        let open = metrics.find(|m| m.id == "l4_client.max_open_conns");
        Some((at_s, open.unwrap().value(&row)))
    };
    assert_eq!(newest(START_S), None);
    for (second, open) in [(0, 7), (300, 9), (600, 11)] {
        series.report("se-1", &report(0, open, 0), START_S + second);
    }
    assert_eq!(newest(START_S + 600), Some((START_S + 300, 9.0)));
    assert_eq!(newest(START_S + 901), Some((START_S + 300, 9.0)));
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

#[test]
fn an_entity_takes_the_memory_that_is_said_and_one_without_traffic_none() {
    let series = Series::default();
    for second in [0, 5, 3600] {
        series.report("se-1", &report(second, 0, second), START_S + second);
    }
    let quiet = Report {
        virtual_services: vec![VirtualServiceStatus {
            uuid: "virtualservice-2".into(),
            ..VirtualServiceStatus::default()
        }],
        ..Report::default()
    };
    for second in [0, 5, 3600] {
        series.report("se-2", &quiet, START_S + second);
    }
    let bytes = |kind: Kind, uuid: &str| {
        let inner = series.lock();
        let entity = &inner.entities[&(kind, uuid.to_owned())];
        entity.kept.iter().map(Table::bytes).sum::<usize>()
    };
    assert_eq!(bytes(Kind::VirtualService, VS), (144 + 168) * 24);
    assert_eq!(bytes(Kind::Pool, "pool-1"), (144 + 168) * 12);
    assert_eq!(bytes(Kind::VirtualService, "virtualservice-2"), 0);
}
