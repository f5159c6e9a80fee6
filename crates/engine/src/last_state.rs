//! The last good state on disk: what the engine serves when no controller answers.
//!
//! Layout: 8 bytes magic with a version, 8 bytes length, 8 bytes checksum, then the encoded message. A file that does
//! not fit is set aside, never half-believed.

use crate::files;
use prost::Message as _;
use proto::v1::DesiredState;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"EKSTATE1";
const HEADER_LEN: usize = 24;

/// Where the last good state lies.
#[derive(Debug, Clone)]
pub(crate) struct LastState(PathBuf);

impl LastState {
    pub(crate) fn new(folder: &Path) -> Self {
        Self(folder.join("last-state.bin"))
    }

    /// Makes it durable.
    pub(crate) fn save(&self, state: &DesiredState) -> anyhow::Result<()> {
        let body = state.encode_to_vec();
        let mut content = MAGIC.to_vec();
        content.extend((body.len() as u64).to_le_bytes());
        content.extend(checksum(&body).to_le_bytes());
        content.extend(body);
        files::write_private(&self.0, &content)
    }

    /// The state, if there is a whole one.
    pub(crate) fn load(&self) -> Option<DesiredState> {
        let content = match std::fs::read(&self.0) {
            Ok(content) => content,
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::error!(file = %self.0.display(), %error, "cannot read the last good state; nothing is served before a controller answers");
                return None;
            }
        };
        let state = decode(&content);
        if state.is_none() {
            let aside = self.0.with_extension("damaged");
            tracing::error!(file = %self.0.display(), aside = %aside.display(), "the last good state is damaged and is set aside; nothing is served before a controller answers");
            std::fs::rename(&self.0, aside).ok();
        }
        state
    }
}

fn decode(content: &[u8]) -> Option<DesiredState> {
    let (header, body) = content.split_at_checked(HEADER_LEN)?;
    let number =
        |range: std::ops::Range<usize>| Some(u64::from_le_bytes(header[range].try_into().ok()?));
    let whole = header[..8] == *MAGIC
        && number(8..16)? == body.len() as u64
        && number(16..24)? == checksum(body);
    whole.then(|| DesiredState::decode(body).ok()).flatten()
}

/// FNV-1a, 64 bits: against torn writes, not against people, and the same in every build.
fn checksum(bytes: &[u8]) -> u64 {
    let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3);
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, fold)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> DesiredState {
        DesiredState {
            generation: 7,
            se_uuid: "serviceengine-1".into(),
            ..DesiredState::default()
        }
    }

    #[test]
    fn what_was_saved_is_loaded_and_only_we_may_read_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().expect("folder");
        let last = LastState::new(folder.path());
        assert_eq!(last.load(), None);
        last.save(&state()).expect("saved");
        assert_eq!(last.load(), Some(state()));
        let mode = std::fs::metadata(&last.0)
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_file_torn_anywhere_or_with_a_changed_byte_is_set_aside() {
        let folder = tempfile::tempdir().expect("folder");
        let last = LastState::new(folder.path());
        last.save(&state()).expect("saved");
        let whole = std::fs::read(&last.0).expect("there");
        for cut in 0..whole.len() {
            assert_eq!(decode(&whole[..cut]), None, "cut at {cut}");
            let mut changed = whole.clone();
            changed[cut] ^= 1;
            assert_eq!(decode(&changed), None, "changed at {cut}");
        }
        std::fs::write(&last.0, &whole[..10]).expect("torn");
        assert_eq!(last.load(), None);
        assert!(last.0.with_extension("damaged").exists());
    }

    #[test]
    fn the_checksum_is_the_same_in_every_build() {
        // The published test value of FNV-1a.
        assert_eq!(checksum(b"foobar"), 0x85944171F73967E8);
    }
}
