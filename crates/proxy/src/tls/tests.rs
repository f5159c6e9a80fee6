//! TLS over loopback, with real sockets on both sides.

use super::*;
use crate::tests::{Fixture, echo, pool};
use crate::{FrontSpec, HttpSpec, PortSpec, PrivateKey};
use rcgen::{CertifiedKey as Made, generate_simple_self_signed};
use rustls::HandshakeKind;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;

fn certificate(names: &[&str]) -> Arc<CertificateSpec> {
    let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
    let Made { cert, signing_key } = generate_simple_self_signed(names).expect("made");
    Arc::new(CertificateSpec {
        name: "test".into(),
        chain: cert.pem(),
        key: PrivateKey(signing_key.serialize_pem()),
    })
}

fn der(certificate: &CertificateSpec) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(certificate.chain.as_bytes()).expect("PEM")
}

async fn fixture(server: std::net::SocketAddr, tls: TlsSpec, http: Option<HttpSpec>) -> Fixture {
    let mut fixture = Fixture::new(&[server]).await;
    let port = PortSpec {
        http: http.map(Arc::new),
        tls: true,
    };
    let front = FrontSpec {
        ports: [(fixture.addr.port(), port)].into(),
        tls: Some(tls),
        closing: false,
    };
    fixture.apply(|s| s.front = front).await;
    fixture
}

async fn client(fixture: &Fixture, name: &'static str) -> io::Result<TlsStream<TcpStream>> {
    let config = client_config(TlsVersions::default()).expect("made");
    let name = ServerName::try_from(name).expect("a name");
    TlsConnector::from(config)
        .connect(name, fixture.connect().await)
        .await
}

/// Whom a client meets that asks for this name.
async fn met(fixture: &Fixture, name: &'static str) -> CertificateDer<'static> {
    let stream = client(fixture, name).await.expect("TLS");
    let shown = stream.get_ref().1.peer_certificates().expect("some");
    shown[0].clone().into_owned()
}

#[tokio::test]
async fn bytes_are_passed_on_in_the_clear() {
    let tls = TlsSpec {
        certificates: vec![certificate(&["a.example"])],
        ..TlsSpec::default()
    };
    let fixture = fixture(echo().await, tls, None).await;
    let mut client = client(&fixture, "a.example").await.expect("TLS");
    let payload = vec![7; 300_000];
    let mut back = vec![0; payload.len()];
    let (mut read, mut write) = tokio::io::split(&mut client);
    let (sent, got) = tokio::join!(write.write_all(&payload), read.read_exact(&mut back));
    sent.expect("written");
    got.expect("read");
    assert!(back == payload);
    client.shutdown().await.expect("closed");
    let mut rest = Vec::new();
    client
        .read_to_end(&mut rest)
        .await
        .expect("closed in order");
}

/// What a client that would speak this is told to speak.
async fn agreed(fixture: &Fixture, protocol: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut config = (*client_config(TlsVersions::default()).expect("made")).clone();
    config.alpn_protocols = vec![protocol.to_vec()];
    let name = ServerName::try_from("a.example").expect("a name");
    let connector = TlsConnector::from(Arc::new(config));
    let stream = connector.connect(name, fixture.connect().await).await?;
    Ok(stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec))
}

#[tokio::test]
async fn what_is_above_tls_is_said_for_http_alone() {
    let tls = TlsSpec {
        certificates: vec![certificate(&["a.example"])],
        ..TlsSpec::default()
    };
    let bytes = fixture(echo().await, tls.clone(), None).await;
    assert_eq!(agreed(&bytes, b"postgresql").await.expect("TLS"), None);
    let http = fixture(echo().await, tls, Some(HttpSpec::default())).await;
    let said = agreed(&http, HTTP_1_1).await.expect("TLS");
    assert_eq!(said.as_deref(), Some(HTTP_1_1));
    agreed(&http, b"postgresql").await.expect_err("not spoken");
}

#[tokio::test]
async fn the_name_that_a_client_asks_for_chooses_the_certificate() {
    let [a, b, c] = [&["a.example"], &["*.b.example"], &["c.example"]].map(|n| certificate(n));
    let tls = TlsSpec {
        certificates: vec![a.clone(), b.clone(), c.clone()],
        ..TlsSpec::default()
    };
    let fixture = fixture(echo().await, tls, None).await;
    assert_eq!(met(&fixture, "c.example").await, der(&c));
    assert_eq!(met(&fixture, "www.b.example").await, der(&b));
    assert_eq!(met(&fixture, "other.example").await, der(&a));
    assert_eq!(met(&fixture, "127.0.0.1").await, der(&a));
}

#[tokio::test]
async fn a_version_that_is_not_accepted_is_refused() {
    let tls = TlsSpec {
        certificates: vec![certificate(&["a.example"])],
        versions: TlsVersions {
            tls12: true,
            tls13: false,
        },
        ..TlsSpec::default()
    };
    let fixture = fixture(echo().await, tls, None).await;
    let stream = client(&fixture, "a.example").await.expect("TLS");
    let version = stream.get_ref().1.protocol_version();
    assert_eq!(version, Some(rustls::ProtocolVersion::TLSv1_2));
    let config = make(false, true).expect("made");
    let name = ServerName::try_from("a.example").expect("a name");
    let connector = TlsConnector::from(config);
    let refused = connector.connect(name, fixture.connect().await).await;
    refused.expect_err("TLS 1.3 alone");
}

/// How much of TLS a client has to agree on, that remembers what it did before.
async fn handshake(fixture: &Fixture, config: &Arc<ClientConfig>) -> HandshakeKind {
    let name = ServerName::try_from("a.example").expect("a name");
    let connector = TlsConnector::from(config.clone());
    let connected = connector.connect(name, fixture.connect().await).await;
    let kind = connected.expect("TLS").get_ref().1.handshake_kind();
    kind.expect("a handshake")
}

#[tokio::test]
async fn clients_go_on_with_what_they_had_agreed_on_until_the_number_is_another_one() {
    let mut tls = TlsSpec {
        certificates: vec![certificate(&["a.example"])],
        ..TlsSpec::default()
    };
    let mut fixture = fixture(echo().await, tls.clone(), None).await;
    // Of TLS 1.2 a client knows all that it needs when the handshake is over.
    let config = make(true, false).expect("made");
    assert_eq!(handshake(&fixture, &config).await, HandshakeKind::Full);
    assert_eq!(handshake(&fixture, &config).await, HandshakeKind::Resumed);
    tls.rotation = 7;
    fixture.apply(|s| s.front.tls = Some(tls)).await;
    assert_eq!(handshake(&fixture, &config).await, HandshakeKind::Full);
    assert_eq!(handshake(&fixture, &config).await, HandshakeKind::Resumed);
}

#[tokio::test]
async fn without_a_certificate_clients_are_reset() {
    let fixture = fixture(echo().await, TlsSpec::default(), None).await;
    // The reset may arrive before the connect is looked at.
    if let Ok(mut stream) = TcpStream::connect(fixture.addr).await {
        let read = crate::tests::read_all(&mut stream).await;
        read.expect_err("reset");
    }
}

#[test]
fn a_key_of_another_certificate_cannot_be_used_and_is_not_printed() {
    let mut mixed = CertificateSpec::clone(&certificate(&["a.example"]));
    check(&mixed).expect("fits");
    mixed.key = certificate(&["a.example"]).key.clone();
    check(&mixed).expect_err("another one's");
    assert!(!format!("{mixed:?}").contains("PRIVATE KEY"));
    mixed.key = PrivateKey("no key".into());
    let error = check(&mixed).expect_err("none").to_string();
    assert_eq!(error, "test has no PEM key");
}

#[test]
fn a_key_in_use_is_read_once() {
    let spec = certificate(&["a.example"]);
    let first = certified(&spec).expect("fits");
    let again = certified(&CertificateSpec::clone(&spec)).expect("fits");
    assert!(Arc::ptr_eq(&first, &again));
    drop((first, again));
    let renewed = certificate(&["a.example"]);
    certified(&renewed).expect("fits");
    let in_use = IN_USE.lock().expect("whole");
    assert!(in_use.iter().all(|(known, _)| *known != *spec), "forgotten");
}

/// A server with TLS that answers one HTTP request with the name that it was asked for.
async fn secure_server() -> std::net::SocketAddr {
    let tls = TlsSpec {
        certificates: vec![certificate(&["server.example"])],
        ..TlsSpec::default()
    };
    let acceptor = TlsAcceptor::from(server_config(&tls).expect("made"));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let addr = listener.local_addr().expect("addr");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let name = stream.get_ref().1.server_name().unwrap_or("-").to_owned();
            let mut got = Vec::new();
            while !got.ends_with(b"\r\n\r\n")
                && stream.read_buf(&mut got).await.is_ok_and(|n| n > 0)
            {}
            let length = name.len();
            let answer = format!(
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{name}"
            );
            stream.write_all(answer.as_bytes()).await.ok();
            stream.shutdown().await.ok();
        }
    });
    addr
}

/// What is answered over TLS at both ends.
async fn answer(fixture: &Fixture, name: &'static str) -> String {
    let mut client = client(fixture, name).await.expect("TLS");
    let get = "GET / HTTP/1.1\r\nHost: host.example:8443\r\nConnection: close\r\n\r\n";
    client.write_all(get.as_bytes()).await.expect("written");
    let mut all = String::new();
    client.read_to_string(&mut all).await.expect("read");
    all.rsplit("\r\n\r\n").next().expect("a body").to_owned()
}

#[tokio::test]
async fn servers_are_asked_for_the_host_or_for_what_the_pool_says_or_for_nobody() {
    let tls = TlsSpec {
        certificates: vec![certificate(&["a.example"])],
        ..TlsSpec::default()
    };
    let http = Some(HttpSpec::default());
    let mut fixture = fixture(secure_server().await, tls, http).await;
    let mut wanted = ServerTlsSpec {
        sni: true,
        ..ServerTlsSpec::default()
    };
    for (name, asked) in [(None, "host.example"), (Some("p.example"), "p.example")] {
        wanted.name = name.map(str::to_owned);
        let tls = Some(wanted.clone());
        fixture.apply(|s| pool(s).back.tls = tls).await;
        assert_eq!(answer(&fixture, "a.example").await, asked);
    }
    wanted.sni = false;
    fixture.apply(|s| pool(s).back.tls = Some(wanted)).await;
    assert_eq!(answer(&fixture, "a.example").await, "-");
}

#[tokio::test]
async fn below_http_servers_are_asked_for_whom_the_client_has_asked_for() {
    let tls = TlsSpec {
        certificates: vec![certificate(&["a.example"])],
        ..TlsSpec::default()
    };
    let mut fixture = fixture(secure_server().await, tls, None).await;
    let sni = true;
    let wanted = ServerTlsSpec {
        sni,
        ..ServerTlsSpec::default()
    };
    fixture.apply(|s| pool(s).back.tls = Some(wanted)).await;
    assert_eq!(answer(&fixture, "a.example").await, "a.example");
    // Also from a client that does not use TLS itself.
    fixture.apply(|s| s.front.ports.clear()).await;
    let mut plain = fixture.connect().await;
    plain
        .write_all(b"GET / HTTP/1.1\r\n\r\n")
        .await
        .expect("written");
    let mut all = String::new();
    plain.read_to_string(&mut all).await.expect("read");
    assert!(all.ends_with("\r\n\r\n-"), "{all}");
}

#[tokio::test]
async fn a_server_that_does_not_speak_tls_is_a_fault() {
    let tls = TlsSpec {
        certificates: vec![certificate(&["a.example"])],
        ..TlsSpec::default()
    };
    let mut fixture = fixture(crate::tests::echo().await, tls, Some(HttpSpec::default())).await;
    let wanted = Some(ServerTlsSpec::default());
    fixture.apply(|s| pool(s).back.tls = wanted).await;
    assert_eq!(answer(&fixture, "a.example").await, "502 Bad Gateway\n");
}

/// Many do: what has come is for the client to judge.
#[tokio::test]
async fn a_server_that_closes_without_a_word_ends_the_connection_and_resets_it_not() {
    let tls = TlsSpec {
        certificates: vec![certificate(&["server.example"])],
        ..TlsSpec::default()
    };
    let acceptor = TlsAcceptor::from(server_config(&tls).expect("made"));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let mut fixture = fixture(listener.local_addr().expect("addr"), tls, None).await;
    let wanted = Some(ServerTlsSpec::default());
    fixture.apply(|s| pool(s).back.tls = wanted).await;
    let mut client = client(&fixture, "server.example").await.expect("TLS");
    let (tcp, _) = listener.accept().await.expect("accepted");
    let mut server = acceptor.accept(tcp).await.expect("TLS");
    server.write_all(b"all").await.expect("written");
    server.flush().await.expect("gone");
    drop(server);
    let mut all = Vec::new();
    client.read_to_end(&mut all).await.expect("the end");
    assert_eq!(all, b"all");
}
