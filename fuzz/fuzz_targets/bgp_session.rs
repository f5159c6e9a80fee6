//! Any bytes, cut anywhere, on both connections of a session: no panic, and nothing is said on the peer's
//! connection once it is closed.
#![no_main]

use std::time::{Duration, Instant};

use bgp::session::{Connection, Output, SessionConfig};
use bgp::{Asn, HoldTime, Session};
use libfuzzer_sys::fuzz_target;

fn config() -> SessionConfig {
    SessionConfig {
        local_as: Asn::new(65_000).expect("not 0"),
        remote_as: Asn::new(65_001).expect("not 0"),
        router_id: [10, 0, 0, 1].into(),
        hold_time: HoldTime::new(90).expect("not 1 or 2"),
        keepalive: Duration::from_secs(30),
        connect_retry: Duration::from_secs(10),
        advertisement_interval: Duration::from_secs(5),
        next_hop_v4: Some([10, 0, 0, 1].into()),
        next_hop_v6: None,
        extended_next_hop: false,
        graceful_restart: None,
        learn: Some(bgp::rib_in::LearnPolicy {
            only_default: false,
            limit: 50,
        }),
        passive: false,
    }
}

fuzz_target!(|steps: Vec<(u8, Vec<u8>)>| {
    let mut now = Instant::now();
    let mut session = Session::new(config(), now, 7);
    session.start(now);
    let mut accepted = false;
    for (step, bytes) in steps {
        match step % 6 {
            0 => session.on_connected(now),
            1 if !accepted => {
                accepted = true;
                session.on_accepted(now);
            }
            2 => session.on_bytes(now, Connection::Opened, &bytes),
            3 => session.on_bytes(now, Connection::Accepted, &bytes),
            4 => session.on_transport_failed(now, Connection::Opened, "reset"),
            _ => {
                now += Duration::from_secs(u64::from(step));
                session.on_deadline(now);
            }
        }
        while let Some(output) = session.poll_output() {
            match output {
                Output::Send(Connection::Accepted, _) => assert!(accepted),
                Output::Close(Connection::Accepted) => {
                    assert!(accepted);
                    accepted = false;
                }
                Output::Connect
                | Output::Send(Connection::Opened, _)
                | Output::Close(Connection::Opened)
                | Output::Report(_) => {}
            }
        }
    }
});
