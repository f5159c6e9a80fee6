//! Any datagrams, pauses, polls and wishes into a BFD session: no panic, and never a second deadline in the past.
#![no_main]

use std::time::{Duration, Instant};

use bfd::{Config, Packet, Session};
use libfuzzer_sys::fuzz_target;

fn config(min_tx_ms: u16, min_rx_ms: u16, multiplier: u8) -> Config {
    Config {
        min_tx: Duration::from_millis(min_tx_ms.into()),
        min_rx: Duration::from_millis(min_rx_ms.into()),
        multiplier,
    }
}

fuzz_target!(|steps: Vec<(u16, u8, u16, Vec<u8>)>| {
    let mut now = Instant::now();
    let mut session = Session::new(config(50, 50, 3), 1, now, 7);
    for (pause_ms, wish, interval_ms, datagram) in steps {
        now += Duration::from_millis(pause_ms.into());
        match wish {
            // Poll Sequences begin and overlap.
            0..32 => session.set_config(now, config(interval_ms, interval_ms.rotate_left(5), wish)),
            32..40 => drop(session.set_admin_down(now, true)),
            40..56 => drop(session.set_admin_down(now, false)),
            56..72 => drop(session.transmit(now)),
            _ => {}
        }
        session.on_deadline(now);
        let next = session.next_deadline();
        assert!(next.is_none_or(|at| at > now), "a deadline that does not pass");
        if let Ok(mut packet) = Packet::decode(&datagram) {
            // Bits that chance alone rarely sets together with a valid rest.
            packet.poll |= wish & 0x80 != 0;
            packet.final_bit |= wish & 0x40 != 0;
            // What is discarded is discarded.
            let _ = session.on_packet(now, &packet);
            session.transmit_early(now);
        }
    }
});
