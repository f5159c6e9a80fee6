//! `/api/alert`: what is to be looked at (avi-api section 11). Who sees the object of an alert, and may read alerts,
//! sees it; its state and its end are for who may write alerts in the tenant of the object.

use super::operation::Call;
use super::{ok, parse, preview, query};
use crate::access::{self, Level};
use crate::alerts::{Alert, State};
use crate::error::ApiError;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// Path of the type.
const PATH: &str = "alert";

/// `GET /api/alert`, newest first; fields are filters as of any collection.
pub(super) fn list(call: &Call<'_>) -> Result<Response, ApiError> {
    let all = call.app.alerts.all();
    let seen = all.iter().rev().filter(|alert| sees(call, alert));
    let shown = seen.map(|alert| show(call, alert));
    let mut found: Vec<Value> = shown.filter(|alert| fits(call, alert)).collect();
    if call.context.get("sort") == Some("timestamp") {
        found.reverse();
    }
    Ok(ok(query::page(call.context, PATH, found, |alert| alert)))
}

/// `GET /api/alert/UUID`.
pub(super) fn read(call: &Call<'_>) -> Result<Response, ApiError> {
    Ok(ok(show(call, &seen(call)?)))
}

/// `PUT /api/alert/UUID`: of the body, `state` counts.
pub(super) async fn put(call: &Call<'_>) -> Result<Response, ApiError> {
    let alert = writable(call)?;
    let body = parse(&call.body)?;
    let state = body.get("state").cloned().unwrap_or(Value::Null);
    let known: Option<State> = serde_json::from_value(state.clone()).ok();
    // Throttled it becomes by itself.
    let wanted = known.filter(|state| *state != State::Throttled);
    let wrong = || {
        ApiError::bad_request(format!(
            "state: {state} is no state to set; use ALERT_STATE_ON or ALERT_STATE_DISMISSED"
        ))
    };
    let state = wanted.ok_or_else(wrong)?;
    if call.context.author.dry_run {
        let effect = format!(
            "the state of alert {} is set to {}",
            alert.name, body["state"]
        );
        return Ok(preview::of_effects(call, &[effect]));
    }
    let alert = call.app.alerts.set_state(&alert.uuid, state).await?;
    Ok(ok(show(call, &alert)))
}

/// `DELETE /api/alert/UUID`.
pub(super) async fn delete(call: &Call<'_>) -> Result<Response, ApiError> {
    let alert = writable(call)?;
    if call.context.author.dry_run {
        let effect = format!("alert {} is deleted", alert.name);
        return Ok(preview::of_effects(call, &[effect]));
    }
    call.app.alerts.delete(&alert.uuid).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn sees(call: &Call<'_>, alert: &Alert) -> bool {
    let (access, resource) = (&call.context.access, access::resource(PATH));
    let snapshot = call.app.objects.snapshot();
    let view = call.context.view();
    let may = |tenant: &str| access.may(Level::Read, &resource, tenant);
    (may(&alert.subject.tenant) || may(&view.tenant))
        && view.shows(&snapshot, access, &alert.subject)
}

/// The alert of the path, as if it were not there for who does not see it.
fn seen(call: &Call<'_>) -> Result<Alert, ApiError> {
    let alert = call.app.alerts.get(call.uuid)?;
    match sees(call, &alert) {
        true => Ok(alert),
        false => Err(ApiError::not_found("Alert")),
    }
}

/// The same, for who may change it.
fn writable(call: &Call<'_>) -> Result<Alert, ApiError> {
    let alert = seen(call)?;
    let (caller, resource) = (&call.context.access, access::resource(PATH));
    if caller.may(Level::Write, &resource, &alert.subject.tenant) {
        return Ok(alert);
    }
    let text = format!(
        "{} may not change alerts of the tenant of {}: {resource} is missing in his roles there",
        caller.user, alert.subject.name
    );
    Err(ApiError::new(StatusCode::FORBIDDEN, text))
}

/// `FIELD=value` of a field that the alert has as text.
fn fits(call: &Call<'_>, shown: &Value) -> bool {
    let text = |name: &str| shown.get(name).and_then(Value::as_str);
    let mut query = call.context.query.iter();
    query.all(|(name, value)| text(name).is_none_or(|actual| actual == value))
}

fn show(call: &Call<'_>, alert: &Alert) -> Value {
    let Alert {
        uuid,
        name,
        level,
        state,
        time_us,
        expires_us: _,
        quiet_until_us: _,
        event_id: _,
        summary,
        subject,
        key,
        config,
        threshold,
        throttle_count,
        last_throttle_us,
        related,
        events,
    } = alert;
    let origin = &call.context.origin;
    let snapshot = call.app.objects.snapshot();
    let config_name = match call.context.asks("include_name") {
        true => snapshot
            .name_of("alertconfig", config)
            .map(|n| format!("#{n}")),
        false => None,
    };
    let pages = events.last().map(|e| e["event_pages"].clone());
    json!({
        "url": format!("{origin}/api/{PATH}/{uuid}"),
        "uuid": uuid, "name": name, "level": level, "state": state,
        "timestamp": seconds(*time_us), "summary": summary, "reason": "threshold_exceeded",
        "obj_uuid": subject.uuid, "obj_name": subject.name, "obj_key": key,
        "tenant_ref": format!("{origin}/api/tenant/{}", subject.tenant),
        "alert_config_ref": format!("{origin}/api/alertconfig/{config}{}", config_name.unwrap_or_default()),
        "threshold": threshold, "throttle_count": throttle_count,
        "last_throttle_timestamp": seconds(*last_throttle_us),
        "related_uuids": related, "event_pages": pages, "events": events,
    })
}

/// Since 1970, with parts of a second.
fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}
