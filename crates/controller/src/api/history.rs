//! Ways back: revert, and changes that revert themselves unless they are confirmed.

use super::operation::Call;
use super::{ok, parse, preview, query, resources, singleton};
use crate::clock;
use crate::confirm::{self, Pending};
use crate::error::ApiError;
use axum::response::Response;
use model::object::Object;
use model::schema::ObjectType;
use serde_json::{Value, json};

/// `POST /api/ek/revert`: `{"revision": N}` undoes that change; `{"type", "uuid", "revision": N}` makes one object
/// what it was after N.
pub(super) async fn revert(call: &Call<'_>) -> Result<Response, ApiError> {
    let body = parse(&call.body)?;
    let (author, objects) = (&call.context.author, &call.app.objects);
    let revision = revision(&body)?;
    let reverted = match (text(&body, "type")?, text(&body, "uuid")?) {
        (None, None) => {
            let message = format!("revert of revision {revision}");
            objects
                .revert(author, &message, revision, Vec::new())
                .await?
        }
        (Some(ty), Some(uuid)) => {
            let ty = known(ty)?;
            objects.revert_object(author, ty, uuid, revision).await?
        }
        _ => {
            return Err(ApiError::bad_request(
                "type and uuid go together: write both for one object, or none for a whole change",
            ));
        }
    };
    Ok(ok(
        json!({"revision": author.written(), "objects": reverted}),
    ))
}

/// `GET /api/ek/pending`.
pub(super) async fn pending(call: &Call<'_>) -> Result<Response, ApiError> {
    let (access, author) = (&call.context.access, &call.context.author);
    let mut all = confirm::pending(&call.app.objects).await?;
    all.retain(|p| access.superuser || p.who == author.who);
    Ok(ok(query::page(call.context, "ek/pending", all, shown)))
}

fn shown(pending: Pending) -> Value {
    json!({
        "revision": pending.revision,
        "who": pending.who,
        "within_s": pending.within_s,
        "deadline": clock::rfc3339(pending.deadline_us),
        "deadline_us": pending.deadline_us,
        "state": if pending.failed.is_some() { "failed" } else { "waiting" },
        "reason": pending.failed,
    })
}

/// `POST /api/ek/confirm`: the change stays. A change whose revert failed is taken off the list.
pub(super) async fn confirm(call: &Call<'_>) -> Result<Response, ApiError> {
    let revision = revision(&parse(&call.body)?)?;
    let author = &call.context.author;
    let may = |who: &str| who == author.who || call.context.access.superuser;
    if author.dry_run {
        let found = confirm::find(&call.app.objects, revision, may).await?;
        let deadline = clock::rfc3339(found.deadline_us);
        let effect = format!("revision {revision} stays; it is not reverted at {deadline}");
        return Ok(preview::of_effects(call, &[effect]));
    }
    confirm::confirm(&call.app.objects, author, revision, may).await?;
    Ok(ok(json!({"revision": revision, "state": "confirmed"})))
}

fn known(path: &str) -> Result<&'static ObjectType, ApiError> {
    singleton::known(path).map_or_else(|| resources::known(path), Ok)
}

fn revision(body: &Object) -> Result<u64, ApiError> {
    let number = body.get("revision").and_then(Value::as_u64);
    number.ok_or_else(|| {
        ApiError::bad_request(
            "revision: is missing or no number; write a revision of GET /api/ek/audit",
        )
    })
}

fn text<'a>(body: &'a Object, field: &str) -> Result<Option<&'a str>, ApiError> {
    match body.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(ApiError::bad_request(format!("{field}: must be text"))),
    }
}
