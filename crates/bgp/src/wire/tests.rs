mod received;

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::rib::{AttributeValues, Origin, RouteAttributes};
use crate::types::{Asn, Community, Family, FamilySet, LargeCommunity};

const IBGP: DecodeContext = DecodeContext {
    four_octet_as: true,
    ibgp: true,
    extended_message: false,
    families: FamilySet::ALL,
    expected: Expected::Routes,
};
const EBGP: DecodeContext = DecodeContext {
    ibgp: false,
    ..IBGP
};

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xFF; 16];
    bytes.extend_from_slice(&((HEADER_LEN + body.len()) as u16).to_be_bytes());
    bytes.push(kind);
    bytes.extend_from_slice(body);
    bytes
}

fn decode_all(bytes: &[u8], context: DecodeContext) -> Result<Vec<Message>, WireError> {
    let mut buffer = FrameBuffer::default();
    buffer.push(bytes);
    // An OPEN is looked at only where it is expected.
    let expected = match bytes.get(18) {
        Some(1) => Expected::Open,
        _ => Expected::Routes,
    };
    let context = DecodeContext {
        expected,
        ..context
    };
    let mut messages = Vec::new();
    while let Some(message) = buffer.next_message(context)? {
        messages.push(message);
    }
    Ok(messages)
}

fn decode_one(bytes: &[u8], context: DecodeContext) -> Message {
    let mut messages = decode_all(bytes, context).unwrap();
    assert_eq!(messages.len(), 1, "{messages:?}");
    messages.remove(0)
}

fn decode_update(bytes: &[u8], context: DecodeContext) -> ReceivedUpdate {
    match decode_one(bytes, context) {
        Message::Update(update) => *update,
        other => panic!("{other:?}"),
    }
}

fn refusal(bytes: &[u8], context: DecodeContext) -> (u8, u8, Vec<u8>) {
    let notification = decode_all(bytes, context).unwrap_err().notification;
    (
        notification.code,
        notification.subcode,
        notification.data.to_vec(),
    )
}

/// RFC 4271 section 6.1 and RFC 7313 section 5.
#[test]
fn every_header_error_has_its_code_subcode_and_data() {
    let mut marker = message(4, &[]);
    marker[3] = 0;
    assert_eq!(refusal(&marker, IBGP), (1, 1, vec![]));
    let lengths: [(u8, u16); 9] = [
        (1, 28),
        (2, 22),
        (3, 20),
        (4, 18),
        (4, 20),
        (4, 0),
        (2, 4097),
        (1, 65535),
        (9, 5),
    ];
    for (kind, len) in lengths {
        let mut bytes = message(kind, &[]);
        bytes[16..18].copy_from_slice(&len.to_be_bytes());
        assert_eq!(
            refusal(&bytes, IBGP),
            (1, 2, len.to_be_bytes().to_vec()),
            "type {kind} length {len}"
        );
    }
    for kind in [0, 6, 255] {
        assert_eq!(refusal(&message(kind, &[]), IBGP), (1, 3, vec![kind]));
    }
    let refresh = message(5, &[0, 1, 0, 1, 9]);
    assert_eq!(refusal(&refresh, IBGP), (7, 1, refresh.clone()));
}

/// RFC 4271 section 6.2.
#[test]
fn every_open_error_has_its_code_and_subcode() {
    let open = |version: u8, parameters: &[u8]| {
        let mut body = vec![
            version,
            0xFD,
            0xE8,
            0,
            180,
            10,
            0,
            0,
            1,
            parameters.len() as u8,
        ];
        body.extend_from_slice(parameters);
        message(1, &body)
    };
    assert_eq!(refusal(&open(3, &[]), IBGP), (2, 1, vec![0, 4]));
    assert_eq!(refusal(&open(4, &[1, 1, 0]), IBGP), (2, 4, vec![]));
    assert_eq!(refusal(&open(4, &[2, 9, 0]), IBGP), (2, 0, vec![]));
    let mut inconsistent = open(4, &[]);
    inconsistent[28] = 7;
    assert_eq!(refusal(&inconsistent, IBGP), (2, 0, vec![]));
}

#[test]
fn capabilities_are_read_from_one_parameter_from_many_and_in_extended_form() {
    let capabilities = [
        Capability::Multiprotocol(Family::Ipv4Unicast),
        Capability::RouteRefresh,
        Capability::FourOctetAs(65_000),
    ];
    let (mp, refresh, as4) = ([1, 4, 0, 1, 0, 1], [2, 0], [65, 4, 0, 0, 0xFD, 0xE8]);
    let one = [&[2, 14][..], &mp, &refresh, &as4].concat();
    let many = [&[2, 6][..], &mp, &[2, 2], &refresh, &[2, 6], &as4].concat();
    let extended = [&[255, 0, 17, 2, 0, 14][..], &mp, &refresh, &as4].concat();
    for (parameters, len) in [
        (&one, one.len() as u8),
        (&many, many.len() as u8),
        (&extended, 255),
    ] {
        let mut body = vec![4, 0xFD, 0xE8, 0, 180, 10, 0, 0, 1, len];
        body.extend_from_slice(parameters);
        let Message::Open(open) = decode_one(&message(1, &body), IBGP) else {
            panic!("OPEN")
        };
        assert_eq!(open.capabilities, capabilities);
        assert_eq!(
            (open.asn(), open.hold_time_s, open.router_id),
            (65_000, 180, Ipv4Addr::new(10, 0, 0, 1))
        );
    }
}

#[test]
fn an_open_of_ours_reads_back_and_carries_as_trans_for_a_large_as() {
    let ours = Open::new(
        Asn::new(4_200_000_001).unwrap(),
        90,
        Ipv4Addr::new(10, 1, 1, 1),
        &Family::ALL,
    );
    assert_eq!(ours.header_as, 23_456);
    assert_eq!(
        decode_one(&ours.encode().unwrap(), EBGP),
        Message::Open(ours)
    );
}

fn context(ibgp: bool) -> UpdateContext {
    UpdateContext {
        local_as: Asn::new(65_000).unwrap(),
        ibgp,
        four_octet_as: true,
        next_hop_v4: Some(Ipv4Addr::new(10, 10, 10, 11)),
        next_hop_v6: Some("2001:db8::11".parse().unwrap()),
        extended_next_hop: false,
        max_message_len: MAX_MESSAGE_LEN,
    }
}

fn attributes(local_pref: u32, prepend: u32, communities: Vec<Community>) -> RouteAttributes {
    RouteAttributes::new(AttributeValues {
        local_pref,
        prepend,
        communities,
        ..AttributeValues::default()
    })
    .unwrap()
}

fn vip() -> IpNet {
    "10.10.200.1/32".parse().unwrap()
}

/// RFC 4271 sections 5.1.2 and 5.1.5: towards internal peers an empty AS_PATH and LOCAL_PREF.
#[test]
fn an_ibgp_announcement_is_exactly_these_bytes() {
    let attributes = attributes(100, 3, vec![Community::NO_EXPORT]);
    let updates =
        encode_announcement(&context(true), &attributes, Family::Ipv4Unicast, &[vip()]).unwrap();
    let mut body = vec![0, 0, 0, 28];
    body.extend([0x40, 1, 1, 0]); // ORIGIN IGP
    body.extend([0x40, 2, 0]); // AS_PATH empty: prepending is for external peers
    body.extend([0x40, 3, 4, 10, 10, 10, 11]); // NEXT_HOP
    body.extend([0x40, 5, 4, 0, 0, 0, 100]); // LOCAL_PREF
    body.extend([0xC0, 8, 4, 0xFF, 0xFF, 0xFF, 0x01]); // COMMUNITIES
    body.extend([32, 10, 10, 200, 1]);
    assert_eq!(updates, [message(2, &body)]);
}

/// RFC 4271 section 5.1.5: LOCAL_PREF "MUST NOT" go to external peers.
#[test]
fn an_ebgp_announcement_is_exactly_these_bytes() {
    let attributes = attributes(777, 1, vec![]);
    let updates =
        encode_announcement(&context(false), &attributes, Family::Ipv4Unicast, &[vip()]).unwrap();
    let mut body = vec![0, 0, 0, 24];
    body.extend([0x40, 1, 1, 0]);
    body.extend([0x40, 2, 10, 2, 2, 0, 0, 0xFD, 0xE8, 0, 0, 0xFD, 0xE8]); // AS_SEQUENCE with one prepend
    body.extend([0x40, 3, 4, 10, 10, 10, 11]);
    body.extend([32, 10, 10, 200, 1]);
    assert_eq!(updates, [message(2, &body)]);
}

/// RFC 6793 section 4.2.2.
#[test]
fn a_two_octet_peer_gets_as_trans_and_the_real_path_in_as4_path_last() {
    let context = UpdateContext {
        local_as: Asn::new(70_000).unwrap(),
        four_octet_as: false,
        ..context(false)
    };
    let attributes = attributes(100, 1, vec![Community(7)]);
    let updates =
        encode_announcement(&context, &attributes, Family::Ipv4Unicast, &[vip()]).unwrap();
    let mut body = vec![0, 0, 0, 40];
    body.extend([0x40, 1, 1, 0]);
    body.extend([0x40, 2, 6, 2, 2, 0x5B, 0xA0, 0x5B, 0xA0]); // 23456 23456
    body.extend([0x40, 3, 4, 10, 10, 10, 11]);
    body.extend([0xC0, 8, 4, 0, 0, 0, 7]);
    body.extend([0xC0, 17, 10, 2, 2, 0, 1, 0x11, 0x70, 0, 1, 0x11, 0x70]);
    body.extend([32, 10, 10, 200, 1]);
    assert_eq!(updates, [message(2, &body)]);
    let two_octets = DecodeContext {
        four_octet_as: false,
        ..EBGP
    };
    assert_eq!(
        decode_update(&updates[0], two_octets).attributes.as_path,
        [70_000, 70_000]
    );
}

/// RFC 7606 section 5.1: MP_REACH_NLRI "SHALL be encoded as the very first path attribute".
#[test]
fn an_ipv6_announcement_starts_with_mp_reach_and_a_next_hop_of_16_bytes() {
    let vip = "2001:db8:200::1/128".parse().unwrap();
    let updates = encode_announcement(
        &context(true),
        &RouteAttributes::default(),
        Family::Ipv6Unicast,
        &[vip],
    )
    .unwrap();
    let attributes = &updates[0][HEADER_LEN + 4..];
    assert_eq!(attributes[..2], [0x80, 14]);
    assert_eq!(attributes[3..7], [0, 2, 1, 16]);
    let update = decode_update(&updates[0], IBGP);
    assert_eq!(update.treatment, Treatment::Accepted);
    assert_eq!(update.announced, ["2001:db8:200::1/128".parse().unwrap()]);
    assert_eq!(
        update.attributes.next_hop_of(vip),
        Some("2001:db8::11".parse().unwrap())
    );
}

#[test]
fn end_of_rib_is_recognised_in_both_families() {
    assert_eq!(encode_end_of_rib(Family::Ipv4Unicast).unwrap().len(), 23);
    for family in Family::ALL {
        let update = decode_update(&encode_end_of_rib(family).unwrap(), IBGP);
        assert_eq!(update.end_of_rib, Some(family));
        assert_eq!(update.treatment, Treatment::Accepted);
    }
}

#[test]
fn a_thousand_vips_with_equal_attributes_need_few_messages() {
    let v4: Vec<IpNet> = (0..1000u32)
        .map(|i| IpAddr::from((0x0A00_0000 + i).to_be_bytes()).into())
        .collect();
    let v6: Vec<IpNet> = (0..1000u128)
        .map(|i| IpAddr::from((0x2001_0DB8_u128 << 96 | i).to_be_bytes()).into())
        .collect();
    let count = |family, list: &[IpNet]| {
        let updates =
            encode_announcement(&context(true), &RouteAttributes::default(), family, list).unwrap();
        let withdrawals = encode_withdrawal(family, MAX_MESSAGE_LEN, list).unwrap();
        (updates.len(), withdrawals.len())
    };
    assert_eq!(count(Family::Ipv4Unicast, &v4), (2, 2));
    assert_eq!(count(Family::Ipv6Unicast, &v6), (5, 5));
}

#[test]
fn a_notification_speaks_in_words_and_hides_control_characters() {
    let shutdown = Notification::administrative_shutdown("moving to rack 7");
    assert_eq!(
        shutdown.to_string(),
        "Cease / Administrative Shutdown (6/2): \"moving to rack 7\""
    );
    assert_eq!(
        decode_one(&shutdown.encode(), IBGP),
        Message::Notification(shutdown)
    );
    let nasty = Notification::administrative_shutdown("\u{1b}[2Jbye");
    assert!(!nasty.to_string().contains('\u{1b}'));
    assert_eq!(
        Notification::peer_deconfigured().to_string(),
        "Cease / Peer De-configured (6/3)"
    );
    let long = Notification::administrative_shutdown(&"ü".repeat(500));
    assert_eq!(long.shutdown_communication().unwrap().len(), 128);
}

fn any_attributes() -> impl Strategy<Value = RouteAttributes> {
    let communities = proptest::collection::vec(any::<u32>().prop_map(Community), 0..128);
    let large = any::<(u32, u32, u32)>().prop_map(|(a, b, c)| LargeCommunity(a, b, c));
    let large_communities = proptest::collection::vec(large, 0..128);
    let as_path = proptest::collection::vec(1..u32::MAX, 0..200);
    (
        any::<u32>(),
        0..=10u32,
        communities,
        large_communities,
        as_path,
    )
        .prop_map(
            |(local_pref, prepend, communities, large_communities, as_path)| {
                RouteAttributes::new(AttributeValues {
                    origin: Origin::Incomplete,
                    local_pref,
                    prepend,
                    communities,
                    large_communities,
                    as_path,
                })
                .unwrap()
            },
        )
}

fn any_routes() -> impl Strategy<Value = (Family, Vec<IpNet>)> {
    let v4 = (any::<u32>(), 0..=32u8)
        .prop_map(|(a, len)| Ipv4Net::new(a.into(), len).unwrap().trunc().into());
    let v6 = (any::<u128>(), 0..=128u8)
        .prop_map(|(a, len)| Ipv6Net::new(a.into(), len).unwrap().trunc().into());
    prop_oneof![
        proptest::collection::vec(v4, 1..3000).prop_map(|list| (Family::Ipv4Unicast, list)),
        proptest::collection::vec(v6, 1..1000).prop_map(|list| (Family::Ipv6Unicast, list))
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn announcements_and_withdrawals_read_back_as_written(
        (family, routes) in any_routes(),
        attributes in any_attributes(),
        ibgp: bool,
        four_octet_as: bool,
        extended_message: bool,
        extended_next_hop: bool,
        asn in 1..u32::MAX,
    ) {
        let max_message_len = if extended_message { EXTENDED_MESSAGE_LEN } else { MAX_MESSAGE_LEN };
        let context = UpdateContext {
            local_as: Asn::new(asn).unwrap(),
            four_octet_as,
            extended_next_hop,
            max_message_len,
            ..context(ibgp)
        };
        let attributes = Arc::new(attributes);
        let decode_context = DecodeContext { four_octet_as, ibgp, extended_message, ..IBGP };
        let mut announced = Vec::new();
        for bytes in encode_announcement(&context, &attributes, family, &routes).unwrap() {
            prop_assert!(bytes.len() <= max_message_len);
            let update = decode_update(&bytes, decode_context);
            prop_assert_eq!(&update.treatment, &Treatment::Accepted);
            let mut path = if ibgp { vec![] } else { vec![asn; 1 + usize::from(attributes.prepend())] };
            path.extend_from_slice(attributes.as_path());
            prop_assert_eq!(&update.attributes.as_path, &path);
            prop_assert_eq!(update.attributes.local_pref, ibgp.then_some(attributes.local_pref()));
            prop_assert_eq!(&update.attributes.communities[..], attributes.communities());
            prop_assert_eq!(&update.attributes.large_communities[..], attributes.large_communities());
            let v6_hop = extended_next_hop || family == Family::Ipv6Unicast;
            let hops = update.announced.iter().map(|route| update.attributes.next_hop_of(*route));
            prop_assert!(hops.into_iter().all(|hop| hop.is_some_and(|hop| hop.is_ipv6() == v6_hop)));
            announced.extend(update.announced);
        }
        prop_assert_eq!(&announced, &routes);
        let mut withdrawn = Vec::new();
        for bytes in encode_withdrawal(family, max_message_len, &routes).unwrap() {
            prop_assert!(bytes.len() <= max_message_len);
            withdrawn.extend(decode_update(&bytes, decode_context).withdrawn);
        }
        prop_assert_eq!(&withdrawn, &routes);
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..5000), ibgp: bool, four_octet_as: bool) {
        let _ = decode_all(&bytes, DecodeContext { four_octet_as, ibgp, extended_message: ibgp, ..IBGP });
    }

    #[test]
    fn random_bodies_never_panic(kind in 1..=5u8, body in proptest::collection::vec(any::<u8>(), 0..4077), four_octet_as: bool) {
        let _ = decode_all(&message(kind, &body), DecodeContext { four_octet_as, extended_message: four_octet_as, ..EBGP });
    }

    #[test]
    fn mutated_messages_never_panic(
        (family, routes) in any_routes(),
        attributes in any_attributes(),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        four_octet_as: bool,
    ) {
        let open = Open::new(Asn::new(70_000).unwrap(), 90, Ipv4Addr::LOCALHOST, &Family::ALL).encode().unwrap();
        let mut messages = encode_announcement(&context(false), &attributes, family, &routes).unwrap();
        messages.extend([open, Notification::administrative_shutdown("x").encode()]);
        for original in messages {
            let mut bytes = original.to_vec();
            for (at, value) in &flips {
                // Behind the header, so that the body is reached.
                let at = HEADER_LEN + at.index(bytes.len() - HEADER_LEN);
                bytes[at] = *value;
            }
            let _ = decode_all(&bytes, DecodeContext { four_octet_as, extended_message: four_octet_as, ..EBGP });
        }
    }

    #[test]
    fn messages_are_cut_the_same_however_the_bytes_arrive(cuts in proptest::collection::vec(1..50usize, 1..50)) {
        let open = Open::new(Asn::new(1).unwrap(), 90, Ipv4Addr::LOCALHOST, &Family::ALL);
        let end_of_rib = encode_end_of_rib(Family::Ipv4Unicast).unwrap();
        let stream = [&open.encode().unwrap()[..], &encode_keepalive(), &end_of_rib, &encode_keepalive()].concat();
        let (mut buffer, mut rest, mut cut, mut count) = (FrameBuffer::default(), &stream[..], cuts.iter().cycle(), 0);
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(*cut.next().unwrap()));
            buffer.push(now);
            rest = later;
            while buffer.next_message(IBGP).unwrap().is_some() {
                count += 1;
            }
        }
        prop_assert_eq!(count, 4);
    }
}
