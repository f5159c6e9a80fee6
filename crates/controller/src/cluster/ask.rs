//! Calls of one controller to another, which it knows by the fingerprint of its certificate.

use super::Card;
use crate::api::tls;
use axum::body::{Body, Bytes};
use axum::http::{HeaderName, HeaderValue, Request, Response, request};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// For whom a controller asks another one.
pub const FOR: HeaderName = HeaderName::from_static("x-evenkeel-for");
/// Shows that it may say so.
pub const PASS: HeaderName = HeaderName::from_static("x-evenkeel-pass");

/// An answer of a controller that does not lead and could not pass the call on: certainly nothing was done.
pub const NOT_DONE: HeaderName = HeaderName::from_static("x-evenkeel-not-done");

/// Headers of a connection and not of a call (RFC 9110, section 7.6.1), and those that the next connection has of its own.
const HOP_BY_HOP: [&str; 10] = [
    "connection",
    "content-length",
    "expect",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// How long another controller may take to take a call.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long it may take until its answer begins.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(90);

/// Why there is no answer.
pub enum Failed {
    /// It was not asked.
    NotAsked(io::Error),
    /// It was asked, and may have done it.
    Unknown(io::Error),
}

/// Asks another controller, on a connection of its own: one that was kept could be closed at the moment of asking, and
/// then nobody knew whether it was asked.
pub async fn ask(
    whom: &Card,
    head: &request::Parts,
    body: Bytes,
    on_behalf_of: IpAddr,
) -> Result<Response<Body>, Failed> {
    let connecting = timeout(CONNECT_TIMEOUT, connect(whom));
    let stream = connecting.await.unwrap_or_else(|_| Err(late()));
    let stream = TokioIo::new(stream.map_err(Failed::NotAsked)?);
    let other = |error: hyper::Error| io::Error::other(error);
    let opened = http1::handshake(stream).await;
    let (mut sender, connection) = opened.map_err(|e| Failed::NotAsked(other(e)))?;
    // It ends with its answer, or with whoever waits for that.
    tokio::spawn(connection);
    let request = request_of(whom, head, body, on_behalf_of);
    let answer = timeout(ANSWER_TIMEOUT, sender.send_request(request)).await;
    let answer = answer.map_err(|_| Failed::Unknown(late()))?;
    let mut answer = answer.map_err(|e| Failed::Unknown(other(e)))?;
    if answer.headers().contains_key(NOT_DONE) {
        let why = "it does not lead, or does not know yet that it does";
        return Err(Failed::NotAsked(io::Error::other(why)));
    }
    answer.headers_mut().remove("connection");
    answer.headers_mut().remove("transfer-encoding");
    Ok(answer.map(Body::new))
}

fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer in time")
}

fn request_of(
    whom: &Card,
    head: &request::Parts,
    body: Bytes,
    on_behalf_of: IpAddr,
) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = head.uri.clone();
    *request.headers_mut() = head.headers.clone();
    let headers = request.headers_mut();
    for hop in HOP_BY_HOP {
        headers.remove(hop);
    }
    let text = |text: &str| HeaderValue::from_str(text).expect("letters and digits");
    headers.insert(FOR, text(&on_behalf_of.to_string()));
    headers.insert(PASS, text(&whom.pass));
    request
}

async fn connect(whom: &Card) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(&whom.api).await?;
    stream.set_nodelay(true)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let pinned = Arc::new(Pinned {
        fingerprint: whom.certificate.clone(),
        provider: provider.clone(),
    });
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(pinned)
        .with_no_client_auth();
    let name = ServerName::try_from(crate::engines::SERVER_NAME).map_err(io::Error::other)?;
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(name, stream).await
}

/// Believes the certificate with this fingerprint, whoever has signed it: etcd says which one it is.
#[derive(Debug)]
struct Pinned {
    fingerprint: String,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if tls::fingerprint_of(end_entity) == self.fingerprint {
            return Ok(ServerCertVerified::assertion());
        }
        let text = "another certificate than the one that the controller has named in etcd";
        Err(rustls::Error::General(text.into()))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let known = &self.provider.signature_verification_algorithms;
        known.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_certificate_that_is_named_is_believed() {
        let certificate = CertificateDer::from(vec![1, 2, 3]);
        let believes = |fingerprint: String| {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let pinned = Pinned {
                fingerprint,
                provider,
            };
            let name = ServerName::try_from("x").unwrap();
            let now = UnixTime::now();
            pinned.verify_server_cert(&certificate, &[], &name, &[], now)
        };
        assert!(believes(tls::fingerprint_of(&certificate)).is_ok());
        let other = CertificateDer::from(vec![4]);
        assert!(believes(tls::fingerprint_of(&other)).is_err());
    }

    #[test]
    fn a_call_that_is_passed_on_says_for_whom_whatever_its_client_says() {
        let head = Request::get("/api/pool?a=b")
            .header("connection", "close")
            .header(FOR, "203.0.113.9")
            .header(PASS, "guessed")
            .header("cookie", "s=1");
        let (head, ()) = head.body(()).unwrap().into_parts();
        let whom = Card {
            pass: "pass".into(),
            ..Card::alone()
        };
        let client = "192.0.2.7".parse().unwrap();
        let asked = request_of(&whom, &head, Bytes::new(), client);
        let said = |name: &HeaderName| {
            let all = asked.headers().get_all(name).iter();
            all.map(|v| v.to_str().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!((said(&FOR), said(&PASS)), (vec!["192.0.2.7"], vec!["pass"]));
        assert_eq!(asked.uri().to_string(), "/api/pool?a=b");
        assert!(asked.headers().contains_key("cookie"));
        assert!(!asked.headers().contains_key("connection"));
    }
}
