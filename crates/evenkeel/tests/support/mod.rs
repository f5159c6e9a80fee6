//! A controller of the binary that was built, as a process of its own, for tests that stop, kill or listen to it.
#![allow(dead_code)] // each test binary uses a part of it
#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The admin's.
pub const PASSWORD: &str = "for this test only";
/// What takes longer does not come.
const DEADLINE: Duration = Duration::from_secs(60);

/// A controller that listens; killed when dropped.
pub struct Controller {
    pub child: Child,
    pub api: SocketAddr,
}

impl Controller {
    /// On this data folder and port, with this admin's password at its first start; `edit` has the command before it runs.
    pub fn start(
        data: &Path,
        api: SocketAddr,
        password: &str,
        edit: impl FnOnce(&mut Command),
    ) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
        command
            .arg("controller")
            .arg("--data-dir")
            .arg(data)
            .args(["--listen-api", &api.to_string()])
            .args(["--listen-engines", "127.0.0.1:0"])
            .env("EVENKEEL_ADMIN_PASSWORD", password)
            .stderr(Stdio::null());
        edit(&mut command);
        let child = command.spawn().unwrap();
        let mut controller = Self { child, api };
        wait_for("the controller listens", || {
            let ended = controller.child.try_wait().unwrap();
            assert!(ended.is_none(), "the controller ended: {ended:?}");
            TcpStream::connect(api).is_ok()
        });
        controller
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        // It may have ended already.
        self.child.kill().ok();
        self.child.wait().unwrap();
    }
}

/// Runs the binary as the admin with [`PASSWORD`], without settings of whoever runs the tests.
pub fn evenkeel(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_evenkeel"))
        .args(arguments)
        .env_clear()
        .env("HOME", "/nonexistent")
        .env("EVENKEEL_PASSWORD", PASSWORD)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// What a program has printed.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Path below the top folder, and text, of each file in a support bundle.
pub fn unpack(bundle: &Path) -> Vec<(String, String)> {
    let file = std::fs::File::open(bundle).unwrap();
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        let path = entry.path().unwrap().to_str().unwrap().to_owned();
        let (top, below) = path.split_once('/').unwrap();
        assert!(top.starts_with("evenkeel-support-"), "{top}");
        (below.to_owned(), String::from_utf8(bytes).unwrap())
    });
    entries.collect()
}

/// On loopback, and not in use now; the IP address is this process's own, so that no other takes the port meanwhile.
pub fn free_address() -> SocketAddr {
    let [_, a, b, c] = std::process::id().to_be_bytes();
    let own = Ipv4Addr::new(127, a + 1, b, c);
    let listener = TcpListener::bind((own, 0)).unwrap();
    listener.local_addr().unwrap()
}

/// Waits until it is so.
#[expect(
    clippy::disallowed_methods,
    reason = "the pause inside a wait that has a deadline"
)]
pub fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not in time");
        std::thread::sleep(Duration::from_millis(1));
    }
}
