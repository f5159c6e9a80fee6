//! A full disk: writes are refused with 507, reads go on, and writes work again when there is room.

use crate::http::Server;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::json;
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
    eprintln!("SKIPPED: needs root, for a mount namespace with a small file system");
}

#[test]
fn a_full_disk_refuses_writes_with_507_until_there_is_room() {
    // The controller's threads are children of this one, and see what it mounts.
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
    let pool = |n: u32| json!({"name": format!("p{n}"), "x_filler": "x".repeat(50_000)});
    let mut written = 0;
    let refused = loop {
        let reply = http.post("/api/pool", &pool(written));
        if reply.status != 201 {
            break reply;
        }
        written += 1;
        assert!(written < 500, "the disk is never full");
    };
    assert_eq!(refused.status, 507, "{}", refused.text);
    assert!(refused.text.contains("disk is full"), "{}", refused.text);
    assert_eq!(http.count("/api/pool"), i64::from(written));
    assert_eq!(http.get("/api/ek/audit?type=pool").good()["count"], written);
    let backup = http.post("/api/ek/backup", &json!({}));
    assert_eq!(backup.status, 507, "{}", backup.text);

    disk(data, MsFlags::MS_REMOUNT, "16m");
    assert_eq!(http.post("/api/pool", &pool(written)).status, 201);
    drop(server);
    let server = Server::start(folder);
    assert_eq!(
        server.logged_in().count("/api/pool"),
        i64::from(written) + 1
    );
}
