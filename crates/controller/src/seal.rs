//! Secrets are sealed before they are stored: a copy of the store's file tells none of them (docs/adr/0014).
//!
//! The seal sits between the product and the store ([`SealedStore`]), so that no reader and no writer can forget it:
//! configuration, the log, revert, export and the planner's keys pass it alike, and above it values are in clear. What
//! is a secret is schema data; a sealed one is `{"$sealed": "1:KEY:…"}` in its place, which no client can write there,
//! because secrets are text. It opens at that field of that object alone.
//!
//! Keys are in a file of their own ([`Ring`]). A new one seals at once, and [`run`] goes through the store and its log
//! until no value needs an older one, which is dropped then; the same pass seals what an older version stored in clear. A
//! value has one form or the other, and the ring says that the pass has not ended: whatever kills it, the next start goes on.

mod key;
mod ring;
mod store;
#[cfg(test)]
mod tests;

pub use self::ring::{Progress, Ring};
pub use self::store::SealedStore;

use crate::objects::PREFIX;
use ::store::{Recode, Store};
use anyhow::Context as _;
use model::object::{self, Object};
use model::schema::{ObjectType, object_type, object_types};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The only name in what stands for a secret.
const MARK: &str = "$sealed";
/// Keys whose values are sealed as a whole: those with which engines speak of flows, the CA that several controllers share,
/// and the hash of a password that an older version has left.
const WHOLE: [&str; 3] = ["/flowkey/", crate::engines::ca::KEY, "/auth/password/"];
/// Values that a step of [`run`] takes: writes wait for it.
const STEP: usize = 500;
/// After a failure, a full disk for instance, it is tried again.
const AGAIN: Duration = Duration::from_secs(60);

/// Path names of the types whose objects can have secrets.
static TYPES: LazyLock<BTreeSet<&'static str>> = LazyLock::new(|| {
    let types = object_types().filter(|ty| object::can_have_secrets(ty));
    types.map(|ty| ty.path.as_str()).collect()
});

/// A value that does not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// Another ring's.
    #[error(
        "it is sealed by key {0}, which is not in the key file: put back the file that belongs to this store"
    )]
    UnknownKey(String),
    /// It was changed, or copied from elsewhere.
    #[error(
        "{0}: the sealed secret is damaged or belongs elsewhere: restore a backup, or write the object again"
    )]
    Damaged(String),
}

/// What of a key's value is secret.
enum Secrets {
    None,
    Whole,
    Fields(&'static ObjectType),
}

fn secrets_of(key: &str) -> Secrets {
    if WHOLE.iter().any(|prefix| key.starts_with(prefix)) {
        return Secrets::Whole;
    }
    let path = key
        .strip_prefix(PREFIX)
        .and_then(|rest| rest.split('/').next());
    let ty = path.filter(|p| TYPES.contains(p)).and_then(object_type);
    ty.map_or(Secrets::None, Secrets::Fields)
}

/// Where a secret may be opened: the object and the field.
fn place(key: &str, field: &str) -> String {
    format!("{key}\n{field}")
}

fn parse(value: &[u8]) -> Option<Object> {
    serde_json::from_slice(value).ok()
}

fn bytes(object: Object) -> Vec<u8> {
    Value::Object(object).to_string().into_bytes()
}

/// The text in what stands for a secret.
fn sealed_text(value: &Value) -> Option<&str> {
    let fields = value.as_object().filter(|o| o.len() == 1)?;
    fields.get(MARK)?.as_str()
}

/// The cheap question first: most values are not sealed.
fn has_mark(value: &[u8]) -> bool {
    let mark = MARK.as_bytes();
    value.windows(mark.len()).any(|w| w == mark)
}

impl Ring {
    /// The value as it is stored.
    fn seal(&self, key: &str, value: Vec<u8>) -> Vec<u8> {
        let stand_in = |field: &str, secret: &[u8]| json!({ MARK: self.seal_text(&place(key, field), secret) });
        match secrets_of(key) {
            Secrets::None => value,
            Secrets::Whole => stand_in("", &value).to_string().into_bytes(),
            Secrets::Fields(ty) => {
                // What is no object is not read by anybody either.
                let Some(mut object) = parse(&value) else {
                    return value;
                };
                object::map_secrets(ty, &mut object, &mut |field, secret| {
                    if let Value::String(text) = secret {
                        *secret = stand_in(field, text.as_bytes());
                    }
                });
                bytes(object)
            }
        }
    }

    /// The value in clear; one that was stored in clear is itself.
    fn open(&self, key: &str, value: Vec<u8>) -> Result<Vec<u8>, Broken> {
        let open = |field: &str, text: &str| self.open_text(&place(key, field), field, text);
        match secrets_of(key) {
            Secrets::Whole => {
                let object = parse(&value).map(Value::Object);
                match object.as_ref().and_then(sealed_text) {
                    Some(text) => open("", text),
                    None => Ok(value),
                }
            }
            Secrets::Fields(ty) if has_mark(&value) => {
                let Some(mut object) = parse(&value) else {
                    return Ok(value);
                };
                let mut result = Ok(());
                object::map_secrets(ty, &mut object, &mut |field, secret| {
                    let opened = sealed_text(secret).map(|text| open(field, text));
                    match opened {
                        Some(Ok(text)) => *secret = String::from_utf8_lossy(&text).into(),
                        Some(Err(broken)) => result = Err(broken),
                        None => {}
                    }
                });
                result.map(|()| bytes(object))
            }
            Secrets::Fields(_) | Secrets::None => Ok(value),
        }
    }

    /// The value sealed by the newest key; none when it is already.
    fn reseal(&self, key: &str, value: &[u8]) -> Result<Option<Vec<u8>>, Broken> {
        if self.is_settled(key, value) {
            return Ok(None);
        }
        let clear = self.open(key, value.to_vec())?;
        Ok(Some(self.seal(key, clear)))
    }

    /// True when nothing of the value is in clear or sealed by an older key.
    fn is_settled(&self, key: &str, value: &[u8]) -> bool {
        let ours = |secret: &Value| match sealed_text(secret) {
            Some(text) => self.is_by_newest(text),
            None => !secret.is_string(),
        };
        match secrets_of(key) {
            Secrets::None => true,
            Secrets::Whole => parse(value).is_some_and(|o| {
                let whole = Value::Object(o);
                sealed_text(&whole).is_some_and(|text| self.is_by_newest(text))
            }),
            Secrets::Fields(ty) => parse(value).is_none_or(|mut object| {
                let mut settled = true;
                object::map_secrets(ty, &mut object, &mut |_, secret| settled &= ours(secret));
                settled
            }),
        }
    }
}

/// True when something of a value is sealed.
fn is_sealed(key: &str, value: &[u8]) -> bool {
    let is = |secret: &Value| sealed_text(secret).is_some();
    match secrets_of(key) {
        Secrets::None => false,
        Secrets::Whole => parse(value).is_some_and(|o| is(&Value::Object(o))),
        Secrets::Fields(ty) => parse(value).is_some_and(|mut object| {
            let mut sealed = false;
            object::map_secrets(ty, &mut object, &mut |_, secret| sealed |= is(secret));
            sealed
        }),
    }
}

/// The keys in this file, which is made for a store that has nothing sealed yet.
///
/// # Errors
/// The file cannot be read or written, or is missing where the store needs it.
pub async fn open(file: &Path, store: &dyn Store) -> anyhow::Result<Ring> {
    if let Some(ring) = Ring::read(file)? {
        return Ok(ring);
    }
    if let Some(entry) = first_sealed(store).await? {
        anyhow::bail!(
            "the store has sealed secrets ({}) and their key file {} is missing: put it back, copy it from another \
             controller of the cluster, or restore a backup (`evenkeel controller restore`), which has it",
            entry.key,
            file.display()
        );
    }
    let ring = Ring::make(file)?;
    tracing::info!(file = %file.display(), "made a key for the secrets in the store");
    Ok(ring)
}

/// Sees that the file has the keys of the store; `leader` is the controller that leads there, if one does.
///
/// # Errors
/// It is missing while somebody leads or something is sealed, or it is another store's.
pub async fn check(file: &Path, store: &dyn Store, leader: Option<&str>) -> anyhow::Result<()> {
    let sealed = first_sealed(store).await?;
    let Some(ring) = Ring::read(file)? else {
        let whose = leader.map(|name| format!("the controller {name} leads"));
        let whose =
            whose.or(sealed.map(|entry| format!("the store has sealed secrets ({})", entry.key)));
        return match whose {
            None => Ok(()),
            Some(why) => Err(anyhow::anyhow!(
                "{why}, and the key file {} is missing here: copy it from another controller of the cluster (mode 0600), and \
                 start again",
                file.display()
            )),
        };
    };
    let Some(entry) = sealed else { return Ok(()) };
    let opened = ring.open(&entry.key, entry.value);
    opened.map(drop).with_context(|| {
        format!(
            "{} are not the keys of this cluster: copy the file from another controller",
            file.display()
        )
    })
}

async fn first_sealed(store: &dyn Store) -> Result<Option<::store::Entry>, ::store::StoreError> {
    let all = store.list("/").await?.entries;
    Ok(all.into_iter().find(|e| is_sealed(&e.key, &e.value)))
}

/// Seals what the newest key has not sealed, whenever there is something, until it is told to stop. `store` is the one
/// below the seal. Cancelling it loses nothing.
pub async fn run(ring: Arc<Ring>, store: Arc<dyn Store>, stop: CancellationToken) {
    let mut progress = ring.progress();
    loop {
        let resealing = progress.borrow_and_update().resealing;
        let mut again = None;
        if resealing && let Err(why) = pass(&ring, &*store).await {
            tracing::error!(why, "secrets are not all sealed by the newest key yet");
            ring.failed(why);
            again = Some(AGAIN);
            progress.mark_unchanged();
        }
        tokio::select! {
            () = stop.cancelled() => return,
            _ = progress.changed() => {}
            () = tokio::time::sleep(again.unwrap_or_default()), if again.is_some() => {}
        }
    }
}

/// Once through the store and its log; then the older keys are dropped.
async fn pass(ring: &Arc<Ring>, store: &dyn Store) -> Result<(), String> {
    let newest = ring.newest();
    let broken: Arc<Mutex<Option<String>>> = Arc::default();
    let form = reseal_form(ring.clone(), broken.clone());
    let (mut after, said) = (0, |e: ::store::StoreError| e.to_string());
    while let Some(last) = store
        .recode(after, STEP, form.clone())
        .await
        .map_err(said)?
    {
        after = last;
    }
    if let Some(why) = broken.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Err(why);
    }
    store.scrub().await.map_err(said)?;
    ring.finish(&newest).await.map_err(|e| format!("{e:#}"))
}

/// A value that does not open stays as it is, and is what is wrong.
fn reseal_form(ring: Arc<Ring>, broken: Arc<Mutex<Option<String>>>) -> Recode {
    Arc::new(move |key, value| {
        ring.reseal(key, value).unwrap_or_else(|why| {
            let mut first = broken.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert_with(|| format!("{key}: {why}"));
            None
        })
    })
}
