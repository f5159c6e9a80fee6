//! One key: AES-256-GCM (NIST SP 800-38D) with nonces at random, and the place of a text as associated data.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

/// Bytes of a key.
const KEY_LEN: usize = 32;

/// A key with its id, which is no secret. It cannot be printed.
pub(super) struct Key {
    pub id: String,
    /// When it was made, seconds since 1970.
    pub made_unix_s: u64,
    secret: [u8; KEY_LEN],
    cipher: LessSafeKey,
}

impl Key {
    /// A new one.
    pub(super) fn make(now_unix_s: u64) -> Self {
        let id = format!("{:08x}", rand::random::<u32>());
        Self::new(id, now_unix_s, rand::random())
    }

    fn new(id: String, made_unix_s: u64, secret: [u8; KEY_LEN]) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, &secret).expect("the length is the algorithm's");
        Self {
            id,
            made_unix_s,
            secret,
            cipher: LessSafeKey::new(key),
        }
    }

    /// From its text form in the key file; none when that is no key.
    pub(super) fn read(id: &str, made_unix_s: u64, text: &str) -> Option<Self> {
        let secret = BASE64.decode(text).ok()?.try_into().ok()?;
        Some(Self::new(id.to_owned(), made_unix_s, secret))
    }

    /// For the key file alone.
    pub(super) fn text(&self) -> String {
        BASE64.encode(self.secret)
    }

    /// Nonce, sealed text and tag, in base64. A key is good for 2^32 of them (SP 800-38D, 8.3).
    pub(super) fn seal(&self, place: &str, text: &[u8]) -> String {
        let nonce: [u8; NONCE_LEN] = rand::random();
        let mut sealed = text.to_vec();
        let (unique, aad) = (Nonce::assume_unique_for_key(nonce), Aad::from(place));
        let done = self
            .cipher
            .seal_in_place_append_tag(unique, aad, &mut sealed);
        done.expect("a text in memory is shorter than the algorithm's bound of 64 GiB");
        BASE64.encode([&nonce[..], &sealed].concat())
    }

    /// None for what this key did not seal for this place.
    pub(super) fn open(&self, place: &str, sealed: &str) -> Option<Vec<u8>> {
        let all = BASE64.decode(sealed).ok()?;
        let (nonce, sealed) = all.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut text = sealed.to_vec();
        let opened = self
            .cipher
            .open_in_place(nonce, Aad::from(place), &mut text);
        opened.ok().map(|text| text.to_vec())
    }
}
