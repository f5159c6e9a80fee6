//! A full disk: writes are refused with 507, reads and engines go on, and writes work again when there is room.

use crate::engine::{Engine, service};
use crate::events::make_service;
use crate::http::{Http, Server, own_path, wait_for};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use proto::v1::{EngineStats, Report};
use serde_json::{Value, json};
use std::path::Path;

fn disk(path: &Path, flags: MsFlags, size: &str) {
    let size = format!("size={size}");
    mount(
        Some("tmpfs"),
        path,
        Some("tmpfs"),
        flags,
        Some(size.as_str()),
    )
    .unwrap();
}

#[allow(
    clippy::print_stderr,
    clippy::disallowed_macros,
    reason = "a test that does not run says so"
)]
fn skipped() {
    let why = "needs root, for a mount namespace with a small file system";
    assert!(std::env::var_os("CI").is_none(), "CI must run this: {why}");
    eprintln!("SKIPPED: {why}");
}

#[test]
fn a_full_disk_refuses_writes_with_507_until_there_is_room() {
    // The threads of the controller and of the engines are children of this one, and see what it mounts.
    let thread = std::thread::spawn(|| {
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        let alone = unshare(CloneFlags::CLONE_NEWNS)
            .and_then(|()| mount(None::<&str>, "/", None::<&str>, private, None::<&str>));
        if alone.is_err() {
            return skipped();
        }
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        std::fs::create_dir(&data).unwrap();
        disk(&data, MsFlags::empty(), "2m");
        fill_up(folder.path(), &data);
        nix::mount::umount(&data).unwrap();
    });
    thread.join().unwrap();
}

fn fill_up(folder: &Path, data: &Path) {
    let server = Server::start(folder);
    let http = server.logged_in();
    let mut engines = Engines::placed(&server, &http);
    engines.miss_a_change(&http);
    let written = write_until_refused(&http);
    assert_eq!(http.count("/api/pool?name.contains=filler"), written);
    let log = http.get("/api/ek/audit?type=pool&name=filler-0").good();
    assert_eq!(log["count"], 1);
    let backup = http.post("/api/ek/backup", &json!({}));
    assert_eq!(backup.status, 507, "{}", backup.text);
    engines.go_on(&http);
    let still = http.post("/api/pool", &filler(written));
    assert_eq!(still.status, 507, "the disk is full all the time");

    disk(data, MsFlags::MS_REMOUNT, "16m");
    assert_eq!(http.post("/api/pool", &filler(written)).status, 201);
    drop((engines, server));
    let server = Server::start(folder);
    let http = server.logged_in();
    assert_eq!(http.count("/api/pool?name.contains=filler"), written + 1);
}

fn filler(n: i64) -> Value {
    json!({"name": format!("filler-{n}"), "x_filler": "x".repeat(50_000)})
}

/// Writes until there is no room; how much was written.
fn write_until_refused(http: &Http) -> i64 {
    for n in 0..500 {
        let reply = http.post("/api/pool", &filler(n));
        if reply.status != 201 {
            let text = reply.refused(507);
            assert!(text.contains("disk is full"), "{text}");
            return n;
        }
    }
    panic!("the disk is never full");
}

/// Engines that were there before the disk was full.
struct Engines {
    /// The virtual service, and its engine.
    vs: Value,
    with_service: Engine,
    /// Has a session all the time, since then.
    steady: Engine,
    since: Value,
}

impl Engines {
    fn placed(server: &Server, http: &Http) -> Self {
        let vs = make_service(http, "web");
        let with_service = Engine::join(server, http, "se-1");
        with_service.report(service(&vs, true));
        wait_state(http, &vs, "OPER_UP");
        wait_told(&with_service, "web");
        let steady = Engine::join(server, http, "se-2");
        wait_runtime(http, "se-2", "se_connected", &json!(true));
        Self {
            vs,
            with_service,
            steady,
            since: runtime(http, "se-2")["online_since"].clone(),
        }
    }

    /// The virtual service changes while its engine has no session.
    fn miss_a_change(&mut self, http: &Http) {
        self.with_service.disconnect();
        wait_runtime(http, "se-1", "se_connected", &json!(false));
        let change = json!({"replace": {"name": "changed"}});
        http.patch(&own_path(&self.vs), &change).good();
    }

    /// The session that there is stays, one that was lost is made again; what was written is told, and what is reported shown.
    fn go_on(&mut self, http: &Http) {
        self.with_service.connect();
        wait_told(&self.with_service, "changed");
        wait_for("its word that it is in force", || {
            let now = runtime(http, "se-1");
            match now["generation_in_force"] == now["generation_desired"] {
                true => Ok(()),
                false => Err(now.to_string()),
            }
        });
        for (up, state) in [(false, "OPER_DOWN"), (true, "OPER_UP")] {
            self.with_service.report(service(&self.vs, up));
            wait_state(http, &self.vs, state);
        }
        self.steady.report(Report {
            stats: Some(EngineStats {
                rss_bytes: 12_345,
                ..EngineStats::default()
            }),
            ..Report::default()
        });
        wait_runtime(http, "se-2", "rss_bytes", &json!(12_345));
        assert_eq!(runtime(http, "se-2")["online_since"], self.since);
    }
}

/// Waits until an engine was told of one virtual service, of this name.
fn wait_told(engine: &Engine, name: &str) {
    wait_for(&format!("{name} in what the engine is told"), || {
        let told = engine.told_services();
        match told == [name] {
            true => Ok(()),
            false => Err(format!("{told:?}")),
        }
    });
}

fn wait_state(http: &Http, vs: &Value, state: &str) {
    let path = format!("{}/runtime", own_path(vs));
    wait_for(state, || {
        let oper = http.get(&path).good()["oper_status"].clone();
        match oper["state"] == state {
            true => Ok(()),
            false => Err(oper.to_string()),
        }
    });
}

/// Of the engine of this name.
fn runtime(http: &Http, engine: &str) -> Value {
    let found = http
        .get(&format!("/api/serviceengine?name={engine}"))
        .good();
    let path = own_path(&found["results"][0]);
    http.get(&format!("{path}/runtime")).good()
}

fn wait_runtime(http: &Http, engine: &str, field: &str, value: &Value) {
    wait_for(&format!("{field} of {engine}"), || {
        let now = runtime(http, engine);
        match now[field] == *value {
            true => Ok(()),
            false => Err(now.to_string()),
        }
    });
}
