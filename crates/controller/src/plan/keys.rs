//! The keys with which the engines of an SE group speak of flows (docs/dev/steering.md, sections 4 and 5).
//!
//! The message key changes every 24 hours, in two steps: a new one is handed out and accepted, and half a period later, when
//! every engine has it, it signs. The one before stays accepted until the next is handed out. Two are valid at any time, and an
//! engine that was without a controller for less than half a period is understood by all. The hint key stays:
//! hints of living connections depend on it.
//!
//! They lie in the store, whose file only the controller may read; nothing here prints or shows them.

use super::Planner;
use super::writing::meta;
use crate::clock::now_unix_s;
use crate::error::ApiError;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use model::object::Object;
use model::view::Ref;
use proto::v1::FlowKey;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use store::{Expect, Op};

const PREFIX: &str = "/flowkey/";
/// A message key signs for so long.
const PERIOD_S: u64 = 24 * 3600;
/// A new message key is accepted everywhere for so long before it signs.
const OVERLAP_S: u64 = PERIOD_S / 2;

/// 128 bits that are not printed.
#[derive(Clone, PartialEq, Eq)]
struct Secret([u8; 16]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct MessageKey {
    id: u32,
    secret: Secret,
    made_unix_s: u64,
}

/// The keys of an SE group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Keys {
    hint: Secret,
    /// It signs.
    signing: MessageKey,
    /// It is accepted beside: the one before, or the next one.
    beside: Option<MessageKey>,
    revision: u64,
}

/// What was done about keys, for the audit trail.
type Step = &'static str;

impl Keys {
    fn new(now_s: u64, random: impl Fn() -> [u8; 16]) -> Self {
        Self {
            hint: Secret(random()),
            signing: MessageKey {
                id: 1,
                secret: Secret(random()),
                made_unix_s: now_s,
            },
            beside: None,
            revision: 0,
        }
    }

    /// The key that signs comes first.
    pub(super) fn message_keys(&self) -> Vec<FlowKey> {
        let keys = std::iter::once(&self.signing).chain(&self.beside);
        keys.map(|key| FlowKey {
            id: key.id,
            secret: key.secret.0.to_vec(),
        })
        .collect()
    }

    pub(super) fn hint_key(&self) -> Vec<u8> {
        self.hint.0.to_vec()
    }

    /// A new key that waits to sign.
    fn next(&self) -> Option<&MessageKey> {
        let beside = self.beside.as_ref()?;
        (beside.made_unix_s > self.signing.made_unix_s).then_some(beside)
    }

    /// Does what is due, if something is. `all_told`: every engine that can be asked has confirmed its newest state.
    fn tend(&mut self, now_s: u64, all_told: bool, random: impl Fn() -> [u8; 16]) -> Option<Step> {
        let (next_s, signing_s) = (self.next().map(|k| k.made_unix_s), self.signing.made_unix_s);
        match next_s {
            Some(made_s) if all_told && now_s >= made_s + OVERLAP_S => {
                let next = self.beside.take()?;
                self.beside = Some(std::mem::replace(&mut self.signing, next));
                Some("the new message key signs")
            }
            None if now_s >= signing_s + PERIOD_S => {
                self.beside = Some(MessageKey {
                    id: self.signing.id.wrapping_add(1),
                    secret: Secret(random()),
                    made_unix_s: now_s,
                });
                Some("a new message key is handed out")
            }
            _ => None,
        }
    }
}

/// As the store has it. Base64, because the store keeps text.
#[derive(Serialize, Deserialize)]
struct Stored {
    hint: String,
    signing: StoredKey,
    beside: Option<StoredKey>,
}

#[derive(Serialize, Deserialize)]
struct StoredKey {
    id: u32,
    secret: String,
    made_unix_s: u64,
}

impl From<&MessageKey> for StoredKey {
    fn from(key: &MessageKey) -> Self {
        Self {
            id: key.id,
            secret: BASE64.encode(key.secret.0),
            made_unix_s: key.made_unix_s,
        }
    }
}

fn secret(text: &str) -> anyhow::Result<Secret> {
    let bytes: [u8; 16] = BASE64
        .decode(text)?
        .try_into()
        .map_err(|_| anyhow::anyhow!("a flow key has not 16 bytes"))?;
    Ok(Secret(bytes))
}

fn message_key(stored: &StoredKey) -> anyhow::Result<MessageKey> {
    Ok(MessageKey {
        id: stored.id,
        secret: secret(&stored.secret)?,
        made_unix_s: stored.made_unix_s,
    })
}

fn read(value: &[u8], revision: u64) -> anyhow::Result<Keys> {
    let stored: Stored = serde_json::from_slice(value)?;
    Ok(Keys {
        hint: secret(&stored.hint)?,
        signing: message_key(&stored.signing)?,
        beside: stored.beside.as_ref().map(message_key).transpose()?,
        revision,
    })
}

fn write(keys: &Keys) -> Result<Vec<u8>, ApiError> {
    let stored = Stored {
        hint: BASE64.encode(keys.hint.0),
        signing: (&keys.signing).into(),
        beside: keys.beside.as_ref().map(Into::into),
    };
    serde_json::to_vec(&stored).map_err(|e| ApiError::internal("writing flow keys", &e))
}

/// The keys in the store, by uuid of the SE group.
pub(super) async fn load(store: &dyn store::Store) -> Result<BTreeMap<String, Keys>, ApiError> {
    let listing = store.list(PREFIX).await?;
    let each = listing.entries.into_iter().map(|entry| {
        // The cause is left out, because it may quote what it read.
        let keys = read(&entry.value, entry.revision)
            .map_err(|_| ApiError::internal(&format!("reading {}", entry.key), &"it is damaged"))?;
        Ok((entry.key[PREFIX.len()..].to_owned(), keys))
    });
    each.collect()
}

/// Every SE group has keys, and they change when their time has come; those of a group that is gone are removed.
pub(super) async fn tend(planner: &Planner) -> Result<(), ApiError> {
    let snapshot = planner.objects.snapshot();
    let groups: BTreeSet<String> = snapshot
        .all("serviceenginegroup")
        .map(|(uuid, _)| uuid.to_owned())
        .collect();
    let known = planner.read().keys.clone();
    for group in &groups {
        let told = || {
            engines_of(&snapshot, group)
                .iter()
                .all(|se| planner.registry.is_in_force(se))
        };
        let (keys, step) = match known.get(group) {
            None => (
                Keys::new(now_unix_s(), rand::random),
                Some("flow keys are made"),
            ),
            Some(keys) => {
                let mut keys = keys.clone();
                let step = keys.tend(now_unix_s(), told(), rand::random);
                (keys, step)
            }
        };
        if let Some(step) = step {
            put(planner, group, Some(keys), step).await?;
        }
    }
    for gone in known.keys().filter(|group| !groups.contains(*group)) {
        put(planner, gone, None, "the SE group was deleted").await?;
    }
    Ok(())
}

fn engines_of(snapshot: &crate::objects::Snapshot, group: &str) -> Vec<String> {
    let reference = Ref::to("serviceenginegroup", group).0;
    let belongs = |object: &Object| {
        object.get("se_group_ref").and_then(Value::as_str) == Some(reference.as_str())
    };
    let engines = snapshot.all("serviceengine");
    let here = engines.filter(|(_, stored)| belongs(&stored.object));
    here.map(|(uuid, _)| uuid.to_owned()).collect()
}

/// Durable before an engine hears of it.
async fn put(
    planner: &Planner,
    group: &str,
    keys: Option<Keys>,
    step: Step,
) -> Result<(), ApiError> {
    let before = planner.read().keys.get(group).map(|k| k.revision);
    let key = format!("{PREFIX}{group}");
    let expect = before.map_or(Expect::Absent, Expect::Revision);
    let op = match &keys {
        Some(keys) => Op::put(key, write(keys)?, expect),
        None => Op::delete(key, expect),
    };
    let meta = meta(format!("{step} ({group})"));
    let revision = planner.objects.store().commit(vec![op], meta).await?;
    tracing::info!(se_group = group, "{step}");
    let mut tables = planner.write();
    tables.revision = revision.max(tables.revision);
    tables.marks.every_engine();
    match keys {
        Some(keys) => tables
            .keys
            .insert(group.to_owned(), Keys { revision, ..keys }),
        None => tables.keys.remove(group),
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_S: u64 = 3600;

    /// Secrets that tell one from the other.
    fn counting() -> impl Fn() -> [u8; 16] {
        let next = std::cell::Cell::new(0u8);
        move || {
            next.set(next.get() + 1);
            [next.get(); 16]
        }
    }

    fn ids(keys: &Keys) -> Vec<u32> {
        keys.message_keys().iter().map(|k| k.id).collect()
    }

    #[test]
    fn a_new_key_is_known_to_all_before_it_signs() {
        let random = counting();
        let mut keys = Keys::new(0, &random);
        let hint = keys.hint_key();
        let mut history = Vec::new();
        for hour in 0..=72 {
            if keys.tend(hour * HOUR_S, true, &random).is_some() {
                history.push((hour, ids(&keys)));
            }
        }
        let expected = [
            (24, vec![1, 2]),
            (36, vec![2, 1]),
            (48, vec![2, 3]),
            (60, vec![3, 2]),
            (72, vec![3, 4]),
        ];
        assert_eq!(history, expected);
        assert_eq!(keys.hint_key(), hint, "hints of living flows depend on it");
        let secrets: BTreeSet<Vec<u8>> =
            keys.message_keys().into_iter().map(|k| k.secret).collect();
        assert_eq!(secrets.len(), 2);
    }

    #[test]
    fn a_key_that_not_every_engine_has_confirmed_does_not_sign() {
        let random = counting();
        let mut keys = Keys::new(0, &random);
        assert!(keys.tend(24 * HOUR_S, false, &random).is_some());
        assert_eq!(keys.tend(40 * HOUR_S, false, &random), None);
        assert_eq!(ids(&keys), [1, 2]);
        assert!(keys.tend(40 * HOUR_S, true, &random).is_some());
        assert_eq!(ids(&keys), [2, 1]);
    }

    #[test]
    fn keys_come_back_from_the_store_as_they_were_and_are_not_printed() {
        let mut keys = Keys::new(0, || [0xA7; 16]);
        keys.tend(24 * HOUR_S, true, || [0xB8; 16]);
        let stored = write(&keys).expect("written");
        assert_eq!(read(&stored, 0).expect("read"), keys);
        let printed = format!("{keys:?}").to_lowercase();
        let shown = ["a7", "b8", "167", "184", BASE64.encode([0xA7; 16]).as_str()]
            .iter()
            .any(|s| printed.contains(*s));
        assert!(!shown, "{printed}");
        assert!(read(b"{\"hint\": \"AAAA\"}", 0).is_err());
    }
}
