//! One probe of one server: over TCP, UDP, HTTP or HTTPS. Cancel-safe: dropping it closes its socket.

use super::{half_open, tls};
use health::{
    CodeClass, Expected, Failure, RESPONSE_LEN_MAX, Rest, Text, asks_for_head, http_request,
    judge_http, judge_text,
};
use proto::v1::{HealthMonitor, HttpMonitor, TcpMonitor, UdpMonitor, health_monitor::Kind};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout, timeout_at};

/// How long a server is listened to that need not answer: a word of maintenance, or an ICMP error, comes within a round trip.
const SILENCE: Duration = Duration::from_millis(500);
/// How long a server may take to end its side of a connection that the probe has ended; shorter than the shortest interval.
const FAREWELL: Duration = Duration::from_millis(500);
/// What a server may still send meanwhile; one with more to say is reset.
const DISCARDED_MAX: u64 = 256 * 1024;

/// How a probe ends.
pub(super) type Outcome = Result<(), Failure>;

/// What a server is asked over.
trait Connection: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Connection for T {}

/// What a probe has found out, and the connection that it leaves.
pub(super) struct Probed {
    pub(super) outcome: Outcome,
    connection: Option<Box<dyn Connection>>,
}

impl From<Outcome> for Probed {
    fn from(outcome: Outcome) -> Self {
        Self {
            outcome,
            connection: None,
        }
    }
}

impl Probed {
    /// Ends the connection as a client does: by FIN, and what the server has not been heard to say is read, as the kernel
    /// would reset a connection with unread data. Apart from the outcome, so that this waits for nobody.
    pub(super) async fn close(self) {
        let Some(mut connection) = self.connection else {
            return;
        };
        let farewell = async {
            connection.shutdown().await?;
            let mut rest = connection.take(DISCARDED_MAX);
            tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
        };
        // A server that does not end it either, or breaks it, has been judged.
        drop(timeout(FAREWELL, farewell).await);
    }
}

/// Probes a server, within the monitor's `receive_timeout` in all.
pub(super) async fn probe(server: SocketAddr, monitor: &HealthMonitor) -> Probed {
    let limit = Instant::now() + Duration::from_secs(monitor.receive_timeout_s.max(1).into());
    let port = u16::try_from(monitor.monitor_port).ok().filter(|p| *p != 0);
    let target = SocketAddr::new(server.ip(), port.unwrap_or(server.port()));
    let connected = match &monitor.kind {
        Some(Kind::Udp(udp)) => return probe_udp(target, limit, udp).await.into(),
        Some(Kind::Tcp(tcp)) if tcp.half_open => {
            return half_open::probe(target, limit).await.into();
        }
        Some(Kind::Https(_)) => connect_tls(target, limit).await,
        Some(Kind::Tcp(_) | Kind::Http(_)) | None => connect(target, limit).await,
    };
    let mut connection = match connected {
        Ok(connection) => connection,
        Err(failure) => return Err(failure).into(),
    };
    let outcome = match &monitor.kind {
        Some(Kind::Tcp(tcp)) => probe_tcp(&mut *connection, limit, tcp).await,
        Some(Kind::Http(http) | Kind::Https(http)) => {
            probe_http(&mut *connection, target, limit, http).await
        }
        Some(Kind::Udp(_)) | None => Ok(()),
    };
    Probed {
        outcome,
        connection: Some(connection),
    }
}

type Connected = Result<Box<dyn Connection>, Failure>;

async fn connect(target: SocketAddr, limit: Instant) -> Connected {
    Ok(Box::new(connect_tcp(target, limit).await?))
}

async fn connect_tcp(target: SocketAddr, limit: Instant) -> Result<TcpStream, Failure> {
    let connected = timeout_at(limit, TcpStream::connect(target)).await;
    connected
        .map_err(|_| Failure::ConnectionTimeout)?
        .map_err(|e| failure(&e))
}

/// One that says nothing during the handshake has failed it.
async fn connect_tls(target: SocketAddr, limit: Instant) -> Connected {
    let stream = connect_tcp(target, limit).await?;
    let stream = timeout_at(limit, tls::handshake(stream, target.ip())).await;
    let stream = stream.ok().and_then(Result::ok).ok_or(Failure::SslError)?;
    Ok(Box::new(stream))
}

async fn probe_tcp(
    connection: &mut dyn Connection,
    limit: Instant,
    monitor: &TcpMonitor,
) -> Outcome {
    let text = text(&monitor.response, &monitor.maintenance_response);
    let limit = match text.response.is_empty() {
        true => limit.min(Instant::now() + SILENCE),
        false => limit,
    };
    let judge = |seen: &[u8], rest| judge_text(seen, rest, &text);
    converse(connection, &monitor.request, limit, judge).await
}

async fn probe_http(
    connection: &mut dyn Connection,
    target: SocketAddr,
    limit: Instant,
    monitor: &HttpMonitor,
) -> Outcome {
    let request = http_request(&monitor.request, &target.to_string(), monitor.exact_request);
    let expected = Expected {
        head_only: asks_for_head(&request),
        ..expected(monitor)
    };
    let judge = |seen: &[u8], rest| judge_http(seen, rest, &expected);
    converse(connection, &request, limit, judge).await
}

fn expected(monitor: &HttpMonitor) -> Expected {
    let class = |first: &u32| match u16::try_from(*first) {
        Ok(0) => CodeClass::Any,
        Ok(first) => CodeClass::Hundred(first),
        Err(_) => CodeClass::Hundred(u16::MAX),
    };
    let codes = monitor.maintenance_codes.iter();
    Expected {
        codes: monitor.response_classes.iter().map(class).collect(),
        maintenance_codes: codes.filter_map(|c| u16::try_from(*c).ok()).collect(),
        text: text(&monitor.response, &monitor.maintenance_response),
        head_only: false,
    }
}

fn text(response: &str, maintenance: &str) -> Text {
    Text {
        response: response.to_owned(),
        maintenance: maintenance.to_owned(),
    }
}

/// Sends the request, and reads until what has come can be judged, or the time is over.
async fn converse(
    connection: &mut dyn Connection,
    request: &str,
    limit: Instant,
    judge: impl Fn(&[u8], Rest) -> Option<Outcome>,
) -> Outcome {
    let mut seen = Vec::with_capacity(RESPONSE_LEN_MAX);
    let exchange = exchange(connection, request, &mut seen, &judge);
    match timeout_at(limit, exchange).await {
        Ok(outcome) => outcome,
        Err(_) => judge(&seen, Rest::Late).unwrap_or(Err(Failure::PayloadTimeout)),
    }
}

async fn exchange(
    connection: &mut dyn Connection,
    request: &str,
    seen: &mut Vec<u8>,
    judge: &impl Fn(&[u8], Rest) -> Option<Outcome>,
) -> Outcome {
    let sent = async {
        connection.write_all(request.as_bytes()).await?;
        connection.flush().await
    };
    sent.await.map_err(|e| failure(&e))?;
    let mut limited = connection.take(RESPONSE_LEN_MAX as u64);
    let mut rest = Rest::Open;
    loop {
        if let Some(outcome) = judge(seen, rest) {
            return outcome;
        }
        rest = match limited.read_buf(seen).await {
            Ok(0) => Rest::Ended,
            Ok(_) => Rest::Open,
            // TLS whose end is not announced.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Rest::Ended,
            Err(error) => return Err(failure(&error)),
        };
    }
}

/// One datagram. Without a response to wait for, "port unreachable" is the failure (avi-api section 12).
async fn probe_udp(target: SocketAddr, limit: Instant, monitor: &UdpMonitor) -> Outcome {
    let socket = connected_udp(target).await.map_err(|e| failure(&e))?;
    let request = monitor.request.as_bytes();
    socket.send(request).await.map_err(|e| failure(&e))?;
    let silent = monitor.response.is_empty();
    let wait = match silent {
        true => limit.min(Instant::now() + SILENCE),
        false => limit,
    };
    match timeout_at(wait, answer(&socket, monitor)).await {
        Ok(result) => result,
        Err(_) if silent => Ok(()),
        Err(_) => Err(Failure::PayloadTimeout),
    }
}

async fn connected_udp(target: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = match target {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(target).await?;
    Ok(socket)
}

async fn answer(socket: &UdpSocket, monitor: &UdpMonitor) -> Outcome {
    let mut bytes = [0; RESPONSE_LEN_MAX];
    let len = socket.recv(&mut bytes).await.map_err(|e| failure(&e))?;
    let text = text(&monitor.response, &monitor.maintenance_response);
    judge_text(&bytes[..len], Rest::Ended, &text).unwrap_or(Err(Failure::OtherError))
}

pub(super) fn failure(error: &io::Error) -> Failure {
    match error.kind() {
        ErrorKind::ConnectionRefused => Failure::ConnectionRefused,
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Failure::ConnectionReset,
        ErrorKind::TimedOut => Failure::ConnectionTimeout,
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Failure::ServerUnreachable,
        _ => Failure::OtherError,
    }
}
