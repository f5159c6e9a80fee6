//! One probe of one server: over TCP, UDP, HTTP or HTTPS. Cancel-safe: dropping it closes its socket.

use super::tls;
use health::{
    CodeClass, Expected, Failure, RESPONSE_LEN_MAX, Text, http_request, judge_http, judge_text,
};
use proto::v1::{HealthMonitor, HttpMonitor, TcpMonitor, UdpMonitor, health_monitor::Kind};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout_at};

/// How long a server is listened to that need not answer: a word of maintenance, or an ICMP error, comes within a round trip.
const SILENCE: Duration = Duration::from_millis(500);

/// How a probe ends.
type Outcome = Result<(), Failure>;

/// Probes a server, within the monitor's `receive_timeout` in all. The connection is closed by FIN, unless the server has
/// sent more than is looked at.
pub(super) async fn probe(server: SocketAddr, monitor: &HealthMonitor) -> Outcome {
    let limit = Instant::now() + Duration::from_secs(monitor.receive_timeout_s.max(1).into());
    let port = u16::try_from(monitor.monitor_port).ok().filter(|p| *p != 0);
    let target = SocketAddr::new(server.ip(), port.unwrap_or(server.port()));
    match &monitor.kind {
        Some(Kind::Udp(udp)) => probe_udp(target, limit, udp).await,
        Some(Kind::Tcp(tcp)) => probe_tcp(target, limit, tcp).await,
        Some(Kind::Http(http)) => {
            let stream = connect(target, limit).await?;
            probe_http(stream, target, limit, http).await
        }
        Some(Kind::Https(http)) => {
            let stream = connect(target, limit).await?;
            let stream = timeout_at(limit, tls::handshake(stream, target.ip())).await;
            let stream = stream.ok().and_then(Result::ok).ok_or(Failure::SslError)?;
            probe_http(stream, target, limit, http).await
        }
        None => connect(target, limit).await.map(drop),
    }
}

async fn connect(target: SocketAddr, limit: Instant) -> Result<TcpStream, Failure> {
    let connected = timeout_at(limit, TcpStream::connect(target)).await;
    connected
        .map_err(|_| Failure::ConnectionTimeout)?
        .map_err(|e| failure(&e))
}

async fn probe_tcp(target: SocketAddr, limit: Instant, monitor: &TcpMonitor) -> Outcome {
    let stream = connect(target, limit).await?;
    let text = text(&monitor.response, &monitor.maintenance_response);
    let limit = match text.response.is_empty() {
        true => limit.min(Instant::now() + SILENCE),
        false => limit,
    };
    let judge = |seen: &[u8], ended| judge_text(seen, ended, &text);
    converse(stream, &monitor.request, limit, judge).await
}

async fn probe_http(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    target: SocketAddr,
    limit: Instant,
    monitor: &HttpMonitor,
) -> Outcome {
    let expected = expected(monitor);
    let request = http_request(&monitor.request, &target.to_string(), monitor.exact_request);
    let judge = |seen: &[u8], ended| judge_http(seen, ended, &expected);
    converse(stream, &request, limit, judge).await
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
    }
}

fn text(response: &str, maintenance: &str) -> Text {
    Text {
        response: response.to_owned(),
        maintenance: maintenance.to_owned(),
    }
}

/// Sends the request, and reads until what has come can be judged. A server that has said nothing wrong when the time is over,
/// and need not say more, passes.
async fn converse(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    request: &str,
    limit: Instant,
    judge: impl Fn(&[u8], bool) -> Option<Outcome>,
) -> Outcome {
    let mut seen = Vec::with_capacity(RESPONSE_LEN_MAX);
    let exchange = exchange(&mut stream, request, &mut seen, &judge);
    match timeout_at(limit, exchange).await {
        Ok(outcome) => outcome,
        Err(_) if judge(&seen, true) == Some(Ok(())) => Ok(()),
        Err(_) => Err(Failure::PayloadTimeout),
    }
}

async fn exchange(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    request: &str,
    seen: &mut Vec<u8>,
    judge: &impl Fn(&[u8], bool) -> Option<Outcome>,
) -> Outcome {
    let sent = async {
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await
    };
    sent.await.map_err(|e| failure(&e))?;
    let mut limited = stream.take(RESPONSE_LEN_MAX as u64);
    let mut ended = false;
    loop {
        if let Some(outcome) = judge(seen, ended) {
            return outcome;
        }
        ended = match limited.read_buf(seen).await {
            Ok(read) => read == 0,
            // TLS whose end is not announced.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => true,
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
    judge_text(&bytes[..len], true, &text).unwrap_or(Err(Failure::OtherError))
}

fn failure(error: &io::Error) -> Failure {
    match error.kind() {
        ErrorKind::ConnectionRefused => Failure::ConnectionRefused,
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Failure::ConnectionReset,
        ErrorKind::TimedOut => Failure::ConnectionTimeout,
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Failure::ServerUnreachable,
        _ => Failure::OtherError,
    }
}
