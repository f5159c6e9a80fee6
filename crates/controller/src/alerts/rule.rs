//! What an alertconfig asks for. Those act whose `source` is EVENT_LOGS and whose `category` is REALTIME or
//! ROLLINGWINDOW; of `alert_rule` the `sys_event_rule` does.

use crate::access::{ADMIN_TENANT, tenant_of};
use crate::events::Event;
use crate::objects::{Snapshot, Stored};
use model::object::{Object, with_defaults};
use model::schema::object_type;
use model::view::Ref;
use serde_json::Value;

/// Path of the configurations' type.
const CONFIG: &str = "alertconfig";
/// Path of the type that has the level.
const ACTIONS: &str = "actiongroupconfig";
/// The lowest level.
const LOW: &str = "ALERT_LOW";

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// uuid of the configuration.
    pub uuid: String,
    /// Its name.
    pub name: String,
    /// uuid of the tenant that it belongs to; those of tenant admin are for the objects of all.
    pub tenant: String,
    /// Level of the alerts.
    pub level: String,
    /// What the alerts say first; may be empty.
    pub summary: String,
    /// Path of the type that it is about; none: any.
    pub object_path: Option<String>,
    /// uuid of the object that it is about; none: any.
    pub object_uuid: Option<String>,
    /// Event, and whether it must not be that one.
    pub conditions: Vec<(String, bool)>,
    /// All of them must hold, and not only one.
    pub all: bool,
    /// So many events of one object are an alert.
    pub threshold: u32,
    /// Within this time.
    pub window_s: u64,
    /// Within this time, the same again is no alert of its own.
    pub throttle_s: u64,
    /// After this time, the alert is taken out.
    pub expiry_s: u64,
}

/// Of every configuration that acts.
pub fn all(snapshot: &Snapshot) -> Vec<Rule> {
    let all = snapshot.all(CONFIG);
    all.filter_map(|(uuid, stored)| read(snapshot, uuid, stored))
        .collect()
}

fn read(snapshot: &Snapshot, uuid: &str, stored: &Stored) -> Option<Rule> {
    let config = with_defaults(object_type(CONFIG)?, &stored.object);
    let text = |field: &str| {
        config
            .get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let number = |field: &str| {
        config
            .get(field)
            .and_then(Value::as_u64)
            .unwrap_or_default()
    };
    let rolling = text("category") == "ROLLINGWINDOW";
    let acts = config.get("enabled") != Some(&Value::Bool(false))
        && text("source") == "EVENT_LOGS"
        && (rolling || text("category") == "REALTIME");
    let given = |field: &str| {
        Some(text(field))
            .filter(|t| !t.is_empty())
            .map(str::to_owned)
    };
    let conditions = conditions(&config);
    (acts && !conditions.is_empty()).then(|| Rule {
        uuid: uuid.to_owned(),
        name: stored.name().to_owned(),
        tenant: tenant_of(stored).to_owned(),
        level: level(snapshot, &config),
        summary: text("summary").to_owned(),
        object_path: given("object_type").map(|t| t.to_lowercase()),
        object_uuid: given("obj_uuid"),
        conditions,
        all: config.get("alert_rule").and_then(|r| r.get("operator"))
            != Some(&"OPERATOR_OR".into()),
        threshold: match rolling {
            true => u32::try_from(number("threshold"))
                .unwrap_or(u32::MAX)
                .max(1),
            false => 1,
        },
        window_s: number("rolling_window"),
        throttle_s: number("throttle"),
        expiry_s: number("expiry_time"),
    })
}

fn conditions(config: &Object) -> Vec<(String, bool)> {
    let rules = config
        .get("alert_rule")
        .and_then(|r| r.get("sys_event_rule"));
    let rules = rules.and_then(Value::as_array).into_iter().flatten();
    let each = rules.filter_map(|rule| {
        let id = rule["event_id"].as_str()?;
        Some((id.to_owned(), rule["not_cond"] == true))
    });
    each.collect()
}

/// That of the action group.
fn level(snapshot: &Snapshot, config: &Object) -> String {
    let group = config.get("action_group_ref").and_then(Value::as_str);
    let group = group.and_then(|r| snapshot.get(ACTIONS, Ref(r.to_owned()).uuid()));
    let level = group
        .and_then(|s| s.object.get("level"))
        .and_then(Value::as_str);
    level.unwrap_or(LOW).to_owned()
}

impl Rule {
    /// True when the event is one that it asks for.
    pub fn matches(&self, event: &Event) -> bool {
        let subject = &event.subject;
        let here = self.tenant == ADMIN_TENANT || self.tenant == subject.tenant;
        let holds = |(id, not): &(String, bool)| (id == event.id.code()) != *not;
        let asked = match self.all {
            true => self.conditions.iter().all(holds),
            false => self.conditions.iter().any(holds),
        };
        here && asked
            && self
                .object_path
                .as_ref()
                .is_none_or(|path| *path == subject.path)
            && self
                .object_uuid
                .as_ref()
                .is_none_or(|uuid| *uuid == subject.uuid)
    }
}
