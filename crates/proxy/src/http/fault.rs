//! What clients are told when there is no answer of a server.

use super::body::Body;
use crate::connection::Failed;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};

/// Why there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The request is none.
    Malformed,
    /// Its body is coded in a way that is not known here.
    Coding,
    /// It asks for a tunnel (RFC 9110 section 9.3.6), which this is not the proxy for.
    Tunnel,
    /// Its body has not come in time.
    ClientLate,
    /// No server may take it.
    NoServer,
    /// Servers do not take connections, or have broken one off.
    Server,
    /// A server has not taken the connection, or not answered, in time.
    ServerLate,
}

impl Fault {
    /// What is written where the codec has no request to answer: status 408.
    pub(super) const LATE_HEADER: &'static [u8] =
        b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::Malformed => StatusCode::BAD_REQUEST,
            Self::Coding => StatusCode::NOT_IMPLEMENTED,
            Self::Tunnel => StatusCode::METHOD_NOT_ALLOWED,
            Self::ClientLate => StatusCode::REQUEST_TIMEOUT,
            Self::NoServer => StatusCode::SERVICE_UNAVAILABLE,
            Self::Server => StatusCode::BAD_GATEWAY,
            Self::ServerLate => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// After these nobody knows where the next request begins.
    fn ends_connection(self) -> bool {
        matches!(
            self,
            Self::Malformed | Self::Coding | Self::Tunnel | Self::ClientLate
        )
    }

    pub(super) fn response(self) -> Response<Body> {
        let status = self.status();
        let mut response = Response::new(Body::text(format!("{status}\n")));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        if self.ends_connection() {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl From<Failed> for Fault {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Refused => Self::Server,
            Failed::Late => Self::ServerLate,
        }
    }
}
