//! Dialling a controller, and the two ends of the connection that comes of it.

use hyper::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tonic::codegen::{BoxFuture, Service, StdError};

/// Addresses of a connection with a controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ends {
    /// Ours.
    pub near: IpAddr,
    /// The controller's.
    pub far: IpAddr,
}

impl Ends {
    /// None when the connection has ended already.
    fn of(stream: &TcpStream) -> Option<Self> {
        Some(Self {
            near: stream.local_addr().ok()?.ip().to_canonical(),
            far: stream.peer_addr().ok()?.ip().to_canonical(),
        })
    }
}

/// Opens connections and remembers the ends of the newest.
#[derive(Clone)]
pub(crate) struct Dialler {
    http: HttpConnector,
    ends: Arc<Mutex<Option<Ends>>>,
}

impl Dialler {
    /// Of all addresses that a name has, one is to answer within this time.
    pub(crate) fn new(timeout: Duration) -> Self {
        let mut http = HttpConnector::new();
        // TLS comes on top of it.
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(timeout));
        Self {
            http,
            ends: Arc::default(),
        }
    }

    /// Of the newest connection.
    pub(crate) fn ends(&self) -> Option<Ends> {
        *self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Service<Uri> for Dialler {
    type Response = TokioIo<TcpStream>;
    type Error = StdError;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.http.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (connecting, ends) = (self.http.call(uri), self.ends.clone());
        Box::pin(async move {
            let stream = connecting.await?;
            *ends.lock().unwrap_or_else(PoisonError::into_inner) = Ends::of(stream.inner());
            Ok(stream)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn the_ends_of_a_connection_are_known_once_it_is_there() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = listener.local_addr().expect("an address");
        let mut dialler = Dialler::new(Duration::from_secs(5));
        assert_eq!(dialler.ends(), None);
        poll_fn(|cx| dialler.poll_ready(cx)).await.expect("ready");
        let uri = format!("https://{at}").parse().expect("a URI");
        let _stream = dialler.call(uri).await.expect("connected");
        let both = at.ip();
        let expected = Ends {
            near: both,
            far: both,
        };
        assert_eq!(dialler.ends(), Some(expected));
    }
}
