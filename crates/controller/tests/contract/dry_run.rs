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

/// The sentence that a dry run has of what is no object.
fn effect(reply: &Reply) -> String {
    let plan = plan(reply);
    assert_eq!(plan["objects"]["count"], 0, "{plan}");
    plan["effects"][0].as_str().unwrap().to_owned()
}

#[test]
fn what_is_no_object_has_a_plan_too_and_is_not_done() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let made = http.post("/api/user-token", &json!({"name": "ci"})).json();
    let token = format!("/api/user-token/{}", made["uuid"].as_str().unwrap());
    let (soon, web) = (
        http.with("X-Evenkeel-Confirm-Within", "600"),
        json!({"name": "web"}),
    );
    assert_eq!(soon.post("/api/pool", &web).status, 201);
    let revision = http.get("/api/ek/pending").good()["results"][0]["revision"].clone();
    let tokens = || http.get("/api/user-token").good();
    let keys = || http.get("/api/ek/sealkey").good();
    let before = (everything(&http), tokens(), keys());

    let dry = |path: &str| format!("{path}?dry_run=true");
    let one = json!({"revision": revision});
    for (reply, says) in [
        (
            http.post(&dry("/api/user-token"), &json!({"hours": 2})),
            "good for 2 h",
        ),
        (http.delete(&dry(&token)), "are refused"),
        (
            http.post(&dry("/api/ek/jointoken"), &json!({"name": "se-7"})),
            "for se-7",
        ),
        (http.post(&dry("/api/ek/confirm"), &one), "stays"),
        (
            http.post(&dry("/api/ek/backup"), &json!({})),
            "a file is sent",
        ),
        (
            http.post(&dry("/api/ek/sealkey/rotate"), &json!({})),
            "a new key",
        ),
    ] {
        let said = effect(&reply);
        assert!(said.contains(says), "{said}");
    }
    assert_eq!((everything(&http), tokens(), keys()), before);
}

#[test]
fn a_dry_run_of_what_is_no_object_is_refused_as_it_would_be() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let (se, _) = http.make("serviceengine", json!({"name": "se-1"}));
    let dry = |path: &str| format!("{path}?dry_run=true");
    let none = json!({});
    for (reply, status, text) in [
        (
            http.post(&dry("/api/user-token"), &json!({"hours": 0})),
            400,
            "hours: ",
        ),
        (
            http.delete(&dry("/api/user-token/none")),
            404,
            "no API token",
        ),
        (
            http.post(&dry("/api/ek/jointoken"), &json!({"ttl_s": 0})),
            400,
            "ttl_s: ",
        ),
        (
            http.post(&dry("/api/ek/jointoken"), &json!({"name": 7})),
            400,
            "name: must be text",
        ),
        (
            http.post(&dry("/api/ek/confirm"), &json!({"revision": 1})),
            404,
            "waits for no confirmation",
        ),
        (
            http.delete(&dry("/api/ek/cluster/node/none")),
            404,
            "no other controller",
        ),
        (http.put(&dry("/api/alert/none"), &none), 404, "Alert"),
        (http.delete(&dry("/api/alert/none")), 404, "Alert"),
        (
            http.post(
                &dry(&format!("{se}/bgp/reset")),
                &json!({"peer_ip": "192.0.2.1"}),
            ),
            400,
            "peer_ip: ",
        ),
    ] {
        let said = reply.refused(status);
        assert!(said.contains(text), "{said}");
    }
}

#[test]
fn any_value_but_false_asks_for_a_plan() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    for value in ["true", "", "yes"] {
        plan(&http.post(&format!("/api/ek/jointoken?dry_run={value}"), &json!({})));
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
