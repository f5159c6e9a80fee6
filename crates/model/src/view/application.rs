//! Views of what is known of applications: HTTP, TLS, persistence.

use super::yes;
use serde::Deserialize;
use std::fmt;

/// avi-api `ApplicationProfile`.
#[derive(Debug, Clone, Deserialize)]
#[allow(missing_docs)]
pub struct ApplicationProfile {
    pub uuid: String,
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub http_profile: Option<HttpApplicationProfile>,
    pub tcp_app_profile: Option<TcpApplicationProfile>,
}

impl ApplicationProfile {
    /// How HTTP is served; `None` where bytes are passed on.
    pub fn http(&self) -> Option<HttpApplicationProfile> {
        let is_http = self.kind == "APPLICATION_PROFILE_TYPE_HTTP";
        is_http.then(|| self.http_profile.clone().unwrap_or_default())
    }

    /// What is done where bytes are passed on; `None` for other types.
    pub fn tcp(&self) -> Option<TcpApplicationProfile> {
        let bytes = [
            "APPLICATION_PROFILE_TYPE_L4",
            "APPLICATION_PROFILE_TYPE_SSL",
        ];
        let passes = bytes.contains(&self.kind.as_str());
        passes.then(|| self.tcp_app_profile.clone().unwrap_or_default())
    }
}

/// avi-api `TCPApplicationProfile`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct TcpApplicationProfile {
    /// Servers are told who the client is before anything else.
    #[serde(default)]
    pub proxy_protocol_enabled: bool,
    /// `PROXY_PROTOCOL_VERSION_1`, the default, or `PROXY_PROTOCOL_VERSION_2`.
    #[serde(default)]
    pub proxy_protocol_version: String,
}

/// avi-api `HTTPApplicationProfile`; times in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[allow(missing_docs)]
pub struct HttpApplicationProfile {
    #[serde(default = "ten_seconds")]
    pub client_header_timeout: u32,
    /// Between two reads; 0 = any time.
    #[serde(default = "thirty_seconds")]
    pub client_body_timeout: u32,
    #[serde(default = "thirty_seconds")]
    pub keepalive_timeout: u32,
    #[serde(default = "thirty_seconds")]
    pub post_accept_timeout: u32,
    #[serde(default = "yes")]
    pub connection_multiplexing_enabled: bool,
    #[serde(default)]
    pub http_to_https: bool,
    #[serde(default = "yes")]
    pub xff_enabled: bool,
    #[serde(default)]
    pub xff_update: String,
    #[serde(default = "forwarded_for")]
    pub xff_alternate_name: String,
    #[serde(default)]
    pub x_forwarded_proto_enabled: bool,
}

impl Default for HttpApplicationProfile {
    fn default() -> Self {
        Self {
            client_header_timeout: ten_seconds(),
            client_body_timeout: thirty_seconds(),
            keepalive_timeout: thirty_seconds(),
            post_accept_timeout: thirty_seconds(),
            connection_multiplexing_enabled: true,
            http_to_https: false,
            xff_enabled: true,
            xff_update: String::new(),
            xff_alternate_name: forwarded_for(),
            x_forwarded_proto_enabled: false,
        }
    }
}

/// avi-api `SSLProfile`.
#[derive(Debug, Clone, Deserialize)]
#[allow(missing_docs)]
pub struct SslProfile {
    pub uuid: String,
    pub name: String,
    #[serde(default)]
    pub accepted_versions: Vec<SslVersion>,
}

impl SslProfile {
    /// Whether TLS 1.2 and TLS 1.3 are accepted. Who names none accepts both; others than these are spoken by nobody here.
    pub fn versions(&self) -> (bool, bool) {
        let accepts = |version: &str| {
            let mut all = self.accepted_versions.iter();
            self.accepted_versions.is_empty() || all.any(|v| v.kind == version)
        };
        (accepts("SSL_VERSION_TLS1_2"), accepts("SSL_VERSION_TLS1_3"))
    }
}

/// avi-api `SSLVersion`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[allow(missing_docs)]
pub struct SslVersion {
    #[serde(rename = "type")]
    pub kind: String,
}

/// avi-api `SSLKeyAndCertificate`, with its key, which is not printed.
#[derive(Clone, Deserialize)]
#[allow(missing_docs)]
pub struct SslKeyAndCertificate {
    pub uuid: String,
    pub name: String,
    pub certificate: SslCertificate,
    #[serde(default)]
    pub certificate_base64: bool,
    pub key: Option<String>,
    #[serde(default)]
    pub key_base64: bool,
}

impl fmt::Debug for SslKeyAndCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SslKeyAndCertificate")
            .field("uuid", &self.uuid)
            .field("name", &self.name)
            .field("key_set", &self.key.is_some())
            .finish_non_exhaustive()
    }
}

/// avi-api `SSLCertificate`.
#[derive(Debug, Clone, Deserialize)]
#[allow(missing_docs)]
pub struct SslCertificate {
    /// None while it is to be signed.
    pub certificate: Option<String>,
}

/// avi-api `ApplicationPersistenceProfile`.
#[derive(Debug, Clone, Deserialize)]
#[allow(missing_docs)]
pub struct PersistenceProfile {
    pub uuid: String,
    pub name: String,
    pub persistence_type: String,
    pub http_cookie_persistence_profile: Option<HttpCookiePersistenceProfile>,
}

impl PersistenceProfile {
    /// Clients carry a cookie that names their server.
    pub fn is_cookie(&self) -> bool {
        self.persistence_type == "PERSISTENCE_TYPE_HTTP_COOKIE"
    }

    /// Clients are known by their address.
    pub fn is_address(&self) -> bool {
        let known = [
            "PERSISTENCE_TYPE_CLIENT_IP_ADDRESS",
            "PERSISTENCE_TYPE_CLIENT_IPV6_ADDRESS",
        ];
        known.contains(&self.persistence_type.as_str())
    }
}

/// avi-api `HTTPCookiePersistenceProfile`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[allow(missing_docs)]
pub struct HttpCookiePersistenceProfile {
    pub cookie_name: Option<String>,
    #[serde(default)]
    pub http_only: bool,
    /// Minutes that clients keep it; 0 = as long as they run.
    #[serde(default)]
    pub timeout: u32,
}

fn ten_seconds() -> u32 {
    10_000
}

fn thirty_seconds() -> u32 {
    30_000
}

fn forwarded_for() -> String {
    "X-Forwarded-For".to_owned()
}
