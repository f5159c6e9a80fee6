//! API tokens of users (avi-api 2.4): a text that stands for its user until it expires or is revoked.
//!
//! The store has a hash of each; it is asked at every call, so that a revoked one is refused at once. What the bearer may is
//! worked out from the user's roles, as with a session. A token goes with its user, in the same transaction.

use super::same_bytes;
use crate::clock::now_unix_s;
use crate::error::ApiError;
use crate::objects::{Author, Objects};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use store::{Entry, Expect, Meta, Op, Store};

/// Prefix of their keys in the store: `/usertoken/ID`.
pub const PREFIX: &str = "/usertoken/";
/// Every token begins with this; the digit is the form's version.
const TEXT: &str = "ekapi1.";
/// Hours that a token is good when nothing else is said.
pub const HOURS_DEFAULT: u64 = 24;
/// A year.
pub const HOURS_MAX: u64 = 8760;
/// Tokens of a user that have not expired: a script that makes one each time and forgets it is told.
const PER_USER_MAX: usize = 100;
/// Longest name, in bytes.
const NAME_LEN_MAX: usize = 128;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    hash: String,
    /// uuid of the user.
    user: String,
    name: String,
    made_unix_s: u64,
    expires_unix_s: u64,
}

/// What may be told of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Its id.
    pub id: String,
    /// uuid of its user.
    pub user: String,
    /// What its user calls it, or nothing.
    pub name: String,
    /// Seconds since 1970.
    pub made_unix_s: u64,
    /// Seconds since 1970.
    pub expires_unix_s: u64,
}

impl Token {
    fn read(entry: &Entry) -> Result<(Self, String), ApiError> {
        let unreadable = |e| ApiError::internal(&format!("reading {}", entry.key), &e);
        let record: Record = serde_json::from_slice(&entry.value).map_err(unreadable)?;
        let Record {
            hash,
            user,
            name,
            made_unix_s,
            expires_unix_s,
        } = record;
        let token = Self {
            id: entry.key[PREFIX.len()..].to_owned(),
            user,
            name,
            made_unix_s,
            expires_unix_s,
        };
        Ok((token, hash))
    }

    fn has_expired(&self) -> bool {
        self.expires_unix_s <= now_unix_s()
    }

    fn delete(&self) -> Op {
        Op::delete(format!("{PREFIX}{}", self.id), Expect::Any)
    }
}

/// What a user wants.
#[derive(Debug, Clone)]
pub struct Wish {
    /// His word for it.
    pub name: String,
    /// How long it is good.
    pub hours: u64,
}

/// Makes a token of this user; gives it, and its text, which nobody can read again. His expired ones go.
///
/// # Errors
/// 400 when a field is out of range; 409 when he has too many.
pub async fn create(
    objects: &Objects,
    author: &Author,
    user: &str,
    wish: Wish,
) -> Result<(Token, String), ApiError> {
    let expired = check(objects, user, &wish).await?;
    let (id, secret) = (uuid::Uuid::new_v4().to_string(), super::random_token());
    let made_unix_s = now_unix_s();
    let record = Record {
        hash: hash(&secret),
        user: user.to_owned(),
        name: wish.name,
        made_unix_s,
        expires_unix_s: made_unix_s.saturating_add(wish.hours * 3600),
    };
    let entry = Entry {
        key: format!("{PREFIX}{id}"),
        value: serde_json::to_vec(&record)
            .map_err(|e| ApiError::internal("making an API token", &e))?,
        revision: 0,
    };
    let (token, _) = Token::read(&entry)?;
    let mut ops = vec![Op::put(entry.key, entry.value, Expect::Absent)];
    ops.extend(expired.iter().map(Token::delete));
    commit(objects, author, ops, format!("create API token {id}")).await?;
    Ok((token, format!("{TEXT}{id}.{secret}")))
}

/// That the user may have this token; gives his expired ones.
///
/// # Errors
/// As of [`create`].
pub async fn check(objects: &Objects, user: &str, wish: &Wish) -> Result<Vec<Token>, ApiError> {
    check_fields(wish)?;
    let mut his = list(&**objects.store()).await?;
    his.retain(|t| t.user == user);
    let (expired, living): (Vec<_>, Vec<_>) = his.into_iter().partition(Token::has_expired);
    if living.len() >= PER_USER_MAX {
        let text = format!(
            "the user has {PER_USER_MAX} tokens; revoke some (DELETE /api/user-token/UUID)"
        );
        return Err(ApiError::new(StatusCode::CONFLICT, text));
    }
    Ok(expired)
}

fn check_fields(wish: &Wish) -> Result<(), ApiError> {
    if !(1..=HOURS_MAX).contains(&wish.hours) {
        return Err(ApiError::bad_request(format!(
            "hours: {} is out of range; use 1 to {HOURS_MAX}",
            wish.hours
        )));
    }
    if wish.name.len() > NAME_LEN_MAX || wish.name.contains(char::is_control) {
        return Err(ApiError::bad_request(format!(
            "name: is no line of text; write up to {NAME_LEN_MAX} bytes"
        )));
    }
    Ok(())
}

async fn commit(
    objects: &Objects,
    author: &Author,
    ops: Vec<Op>,
    message: String,
) -> Result<(), ApiError> {
    let meta = Meta {
        who: author.who.clone(),
        from: author.from.clone(),
        message,
    };
    Ok(objects.store().commit(ops, meta).await.map(drop)?)
}

/// All tokens, of all users, oldest first.
///
/// # Errors
/// The store refuses.
pub async fn list(store: &dyn Store) -> Result<Vec<Token>, ApiError> {
    let listing = store.list(PREFIX).await?;
    let each = listing.entries.iter().map(Token::read);
    let mut all: Vec<Token> = each.map(|r| Ok(r?.0)).collect::<Result<_, ApiError>>()?;
    all.sort_by(|a, b| (a.made_unix_s, &a.id).cmp(&(b.made_unix_s, &b.id)));
    Ok(all)
}

/// Revokes a token if `may` says so; calls with it are refused from now on.
///
/// # Errors
/// 404 when there is none, or it is not for the caller to know of.
pub async fn revoke(
    objects: &Objects,
    author: &Author,
    id: &str,
    may: impl Fn(&Token) -> bool,
) -> Result<(), ApiError> {
    let token = find(objects, id, may).await?;
    let message = format!("revoke API token {id}");
    commit(objects, author, vec![token.delete()], message).await
}

/// The token of this id, if `may` says so.
///
/// # Errors
/// As of [`revoke`].
pub async fn find(
    objects: &Objects,
    id: &str,
    may: impl Fn(&Token) -> bool,
) -> Result<Token, ApiError> {
    let found = get(&**objects.store(), id).await?;
    let found = found.map(|(token, _)| token).filter(may);
    let text = || format!("there is no API token {id}");
    found.ok_or_else(|| ApiError::new(StatusCode::NOT_FOUND, text()))
}

async fn get(store: &dyn Store, id: &str) -> Result<Option<(Token, String)>, ApiError> {
    let entry = store.get(&format!("{PREFIX}{id}")).await?;
    entry.as_ref().map(Token::read).transpose()
}

/// The token of this text, while it is good.
///
/// # Errors
/// The store refuses.
pub async fn redeem(store: &dyn Store, text: &str) -> Result<Option<Token>, ApiError> {
    let parts = text.strip_prefix(TEXT).and_then(|t| t.split_once('.'));
    // What is no id is no key of the store either.
    let Some((id, secret)) = parts.filter(|(id, _)| uuid::Uuid::try_parse(id).is_ok()) else {
        return Ok(None);
    };
    let found = get(store, id).await?;
    let fits = |stored: &str| same_bytes(hash(secret).as_bytes(), stored.as_bytes());
    let found = found.filter(|(token, stored)| fits(stored) && !token.has_expired());
    Ok(found.map(|(token, _)| token))
}

/// True while the token is good.
///
/// # Errors
/// The store refuses.
pub async fn is_good(store: &dyn Store, id: &str) -> Result<bool, ApiError> {
    let found = get(store, id).await?;
    Ok(found.is_some_and(|(token, _)| !token.has_expired()))
}

/// The writes that go with a user who is deleted: another one may get his uuid.
///
/// # Errors
/// The store refuses.
pub async fn forget(store: &dyn Store, user: &str) -> Result<Vec<Op>, ApiError> {
    let all = list(store).await?;
    let his = all.iter().filter(|t| t.user == user);
    Ok(his.map(Token::delete).collect())
}

/// 256 bits at random need no slow hash.
fn hash(secret: &str) -> String {
    super::sha256_hex(secret.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use store::Memory;

    async fn objects() -> Objects {
        Objects::open(Arc::new(Memory::default()))
            .await
            .expect("opened")
    }

    async fn make(objects: &Objects, hours: u64) -> Result<(Token, String), ApiError> {
        let wish = Wish {
            name: "ci".into(),
            hours,
        };
        create(objects, &Author::system("test"), "user-7", wish).await
    }

    /// The token as if it had been made so long ago.
    async fn age(objects: &Objects, token: &Token, hours: u64) {
        let key = format!("{PREFIX}{}", token.id);
        let entry = objects.store().get(&key).await.expect("read");
        let value = entry.expect("there").value;
        let mut record: Record = serde_json::from_slice(&value).expect("a record");
        record.expires_unix_s -= hours * 3600;
        let value = serde_json::to_vec(&record).expect("written");
        let op = Op::put(key, value, Expect::Any);
        let aged = objects.store().commit(vec![op], Meta::default());
        aged.await.expect("aged");
    }

    #[tokio::test]
    async fn a_token_is_good_until_it_expires_and_then_makes_room() {
        let objects = objects().await;
        let store = &**objects.store();
        let (token, text) = make(&objects, 2).await.expect("made");
        assert_eq!(redeem(store, &text).await, Ok(Some(token.clone())));
        assert_eq!(is_good(store, &token.id).await, Ok(true));
        age(&objects, &token, 2).await;
        assert_eq!(redeem(store, &text).await, Ok(None));
        assert_eq!(is_good(store, &token.id).await, Ok(false));
        make(&objects, 1).await.expect("made");
        let left = list(store).await.expect("listed");
        assert!(left.len() == 1 && left[0].id != token.id, "{left:?}");
    }

    #[tokio::test]
    async fn another_secret_id_or_form_is_refused_and_the_store_has_a_hash_alone() {
        let objects = objects().await;
        let store = &**objects.store();
        let (token, text) = make(&objects, 1).await.expect("made");
        let (_, other) = make(&objects, 1).await.expect("made");
        let secret = text.rsplit('.').next().expect("the last part");
        let crossed = format!(
            "{TEXT}{}.{}",
            token.id,
            other.rsplit('.').next().expect("one")
        );
        let cut = &text[..text.len() - 1];
        for wrong in [
            &crossed,
            cut,
            "",
            TEXT,
            "ekapi1../../x.y",
            secret,
            "ekapi2.a.b",
        ] {
            assert_eq!(redeem(store, wrong).await, Ok(None), "{wrong}");
        }
        let stored = store.list(PREFIX).await.expect("listed").entries;
        let stored: Vec<u8> = stored.into_iter().flat_map(|e| e.value).collect();
        assert!(!String::from_utf8_lossy(&stored).contains(secret));
    }

    #[tokio::test]
    async fn a_user_has_so_many_tokens_and_they_go_with_him() {
        let objects = objects().await;
        for _ in 0..PER_USER_MAX {
            make(&objects, 1).await.expect("made");
        }
        let refused = make(&objects, 1).await.expect_err("too many");
        assert_eq!(refused.status, StatusCode::CONFLICT);
        let gone = forget(&**objects.store(), "user-7").await.expect("read");
        assert_eq!(gone.len(), PER_USER_MAX);
        let others = forget(&**objects.store(), "user-8").await.expect("read");
        assert_eq!(others, []);
        for hours in [0, HOURS_MAX + 1] {
            let text = make(&objects, hours).await.expect_err("out of range").text;
            assert!(text.starts_with("hours: "), "{text}");
        }
    }
}
