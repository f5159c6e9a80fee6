//! The engine's ends towards servers: at an address that the kernel chooses, or at the VIP (avi-api `use_vip_as_snat`).

use dataplane::sockopt::set_port_at_connect;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, SocketAddr};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

/// A connection to the server from this address, if it is of the server's family.
pub(crate) async fn connect(source: Option<IpAddr>, server: SocketAddr) -> io::Result<TcpStream> {
    match fitting(source, server) {
        None => TcpStream::connect(server).await,
        Some(source) => {
            let socket = socket(Type::STREAM, Protocol::TCP, server)?;
            bind(&socket, source)?;
            let socket = TcpSocket::from_std_stream(socket.into());
            socket.connect(server).await
        }
    }
}

/// A socket for datagrams to the server and from it alone, at this address if it is of the server's family.
pub(crate) fn udp_socket(source: Option<IpAddr>, server: SocketAddr) -> io::Result<UdpSocket> {
    let socket = socket(Type::DGRAM, Protocol::UDP, server)?;
    if let Some(source) = fitting(source, server) {
        bind(&socket, source)?;
    }
    socket.connect(&server.into())?;
    UdpSocket::from_std(socket.into())
}

fn fitting(source: Option<IpAddr>, server: SocketAddr) -> Option<IpAddr> {
    source.filter(|source| source.is_ipv4() == server.is_ipv4())
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
