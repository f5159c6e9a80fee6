//! `?dry_run=true`: what a write would do, instead of doing it.

use super::operation::Call;
use super::{App, Context, audit, ok, parse};
use crate::error::ApiError;
use crate::objects::Planned;
use axum::response::Response;
use serde_json::{Value, json};

/// Objects that are shown; `count` has all.
const SHOWN_MAX: usize = 1000;

/// The plan of a change that was checked.
pub(super) fn of_change(app: &App, context: &Context, planned: &Planned) -> Value {
    let writes: Vec<Value> = planned
        .writes()
        .take(SHOWN_MAX)
        .map(|w| audit::show_write(&w))
        .collect();
    let objects = json!({"count": planned.touched.len(), "results": writes});
    let revision = planned.before.revision;
    with_head(revision, objects, app.backend.preview(planned, context))
}

/// `POST /api/virtualservice/UUID/scaleout?dry_run=true`, `scalein`, `migrate` and `switchover`.
///
/// # Errors
/// As the action itself.
pub(super) fn of_scaling(call: &Call<'_>) -> Result<Response, ApiError> {
    let (body, backend) = (parse(&call.body)?, &call.app.backend);
    let plan = match call.last {
        "scaleout" => backend.preview_scale_out(call.uuid, &body, call.context)?,
        "migrate" => backend.preview_migrate(call.uuid, &body, call.context)?,
        "switchover" => backend.preview_switch_over(call.uuid, &body, call.context)?,
        _ => backend.preview_scale_in(call.uuid, &body, call.context)?,
    };
    Ok(of_placement(call, plan))
}

/// Of what changes no object.
pub(super) fn of_placement(call: &Call<'_>, plan: Value) -> Response {
    let objects = json!({"count": 0, "results": []});
    let revision = call.app.objects.snapshot().revision;
    ok(with_head(revision, objects, plan))
}

/// Of what changes neither objects nor placement: what it would do, in sentences.
pub(super) fn of_effects(call: &Call<'_>, effects: &[String]) -> Response {
    let none = || json!({"count": 0, "results": []});
    let plan = json!({
        "placement": {"count": 0, "results": [], "not_looked_at": 0},
        "routes": {"announced": none(), "withdrawn": none()},
        "flows": none(),
        "effects": effects,
    });
    of_placement(call, plan)
}

fn with_head(revision: u64, objects: Value, plan: Value) -> Value {
    let mut shown = json!({"dry_run": true, "revision": revision, "objects": objects});
    if let (Some(shown), Value::Object(plan)) = (shown.as_object_mut(), plan) {
        shown.extend(plan);
    }
    shown
}
