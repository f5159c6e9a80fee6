//! A check by a SYN alone ([`Syn`]). Cancel-safe: dropping it closes its sockets.
//!
//! Two sockets: a raw one, connected to the server, sends the SYN and hears the answer; and a TCP socket that is bound and
//! never connected keeps its port from everybody else. As that is no connection's, the kernel answers SYN, ACK with RST.

use super::probe::{Outcome, failure};
use dataplane::filter::admit_segments;
use health::{Failure, Syn, SynOutcome};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout, timeout_at};

/// A SYN may be lost (RFC 6298 section 2: the first time-out is of one second).
const RESEND_AFTER: Duration = Duration::from_secs(1);
/// Headers of IPv4 and TCP with all their options fit.
const HEARD_LEN_MAX: usize = 256;

/// Whether somebody listens there.
pub(super) async fn probe(target: SocketAddr, limit: Instant) -> Outcome {
    let raw = raw_socket(target).map_err(|e| no_socket(&e))?;
    let attempt = Attempt::begin(raw, target).map_err(|e| failure(&e))?;
    let outcome = timeout_at(limit, attempt.outcome()).await;
    outcome.unwrap_or(Err(Failure::ConnectionTimeout))
}

/// Of the server's family; what it hears is narrowed when it is connected.
fn raw_socket(target: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(target), Type::RAW, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// That we may not is nothing that the server could help.
fn no_socket(error: &io::Error) -> Failure {
    match error.kind() {
        ErrorKind::PermissionDenied => Failure::NoRawSocket,
        _ => failure(error),
    }
}

struct Attempt {
    /// The runtime has no type for raw sockets; they are sent to and received from as UDP's are.
    raw: UdpSocket,
    syn: Syn,
    /// Keeps the port.
    _port: Socket,
}

impl Attempt {
    fn begin(raw: Socket, to: SocketAddr) -> io::Result<Self> {
        let mut server = to;
        // A raw socket has no ports.
        server.set_port(0);
        raw.connect(&server.into())?;
        let (port, from) = reserve(&raw)?;
        admit_segments(&raw, to.is_ipv6(), [to.port(), from.port()]).map_err(io::Error::other)?;
        let sequence = rand::random();
        Ok(Self {
            raw: UdpSocket::from_std(raw.into())?,
            syn: Syn { from, to, sequence },
            _port: port,
        })
    }

    async fn outcome(&self) -> Outcome {
        loop {
            let sent = self.raw.send(&self.syn.segment()).await;
            sent.map_err(|e| failure(&e))?;
            if let Ok(outcome) = timeout(RESEND_AFTER, self.answer()).await {
                return outcome;
            }
        }
    }

    async fn answer(&self) -> Outcome {
        let mut bytes = [0; HEARD_LEN_MAX];
        loop {
            let len = self.raw.recv(&mut bytes).await.map_err(|e| failure(&e))?;
            let heard = &bytes[..len];
            match self.syn.outcome(self.segment(heard)) {
                Some(SynOutcome::Listens) => return Ok(()),
                Some(SynOutcome::Refused) => return Err(Failure::ConnectionRefused),
                None => {}
            }
        }
    }

    /// Without the IP header, which an IPv6 socket does not show.
    fn segment<'a>(&self, heard: &'a [u8]) -> &'a [u8] {
        let header_len = match self.syn.to {
            SocketAddr::V6(_) => 0,
            SocketAddr::V4(_) => heard
                .first()
                .map_or(0, |first| usize::from(first & 0xf) * 4),
        };
        heard.get(header_len..).unwrap_or_default()
    }
}

/// A port at the address that the socket sends from.
fn reserve(raw: &Socket) -> io::Result<(Socket, SocketAddr)> {
    let mut from = local_addr(raw)?;
    from.set_port(0);
    let port = Socket::new(Domain::for_address(from), Type::STREAM, Some(Protocol::TCP))?;
    port.bind(&from.into())?;
    let from = local_addr(&port)?;
    Ok((port, from))
}

fn local_addr(socket: &Socket) -> io::Result<SocketAddr> {
    let address = socket.local_addr()?.as_socket();
    address.ok_or_else(|| ErrorKind::AddrNotAvailable.into())
}

#[cfg(test)]
pub(super) mod tests;
