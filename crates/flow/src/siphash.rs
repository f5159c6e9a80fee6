//! SipHash-2-4 (Aumasson, Bernstein: "SipHash: a fast short-input PRF"), the MAC of messages.

/// The 64-bit tag of these bytes; input words are little endian, as in the paper.
#[must_use]
pub fn siphash24(key: [u64; 2], bytes: &[u8]) -> u64 {
    let mut state = start(key);
    let mut words = bytes.chunks_exact(8);
    for word in &mut words {
        absorb(&mut state, word_of(word));
    }
    let length = (bytes.len() as u64 & 0xFF) << 56;
    absorb(&mut state, length | word_of(words.remainder()));
    state[2] ^= 0xFF;
    (0..4).for_each(|_| round(&mut state));
    state[0] ^ state[1] ^ state[2] ^ state[3]
}

fn start([k0, k1]: [u64; 2]) -> [u64; 4] {
    [
        k0 ^ 0x736F_6D65_7073_6575,
        k1 ^ 0x646F_7261_6E64_6F6D,
        k0 ^ 0x6C79_6765_6E65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ]
}

/// Up to eight bytes, little endian.
fn word_of(bytes: &[u8]) -> u64 {
    let bytes = bytes.iter().rev();
    bytes.fold(0, |word, byte| word << 8 | u64::from(*byte))
}

fn absorb(state: &mut [u64; 4], word: u64) {
    state[3] ^= word;
    round(state);
    round(state);
    state[0] ^= word;
}

fn round([a, b, c, d]: &mut [u64; 4]) {
    *a = a.wrapping_add(*b);
    *b = b.rotate_left(13) ^ *a;
    *a = a.rotate_left(32);
    *c = c.wrapping_add(*d);
    *d = d.rotate_left(16) ^ *c;
    *a = a.wrapping_add(*d);
    *d = d.rotate_left(21) ^ *a;
    *c = c.wrapping_add(*b);
    *b = b.rotate_left(17) ^ *c;
    *c = c.rotate_left(32);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::hash::Hasher;

    const KEY: [u64; 2] = [0x0706_0504_0302_0100, 0x0F0E_0D0C_0B0A_0908];

    #[test]
    fn the_reference_vectors_of_the_paper_hold() {
        let input: Vec<u8> = (0..64).collect();
        for (length, tag) in [
            (0, 0x726F_DB47_DD0E_0E31),
            (1, 0x74F8_39C5_93DC_67FD),
            (2, 0x0D6C_8009_D9A9_4F5A),
            (7, 0xAB02_00F5_8B01_D137),
            (8, 0x93F5_F579_9A93_2462),
            (15, 0xA129_CA61_49BE_45E5),
        ] {
            assert_eq!(siphash24(KEY, &input[..length]), tag, "{length} bytes");
        }
    }

    proptest! {
        #[test]
        #[expect(deprecated, reason = "the standard library's own SipHash-2-4 is the second opinion")]
        fn any_input_agrees_with_the_standard_library(
            key in any::<[u64; 2]>(),
            bytes in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            let mut hasher = std::hash::SipHasher::new_with_keys(key[0], key[1]);
            hasher.write(&bytes);
            prop_assert_eq!(siphash24(key, &bytes), hasher.finish());
        }
    }
}
