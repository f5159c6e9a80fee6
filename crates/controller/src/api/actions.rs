//! Actions on what runs (avi-api section 9): their part of the table, and their handlers. Each can be read, because some clients read an action's
//! path before they post to it (avi-api 4.2).

use super::operation::{Audit, Call, Operation, Permission, may};
use super::routes::{empty_page, exists, get};
use super::{ok, parse, preview};
use crate::access::Level;
use crate::error::ApiError;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use futures_util::future::BoxFuture;
use model::object::Object;
use serde_json::Value;

type Handler = for<'a> fn(&'a Call<'a>) -> BoxFuture<'a, Result<Response, ApiError>>;

/// To read it, and to do it.
fn action(path: &str, audit: Audit, handler: Handler) -> [Operation; 2] {
    [
        get(path, Permission::Read, |_| Box::pin(async { empty_page() })),
        Operation::new(Method::POST, path, Permission::Operate, audit, handler),
    ]
}

/// On the placement of virtual services.
pub(super) fn placed() -> Vec<Operation> {
    let vs = |action: &str| format!("/api/virtualservice/{{uuid}}/{action}");
    let read = |action: &str| {
        get(&vs(action), Permission::Read, |_| {
            Box::pin(async { empty_page() })
        })
    };
    let post = |action: &str, handler| {
        Operation::new(
            Method::POST,
            vs(action),
            Permission::Operate,
            Audit::Action,
            handler,
        )
    };
    vec![
        read("scaleout"),
        read("scalein"),
        read("migrate"),
        read("switchover"),
        post("scaleout", |c| Box::pin(scale_out(c))).with_plan(),
        post("scalein", |c| Box::pin(scale_in(c))).with_plan(),
        post("migrate", |c| Box::pin(migrate(c))).with_plan(),
        post("switchover", |c| Box::pin(switch_over(c))).with_plan(),
    ]
}

/// On the active roles of many virtual services at once.
pub(super) fn roles() -> Vec<Operation> {
    macro_rules! action {
        ($path:literal, $handler:ident) => {
            action($path, Audit::Action, |c| Box::pin($handler(c))).map(planned)
        };
    }
    let mut all = Vec::from(action!("/api/serviceengine/{uuid}/switchover", hand_over));
    all.extend(action!(
        "/api/serviceenginegroup/{uuid}/redistribute",
        redistribute
    ));
    all
}

/// What is not read can say what it would do.
fn planned(operation: Operation) -> Operation {
    match *operation.method() == Method::GET {
        true => operation,
        false => operation.with_plan(),
    }
}

/// The same, and it has no parameters but those that it knows.
fn exact(operation: Operation) -> Operation {
    match *operation.method() == Method::GET {
        true => operation,
        false => planned(operation).with_known_parameters(),
    }
}

/// What is looked at, sent, started or counted anew.
pub(super) fn anew() -> Vec<Operation> {
    let table: [(&str, Handler); 8] = [
        ("virtualservice/{uuid}/retryplacement", |c| {
            Box::pin(retry_placement(c))
        }),
        ("virtualservice/{uuid}/resync", |c| {
            Box::pin(async { resync(c) })
        }),
        ("virtualservice/{uuid}/rotatekeys", |c| {
            Box::pin(rotate_keys(c))
        }),
        ("virtualservice/clear", |c| {
            Box::pin(async { clear_services(c) })
        }),
        ("serviceengine/{uuid}/reboot", |c| {
            Box::pin(async { reboot(c) })
        }),
        ("serviceengine/clear", |c| Box::pin(clear_engines(c))),
        ("serviceengine/{uuid}/flowtablestat/clear", |c| {
            Box::pin(async { clear_flow_counters(c) })
        }),
        ("serviceengine/{uuid}/interface/clear", |c| {
            Box::pin(clear_interfaces(c))
        }),
    ];
    let each = table.into_iter();
    let each = each.flat_map(|(path, handler)| {
        let path = format!("/api/{path}");
        action(&path, Audit::Action, handler).map(exact)
    });
    let mut all: Vec<Operation> = each.collect();
    // It writes objects, as DELETE does.
    let path = "/api/serviceengine/{uuid}/forcedelete";
    all.extend(action(path, Audit::Change, |c| Box::pin(force_delete(c))).map(exact));
    all
}

/// What is refused whatever it is asked with, also a plan of it, and says what to do instead.
pub(super) fn refused() -> Vec<Operation> {
    let table: [(&str, Handler); 3] = [
        ("/api/serviceengine/{uuid}/flowtable/clear", |c| {
            Box::pin(async { clear_flows(c) })
        }),
        ("/api/pool/{uuid}/scaleout", |c| {
            Box::pin(async { scale_servers(c) })
        }),
        ("/api/pool/{uuid}/scalein", |c| {
            Box::pin(async { scale_servers(c) })
        }),
    ];
    let each = table.into_iter();
    each.flat_map(|(path, handler)| action(path, Audit::Action, handler).map(planned))
        .collect()
}

async fn scale_out(call: &Call<'_>) -> Result<Response, ApiError> {
    if call.context.author.dry_run {
        return preview::of_scaling(call);
    }
    let body = parse(&call.body)?;
    let backend = &call.app.backend;
    Ok(ok(backend.scale_out(call.uuid, body, call.context).await?))
}

async fn scale_in(call: &Call<'_>) -> Result<Response, ApiError> {
    if call.context.author.dry_run {
        return preview::of_scaling(call);
    }
    let body = parse(&call.body)?;
    let backend = &call.app.backend;
    Ok(ok(backend.scale_in(call.uuid, body, call.context).await?))
}

async fn migrate(call: &Call<'_>) -> Result<Response, ApiError> {
    if call.context.author.dry_run {
        return preview::of_scaling(call);
    }
    let body = parse(&call.body)?;
    Ok(ok(call.app.backend.migrate(call.uuid, body).await?))
}

async fn switch_over(call: &Call<'_>) -> Result<Response, ApiError> {
    if call.context.author.dry_run {
        return preview::of_scaling(call);
    }
    let body = parse(&call.body)?;
    Ok(ok(call.app.backend.switch_over(call.uuid, body).await?))
}

async fn hand_over(call: &Call<'_>) -> Result<Response, ApiError> {
    exists(call, "serviceengine")?;
    let backend = &call.app.backend;
    if call.context.author.dry_run {
        let plan = backend.preview_hand_over(call.uuid, call.context)?;
        return Ok(preview::of_placement(call, plan));
    }
    Ok(ok(backend.hand_over(call.uuid, call.context).await?))
}

async fn redistribute(call: &Call<'_>) -> Result<Response, ApiError> {
    exists(call, "serviceenginegroup")?;
    let backend = &call.app.backend;
    if call.context.author.dry_run {
        let plan = backend.preview_redistribute(call.uuid, call.context)?;
        return Ok(preview::of_placement(call, plan));
    }
    Ok(ok(backend.redistribute(call.uuid, call.context).await?))
}

async fn retry_placement(call: &Call<'_>) -> Result<Response, ApiError> {
    let body = parse(&call.body)?;
    let backend = &call.app.backend;
    if call.context.author.dry_run {
        backend.retry_asked(call.uuid, &body)?;
        let effect = "the planner looks at the VIP now, and not only when something changes";
        return Ok(preview::of_effects(call, &[effect.to_owned()]));
    }
    Ok(ok(backend.retry_placement(call.uuid, &body).await?))
}

fn resync(call: &Call<'_>) -> Result<Response, ApiError> {
    let (body, backend) = (parse(&call.body)?, &call.app.backend);
    let engines = backend.resync_asked(call.uuid, &body)?;
    if call.context.author.dry_run {
        let effect = |name| format!("{name} is sent its state again, made anew");
        let names = backend.engine_names(&engines).into_iter();
        return Ok(preview::of_effects(
            call,
            &names.map(effect).collect::<Vec<_>>(),
        ));
    }
    Ok(ok(backend.resync(&engines)))
}

async fn rotate_keys(call: &Call<'_>) -> Result<Response, ApiError> {
    let backend = &call.app.backend;
    let vsvip = backend.rotation_asked(call.uuid)?;
    if call.context.author.dry_run {
        let effect = "clients of TLS agree anew on keys; connections go on";
        return Ok(preview::of_effects(call, &[effect.to_owned()]));
    }
    Ok(ok(backend.rotate_keys(call.uuid, &vsvip).await?))
}

fn reboot(call: &Call<'_>) -> Result<Response, ApiError> {
    exists(call, "serviceengine")?;
    let backend = &call.app.backend;
    backend.check_reboot(call.uuid)?;
    if call.context.author.dry_run {
        let effect =
            "the engine withdraws its routes, stops in order and starts again in its place";
        return Ok(preview::of_effects(call, &[effect.to_owned()]));
    }
    Ok(ok(backend.reboot(call.uuid)?))
}

async fn force_delete(call: &Call<'_>) -> Result<Response, ApiError> {
    let backend = &call.app.backend;
    Ok(ok(backend.force_delete(call.uuid, call.context).await?))
}

fn clear_services(call: &Call<'_>) -> Result<Response, ApiError> {
    let uuids = chosen(call, "virtualservice")?;
    if call.context.author.dry_run {
        return Ok(counters_anew(call, uuids.len(), "virtual services"));
    }
    Ok(ok(call.app.backend.clear_services(&uuids)))
}

async fn clear_engines(call: &Call<'_>) -> Result<Response, ApiError> {
    let uuids = chosen(call, "serviceengine")?;
    if call.context.author.dry_run {
        return Ok(counters_anew(call, uuids.len(), "service engines"));
    }
    Ok(ok(call.app.backend.clear_engines(&uuids).await))
}

fn clear_flow_counters(call: &Call<'_>) -> Result<Response, ApiError> {
    exists(call, "serviceengine")?;
    if call.context.author.dry_run {
        call.app.backend.check_flow_counters(call.uuid)?;
        return Ok(counters_anew(call, 1, "service engine: flowtablestat"));
    }
    Ok(ok(call.app.backend.clear_flow_counters(call.uuid)?))
}

async fn clear_interfaces(call: &Call<'_>) -> Result<Response, ApiError> {
    exists(call, "serviceengine")?;
    if call.context.author.dry_run {
        call.app.backend.check_interfaces(call.uuid).await?;
        return Ok(counters_anew(call, 1, "service engine: interface"));
    }
    Ok(ok(call.app.backend.clear_interfaces(call.uuid).await?))
}

fn counters_anew(call: &Call<'_>, count: usize, of: &str) -> Response {
    let effect = format!("what these views show counts from nothing, of {count} {of}");
    preview::of_effects(call, &[effect])
}

/// Its entries count what each flow has sent; without an entry a flow would break.
fn clear_flows(call: &Call<'_>) -> Result<Response, ApiError> {
    exists(call, "serviceengine")?;
    Err(ApiError::bad_request(
        "flowtable: its entries are connections that are open, and no counters; counters are cleared with flowtablestat/clear, \
         and the flows of a virtual service on this engine are ended by a scale-in from it with force",
    ))
}

/// Servers are made by nobody here.
fn scale_servers(call: &Call<'_>) -> Result<Response, ApiError> {
    exists(call, "pool")?;
    Err(ApiError::bad_request(format!(
        "{}: a pool has the servers that are written into it, and none is made or taken away by itself; add servers to the pool \
         (PATCH with add), or set enabled of a server to false, which lets its connections end, and delete it then",
        call.last
    )))
}

/// uuids of the objects that a call is about: those that it names in `uuid` or `name`, or all that the caller sees and may operate on.
fn chosen(call: &Call<'_>, path: &'static str) -> Result<Vec<String>, ApiError> {
    let body = parse(&call.body)?;
    check_fields(&body)?;
    let uuids = named(call, &body, "uuid")?;
    let names = named(call, &body, "name")?;
    if uuids.is_none() && names.is_none() {
        return Ok(all_of(call, path));
    }
    let mut chosen = Vec::new();
    for uuid in uuids.unwrap_or_default() {
        chosen.push(operable(call, path, ("uuid", &uuid))?);
    }
    for name in names.unwrap_or_default() {
        chosen.push(operable(call, path, ("name", &name))?);
    }
    chosen.sort_unstable();
    chosen.dedup();
    Ok(chosen)
}

/// A choice that is not understood would be one of all.
fn check_fields(body: &Object) -> Result<(), ApiError> {
    let known = ["uuid", "name"];
    let Some(other) = body.keys().find(|field| !known.contains(&field.as_str())) else {
        return Ok(());
    };
    Err(ApiError::bad_request(format!(
        "{other}: chooses nothing here; name objects in uuid or name, or leave both out for all that you see"
    )))
}

/// A text or a list of texts in the body, or texts with commas between them in the query.
fn named(call: &Call<'_>, body: &Object, field: &str) -> Result<Option<Vec<String>>, ApiError> {
    let wrong = |value: &Value| {
        let text = format!("{field}: must be text or a list of texts, not {value}");
        ApiError::bad_request(text)
    };
    let text = |value: &Value| {
        let text = value.as_str().map(str::to_owned);
        text.ok_or_else(|| wrong(value))
    };
    match body.get(field) {
        None => {}
        Some(Value::Array(values)) => {
            return values.iter().map(text).collect::<Result<_, _>>().map(Some);
        }
        Some(value) => return Ok(Some(vec![text(value)?])),
    }
    let query = call.context.get(field);
    if query.is_some_and(str::is_empty) {
        let text =
            format!("{field}: is empty; name an object, or leave it out for all that you see");
        return Err(ApiError::bad_request(text));
    }
    Ok(query.map(|query| query.split(',').map(str::to_owned).collect()))
}

/// Those that the caller sees and may operate on.
fn all_of(call: &Call<'_>, path: &str) -> Vec<String> {
    let (app, context) = (call.app, call.context);
    let snapshot = app.objects.snapshot();
    let seen = snapshot
        .all(path)
        .filter(|(uuid, s)| context.sees(path, uuid, s));
    let may_operate = |uuid: &&str| may(app, context, Level::Write, (path, uuid)).unwrap_or(false);
    let uuids = seen.map(|(uuid, _)| uuid).filter(may_operate);
    uuids.map(str::to_owned).collect()
}

/// The uuid of the object of this uuid or name, if the caller may operate on it.
fn operable(call: &Call<'_>, path: &str, (field, text): (&str, &str)) -> Result<String, ApiError> {
    let (app, context) = (call.app, call.context);
    let snapshot = app.objects.snapshot();
    let found = match field {
        "uuid" => {
            let stored = snapshot.get(path, text).map(|stored| (text, stored));
            stored.filter(|(uuid, stored)| context.reaches(path, uuid, stored))
        }
        _ => {
            let mut named = snapshot.named(path, text);
            named.find(|(uuid, stored)| context.sees(path, uuid, stored))
        }
    };
    let Some((uuid, _)) = found else {
        let text =
            format!("{field}: there is no {path} {text:?} that you see; /api/{path} lists those");
        let status = match field {
            "uuid" => StatusCode::NOT_FOUND,
            _ => StatusCode::BAD_REQUEST,
        };
        return Err(ApiError::new(status, text));
    };
    if !may(app, context, Level::Write, (path, uuid))? {
        let user = &context.access.user;
        let text = format!("{field}: {user} may not operate on {path} {text:?}");
        return Err(ApiError::new(StatusCode::FORBIDDEN, text));
    }
    Ok(uuid.to_owned())
}
