//! What a virtual service does with connections besides passing their bytes on, as it is wanted.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The side of clients.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FrontSpec {
    /// TCP ports whose connections are more than bytes. A change is for new connections.
    pub ports: BTreeMap<u16, PortSpec>,
    /// Whom clients of TLS meet; `None` = nobody, and their connections are reset.
    pub tls: Option<TlsSpec>,
    /// Clients are asked to end their HTTP connections with the next answer.
    pub closing: bool,
}

/// How a TCP port is served.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortSpec {
    /// Each request is balanced; `None` = bytes are passed on.
    pub http: Option<Arc<HttpSpec>>,
    /// TLS ends here.
    pub tls: bool,
}

/// Whom clients of TLS meet, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsSpec {
    /// The first is for clients that name nobody whom another one is for.
    pub certificates: Vec<Arc<CertificateSpec>>,
    /// The versions that are spoken.
    pub versions: TlsVersions,
    /// With another number clients cannot go on with what they had agreed on before.
    pub rotation: u64,
}

/// A certificate with its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateSpec {
    /// For logs.
    pub name: String,
    /// PEM, its own first.
    pub chain: String,
    /// PEM.
    pub key: PrivateKey,
}

/// A text that is not printed.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKey(pub String);

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey")
    }
}

/// Versions of TLS; those before 1.2 are spoken by nobody here (RFC 8996).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TlsVersions {
    /// TLS 1.2.
    pub tls12: bool,
    /// TLS 1.3.
    pub tls13: bool,
}

impl Default for TlsVersions {
    fn default() -> Self {
        Self {
            tls12: true,
            tls13: true,
        }
    }
}

/// How HTTP is served (avi-api `HTTPApplicationProfile`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSpec {
    /// From the first byte of a request to the end of its header.
    pub header_timeout: Duration,
    /// Between two reads of a request's body; `None` = any time.
    pub body_timeout: Option<Duration>,
    /// Between an answer and the next request.
    pub keepalive_timeout: Duration,
    /// From the connection to the first byte of a request.
    pub post_accept_timeout: Duration,
    /// Requests of a client may go to different servers, and connections to servers are used by several clients.
    pub multiplexing: bool,
    /// Clients are sent to this port with https; `None` = they are served.
    pub redirect_port: Option<u16>,
    /// Servers are told who the client is; `None` = not.
    pub forwarded_for: Option<ForwardedFor>,
    /// Servers are told whether the client has used TLS (X-Forwarded-Proto).
    pub forwarded_proto: bool,
}

impl Default for HttpSpec {
    /// What the contract has where nothing is said.
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(10),
            body_timeout: Some(Duration::from_secs(30)),
            keepalive_timeout: Duration::from_secs(30),
            post_accept_timeout: Duration::from_secs(30),
            multiplexing: true,
            redirect_port: None,
            forwarded_for: Some(ForwardedFor::default()),
            forwarded_proto: false,
        }
    }
}

/// The header that names the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardedFor {
    /// Its name.
    pub name: String,
    /// What becomes of those that the client has sent.
    pub update: ForwardedForUpdate,
}

impl Default for ForwardedFor {
    fn default() -> Self {
        Self {
            name: "X-Forwarded-For".to_owned(),
            update: ForwardedForUpdate::Replace,
        }
    }
}

/// What becomes of headers that clients send themselves (avi-api `xff_update`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardedForUpdate {
    /// They are dropped.
    Replace,
    /// The client's address stands behind what they say, in one header.
    Append,
    /// They stay, and one more follows.
    Add,
}

/// The side of a pool's servers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BackSpec {
    /// How long a server may take to answer an HTTP request; `None` = an hour.
    pub server_timeout: Option<Duration>,
    /// Servers are spoken to by TLS.
    pub tls: Option<ServerTlsSpec>,
    /// HTTP clients carry a cookie that names their server.
    pub cookie: Option<CookieSpec>,
}

/// TLS to servers. Their certificates are not verified: the trust in servers is that of their network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerTlsSpec {
    /// The versions that are spoken.
    pub versions: TlsVersions,
    /// Servers are told whom a client wants.
    pub sni: bool,
    /// By this name; `None` = the one that the client has used.
    pub name: Option<String>,
}

/// The cookie of a pool (avi-api `HTTPCookiePersistenceProfile`). Every engine reads those of the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CookieSpec {
    /// Its name.
    pub name: String,
    /// How long clients keep it; `None` = as long as they run.
    pub max_age: Option<Duration>,
    /// Scripts do not see it.
    pub http_only: bool,
}
