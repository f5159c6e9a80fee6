use super::*;
use proptest::prelude::*;

fn packet() -> Packet {
    Packet {
        diagnostic: Diagnostic::NONE,
        state: State::Down,
        poll: false,
        final_bit: false,
        control_plane_independent: false,
        demand: false,
        multiplier: 3,
        my_discriminator: 0x0102_0304,
        your_discriminator: 0,
        desired_min_tx_us: 1_000_000,
        required_min_rx_us: 50_000,
        required_min_echo_rx_us: 0,
    }
}

/// RFC 5880 section 4.1.
#[test]
fn a_packet_is_exactly_these_bytes() {
    let mut expected = vec![0x20, 0x40, 3, 24, 1, 2, 3, 4, 0, 0, 0, 0];
    expected.extend(1_000_000_u32.to_be_bytes());
    expected.extend(50_000_u32.to_be_bytes());
    expected.extend([0; 4]);
    assert_eq!(packet().encode()[..], expected);
}

/// RFC 5880 section 6.8.6, one rule after the other.
#[test]
fn every_packet_that_must_be_discarded_is() {
    let good = packet().encode();
    let with = |at: usize, value: u8| {
        let mut bytes = good.to_vec();
        bytes[at] = value;
        bytes
    };
    let mut authenticated = good.to_vec();
    authenticated[1] |= 0x04;
    authenticated[3] = 26;
    authenticated.extend([0; 2]);
    let cases = [
        (with(0, 0x00), Discard::Version),
        (with(0, 0x40), Discard::Version),
        (with(3, 23), Discard::Length),
        (with(3, 25), Discard::Length),
        (good[..23].to_vec(), Discard::Length),
        (vec![], Discard::Length),
        (with(2, 0), Discard::Multiplier),
        (with(1, 0x41), Discard::Multipoint),
        (
            [&good[..4], &[0; 4], &good[8..]].concat(),
            Discard::MyDiscriminator,
        ),
        (with(1, 0x80), Discard::YourDiscriminator),
        (with(1, 0xC0), Discard::YourDiscriminator),
        (authenticated, Discard::Authentication),
        (with(1, 0x44), Discard::Length),
    ];
    for (bytes, discard) in cases {
        assert_eq!(Packet::decode(&bytes), Err(discard), "{bytes:02x?}");
    }
    // AdminDown and Down may not know us yet; what follows the packet in the datagram does not matter.
    assert!(Packet::decode(&with(1, 0x00)).is_ok());
    assert!(Packet::decode(&[&good[..], &[9; 8]].concat()).is_ok());
}

#[test]
fn every_discard_has_its_own_counter() {
    let mut discards = Discards::default();
    for (index, discard) in Discard::ALL.into_iter().enumerate() {
        for _ in 0..=index {
            discards.count(discard);
        }
    }
    let seen: Vec<_> = discards.occurred().collect();
    let expected: Vec<_> = Discard::ALL.into_iter().zip(1..).collect();
    assert_eq!(seen, expected);
    assert_eq!(discards.total(), 55);
    let words: std::collections::BTreeSet<_> = Discard::ALL.iter().map(|d| d.word()).collect();
    assert_eq!(words.len(), Discard::ALL.len(), "{words:?}");
}

prop_compose! {
    fn any_packet()(
        diagnostic in 0..32u8, state in 0..4u8, bits: [bool; 4], multiplier in 1..=255u8,
        my_discriminator in 1..=u32::MAX, your_discriminator in 1..=u32::MAX, words: [u32; 3],
    ) -> Packet {
        Packet {
            diagnostic: Diagnostic::from_bits(diagnostic),
            state: State::from_bits(state),
            poll: bits[0],
            final_bit: bits[1],
            control_plane_independent: bits[2],
            demand: bits[3],
            multiplier,
            my_discriminator,
            your_discriminator,
            desired_min_tx_us: words[0],
            required_min_rx_us: words[1],
            required_min_echo_rx_us: words[2],
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn packets_read_back_as_written(packet in any_packet()) {
        prop_assert_eq!(Packet::decode(&packet.encode()), Ok(packet));
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        if let Ok(packet) = Packet::decode(&bytes) {
            prop_assert_eq!(Packet::decode(&packet.encode()), Ok(packet));
        }
    }
}
