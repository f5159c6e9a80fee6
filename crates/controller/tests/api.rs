//! The REST API of a real controller on loopback, through the client that everyone uses.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use clap::Parser;
use client::{Client, ClientConfig, Error, Password, Trust};
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

const PASSWORD: &str = "for this test only";

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: evenkeel_controller::Args,
}

/// A controller that runs until the test's process ends.
struct Fixture {
    folder: tempfile::TempDir,
    api: SocketAddr,
}

/// On loopback, and not in use now; the IP address is this process's own, so that no other takes the port meanwhile.
fn free_address() -> SocketAddr {
    let [_, a, b, c] = std::process::id().to_be_bytes();
    let own = Ipv4Addr::new(127, a + 1, b, c);
    let listener = TcpListener::bind((own, 0)).unwrap();
    listener.local_addr().unwrap()
}

impl Fixture {
    fn start() -> Self {
        let fixture = Self {
            folder: tempfile::tempdir().unwrap(),
            api: free_address(),
        };
        let path = |name: &str| fixture.folder.path().join(name).display().to_string();
        std::fs::write(path("password"), PASSWORD).unwrap();
        let line = [
            "controller",
            "--data-dir",
            &path("data"),
            "--listen-api",
            &fixture.api.to_string(),
            "--listen-engines",
            "127.0.0.1:0",
            "--admin-password-file",
            &path("password"),
        ]
        .map(str::to_owned);
        let cli = Cli::parse_from(line);
        std::thread::spawn(move || evenkeel_controller::run(cli.args).unwrap());
        fixture
    }

    fn config(&self, password: &str) -> ClientConfig {
        let mut config =
            ClientConfig::new(format!("https://{}", self.api), Password::new(password));
        config.trust = Trust::Insecure;
        config.retry_for = Duration::from_secs(20);
        config
    }

    fn client(&self) -> Client {
        Client::connect(self.config(PASSWORD)).unwrap()
    }
}

fn status(result: client::Result<impl std::fmt::Debug>) -> (u16, String) {
    match result.expect_err("refused") {
        Error::Status {
            status, message, ..
        } => (status, message),
        other => panic!("{other:?}"),
    }
}

fn v4(addr: &str) -> Value {
    json!({"addr": addr, "type": "V4"})
}

fn vip(addr: &str) -> Value {
    json!([{"vip_id": "1", "ip_address": v4(addr)}])
}

fn make(client: &Client, path: &str, body: Value) -> Value {
    let made = client.post(&format!("/api/{path}"), &body);
    made.unwrap_or_else(|e| panic!("{path}: {e:?}"))
}

/// `/api/TYPE/UUID` of an answer.
fn own_path(object: &Value) -> String {
    let url = object["url"].as_str().unwrap().split('#').next().unwrap();
    url[url.find("/api/").unwrap()..].to_owned()
}

#[test]
fn a_wrong_password_is_refused_with_the_words_that_clients_match() {
    let fixture = Fixture::start();
    fixture.client();
    match Client::connect(fixture.config("wrong")).expect_err("refused") {
        Error::Login { message, .. } => {
            assert!(message.contains("Invalid credentials"), "{message}")
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_resource_survives_post_get_and_put_of_what_was_read() {
    let fixture = Fixture::start();
    let client = fixture.client();
    let bodies = [
        ("tenant", json!({"name": "t1"})),
        ("cloud", json!({"name": "c1", "vtype": "CLOUD_NONE"})),
        ("vrfcontext", json!({"name": "v1"})),
        ("serviceenginegroup", json!({"name": "g1"})),
        ("serviceengine", json!({"name": "se"})),
        ("network", json!({"name": "n1"})),
        (
            "healthmonitor",
            json!({"name": "h1", "type": "HEALTH_MONITOR_TCP"}),
        ),
        (
            "networkprofile",
            json!({"name": "np1", "profile": {"type": "PROTOCOL_TYPE_TCP_PROXY"}}),
        ),
        (
            "applicationprofile",
            json!({"name": "ap1", "type": "APPLICATION_PROFILE_TYPE_L4"}),
        ),
        (
            "pool",
            json!({"name": "p1", "servers": [{"ip": v4("10.0.0.2")}, {"ip": v4("10.0.0.1")}]}),
        ),
        ("vsvip", json!({"name": "vip1", "vip": vip("10.9.9.9")})),
        (
            "virtualservice",
            json!({"name": "vs1", "services": [{"port": 80}]}),
        ),
    ];
    for (path, mut body) in bodies {
        body["x_unknown"] = json!({"kept": [1, {"a": null}]});
        let made = make(&client, path, body.clone());
        let read = client.get(&own_path(&made), &[]).unwrap();
        assert_eq!(read["x_unknown"], body["x_unknown"], "{path}");
        client.put(&own_path(&made), &read).unwrap();
        let mut again = client.get(&own_path(&made), &[]).unwrap();
        assert!(
            again["_last_modified"].as_str() > read["_last_modified"].as_str(),
            "{path}"
        );
        for stamp in ["_last_modified", "version"] {
            if read.get(stamp).is_some() {
                again[stamp] = read[stamp].clone();
            }
        }
        assert_eq!(again, read, "{path}: PUT of what was read changes nothing");
    }
}

#[test]
fn defaults_and_references_are_filled_in_on_read_and_names_where_asked() {
    let fixture = Fixture::start();
    let client = fixture.client();
    let body = json!({"name": "vs1", "services": [{"port": 80}], "vip": vip("10.9.9.9")});
    let made = make(&client, "virtualservice", body);
    assert!(
        made["vsvip_ref"].as_str().unwrap().ends_with("#vsvip-vs1"),
        "{made}"
    );
    assert_eq!(
        (&made["enabled"], &made["services"][0]["port_range_end"]),
        (&json!(true), &json!(80))
    );
    let read = client.get(&own_path(&made), &[]).unwrap();
    let group = |v: &Value| v["se_group_ref"].as_str().unwrap().to_owned();
    assert!(!group(&read).contains('#'));
    let named = client
        .get(&own_path(&made), &[("include_name", "")])
        .unwrap();
    assert!(group(&named).ends_with("#Default-Group"), "{named}");
    assert!(
        group(&named).starts_with(&format!("https://{}/api/", fixture.api)),
        "{named}"
    );
    let sparse = client
        .get(&own_path(&made), &[("skip_default", "true")])
        .unwrap();
    assert!(
        sparse.get("enabled").is_none() && sparse.get("vsvip_ref").is_some(),
        "{sparse}"
    );
}

#[test]
fn references_resolve_in_every_form_and_an_unknown_one_names_its_field() {
    let fixture = Fixture::start();
    let client = fixture.client();
    let pool = make(&client, "pool", json!({"name": "web pool"}));
    let path = own_path(&pool);
    let forms = [
        path.clone(),
        format!("https://elsewhere{path}"),
        format!("https://elsewhere{path}#web pool"),
        "/api/pool?name=web pool".into(),
        "/api/pool/?name=web%20pool".into(),
        "/api/pool/?tenant=admin&name=web+pool&cloud=Default-Cloud".into(),
        client::uuid_of(&path).to_owned(),
    ];
    for (i, form) in forms.iter().enumerate() {
        let body = json!({"name": format!("v{i}"), "pool_ref": form, "services": []});
        let made = make(&client, "virtualservice", body);
        assert!(
            made["pool_ref"].as_str().unwrap().contains(&path),
            "{form}: {made}"
        );
    }
    let unknown = json!({"name": "x", "pool_ref": "/api/pool?name=no"});
    let (code, text) = status(client.post("/api/virtualservice", &unknown));
    assert!(
        code == 400 && text.starts_with("pool_ref: Pool object not found!"),
        "{text}"
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "one flat table of wrong objects")]
fn bad_input_names_the_field_and_leaves_nothing_behind() {
    let fixture = Fixture::start();
    let client = fixture.client();
    make(
        &client,
        "vsvip",
        json!({"name": "taken", "vip": vip("10.9.9.9")}),
    );
    let profile = |ibgp: bool, peer: Value| json!({"name": "v1", "bgp_profile": {"local_as": 65001, "ibgp": ibgp, "peers": [peer]}});
    let subnet = json!({"ip_addr": v4("10.10.10.0"), "mask": 24});
    let vnic = |addr: &str| json!({"vnic_networks": [{"mode": "STATIC", "ip": {"ip_addr": v4(addr), "mask": 24}}]});
    let used = "vip[0].ip_address: 10.9.9.9 is used by VsVip taken";
    let cases = [
        (
            "pool",
            json!({"name": "p", "default_server_port": "80"}),
            "default_server_port: must be a whole number",
        ),
        (
            "pool",
            json!({"name": "p", "default_server_port": 70000}),
            "default_server_port: 70000 is out of range; use 1 to 65535",
        ),
        (
            "pool",
            json!({"name": "p", "lb_algorithm": "X"}),
            "lb_algorithm: \"X\" is not a known value",
        ),
        (
            "serviceengine",
            json!({"name": "s", "data_vnics": [vnic("10.1.1.1"), vnic("10.1.1.2")]}),
            "data_vnics[1]: ",
        ),
        (
            "vrfcontext",
            profile(
                false,
                json!({"peer_ip": v4("10.10.10.1"), "subnet": subnet}),
            ),
            "bgp_profile.peers[0].remote_as: is required",
        ),
        (
            "vrfcontext",
            profile(
                false,
                json!({"peer_ip": v4("10.1.1.1"), "remote_as": 7, "subnet": subnet}),
            ),
            "bgp_profile.peers[0].subnet: the peer 10.1.1.1 is outside 10.10.10.0/24",
        ),
        (
            "vrfcontext",
            profile(
                true,
                json!({"peer_ip": v4("10.10.10.1"), "subnet": subnet, "connect_timer": 0}),
            ),
            "bgp_profile.peers[0].connect_timer: 0 is out of range",
        ),
        ("vsvip", json!({"name": "v", "vip": vip("10.9.9.9")}), used),
        (
            "virtualservice",
            json!({"name": "v", "vip": vip("10.9.9.9")}),
            used,
        ),
        (
            "serviceenginegroup",
            json!({"name": "g", "max_scaleout_per_vs": 65}),
            "max_scaleout_per_vs: 65 is out of range",
        ),
    ];
    let count = |path: &str| client.list(path).unwrap().len();
    for (path, body, expected) in cases {
        let before = (count(path), count("vsvip"));
        let (code, text) = status(client.post(&format!("/api/{path}"), &body));
        assert!(
            code == 400 && text.starts_with(expected),
            "{path}: {code} {text}"
        );
        assert_eq!(
            (count(path), count("vsvip")),
            before,
            "{path}: half-applied"
        );
    }
}

#[test]
fn a_stale_object_is_refused_and_a_referred_or_system_one_is_not_deleted() {
    let fixture = Fixture::start();
    let client = fixture.client();
    let path = own_path(&make(&client, "pool", json!({"name": "p"})));
    let read = client.get(&path, &[]).unwrap();
    client.put(&path, &read).unwrap();
    let (code, text) = status(client.put(&path, &read));
    assert!(
        code == 412 && text.contains("Need to reload object data Pool"),
        "{text}"
    );
    make(
        &client,
        "virtualservice",
        json!({"name": "vs1", "pool_ref": path.clone()}),
    );
    let (code, text) = status(client.delete(&path));
    assert!(
        code == 409 && text == "Cannot delete, object is referred by: ['VirtualService vs1']",
        "{text}"
    );
    let system = client
        .get_by_name("healthmonitor", "System-TCP")
        .unwrap()
        .unwrap();
    let (code, text) = status(client.delete(&own_path(&system)));
    assert!(
        code == 403 && text.contains("Cannot delete system default object"),
        "{text}"
    );
    let (code, text) = status(client.post("/api/pool", &json!({"name": "p"})));
    assert!(code == 409 && text.contains("exists already"), "{text}");
}

#[test]
fn patch_adds_replaces_and_deletes_items_by_their_key() {
    let fixture = Fixture::start();
    let client = fixture.client();
    let server = |a: &str, on: bool| json!({"ip": v4(a), "port": 80, "enabled": on});
    let pool = make(
        &client,
        "pool",
        json!({"name": "p", "servers": [server("10.0.0.1", true)]}),
    );
    let path = own_path(&pool);
    let states = |v: &Value| -> Vec<(String, bool)> {
        let servers = v["servers"].as_array().unwrap().iter();
        servers
            .map(|s| {
                (
                    s["ip"]["addr"].as_str().unwrap().to_owned(),
                    s["enabled"].as_bool().unwrap(),
                )
            })
            .collect()
    };
    let patch = |operation: &str, item: Value| {
        client
            .patch(&path, &json!({operation: {"servers": [item]}}))
            .unwrap()
    };
    let (a, b) = ("10.0.0.1".to_owned(), "10.0.0.2".to_owned());
    assert_eq!(
        states(&patch("add", server(&b, true))),
        [(a.clone(), true), (b.clone(), true)]
    );
    assert_eq!(
        states(&patch("replace", server(&a, false))),
        [(a.clone(), false), (b.clone(), true)]
    );
    assert_eq!(states(&patch("delete", server(&a, false))), [(b, true)]);
    assert_eq!(status(client.patch(&path, &json!({"x": 1}))).0, 400);
}

#[test]
fn an_md5_secret_is_masked_on_read_and_the_mask_keeps_it() {
    let fixture = Fixture::start();
    let client = fixture.client();
    let peer = json!({"peer_ip": v4("10.10.10.1"), "subnet": {"ip_addr": v4("10.10.10.0"), "mask": 24}, "md5_secret": "abcd"});
    let body = json!({"name": "v1", "bgp_profile": {"local_as": 1, "ibgp": true, "peers": [peer]}});
    let made = make(&client, "vrfcontext", body);
    assert_eq!(made["bgp_profile"]["peers"][0]["md5_secret"], "<sensitive>");
    let read = client.get(&own_path(&made), &[]).unwrap();
    client.put(&own_path(&made), &read).unwrap();
    let log = client.get("/api/ek/audit", &[("type", "vrfcontext"), ("name", "v1")]);
    let newest = log.unwrap()["results"][0]["objects"][0].clone();
    let changes = newest["changes"].to_string();
    assert_eq!(newest["action"], "update");
    assert!(
        !changes.contains("md5_secret"),
        "the secret is kept: {changes}"
    );
    let stored = stored_profiles(fixture.folder.path());
    assert!(stored.contains("\"md5_secret\":{\"$sealed\":"), "{stored}");
    assert!(
        !stored.contains("abcd") && !stored.contains("<sensitive>"),
        "neither the secret nor the mask is stored"
    );
}

/// The vrfcontexts with a profile, as the store has them.
fn stored_profiles(folder: &Path) -> String {
    use store::Store as _;
    let store = store::Sqlite::open(&folder.join("data/evenkeel.db")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let listing = runtime.block_on(store.list("/object/vrfcontext/")).unwrap();
    let texts = listing
        .entries
        .iter()
        .map(|e| String::from_utf8_lossy(&e.value).into_owned());
    texts.filter(|t| t.contains("bgp_profile")).collect()
}

#[test]
fn lists_have_pages_filters_and_a_count() {
    let fixture = Fixture::start();
    let client = fixture.client();
    for i in 0..5 {
        make(
            &client,
            "pool",
            json!({"name": format!("p{i}"), "default_server_port": 80 + i % 2}),
        );
    }
    let get = |path: &str, query: &[(&str, &str)]| client.get(path, query).unwrap();
    let page = get("/api/pool", &[("page_size", "2"), ("sort", "name")]);
    assert_eq!(
        (&page["count"], page["results"].as_array().unwrap().len()),
        (&json!(5), 2)
    );
    assert!(page.get("next").is_some());
    let last = get("/api/pool", &[("page_size", "2"), ("page", "3")]);
    assert!(last["results"].as_array().unwrap().len() == 1 && last.get("next").is_none());
    let found = get("//api//pool/", &[("name", "p3")]);
    assert_eq!(
        (&found["count"], &found["results"][0]["name"]),
        (&json!(1), &json!("p3"))
    );
    assert_eq!(
        get("/api/pool", &[("default_server_port", "81")])["count"],
        2
    );
    assert_eq!(get("/api/pool", &[("name", "none")])["count"], 0);
}

#[test]
fn a_service_without_engines_says_why_it_is_not_placed() {
    let fixture = Fixture::start();
    let client = fixture.client();
    let body = json!({"name": "vs1", "services": [{"port": 80}], "vip": vip("10.9.9.9"), "enable_rhi": true});
    let path = own_path(&make(&client, "virtualservice", body));
    let scaleout = format!("{path}/scaleout");
    let (code, text) = status(client.post(&scaleout, &json!({})));
    assert!(
        code == 400 && text.contains("no service engine can take the virtual service"),
        "{text}"
    );
    for (field, value) in [("to_new_se", json!(true)), ("new_vcpus", json!(2))] {
        for action in ["scaleout", "migrate"] {
            let action = format!("{path}/{action}");
            let (code, text) = status(client.post(&action, &json!({field: value})));
            let hint = "start one with a join token, and name it in to_se_ref";
            let said = text.contains(&format!("{field}: ")) && text.contains(hint);
            assert!(code == 400 && said, "{text}");
        }
    }
    let (code, text) =
        status(client.post(&format!("{path}/scalein"), &json!({"admin_down": true})));
    let hint = "admin_down: the virtual service is enabled; write enabled: false into it first";
    assert!(code == 400 && text.contains(hint), "{text}");
    let enable = |on: bool| {
        client
            .patch(&path, &json!({"replace": {"enabled": on}}))
            .unwrap()
    };
    enable(false);
    let (code, text) = status(client.post(&scaleout, &json!({"admin_up": true})));
    let hint = "admin_up: the virtual service is disabled; write enabled: true into it first";
    assert!(code == 400 && text.contains(hint), "{text}");
    enable(true);
    let runtime = client.get(&format!("{path}/runtime"), &[]).unwrap();
    assert_eq!(
        runtime["oper_status"]["state"], "OPER_RESOURCES",
        "{runtime}"
    );
    assert_eq!(
        client.get(&scaleout, &[]).unwrap(),
        json!({"count": 0, "results": []})
    );
    assert_eq!(
        status(client.post(&scaleout, &json!({"vip_id": "7"}))).0,
        400
    );
}

#[test]
fn a_new_cloud_comes_with_its_own_networks_and_group() {
    let fixture = Fixture::start();
    let client = fixture.client();
    make(
        &client,
        "cloud",
        json!({"name": "c1", "vtype": "CLOUD_NONE"}),
    );
    let of_cloud = |path: &str| {
        client
            .get(&format!("/api/{path}"), &[("cloud_ref.name", "c1")])
            .unwrap()["count"]
            .clone()
    };
    assert_eq!(
        (of_cloud("vrfcontext"), of_cloud("serviceenginegroup")),
        (json!(2), json!(1))
    );
}

/// What the typed client never does: a write without the CSRF token, the form login, the open paths.
#[test]
fn a_write_without_the_csrf_token_is_refused_and_the_open_paths_need_no_session() {
    let fixture = Fixture::start();
    fixture.client();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let tls = ureq::tls::TlsConfig::builder()
        .disable_verification(true)
        .unversioned_rustls_crypto_provider(provider);
    let agent = ureq::Agent::config_builder()
        .tls_config(tls.build())
        .http_status_as_error(false)
        .build()
        .new_agent();
    let url = |path: &str| format!("https://{}{path}", fixture.api);
    for path in ["/api/cluster/status", "//api/initial-data"] {
        assert_eq!(agent.get(url(path)).call().unwrap().status(), 200, "{path}");
    }
    assert_eq!(agent.get(url("/api/pool")).call().unwrap().status(), 401);
    let form = format!("username=admin&password={}", PASSWORD.replace(' ', "+"));
    let login = agent
        .post(url("/login"))
        .header("Content-Type", "application/x-www-form-urlencoded")
        .send(form)
        .unwrap();
    assert_eq!(login.status(), 200);
    let cookies = login.headers().get_all("set-cookie").iter();
    let pairs = cookies.map(|c| c.to_str().unwrap().split(';').next().unwrap());
    let cookie = pairs.collect::<Vec<_>>().join("; ");
    assert_eq!(
        agent
            .get(url("/api/pool"))
            .header("Cookie", &cookie)
            .call()
            .unwrap()
            .status(),
        200
    );
    let mut refused = agent
        .post(url("/api/pool"))
        .header("Cookie", &cookie)
        .send("{\"name\": \"p\"}")
        .unwrap();
    assert_eq!(refused.status(), 401);
    assert_eq!(
        refused.body_mut().read_to_string().unwrap(),
        "CSRF token missing or incorrect."
    );
}
