//! What can go wrong between this program and a controller.

use serde_json::Value;
use std::io;
use std::path::PathBuf;

/// A result of a call.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call did not succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The named network namespace could not be entered.
    #[error("cannot enter network namespace {name}")]
    Namespace {
        /// Name under `/run/netns`.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The CA certificates could not be read.
    #[error("cannot read CA certificates from {}: {reason}", path.display())]
    Trust {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody answers at the address; the call was not made.
    #[error("controller {url} is not reachable: {reason}")]
    Unreachable {
        /// The address tried.
        url: String,
        /// What the network said.
        reason: String,
    },
    /// Somebody answers who cannot prove to be the controller; the call was not made.
    #[error("controller {url} is not trusted: {reason}")]
    Untrusted {
        /// The address tried.
        url: String,
        /// What is wrong with the certificate.
        reason: String,
    },
    /// The connection ended before the answer: a change may or may not have been made.
    #[error("connection to controller {url} was lost before the answer came: {reason}")]
    Lost {
        /// The address used.
        url: String,
        /// What the network said.
        reason: String,
    },
    /// The controller does not know this user or password.
    #[error("controller {url} refused the login of {username:?}: {message}")]
    Login {
        /// The address used.
        url: String,
        /// The user.
        username: String,
        /// The controller's words.
        message: String,
    },
    /// The controller answered with an error.
    #[error("{message}")]
    Status {
        /// HTTP method of the call.
        method: String,
        /// Path and query of the call.
        path: String,
        /// HTTP status.
        status: u16,
        /// The controller's words: its `error` text, or the plain answer.
        message: String,
    },
    /// The answer is not JSON: probably not a controller.
    #[error("{method} {path}: the answer is not JSON")]
    Answer {
        /// HTTP method of the call.
        method: String,
        /// Path and query of the call.
        path: String,
        /// Where the text stops being JSON.
        source: serde_json::Error,
    },
    /// The request cannot be sent as it is, for example because of a malformed address.
    #[error("cannot call {url}: {reason}")]
    Request {
        /// The address.
        url: String,
        /// What is wrong.
        reason: String,
    },
}

impl Error {
    /// The HTTP status, when the controller answered with one.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Status { status, .. } => Some(*status),
            Self::Login { .. } => Some(401),
            _ => None,
        }
    }

    /// True when nobody answered, so the call was certainly not made and may be repeated.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }

    /// True when another change came first: the object exists, is referred to, or has changed since it was read.
    pub fn is_conflict(&self) -> bool {
        matches!(self.status(), Some(409 | 412))
    }
}

/// The `error` text of an answer, or the answer itself where it is not our JSON.
pub(crate) fn message_of(text: &str) -> String {
    let value: Option<Value> = serde_json::from_str(text).ok();
    match value.as_ref().and_then(|v| v.get("error")) {
        Some(Value::String(message)) => message.clone(),
        Some(other) => other.to_string(),
        None if text.trim().is_empty() => "the controller gave no reason".into(),
        None => text.trim().to_string(),
    }
}

/// Sorts what the transport reports into: not sent, not trusted, unknown.
pub(crate) fn from_transport(url: &str, cause: ureq::Error) -> Error {
    let url = url.to_string();
    match cause {
        ureq::Error::Io(source) => from_io(url, &source),
        ureq::Error::Rustls(source) => Error::Untrusted {
            url,
            reason: source.to_string(),
        },
        ureq::Error::HostNotFound => Error::Unreachable {
            url,
            reason: "no such host".into(),
        },
        ureq::Error::ConnectionFailed => Error::Unreachable {
            url,
            reason: "connection failed".into(),
        },
        ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => {
            Error::Unreachable {
                url,
                reason: "no answer in time".into(),
            }
        }
        ureq::Error::Timeout(what) => Error::Lost {
            url,
            reason: format!("timeout ({what})"),
        },
        ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::Tls(_) => Error::Request {
            url,
            reason: cause.to_string(),
        },
        other => Error::Lost {
            url,
            reason: other.to_string(),
        },
    }
}

fn from_io(url: String, source: &io::Error) -> Error {
    use io::ErrorKind as Kind;
    let inner = source.get_ref();
    if let Some(tls) = inner.and_then(|e| e.downcast_ref::<rustls::Error>()) {
        return Error::Untrusted {
            url,
            reason: tls.to_string(),
        };
    }
    let reason = source.to_string();
    match source.kind() {
        Kind::ConnectionRefused
        | Kind::HostUnreachable
        | Kind::NetworkUnreachable
        | Kind::NetworkDown
        | Kind::AddrNotAvailable => Error::Unreachable { url, reason },
        _ => Error::Lost { url, reason },
    }
}
