//! Every stamp obeys the limits, and is read back by the other side.

use super::*;
use proptest::prelude::*;

fn jump(clock: u32, id: u8, mark: Mark) -> u32 {
    encode(clock, id, mark).wrapping_sub(clock)
}

#[test]
fn the_edges_of_the_field_have_legal_jumps() {
    let mark = Mark(0);
    // At the beginning of its own field, one before it, one after it, and just before the field ends.
    for clock in [
        0,
        u32::MAX,
        1,
        2,
        (1 << 24) - 1,
        JUMP_MIN,
        3 << 22,
        (3 << 22) + 1,
    ] {
        let jump = jump(clock, 0, mark);
        assert!((JUMP_MIN..JUMP_END).contains(&jump), "{clock}: {jump}");
        assert_eq!(decode(encode(clock, 0, mark), mark), 0, "{clock}");
    }
}

#[test]
fn a_stamp_is_not_renewed_before_two_hours() {
    let start = Instant::now();
    let stamp = Stamp::new(start, Progress::default());
    let acked = Progress {
        bytes_acked: 1,
        outstanding: 0,
    };
    assert!(!stamp.is_due(start + RENEW_AFTER - Duration::from_millis(1), acked));
    assert!(stamp.is_due(start + RENEW_AFTER, acked));
    assert_eq!(stamp.due_at(), start + RENEW_AFTER);
}

#[test]
fn a_stamp_that_the_client_may_not_have_seen_is_not_renewed() {
    let start = Instant::now();
    let before = Progress {
        bytes_acked: 500,
        outstanding: 0,
    };
    let stamp = Stamp::new(start, before);
    let late = start + RENEW_AFTER * 10;
    assert!(!stamp.is_due(late, before), "nothing sent since");
    let on_its_way = Progress {
        bytes_acked: 600,
        outstanding: 1,
    };
    assert!(!stamp.is_due(late, on_its_way), "data in flight");
    assert!(!Stamp::may_begin(on_its_way));
    assert!(Stamp::may_begin(before));
}

proptest! {
    #[test]
    fn every_clock_and_every_id_have_a_legal_jump_that_names_the_id(
        clock in any::<u32>(),
        id in 0..64u8,
        mark in any::<u64>(),
    ) {
        let mark = Mark(mark);
        let jump = jump(clock, id, mark);
        prop_assert!((JUMP_MIN..JUMP_END).contains(&jump));
        let value = encode(clock, id, mark);
        prop_assert_eq!(value & 1, 0);
        prop_assert_eq!(decode(value, mark), id);
    }

    #[test]
    fn a_stamp_names_the_id_until_well_after_its_renewal_is_due(
        clock in any::<u32>(),
        id in 0..64u8,
        mark in any::<u64>(),
        elapsed_ms in 0..(1u32 << 24) - JUMP_MIN - 1,
    ) {
        let mark = Mark(mark);
        let later = encode(clock, id, mark).wrapping_add(elapsed_ms);
        prop_assert_eq!(decode(later, mark), id);
    }

    #[test]
    fn two_flows_blind_the_same_id_differently_if_their_marks_differ(clock in any::<u32>(), id in 0..64u8) {
        let fields: std::collections::BTreeSet<u8> = (0..64)
            .map(|mark| decode(encode(clock, id, Mark(mark)), Mark(0)))
            .collect();
        prop_assert_eq!(fields.len(), 64);
    }
}

#[test]
fn renewal_is_due_an_hour_before_the_field_can_drift() {
    let least = Duration::from_millis((1 << 24) - u64::from(JUMP_MIN) - 1);
    assert!(RENEW_AFTER + Duration::from_secs(3600) < least);
}
