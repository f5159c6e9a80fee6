//! Events of what users do: changes of configuration, logins.

use super::event::{Event, Id, Subject};
use crate::objects::Snapshot;
use crate::witness::Committed;
use axum::http::Method;
use serde_json::json;
use std::net::IpAddr;

/// Objects of one commit that have an event each; of an import of thousands the rest have one together.
const OBJECTS_MAX: usize = 100;
/// Authors of this prefix are parts of the controller.
const SYSTEM: &str = "system:";

/// Of each object of a commit.
pub(super) fn config(commit: &Committed<'_>) -> Vec<Event> {
    let some = commit.touched.iter().take(OBJECTS_MAX);
    let mut events: Vec<Event> = some
        .filter_map(|(path, uuid)| of_object(commit, path, uuid))
        .collect();
    let more = commit.touched.len().saturating_sub(OBJECTS_MAX);
    if more > 0 {
        let text = format!(
            "{} changed {more} more objects at once: see revision {} in the log of changes",
            commit.author.who, commit.revision
        );
        events.push(Event::new(Id::ConfigUpdate, Subject::controller(), text));
    }
    events
}

fn of_object(commit: &Committed<'_>, path: &str, uuid: &str) -> Option<Event> {
    let before = Subject::of(commit.before, path, uuid);
    let after = Subject::of(commit.after, path, uuid);
    let (id, done, key, method) = match (&before, &after) {
        (None, Some(_)) => (
            Id::ConfigCreate,
            "created",
            "config_create_details",
            Method::POST,
        ),
        (Some(_), Some(_)) => (
            Id::ConfigUpdate,
            "changed",
            "config_update_details",
            Method::PUT,
        ),
        (Some(_), None) => (
            Id::ConfigDelete,
            "deleted",
            "config_delete_details",
            Method::DELETE,
        ),
        (None, None) => return None,
    };
    let (who, subject) = (&commit.author.who, after.or(before)?);
    let details = json!({
        "resource_type": path, "resource_name": subject.name, "user": who, "method": method.as_str(),
        "status": "SUCCESS", "revision": commit.revision,
    });
    let text = format!("{who} {done} {path} {}", subject.name);
    let event = Event::new(id, subject, text).with_details(key, details);
    Some(event.asked_from_outside(!who.starts_with(SYSTEM)))
}

/// A user has logged in.
pub fn login(snapshot: &Snapshot, uuid: &str, from: IpAddr) -> Option<Event> {
    let subject = Subject::of(snapshot, "user", uuid)?;
    let text = format!("{} logged in from {from}", subject.name);
    let details = json!({"user": subject.name, "client_ip": from.to_string(), "status": "SUCCESS"});
    let event = Event::new(Id::UserLogin, subject, text);
    Some(
        event
            .with_details("config_user_login_details", details)
            .asked_from_outside(true),
    )
}

/// A login was refused. A name that is no user's is not kept: it may be a password in the wrong field.
pub fn login_refused(snapshot: &Snapshot, name: &str, from: IpAddr, why: &str) -> Event {
    let known = snapshot
        .by_name("user", name)
        .and_then(|(uuid, _)| Subject::of(snapshot, "user", uuid));
    let (subject, user) = match known {
        Some(subject) => (subject, name),
        None => (Subject::controller(), ""),
    };
    let whose = match user {
        "" => "a name that no user has".to_owned(),
        user => user.to_owned(),
    };
    let text = format!("a login of {whose} from {from} was refused: {why}");
    let details = json!({"user": user, "client_ip": from.to_string(), "status": "FAILURE", "error_message": why});
    Event::new(Id::UserLogin, subject, text)
        .with_details("config_user_login_details", details)
        .of_part("refused")
        .because("login_refused")
        .asked_from_outside(true)
}

/// A user has logged out.
pub fn logout(snapshot: &Snapshot, uuid: &str, from: IpAddr) -> Option<Event> {
    let subject = Subject::of(snapshot, "user", uuid)?;
    let text = format!("{} logged out from {from}", subject.name);
    let details = json!({"user": subject.name, "client_ip": from.to_string(), "status": "SUCCESS"});
    let event = Event::new(Id::UserLogout, subject, text);
    Some(
        event
            .with_details("config_user_logout_details", details)
            .asked_from_outside(true),
    )
}
