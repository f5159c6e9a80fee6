//! Which keys there are below the prefix, and what their values look like.
//!
//! | key | value |
//! | --- | --- |
//! | `format` | version of this layout |
//! | `revision` | the newest commit |
//! | `oldest` | the oldest commit that is kept whole |
//! | `leader` | who leads, with his lease |
//! | `pending` | a commit whose current values are not all in place yet ([`Pending`]) |
//! | `current/KEY` | [`Current`] |
//! | `head/REVISION` | [`Head`]: who, why, when, and the keys |
//! | `log/REVISION/SEQ` | [`Write`]: one write of a commit |
//! | `history/LEN KEY/REVISION/SEQ+` | nothing: finds the writes of a key; `-` at the end is a deletion |
//!
//! Revisions and places have leading zeros, so that keys sort as numbers do. Values that are no text are a byte with
//! the version of their form, and then protobuf.

use crate::{Meta, StoreError};
use prost::Message;

/// Version of the layout, and first byte of each record.
pub(super) const VERSION: u8 = 1;

/// No store gets there, so that one can be added to any revision.
pub(super) const REVISION_MAX: u64 = u64::MAX >> 1;

/// A key of etcd's.
pub(super) type Key = Vec<u8>;

/// A current value.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Current {
    /// The revision that wrote it.
    #[prost(uint64, tag = "1")]
    pub(super) revision: u64,
    /// The value.
    #[prost(bytes = "vec", tag = "2")]
    pub(super) value: Vec<u8>,
}

/// What a commit is beside its writes.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Head {
    #[prost(string, tag = "1")]
    who: String,
    #[prost(string, tag = "2")]
    from: String,
    #[prost(string, tag = "3")]
    message: String,
    #[prost(uint64, tag = "4")]
    pub(super) time_us: u64,
    /// Tells this commit from another that wanted the same revision.
    #[prost(bytes = "vec", tag = "5")]
    pub(super) attempt: Vec<u8>,
    /// The keys in order, unless they are too many: then they are in the log alone.
    #[prost(string, repeated, tag = "6")]
    pub(super) keys: Vec<String>,
    #[prost(bool, tag = "7")]
    pub(super) keys_left_out: bool,
}

/// Bytes of keys that a head has at most: it must fit a request of etcd's beside other things.
const HEAD_KEYS_LEN_MAX: usize = 200_000;

impl Head {
    pub(super) fn new<'a>(
        meta: &Meta,
        time_us: u64,
        attempt: Vec<u8>,
        keys: impl Iterator<Item = &'a str> + Clone,
    ) -> Self {
        let keys_left_out = keys.clone().map(str::len).sum::<usize>() > HEAD_KEYS_LEN_MAX;
        Self {
            who: meta.who.clone(),
            from: meta.from.clone(),
            message: meta.message.clone(),
            time_us,
            attempt,
            keys: keys.filter(|_| !keys_left_out).map(str::to_owned).collect(),
            keys_left_out,
        }
    }

    pub(super) fn meta(&self) -> Meta {
        Meta {
            who: self.who.clone(),
            from: self.from.clone(),
            message: self.message.clone(),
        }
    }
}

/// One write of a commit.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Write {
    #[prost(string, tag = "1")]
    pub(super) key: String,
    /// None for a deletion.
    #[prost(bytes = "vec", optional, tag = "2")]
    pub(super) value: Option<Vec<u8>>,
}

/// A commit that is made, and whose current values are not all in place.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Pending {
    #[prost(uint64, tag = "1")]
    pub(super) revision: u64,
}

/// The bytes of a record.
pub(super) fn encode(record: &impl Message) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + record.encoded_len());
    bytes.push(VERSION);
    record.encode_raw(&mut bytes);
    bytes
}

/// The record of a key of etcd's.
pub(super) fn decode<T: Message + Default>(key: &[u8], bytes: &[u8]) -> Result<T, StoreError> {
    let Some(rest) = bytes.strip_prefix(&[VERSION]) else {
        return Err(unreadable(
            key,
            "it is of a newer program, or of none of ours",
        ));
    };
    T::decode(rest).map_err(|why| unreadable(key, &why.to_string()))
}

/// A number that is written as text, so that people can read it; 0 when there is none.
pub(super) fn number(key: &[u8], value: Option<&[u8]>) -> Result<u64, StoreError> {
    let Some(value) = value else {
        return Ok(0);
    };
    let text = std::str::from_utf8(value).ok();
    let number = text.and_then(|t| t.parse().ok());
    number
        .filter(|n| *n <= REVISION_MAX)
        .ok_or_else(|| unreadable(key, "it is no revision"))
}

pub(super) fn unreadable(key: &[u8], why: &str) -> StoreError {
    StoreError::Unreadable {
        key: format!("{} (in etcd)", String::from_utf8_lossy(key)),
        why: why.to_owned(),
    }
}

/// Where a write is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) revision: u64,
    pub(super) seq: usize,
}

/// An entry of the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trace {
    /// The index's key without the place, by which the entries of one key belong together.
    pub(super) of: Vec<u8>,
    pub(super) place: Place,
    pub(super) is_deletion: bool,
}

/// Length of `REVISION/SEQ+`.
const PLACE_LEN: usize = 20 + 1 + 8 + 1;

/// The keys of one cluster.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    prefix: String,
}

impl Layout {
    pub(super) fn new(prefix: &str) -> Self {
        let prefix = prefix.trim_end_matches('/').to_owned();
        Self { prefix }
    }

    fn at(&self, rest: &str) -> Key {
        format!("{}/{rest}", self.prefix).into_bytes()
    }

    pub(super) fn format(&self) -> Key {
        self.at("format")
    }

    pub(super) fn revision(&self) -> Key {
        self.at("revision")
    }

    pub(super) fn oldest(&self) -> Key {
        self.at("oldest")
    }

    pub(super) fn leader(&self) -> Key {
        self.at("leader")
    }

    pub(super) fn pending(&self) -> Key {
        self.at("pending")
    }

    pub(super) fn current(&self, key: &str) -> Key {
        self.at(&format!("current/{key}"))
    }

    /// The store's key of a key of [`Layout::current`].
    pub(super) fn key_of_current(&self, key: &[u8]) -> Result<String, StoreError> {
        let rest = key.get(self.current("").len()..).unwrap_or_default();
        String::from_utf8(rest.to_vec()).map_err(|_| unreadable(key, "its name is no text"))
    }

    pub(super) fn head(&self, revision: u64) -> Key {
        self.at(&format!("head/{revision:020}"))
    }

    pub(super) fn heads(&self) -> Key {
        self.at("head/")
    }

    pub(super) fn revision_of_head(&self, key: &[u8]) -> Result<u64, StoreError> {
        let rest = key.get(self.heads().len()..).and_then(digits::<20>);
        rest.ok_or_else(|| unreadable(key, "its name is no revision"))
    }

    /// Where the writes of a commit begin, and those of older ones end.
    pub(super) fn log_from(&self, revision: u64) -> Key {
        self.at(&format!("log/{revision:020}"))
    }

    /// Where the log ends.
    pub(super) fn log_end(&self) -> Key {
        end_of(&self.at("log/"))
    }

    pub(super) fn log(&self, place: Place) -> Key {
        self.at(&format!("log/{:020}/{:08}", place.revision, place.seq))
    }

    pub(super) fn place_of_log(&self, key: &[u8]) -> Result<Place, StoreError> {
        let rest = key.get(self.at("log/").len()..).and_then(place_of);
        rest.ok_or_else(|| unreadable(key, "its name is no place in the log"))
    }

    pub(super) fn traces(&self) -> Key {
        self.at("history/")
    }

    /// The length comes first, so that no key's entries are among another's.
    fn traces_of(&self, key: &str) -> Key {
        self.at(&format!("history/{:07}{key}/", key.len()))
    }

    /// Where the entries of a key begin that are of this revision or newer.
    pub(super) fn traces_from(&self, key: &str, revision: u64) -> Key {
        let mut from = self.traces_of(key);
        from.extend(format!("{revision:020}").bytes());
        from
    }

    pub(super) fn trace(&self, key: &str, place: Place, is_deletion: bool) -> Key {
        let mut trace = self.traces_of(key);
        let sign = if is_deletion { '-' } else { '+' };
        trace.extend(format!("{:020}/{:08}{sign}", place.revision, place.seq).bytes());
        trace
    }
}

/// Reads an index's key.
pub(super) fn trace_of(key: &[u8]) -> Result<Trace, StoreError> {
    let none = || unreadable(key, "its name is no entry of the index");
    let at = key.len().checked_sub(PLACE_LEN).ok_or_else(none)?;
    let (of, rest) = key.split_at(at);
    let (sign, place) = rest.split_last().ok_or_else(none)?;
    Ok(Trace {
        of: of.to_vec(),
        place: place_of(place).ok_or_else(none)?,
        is_deletion: *sign == b'-',
    })
}

/// `REVISION/SEQ`.
fn place_of(bytes: &[u8]) -> Option<Place> {
    let (revision, rest) = bytes.split_at_checked(20)?;
    let seq = digits::<8>(rest.strip_prefix(b"/")?)?;
    Some(Place {
        revision: digits::<20>(revision)?,
        seq: usize::try_from(seq).ok()?,
    })
}

fn digits<const LEN: usize>(bytes: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(bytes).ok()?;
    let right = text.len() == LEN && text.bytes().all(|b| b.is_ascii_digit());
    right.then(|| text.parse().ok()).flatten()
}

/// The first key after all that start with `prefix`.
pub(super) fn end_of(prefix: &[u8]) -> Key {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    // In etcd's words: to the end of all keys.
    vec![0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_they_are_written() {
        let layout = Layout::new("/evenkeel/");
        let place = Place {
            revision: 7,
            seq: 12,
        };
        assert_eq!(layout.place_of_log(&layout.log(place)).unwrap(), place);
        let trace = trace_of(&layout.trace("/a/-", place, true)).unwrap();
        assert_eq!((trace.place, trace.is_deletion), (place, true));
        assert_eq!(trace.of, layout.traces_of("/a/-"));
        assert_eq!(layout.revision_of_head(&layout.head(9)).unwrap(), 9);
        let key = layout.current("/object/ö");
        assert_eq!(layout.key_of_current(&key).unwrap(), "/object/ö");
    }

    #[test]
    fn what_is_none_of_ours_is_an_error_that_names_the_key() {
        let layout = Layout::new("/p");
        for key in ["/p/log/1", "/p/log/", "/p/log/x/y", "/p", ""] {
            assert!(layout.place_of_log(key.as_bytes()).is_err(), "{key}");
            assert!(trace_of(key.as_bytes()).is_err(), "{key}");
            assert!(layout.revision_of_head(key.as_bytes()).is_err(), "{key}");
        }
        for bytes in [b"".as_slice(), b"{}", &[VERSION, 0xff], &[VERSION + 1]] {
            let error = decode::<Current>(b"/p/current/k", bytes).unwrap_err();
            assert!(error.to_string().contains("/p/current/k"), "{error}");
        }
        for text in ["-1", "", "18446744073709551615"] {
            assert!(number(b"/p/revision", Some(text.as_bytes())).is_err());
        }
    }

    #[test]
    fn the_end_of_a_prefix_is_after_all_that_start_with_it() {
        assert_eq!(end_of(b"/a/"), b"/a0");
        assert_eq!(end_of(&[1, 255]), [2]);
        assert_eq!(end_of(&[255]), [0]);
        let layout = Layout::new("/p");
        let place = |revision| Place { revision, seq: 0 };
        let trace = |revision| layout.trace("k", place(revision), false);
        let from = layout.traces_from("k", 7);
        assert!(trace(6) < from && from < trace(7));
        assert!(trace(u64::MAX) < end_of(&layout.traces()));
    }
}
