//! The state table, timers and messages of one session, and two sessions against each other.

mod behaviour;
mod capabilities;
mod collision;
mod pair;
mod table;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::fsm::Event;
use super::*;
use crate::rib::{AttributeValues, RouteAttributes};
use crate::types::{Asn, HoldTime};
use crate::wire::{GracefulRestart, Open, encode_keepalive};

const PEER_AS: u32 = 65_000;

fn config() -> SessionConfig {
    SessionConfig {
        local_as: Asn::new(65_000).unwrap(),
        remote_as: Asn::new(PEER_AS).unwrap(),
        router_id: Ipv4Addr::new(10, 10, 10, 11),
        hold_time: HoldTime::new(180).unwrap(),
        keepalive: Duration::from_secs(60),
        connect_retry: Duration::from_secs(10),
        advertisement_interval: Duration::from_secs(5),
        next_hop_v4: Some(Ipv4Addr::new(10, 10, 10, 11)),
        next_hop_v6: None,
        extended_next_hop: false,
        graceful_restart: None,
        learn: None,
        passive: false,
    }
}

fn peer_open() -> Open {
    Open::new(
        Asn::new(PEER_AS).unwrap(),
        90,
        Ipv4Addr::new(10, 10, 10, 1),
        &[Family::Ipv4Unicast],
    )
}

fn routes(last_octets: impl IntoIterator<Item = u8>) -> RouteTable {
    let attributes = Arc::new(RouteAttributes::default());
    last_octets
        .into_iter()
        .map(|last| (IpAddr::from([10, 10, 200, last]).into(), attributes.clone()))
        .collect()
}

/// A session in the state, with its outputs so far taken, and the time.
fn session_in(state: StateName) -> (Session, Instant) {
    let now = Instant::now();
    let mut session = Session::new(config(), now, 1);
    session.set_routes(now, &routes([1]));
    if state != StateName::Idle {
        session.start(now);
    }
    if state == StateName::Active {
        session.on_transport_failed(now, Connection::Opened, "connection refused");
    }
    if state >= StateName::OpenSent {
        session.on_connected(now);
    }
    if state >= StateName::OpenConfirm {
        session.on_bytes(now, Connection::Opened, &peer_open().encode().unwrap());
    }
    if state == StateName::Established {
        session.on_bytes(now, Connection::Opened, &encode_keepalive());
    }
    assert_eq!(session.state(), state);
    take(&mut session);
    (session, now)
}

/// Takes the outputs as short words; the transport takes every byte at once.
fn take(session: &mut Session) -> Vec<String> {
    let mut words = Vec::new();
    while let Some(output) = session.poll_output() {
        match output {
            Output::Connect => words.push("connect".to_owned()),
            Output::Close(Connection::Opened) => words.push("close".to_owned()),
            Output::Close(Connection::Accepted) => words.push("close-accepted".to_owned()),
            Output::Send(connection, bytes) => {
                let second = connection != session.connection;
                words.push(format!(
                    "{}{}",
                    if second { "accepted:" } else { "" },
                    word(&bytes)
                ));
                session.unsent_bytes = session.unsent_bytes.saturating_sub(bytes.len());
            }
            Output::Report(_) => {}
        }
    }
    words
}

fn word(message: &[u8]) -> String {
    match message[18] {
        1 => "OPEN".to_owned(),
        2 if message.len() == 23 => "EoR".to_owned(),
        2 => "UPDATE".to_owned(),
        3 => format!("N{}/{}", message[19], message[20]),
        4 => "KEEPALIVE".to_owned(),
        5 => ["REFRESH", "BoRR", "EoRR"][usize::from(message[21])].to_owned(),
        kind => format!("type {kind}"),
    }
}
