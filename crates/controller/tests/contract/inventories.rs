//! Inventories (avi-api 10.5): objects with what is observed of them, in the parts that are asked for.

use crate::engine::{Engine, service};
use crate::events::make_service;
use crate::http::{Http, Server, wait_for};
use serde_json::{Value, json};
use tempfile::tempdir;

/// The one item of an inventory, with these parts.
fn item(http: &Http, ty: &str, include: &str) -> Value {
    let path = format!("/api/{ty}-inventory?include={include}");
    let page = http.get(&path).good();
    assert_eq!(page["count"], 1, "{page}");
    page["results"][0].clone()
}

/// Waits until a part of the item is as it is to be.
fn wait_part(http: &Http, ty: &str, part: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    wait_for(&format!("{part} of the {ty}"), || {
        let found = item(http, ty, part)[part].clone();
        match is_so(&found) {
            true => Ok(found),
            false => Err(found.to_string()),
        }
    })
}

fn names(item: &Value) -> Vec<&str> {
    let fields = item.as_object().unwrap().keys();
    let mut names: Vec<&str> = fields.map(String::as_str).collect();
    names.sort_unstable();
    names
}

#[test]
fn a_service_has_its_score_its_alerts_and_its_faults_until_somebody_has_looked() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let vs = make_service(&http, "web");
    let nobody = item(&http, "virtualservice", "");
    assert_eq!(
        nobody["health_score"]["reason"],
        "no engine has reported it"
    );
    assert_eq!(nobody["alert"], json!({"low": 0, "medium": 0, "high": 0}));
    let (fault, oper) = (&nobody["faults"][0], &nobody["runtime"]["oper_status"]);
    assert_eq!(
        (&fault["state"], &fault["reason_code"], &fault["reason"]),
        (&oper["state"], &oper["reason_code_string"], &oper["reason"])
    );
    assert_eq!(nobody["app_profile_type"], "APPLICATION_PROFILE_TYPE_HTTP");
    let engine = Engine::join(&server, &http, "se-1");
    engine.report(service(&vs, true));
    let score = wait_part(&http, "virtualservice", "health_score", |score| {
        score["health_score"] == 100.0
    });
    assert_eq!(
        (&score["engines"], &score["reason"]),
        (&json!(1), &json!(""))
    );
    // What comes up is an alert of level low (System-VS-Alert).
    wait_part(&http, "virtualservice", "alert", |alert| {
        *alert == json!({"low": 1, "medium": 0, "high": 0})
    });
    let alerts = http.get("/api/alert?level=ALERT_LOW").good();
    let alert = alerts["results"][0]["uuid"].as_str().unwrap();
    let dismissed = json!({"state": "ALERT_STATE_DISMISSED"});
    http.put(&format!("/api/alert/{alert}"), &dismissed).good();
    assert_eq!(
        item(&http, "virtualservice", "alert")["alert"]["low"],
        json!(0)
    );
    wait_part(&http, "pool", "faults", |faults| *faults == json!([]));
    engine.report(service(&vs, false));
    let faults = wait_part(&http, "pool", "faults", |faults| *faults != json!([]));
    assert_eq!(faults[0]["reason_code"], "pool_down");
}

#[test]
fn include_says_which_parts_and_a_part_that_there_is_not_is_refused() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let vs = make_service(&http, "web");
    let one = item(&http, "virtualservice", "runtime");
    assert_eq!(names(&one), ["_last_modified", "runtime", "uuid"]);
    let two = item(&http, "virtualservice", "faults,alert");
    assert_eq!(names(&two), ["_last_modified", "alert", "faults", "uuid"]);
    let uuid = vs["uuid"].as_str().unwrap();
    let one = format!("/api/virtualservice-inventory/{uuid}");
    let all = http.get(&one).good();
    for part in ["config", "runtime", "health_score", "alert", "faults"] {
        assert!(
            all[part].is_object() || all[part].is_array(),
            "{part}: {all}"
        );
    }
    for path in [one, "/api/virtualservice-inventory".into()] {
        let text = http.get(&format!("{path}?include=config,all")).refused(400);
        assert!(text.starts_with("include: \"all\" is no part"), "{text}");
    }
    // What has no state and no score has no such part, and no figures.
    let clouds = http.get("/api/cloud-inventory?include=faults,health_score,metrics");
    assert_eq!(
        names(&clouds.good()["results"][0]),
        ["_last_modified", "uuid"]
    );
}

#[test]
fn who_may_not_read_alerts_is_not_told_how_many_there_are() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let admin = server.logged_in();
    admin.make("pool", json!({"name": "web"}));
    let privileges = json!([{"resource": "PERMISSION_POOL", "type": "READ_ACCESS"}]);
    admin.make("role", json!({"name": "pools", "privileges": privileges}));
    let paul = server.user(&admin, "paul", "pools", None).1;
    let vera = server.user(&admin, "vera", "Application-Operator", None).1;
    assert_eq!(item(&paul, "pool", "alert").get("alert"), None);
    let counts = json!({"low": 0, "medium": 0, "high": 0});
    assert_eq!(item(&vera, "pool", "alert")["alert"], counts);
}
