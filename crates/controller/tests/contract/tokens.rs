//! API tokens and the idle time of sessions (avi-api 2.2 and 2.4).

use crate::http::{Http, PASSWORD, Server};
use serde_json::{Value, json};
use tempfile::tempdir;

fn make(http: &Http, body: Value) -> (String, String) {
    let made = http.post("/api/user-token", &body);
    assert_eq!(made.status, 201, "{}", made.text);
    let text = |field: &str| made.json()[field].as_str().unwrap().to_owned();
    (text("uuid"), text("token"))
}

/// Nobody yet, but for what this header says.
fn with(server: &Server, authorization: &str) -> Http {
    let http = server.http().with("Referer", "");
    http.with("Authorization", authorization)
}

fn by_token(server: &Server, token: &str) -> Http {
    with(server, &format!("Token {token}"))
}

fn user(http: &Http, name: &str, role: &str) -> String {
    let access = json!([{"role_ref": format!("/api/role?name={role}"), "all_tenants": true}]);
    let body = json!({"username": name, "password": "hers", "access": access});
    http.make("user", body).0
}

fn logged_in(server: &Server, name: &str) -> Http {
    let mut http = server.http();
    http.log_in_as(name, "hers").good();
    http
}

#[test]
fn a_token_calls_as_its_user_without_login_and_csrf_until_it_is_revoked() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let (uuid, token) = make(&http, json!({"hours": 5, "name": "ci"}));
    for scheme in ["Token", "Bearer", "bearer"] {
        let script = with(&server, &format!("{scheme} {token}"));
        let reply = script.post("/api/pool", &json!({"name": format!("p-{scheme}")}));
        assert_eq!(reply.status, 201, "{}", reply.text);
        assert_eq!(reply.cookie("avi-sessionid").as_deref(), Some("None"));
    }
    let listed = http.get("/api/user-token").good();
    assert_eq!(
        (&listed["count"], &listed["results"][0]["name"]),
        (&json!(1), &json!("ci"))
    );
    assert_eq!(listed["results"][0]["username"], "admin");
    let secret = token.rsplit('.').next().unwrap();
    assert!(!listed.to_string().contains(secret), "{listed}");
    let log = http.get("/api/ek/audit?who=admin").good();
    let messages = log["results"].to_string();
    assert!(
        messages.contains(&format!("create API token {uuid}")),
        "{messages}"
    );

    assert_eq!(http.delete(&format!("/api/user-token/{uuid}")).status, 204);
    let text = by_token(&server, &token).get("/api/pool").refused(401);
    assert!(text.contains("was revoked"), "{text}");
    assert_eq!(http.delete(&format!("/api/user-token/{uuid}")).status, 404);
    assert_eq!(http.count("/api/user-token"), 0);
}

#[test]
fn a_login_by_token_is_a_session_that_ends_with_the_token() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let (uuid, token) = make(&http, json!({}));
    let form = server
        .http()
        .with("Content-Type", "application/x-www-form-urlencoded");
    let body = format!("username=admin&token={token}");
    let reply = form.text("POST", "/login", &body);
    let (id, csrf) = (
        reply.cookie("sessionid").unwrap(),
        reply.cookie("csrftoken").unwrap(),
    );
    assert_eq!(reply.good()["user"]["username"], "admin");
    let session = server.http().with("Cookie", &format!("sessionid={id}"));
    let session = session.with("X-CSRFToken", &csrf);
    assert_eq!(session.post("/api/pool", &json!({"name": "p"})).status, 201);
    let forged = session.with("X-CSRFToken", "");
    assert_eq!(forged.post("/api/pool", &json!({"name": "q"})).status, 401);

    let json = server.http().with("Content-Type", "application/json");
    let text = |user: &str| json!({"username": user, "token": token}).to_string();
    assert_eq!(json.text("POST", "/login", &text("admin")).status, 200);
    let other = json.text("POST", "/login", &text("somebody"));
    assert_eq!(other.refused(401), "Invalid credentials");

    assert_eq!(http.delete(&format!("/api/user-token/{uuid}")).status, 204);
    let text = session.get("/api/pool").refused(401);
    assert!(text.contains("revoked or has expired"), "{text}");
}

#[test]
fn a_token_may_what_its_user_may_at_that_moment_and_goes_with_him() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let path = user(&http, "anna", "Application-Operator");
    let uuid = path.rsplit('/').next().unwrap().to_owned();
    let (_, token) = make(&logged_in(&server, "anna"), json!({}));
    let script = by_token(&server, &token);
    assert_eq!(script.get("/api/pool").status, 200);
    script.post("/api/pool", &json!({"name": "p"})).refused(403);
    script.get("/api/ek/audit").refused(403);

    let access = |role: &str| json!({"replace": {"access": [{"role_ref": format!("/api/role?name={role}"), "all_tenants": true}]}});
    http.patch(&path, &access("Application-Admin")).good();
    assert_eq!(script.post("/api/pool", &json!({"name": "p"})).status, 201);
    http.patch(&path, &json!({"replace": {"is_active": false}}))
        .good();
    script.get("/api/pool").refused(401);
    http.patch(&path, &json!({"replace": {"is_active": true}}))
        .good();
    assert_eq!(script.get("/api/pool").status, 200);

    // Whoever gets his uuid does not get his token.
    let deleted = http.delete(&path);
    assert_eq!(deleted.status, 204);
    script.get("/api/pool").refused(401);
    let again = json!({"username": "anna", "password": "another", "access": access("Application-Admin")["replace"]["access"]});
    http.with("Slug", &uuid).post("/api/user", &again).good();
    script.get("/api/pool").refused(401);
    assert_eq!(http.count("/api/user-token"), 0);
}

#[test]
fn a_user_sees_and_revokes_his_own_tokens_and_a_superuser_all() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    user(&http, "anna", "Application-Operator");
    user(&http, "ben", "Tenant-Admin");
    let (anna, ben) = (logged_in(&server, "anna"), logged_in(&server, "ben"));
    let (hers, _) = make(&anna, json!({}));
    let (_, token) = make(&ben, json!({}));
    assert_eq!(
        (anna.count("/api/user-token"), ben.count("/api/user-token")),
        (1, 1)
    );
    assert_eq!(http.count("/api/user-token"), 2);
    let text = ben.delete(&format!("/api/user-token/{hers}")).refused(404);
    assert!(text.contains("there is no API token"), "{text}");
    assert_eq!(
        anna.get("/api/user-token").good()["results"][0]["username"],
        "anna"
    );
    assert_eq!(http.delete(&format!("/api/user-token/{hers}")).status, 204);
    assert_eq!(anna.count("/api/user-token"), 0);
    // Tokens are in the store: they outlive the controller.
    drop(server);
    let server = Server::start(folder.path());
    assert_eq!(by_token(&server, &token).get("/api/pool").status, 200);
}

#[test]
fn a_wish_that_cannot_be_is_refused_by_its_field_and_a_token_that_is_none_is_401() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    for (body, field) in [
        (json!({"hours": 0}), "hours: "),
        (json!({"hours": 8761}), "hours: "),
        (json!({"hours": "5"}), "hours: "),
        (json!({"name": 7}), "name: "),
        (json!({"name": "a\nb"}), "name: "),
    ] {
        let text = http.post("/api/user-token", &body).refused(400);
        assert!(text.starts_with(field), "{text}");
    }
    assert_eq!(http.count("/api/user-token"), 0);
    server
        .http()
        .post("/api/user-token", &json!({}))
        .refused(401);
    for none in [
        "Token x",
        "Token ekapi1..",
        "Bearer ",
        "Token ekapi1.00000000-0000-0000-0000-000000000000.x",
    ] {
        assert_eq!(with(&server, none).get("/api/pool").status, 401, "{none}");
    }
    let mut again = server.http();
    assert_eq!(again.log_in(PASSWORD).status, 200, "no login failed");
}

#[test]
fn the_idle_timeout_that_is_set_is_the_one_that_clients_are_told() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let told = |body: Value| body["controller"]["api_idle_timeout"].clone();
    assert_eq!(told(http.get("/api/initial-data").good()), 15);
    let set = json!({"replace": {"api_idle_timeout": 60}});
    http.patch("/api/controllerproperties", &set).good();
    assert_eq!(told(http.get("/api/initial-data").good()), 60);
    assert_eq!(told(server.http().log_in(PASSWORD).good()), 60);
}
