//! Sessions, headers, versions, tenants and methods (avi-api sections 1 to 3 and 7).

use crate::http::{PASSWORD, Server};
use serde_json::json;
use tempfile::tempdir;

#[test]
fn the_login_reply_and_its_cookies_are_what_clients_read() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let reply = server.http().log_in(PASSWORD);
    let body = reply.good();
    assert_eq!(body["session_cookie_name"], "avi-sessionid");
    assert_eq!(body["version"]["Version"], "30.2.1");
    assert_eq!(reply.cookie("avi-sessionid"), reply.cookie("sessionid"));
    assert!(reply.cookie("csrftoken").is_some_and(|c| !c.is_empty()));
    let lines = reply.headers.get_all("set-cookie").iter();
    for line in lines.map(|l| l.to_str().unwrap()) {
        let readable = line.starts_with("csrftoken=");
        assert_eq!(line.contains("HttpOnly"), !readable, "{line}");
        assert!(
            line.contains("; Secure") && line.contains("; Path=/"),
            "{line}"
        );
    }
}

#[test]
fn every_answer_renews_the_session_cookies_and_names_the_version() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    for reply in [
        http.get("/api/pool"),
        http.get("/api/pool/none"),
        http.delete("/api/pool/none"),
    ] {
        assert!(reply.cookie("avi-sessionid").is_some(), "{}", reply.status);
        assert_eq!(reply.header("AVI_API_VERSION"), "30.2.1");
        assert_eq!(reply.header("content-type"), "application/json");
    }
}

#[test]
fn health_and_readiness_need_no_session() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    for path in ["/healthz", "/readyz"] {
        assert_eq!(
            server.http().get(path).good(),
            json!({"status": "ok"}),
            "{path}"
        );
    }
    assert_eq!(server.http().get("/api/ek/openapi").status, 401);
    let document = server.logged_in().get("/api/ek/openapi").good();
    assert_eq!(document["openapi"], "3.1.0");
}

#[test]
fn a_forged_write_is_refused_in_the_plain_words_that_clients_match() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let body = json!({"name": "p"});
    let elsewhere = http.with("Referer", "https://elsewhere.example/");
    for forged in [
        http.with("X-CSRFToken", ""),
        http.with("X-CSRFToken", "wrong"),
        http.with("Referer", ""),
        elsewhere.clone(),
    ] {
        let reply = forged.post("/api/pool", &body);
        assert_eq!(
            (reply.status, reply.text.as_str()),
            (401, "CSRF token missing or incorrect.")
        );
        assert_eq!(reply.header("content-type"), "application/json");
    }
    assert_eq!(
        elsewhere.get("/api/pool").status,
        200,
        "reading forges nothing"
    );
    assert_eq!(http.count("/api/pool"), 0);
    let with_slash = http.with("Referer", &format!("{}/", http.url));
    assert_eq!(with_slash.post("/api/pool", &body).status, 201);
}

#[test]
fn of_a_cookie_that_stands_twice_the_last_one_counts() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let fresh = http
        .headers
        .iter()
        .find(|(n, _)| n == "Cookie")
        .unwrap()
        .1
        .clone();
    let stale_first = format!("avi-sessionid=stale; sessionid=stale; {fresh}");
    assert_eq!(
        http.with("Cookie", &stale_first).get("/api/pool").status,
        200
    );
    let stale_last = format!("{fresh}; avi-sessionid=stale");
    assert_eq!(
        http.with("Cookie", &stale_last).get("/api/pool").status,
        401
    );
}

#[test]
fn a_session_ends_with_its_logout_and_with_the_controller() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let (mut http, other) = (server.logged_in(), server.logged_in());
    assert_eq!(http.post("/logout", &json!({})).status, 200);
    assert_eq!(http.get("/api/pool").status, 401);
    assert_eq!(other.get("/api/pool").status, 200);
    http.log_in(PASSWORD).good();
    assert_eq!(http.get("/api/pool").status, 200);
    drop(server);
    let server = Server::start(folder.path());
    let mut again = server.http();
    again.headers = other.headers.clone();
    assert_eq!(again.get("/api/pool").status, 401);
}

#[test]
fn guessing_passwords_is_slowed_down() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut http = server.http();
    for _ in 0..10 {
        assert_eq!(http.log_in("guess").refused(401), "Invalid credentials");
    }
    assert!(http.log_in(PASSWORD).refused(429).contains("try again"));
}

#[test]
fn basic_authentication_works_only_when_the_settings_allow_it() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    // admin and the password above
    let basic = server
        .http()
        .with("Referer", "")
        .with("Authorization", "Basic YWRtaW46Zm9yIHRoaXMgdGVzdCBvbmx5");
    assert_eq!(basic.get("/api/pool").status, 401);
    let portal = json!({"portal_configuration": {"allow_basic_authentication": true}, "x_kept": 1});
    let settings = http.put("/api/systemconfiguration", &portal).good();
    assert_eq!(
        (&settings["uuid"], &settings["x_kept"]),
        (&json!("default"), &json!(1))
    );
    let reply = basic.post("/api/pool", &json!({"name": "p"}));
    assert_eq!(reply.status, 201, "{}", reply.text);
    assert_eq!(reply.cookie("avi-sessionid").as_deref(), Some("None"));
    let wrong = basic.with("Authorization", "Basic YWRtaW46d3Jvbmc=");
    assert_eq!(wrong.get("/api/pool").refused(401), "Invalid credentials");
    let wrong = json!({"portal_configuration": {"allow_basic_authentication": "yes"}});
    let text = http.put("/api/systemconfiguration", &wrong).refused(400);
    assert!(
        text.starts_with("portal_configuration.allow_basic_authentication: must be true or false"),
        "{text}"
    );
    assert_eq!(http.delete("/api/systemconfiguration").status, 405);
}

#[test]
fn versions_up_to_ours_are_spoken_and_others_refused() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    for version in ["16.4.4", "18.2.6", "16_4_2", "30.2.1"] {
        assert_eq!(
            http.with("X-Avi-Version", version).get("/api/pool").status,
            200,
            "{version}"
        );
    }
    for version in ["99.1.1", "30.2.2", "soon"] {
        let text = http
            .with("X-Avi-Version", version)
            .get("/api/pool")
            .refused(400);
        assert!(text.contains("Invalid version"), "{text}");
    }
}

#[test]
fn a_tenant_sees_its_own_objects_and_the_shared_ones_of_admin_and_writes_only_its_own() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let (tenant_path, _) = http.make("tenant", json!({"name": "t1"}));
    let t1 = http.with("X-Avi-Tenant", "t1");
    let (pool, made) = t1.make("pool", json!({"name": "p"}));
    assert!(
        made["tenant_ref"].as_str().unwrap().ends_with("#t1"),
        "{made}"
    );
    http.make("pool", json!({"name": "p"}));
    assert_eq!((http.count("/api/pool"), t1.count("/api/pool")), (1, 1));
    assert_eq!(http.with("X-Avi-Tenant", "*").count("/api/pool?name=p"), 2);
    assert!(t1.count("/api/healthmonitor?name=System-TCP") == 1);
    let (_, vs) = t1.make(
        "virtualservice",
        json!({"name": "v", "pool_ref": "/api/pool?name=p"}),
    );
    assert!(
        vs["pool_ref"].as_str().unwrap().contains(&pool),
        "its own comes first: {vs}"
    );
    let uuid = tenant_path.rsplit('/').next().unwrap();
    let by_uuid = http.with("X-Avi-Tenant-UUID", uuid);
    assert_eq!(by_uuid.count("/api/virtualservice"), 1);
    let text = http.with("X-Avi-Tenant", "x").get("/api/pool").refused(403);
    assert_eq!(text, "Tenant 'x' does not exist!");
    assert_eq!(
        http.with("X-Avi-Tenant", "*")
            .post("/api/pool", &json!({"name": "q"}))
            .status,
        400
    );
}

#[test]
fn a_method_that_a_path_does_not_have_is_named_with_those_it_has() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let reply = http.delete("/api/pool");
    assert_eq!(reply.refused(405), "Method 'DELETE' not allowed");
    assert_eq!(reply.header("allow"), "GET, POST");
    assert_eq!(http.put("/api/cluster", &json!({})).status, 405);
    assert_eq!(http.get("/api/nothing").status, 404);
    assert_eq!(
        http.get("/api/pool/none").refused(404),
        "Pool object not found!"
    );
    assert_eq!(http.get("//api//pool//").status, 200);
}

#[test]
fn a_body_that_cannot_be_read_is_refused_with_its_place() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let text = http
        .text("POST", "/api/pool", "{\"name\": \"p\",\n \"x\": }")
        .refused(400);
    assert!(text.contains("line 2 column 7"), "{text}");
    let text = http.text("POST", "/api/pool", "[]").refused(400);
    assert!(text.contains("must be a JSON object"), "{text}");
    let deep = format!("{{\"x\": {}1{}}}", "[".repeat(500), "]".repeat(500));
    assert!(
        http.text("POST", "/api/pool", &deep)
            .refused(400)
            .contains("recursion")
    );
    let long = format!("{{\"x\": \"{}\"}}", "y".repeat(17 << 20));
    assert_eq!(http.text("POST", "/api/pool", &long).status, 413);
    let stranger = server.http();
    let long = format!("{{\"username\": \"{}\"}}", "y".repeat(20 << 10));
    assert_eq!(stranger.text("POST", "/login", &long).status, 413);
    assert_eq!(http.count("/api/pool"), 0);
}
