//! Any bytes as a BGP stream, under every context: no panic, and nothing allocated beyond the bytes.
#![no_main]

use bgp::wire::{DecodeContext, FrameBuffer};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| {
    let (flags, bytes) = input;
    let context = DecodeContext {
        four_octet_as: flags & 1 != 0,
        ibgp: flags & 2 != 0,
        extended_message: flags & 4 != 0,
    };
    let mut buffer = FrameBuffer::default();
    buffer.push(bytes);
    while let Ok(Some(_)) = buffer.next_message(context) {}
});
