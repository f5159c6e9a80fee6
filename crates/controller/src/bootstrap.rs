//! The objects that exist at start (avi-api section 13); made once, found again at every start.

pub mod access;

use crate::access::{ADMIN_TENANT, tenant_of};
use crate::api::singleton;
use crate::error::ApiError;
use crate::objects::{Author, Draft, Objects};
use model::object::Object;
use model::schema::object_type;
use model::view::Ref;
use serde_json::{Value, json};

/// Makes what is missing, in one transaction.
///
/// # Errors
/// The store refuses.
pub async fn ensure(objects: &Objects) -> Result<(), ApiError> {
    let author = Author::system("bootstrap");
    objects
        .change(&author, "objects that exist at start", |draft| {
            add(
                draft,
                &author,
                "tenant",
                Some("admin"),
                json!({"name": "admin"}),
            )?;
            add(
                draft,
                &author,
                "cloud",
                None,
                json!({"name": "Default-Cloud", "vtype": "CLOUD_NONE"}),
            )?;
            for (uuid, _) in draft.snapshot.clone().all("cloud") {
                ensure_cloud_parts(draft, &author, uuid)?;
            }
            add_settings(draft, &author)?;
            for (ty, body) in access::roles() {
                add(draft, &author, ty, None, body)?;
            }
            for (ty, bodies) in profiles()? {
                for body in bodies {
                    add(draft, &author, &ty, None, body)?;
                }
            }
            Ok(())
        })
        .await
}

/// A cloud comes with its VRF contexts `global` and `management` and a `Default-Group` (avi-api section 12).
///
/// # Errors
/// One of them cannot be made.
pub fn ensure_cloud_parts(draft: &mut Draft, author: &Author, cloud: &str) -> Result<(), ApiError> {
    let cloud_ref = Ref::to("cloud", cloud).0;
    for (ty, name) in [
        ("vrfcontext", "global"),
        ("vrfcontext", "management"),
        ("serviceenginegroup", "Default-Group"),
    ] {
        let here =
            |object: &Object| object.get("cloud_ref").and_then(Value::as_str) == Some(&cloud_ref);
        let exists = draft
            .snapshot
            .all(ty)
            .any(|(_, s)| s.name() == name && here(&s.object));
        if !exists {
            make(
                draft,
                author,
                ty,
                None,
                json!({"name": name, "cloud_ref": cloud_ref}),
            )?;
        }
    }
    Ok(())
}

fn add(
    draft: &mut Draft,
    author: &Author,
    ty: &str,
    uuid: Option<&str>,
    body: Value,
) -> Result<(), ApiError> {
    let name = body["name"].as_str().unwrap_or_default();
    // Another tenant's object of the name is not everybody's.
    let exists = {
        let mut all = draft.snapshot.all(ty);
        all.any(|(_, s)| s.name() == name && tenant_of(s) == ADMIN_TENANT)
    };
    if exists {
        return Ok(());
    }
    make(draft, author, ty, uuid, body)
}

fn make(
    draft: &mut Draft,
    author: &Author,
    ty: &str,
    uuid: Option<&str>,
    body: Value,
) -> Result<(), ApiError> {
    let ty = object_type(ty).expect("in the schema");
    let Value::Object(mut body) = body else {
        return Ok(());
    };
    body.insert("system_default".into(), true.into());
    draft.create(ty, body, uuid.map(str::to_owned), author)?;
    Ok(())
}

/// The system's settings, with nothing set (avi-api section 8).
fn add_settings(draft: &mut Draft, author: &Author) -> Result<(), ApiError> {
    for (path, uuid) in singleton::ALL {
        if draft.snapshot.get(path, uuid).is_some() {
            continue;
        }
        let body = if (path, uuid) == singleton::SETTINGS {
            json!({"portal_configuration": {"allow_basic_authentication": false}})
        } else {
            json!({})
        };
        make(draft, author, path, Some(uuid), body)?;
    }
    Ok(())
}

/// The profiles, monitors, certificates and alerts of avi-api section 13: bodies by type, in an order in which each
/// refers only to those before it.
fn profiles() -> Result<Vec<(String, Vec<Value>)>, ApiError> {
    let damaged = |e: serde_json::Error| ApiError::internal("reading the objects of the start", &e);
    let types: Object =
        serde_json::from_str(include_str!("bootstrap/objects.json")).map_err(damaged)?;
    let each = types
        .into_iter()
        .map(|(ty, bodies)| Ok((ty, serde_json::from_value(bodies)?)));
    each.collect::<Result<_, _>>().map_err(damaged)
}
