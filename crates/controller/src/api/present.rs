//! How an object looks to a client (avi-api 5.1 to 5.3): defaults filled in, references as URLs, secrets hidden, and
//! what was asked for beside it.

use super::{App, Context, singleton};
use crate::objects::{Snapshot, Stored, certificate};
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

/// Shows objects of one type.
pub(super) struct Presenter<'a> {
    app: &'a App,
    context: &'a Context,
    snapshot: &'a Snapshot,
    ty: &'a ObjectType,
    names: Names,
}

impl<'a> Presenter<'a> {
    pub(super) fn new(
        app: &'a App,
        context: &'a Context,
        snapshot: &'a Snapshot,
        ty: &'a ObjectType,
        names: Names,
    ) -> Self {
        Self {
            app,
            context,
            snapshot,
            ty,
            names,
        }
    }

    /// The object as the client sees it.
    pub(super) fn show(&self, uuid: &str, stored: &Stored) -> Value {
        let (ty, context) = (self.ty, self.context);
        let mut object = self.filled(uuid, stored);
        object = if context.skip_default() {
            object::without_defaults(ty, &object)
        } else {
            object::with_defaults(ty, &object)
        };
        if ty.name == "VirtualService" && !context.skip_default() {
            let backend = &self.app.backend;
            object.extend(backend.vs_server_fields(self.snapshot, stored));
        }
        object::hide_secrets(ty, &mut object);
        object::map_refs(ty, &mut object, &mut |reference| {
            self.reference(reference.target, &reference.value)
        });
        let own = singleton::url(&ty.path).unwrap_or_else(|| format!("/api/{}/{uuid}", ty.path));
        let on_url = Some(stored.name()).filter(|n| self.names == Names::Always && !n.is_empty());
        object.insert("url".into(), url(context, &own, on_url).into());
        if context.asks("include_refs") {
            self.add_referrers(uuid, &mut object);
        }
        object = select(context, object);
        self.join(uuid, &mut object);
        Value::Object(object)
    }

    /// The object with what is the server's and known (class R of the schema). It comes before defaults, which may be the same.
    pub(super) fn filled(&self, uuid: &str, stored: &Stored) -> Object {
        let (backend, mut object) = (&self.app.backend, stored.object.clone());
        match self.ty.name.as_str() {
            "SSLKeyAndCertificate" => certificate::describe(&mut object),
            "ServiceEngine" => backend.fill_engine(self.snapshot, uuid, stored, &mut object),
            "VirtualService" => self.fill_cloud_type(&mut object),
            _ => {}
        }
        object
    }

    /// That of the cloud that the object is in.
    fn fill_cloud_type(&self, object: &mut Object) {
        let cloud = object.get("cloud_ref").and_then(Value::as_str);
        let uuid = cloud.and_then(|reference| reference.rsplit('/').next());
        let cloud = uuid.and_then(|uuid| self.snapshot.get("cloud", uuid));
        let vtype = cloud.and_then(|c| c.object.get("vtype")).cloned();
        object.extend(vtype.map(|vtype| ("cloud_type".to_owned(), vtype)));
    }

    /// The URL of a referred object, with its name where names are shown.
    fn reference(&self, target: &str, canonical: &str) -> String {
        let uuid = canonical.rsplit('/').next().unwrap_or("");
        let with_names = self.names == Names::Always || self.context.asks("include_name");
        let name = self.snapshot.name_of(target, uuid).filter(|_| with_names);
        url(self.context, canonical, name)
    }

    /// `include_refs`: `vs_refs` of a VsVip, and `TYPE_refs` of any other.
    fn add_referrers(&self, uuid: &str, object: &mut Object) {
        let sees = |path: &str, uuid: &str, s: &Stored| self.context.sees(path, uuid, s);
        let all = self.snapshot.referrers_seen(&self.ty.path, uuid, sees);
        for (path, referrers) in &all {
            let field = match (self.ty.path.as_str(), path.as_str()) {
                ("vsvip", "virtualservice") => "vs_refs".to_owned(),
                _ => format!("{path}_refs"),
            };
            let urls = referrers.iter().map(|r| self.reference(path, r));
            object
                .entry(field)
                .or_insert_with(|| urls.collect::<Vec<_>>().into());
        }
    }

    /// `join_subresources=runtime`.
    fn join(&self, uuid: &str, object: &mut Object) {
        let wanted = self.context.get("join_subresources").unwrap_or("");
        if !wanted.split(',').any(|w| w == "runtime") {
            return;
        }
        let backend = &self.app.backend;
        let runtime = match self.ty.path.as_str() {
            "virtualservice" => backend.vs_runtime(uuid, self.context),
            "pool" => backend.pool_runtime(uuid),
            "serviceengine" => backend.se_runtime(uuid, self.context),
            _ => return,
        };
        // An object that was deleted in between has none.
        object.extend(runtime.ok().map(|r| ("runtime".to_owned(), r)));
    }
}

/// A reference that is not canonical is shown as it was stored.
fn url(context: &Context, canonical: &str, name: Option<&str>) -> String {
    if !canonical.starts_with('/') {
        return canonical.to_owned();
    }
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
