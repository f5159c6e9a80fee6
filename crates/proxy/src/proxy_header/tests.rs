mod haproxy;

use super::*;

fn ends(client: &str, vip: &str) -> [SocketAddr; 2] {
    [client, vip].map(|end| end.parse().expect("an address"))
}

#[test]
fn version_1_is_the_line_of_the_specification() {
    let v4 = ends("192.168.0.1:56324", "192.168.0.11:443");
    let expected = b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n";
    assert_eq!(ProxyHeader::V1.encode(v4), expected);
    let v6 = ends("[fd00::1]:1", "[fd00::2]:65535");
    let expected = b"PROXY TCP6 fd00::1 fd00::2 1 65535\r\n";
    assert_eq!(ProxyHeader::V1.encode(v6), expected);
}

/// Section 2.2: "\x0D\x0A\x0D\x0A\x00\x0D\x0A\x51\x55\x49\x54\x0A".
const SPECIFIED: [u8; 12] = [
    0x0D, 0x0A, 0x0D, 0x0A, 0x00, 0x0D, 0x0A, 0x51, 0x55, 0x49, 0x54, 0x0A,
];

#[test]
fn version_2_of_ipv4_has_28_bytes() {
    let v4 = ends("192.168.0.1:56324", "192.168.0.11:443");
    let header = ProxyHeader::V2.encode(v4);
    assert_eq!(header[..12], SPECIFIED);
    assert_eq!(header[12..16], [0x21, 0x11, 0, 12]);
    assert_eq!(header[16..24], [192, 168, 0, 1, 192, 168, 0, 11]);
    assert_eq!(header[24..], [0xDC, 0x04, 0x01, 0xBB]);
}

#[test]
fn version_2_of_ipv6_has_52_bytes() {
    let header = ProxyHeader::V2.encode(ends("[fd00::1]:1", "[fd00::2]:65535"));
    assert_eq!(header[..12], SPECIFIED);
    assert_eq!(header[12..16], [0x21, 0x21, 0, 36]);
    let mut address = [0u8; 16];
    (address[0], address[15]) = (0xFD, 1);
    assert_eq!(header[16..32], address);
    address[15] = 2;
    assert_eq!(header[32..48], address);
    assert_eq!(header[48..], [0, 1, 0xFF, 0xFF]);
}
