//! What is refused before anybody is asked who he is: old TLS, too much at once; and whose certificate is shown.

use crate::http::{PASSWORD, Server, wait_until};
use client::{Client, ClientConfig, Password, Trust};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::json;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use tempfile::tempdir;

/// Record types and messages of TLS (RFC 8446 section 5.1, RFC 5246 section 7.4).
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const SERVER_HELLO: u8 = 2;
/// Alert `protocol_version`, which is fatal.
const PROTOCOL_VERSION: [u8; 2] = [2, 70];

/// A list with its length in front, of so many bytes.
fn with_len(bytes_of_len: usize, content: &[u8]) -> Vec<u8> {
    let len = content.len().to_be_bytes();
    [&len[len.len() - bytes_of_len..], content].concat()
}

/// A ClientHello that offers this version at most, as clients of its time sent it: no supported_versions.
fn hello(version: [u8; 2]) -> Vec<u8> {
    // ECDHE with ECDSA or RSA, AES-GCM for 1.2 and AES-CBC for what is older.
    let suites = [0xC0, 0x2B, 0xC0, 0x2F, 0xC0, 0x09, 0xC0, 0x13, 0x00, 0xFF];
    let groups = [0, 10, 0, 6, 0, 4, 0, 29, 0, 23];
    let formats = [0, 11, 0, 2, 1, 0];
    let signatures = [0, 13, 0, 6, 0, 4, 4, 3, 8, 4];
    let extensions = [&groups[..], &formats, &signatures].concat();
    let body = [
        &version[..],
        &[7; 32],
        &with_len(1, &[]),
        &with_len(2, &suites),
        &with_len(1, &[0]),
        &with_len(2, &extensions),
    ]
    .concat();
    let message = [&[1][..], &with_len(3, &body)].concat();
    [&[HANDSHAKE, 3, 1][..], &with_len(2, &message)].concat()
}

/// The first seven bytes of the answer: type, version, length of the record, and two bytes of what is in it.
fn answer(address: SocketAddr, hello: &[u8]) -> [u8; 7] {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    stream.write_all(hello).unwrap();
    let mut answer = [0; 7];
    stream.read_exact(&mut answer).unwrap();
    answer
}

#[test]
fn tls_older_than_1_2_is_refused_by_both_listeners() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    for address in [server.address, server.engines] {
        for old in [[3, 0], [3, 1], [3, 2]] {
            let said = answer(address, &hello(old));
            assert_eq!(
                (said[0], &said[5..]),
                (ALERT, &PROTOCOL_VERSION[..]),
                "{old:?}: {said:?}"
            );
        }
        // The same words with 1.2 are understood.
        let said = answer(address, &hello([3, 3]));
        assert_eq!((said[0], said[5]), (HANDSHAKE, SERVER_HELLO), "{said:?}");
    }
}

#[test]
fn the_operators_own_certificate_is_shown_and_believed_by_who_has_its_ca() {
    let folder = tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(vec!["our own CA".into()]).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    std::fs::write(file("ca.pem"), ca.self_signed(&ca_key).unwrap().pem()).unwrap();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let names = vec!["127.0.0.1".into()];
    let certificate = rcgen::CertificateParams::new(names)
        .unwrap()
        .signed_by(&key, &issuer);
    std::fs::write(file("cert.pem"), certificate.unwrap().pem()).unwrap();
    std::fs::write(file("key.pem"), key.serialize_pem()).unwrap();
    let server = Server::start_with(folder.path(), |args| {
        args.api_cert = Some(file("cert.pem"));
        args.api_key = Some(file("key.pem"));
    });
    let connect = |trust: Trust| {
        let mut config = ClientConfig::new(server.address.to_string(), Password::new(PASSWORD));
        config.trust = trust;
        Client::connect(config)
    };
    let client = connect(Trust::CaFile(file("ca.pem"))).unwrap();
    assert_eq!(client.list("pool").unwrap().len(), 0);
    assert!(
        connect(Trust::CaFile(file("cert.pem"))).is_err(),
        "by nobody else"
    );
}

#[test]
fn a_key_that_is_not_the_certificates_is_refused_at_start_with_both_named() {
    let folder = tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    for name in ["one", "two"] {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        std::fs::write(file(&format!("{name}.pem")), made.cert.pem()).unwrap();
        std::fs::write(
            file(&format!("{name}.key")),
            made.signing_key.serialize_pem(),
        )
        .unwrap();
    }
    let args = evenkeel_controller::Args {
        data_dir: Some(file("data")),
        listen_api: Some("127.0.0.1:0".parse().unwrap()),
        listen_engines: Some("127.0.0.1:0".parse().unwrap()),
        api_cert: Some(file("one.pem")),
        api_key: Some(file("two.key")),
        ..evenkeel_controller::Args::default()
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let started = runtime.block_on(evenkeel_controller::Controller::start(args));
    let error = format!("{:#}", started.err().unwrap());
    assert!(error.contains("certificate and key do not fit"), "{error}");
}

#[test]
fn who_calls_without_pause_and_without_a_session_is_braked_and_a_session_goes_on() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    // More at once than a slow machine lets one ask.
    let flood = || {
        let stranger = server.http();
        (0..2000).any(|_| stranger.get("/healthz").status == 429)
    };
    let braked = std::thread::scope(|scope| {
        let all: Vec<_> = (0..4).map(|_| scope.spawn(flood)).collect();
        all.into_iter().all(|one| one.join().unwrap())
    });
    assert!(braked);
    assert_eq!(http.get("/api/pool").status, 200);
    let spent = || server.http().get("/api/pool").status == 429;
    let stranger = server.http();
    wait_until("what is refused counts, too", || {
        (0..300).for_each(|_| drop(stranger.get("/api/pool")));
        spent()
    });
    // And it passes.
    wait_until("a login", || server.http().log_in(PASSWORD).status == 200);
}

/// Whether the other side keeps the connection open although nothing is said.
fn is_open(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let heard = stream.peek(&mut [0]);
    heard.is_err_and(|e| e.kind() == ErrorKind::WouldBlock)
}

#[test]
fn both_listeners_close_what_is_one_connection_too_many_from_an_address() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    for (address, from_one) in [(server.address, 384), (server.engines, 512)] {
        let connect = |_| TcpStream::connect(address).unwrap();
        let all: Vec<TcpStream> = (0..=from_one).map(connect).collect();
        // Which of them depends on who was counted first.
        wait_until("one too many is closed", || {
            all.iter().filter(|stream| !is_open(stream)).count() == 1
        });
    }
}

#[test]
fn a_page_has_two_hundred_results_at_most() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let writes: Vec<_> = (0..201)
        .map(|n| json!({"type": "tenant", "object": {"name": format!("t{n}")}}))
        .collect();
    http.post("/api/ek/change", &json!({"writes": writes}))
        .good();
    let page = http.get("/api/tenant?page_size=100000").good();
    assert_eq!(page["count"], 202);
    assert_eq!(page["results"].as_array().unwrap().len(), 200);
    assert!(
        page["next"].as_str().unwrap().contains("page=2"),
        "{}",
        page["next"]
    );
}
