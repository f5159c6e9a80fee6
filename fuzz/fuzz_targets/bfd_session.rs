//! Any datagrams and pauses into a BFD session: no panic, and never a second deadline in the past.
#![no_main]

use std::time::{Duration, Instant};

use bfd::{Config, Packet, Session};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|steps: Vec<(u16, Vec<u8>)>| {
    let config = Config {
        min_tx: Duration::from_millis(50),
        min_rx: Duration::from_millis(50),
        multiplier: 3,
    };
    let mut now = Instant::now();
    let mut session = Session::new(config, 1, now, 7);
    for (pause_ms, datagram) in steps {
        now += Duration::from_millis(pause_ms.into());
        session.on_deadline(now);
        let next = session.next_deadline();
        assert!(next.is_none_or(|at| at > now), "a deadline that does not pass");
        if let Ok(packet) = Packet::decode(&datagram) {
            // What is discarded is discarded.
            let _ = session.on_packet(now, &packet);
            session.transmit_early(now);
        }
    }
});
