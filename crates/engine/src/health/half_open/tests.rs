//! Handshakes that are not completed, over loopback. Raw sockets take CAP_NET_RAW; where that is missing, a test says so.
#![allow(clippy::print_stderr, clippy::disallowed_macros)]

use super::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use tokio::net::{TcpListener, TcpStream};

const LONG: Duration = Duration::from_secs(20);

/// Says why not, and fails where CI must run all.
pub(in crate::health) fn can_run() -> bool {
    let target = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
    let Err(why) = raw_socket(target).map_err(|e| no_socket(&e)) else {
        return true;
    };
    assert!(std::env::var_os("CI").is_none(), "CI must run this: {why}");
    eprintln!("SKIPPED: {why}");
    false
}

/// This process's own: no other takes a port at it.
fn own() -> IpAddr {
    let [_, a, b, c] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, a + 1, b, c).into()
}

async fn probed(target: SocketAddr, limit: Duration) -> Outcome {
    probe(target, Instant::now() + limit).await
}

#[tokio::test]
async fn a_server_that_listens_passes_and_accepts_nothing() {
    if !can_run() {
        return;
    }
    for ip in [own(), Ipv6Addr::LOCALHOST.into()] {
        let listener = TcpListener::bind((ip, 0)).await.expect("bind");
        let target = listener.local_addr().expect("addr");
        assert_eq!(probed(target, LONG).await, Ok(()), "{target}");
        // Had the handshake been completed, that connection would be first in the queue.
        let ours = TcpStream::connect(target).await.expect("connects");
        let (_, peer) = listener.accept().await.expect("accepts");
        assert_eq!(
            peer,
            ours.local_addr().expect("addr"),
            "the first that is accepted"
        );
    }
}

#[tokio::test]
async fn a_port_where_nobody_listens_refuses() {
    if !can_run() {
        return;
    }
    for ip in [own(), Ipv6Addr::LOCALHOST.into()] {
        // Bound and not listening: nobody else gets the port meanwhile.
        let any = SocketAddr::new(ip, 0);
        let bound = Socket::new(Domain::for_address(any), Type::STREAM, None).expect("a socket");
        bound.bind(&any.into()).expect("bind");
        let target = local_addr(&bound).expect("addr");
        let outcome = probed(target, LONG).await;
        assert_eq!(outcome, Err(Failure::ConnectionRefused), "{target}");
    }
}

/// A queue of one that is full: the kernel drops further SYNs.
#[tokio::test]
async fn a_server_that_does_not_answer_is_late() {
    if !can_run() {
        return;
    }
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).expect("a socket");
    socket
        .bind(&SocketAddr::new(own(), 0).into())
        .expect("bind");
    socket.listen(0).expect("listens");
    let target = local_addr(&socket).expect("addr");
    let _first = TcpStream::connect(target).await.expect("fills the queue");
    let began = Instant::now();
    let limit = Duration::from_millis(1500);
    let outcome = probed(target, limit).await;
    assert_eq!(outcome, Err(Failure::ConnectionTimeout));
    assert!(
        began.elapsed() >= limit,
        "also the second SYN is waited for"
    );
}

#[tokio::test]
async fn a_segment_that_is_lost_is_sent_again() {
    if !can_run() {
        return;
    }
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).expect("a socket");
    let any = SocketAddr::new(own(), 0);
    socket.bind(&any.into()).expect("bind");
    socket.listen(0).expect("listens");
    let target = local_addr(&socket).expect("addr");
    let _first = TcpStream::connect(target).await.expect("fills the queue");
    let raw = raw_socket(target).expect("a raw socket");
    let attempt = Attempt::begin(raw, target).expect("begins");
    // The first segment has met the full queue; the next one meets room.
    let _accepted = socket.accept().expect("accepts");
    let outcome = tokio::time::timeout(LONG, attempt.outcome());
    assert_eq!(outcome.await.expect("in time"), Ok(()));
}

#[tokio::test]
async fn the_port_of_a_check_is_nobody_elses_and_free_afterwards() {
    if !can_run() {
        return;
    }
    let listener = TcpListener::bind((own(), 0)).await.expect("bind");
    let target = listener.local_addr().expect("addr");
    let raw = raw_socket(target).expect("a raw socket");
    let attempt = Attempt::begin(raw, target).expect("begins");
    let from = attempt.syn.from;
    let taken = TcpListener::bind(from).await.expect_err("taken");
    assert_eq!(taken.kind(), ErrorKind::AddrInUse);
    assert_eq!(attempt.outcome().await, Ok(()));
    drop(attempt);
    TcpListener::bind(from).await.expect("free again");
}

#[test]
fn without_the_right_to_a_raw_socket_the_check_says_so() {
    let refused = no_socket(&ErrorKind::PermissionDenied.into());
    assert_eq!(refused, Failure::NoRawSocket);
    assert_eq!(refused.code(), "NO_RESOURCES");
    assert!(refused.to_string().contains("CAP_NET_RAW"), "{refused}");
    let other = no_socket(&io::Error::from_raw_os_error(24));
    assert_eq!(other, Failure::OtherError, "too many open files");
}
