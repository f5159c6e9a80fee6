//! Users, roles and tenants: who sees and may do what (avi-api sections 2.4, 5 and 12).

use crate::http::{Http, PASSWORD, Reply, SECRET, Server, own_path, v4};
use crate::types::{make_all, name};
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

/// A controller with tenants t1 and t2.
struct Scene {
    _folder: TempDir,
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
        Self {
            _folder: folder,
            server,
            admin,
        }
    }

    fn user(&self, name: &str, role: &str, tenant: Option<&str>) -> (String, Http) {
        self.server.user(&self.admin, name, role, tenant)
    }

    fn admin_in(&self, tenant: &str) -> Http {
        self.admin.with("X-Avi-Tenant", tenant)
    }
}

fn names(http: &Http, ty: &str) -> Vec<String> {
    let list = http.get(&format!("/api/{ty}?page_size=200")).good();
    let list = list["results"].as_array().unwrap().iter();
    let mut names: Vec<String> = list.map(|o| o["name"].as_str().unwrap().into()).collect();
    names.sort();
    names
}

#[test]
fn the_roles_and_the_admin_of_the_start_are_there_and_stay() {
    let scene = Scene::new();
    let expected = [
        "Application-Admin",
        "Application-Operator",
        "Security-Admin",
        "System-Admin",
        "Tenant-Admin",
        "WAF-Admin",
    ];
    assert_eq!(names(&scene.admin, "role"), expected);
    let admin = scene.admin.get("/api/user/user-1").good();
    assert_eq!(
        (&admin["name"], &admin["is_superuser"]),
        (&json!("admin"), &json!(true))
    );
    assert_eq!(admin.get("password"), None);
    let text = scene.admin.delete("/api/user/user-1").refused(403);
    assert!(
        text.contains("Cannot delete system default object"),
        "{text}"
    );
}

#[test]
fn a_login_says_who_it_is_and_where_he_may_be() {
    let scene = Scene::new();
    scene.user("anna", "Tenant-Admin", Some("t1"));
    let reply = scene.server.http().log_in_as("anna", SECRET).good();
    let user = &reply["user"];
    assert_eq!(
        (&user["username"], &user["is_superuser"]),
        (&json!("anna"), &json!(false))
    );
    let tenants = reply["tenants"].as_array().unwrap();
    let tenants: Vec<_> = tenants
        .iter()
        .map(|t| t["name"].as_str().unwrap())
        .collect();
    assert_eq!(tenants, ["t1"]);
    let all = scene.server.http().log_in(PASSWORD).good();
    assert_eq!(all["tenants"].as_array().unwrap().len(), 3);
}

#[test]
fn a_viewer_sees_and_changes_nothing() {
    let scene = Scene::new();
    let (pool, _) = scene.admin.make("pool", json!({"name": "p"}));
    let (vsvip, _) = scene.admin.make(
        "vsvip",
        json!({"name": "v", "vip": [{"ip_address": v4("10.100.0.1")}]}),
    );
    let vs =
        json!({"name": "vs", "vsvip_ref": vsvip, "pool_ref": pool, "services": [{"port": 80}]});
    let (vs, _) = scene.admin.make("virtualservice", vs);
    let (_, viewer) = scene.user("vera", "Application-Operator", None);
    assert_eq!(viewer.get(&pool).good()["name"], "p");
    assert_eq!(viewer.get(&format!("{vs}/runtime")).status, 200);
    let writes: Vec<Reply> = vec![
        viewer.post("/api/pool", &json!({"name": "q"})),
        viewer.put(&pool, &json!({"name": "p", "enabled": false})),
        viewer.patch(&pool, &json!({"replace": {"enabled": false}})),
        viewer.delete(&pool),
        viewer.post(&format!("{vs}/scaleout"), &json!({})),
        viewer.post("/api/ek/jointoken", &json!({})),
        viewer.put("/api/systemconfiguration", &json!({})),
        viewer.post("/api/user", &json!({"name": "eve", "password": "x"})),
        viewer.post("/api/role", &json!({"name": "all", "privileges": []})),
        viewer.post("/api/tenant", &json!({"name": "t3"})),
    ];
    for reply in writes {
        let text = reply.refused(403);
        assert!(text.contains("vera may not"), "{text}");
    }
    assert_eq!(
        viewer.get("/api/user").status,
        403,
        "users are the admins' matter"
    );
    assert_eq!(scene.admin.get(&pool).good()["enabled"], true);
    assert_eq!(names(&scene.admin, "pool"), ["p"]);
}

/// Objects of each type that belong to tenants alone, made in t1, t2 and admin.
fn private_objects() -> Vec<(&'static str, Value)> {
    vec![
        ("pool", json!({})),
        ("vsvip", json!({"vip": []})),
        ("virtualservice", json!({"services": [{"port": 80}]})),
        ("healthmonitor", json!({"type": "HEALTH_MONITOR_TCP"})),
        (
            "networkprofile",
            json!({"profile": {"type": "PROTOCOL_TYPE_TCP_PROXY"}}),
        ),
        (
            "applicationprofile",
            json!({"type": "APPLICATION_PROFILE_TYPE_L4"}),
        ),
    ]
}

#[test]
fn a_tenants_user_sees_and_reaches_his_tenant_alone() {
    let scene = Scene::new();
    let (_, anna) = scene.user("anna", "Tenant-Admin", Some("t1"));
    for (ty, body) in private_objects() {
        let named = |name: &str| {
            let mut body = body.clone();
            body["name"] = json!(name);
            body
        };
        let (mine, _) = scene.admin_in("t1").make(ty, named("one"));
        let (other, _) = scene.admin_in("t2").make(ty, named("two"));
        let seen = names(&anna, ty);
        assert!(
            seen.contains(&"one".into()) && !seen.contains(&"two".into()),
            "{ty}: {seen:?}"
        );
        assert_eq!(anna.get(&mine).status, 200, "{ty}");
        let replies = [
            anna.get(&other),
            anna.put(&other, &named("two")),
            anna.patch(&other, &json!({"replace": {"name": "stolen"}})),
            anna.delete(&other),
            anna.with("X-Avi-Tenant", "*").text("GET", &other, ""),
        ];
        for reply in replies {
            assert_eq!(reply.status, 404, "{ty}: {}", reply.text);
        }
        assert_eq!(scene.admin_in("t2").get(&other).good()["name"], "two");
        let everywhere = names(&anna.with("X-Avi-Tenant", "*"), ty);
        assert!(!everywhere.contains(&"two".into()), "{ty}: {everywhere:?}");
        let (his, made) = anna.make(ty, named("three"));
        assert!(made["tenant_ref"].as_str().unwrap().contains("#t1"), "{ty}");
        assert_eq!(anna.delete(&his).status, 204, "{ty}");
    }
}

/// The table of all types is complete: see `types`.
#[test]
fn no_object_of_any_type_is_seen_from_another_tenant() {
    let scene = Scene::new();
    let (_, anna) = scene.user("anna", "Tenant-Admin", Some("t1"));
    for (ty, path) in make_all(&scene.admin_in("t2")) {
        let reply = anna.get(&path);
        assert!([403, 404].contains(&reply.status), "{ty}: {}", reply.text);
        for sub in ["runtime", "runtime/detail", "placement"] {
            let reply = anna.get(&format!("{path}/{sub}"));
            assert!(
                [403, 404].contains(&reply.status),
                "{ty}/{sub}: {}",
                reply.text
            );
        }
        for list in [format!("/api/{ty}"), format!("/api/{ty}-inventory")] {
            for http in [&anna, &anna.with("X-Avi-Tenant", "*")] {
                let text = http.get(&list).text;
                assert!(!text.contains(&name(ty)), "{list}: {text}");
            }
        }
    }
}

#[test]
fn no_tenant_is_entered_and_no_object_used_that_is_somebody_elses() {
    let scene = Scene::new();
    let (_, anna) = scene.user("anna", "Tenant-Admin", Some("t1"));
    for tenant in ["t2", "admin", "none"] {
        let text = anna
            .with("X-Avi-Tenant", tenant)
            .get("/api/pool")
            .refused(403);
        assert_eq!(text, format!("Tenant '{tenant}' does not exist!"));
    }
    assert_eq!(names(&anna, "tenant"), ["t1"]);
    let t2 = own_path(&scene.admin.get("/api/tenant?name=t2").good()["results"][0]);
    assert_eq!(anna.get(&t2).status, 403);
    let elsewhere = json!({"name": "p", "tenant_ref": "/api/tenant?name=t2"});
    let reply = anna.post("/api/pool", &elsewhere);
    assert_eq!(reply.status, 403, "{}", reply.text);
    let (pool, _) = scene.admin_in("t2").make("pool", json!({"name": "theirs"}));
    for reference in [
        pool.as_str(),
        "/api/pool?name=theirs",
        pool.rsplit('/').next().unwrap(),
    ] {
        let vs = json!({"name": "vs", "pool_ref": reference, "services": [{"port": 80}]});
        let reply = anna.post("/api/virtualservice", &vs);
        assert_eq!(reply.status, 400, "{}", reply.text);
        assert!(
            reply.text.contains("Pool object not found!"),
            "{}",
            reply.text
        );
    }
    let shared =
        json!({"name": "p", "health_monitor_refs": ["/api/healthmonitor?name=System-TCP"]});
    assert_eq!(anna.post("/api/pool", &shared).status, 201);
    let profile = anna.get("/api/healthmonitor?name=System-TCP").good();
    let own = own_path(&profile["results"][0]);
    assert_eq!(
        anna.patch(&own, &json!({"replace": {"send_interval": 5}}))
            .status,
        403
    );
}

#[test]
fn a_right_in_one_tenant_is_none_in_another() {
    let scene = Scene::new();
    for (role, resource) in [
        ("pools", "PERMISSION_POOL"),
        ("services", "PERMISSION_VIRTUALSERVICE"),
    ] {
        let privileges = json!([{"resource": resource, "type": "READ_ACCESS"}]);
        scene
            .admin
            .make("role", json!({"name": role, "privileges": privileges}));
    }
    let grant = |role: &str, tenant: &str| json!({"role_ref": format!("/api/role?name={role}"), "tenant_ref": format!("/api/tenant?name={tenant}")});
    let roles = [
        grant("pools", "admin"),
        grant("pools", "t1"),
        grant("services", "t2"),
    ];
    scene.admin.make(
        "user",
        json!({"name": "anna", "password": SECRET, "access": roles}),
    );
    let mut anna = scene.server.http();
    anna.log_in_as("anna", SECRET).good();
    scene.admin_in("t1").make("pool", json!({"name": "one"}));
    let (other, _) = scene.admin_in("t2").make("pool", json!({"name": "two"}));
    assert_eq!(names(&anna.with("X-Avi-Tenant", "*"), "pool"), ["one"]);
    assert_eq!(anna.get(&other).status, 404);
    let in_t2 = anna.with("X-Avi-Tenant", "t2");
    assert_eq!(
        (in_t2.get(&other).status, in_t2.get("/api/pool").status),
        (403, 403)
    );
    assert_eq!(in_t2.get("/api/virtualservice").status, 200);
}

#[test]
fn nobody_gives_what_he_does_not_have() {
    let scene = Scene::new();
    let writes = json!([{"resource": "PERMISSION_USER", "type": "WRITE_ACCESS"},
        {"resource": "PERMISSION_ROLE", "type": "WRITE_ACCESS"}, {"resource": "PERMISSION_POOL", "type": "READ_ACCESS"}]);
    let (role, _) = scene
        .admin
        .make("role", json!({"name": "clerk", "privileges": writes}));
    let (path, clerk) = scene.user("carl", "clerk", None);
    let like_me = json!([{"role_ref": "/api/role?name=clerk", "all_tenants": true}]);
    let body = json!({"name": "dora", "password": SECRET, "access": like_me});
    assert_eq!(clerk.post("/api/user", &body).status, 201);
    let more = json!([{"role_ref": "/api/role?name=System-Admin", "all_tenants": true}]);
    let mut all = json!([{"resource": "PERMISSION_CLOUD", "type": "WRITE_ACCESS"}]);
    all.as_array_mut()
        .unwrap()
        .extend(writes.as_array().unwrap().clone());
    for reply in [
        clerk.post(
            "/api/user",
            &json!({"name": "eve", "password": SECRET, "access": more}),
        ),
        clerk.post(
            "/api/user",
            &json!({"name": "eve", "password": SECRET, "is_superuser": true}),
        ),
        clerk.patch(&path, &json!({"replace": {"access": more}})),
        clerk.patch(&path, &json!({"replace": {"is_superuser": true}})),
        clerk.patch(
            "/api/user/user-1",
            &json!({"replace": {"password": "mine now"}}),
        ),
        clerk.patch(&role, &json!({"replace": {"privileges": all}})),
    ] {
        let text = reply.refused(403);
        assert!(text.contains("rights that he does not have"), "{text}");
    }
    assert_eq!(scene.server.http().log_in(PASSWORD).status, 200);
    assert_eq!(scene.server.http().log_in_as("eve", SECRET).status, 401);
}

#[test]
fn a_role_that_is_taken_away_and_a_user_who_is_gone_count_at_once() {
    let scene = Scene::new();
    let (path, anna) = scene.user("anna", "Application-Admin", Some("t1"));
    assert_eq!(anna.post("/api/pool", &json!({"name": "p"})).status, 201);
    let less =
        json!([{"role_ref": "/api/role?name=WAF-Admin", "tenant_ref": "/api/tenant?name=t1"}]);
    scene
        .admin
        .patch(&path, &json!({"replace": {"access": less}}))
        .good();
    let mut anna = scene.server.http();
    anna.log_in_as("anna", SECRET).good();
    assert_eq!(anna.post("/api/pool", &json!({"name": "q"})).status, 403);
    scene
        .admin
        .patch(&path, &json!({"replace": {"is_active": false}}))
        .good();
    assert_eq!(anna.get("/api/pool").status, 401);
    assert_eq!(scene.server.http().log_in_as("anna", SECRET).status, 401);
    scene
        .admin
        .patch(&path, &json!({"replace": {"is_active": true}}))
        .good();
    anna.log_in_as("anna", SECRET).good();
    assert_eq!(scene.admin.delete(&path).status, 204);
    assert_eq!(anna.get("/api/pool").status, 401);
}

#[test]
fn a_session_is_the_users_who_opened_it_and_not_his_namesakes() {
    let scene = Scene::new();
    let (path, old) = scene.user("anna", "Application-Operator", Some("t1"));
    assert_eq!(scene.admin.delete(&path).status, 204);
    let (path, anna) = scene.user("anna", "System-Admin", None);
    assert_eq!(old.get("/api/pool").status, 401, "another anna");
    scene
        .admin
        .patch(&path, &json!({"replace": {"name": "berta"}}))
        .good();
    scene.user("anna", "System-Admin", None);
    assert_eq!(anna.get("/api/pool").status, 401, "she logs in as berta");
}

#[test]
fn passwords_are_never_read_are_kept_and_are_changed_by_who_knows_them() {
    let scene = Scene::new();
    let (path, anna) = scene.user("anna", "Application-Admin", Some("t1"));
    for text in [
        scene.admin.get(&path).text,
        scene.admin.get("/api/user").text,
    ] {
        assert!(
            !text.contains("argon2") && !text.contains("\"password\""),
            "{text}"
        );
    }
    let body = scene.admin.get(&path).good();
    scene.admin.put(&path, &body).good();
    scene.server.http().log_in_as("anna", SECRET).good();
    let mut anna_again = anna.clone();
    anna_again.log_in_as("anna", SECRET).good();
    let change = |old: &str| json!({"old_password": old, "password": "another secret"});
    assert_eq!(
        anna_again.put("/api/useraccount", &change("wrong")).status,
        401
    );
    assert_eq!(
        anna_again.put("/api/useraccount", &change(SECRET)).status,
        200
    );
    assert_eq!(
        anna_again.get("/api/useraccount").good()["username"],
        "anna"
    );
    assert_eq!(
        anna.get("/api/pool").status,
        401,
        "other sessions have ended"
    );
    assert_eq!(scene.server.http().log_in_as("anna", SECRET).status, 401);
    scene
        .server
        .http()
        .log_in_as("anna", "another secret")
        .good();
    let by_path = json!({"json_patch": [{"op": "replace", "path": "/password", "value": "x"}]});
    let text = scene.admin.patch(&path, &by_path).refused(400);
    assert!(text.contains("use PUT"), "{text}");
}
