//! What engines prove who they are with: join tokens, certificates, their renewal and their end (docs/adr/0003). The engine here is
//! made of calls alone.

use crate::http::{Http, Server, wait_until};
use proto::join_token::JoinToken;
use proto::v1::engine_control_client::EngineControlClient;
use proto::v1::{
    ControllerMessage, EngineMessage, Hello, JoinRequest, RenewRequest, controller_message,
    engine_message,
};
use rcgen::{CertificateParams, DnType, Issuer, KeyPair, PublicKeyData as _};
use serde_json::{Value, json};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};
use tempfile::tempdir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Status, Streaming};

const SERVER_NAME: &str = "controller.evenkeel.internal";

/// What an engine has after it has joined.
#[derive(Clone)]
struct Engine {
    uuid: String,
    key_pem: String,
    certificate_pem: String,
    ca_pem: String,
}

fn run<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(future)
}

fn token(http: &Http, body: Value) -> JoinToken {
    let made = http.post("/api/ek/jointoken", &body).good();
    JoinToken::decode(made["token"].as_str().unwrap()).unwrap()
}

/// A new key, and a request for its certificate.
fn request() -> (KeyPair, String) {
    let key = KeyPair::generate().unwrap();
    let csr = CertificateParams::default().serialize_request(&key);
    let pem = csr.unwrap().pem().unwrap();
    (key, pem)
}

async fn dial(
    server: &Server,
    ca_pem: &str,
    identity: Option<Identity>,
) -> Result<Channel, tonic::transport::Error> {
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(ca_pem))
        .domain_name(SERVER_NAME);
    let tls = match identity {
        Some(identity) => tls.identity(identity),
        None => tls,
    };
    let endpoint = Endpoint::from_shared(format!("https://{}", server.engines)).unwrap();
    endpoint.tls_config(tls).unwrap().connect().await
}

async fn join(server: &Server, token: &JoinToken, name: &str) -> Result<Engine, Status> {
    let (key, csr_pem) = request();
    let request = JoinRequest {
        token_id: token.id.clone(),
        token_secret: token.secret.clone(),
        csr_pem,
        name: name.into(),
        ..JoinRequest::default()
    };
    let channel = dial(server, &token.ca_pem, None).await.unwrap();
    let reply = EngineControlClient::new(channel).join(request).await?;
    let reply = reply.into_inner();
    Ok(Engine {
        uuid: reply.se_uuid,
        key_pem: key.serialize_pem(),
        certificate_pem: reply.certificate_pem,
        ca_pem: reply.ca_pem,
    })
}

/// A session's two ends.
type Stream = (mpsc::Sender<EngineMessage>, Streaming<ControllerMessage>);

async fn open(server: &Server, engine: &Engine) -> Result<Stream, Status> {
    let identity = Identity::from_pem(&engine.certificate_pem, &engine.key_pem);
    let channel = dial(server, &engine.ca_pem, Some(identity)).await;
    let channel = channel.map_err(|e| Status::unavailable(format!("{e:?}")))?;
    let (outbox, queue) = mpsc::channel(4);
    let hello = Hello {
        protocol_version: proto::PROTOCOL_VERSION,
        ..Hello::default()
    };
    send(&outbox, engine_message::Body::Hello(hello)).await;
    let mut client = EngineControlClient::new(channel);
    let stream = client.session(ReceiverStream::new(queue)).await?;
    Ok((outbox, stream.into_inner()))
}

async fn send(outbox: &mpsc::Sender<EngineMessage>, body: engine_message::Body) {
    let message = EngineMessage { body: Some(body) };
    outbox.send(message).await.unwrap();
}

/// Seconds from now to the certificate's end, and its public key.
fn read(certificate_pem: &str) -> (i64, Vec<u8>) {
    let (_, pem) = x509_parser::pem::parse_x509_pem(certificate_pem.as_bytes()).unwrap();
    let certificate = pem.parse_x509().unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let left = certificate.validity().not_after.timestamp() - now.as_secs() as i64;
    (left, certificate.public_key().raw.to_vec())
}

fn engine_path(engine: &Engine) -> String {
    format!("/api/serviceengine/{}", engine.uuid)
}

fn is_connected(http: &Http, engine: &Engine) -> bool {
    let runtime = http.get(&format!("{}/runtime", engine_path(engine)));
    runtime.good().to_string().contains("\"OPER_UP\"")
}

#[test]
fn a_join_token_is_good_once_also_when_two_use_it_at_the_same_time() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let token = token(&http, json!({}));
    run(async {
        let (one, two) = tokio::join!(join(&server, &token, "se-1"), join(&server, &token, "se-2"));
        assert_eq!(
            [&one, &two].iter().filter(|r| r.is_ok()).count(),
            1,
            "{:?} {:?}",
            one.err(),
            two.err()
        );
        let third = join(&server, &token, "se-3").await.err().unwrap();
        assert_eq!(third.code(), Code::PermissionDenied);
        assert!(third.message().contains("unknown or used up"), "{third}");
    });
    assert_eq!(http.count("/api/serviceengine"), 1);
}

#[test]
fn a_join_token_expires_is_for_one_name_and_is_not_used_up_by_a_wrong_secret() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let named = token(&http, json!({"name": "se-1"}));
    let refused = |token: &JoinToken, name: &str| {
        let status = run(join(&server, token, name)).err().unwrap();
        assert_eq!(status.code(), Code::PermissionDenied);
        status.message().to_owned()
    };
    assert!(refused(&named, "se-2").contains("is for engine se-1"));
    let guessed = JoinToken {
        secret: "guessed".into(),
        ..named.clone()
    };
    assert!(refused(&guessed, "se-1").contains("secret is wrong"));
    assert!(run(join(&server, &named, "se-1")).is_ok());

    let short = http.post("/api/ek/jointoken", &json!({"ttl_s": 1})).good();
    let expires = short["expires"].as_u64().unwrap();
    let is_over = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs()
            > expires
    };
    wait_until("the token's end", is_over);
    let token = JoinToken::decode(short["token"].as_str().unwrap()).unwrap();
    assert!(refused(&token, "se-9").contains("has expired"));
    assert_eq!(http.count("/api/serviceengine"), 1);
}

#[test]
fn a_certificate_lives_as_long_as_the_setting_says_and_is_renewed_for_a_new_key_over_the_stream() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let engine = run(join(&server, &token(&http, json!({})), "se-1")).unwrap();
    let hours = |certificate: &str| (read(certificate).0 + 1800) / 3600;
    assert_eq!(hours(&engine.certificate_pem), 168);
    let set = json!({"replace": {"se_certificate_lifetime": 24}});
    http.patch("/api/controllerproperties", &set).good();
    run(async {
        let (outbox, mut inbox) = open(&server, &engine).await.unwrap();
        let (key, csr_pem) = request();
        send(
            &outbox,
            engine_message::Body::Renew(RenewRequest { csr_pem }),
        )
        .await;
        let certificate_pem = loop {
            let message = inbox.message().await.unwrap().expect("the session goes on");
            if let Some(controller_message::Body::Certificate(new)) = message.body {
                break new.certificate_pem;
            }
        };
        assert_eq!(hours(&certificate_pem), 24);
        assert_eq!(read(&certificate_pem).1, key.subject_public_key_info());
        let renewed = Engine {
            key_pem: key.serialize_pem(),
            certificate_pem,
            ..engine.clone()
        };
        open(&server, &renewed).await.expect("the next session");
    });
    let wrong = json!({"replace": {"se_certificate_lifetime": 0}});
    let text = http.patch("/api/controllerproperties", &wrong).refused(400);
    assert!(
        text.starts_with("se_certificate_lifetime: 0 is out of range; use 1 to 8760 hours"),
        "{text}"
    );
}

#[test]
fn the_certificate_of_a_deleted_engine_is_revoked_at_once_and_others_go_on() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let one = run(join(&server, &token(&http, json!({})), "se-1")).unwrap();
    let two = run(join(&server, &token(&http, json!({})), "se-2")).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (_outbox, mut inbox) = runtime.block_on(open(&server, &one)).unwrap();
    let other = runtime.block_on(open(&server, &two)).unwrap();
    wait_until("both sessions", || {
        is_connected(&http, &one) && is_connected(&http, &two)
    });
    assert_eq!(http.delete(&engine_path(&one)).status, 204);
    let ended = runtime.block_on(async {
        loop {
            match inbox.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended without a word"),
                Err(status) => break status,
            }
        }
    });
    assert_eq!(ended.code(), Code::PermissionDenied);
    assert!(
        ended
            .message()
            .contains("its certificate is revoked; join again"),
        "{ended}"
    );
    let again = runtime.block_on(open(&server, &one)).err().unwrap();
    assert_eq!(
        (again.code(), again.message()),
        (ended.code(), ended.message())
    );
    assert!(is_connected(&http, &two));
    // The same name joins as another engine.
    let new = run(join(&server, &token(&http, json!({})), "se-1")).unwrap();
    assert_ne!(new.uuid, one.uuid);
    assert!(runtime.block_on(open(&server, &one)).is_err());
    drop(other);
}

/// The cluster's CA, as whoever has its data folder.
fn cluster_ca(data: &Path) -> Issuer<'static, KeyPair> {
    let file = |name: &str| std::fs::read_to_string(data.join(name)).unwrap();
    let key = KeyPair::from_pem(&file("ca-key.pem")).unwrap();
    Issuer::from_ca_cert_pem(&file("ca-cert.pem"), key).unwrap()
}

/// A certificate for this engine that began two days ago and ends in so many hours.
fn signed(issuer: &Issuer<'_, KeyPair>, engine: &Engine, hours: i64) -> Engine {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![engine.uuid.clone()]).unwrap();
    params
        .distinguished_name
        .push(DnType::CommonName, engine.uuid.as_str());
    let now = time::OffsetDateTime::now_utc();
    params.not_before = now - time::Duration::hours(48);
    params.not_after = now + time::Duration::hours(hours);
    Engine {
        certificate_pem: params.signed_by(&key, issuer).unwrap().pem(),
        key_pem: key.serialize_pem(),
        ..engine.clone()
    }
}

#[test]
fn an_expired_certificate_and_one_of_another_ca_open_no_session_nor_does_none() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let engine = run(join(&server, &token(&http, json!({})), "se-1")).unwrap();
    // Which word reaches the client depends on who closes first; that it is the time which is refused, on the last one.
    let opens = |engine: &Engine| run(open(&server, engine)).is_ok();
    let ca = cluster_ca(&folder.path().join("data"));
    assert!(!opens(&signed(&ca, &engine, -1)));
    assert!(opens(&signed(&ca, &engine, 1)));
    let mut params = CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let stranger = Issuer::new(params, KeyPair::generate().unwrap());
    assert!(!opens(&signed(&stranger, &engine, 48)));
    let without = run(async {
        let channel = dial(&server, &engine.ca_pem, None).await.unwrap();
        let (_outbox, queue) = mpsc::channel::<EngineMessage>(1);
        let mut client = EngineControlClient::new(channel);
        client
            .session(ReceiverStream::new(queue))
            .await
            .err()
            .unwrap()
    });
    assert_eq!(without.code(), Code::Unauthenticated);
    assert!(opens(&engine));
}
