//! The keys that seal secrets in the store: which there are, and a new one.

use super::operation::Call;
use super::{ok, preview};
use crate::clock;
use crate::error::ApiError;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

/// `GET /api/ek/sealkey`: ids, never keys.
pub(super) fn show(call: &Call<'_>) -> Value {
    let ring = &call.app.ring;
    let progress = ring.progress().borrow().clone();
    let keys = ring.list().into_iter().map(|key| {
        let made = clock::rfc3339(key.made_unix_s.saturating_mul(1_000_000));
        json!({"id": key.id, "made": made, "seals": key.seals})
    });
    json!({
        "keys": keys.collect::<Vec<_>>(),
        "state": if progress.resealing { "resealing" } else { "sealed" },
        "reason": progress.failed,
    })
}

/// `POST /api/ek/sealkey/rotate`: a new key seals, and everything is sealed anew; answers when the older keys are gone.
pub(super) async fn rotate(call: &Call<'_>) -> Result<Response, ApiError> {
    if call.app.nodes.share_a_store() {
        // The others have their own copy of the key file, and would open nothing once they lead.
        let text = "controllers that share an etcd have a copy of the key file each, and the others would open nothing once they lead: to \
                    change the key, restore a backup into a controller without etcd, rotate there, and move its backup back";
        return Err(ApiError::new(StatusCode::CONFLICT, text));
    }
    let ring = &call.app.ring;
    let mut progress = ring.progress();
    let goes_on = |p: &crate::seal::Progress| p.resealing && p.failed.is_none();
    if goes_on(&progress.borrow()) {
        let text =
            "secrets are being sealed anew already; wait until GET /api/ek/sealkey says \"sealed\"";
        return Err(ApiError::new(StatusCode::CONFLICT, text));
    }
    if call.context.author.dry_run {
        let effect = "a new key seals, all secrets in the store are sealed anew, and older keys go";
        return Ok(preview::of_effects(call, &[effect.to_owned()]));
    }
    let failed = |e: anyhow::Error| ApiError::internal("making a key", &format!("{e:#}"));
    let key = ring.rotate().await.map_err(failed)?;
    let (user, from) = (&call.context.access.user, call.context.peer);
    tracing::info!(user, %from, key, "a new key seals secrets");
    progress.wait_for(|p| !goes_on(p)).await.ok();
    Ok(ok(show(call)))
}
