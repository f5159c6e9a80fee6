//! What HAProxy makes of the header: it answers with what it was told.

use crate::proxy_header::ProxyHeader;
use crate::tests::{DEADLINE, Fixture, free_address, pool};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Ends with the test.
struct Haproxy {
    child: Child,
    config: PathBuf,
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("waited for");
        std::fs::remove_file(&self.config).expect("removed");
    }
}

/// One that wants the header; `None`: there is none on this machine.
#[allow(clippy::print_stderr, clippy::disallowed_macros)] // it says that it is not run
async fn haproxy(addr: SocketAddr) -> Option<Haproxy> {
    let name = format!("evenkeel-haproxy-{}.cfg", std::process::id());
    let config = std::env::temp_dir().join(name);
    let text = format!(
        "defaults\n mode http\n timeout client 20s\n timeout connect 20s\n timeout server 20s\n\
         frontend told\n bind {addr} accept-proxy\n \
         http-request return status 200 content-type text/plain lf-string \"%[src] %[src_port] %[dst] %[dst_port]\"\n"
    );
    std::fs::write(&config, text).expect("written");
    let mut command = Command::new("/usr/sbin/haproxy");
    command.arg("-f").arg(&config).stderr(Stdio::null());
    let Ok(child) = command.spawn() else {
        assert!(std::env::var_os("CI").is_none(), "CI must run HAProxy");
        eprintln!("SKIPPED: needs HAProxy (Debian: haproxy)");
        std::fs::remove_file(&config).expect("removed");
        return None;
    };
    let haproxy = Haproxy { child, config };
    let started = Instant::now();
    while TcpStream::connect(addr).await.is_err() {
        assert!(started.elapsed() < DEADLINE, "HAProxy does not listen");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    Some(haproxy)
}

/// The answer to a request, and who has asked.
async fn asked(fixture: &Fixture) -> (SocketAddr, String) {
    let mut client = fixture.connect().await;
    let request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    client.write_all(request).await.expect("sent");
    let mut answer = String::new();
    let read = tokio::time::timeout(DEADLINE, client.read_to_string(&mut answer));
    read.await.expect("in time").expect("read");
    (client.local_addr().expect("an address"), answer)
}

#[tokio::test]
async fn haproxy_knows_client_and_vip_by_either_version() {
    let addr = free_address();
    let Some(_haproxy) = haproxy(addr).await else {
        return;
    };
    let mut fixture = Fixture::new(&[addr]).await;
    fixture.apply(|s| pool(s).inline_health = false).await;
    for version in [ProxyHeader::V1, ProxyHeader::V2] {
        fixture.apply(|s| s.proxy_header = Some(version)).await;
        let (client, answer) = asked(&fixture).await;
        let (from, to) = (client.ip(), fixture.addr.ip());
        let told = format!("{from} {} {to} {}", client.port(), fixture.addr.port());
        assert!(answer.ends_with(&told), "{version:?}: {answer}");
    }
}
