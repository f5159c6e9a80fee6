//! Any bytes as a BGP stream, under every context: no panic, and memory in proportion to the bytes.
#![no_main]

#[path = "../allocated.rs"]
mod allocated;

use bgp::types::{Family, FamilySet};
use bgp::wire::{DecodeContext, Expected, FrameBuffer};
use libfuzzer_sys::fuzz_target;

/// A prefix of length 0 is one octet on the wire, and some tens of octets in each of the lists that it is in while
/// the message is judged.
const PER_OCTET: usize = 256;
/// Texts of errors, whatever the length of the message.
const AND: usize = 64 * 1024;

fuzz_target!(|input: (u8, &[u8])| {
    let (flags, bytes) = input;
    let context = DecodeContext {
        four_octet_as: flags & 1 != 0,
        ibgp: flags & 2 != 0,
        extended_message: flags & 4 != 0,
        families: Family::ALL
            .into_iter()
            .zip([8, 16])
            .filter(|(_, bit)| flags & bit != 0)
            .map(|(family, _)| family)
            .collect::<FamilySet>(),
        expected: match flags >> 5 {
            0 => Expected::Open,
            1 => Expected::Keepalive,
            _ => Expected::Routes,
        },
    };
    let peak = allocated::peak_of(|| {
        let mut buffer = FrameBuffer::default();
        buffer.push(bytes);
        while let Ok(Some(_)) = buffer.next_message(context) {}
    });
    assert!(peak <= AND + PER_OCTET * bytes.len(), "{peak} octets for {} received", bytes.len());
});
