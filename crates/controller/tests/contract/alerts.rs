//! Alerts (avi-api section 11): what events ask somebody to look at, for who may see the object.

use crate::engine::{Engine, peer};
use crate::http::{Http, Server, wait_for};
use proto::v1::BgpState;
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

/// A controller, an engine, and an alertconfig for deleted pools.
struct Scene {
    folder: TempDir,
    server: Server,
    admin: Http,
}

impl Scene {
    fn new() -> Self {
        let folder = tempdir().unwrap();
        let server = Server::start(folder.path());
        let admin = server.logged_in();
        for tenant in ["t1", "t2"] {
            admin.make("tenant", json!({"name": tenant}));
        }
        admin.make(
            "alertconfig",
            config("deleted pools", json!({"object_type": "POOL"})),
        );
        Self {
            folder,
            server,
            admin,
        }
    }

    /// A user of tenant t1.
    fn user(&self, name: &str, role: &str) -> Http {
        self.server.user(&self.admin, name, role, Some("t1")).1
    }

    /// Deletes a pool of this name in a tenant, and gives the alert.
    fn raise(&self, tenant: &str, name: &str) -> Value {
        let there = self.admin.with("X-Avi-Tenant", tenant);
        let (pool, _) = there.make("pool", json!({"name": name}));
        assert_eq!(there.delete(&pool).status, 204);
        wait_alert(&there, name)
    }
}

fn config(name: &str, more: Value) -> Value {
    let mut body = json!({
        "name": name, "source": "EVENT_LOGS", "category": "REALTIME", "summary": "look",
        "alert_rule": {"sys_event_rule": [{"event_id": "CONFIG_DELETE"}]},
        "action_group_ref": "/api/actiongroupconfig?name=System-Alert-Level-High",
    });
    body.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    body
}

fn alerts(http: &Http) -> Vec<Value> {
    http.get("/api/alert?page_size=200").good()["results"]
        .as_array()
        .unwrap()
        .clone()
}

fn names(http: &Http) -> Vec<String> {
    let all = alerts(http);
    let mut names: Vec<String> = all
        .iter()
        .map(|a| a["obj_name"].as_str().unwrap().into())
        .collect();
    names.sort();
    names
}

/// Waits for an alert of the object of this name.
fn wait_alert(http: &Http, name: &str) -> Value {
    wait_for(&format!("an alert of {name}"), || {
        let found = alerts(http).into_iter().find(|a| a["obj_name"] == name);
        found.ok_or_else(|| format!("{:?}", names(http)))
    })
}

fn path(alert: &Value) -> String {
    format!("/api/alert/{}", alert["uuid"].as_str().unwrap())
}

#[test]
fn a_peer_that_goes_down_is_an_alert_from_the_start() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let engine = Engine::join(&server, &http, "se-1");
    engine.report(peer(BgpState::Established, ""));
    engine.report(peer(BgpState::Idle, "hold timer expired"));
    let alert = wait_for("the alert", || {
        let found = alerts(&http)
            .into_iter()
            .find(|a| a["level"] == "ALERT_MEDIUM");
        found.ok_or_else(|| format!("{:?}", alerts(&http)))
    });
    assert_eq!(alert["state"], "ALERT_STATE_ON");
    assert_eq!(
        (&alert["obj_name"], &alert["threshold"]),
        (&json!("se-1"), &json!(1))
    );
    assert_eq!(alert["events"][0]["event_id"], "SE_BGP_PEER_DOWN");
    let summary = alert["summary"].as_str().unwrap();
    assert_eq!(
        summary,
        "A BGP peer of a service engine went down: se-1: the BGP session with 10.10.10.1 went down: hold timer expired"
    );
    let named = http.get(&format!("{}?include_name=", path(&alert))).good();
    let config = named["alert_config_ref"].as_str().unwrap();
    assert!(config.ends_with("#System-SE-BGP-Peer-Down"), "{config}");
    engine.report(peer(BgpState::Established, ""));
    engine.report(peer(BgpState::Idle, "hold timer expired"));
    let again = wait_for("the same again", || {
        let now = http.get(&path(&alert)).good();
        let throttled = now["throttle_count"] == 1;
        if throttled {
            Ok(now)
        } else {
            Err(now.to_string())
        }
    });
    assert_eq!(again["state"], "ALERT_STATE_THROTTLED");
    assert!(again["last_throttle_timestamp"].as_f64() >= again["timestamp"].as_f64());
    let medium = alerts(&http)
        .iter()
        .filter(|a| a["level"] == "ALERT_MEDIUM")
        .count();
    assert_eq!(medium, 1);
}

#[test]
fn an_alert_is_dismissed_and_deleted_and_outlives_a_restart() {
    let scene = Scene::new();
    let (kept, gone) = (scene.raise("admin", "kept"), scene.raise("admin", "gone"));
    let http = &scene.admin;
    assert_eq!(kept["level"], "ALERT_HIGH");
    let dismissed = json!({"state": "ALERT_STATE_DISMISSED", "level": "ALERT_LOW"});
    let changed = http.put(&path(&kept), &dismissed).good();
    assert_eq!(
        (&changed["state"], &changed["level"]),
        (&dismissed["state"], &kept["level"])
    );
    for wrong in [json!({}), json!({"state": "OFF"})] {
        let text = http.put(&path(&kept), &wrong).refused(400);
        assert!(text.starts_with("state: "), "{text}");
    }
    assert_eq!(http.delete(&path(&gone)).status, 204);
    for reply in [
        http.get(&path(&gone)),
        http.delete(&path(&gone)),
        http.put(&path(&gone), &dismissed),
    ] {
        assert_eq!(reply.refused(404), "Alert object not found!");
    }
    assert_eq!(http.post("/api/alert", &json!({})).status, 405);
    let audit = http.get("/api/ek/audit?page_size=200").text;
    assert!(
        !audit.contains(path(&kept).as_str()),
        "an alert is no configuration"
    );
    let Scene { folder, server, .. } = scene;
    drop(server);
    let server = Server::start(folder.path());
    let http = server.logged_in();
    assert_eq!(names(&http), ["kept"]);
    assert_eq!(
        http.get(&path(&kept)).good()["state"],
        "ALERT_STATE_DISMISSED"
    );
}

#[test]
fn a_tenants_user_sees_alerts_of_his_objects_and_a_viewer_changes_none() {
    let scene = Scene::new();
    let anna = scene.user("anna", "Tenant-Admin");
    let vera = scene.user("vera", "Application-Operator");
    let (hers, other) = (scene.raise("t1", "hers"), scene.raise("t2", "other"));
    let ours = scene.raise("admin", "ours");
    assert_eq!(
        (names(&anna), names(&vera)),
        (vec!["hers".to_owned()], vec!["hers".to_owned()])
    );
    let everywhere = names(&scene.admin.with("X-Avi-Tenant", "*"));
    assert_eq!(everywhere, ["hers", "other", "ours"]);
    let dismissed = json!({"state": "ALERT_STATE_DISMISSED"});
    for alert in [&other, &ours] {
        for reply in [
            anna.get(&path(alert)),
            anna.put(&path(alert), &dismissed),
            anna.delete(&path(alert)),
        ] {
            assert_eq!(reply.status, 404, "{}", reply.text);
        }
    }
    for reply in [
        vera.put(&path(&hers), &dismissed),
        vera.delete(&path(&hers)),
    ] {
        let text = reply.refused(403);
        assert!(text.contains("PERMISSION_ALERT"), "{text}");
    }
    assert_eq!(
        anna.put(&path(&hers), &dismissed).good()["state"],
        dismissed["state"]
    );
    assert_eq!(anna.delete(&path(&hers)).status, 204);
    assert_eq!(names(&anna), Vec::<String>::new());
    assert_eq!(scene.server.http().get("/api/alert").status, 401);
}

#[test]
fn a_tenants_configuration_is_for_his_objects_and_one_that_is_off_for_none() {
    let scene = Scene::new();
    let there = scene.admin.with("X-Avi-Tenant", "t1");
    let monitors = json!({"object_type": "HEALTHMONITOR"});
    there.make("alertconfig", config("his monitors", monitors.clone()));
    let off = json!({"object_type": "NETWORKPROFILE", "enabled": false});
    scene.admin.make("alertconfig", config("off", off));
    for tenant in ["t2", "t1"] {
        let http = scene.admin.with("X-Avi-Tenant", tenant);
        let (profile, _) = http.make(
            "networkprofile",
            json!({"name": format!("profile-{tenant}"), "profile": {"type": "PROTOCOL_TYPE_TCP_PROXY"}}),
        );
        assert_eq!(http.delete(&profile).status, 204);
        let (monitor, _) = http.make(
            "healthmonitor",
            json!({"name": format!("monitor-{tenant}"), "type": "HEALTH_MONITOR_TCP"}),
        );
        assert_eq!(http.delete(&monitor).status, 204);
    }
    wait_alert(&there, "monitor-t1");
    assert_eq!(
        names(&scene.admin.with("X-Avi-Tenant", "*")),
        ["monitor-t1"]
    );
}
