//! Received UPDATEs, attribute by attribute (RFC 7606 section 7).

use super::*;

const ORIGIN: &[u8] = &[0x40, 1, 1, 0];
const AS_PATH: &[u8] = &[0x40, 2, 6, 2, 1, 0, 0, 0xFD, 0xE9];
const NEXT_HOP: &[u8] = &[0x40, 3, 4, 10, 10, 10, 1];
/// 2001:db8:1::/48 by way of 2001:db8::1.
const MP_REACH: &[u8] = &[
    0x80, 14, 28, 0, 2, 1, 16, 0x20, 1, 0xD, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 48, 0x20,
    1, 0xD, 0xB8, 0, 1,
];
const WITHOUT_NLRI: &[u8] = &[];
const NLRI: &[u8] = &[24, 192, 0, 2];

fn update_with(attributes: &[&[u8]], nlri: &[u8]) -> Vec<u8> {
    let attributes = attributes.concat();
    let mut body = vec![0, 0];
    body.extend_from_slice(&(attributes.len() as u16).to_be_bytes());
    body.extend_from_slice(&attributes);
    body.extend_from_slice(nlri);
    message(2, &body)
}

fn update(attributes: &[&[u8]]) -> Vec<u8> {
    update_with(attributes, NLRI)
}

/// The mandatory attributes, of which this one may be another, and this one more.
fn with(attribute: &[u8]) -> Vec<u8> {
    let kind = attribute[1];
    let usual = [ORIGIN, AS_PATH, NEXT_HOP]
        .into_iter()
        .filter(|a| a[1] != kind);
    let mut all: Vec<&[u8]> = usual.collect();
    all.push(attribute);
    all.sort_by_key(|a| a[1]);
    update(&all)
}

/// What becomes of an UPDATE with this attribute, in a word.
fn fate(bytes: &[u8], context: DecodeContext) -> String {
    match decode_all(bytes, context) {
        Err(error) => format!("{}/{}", error.notification.code, error.notification.subcode),
        Ok(messages) => match &messages[..] {
            [Message::Update(update)] => match &update.treatment {
                Treatment::Accepted => "accepted".to_owned(),
                Treatment::AttributeDiscard(_) => "discard".to_owned(),
                Treatment::TreatAsWithdraw(_) => "withdraw".to_owned(),
            },
            other => panic!("{other:?}"),
        },
    }
}

const ATTRIBUTES: &str = include_str!("received.txt");

/// RFC 7606 section 7 and the RFCs of the attributes; flags by RFC 7606 section 3, c.
#[test]
fn every_attribute_is_treated_as_rfc_7606_says() {
    let rows = ATTRIBUTES.lines().filter(|line| !line.starts_with('#'));
    let mut count = 0;
    for row in rows {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [what, attribute, external, internal] = cells[..] else {
            panic!("four cells: {row}");
        };
        let octets = attribute
            .split(' ')
            .map(|octet| u8::from_str_radix(octet, 16).unwrap());
        let bytes = with(&octets.collect::<Vec<_>>());
        assert_eq!(fate(&bytes, EBGP), external, "{what}, external");
        assert_eq!(fate(&bytes, IBGP), internal, "{what}, internal");
        count += 1;
    }
    assert!(count > 30, "the table was read");
}

/// RFC 4271 section 5: mandatory where there is NLRI, from internal peers too.
#[test]
fn a_missing_mandatory_attribute_withdraws_the_routes() {
    for context in [EBGP, IBGP] {
        for missing in [ORIGIN, AS_PATH, NEXT_HOP] {
            let rest = [ORIGIN, AS_PATH, NEXT_HOP]
                .into_iter()
                .filter(|a| *a != missing);
            let bytes = update(&rest.collect::<Vec<_>>());
            assert_eq!(fate(&bytes, context), "withdraw", "{missing:?}");
        }
    }
}

/// RFC 7606: the session survives, the routes do not, and the message is kept for the log (section 8).
#[test]
fn routes_of_a_malformed_update_count_as_withdrawn() {
    let bytes = with(&[0x40, 1, 1, 3]);
    let update = decode_update(&bytes, EBGP);
    assert!(update.announced.is_empty());
    assert_eq!(update.withdrawn, ["192.0.2.0/24".parse().unwrap()]);
    assert_eq!(update.raw.as_deref(), Some(&bytes[..]));
    let accepted = decode_update(&with(ORIGIN), EBGP);
    assert_eq!(accepted.raw, None);
}

#[test]
fn a_malformed_aggregator_is_discarded_alone() {
    let update = decode_update(&with(&[0xC0, 7, 2, 1, 1]), EBGP);
    assert!(
        matches!(update.treatment, Treatment::AttributeDiscard(_)),
        "{update:?}"
    );
    assert_eq!(update.announced, ["192.0.2.0/24".parse().unwrap()]);
}

/// RFC 7606 section 3, g: the first of a kind counts, but for the multiprotocol attributes.
#[test]
fn a_second_attribute_of_a_kind_is_discarded_or_resets_the_session() {
    let twice = [ORIGIN, ORIGIN, AS_PATH, NEXT_HOP];
    assert_eq!(fate(&update(&twice), EBGP), "discard");
    let reach = [MP_REACH, MP_REACH, ORIGIN, AS_PATH];
    assert_eq!(fate(&update_with(&reach, WITHOUT_NLRI), EBGP), "3/1");
    let foreign: &[u8] = &[0x80, 14, 5, 0, 25, 70, 0, 0];
    let reach = [MP_REACH, foreign, ORIGIN, AS_PATH];
    assert_eq!(
        fate(&update_with(&reach, WITHOUT_NLRI), EBGP),
        "3/1",
        "whatever its family"
    );
}

/// RFC 7606 section 3, h: the strongest of several.
#[test]
fn the_strongest_of_several_errors_wins() {
    let aggregator: &[u8] = &[0xC0, 7, 2, 1, 1];
    let unknown: &[u8] = &[0x40, 99, 1, 7];
    assert_eq!(
        fate(&update(&[ORIGIN, AS_PATH, aggregator]), EBGP),
        "withdraw"
    );
    assert_eq!(
        fate(
            &update(&[ORIGIN, AS_PATH, NEXT_HOP, aggregator, unknown]),
            EBGP
        ),
        "3/2"
    );
}

/// RFC 7606 section 5.2: with attributes but no reachable NLRI nobody knows what would have to be withdrawn.
#[test]
fn an_error_without_reachable_nlri_resets_the_session() {
    let bad_origin: &[u8] = &[0x40, 1, 1, 3];
    let bytes = update_with(&[bad_origin, AS_PATH, NEXT_HOP], WITHOUT_NLRI);
    assert_eq!(fate(&bytes, EBGP), "3/6");
    let before_the_routes = [ORIGIN, AS_PATH, &[0xC0, 8, 200], MP_REACH];
    assert_eq!(
        fate(&update_with(&before_the_routes, WITHOUT_NLRI), EBGP),
        "3/1"
    );
    let aggregator: &[u8] = &[0xC0, 7, 2, 1, 1];
    let harmless = update_with(&[ORIGIN, AS_PATH, aggregator], WITHOUT_NLRI);
    assert_eq!(fate(&harmless, EBGP), "discard");
    let multiprotocol = update_with(&[MP_REACH, bad_origin, AS_PATH], WITHOUT_NLRI);
    assert_eq!(
        fate(&multiprotocol, EBGP),
        "withdraw",
        "here the routes are known"
    );
}

/// RFC 4271 section 6.3 and RFC 7606 section 5.3: nothing to be saved.
#[test]
fn updates_that_cannot_be_trusted_reset_the_session() {
    assert_eq!(
        refusal(&with(&[0x40, 99, 1, 7]), EBGP),
        (3, 2, vec![0x40, 99, 1, 7])
    );
    let too_long_withdrawal = message(2, &[0, 9, 0, 0]);
    assert_eq!(refusal(&too_long_withdrawal, EBGP), (3, 1, vec![]));
    let bad_prefix = update_with(&[ORIGIN, AS_PATH, NEXT_HOP], &[33, 192, 0, 2, 0, 0]);
    assert_eq!(fate(&bad_prefix, EBGP), "3/10");
    let cut_prefix = update_with(&[ORIGIN, AS_PATH, NEXT_HOP], &[24, 192, 0]);
    assert_eq!(fate(&cut_prefix, EBGP), "3/10");
}

/// RFC 7606 section 7.5.
#[test]
fn local_pref_counts_only_from_internal_peers() {
    let bytes = with(&[0x40, 5, 4, 0, 0, 0, 200]);
    assert_eq!(decode_update(&bytes, EBGP).attributes.local_pref, None);
    assert_eq!(decode_update(&bytes, IBGP).attributes.local_pref, Some(200));
}

/// Neither what the codec could read (VPN, EVPN) nor what it could not.
#[test]
fn routes_of_families_that_the_session_does_not_carry_are_ignored() {
    let foreign: [&[u8]; 4] = [
        &[0x80, 14, 5, 0, 25, 70, 0, 0],
        &[0x80, 14, 5, 0, 1, 128, 0, 0],
        &[0x80, 15, 3, 0x40, 4, 71],
        &[0x90, 15, 0, 4, 0, 99, 99, 7],
    ];
    for attribute in foreign {
        let update = decode_update(&with(attribute), EBGP);
        assert_eq!(update.treatment, Treatment::Accepted, "{attribute:?}");
        assert_eq!(
            update.announced,
            ["192.0.2.0/24".parse().unwrap()],
            "{attribute:?}"
        );
        let alone = decode_update(&update_with(&[attribute], WITHOUT_NLRI), EBGP);
        assert_eq!(
            (alone.treatment, alone.end_of_rib),
            (Treatment::Accepted, None),
            "{attribute:?}"
        );
    }
    let only_ipv4 = DecodeContext {
        families: [Family::Ipv4Unicast].into_iter().collect(),
        ..EBGP
    };
    let both = update(&[MP_REACH, ORIGIN, AS_PATH, NEXT_HOP]);
    assert_eq!(decode_update(&both, EBGP).announced.len(), 2);
    assert_eq!(
        decode_update(&both, only_ipv4).announced,
        ["192.0.2.0/24".parse().unwrap()]
    );
    let only_ipv6 = DecodeContext {
        families: [Family::Ipv6Unicast].into_iter().collect(),
        ..EBGP
    };
    assert_eq!(
        decode_update(&both, only_ipv6).announced,
        ["2001:db8:1::/48".parse().unwrap()]
    );
}

/// RFC 4760 section 3.
#[test]
fn next_hop_is_for_the_nlri_of_the_message_and_mp_reach_has_its_own() {
    let both = decode_update(&update(&[MP_REACH, ORIGIN, AS_PATH, NEXT_HOP]), EBGP);
    let hop = |prefix: &str| {
        both.attributes
            .next_hop_of(prefix.parse().unwrap())
            .unwrap()
            .to_string()
    };
    assert_eq!(
        [hop("192.0.2.0/24"), hop("2001:db8:1::/48")],
        ["10.10.10.1", "2001:db8::1"]
    );
}

/// A message that is out of place is an error of the state machine, whatever is in it (RFC 6608).
#[test]
fn the_body_of_a_message_out_of_place_is_not_looked_at() {
    let malformed = update_with(&[&[0x40, 99, 1, 7]], NLRI);
    for (expected, kind, bytes) in [
        (Expected::Open, 2, malformed.clone()),
        (Expected::Keepalive, 2, malformed),
        (Expected::Keepalive, 1, message(1, &[9; 10])),
        (Expected::Routes, 1, message(1, &[9; 10])),
        (Expected::Open, 5, message(5, &[1])),
    ] {
        let mut buffer = FrameBuffer::default();
        buffer.push(&bytes);
        let context = DecodeContext { expected, ..IBGP };
        assert_eq!(
            buffer.next_message(context),
            Ok(Some(Message::OutOfPlace(kind)))
        );
    }
    let mut buffer = FrameBuffer::default();
    buffer.push(&message(4, &[1]));
    let error = buffer.next_message(IBGP).unwrap_err();
    assert_eq!(
        (error.notification.code, error.notification.subcode),
        (1, 2),
        "a bad header is"
    );
}
