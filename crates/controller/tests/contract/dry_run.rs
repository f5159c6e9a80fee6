//! `?dry_run=true`: every write says what it would do, is checked as the write itself, and leaves nothing behind. Plans
//! with engines, routes and flows are tested beside `plan/preview.rs`.

use crate::http::{Http, PASSWORD, Reply, Server, v4};
use serde_json::{Value, json};
use tempfile::tempdir;

/// What a dry run must not change: every object, the log, what waits, and the sessions.
fn everything(http: &Http) -> [Value; 4] {
    [
        http.get("/api/ek/export").good(),
        http.get("/api/ek/audit?page_size=200").good(),
        http.get("/api/ek/pending").good(),
        http.get("/api/useraccount").good(),
    ]
}

fn actions(plan: &Value) -> Vec<(&str, &str)> {
    assert_eq!(plan["dry_run"], true, "{plan}");
    let objects = plan["objects"]["results"].as_array().unwrap().iter();
    objects
        .map(|o| (o["type"].as_str().unwrap(), o["action"].as_str().unwrap()))
        .collect()
}

fn plan(reply: &Reply) -> Value {
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert_eq!(reply.header("X-Evenkeel-Revision"), "");
    reply.json()
}

#[test]
fn every_write_of_objects_says_what_it_would_do_and_does_nothing() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let (pool, made) = http.make("pool", json!({"name": "web", "default_server_port": 81}));
    let revision = http.get("/api/ek/audit?type=pool").good()["results"][0]["revision"].clone();
    let export = http.get("/api/ek/export").good();
    let before = everything(&http);

    let vip = json!([{"vip_id": "1", "ip_address": v4("10.9.9.9")}]);
    let vs = json!({"name": "vs", "services": [{"port": 80}], "vip": vip, "pool_ref": pool});
    let made_vs = plan(&http.post("/api/virtualservice?dry_run=true", &vs));
    assert_eq!(
        actions(&made_vs),
        [("virtualservice", "create"), ("vsvip", "create")]
    );
    let waiting = &made_vs["placement"]["results"][0];
    assert_eq!(waiting["result"], "waiting");
    assert!(waiting["waits_for"].as_str().unwrap().contains("start one"));

    let body = json!({"name": "web", "default_server_port": 82});
    let put = plan(&http.put(&format!("{pool}?dry_run=true"), &body));
    assert_eq!(actions(&put), [("pool", "update")]);
    let change = json!({"field": "default_server_port", "old": 81, "new": 82});
    assert_eq!(put["objects"]["results"][0]["changes"], json!([change]));
    let patch = json!({"replace": {"enabled": false}});
    let patched = plan(&http.patch(&format!("{pool}?dry_run=True"), &patch));
    assert_eq!(actions(&patched), [("pool", "update")]);
    let deleted = plan(&http.delete(&format!("{pool}?dry_run=true")));
    assert_eq!(actions(&deleted), [("pool", "delete")]);
    assert_eq!(deleted["objects"]["results"][0]["after"], Value::Null);

    let writes = json!({"writes": [
        {"type": "pool", "object": {"name": "new"}},
        {"type": "virtualservice", "object": {"name": "vs", "services": [{"port": 80}], "pool_ref": "/api/pool?name=new"}},
        {"type": "pool", "uuid": made["uuid"], "object": body},
    ]});
    let change = plan(&http.post("/api/ek/change?dry_run=true", &writes));
    assert_eq!(change["objects"]["count"], 3);
    let reverted = plan(&http.post(
        "/api/ek/revert?dry_run=true",
        &json!({"revision": revision}),
    ));
    assert_eq!(actions(&reverted), [("pool", "delete")]);
    let same = plan(&http.post("/api/ek/import?dry_run=true", &export));
    assert_eq!(actions(&same), []);
    let settings =
        json!({"replace": {"portal_configuration": {"allow_basic_authentication": true}}});
    let settings = http.patch("/api/systemconfiguration?dry_run=true", &settings);
    assert_eq!(
        actions(&plan(&settings)),
        [("systemconfiguration", "update")]
    );
    assert_eq!(everything(&http), before);
}

#[test]
fn a_dry_run_is_refused_as_the_write_would_be() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let (pool, _) = http.make("pool", json!({"name": "web"}));
    let (path, _) = http.make(
        "virtualservice",
        json!({"name": "vs", "services": [{"port": 80}], "pool_ref": pool}),
    );
    let dry = |path: &str| format!("{path}?dry_run=true");
    for (reply, status, text) in [
        (
            http.post(&dry("/api/pool"), &json!({"name": "web"})),
            409,
            "exists already",
        ),
        (
            http.post(&dry("/api/pool"), &json!({"name": 7})),
            400,
            "name: must be text",
        ),
        (http.delete(&dry(&pool)), 409, "VirtualService vs"),
        (
            http.delete(&dry("/api/tenant/admin")),
            403,
            "Cannot delete system default object",
        ),
        (
            http.put(&dry(&pool), &json!({"name": "web", "_last_modified": "1"})),
            412,
            "Need to reload object data Pool",
        ),
        (
            http.post(&dry(&format!("{path}/scaleout")), &json!({})),
            400,
            "vsvip_ref: ",
        ),
    ] {
        let said = reply.refused(status);
        assert!(said.contains(text), "{said}");
    }
}

#[test]
fn what_has_no_plan_is_not_done_in_a_dry_run() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let (se, _) = http.make("serviceengine", json!({"name": "se-1"}));
    for path in [
        "/api/ek/jointoken".to_owned(),
        "/api/ek/backup".to_owned(),
        "/api/ek/confirm".to_owned(),
        format!("{se}/bgp/reset"),
        format!("{se}/reboot"),
        "/api/serviceengine/clear".to_owned(),
    ] {
        for value in ["true", "", "yes"] {
            let reply = http.post(&format!("{path}?dry_run={value}"), &json!({}));
            let text = reply.refused(400);
            assert!(text.starts_with("dry_run: "), "{path}: {text}");
        }
    }
    let made = http.post("/api/pool?dry_run=false", &json!({"name": "web"}));
    assert_eq!(made.status, 201);
}

#[test]
fn secrets_are_masked_in_a_plan_and_a_password_stays_what_it_was() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let peer = json!({"peer_ip": v4("10.0.0.9"), "subnet": {"ip_addr": v4("10.0.0.0"), "mask": 24}, "remote_as": 65001, "md5_secret": "hush"});
    let vrf =
        json!({"name": "v", "bgp_profile": {"local_as": 65000, "ibgp": false, "peers": [peer]}});
    let reply = http.post("/api/vrfcontext?dry_run=true", &vrf);
    assert_eq!(actions(&plan(&reply)), [("vrfcontext", "create")]);
    assert!(!reply.text.contains("hush"), "{}", reply.text);
    let body = json!({"old_password": PASSWORD, "password": "another one"});
    let reply = http.put("/api/useraccount?dry_run=true", &body);
    assert_eq!(actions(&plan(&reply)), [("user", "update")]);
    assert!(!reply.text.contains("argon2"), "{}", reply.text);
    assert_eq!(server.http().log_in(PASSWORD).status, 200);
    assert_eq!(http.get("/api/pool").status, 200, "the session goes on");
}

#[test]
fn a_viewer_gets_no_plan_and_a_tenants_user_that_of_his_own() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let admin = server.logged_in();
    admin.make("tenant", json!({"name": "t1"}));
    let user = |name: &str, role: &str| {
        let access = json!([{"role_ref": format!("/api/role?name={role}"), "tenant_ref": "/api/tenant?name=t1"}]);
        admin.make(
            "user",
            json!({"name": name, "password": "of this test", "access": access}),
        );
        let mut http = server.http();
        http.log_in_as(name, "of this test").good();
        http
    };
    let (viewer, anna) = (
        user("vera", "Application-Operator"),
        user("anna", "Tenant-Admin"),
    );
    let body = json!({"name": "p"});
    assert_eq!(viewer.post("/api/pool?dry_run=true", &body).status, 403);
    let writes = json!({"writes": [{"type": "pool", "object": body}]});
    let text = viewer.post("/api/ek/change?dry_run=true", &writes);
    let text = text.refused(403);
    assert!(text.starts_with("writes[0]: vera may not"), "{text}");
    let planned = plan(&anna.post("/api/ek/change?dry_run=true", &writes));
    assert_eq!(actions(&planned), [("pool", "create")]);
    let (theirs, _) = admin.make("pool", json!({"name": "theirs"}));
    assert_eq!(anna.delete(&format!("{theirs}?dry_run=true")).status, 404);
    let done = anna.post("/api/ek/change", &writes).good();
    assert_eq!(done["objects"][0]["result"], "created");
    let pool = anna.get("/api/pool?name=p").good();
    let tenant = pool["results"][0]["tenant_ref"].as_str().unwrap();
    assert!(tenant.contains("/api/tenant/tenant-"), "{tenant}");
    let other =
        json!({"writes": [{"type": "pool", "uuid": theirs.rsplit('/').next(), "object": body}]});
    assert_eq!(anna.post("/api/ek/change", &other).status, 404);
    let elsewhere = json!({"name": "q", "tenant_ref": "/api/tenant/admin"});
    let elsewhere = json!({"writes": [{"type": "pool", "object": elsewhere}]});
    assert_eq!(anna.post("/api/ek/change", &elsewhere).status, 403);
}
