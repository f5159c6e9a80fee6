//! Join tokens: made for an operator, good for one engine.

use crate::clock::now_unix_s;
use crate::error::ApiError;
use crate::objects::refs;
use crate::objects::{Author, Objects};
use axum::http::StatusCode;
use model::object::Object;
use model::schema::object_type;
use model::view::Ref;
use proto::join_token::JoinToken;
use proto::v1::JoinRequest;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use store::{Expect, Meta, Op};

/// How long a token is good when nothing else is said.
const TTL_S_DEFAULT: u64 = 3600;
const TTL_S_MAX: u64 = 30 * 24 * 3600;

/// What the store knows of a token: never its secret.
#[derive(Serialize, Deserialize)]
struct Record {
    hash: String,
    expires_unix_s: u64,
    name: Option<String>,
    se_group: Option<String>,
}

/// What an operator wants.
pub struct Wish {
    /// The engine that may use it; any when none.
    pub name: Option<String>,
    /// How long it is good, in seconds.
    pub ttl_s: u64,
    /// uuid of the SE group of an engine that is new.
    se_group: Option<String>,
}

/// A wish of `{name?, ttl_s?, se_group_ref?}`.
///
/// # Errors
/// 400 with the field.
pub fn wish(objects: &Objects, body: &Object) -> Result<Wish, ApiError> {
    let ttl_s = match body.get("ttl_s") {
        None => TTL_S_DEFAULT,
        Some(v) => v
            .as_u64()
            .filter(|t| (1..=TTL_S_MAX).contains(t))
            .ok_or_else(|| {
                ApiError::bad_request(format!(
                    "ttl_s: {v} is out of range; use 1 to {TTL_S_MAX} seconds"
                ))
            })?,
    };
    Ok(Wish {
        name: text(body, "name")?.map(str::to_owned),
        ttl_s,
        se_group: se_group(objects, body)?,
    })
}

/// Makes a token; gives `{token, id, name, expires}`.
///
/// # Errors
/// The store refuses.
pub async fn create(objects: &Objects, ca_pem: &str, wish: Wish) -> Result<Value, ApiError> {
    let Wish {
        name,
        ttl_s,
        se_group,
    } = wish;
    let token = JoinToken {
        id: uuid::Uuid::new_v4().to_string(),
        secret: crate::auth::random_token(),
        ca_pem: ca_pem.to_owned(),
    };
    let expires_unix_s = now_unix_s() + ttl_s;
    let record = Record {
        hash: hash(&token.secret),
        expires_unix_s,
        name: name.clone(),
        se_group,
    };
    let value =
        serde_json::to_vec(&record).map_err(|e| ApiError::internal("making a join token", &e))?;
    let meta = Meta {
        who: "system:join".into(),
        message: format!("join token {}", token.id),
        ..Meta::default()
    };
    objects
        .store()
        .commit(vec![Op::put(key(&token.id), value, Expect::Absent)], meta)
        .await?;
    Ok(json!({"token": token.encode(), "id": token.id, "name": name, "expires": expires_unix_s}))
}

fn text<'a>(body: &'a Object, field: &str) -> Result<Option<&'a str>, ApiError> {
    match body.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => {
            let text = format!("{field}: must be text, not {other}");
            Err(ApiError::bad_request(text))
        }
    }
}

fn se_group(objects: &Objects, body: &Object) -> Result<Option<String>, ApiError> {
    let Some(text) = text(body, "se_group_ref")? else {
        return Ok(None);
    };
    let snapshot = objects.snapshot();
    let by_name = snapshot
        .by_name("serviceenginegroup", text)
        .map(|(uuid, _)| uuid.to_owned());
    match by_name {
        Some(uuid) => Ok(Some(uuid)),
        None => refs::resolve(&snapshot, "serviceenginegroup", text)
            .map(Some)
            .map_err(|e| {
                ApiError::bad_request(format!("se_group_ref: {e}; name an existing SE group"))
            }),
    }
}

/// Uses the token up and gives the engine's uuid; an engine of the same name is found again.
///
/// # Errors
/// 403: unknown, used, expired, or for another engine.
pub async fn redeem(objects: &Objects, request: &JoinRequest) -> Result<String, ApiError> {
    let refused = |text: &str| ApiError::new(StatusCode::FORBIDDEN, text);
    let entry = objects.store().get(&key(&request.token_id)).await?;
    let entry =
        entry.ok_or_else(|| refused("the join token is unknown or used up; make a new one"))?;
    let record: Record = serde_json::from_slice(&entry.value)
        .map_err(|e| ApiError::internal("reading a join token", &e))?;
    if record.hash != hash(&request.token_secret) {
        return Err(refused("the join token's secret is wrong"));
    }
    if record.expires_unix_s < now_unix_s() {
        return Err(refused("the join token has expired; make a new one"));
    }
    if record.name.as_ref().is_some_and(|n| *n != request.name) {
        return Err(refused(&format!(
            "the join token is for engine {}, not {}",
            record.name.unwrap_or_default(),
            request.name
        )));
    }
    let meta = Meta {
        who: "system:join".into(),
        message: format!("token used by {}", request.name),
        ..Meta::default()
    };
    let delete = Op::delete(entry.key, Expect::Revision(entry.revision));
    objects.store().commit(vec![delete], meta).await?;
    register(objects, &request.name, record.se_group).await
}

async fn register(
    objects: &Objects,
    name: &str,
    se_group: Option<String>,
) -> Result<String, ApiError> {
    let author = Author::system("join");
    let ty = object_type("serviceengine").expect("in the schema");
    let create = |draft: &mut crate::objects::Draft| {
        if let Some((uuid, _)) = draft.snapshot.by_name("serviceengine", name) {
            tracing::info!(se = name, "the engine joins again");
            return Ok(uuid.to_owned());
        }
        let mut body = Object::new();
        body.insert("name".into(), name.into());
        body.extend(se_group.map(|g| {
            (
                "se_group_ref".to_owned(),
                Ref::to("serviceenginegroup", &g).0.into(),
            )
        }));
        draft.create(ty, body, None, &author)
    };
    objects
        .change(&author, &format!("engine {name} joins"), create)
        .await
}

fn key(id: &str) -> String {
    format!("/jointoken/{id}")
}

fn hash(secret: &str) -> String {
    crate::auth::sha256_hex(secret.as_bytes())
}
