use super::super::super::fixture::{Fixture, v4};
use super::*;
use proto::v1::{OperState, PoolStatus, Report};

fn filter(pairs: &[(&str, &str)]) -> Result<ServerFilter, String> {
    let lookup = |name: &str| {
        let found = pairs.iter().find(|(k, _)| *k == name);
        found.map(|(_, v)| (*v).to_owned())
    };
    ServerFilter::of(&lookup).map_err(|e| e.text)
}

fn status_of(address: &str, port: u32) -> ServerStatus {
    ServerStatus {
        address: address.into(),
        port,
        state: OperState::Down.into(),
        open_connections: 2,
        total_connections: 9,
        ..ServerStatus::default()
    }
}

/// What is asked for, and which of the servers fit.
type Case = (&'static [(&'static str, &'static str)], &'static [usize]);

#[test]
fn servers_are_asked_for_by_address_network_range_and_port() {
    let all = [
        ("10.20.20.11", 80),
        ("10.20.20.12", 80),
        ("10.20.21.1", 8080),
        ("2001:db8::7", 80),
    ];
    let cases: [Case; 7] = [
        (&[], &[0, 1, 2, 3]),
        (&[("server_ip", "10.20.20.12")], &[1]),
        (
            &[("server_ip", "10.20.20.0"), ("server_mask", "24")],
            &[0, 1],
        ),
        (
            &[
                ("server_ip", "10.20.20.9"),
                ("server_mask", "255.255.254.0"),
            ],
            &[0, 1, 2],
        ),
        (
            &[
                ("server_ip", "10.20.20.12"),
                ("server_end_ip", "10.20.21.1"),
            ],
            &[1, 2],
        ),
        (&[("server_ip", "2001:db8::"), ("server_mask", "64")], &[3]),
        (&[("server_port", "8080")], &[2]),
    ];
    for (pairs, expected) in cases {
        let filter = filter(pairs).expect("good");
        let fit = all.iter().enumerate();
        let fit = fit.filter(|(_, (address, port))| filter.fits(&status_of(address, *port)));
        let fit: Vec<usize> = fit.map(|(n, _)| n).collect();
        assert_eq!(fit, expected, "{pairs:?}");
    }
}

#[test]
fn what_servers_cannot_be_asked_for_is_named() {
    let ip = ("server_ip", "10.20.20.1");
    let cases: [(&[(&str, &str)], &str); 8] = [
        (&[("server_ip", "x")], "server_ip"),
        (&[("server_mask", "24")], "server_mask"),
        (&[ip, ("server_mask", "33")], "server_mask"),
        (&[("server_end_ip", "10.20.20.9")], "server_end_ip"),
        (&[ip, ("server_end_ip", "10.20.20.0")], "server_end_ip"),
        (&[ip, ("server_end_ip", "2001:db8::1")], "server_end_ip"),
        (
            &[ip, ("server_mask", "24"), ("server_end_ip", "10.20.20.9")],
            "server_end_ip",
        ),
        (&[("server_port", "70000")], "server_port"),
    ];
    for (pairs, field) in cases {
        let text = filter(pairs).expect_err(field);
        assert!(text.starts_with(&format!("{field}: ")), "{text}");
    }
}

/// A pool of the fixture's virtual service, which the engine has reported with one server and its monitor.
async fn reported(fixture: &Fixture, said: MonitorStatus) -> String {
    let server = json!({"ip": v4("10.20.20.11"), "hostname": "web-1", "port": 8080});
    let body = json!({"name": "web", "servers": [server]});
    let pool = fixture.create("pool", body).await;
    let vs = fixture.uuid("virtualservice", "vs-1");
    let reference = format!("/api/pool/{pool}");
    fixture
        .update("virtualservice", &vs, |o| {
            drop(o.insert("pool_ref".into(), reference.into()));
        })
        .await;
    let report = Report {
        pools: vec![PoolStatus {
            uuid: pool.clone(),
            state: OperState::Down.into(),
            servers: vec![ServerStatus {
                monitors: vec![said],
                ..status_of("10.20.20.11", 8080)
            }],
        }],
        ..Report::default()
    };
    let (engine, session) = (&fixture.engine, fixture.session);
    fixture.registry.reported(engine, session, report);
    pool
}

#[tokio::test]
async fn each_monitor_of_a_server_is_named_with_what_it_says() {
    let fixture = Fixture::new().await;
    let monitor = fixture.uuid("healthmonitor", "System-TCP");
    let said = MonitorStatus {
        uuid: monitor.clone(),
        state: OperState::Down.into(),
        reason: "the server refused the connection".into(),
        failure_code: "CONNECTION_REFUSED".into(),
        recent_response_time_ms: Some(7),
        average_response_time_ms: Some(5),
    };
    let pool = reported(&fixture, said).await;
    let all = filter(&[]).expect("good");
    let shown = fixture.observe(|o| o.pool_servers(&pool, &all, &|_, _| true));
    let server = &shown[0];
    let expected = json!({"name": "System-TCP", "uuid": monitor, "state": "OPER_DOWN",
        "reason": "the server refused the connection", "failure_code": "CONNECTION_REFUSED",
        "recent_response_time": 7, "avg_response_time": 5});
    assert_eq!(
        server["health_monitor_list"],
        json!({"health_monitor": [expected]})
    );
    let vs = fixture.uuid("virtualservice", "vs-1");
    assert_eq!(
        (
            &server["hostname"],
            &server["vs_uuid"],
            &server["is_standby"]
        ),
        (&json!("web-1"), &json!(vs), &json!(false))
    );
    let to_others = fixture.observe(|o| o.pool_servers(&pool, &all, &|_, _| false));
    assert_eq!(
        (&to_others[0]["vs_uuid"], &to_others[0]["vs_uuids"]),
        (&Value::Null, &json!([])),
        "of another tenant's service nothing is told"
    );
    let other = filter(&[("server_port", "80")]).expect("good");
    let none = fixture.observe(|o| o.pool_servers(&pool, &other, &|_, _| true));
    assert_eq!(none, json!([]));
}

/// Nothing is said in the place of a time that nobody has measured.
#[tokio::test]
async fn a_monitor_that_has_not_looked_has_no_times() {
    let fixture = Fixture::new().await;
    let said = MonitorStatus {
        uuid: "healthmonitor-gone".into(),
        state: OperState::Initializing.into(),
        ..MonitorStatus::default()
    };
    let pool = reported(&fixture, said).await;
    let all = filter(&[]).expect("good");
    let shown = fixture.observe(|o| o.pool_servers(&pool, &all, &|_, _| true));
    let monitor = &shown[0]["health_monitor_list"]["health_monitor"][0];
    assert_eq!(
        (&monitor["name"], &monitor["state"]),
        (&json!("healthmonitor-gone"), &json!("OPER_INITIALIZING"))
    );
    assert_eq!(monitor["avg_response_time"], Value::Null);
}

#[tokio::test]
async fn counters_are_there_by_engine_and_by_server() {
    let fixture = Fixture::new().await;
    let pool = reported(&fixture, MonitorStatus::default()).await;
    let detail = fixture.observe(|o| o.pool_detail(&pool));
    assert_eq!(
        (
            &detail[0]["se_uuid"],
            &detail[0]["proc_id"],
            &detail[0]["name"]
        ),
        (&json!(fixture.engine), &json!("C0"), &json!("web"))
    );
    let expected = json!({"total_connections": 9, "current_connections": 2, "num_servers": 1, "num_servers_up": 0});
    assert_eq!(detail[0]["pool_stats"], expected);
    let all = filter(&[]).expect("good");
    let servers = fixture.observe(|o| o.pool_server_counters(&pool, &all));
    let stats = &servers[0]["server_stats"];
    assert_eq!(
        (&stats["total_connections"], &stats["current_connections"]),
        (&json!(9), &json!(2))
    );
    fixture
        .registry
        .close(&fixture.engine, fixture.session, "gone");
    let gone = fixture.observe(|o| o.pool_detail(&pool));
    assert_eq!(gone, json!([]), "its last word is no longer known to be so");
}
