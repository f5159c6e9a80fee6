//! Round trips, and that nothing forged is opened.

use super::*;
use proptest::prelude::*;

const KEY: MessageKey = MessageKey {
    id: 7,
    secret: [0x0123_4567_89AB_CDEF, 0xFEDC_BA98_7654_3210],
};

const NEXT: MessageKey = MessageKey {
    id: 8,
    secret: [1, 2],
};

fn flow(v6: bool) -> Flow {
    let (client, service) = if v6 {
        ("[2001:db8::9]:40000", "[2001:db8::1]:443")
    } else {
        ("192.0.2.9:40000", "198.51.100.1:443")
    };
    Flow {
        protocol: Protocol::Tcp,
        client: client.parse().unwrap(),
        service: service.parse().unwrap(),
    }
}

fn claim() -> Message {
    Message {
        kind: MessageKind::Claim,
        sender: 3,
        number: 0x2345,
        generation: 0xDEAD_BEEF,
        flow: flow(false),
        load: 0,
    }
}

prop_compose! {
    fn flows()(
        v6 in any::<bool>(),
        addresses in any::<[[u8; 16]; 2]>(),
        ports in any::<[u16; 2]>(),
        udp in any::<bool>(),
    ) -> Flow {
        let address = |bytes: [u8; 16]| if v6 {
            // 2000::/3, so that it is not an IPv4 address in disguise.
            IpAddr::from(Ipv6Addr::from_bits(u128::from_be_bytes(bytes) >> 3 | 1 << 125))
        } else {
            IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]])
        };
        Flow {
            protocol: if udp { Protocol::Udp } else { Protocol::Tcp },
            client: SocketAddr::new(address(addresses[0]), ports[0]),
            service: SocketAddr::new(address(addresses[1]), ports[1]),
        }
    }
}

prop_compose! {
    fn messages()(
        kind in 1..=3u8,
        sender in 0..64u8,
        number in 0..=VALUE_MASK,
        generation in any::<u32>(),
        flow in flows(),
        load in 0..=100u8,
    ) -> Message {
        Message {
            kind: MessageKind::from_number(kind).unwrap(),
            sender,
            number,
            generation,
            flow,
            load,
        }
    }
}

#[test]
fn a_message_is_the_bytes_of_the_specification() {
    let bytes = claim().sign(&KEY);
    #[rustfmt::skip]
    let signed = [
        1, 1, 3, 6,  0, 0, 0, 7,  0, 0, 0x23, 0x45,  0xDE, 0xAD, 0xBE, 0xEF,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 192, 0, 2, 9,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 198, 51, 100, 1,
        0x9C, 0x40,  0x01, 0xBB,  0, 0, 0, 0,
    ];
    assert_eq!(bytes[..56], signed);
    assert_eq!(bytes[56..], siphash24(KEY.secret, &signed).to_be_bytes());
}

fn opened(datagram: &[u8]) -> Result<Message, Refusal> {
    let envelope = Envelope::read(datagram)?;
    envelope.check()?;
    envelope.open(&[NEXT, KEY])
}

#[test]
fn the_first_failure_in_the_order_of_the_specification_is_the_one_reported() {
    let mut bytes = claim().sign(&KEY).to_vec();
    assert_eq!(opened(&[]), Err(Refusal::Service));
    assert_eq!(opened(&bytes[..63]), Err(Refusal::Service));
    bytes[1] = 9;
    assert_eq!(opened(&bytes), Err(Refusal::Mac));
    bytes[4] = 1;
    assert_eq!(opened(&bytes), Err(Refusal::Key));
    bytes.push(0);
    assert_eq!(opened(&bytes), Err(Refusal::Length));
    bytes[0] = 2;
    assert_eq!(opened(&bytes), Err(Refusal::Version));
}

#[test]
fn what_a_device_writes_where_it_completes_checksums_does_not_matter() {
    let mut bytes = claim().sign(&KEY);
    bytes[8..10].copy_from_slice(&[0xAB, 0xCD]);
    assert_eq!(opened(&bytes), Ok(claim()));
}

#[test]
fn a_signed_message_of_an_unknown_kind_is_refused_for_its_kind() {
    let mut bytes = claim().sign(&KEY);
    bytes[1] = 6;
    let tag = siphash24(KEY.secret, &bytes[..56]).to_be_bytes();
    bytes[56..].copy_from_slice(&tag);
    let envelope = Envelope::read(&bytes).unwrap();
    assert_eq!(envelope.open(&[KEY]), Err(Refusal::Kind));
}

#[test]
fn both_keys_of_a_rotation_open_and_a_retired_one_does_not() {
    let old = Envelope::read(&claim().sign(&KEY)).unwrap();
    let new = Envelope::read(&claim().sign(&NEXT)).unwrap();
    assert_eq!(old.open(&[NEXT, KEY]), Ok(claim()));
    assert_eq!(new.open(&[NEXT, KEY]), Ok(claim()));
    assert_eq!(old.open(&[NEXT]), Err(Refusal::Key));
    let impostor = MessageKey { id: 7, ..NEXT };
    assert_eq!(old.open(&[impostor]), Err(Refusal::Mac));
}

#[test]
fn a_flow_of_an_unknown_protocol_is_none() {
    let mut bytes = claim().sign(&KEY);
    bytes[3] = 1;
    assert_eq!(Envelope::read(&bytes).unwrap().flow(), None);
    bytes[3] = 17;
    assert!(Envelope::read(&bytes).unwrap().flow().is_some());
}

#[test]
fn a_flow_label_carries_the_word_in_its_upper_bits() {
    let word = Word::new(TunnelKind::Return, 0x0123);
    assert_eq!(word.encode(), 0xC123);
    assert_eq!(word.flow_label(), 0xC_1230);
    assert_eq!(Word::of_flow_label(0xC_123F), word);
}

proptest! {
    #[test]
    fn a_message_survives_the_wire(message in messages()) {
        let bytes = message.sign(&KEY);
        let envelope = Envelope::read(&bytes).unwrap();
        prop_assert_eq!(envelope.flow(), Some(message.flow));
        prop_assert_eq!(envelope.open(&[NEXT, KEY]), Ok(message));
    }

    #[test]
    fn one_changed_bit_anywhere_else_is_noticed(message in messages(), bit in 0..512usize) {
        let mut bytes = message.sign(&KEY);
        bytes[bit / 8] ^= 1 << (bit % 8);
        let expected = matches!(bit / 8, 8 | 9).then_some(message);
        prop_assert_eq!(opened(&bytes).ok(), expected);
    }

    #[test]
    fn random_bytes_never_panic_and_are_never_opened(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..130),
        is_cut in any::<bool>(),
        right_start in any::<bool>(),
    ) {
        if is_cut {
            bytes.truncate(MESSAGE_LEN);
        }
        if right_start && bytes.len() >= 8 {
            bytes[..8].copy_from_slice(&[1, 1, 3, 6, 0, 0, 0, 7]);
        }
        let _ = Envelope::read(&bytes).map(|envelope| envelope.flow());
        prop_assert!(opened(&bytes).is_err());
    }

    #[test]
    fn any_16_bits_are_a_word(bits in any::<u16>()) {
        let word = Word::decode(bits);
        prop_assert_eq!(word.encode(), bits);
        prop_assert_eq!(Word::of_flow_label(word.flow_label()), word);
    }
}

#[test]
fn ipv6_flows_keep_their_addresses() {
    let message = Message {
        flow: flow(true),
        ..claim()
    };
    let bytes = message.sign(&KEY);
    assert_eq!(bytes[16..20], [0x20, 0x01, 0x0D, 0xB8]);
    assert_eq!(Envelope::read(&bytes).unwrap().open(&[KEY]), Ok(message));
}
