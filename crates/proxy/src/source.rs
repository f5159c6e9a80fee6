//! The engine's ends towards servers: at an address that the kernel chooses, at one of its own (avi-api `snat_ip`), or at the
//! VIP (`use_vip_as_snat`).

use dataplane::sockopt::set_port_at_connect;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, SocketAddr};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

/// What servers see of a virtual service's connections.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Source {
    /// The engine, at the address that the kernel chooses.
    #[default]
    Engine,
    /// The VIP that the client used.
    Vip,
    /// The first of these that is of the server's family.
    Addresses(Vec<IpAddr>),
}

impl Source {
    /// For a server; `None` = what the kernel chooses, also where nothing is of the server's family.
    pub(crate) fn towards(&self, server: SocketAddr, vip: SocketAddr) -> Option<IpAddr> {
        let fits = |source: &IpAddr| source.is_ipv4() == server.is_ipv4();
        match self {
            Self::Engine => None,
            Self::Vip => Some(vip.ip()).filter(fits),
            Self::Addresses(own) => own.iter().copied().find(fits),
        }
    }
}

/// A connection to the server from this address, which is of its family.
pub(crate) async fn connect(source: Option<IpAddr>, server: SocketAddr) -> io::Result<TcpStream> {
    match source {
        None => TcpStream::connect(server).await,
        Some(source) => {
            let socket = socket(Type::STREAM, Protocol::TCP, server)?;
            // Or a listener could not have a port of the VIP that such a connection has, or had a minute ago.
            socket.set_reuse_address(true)?;
            bind(&socket, source)?;
            let socket = TcpSocket::from_std_stream(socket.into());
            socket.connect(server).await
        }
    }
}

/// A socket for datagrams to the server and from it alone, at this address, which is of its family.
pub(crate) fn udp_socket(source: Option<IpAddr>, server: SocketAddr) -> io::Result<UdpSocket> {
    let socket = socket(Type::DGRAM, Protocol::UDP, server)?;
    if let Some(source) = source {
        bind(&socket, source)?;
    }
    socket.connect(&server.into())?;
    UdpSocket::from_std(socket.into())
}

fn socket(kind: Type, protocol: Protocol, server: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(server), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn bind(socket: &Socket, source: IpAddr) -> io::Result<()> {
    set_port_at_connect(socket).map_err(io::Error::other)?;
    socket.bind(&SocketAddr::new(source, 0).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TcpSpec;
    use crate::listener::Listener;
    use flow::key::Protocol;

    #[tokio::test]
    async fn a_port_of_the_vip_that_a_connection_to_a_server_has_can_be_listened_on() {
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let server = server.expect("bind");
        let addr = server.local_addr().expect("addr");
        let vip = crate::tests::free_address().ip();
        let connection = connect(Some(vip), addr).await.expect("connects");
        let own = connection.local_addr().expect("addr");
        assert_eq!(own.ip(), vip);
        let usual = TcpSpec::default();
        drop(Listener::bind((Protocol::Tcp, own), &usual).expect("listens"));
        drop((connection, server.accept().await.expect("accepted")));
        Listener::bind((Protocol::Tcp, own), &usual).expect("listens, in TIME_WAIT, too");
    }
}
