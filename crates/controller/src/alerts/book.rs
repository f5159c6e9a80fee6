//! The alerts that there are, and which events make new ones. Pure: times come with the events.

use super::rule::Rule;
use crate::events::{Event, Subject};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Alerts kept; the oldest of the tenant that has most of them goes first, dismissed ones before others.
const KEPT: usize = 500;
/// Events that an alert names, the newest of them.
const EVENTS_MAX: usize = 3;

/// `state` of an alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Somebody has to look.
    #[serde(rename = "ALERT_STATE_ON")]
    On,
    /// Somebody has.
    #[serde(rename = "ALERT_STATE_DISMISSED")]
    Dismissed,
    /// On, and it happened again within `throttle`.
    #[serde(rename = "ALERT_STATE_THROTTLED")]
    Throttled,
}

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    /// `alert-…`.
    pub uuid: String,
    /// Of the configuration that asks for it, and of the object.
    pub name: String,
    /// ALERT_LOW, ALERT_MEDIUM, ALERT_HIGH.
    pub level: String,
    /// Whether somebody has to look.
    pub state: State,
    /// Microseconds since 1970.
    pub time_us: u64,
    /// When it is taken out.
    pub expires_us: u64,
    /// Until when the same again is no alert of its own.
    pub quiet_until_us: u64,
    /// The event.
    pub event_id: String,
    /// What is to be said.
    pub summary: String,
    /// The object of the event.
    pub subject: Subject,
    /// The object and the part of it.
    pub key: String,
    /// uuid of the alertconfig.
    pub config: String,
    /// How many events are an alert.
    pub threshold: u32,
    /// How often it happened again within `throttle`.
    pub throttle_count: u32,
    /// When it did so last, in microseconds since 1970; 0: never.
    pub last_throttle_us: u64,
    /// uuids of objects that it concerns, too.
    pub related: Vec<String>,
    /// The events, as the API shows them.
    pub events: Vec<Value>,
}

/// The object that an alert is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct About {
    /// Path of its type.
    pub path: String,
    /// Its uuid.
    pub uuid: String,
    /// uuid of the tenant that it belongs to.
    pub tenant: String,
}

/// How many alerts of an object nobody has dismissed, by level.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Levels {
    /// ALERT_LOW.
    pub low: u32,
    /// ALERT_MEDIUM.
    pub medium: u32,
    /// ALERT_HIGH.
    pub high: u32,
}

impl Levels {
    fn count(&mut self, level: &str) {
        match level {
            "ALERT_HIGH" => self.high += 1,
            "ALERT_MEDIUM" => self.medium += 1,
            _ => self.low += 1,
        }
    }
}

/// Configuration, object and part, event: what makes an alert the same again.
type Key = (String, String, String);

/// Until when the same again is no alert of its own, and the alert that it is counted in.
struct Quiet {
    until_us: u64,
    alert: String,
}

impl Quiet {
    fn of(alert: &Alert) -> Self {
        Self {
            until_us: alert.quiet_until_us,
            alert: alert.uuid.clone(),
        }
    }
}

/// See the module's documentation.
pub(super) struct Book {
    alerts: Vec<Alert>,
    quiet: BTreeMap<Key, Quiet>,
    /// Times of events in the windows of configurations that count.
    counted: BTreeMap<(String, String), VecDeque<u64>>,
    changed: bool,
}

impl Book {
    pub(super) fn new(alerts: Vec<Alert>) -> Self {
        let quiet = alerts.iter().map(|alert| (same(alert), Quiet::of(alert)));
        Self {
            quiet: quiet.collect(),
            alerts,
            counted: BTreeMap::new(),
            changed: false,
        }
    }

    /// Oldest first.
    pub(super) fn all(&self) -> &[Alert] {
        &self.alerts
    }

    /// Those that nobody has dismissed, counted for each object that has one.
    pub(super) fn levels(&self) -> BTreeMap<About, Levels> {
        let mut all: BTreeMap<About, Levels> = BTreeMap::new();
        for alert in self.alerts.iter().filter(|a| a.state != State::Dismissed) {
            let about = About {
                path: alert.subject.path.clone(),
                uuid: alert.subject.uuid.clone(),
                tenant: alert.subject.tenant.clone(),
            };
            all.entry(about).or_default().count(&alert.level);
        }
        all
    }

    /// True when something has changed since [`Book::saved`].
    pub(super) fn is_changed(&self) -> bool {
        self.changed
    }

    pub(super) fn saved(&mut self) {
        self.changed = false;
    }

    pub(super) fn touch(&mut self) {
        self.changed = true;
    }

    /// Raises what the event asks for, rule by rule.
    pub(super) fn consider(&mut self, rules: &[Rule], event: &Arc<Event>) {
        for rule in rules.iter().filter(|rule| rule.matches(event)) {
            let object = (rule.uuid.clone(), key(event));
            if !self.reaches(rule, object.clone(), event.time_us) {
                continue;
            }
            let same = (object.0, object.1, event.id.code().to_owned());
            match self.quiet.get(&same).filter(|q| event.time_us < q.until_us) {
                Some(quiet) => {
                    let alert = quiet.alert.clone();
                    self.throttle(&alert, event);
                }
                None => self.raise(rule, event),
            }
        }
    }

    /// The event is the last of as many as the rule wants within its window.
    fn reaches(&mut self, rule: &Rule, object: (String, String), now_us: u64) -> bool {
        if rule.threshold <= 1 {
            return true;
        }
        let times = self.counted.entry(object).or_default();
        times.push_back(now_us);
        let begins = now_us.saturating_sub(rule.window_s * 1_000_000);
        while times.front().is_some_and(|t| *t < begins) || times.len() > rule.threshold as usize {
            times.pop_front();
        }
        let reached = times.len() >= rule.threshold as usize;
        if reached {
            times.clear();
        }
        reached
    }

    fn raise(&mut self, rule: &Rule, event: &Event) {
        let alert = alert(rule, event);
        self.quiet.insert(same(&alert), Quiet::of(&alert));
        if self.alerts.len() >= KEPT {
            self.make_room();
        }
        self.alerts.push(alert);
        self.changed = true;
    }

    /// The tenant that has most of them gives one away, so that one who has many takes no room from others. When it happens
    /// again, it is a new alert.
    fn make_room(&mut self) {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for alert in &self.alerts {
            *counts.entry(&alert.subject.tenant).or_default() += 1;
        }
        let most = counts.iter().max_by_key(|(_, count)| **count);
        let Some(tenant) = most.map(|(tenant, _)| *tenant) else {
            return;
        };
        let his = self.alerts.iter().filter(|a| a.subject.tenant == tenant);
        // The first of equals: the oldest.
        let gone = his.min_by_key(|a| a.state != State::Dismissed);
        let gone = gone.map(|a| (a.uuid.clone(), same(a)));
        if let Some((uuid, same)) = gone {
            self.remove(&uuid);
            self.quiet.remove(&same);
        }
    }

    /// It happened again. An alert that somebody has taken out does not come back for that.
    fn throttle(&mut self, uuid: &str, event: &Event) {
        let Some(alert) = self.alerts.iter_mut().find(|a| a.uuid == uuid) else {
            return;
        };
        alert.throttle_count += event.repeated;
        alert.last_throttle_us = event.time_us;
        if alert.state == State::On {
            alert.state = State::Throttled;
        }
        alert.events.push(event.show());
        let surplus = alert.events.len().saturating_sub(EVENTS_MAX);
        alert.events.drain(..surplus);
        self.changed = true;
    }

    pub(super) fn expire(&mut self, now_us: u64) {
        let before = self.alerts.len();
        self.alerts.retain(|a| now_us < a.expires_us);
        self.changed |= self.alerts.len() != before;
        self.quiet.retain(|_, q| now_us < q.until_us);
        // The longest window that a configuration can have is no reason to remember for longer than a day.
        let forgotten = now_us.saturating_sub(86_400_000_000);
        self.counted
            .retain(|_, times| times.back().is_some_and(|t| *t > forgotten));
    }

    pub(super) fn set_state(&mut self, uuid: &str, state: State) {
        for alert in self.alerts.iter_mut().filter(|a| a.uuid == uuid) {
            self.changed |= alert.state != state;
            alert.state = state;
        }
    }

    pub(super) fn remove(&mut self, uuid: &str) -> Option<Alert> {
        let at = self.alerts.iter().position(|a| a.uuid == uuid)?;
        self.changed = true;
        Some(self.alerts.remove(at))
    }

    pub(super) fn put_back(&mut self, alert: Alert) {
        let at = self.alerts.partition_point(|a| a.time_us <= alert.time_us);
        self.alerts.insert(at, alert);
        self.changed = true;
    }
}

fn same(alert: &Alert) -> Key {
    (
        alert.config.clone(),
        alert.key.clone(),
        alert.event_id.clone(),
    )
}

/// The object, and the part of it if it is of one.
fn key(event: &Event) -> String {
    match event.part.as_str() {
        "" => event.subject.uuid.clone(),
        part => format!("{},{part}", event.subject.uuid),
    }
}

fn alert(rule: &Rule, event: &Event) -> Alert {
    let object = match event.subject.name.as_str() {
        "" => event.subject.uuid.as_str(),
        name => name,
    };
    let summary = match rule.summary.as_str() {
        "" => event.summary.clone(),
        summary => format!("{summary}: {}", event.summary),
    };
    Alert {
        uuid: format!("alert-{}", uuid::Uuid::new_v4()),
        name: format!("{}-{object}-{}", rule.name, event.sequence),
        level: rule.level.clone(),
        state: State::On,
        time_us: event.time_us,
        expires_us: event.time_us.saturating_add(rule.expiry_s * 1_000_000),
        quiet_until_us: event.time_us.saturating_add(rule.throttle_s * 1_000_000),
        event_id: event.id.code().to_owned(),
        summary,
        subject: event.subject.clone(),
        key: key(event),
        config: rule.uuid.clone(),
        threshold: rule.threshold,
        throttle_count: 0,
        last_throttle_us: 0,
        related: event.related.clone(),
        events: vec![event.show()],
    }
}
