//! How an object looks to a client (avi-api 5.1, 5.2): defaults filled in, references as URLs, secrets masked.

use super::context::Context;
use crate::objects::{Snapshot, Stored, mask_secrets};
use model::object::{self, Object};
use model::schema::ObjectType;
use serde_json::Value;

/// When `#name` is put on URLs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    /// With `include_name`: on GET.
    AsAsked,
    /// In the replies of POST, PUT and PATCH.
    Always,
}

/// The object as the client sees it.
pub(super) fn present(
    snapshot: &Snapshot,
    ty: &ObjectType,
    uuid: &str,
    stored: &Stored,
    context: &Context,
    names: Names,
) -> Value {
    let with_names = names == Names::Always || context.include_name();
    let mut object = if context.skip_default() {
        object::without_defaults(ty, &stored.object)
    } else {
        object::with_defaults(ty, &stored.object)
    };
    object::map_refs(ty, &mut object, &mut |reference| {
        let target = reference.value.rsplit('/').next().unwrap_or("");
        let name = snapshot
            .name_of(reference.target, target)
            .filter(|_| with_names);
        url(context, &reference.value, name)
    });
    mask_secrets(&mut object);
    let own = if ty.path == super::singleton::PATH {
        format!("/api/{}", ty.path)
    } else {
        format!("/api/{}/{uuid}", ty.path)
    };
    let on_url = Some(stored.name()).filter(|n| names == Names::Always && !n.is_empty());
    object.insert("url".into(), url(context, &own, on_url).into());
    Value::Object(select(context, object))
}

fn url(context: &Context, canonical: &str, name: Option<&str>) -> String {
    let name = name.map(|n| format!("#{n}")).unwrap_or_default();
    format!("{}{canonical}{name}", context.origin)
}

/// `fields=` and `exclude=` (avi-api 5.3).
fn select(context: &Context, mut object: Object) -> Object {
    let list = |name: &str| {
        context
            .get(name)
            .map(|v| v.split(',').map(str::to_owned).collect::<Vec<_>>())
    };
    if let Some(wanted) = list("fields") {
        object.retain(|k, _| ["url", "uuid", "name"].contains(&k.as_str()) || wanted.contains(k));
    }
    if let Some(unwanted) = list("exclude") {
        object.retain(|k, _| !unwanted.contains(k));
    }
    object
}
