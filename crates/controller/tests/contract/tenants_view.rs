//! What a tenant's user may ask of what is observed: explain, flows, traces and the topology of his own services, and of no
//! others.

use crate::engine::Engine;
use crate::http::{Http, Server, v4, wait_until};
use proto::v1::{BgpRoute, BgpSession, BgpState, Report};
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

const OWN: &str = "10.9.9.1";
const THEIRS: &str = "10.9.9.2";

/// Tenant t1 has a service with the VIP [`OWN`], t2 one of the same name with [`THEIRS`].
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
        admin.make("serviceengine", json!({"name": "se-1"}));
        for (tenant, addr) in [("t1", OWN), ("t2", THEIRS)] {
            admin.make("tenant", json!({"name": tenant}));
            let vip = json!([{"vip_id": "1", "ip_address": v4(addr)}]);
            let vs =
                json!({"name": "web", "services": [{"port": 80}], "vip": vip, "enable_rhi": true});
            admin
                .with("X-Avi-Tenant", tenant)
                .make("virtualservice", vs);
        }
        Self {
            _folder: folder,
            server,
            admin,
        }
    }

    fn user(&self, name: &str, role: &str) -> Http {
        self.server.user(&self.admin, name, role, Some("t1")).1
    }
}

fn explain(vip: &str) -> String {
    format!("/api/ek/explain/vip/{vip}")
}

fn trace(vip: &str) -> String {
    format!("/api/ek/traceflow?client=192.0.2.7:40000&vip={vip}:80")
}

#[test]
fn a_viewer_of_a_tenant_asks_about_his_own_vips_and_not_about_others() {
    let scene = Scene::new();
    let vera = scene.user("vera", "Application-Operator");
    let own = vera.get(&explain(OWN)).good();
    assert_eq!(own["virtual_services"], json!(["web"]));
    let known = vera.get(&explain(THEIRS)).refused(404);
    let unknown = vera.get(&explain("10.9.9.3")).refused(404);
    assert_eq!(
        known.replace(THEIRS, "10.9.9.3"),
        unknown,
        "as if not there"
    );
    let both = [OWN, THEIRS].map(|vip| scene.admin.get(&explain(vip)).status);
    assert_eq!(both, [200, 200]);

    for path in [
        "/api/ek/flow",
        "/api/ek/flow?table=remote&",
        "/api/ek/flowevent",
    ] {
        let ask = |query: &str| {
            let sign = if path.ends_with('&') { "" } else { "?" };
            vera.get(&format!("{path}{sign}{query}"))
        };
        for good in [format!("vip={OWN}"), "vs=web".into()] {
            let page = ask(&good).good();
            let nobody = json!([]);
            assert_eq!(
                (&page["results"], &page["not_answered"]),
                (&nobody, &nobody),
                "only engines that have the VIP are asked: {path}"
            );
        }
        for wrong in [
            String::new(),
            "se=se-1".into(),
            format!("vip={THEIRS}"),
            format!("vs=web&vip={THEIRS}"),
        ] {
            let text = ask(&wrong).refused(400);
            assert!(text.starts_with("vip: "), "{path} {wrong}: {text}");
        }
        assert!(ask("vs=other").refused(400).starts_with("vs: "));
    }
    assert_eq!(vera.get(&trace(OWN)).good()["engines"], json!([]));
    assert!(vera.get(&trace(THEIRS)).refused(400).starts_with("vip: "));
    let silent = scene.admin.get(&trace(THEIRS)).good()["not_answered"].clone();
    assert_eq!(silent[0]["se_name"], "se-1", "an admin asks all engines");
}

#[test]
fn a_tenants_user_sees_the_part_of_the_topology_that_is_his() {
    let scene = Scene::new();
    let anna = scene.user("anna", "Tenant-Admin");
    let vips = |topology: &Value| -> Vec<String> {
        let vips = topology["vips"]["results"].as_array().unwrap().iter();
        let mut vips: Vec<String> = vips
            .map(|v| v["addresses"][0].as_str().unwrap().to_owned())
            .collect();
        vips.sort();
        vips
    };
    let own = anna.get("/api/ek/topology").good();
    assert_eq!(vips(&own), [OWN]);
    assert_eq!(own["engines"], json!([]), "none has one of his VIPs");
    let all = scene.admin.get("/api/ek/topology").good();
    assert_eq!(vips(&all), [OWN, THEIRS]);
    assert_eq!(all["engines"].as_array().unwrap().len(), 1);
    let found = anna.get("/api/ek/topology?vs=web").good();
    assert_eq!(vips(&found), [OWN]);
}

/// A session that has sent the routes of both VIPs.
fn both_sent() -> Report {
    let route = |vip: &str| BgpRoute {
        prefix: format!("{vip}/32"),
        sent: true,
        ..BgpRoute::default()
    };
    Report {
        bgp_sessions: vec![BgpSession {
            peer: "10.10.10.1".into(),
            state: BgpState::Established.into(),
            routes: vec![route(OWN), route(THEIRS)],
            ..BgpSession::default()
        }],
        ..Report::default()
    }
}

#[test]
fn of_an_engine_that_serves_several_tenants_each_is_told_of_his_own() {
    let scene = Scene::new();
    let anna = scene.user("anna", "Tenant-Admin");
    let engine = Engine::join(&scene.server, &scene.admin, "se-2");
    engine.report(both_sent());
    let found = scene.admin.get("/api/serviceengine?name=se-2").good();
    let se = found["results"][0]["uuid"].as_str().unwrap().to_owned();
    let vips = |http: &Http| {
        let shown = http.get(&format!("/api/serviceengine/{se}/placement"));
        shown.good()[0]["vips"].as_array().unwrap().clone()
    };
    let names = |http: &Http| {
        let shown = http.get(&format!("/api/serviceengine/{se}/bgp")).good();
        shown[0]["vs_names"].as_array().unwrap().clone()
    };
    let users = |http: &Http| {
        let path = format!("/api/serviceengine-inventory/{se}?include=config");
        let config = http.get(&path).good()["config"].clone();
        config["virtualservice_refs"].as_array().unwrap().clone()
    };
    wait_until("both VIPs and their routes", || {
        vips(&scene.admin).len() == 2 && names(&scene.admin).len() == 2
    });
    assert_eq!(users(&scene.admin).len(), 2);
    let own = vips(&anna);
    assert_eq!(own.len(), 1, "{own:?}");
    assert_eq!(own[0]["addresses"][0]["addr"], OWN);
    assert_eq!((names(&anna).len(), users(&anna).len()), (1, 1));
}

#[test]
fn what_belongs_to_nobody_alone_takes_the_right_to_the_controller() {
    let scene = Scene::new();
    let anna = scene.user("anna", "Tenant-Admin");
    for path in [
        "/api/ek/bgp",
        "/api/ek/bfd",
        "/api/ek/learnedroute",
        "/api/ek/steering",
        "/metrics",
    ] {
        let text = anna.get(path).refused(403);
        assert!(text.contains("PERMISSION_CONTROLLER"), "{path}: {text}");
    }
    let engine = anna.get("/api/serviceengine?name=se-1").good();
    let uuid = engine["results"][0]["uuid"].as_str().unwrap();
    let flows = anna.get(&format!("/api/serviceengine/{uuid}/flowtable"));
    assert!(flows.refused(403).contains("PERMISSION_CONTROLLER"));
    let routes = anna.get(&format!("/api/serviceengine/{uuid}/route"));
    assert_eq!(routes.status, 200);
    let privileges = json!([{"resource": "PERMISSION_POOL", "type": "READ_ACCESS"}]);
    scene
        .admin
        .make("role", json!({"name": "pools", "privileges": privileges}));
    let paul = scene.user("paul", "pools");
    for path in [explain(OWN), trace(OWN), "/api/ek/topology".into()] {
        let text = paul.get(&path).refused(403);
        assert!(text.contains("PERMISSION_VIRTUALSERVICE"), "{path}: {text}");
    }
}
