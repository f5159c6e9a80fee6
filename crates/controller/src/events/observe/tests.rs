use super::*;
use proto::v1::{PoolStatus, ServerStatus, VipStatus, VirtualServiceStatus};

const VS: &str = "virtualservice-1";

fn service(state: OperState, code: &str) -> Report {
    Report {
        virtual_services: vec![VirtualServiceStatus {
            uuid: VS.into(),
            state: state.into(),
            reason_code: code.into(),
            reason: "a sentence".into(),
            ..VirtualServiceStatus::default()
        }],
        ..Report::default()
    }
}

fn up() -> Report {
    service(OperState::Up, "up")
}

fn down() -> Report {
    service(OperState::Down, "pool_down")
}

fn session(state: BgpState, times: u64) -> Report {
    Report {
        bgp_sessions: vec![BgpSession {
            peer: "10.0.0.1".into(),
            local_address: "10.0.0.11".into(),
            state: state.into(),
            times_established: times,
            last_error: "hold timer expired".into(),
            ..BgpSession::default()
        }],
        ..Report::default()
    }
}

fn pool(state: OperState, servers: &[OperState]) -> Report {
    let server = |(n, state): (usize, &OperState)| ServerStatus {
        address: format!("10.0.0.{n}"),
        port: 80,
        state: (*state).into(),
        ..ServerStatus::default()
    };
    Report {
        pools: vec![PoolStatus {
            uuid: "pool-1".into(),
            state: state.into(),
            servers: servers.iter().enumerate().map(server).collect(),
        }],
        ..Report::default()
    }
}

/// Kind, up, reason.
fn said(changes: &[Change]) -> Vec<(Kind, bool, &str)> {
    changes
        .iter()
        .map(|c| (c.thing.kind, c.up, c.code.as_str()))
        .collect()
}

#[test]
fn a_service_is_up_while_one_engine_says_so() {
    let mut seen = Observed::default();
    assert_eq!(seen.report("a", &service(OperState::Initializing, "")), []);
    assert_eq!(
        said(&seen.report("a", &up())),
        [(Kind::Service, true, "up")]
    );
    assert_eq!(seen.report("a", &up()), [], "no news");
    assert_eq!(seen.report("b", &down()), []);
    assert_eq!(seen.report("b", &up()), []);
    assert_eq!(seen.report("a", &down()), [], "b has it");
    assert_eq!(
        said(&seen.report("b", &down())),
        [(Kind::Service, false, "pool_down")]
    );
    assert_eq!(seen.report("b", &service(OperState::Initializing, "")), []);
    assert_eq!(
        said(&seen.report("b", &up())),
        [(Kind::Service, true, "up")]
    );
}

#[test]
fn a_service_that_no_engine_has_any_more_is_down_and_a_pool_is_not() {
    let mut seen = Observed::default();
    let mut both = pool(OperState::Up, &[OperState::Up]);
    both.virtual_services = up().virtual_services;
    assert_eq!(seen.report("a", &both).len(), 3);
    assert_eq!(
        said(&seen.report("a", &Report::default())),
        [(Kind::Service, false, NOT_PLACED)]
    );
    assert_eq!(
        seen.totals.iter().flatten().count(),
        0,
        "nothing is remembered of it"
    );
    assert_eq!(seen.report("a", &both).len(), 3);
}

#[test]
fn what_an_engine_without_a_session_had_is_down_unless_another_one_has_it() {
    let mut seen = Observed::default();
    seen.report("a", &up());
    seen.report("b", &up());
    assert_eq!(seen.lost("a"), []);
    assert_eq!(
        said(&seen.lost("b")),
        [(Kind::Service, false, DISCONNECTED)]
    );
    assert_eq!(
        said(&seen.report("a", &up())),
        [(Kind::Service, true, "up")]
    );
    assert_eq!(seen.forget("b"), []);
    assert_eq!(seen.count(Kind::Service, VS, "").up, 1);
}

#[test]
fn of_pools_and_peers_of_a_lost_engine_nothing_is_said_until_it_is_back() {
    let mut seen = Observed::default();
    let mut both = pool(OperState::Up, &[OperState::Up, OperState::Down]);
    both.bgp_sessions = session(BgpState::Established, 1).bgp_sessions;
    assert_eq!(seen.report("a", &both).len(), 4);
    assert_eq!(seen.lost("a"), []);
    assert_eq!(seen.report("a", &both), []);
    seen.lost("a");
    let changes = seen.report(
        "a",
        &pool(OperState::Down, &[OperState::Down, OperState::Down]),
    );
    assert_eq!(
        said(&changes),
        [(Kind::Pool, false, "pool_down"), (Kind::Server, false, "")]
    );
    assert_eq!(changes[1].thing.part, "10.0.0.0:80");
}

#[test]
fn a_peer_that_goes_down_says_why_and_one_that_comes_up_first_was_down_before() {
    let mut seen = Observed::default();
    assert_eq!(seen.report("a", &session(BgpState::Connect, 0)), []);
    let came = seen.report("a", &session(BgpState::Established, 1));
    assert_eq!(said(&came), [(Kind::Peer, true, "ESTABLISHED")]);
    let went = seen.report("a", &session(BgpState::Idle, 1));
    assert_eq!(said(&went), [(Kind::Peer, false, "IDLE")]);
    assert_eq!(went[0].text, "hold timer expired");
    assert_eq!(
        seen.report("a", &session(BgpState::Active, 1)),
        [],
        "it tries again: no news"
    );
}

#[test]
fn a_session_that_was_lost_between_two_reports_went_down_and_came_up() {
    let mut seen = Observed::default();
    seen.report("a", &session(BgpState::Established, 1));
    let changes = seen.report("a", &session(BgpState::Established, 3));
    assert_eq!(
        said(&changes),
        [
            (Kind::Peer, false, "IDLE"),
            (Kind::Peer, true, "ESTABLISHED")
        ]
    );
    assert_eq!(seen.report("a", &session(BgpState::Established, 3)), []);
}

#[test]
fn a_vip_is_up_while_it_is_announced() {
    let mut seen = Observed::default();
    let vip = |announced: bool, reason: &str| Report {
        vips: vec![VipStatus {
            vsvip_uuid: "vsvip-1".into(),
            address: "10.9.9.9".into(),
            announced,
            reason_code: reason.into(),
            ..VipStatus::default()
        }],
        ..Report::default()
    };
    assert_eq!(seen.report("a", &vip(false, "vs_down")), []);
    assert_eq!(
        said(&seen.report("a", &vip(true, ""))),
        [(Kind::Vip, true, "")]
    );
    assert_eq!(
        said(&seen.report("a", &vip(false, "vs_down"))),
        [(Kind::Vip, false, "vs_down")]
    );
}

#[test]
fn what_is_switched_off_is_down_once_it_was_up() {
    let mut seen = Observed::default();
    let off = || service(OperState::Disabled, "vs_disabled");
    assert_eq!(seen.report("a", &off()), []);
    seen.report("a", &up());
    assert_eq!(
        said(&seen.report("a", &off())),
        [(Kind::Service, false, "vs_disabled")]
    );
}

#[test]
fn after_a_start_the_last_events_are_what_is_compared_with() {
    let thing = |uuid: &str| Thing {
        kind: Kind::Service,
        uuid: uuid.into(),
        part: String::new(),
    };
    for (was_up, now, expected) in [
        (true, up(), 0),
        (true, down(), 1),
        (false, up(), 1),
        (false, down(), 0),
    ] {
        let mut seen = Observed::default();
        seen.remember(&thing(VS), was_up);
        assert_eq!(seen.report("a", &now).len(), expected, "{was_up} {now:?}");
    }
    let mut seen = Observed::default();
    seen.begin([VS.to_owned()]);
    assert_eq!(
        seen.report("a", &up()),
        [],
        "it existed, and no event tells of it"
    );
    assert_eq!(
        said(&seen.report("a", &down())),
        [(Kind::Service, false, "pool_down")]
    );
    let mut seen = Observed::default();
    seen.remember(&thing("virtualservice-2"), true);
    seen.remember(&thing(VS), true);
    seen.report("a", &up());
    let changes = seen.settle();
    assert_eq!(said(&changes), [(Kind::Service, false, NOT_REPORTED)]);
    assert_eq!(changes[0].thing.uuid, "virtualservice-2");
    assert_eq!(seen.settle(), []);
}

#[test]
fn servers_of_a_pool_are_counted_over_all_engines() {
    let mut seen = Observed::default();
    use OperState::{Disabled, Down, Up};
    seen.report("a", &pool(Up, &[Up, Down, Disabled, Down]));
    seen.report("b", &pool(Up, &[Down, Up, Disabled, Down]));
    assert_eq!(seen.servers("pool-1"), (2, 3));
    assert_eq!(seen.servers("pool-2"), (0, 0));
}

#[test]
fn a_thing_that_a_report_names_twice_counts_once() {
    let mut seen = Observed::default();
    let mut twice = up();
    twice.virtual_services.extend(down().virtual_services);
    assert_eq!(
        said(&seen.report("a", &twice)),
        [(Kind::Service, true, "up")]
    );
    assert_eq!(
        said(&seen.report("a", &Report::default())),
        [(Kind::Service, false, NOT_PLACED)]
    );
}

#[test]
fn where_a_service_is_up_is_known_of_each_engine() {
    let mut seen = Observed::default();
    seen.report("a", &up());
    seen.report("b", &down());
    let at = |seen: &Observed, se: &str| seen.is_up_at(Kind::Service, VS, se);
    assert_eq!(
        ["a", "b", "c"].map(|se| at(&seen, se)),
        [true, false, false]
    );
    seen.lost("a");
    assert!(!at(&seen, "a"), "nobody knows");
}
