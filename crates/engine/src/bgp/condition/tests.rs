use std::net::Ipv4Addr;
use std::time::Instant;

use bgp::wire::{Open, encode_keepalive};
use bgp::{Asn, Connection, Family, Notification};
use proto::v1;

use super::super::learn::BestRoutes;
use super::super::plan::{Plan, Sessions};
use super::super::{Announcement, BgpDesired};
use super::*;

/// The plan of the only session, with this peer.
fn plan(peer: v1::BgpPeer) -> SessionPlan {
    let peer = v1::BgpPeer {
        address: "10.0.0.1".to_owned(),
        subnet: "10.0.0.0/24".to_owned(),
        remote_as: 65_000,
        local_as: 65_000,
        hold_time_s: 90,
        connect_timer_s: 10,
        advertise_vip: true,
        ..peer
    };
    let interface = v1::Interface {
        name: "eth0".to_owned(),
        up: true,
        addresses: vec!["10.0.0.11/24".to_owned()],
        ..v1::Interface::default()
    };
    let desired = BgpDesired {
        profile: Some(v1::BgpProfile {
            local_as: 65_000,
            peers: vec![peer],
            ..v1::BgpProfile::default()
        }),
        sessions_wanted: true,
        interfaces: vec![interface],
        routes: [("10.100.0.1".parse().unwrap(), Announcement::default())].into(),
        ..BgpDesired::default()
    };
    let id = Ipv4Addr::new(10, 0, 0, 11);
    let plan = Plan::new(&desired, &BestRoutes::new(), id, &Sessions::new(), false);
    plan.sessions.into_values().next().unwrap()
}

fn strict() -> SessionPlan {
    plan(v1::BgpPeer {
        bfd: true,
        bfd_strict: true,
        ..v1::BgpPeer::default()
    })
}

struct Case {
    plan: SessionPlan,
    core: Session,
    now: Instant,
    bfd: BfdState,
    md5: Md5Failures,
}

impl Case {
    /// Started, the first connect under way, the gate as BFD says.
    fn new(plan: SessionPlan, bfd: BfdState) -> Self {
        let now = Instant::now();
        let mut core = Session::new(plan.core.clone(), now, 1);
        core.set_gate(now, plan.bfd.is_some_and(|b| b.strict));
        core.start(now);
        Self {
            plan,
            core,
            now,
            bfd,
            md5: Md5Failures::default(),
        }
    }

    fn failed(&self) -> Condition {
        let facts = Facts {
            plan: &self.plan,
            core: &self.core,
            bfd: self.bfd,
            md5: self.md5,
        };
        facts.first_failed().expect("not established").0
    }

    /// Connects anew and receives the router's OPEN.
    fn exchange_opens(&mut self) {
        while self.core.state() == StateName::Idle {
            self.pass_time();
        }
        self.core.on_connected(self.now);
        let families = [Family::Ipv4Unicast];
        let router = Ipv4Addr::new(10, 0, 0, 1);
        let open = Open::new(Asn::new(65_000).unwrap(), 90, router, &families);
        self.receive(&open.encode().unwrap());
        assert_eq!(self.core.state(), StateName::OpenConfirm);
    }

    fn receive(&mut self, bytes: &[u8]) {
        self.core.on_bytes(self.now, Connection::Opened, bytes);
    }

    /// To the next deadline.
    fn pass_time(&mut self) {
        self.now = self.core.next_deadline().expect("something is due");
        self.core.on_deadline(self.now);
    }
}

#[test]
fn a_strict_session_is_judged_by_tcp_and_open_before_bfd() {
    let mut case = Case::new(strict(), BfdState::WaitingForPeer);
    assert_eq!(case.failed(), Condition::TcpConnected);
    case.core
        .on_transport_failed(case.now, Connection::Opened, "connection refused");
    assert_eq!(case.failed(), Condition::TcpConnected);
    case.exchange_opens();
    assert_eq!(case.failed(), Condition::BfdAllows);
    case.receive(&encode_keepalive());
    assert_eq!(case.failed(), Condition::BfdAllows);
}

#[test]
fn a_strict_session_with_a_wrong_as_names_the_open() {
    let mut case = Case::new(strict(), BfdState::WaitingForPeer);
    let refusal = Notification::new(2, 2, bytes::Bytes::new());
    for _ in 0..2 {
        case.exchange_opens();
        case.receive(&refusal.encode());
        assert_eq!(case.failed(), Condition::OpenAgreed);
    }
    // Also while the next OPEN of the router is here and its refusal of ours is not yet.
    case.exchange_opens();
    assert_eq!(case.failed(), Condition::OpenAgreed);
    case.receive(&encode_keepalive());
    assert_eq!(case.failed(), Condition::BfdAllows, "accepted now");
}

#[test]
fn a_strict_session_that_ran_out_of_time_still_waits_for_bfd() {
    let mut case = Case::new(strict(), BfdState::WaitingForPeer);
    case.exchange_opens();
    case.receive(&encode_keepalive());
    while case.core.state() == StateName::OpenConfirm {
        case.pass_time();
    }
    assert_eq!(case.failed(), Condition::BfdAllows);
    let mut lost = Case::new(strict(), BfdState::Down);
    lost.exchange_opens();
    lost.core.reset(lost.now, Notification::bfd_down());
    assert_eq!(lost.failed(), Condition::BfdAllows);
}

#[test]
fn a_session_that_is_not_strict_never_waits_for_bfd() {
    let watched = plan(v1::BgpPeer {
        bfd: true,
        ..v1::BgpPeer::default()
    });
    let mut case = Case::new(watched, BfdState::WaitingForPeer);
    assert_eq!(case.failed(), Condition::TcpConnected);
    case.exchange_opens();
    assert_eq!(case.failed(), Condition::OpenAgreed);
    case.core.reset(case.now, Notification::bfd_down());
    assert_eq!(case.failed(), Condition::SessionEstablished);
}

#[test]
fn silence_speaks_of_the_key_where_there_is_one() {
    let keyed = || {
        plan(v1::BgpPeer {
            md5_secret: "k".to_owned(),
            ..v1::BgpPeer::default()
        })
    };
    let unexpected = Md5Failures {
        wrong: 0,
        unexpected: 1,
    };
    for (plan, md5, expected) in [
        (keyed(), Md5Failures::default(), Condition::Md5Accepted),
        (
            plan(v1::BgpPeer::default()),
            unexpected,
            Condition::Md5Accepted,
        ),
        (
            plan(v1::BgpPeer::default()),
            Md5Failures::default(),
            Condition::TcpConnected,
        ),
    ] {
        let mut case = Case::new(plan, BfdState::Off);
        case.md5 = md5;
        case.pass_time();
        assert_eq!(case.failed(), expected);
    }
}
