//! The edges of the windows, and that they wrap.

use super::*;
use crate::packet::Flags;
use proptest::prelude::*;

fn ack(seq: u32, ack: u32) -> Segment {
    Segment {
        flags: Flags::ACK,
        seq,
        ack,
        ..Segment::default()
    }
}

fn established(rcv_nxt: u32, snd_una: u32, in_flight: u32) -> Socket {
    Socket::Established {
        rcv_nxt,
        rcv_wnd: 100_000,
        snd_una,
        snd_nxt: snd_una.wrapping_add(in_flight),
        fin_sent: false,
        fin_received: false,
    }
}

#[test]
fn a_listener_or_nothing_fits_nothing() {
    assert!(!fits(&ack(0, 0), Socket::None));
    assert!(!fits(&ack(0, 0), Socket::Listener { cookie_valid: true }));
}

#[test]
fn a_request_fits_what_follows_its_syn() {
    let socket = Socket::NewSynRecv {
        rcv_isn: u32::MAX,
        snt_isn: 500,
    };
    assert!(fits(&ack(0, 501), socket));
    assert!(fits(&ack(65535, 501), socket));
    assert!(!fits(&ack(65536, 501), socket));
    assert!(!fits(&ack(u32::MAX, 501), socket), "below the SYN's end");
    assert!(!fits(&ack(0, 502), socket), "answers another SYN-ACK");
}

#[test]
fn a_client_that_closes_before_it_answers_sends_an_rst_without_ack_that_fits() {
    let socket = Socket::NewSynRecv {
        rcv_isn: 9,
        snt_isn: 500,
    };
    let rst = Flags {
        rst: true,
        ..Flags::NONE
    };
    let segment = |seq| Segment {
        flags: rst,
        seq,
        ..Segment::default()
    };
    assert!(fits(&segment(10), socket));
    assert!(!fits(&segment(9), socket));
}

#[test]
fn a_small_window_still_takes_65535_octets_ahead() {
    let socket = Socket::Established {
        rcv_nxt: 0,
        rcv_wnd: 0,
        snd_una: 0,
        snd_nxt: 0,
        fin_sent: false,
        fin_received: false,
    };
    assert!(fits(&ack(65535, 0), socket));
    assert!(!fits(&ack(65536, 0), socket));
}

#[test]
fn a_window_of_which_every_acknowledgment_was_lost_still_fits() {
    let window = 6 << 20; // what Linux grows a receive window to by default
    let repeated = ack(0, 0);
    assert!(fits(&repeated, established(window, 0, 0)));
    let time_wait = Socket::TimeWait {
        rcv_nxt: window,
        snd_nxt: 0,
    };
    assert!(fits(&repeated, time_wait));
}

#[test]
fn time_wait_looks_at_the_acknowledgment_too() {
    let socket = Socket::TimeWait {
        rcv_nxt: 1000,
        snd_nxt: 2000,
    };
    assert!(fits(&ack(1000, 2000), socket));
    assert!(!fits(&ack(1000, 2001), socket));
    assert!(!fits(
        &ack(1000, 2000u32.wrapping_sub(ACK_MARGIN + 1)),
        socket
    ));
    assert!(!fits(&ack(66_536, 2000), socket));
}

#[test]
fn a_flow_ends_with_the_last_segment_that_its_socket_needs() {
    let state = |sent: bool, received: bool| Socket::Established {
        rcv_nxt: 10,
        rcv_wnd: 100,
        snd_una: 500,
        snd_nxt: 501,
        fin_sent: sent,
        fin_received: received,
    };
    let with = |flags: Flags, acked: u32| Segment {
        flags,
        ..ack(10, acked)
    };
    let fin = Flags {
        fin: true,
        ..Flags::ACK
    };
    let rst = Flags {
        rst: true,
        ..Flags::NONE
    };
    assert!(!ends(&with(fin, 500), state(false, false)), "we go on");
    assert!(ends(&with(fin, 500), state(true, false)));
    assert!(!ends(&with(Flags::ACK, 501), state(true, false)));
    assert!(!ends(&with(Flags::ACK, 500), state(true, true)));
    assert!(ends(&with(Flags::ACK, 501), state(true, true)));
    assert!(ends(&with(rst, 0), state(false, false)));
    let forged = Segment {
        flags: rst,
        ..ack(1 << 30, 0)
    };
    assert!(!ends(&forged, state(false, false)), "it does not fit");
    let time_wait = Socket::TimeWait {
        rcv_nxt: 10,
        snd_nxt: 501,
    };
    assert!(ends(&with(fin, 501), time_wait));
}

proptest! {
    #[test]
    fn the_window_has_the_same_edges_wherever_it_lies(rcv_nxt in any::<u32>(), snd_una in any::<u32>()) {
        let socket = established(rcv_nxt, snd_una, 10);
        let fits_at = |offset: i64, acked: i64| {
            let seq = rcv_nxt.wrapping_add(offset as u32);
            fits(&ack(seq, snd_una.wrapping_add(acked as u32)), socket)
        };
        let (behind, acks_behind) = (-i64::from(SEQ_MARGIN), -i64::from(ACK_MARGIN));
        for (offset, acked, expected) in [
            (0, 0, true),
            (100_000, 10, true),
            (100_001, 0, false),
            (behind, acks_behind, true),
            (behind - 1, 0, false),
            (0, 11, false),
            (0, acks_behind - 1, false),
        ] {
            prop_assert_eq!(fits_at(offset, acked), expected, "{} {}", offset, acked);
        }
    }

    #[test]
    fn without_ack_the_number_does_not_matter(number in any::<u32>()) {
        let rst = Flags { rst: true, ..Flags::NONE };
        let segment = Segment { flags: rst, ..ack(77, number) };
        prop_assert!(fits(&segment, established(77, 0, 0)));
    }
}
