//! How the connections of clients are set up (avi-api `TCPProxyProfile`): the listening socket has the settings, and a
//! connection keeps those that it had when the client came.

use dataplane::sockopt::{SockoptError, let_buffers_grow, set_receive_buffer, set_tos};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::SocketAddr;

/// Connections that may wait to be accepted; the kernel caps it at net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// What a client may put into a segment: a packet of 1500 bytes fits into a tunnel to another engine, so 20 bytes (IPv6: 40)
/// for the outer header go off, beside IP and TCP headers (DESIGN 6.6). `advmss` of a route has no effect on a listener.
const SEGMENT_MAX_V4: u32 = 1500 - 20 - 40;
const SEGMENT_MAX_V6: u32 = 1500 - 40 - 60;

/// The settings; by default the kernel chooses. A change is for new connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TcpSpec {
    /// Small segments wait for what may follow (RFC 896).
    pub nagle: bool,
    /// Bytes of the receive window; `None` = the kernel grows it.
    pub receive_window: Option<usize>,
    /// Bytes of the largest segment; what would not fit into a tunnel to another engine is cut to what does.
    pub segment_max: Option<u32>,
    /// `None` = the kernel's own.
    pub congestion: Option<Congestion>,
    /// Of what is sent to clients, 0 to 63.
    pub dscp: u8,
    /// Connections of each port that are half open at most: more are answered with SYN cookies. `None` = as many as usual.
    pub half_open_max: Option<u32>,
}

/// Who says how fast is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Congestion {
    /// RFC 5681, RFC 6582.
    NewReno,
    /// RFC 9438.
    Cubic,
    /// H-TCP.
    Htcp,
}

impl Congestion {
    /// In the kernel's words.
    fn name(self) -> &'static str {
        match self {
            Self::NewReno => "reno",
            Self::Cubic => "cubic",
            Self::Htcp => "htcp",
        }
    }

    fn set(self, socket: &Socket) -> io::Result<()> {
        socket.set_tcp_congestion(self.name().as_bytes())
    }
}

impl TcpSpec {
    /// What each of so many listeners of a port has of it.
    pub(crate) fn share(self, listeners: usize) -> Self {
        let listeners = u32::try_from(listeners).unwrap_or(u32::MAX).max(1);
        let half_open_max = self.half_open_max.map(|most| most.div_ceil(listeners));
        Self {
            half_open_max,
            ..self
        }
    }

    /// Without what the kernel does not have, of which it is said.
    pub(crate) fn possible(self, addr: SocketAddr) -> Self {
        let set = |wanted: Congestion| wanted.set(&socket(addr)?);
        match self.congestion.map(set) {
            Some(Err(error)) => {
                let algorithm = self.congestion.map(Congestion::name);
                tracing::warn!(%addr, algorithm, %error, "the kernel's own congestion control is used");
                Self {
                    congestion: None,
                    ..self
                }
            }
            Some(Ok(())) | None => self,
        }
    }

    /// A socket that listens.
    pub(crate) fn listen(&self, addr: SocketAddr) -> io::Result<Socket> {
        let socket = socket(addr)?;
        socket.set_reuse_port(true)?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        self.set_up(&socket, addr)?;
        socket.bind(&addr.into())?;
        socket.listen(self.backlog())?;
        Ok(socket)
    }

    /// Gives a socket that listens these settings instead of others. What they leave to the kernel becomes as it is for a
    /// socket that was told nothing.
    pub(crate) fn change(&self, listening: &Socket, addr: SocketAddr) -> io::Result<()> {
        self.set_up(listening, addr)?;
        listening.listen(self.backlog())?;
        let usual = socket(addr)?;
        if self.congestion.is_none() {
            listening.set_tcp_congestion(&usual.tcp_congestion()?)?;
        }
        if self.receive_window.is_none() {
            // The kernel says twice what it was told.
            let bytes = usual.recv_buffer_size()? / 2;
            set_receive_buffer(listening, bytes).map_err(io::Error::other)?;
            let_buffers_grow(listening).map_err(io::Error::other)?;
        }
        Ok(())
    }

    fn set_up(&self, socket: &Socket, addr: SocketAddr) -> io::Result<()> {
        socket.set_tcp_mss(self.segment(addr))?;
        socket.set_tcp_nodelay(!self.nagle)?;
        self.set_options(socket, addr).map_err(io::Error::other)?;
        self.congestion.map_or(Ok(()), |wanted| wanted.set(socket))
    }

    fn set_options(&self, socket: &Socket, addr: SocketAddr) -> Result<(), SockoptError> {
        // RFC 2474 section 3: the upper six bits.
        set_tos(socket, addr.ip(), self.dscp << 2)?;
        let window = self.receive_window;
        window.map_or(Ok(()), |bytes| set_receive_buffer(socket, bytes))
    }

    fn segment(&self, addr: SocketAddr) -> u32 {
        let most = match addr {
            SocketAddr::V4(_) => SEGMENT_MAX_V4,
            SocketAddr::V6(_) => SEGMENT_MAX_V6,
        };
        self.segment_max.map_or(most, |wanted| wanted.min(most))
    }

    /// The kernel holds as many that are half open as may wait to be accepted.
    fn backlog(&self) -> i32 {
        let wanted = self.half_open_max.unwrap_or(u32::MAX).max(1);
        i32::try_from(wanted).map_or(BACKLOG, |wanted| wanted.min(BACKLOG))
    }
}

fn socket(addr: SocketAddr) -> io::Result<Socket> {
    Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))
}

#[cfg(test)]
mod tests;
