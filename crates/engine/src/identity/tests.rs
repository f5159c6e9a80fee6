use super::*;
use proto::v1::engine_control_server::{EngineControl, EngineControlServer};
use proto::v1::{ControllerMessage, EngineMessage, JoinReply};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

/// What a controller does with a request: a certificate that is good for so long, and began an hour ago.
fn sign(csr_pem: &str, hours: i64) -> String {
    let mut csr = rcgen::CertificateSigningRequestParams::from_pem(csr_pem).unwrap();
    let now = SystemTime::now();
    csr.params.not_before = (now - Duration::from_secs(3600)).into();
    let life = Duration::from_secs(3600 * hours.unsigned_abs());
    csr.params.not_after = match hours {
        0.. => (now + life).into(),
        _ => (now - life).into(),
    };
    let ca_key = KeyPair::generate().unwrap();
    let issuer = rcgen::Issuer::new(CertificateParams::default(), ca_key);
    csr.signed_by(&issuer).unwrap().pem()
}

fn joined(hours: i64) -> Identity {
    let key = KeyPair::generate().unwrap();
    Identity {
        se_uuid: "serviceengine-1".into(),
        certificate_pem: sign(&request(&key).unwrap(), hours),
        key_pem: key.serialize_pem(),
        ca_pem: "ca".into(),
        next_key_pem: None,
    }
}

fn loaded(folder: &Path) -> Identity {
    Identity::load(folder).unwrap().unwrap()
}

#[test]
fn a_renewal_brings_a_new_key_and_replaces_key_and_certificate_in_one_step() {
    let folder = tempfile::tempdir().unwrap();
    let mut identity = joined(168);
    identity.save(folder.path()).unwrap();
    let before = identity.clone();
    let csr = identity.renewal().unwrap();
    assert_eq!(
        loaded(folder.path()).key_pem,
        before.key_pem,
        "not before it is signed"
    );
    // Asked again because no answer came: the late answer to the first question fits, too.
    let again = identity.renewal().unwrap();
    assert_eq!(identity.key_pem, before.key_pem);
    let certificate = sign(&csr, 168);
    identity
        .renewed(certificate.clone(), folder.path())
        .unwrap();
    assert_ne!(identity.key_pem, before.key_pem);
    for now in [identity.clone(), loaded(folder.path())] {
        check(&now.certificate_pem, &now.key_pem).unwrap();
        assert_eq!(now.certificate_pem, certificate);
    }
    let late = identity
        .renewed(sign(&again, 168), folder.path())
        .unwrap_err();
    assert!(late.to_string().contains("not asked for"), "{late}");
    let names = std::fs::read_dir(folder.path()).unwrap();
    let mut names: Vec<_> = names.map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["ca.pem", "identity.pem", "se-uuid"]);
    let mode = std::fs::metadata(folder.path().join(PAIR))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_certificate_for_another_key_is_refused_and_what_is_there_stays() {
    let folder = tempfile::tempdir().unwrap();
    let mut identity = joined(168);
    identity.save(folder.path()).unwrap();
    identity.renewal().unwrap();
    let other = request(&KeyPair::generate().unwrap()).unwrap();
    for wrong in [sign(&other, 168), "no certificate".into()] {
        assert!(identity.renewed(wrong, folder.path()).is_err());
    }
    let kept = loaded(folder.path());
    check(&kept.certificate_pem, &kept.key_pem).unwrap();
}

#[test]
fn a_certificate_by_a_wrong_clock_is_refused_and_the_one_that_is_there_stays() {
    let folder = tempfile::tempdir().unwrap();
    let mut identity = joined(168);
    identity.save(folder.path()).unwrap();
    let csr = identity.renewal().unwrap();
    // A controller whose clock is days behind.
    let refused = identity.renewed(sign(&csr, -2), folder.path());
    let text = refused.unwrap_err().to_string();
    assert!(text.contains("not valid now"), "{text}");
    assert_eq!(
        loaded(folder.path()).certificate_pem,
        identity.certificate_pem
    );
    // Or ahead: what begins an hour ago is not valid two hours ago.
    let hours = |n: u64| Duration::from_secs(3600 * n);
    assert!(!identity.is_valid(SystemTime::now() - hours(2)));
    assert!(identity.is_valid(SystemTime::now()));
    // The next answer, by a right clock, is taken.
    identity.renewed(sign(&csr, 168), folder.path()).unwrap();
}

#[test]
fn the_files_of_an_older_engine_are_read_and_go_with_its_first_renewal() {
    let folder = tempfile::tempdir().unwrap();
    let old = joined(168);
    for (name, text) in [
        ("key.pem", &old.key_pem),
        ("cert.pem", &old.certificate_pem),
        ("ca.pem", &old.ca_pem),
        ("se-uuid", &old.se_uuid),
    ] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let mut identity = loaded(folder.path());
    assert_eq!(identity.key_pem, old.key_pem);
    let csr = identity.renewal().unwrap();
    identity.renewed(sign(&csr, 168), folder.path()).unwrap();
    assert!(!folder.path().join("key.pem").exists() && !folder.path().join("cert.pem").exists());
    assert_eq!(loaded(folder.path()).key_pem, identity.key_pem);
}

#[test]
fn a_certificate_is_renewed_when_half_of_its_life_is_over_and_expires_at_its_end() {
    let identity = joined(167);
    let now = SystemTime::now();
    let due = identity.renewal_in(now).as_secs();
    assert!(
        (82 * 3600..=83 * 3600).contains(&due),
        "{due}: 168 h, of which one is over"
    );
    let later = |hours: u64| now + Duration::from_secs(3600 * hours);
    assert_eq!(identity.renewal_in(later(84)), Duration::ZERO);
    assert!(!identity.expired(later(166)) && identity.expired(later(168)));
}

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    args: crate::Args,
}

fn settings(folder: &Path, controller: SocketAddr) -> Settings {
    let path = |name: &str| folder.join(name).display().to_string();
    let (state, token, controller) = (path("."), path("token"), controller.to_string());
    let words = [
        "engine",
        "--controllers",
        &controller,
        "--name",
        "se-1",
        "--state-dir",
        &state,
        "--join-token-file",
        &token,
    ];
    let line = <Line as clap::Parser>::parse_from(words);
    line.args.settle().unwrap()
}

/// A controller that lets in whoever has this token.
struct Host {
    token: JoinToken,
}

#[tonic::async_trait]
impl EngineControl for Host {
    type SessionStream = ReceiverStream<Result<ControllerMessage, Status>>;

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        let request = request.into_inner();
        if request.token_id != self.token.id {
            return Err(Status::permission_denied("not this one"));
        }
        Ok(Response::new(JoinReply {
            se_uuid: "serviceengine-1".into(),
            certificate_pem: sign(&request.csr_pem, 24),
            ca_pem: self.token.ca_pem.clone(),
        }))
    }

    async fn session(
        &self,
        _: Request<Streaming<EngineMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        Err(Status::unimplemented("no sessions here"))
    }
}

fn token(id: &str, ca_pem: &str) -> JoinToken {
    JoinToken {
        id: id.into(),
        secret: "s".into(),
        ca_pem: ca_pem.into(),
    }
}

/// A CA, in PEM, and a controller of it on loopback.
async fn controller() -> (String, SocketAddr) {
    let [ca_key, key] = [(); 2].map(|()| KeyPair::generate().unwrap());
    let mut params = CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_pem = params.self_signed(&ca_key).unwrap().pem();
    let ca = rcgen::Issuer::new(params, ca_key);
    let server = CertificateParams::new(vec![SERVER_NAME.to_owned()]).unwrap();
    let certificate = server.signed_by(&key, &ca).unwrap();
    let tls = TlsIdentity::from_pem(certificate.pem(), key.serialize_pem());
    let host = Host {
        token: token("good", &ca_pem),
    };
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = incoming.local_addr().unwrap();
    let server = Server::builder()
        .tls_config(ServerTlsConfig::new().identity(tls))
        .unwrap()
        .add_service(EngineControlServer::new(host));
    tokio::spawn(server.serve_with_incoming(incoming));
    (ca_pem, address)
}

#[tokio::test]
async fn an_engine_whose_certificate_has_expired_serves_on_and_joins_again_with_another_token() {
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok();
    let folder = tempfile::tempdir().unwrap();
    let (ca_pem, address) = controller().await;
    let settings = settings(folder.path(), address);
    joined(-24).save(folder.path()).unwrap();
    let Credentials::Joined(identity) = Credentials::load(&settings).unwrap() else {
        panic!("it serves what it has");
    };
    assert!(identity.expired(SystemTime::now()));
    let put = |token: &JoinToken| std::fs::write(folder.path().join("token"), token.encode());
    let join = || async { join(&settings, &settings.join_token().unwrap(), Vec::new()).await };
    // Of a controller that is not there any more: it does not wait for that one for ever.
    let gone = KeyPair::generate().unwrap();
    let gone = CertificateParams::default().self_signed(&gone).unwrap();
    put(&token("old", &gone.pem())).unwrap();
    assert!(matches!(join().await, Err(JoinError::Unreachable(_))));
    put(&token("used", &ca_pem)).unwrap();
    assert!(matches!(join().await, Err(JoinError::Refused(_))));
    put(&token("good", &ca_pem)).unwrap();
    assert!(!join().await.unwrap().expired(SystemTime::now()));
    assert!(!loaded(folder.path()).expired(SystemTime::now()));
}
