//! TLS towards a server, as connections that are proxied to it begin it: the check asks whether it serves, not who it is.

use proxy::TlsVersions;
use rustls::pki_types::ServerName;
use std::io;
use std::net::IpAddr;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A session with the server at this address, by TLS 1.2 or 1.3; as its name is not known, none is sent.
pub(super) async fn handshake(
    stream: TcpStream,
    server: IpAddr,
) -> io::Result<TlsStream<TcpStream>> {
    let config = proxy::client_config(TlsVersions::default()).map_err(io::Error::other)?;
    let connector = TlsConnector::from(config);
    connector.connect(ServerName::from(server), stream).await
}
