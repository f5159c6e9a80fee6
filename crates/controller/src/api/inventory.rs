//! `/api/TYPE-inventory` (avi-api 10.5): objects with what is observed of them, in the parts that are asked for. What engines
//! and placement say of an object is the backend's; its health score, alerts and figures are joined here.

use super::context::Context;
use super::operation::Call;
use super::present::{Names, Presenter};
use super::{ok, query};
use crate::access::{self, Level};
use crate::alerts::{About, Levels};
use crate::clock::{now_us, rfc3339};
use crate::error::ApiError;
use crate::objects::{Snapshot, Stored};
use crate::series::metric::Metric;
use crate::series::{Kind, STEPS_S};
use axum::http::StatusCode;
use axum::response::Response;
use model::object::Object;
use model::schema::{ObjectType, object_type};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Types that have one.
pub(super) const TYPES: &[&str] = &[
    "virtualservice",
    "pool",
    "poolgroup",
    "serviceengine",
    "serviceenginegroup",
    "vsvip",
    "network",
    "cloud",
];

/// A part of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The object, with what refers to it.
    Config,
    /// What is observed of it.
    Runtime,
    /// The same in one number, of a virtual service.
    HealthScore,
    /// Its alerts that nobody has dismissed, counted.
    Alert,
    /// Why it is not up.
    Faults,
    /// What engines have counted of it.
    Metrics,
}

impl Part {
    const ALL: [Self; 6] = [
        Self::Config,
        Self::Runtime,
        Self::HealthScore,
        Self::Alert,
        Self::Faults,
        Self::Metrics,
    ];

    /// As `include` and the item name it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Runtime => "runtime",
            Self::HealthScore => "health_score",
            Self::Alert => "alert",
            Self::Faults => "faults",
            Self::Metrics => "metrics",
        }
    }

    /// # Errors
    /// 400 for a word that names none.
    fn of(word: &str) -> Result<Self, ApiError> {
        let named = Self::ALL.into_iter().find(|part| part.word() == word);
        named.ok_or_else(|| {
            let words = Self::ALL.map(Self::word).join(", ");
            let text = format!("include: {word:?} is no part of an inventory; use {words}");
            ApiError::bad_request(text)
        })
    }
}

/// The parts that `include` asks for; all of them without it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts(Vec<Part>);

impl Parts {
    /// # Errors
    /// 400 for a part that there is not.
    fn of(text: &str) -> Result<Self, ApiError> {
        let words = text.split(',').map(str::trim).filter(|w| !w.is_empty());
        let named: Vec<Part> = words.map(Part::of).collect::<Result<_, _>>()?;
        Ok(match named.is_empty() {
            true => Self(Part::ALL.into()),
            false => Self(named),
        })
    }

    /// True when it is asked for.
    pub fn has(&self, part: Part) -> bool {
        self.0.contains(&part)
    }
}

/// `GET /api/TYPE-inventory/UUID`.
pub(super) fn read(call: &Call<'_>) -> Result<Response, ApiError> {
    let items = Items::of(call)?;
    let stored = items.snapshot.require(items.ty, call.uuid)?;
    Ok(ok(items.show(call.uuid, &stored)))
}

/// `GET /api/TYPE-inventory`: with the filters, the order and the pages of a list; only the page's own items are made.
pub(super) fn list(call: &Call<'_>) -> Result<Response, ApiError> {
    let items = Items::of(call)?;
    let found = query::find(&items.snapshot, items.ty, call.context)?;
    let path = format!("{}-inventory", items.ty.path);
    let show = |(uuid, stored): (&str, &Arc<Stored>)| items.show(uuid, stored);
    Ok(ok(query::page(call.context, &path, found, show)))
}

/// What items are made of, at one moment.
struct Items<'a> {
    call: &'a Call<'a>,
    ty: &'static ObjectType,
    parts: Parts,
    snapshot: Arc<Snapshot>,
    alerts: BTreeMap<About, Levels>,
}

impl<'a> Items<'a> {
    /// # Errors
    /// 404 for a type without an inventory, 400 for a part that there is not.
    fn of(call: &'a Call<'a>) -> Result<Self, ApiError> {
        let ty = type_of(call)?;
        let parts = Parts::of(call.context.get("include").unwrap_or_default())?;
        let alerts = match parts.has(Part::Alert) {
            true => call.app.alerts.levels(),
            false => BTreeMap::new(),
        };
        Ok(Self {
            call,
            ty,
            parts,
            snapshot: call.app.objects.snapshot(),
            alerts,
        })
    }

    fn show(&self, uuid: &str, stored: &Stored) -> Value {
        let (backend, context) = (&self.call.app.backend, self.call.context);
        let object = self.object(uuid, stored);
        let item = (uuid, &object);
        let mut shown = backend.inventory(&self.snapshot, self.ty, item, context, &self.parts);
        let mut join = |part: Part, find: &dyn Fn() -> Option<Value>| {
            if let Some(found) = self.parts.has(part).then(find).flatten() {
                shown[part.word()] = found;
            }
        };
        join(Part::HealthScore, &|| self.health_score(uuid));
        join(Part::Alert, &|| self.alert(uuid, stored));
        join(Part::Metrics, &|| self.metrics(uuid));
        shown
    }

    /// What is stored, and where it is shown, what the server fills into it.
    fn object(&self, uuid: &str, stored: &Stored) -> Object {
        let (app, context) = (self.call.app, self.call.context);
        let presenter = Presenter::new(app, context, &self.snapshot, self.ty, Names::Always);
        match self.parts.has(Part::Config) {
            true => presenter.filled(uuid, stored),
            false => stored.object.clone(),
        }
    }

    /// Of a virtual service, which is all that has one.
    fn health_score(&self, uuid: &str) -> Option<Value> {
        let has_one = self.ty.path == Kind::VirtualService.path();
        let score = has_one.then(|| self.call.app.watchman.score(uuid));
        Some(score.flatten()?.detail())
    }

    /// Nothing for who may not read alerts: where the object is, or where he looks.
    fn alert(&self, uuid: &str, stored: &Stored) -> Option<Value> {
        let Context { access, author, .. } = self.call.context;
        let (resource, owner) = (access::resource("alert"), access::tenant_of(stored));
        let may = |tenant: &str| access.may(Level::Read, &resource, tenant);
        let about = About {
            path: self.ty.path.clone(),
            uuid: uuid.to_owned(),
            tenant: owner.to_owned(),
        };
        let levels = self.alerts.get(&about).copied().unwrap_or_default();
        (may(owner) || may(&author.tenant)).then(|| json!(levels))
    }

    /// The newest step that is over. Nothing where engines count nothing, or have said nothing lately.
    fn metrics(&self, uuid: &str) -> Option<Value> {
        let kinds = [Kind::VirtualService, Kind::Pool, Kind::ServiceEngine];
        let kind = kinds.into_iter().find(|k| k.path() == self.ty.path)?;
        let series = &self.call.app.series;
        let (at_s, row) = series.newest(kind, uuid, now_us() / 1_000_000)?;
        let value = |m: &Metric| Some((m.id.to_owned(), m.value(&row)?.into()));
        let values: Object = kind.metrics().filter_map(value).collect();
        Some(json!({
            "step": STEPS_S[0],
            "timestamp": rfc3339(at_s * 1_000_000),
            "values": values,
        }))
    }
}

fn type_of(call: &Call<'_>) -> Result<&'static ObjectType, ApiError> {
    let path = call.type_path;
    let known = TYPES.contains(&path).then(|| object_type(path));
    let missing = || {
        let text = format!("there is no /api/{path}-inventory");
        ApiError::new(StatusCode::NOT_FOUND, text)
    };
    known.flatten().ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_word_all_parts_are_asked_for_and_else_those_that_are_named() {
        for all in ["", " ", ","] {
            assert_eq!(Parts::of(all).unwrap().0, Part::ALL, "{all:?}");
        }
        let some = Parts::of("runtime, alert").unwrap();
        assert_eq!(some.0, [Part::Runtime, Part::Alert]);
        assert!(some.has(Part::Alert) && !some.has(Part::Config));
    }

    #[test]
    fn a_part_that_there_is_not_is_named_with_those_that_there_are() {
        let text = Parts::of("config,health").unwrap_err().text;
        assert_eq!(
            text,
            "include: \"health\" is no part of an inventory; use config, runtime, health_score, alert, faults, metrics"
        );
    }
}
