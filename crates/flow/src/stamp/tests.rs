use super::*;
use proptest::prelude::*;

/// For how long a stamp promises its field, in ms: its length without the shortest jump and a rounding.
const FIELD_KEPT: u32 = (1 << SHIFT) - JUMP_MIN - 1;

fn fields() -> impl Strategy<Value = Field> {
    (0..64u8).prop_map(Field)
}

/// Clocks, those around the borders of fields among them.
fn clocks() -> impl Strategy<Value = u32> {
    let near = (
        0..256u32,
        -3..=3i32,
        prop::sample::select(vec![0, JUMP_MIN, 1 << 24]),
    );
    let near = near
        .prop_map(|(f, off, further)| (f << SHIFT).wrapping_add_signed(off).wrapping_sub(further));
    prop_oneof![any::<u32>(), near]
}

proptest! {
    #[test]
    fn a_jump_goes_forward_within_its_bounds_and_stays_in_milliseconds(clock in clocks(), field in fields()) {
        let next = next_clock(clock, field);
        let jump = next.wrapping_sub(clock);
        prop_assert!((JUMP_MIN..JUMP_END).contains(&jump), "{jump:#x}");
        prop_assert_eq!(next & MICROSECONDS, 0);
    }

    #[test]
    fn after_a_jump_the_field_is_read_until_well_after_the_renewal(
        clock in clocks(), field in fields(), later in 0..=FIELD_KEPT,
    ) {
        prop_assert!(u128::from(FIELD_KEPT) > RENEW_AFTER.as_millis() * 3 / 2);
        prop_assert_eq!(Field::read(next_clock(clock, field).wrapping_add(later)), field);
    }

    #[test]
    fn two_jumps_in_sequence_and_days_between_them_are_no_step_back_for_the_client(
        clock in clocks(), first in fields(), second in fields(), between in 0..5 * 86_400_000u32,
    ) {
        let once = next_clock(clock, first);
        let twice = next_clock(once.wrapping_add(between), second);
        // PAWS compares with the last TSval that the client has seen: of before the second jump at the earliest.
        prop_assert!((twice.wrapping_sub(once) as i32) > 0);
        prop_assert!((once.wrapping_sub(clock) as i32) > 0);
    }

    #[test]
    fn the_member_id_comes_back_from_the_field(member in 0..64u8, mark in any::<u64>(), noise in any::<u32>()) {
        let field = Field::of(member, Mark(mark));
        let timestamp = noise & !(0x3F << SHIFT) | field.start();
        prop_assert_eq!(Field::read(timestamp).member(Mark(mark)), member);
    }
}

#[test]
fn a_clock_at_the_start_of_its_field_or_just_before_lands_inside_it() {
    let start = Field(5).start();
    for clock in [start, start - 1, start - JUMP_MIN + 1] {
        assert_eq!(next_clock(clock, Field(5)), (clock + JUMP_MIN + 1) & !1);
    }
    assert_eq!(next_clock(start - JUMP_MIN, Field(5)), start);
    assert_eq!(next_clock(start + 1, Field(5)), start + CYCLE);
}

fn stamp(field: u8, at: Instant) -> Stamp {
    Stamp {
        field: Field(field),
        at,
        bytes_acked: 100,
    }
}

#[test]
fn a_stamp_is_due_when_there_is_none_when_it_is_old_and_when_it_names_another() {
    let now = Instant::now();
    let old = now + RENEW_AFTER;
    let last = stamp(1, now);
    assert!(is_due(None, Field(1), now, RENEW_AFTER));
    assert!(!is_due(
        Some(&last),
        Field(1),
        old - Duration::from_millis(1),
        RENEW_AFTER
    ));
    assert!(is_due(Some(&last), Field(1), old, RENEW_AFTER));
    assert!(is_due(Some(&last), Field(2), now, RENEW_AFTER));
}

#[test]
fn a_stamp_waits_for_everything_to_be_acknowledged_and_for_the_last_one_to_be_seen() {
    let last = stamp(1, Instant::now());
    let sent = |all_acked, bytes_acked| Sent {
        all_acked,
        bytes_acked,
    };
    assert!(is_safe(None, sent(true, 0)));
    assert!(!is_safe(None, sent(false, 0)));
    assert!(!is_safe(Some(&last), sent(true, 100)));
    assert!(!is_safe(Some(&last), sent(false, 101)));
    assert!(is_safe(Some(&last), sent(true, 101)));
}
