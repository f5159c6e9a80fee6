//! The state table, timers and messages of one session, and two sessions against each other.

mod pair;
mod table;
mod timing;

use super::*;

const OURS: u32 = 11;
const THEIRS: u32 = 22;

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn config() -> Config {
    Config {
        min_tx: ms(50),
        min_rx: ms(60),
        multiplier: 3,
    }
}

/// A packet of the peer: 100 ms, multiplier 4.
fn peer(state: State) -> Packet {
    Packet {
        diagnostic: Diagnostic::NONE,
        state,
        poll: false,
        final_bit: false,
        control_plane_independent: false,
        demand: false,
        multiplier: 4,
        my_discriminator: THEIRS,
        your_discriminator: OURS,
        desired_min_tx_us: 100_000,
        required_min_rx_us: 20_000,
        required_min_echo_rx_us: 0,
    }
}

/// A session in the state, with its Poll Sequence ended and its first packets sent.
fn session_in(state: State) -> (Session, Instant) {
    let now = Instant::now();
    let mut session = Session::new(config(), OURS, now, 1);
    session.on_deadline(now);
    match state {
        State::AdminDown => {
            session.set_admin_down(now, true);
        }
        State::Down => {}
        State::Init => {
            session.on_packet(now, &peer(State::Down)).unwrap();
        }
        State::Up => {
            session.on_packet(now, &peer(State::Init)).unwrap();
            let finished = Packet {
                final_bit: true,
                ..peer(State::Up)
            };
            session.on_packet(now, &finished).unwrap();
        }
    }
    session.on_deadline(now);
    assert_eq!(session.state(), state);
    (session, now)
}

fn sent(outcome: Outcome) -> Packet {
    Packet::decode(&outcome.send.expect("a packet")).expect("ours is well-formed")
}
