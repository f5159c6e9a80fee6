//! Over loopback. Moving a clock takes CAP_NET_ADMIN over the namespace; where that is missing, a test says so.
#![allow(clippy::print_stderr, clippy::disallowed_macros)]

use super::*;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// More than any round trip, less than what trips PAWS.
const JUMP: u32 = 1 << 25;

/// A listener and both ends of a connection to it, the server's first. The IP address is this process's own: no other
/// takes the port between two listeners.
fn connection() -> (TcpListener, TcpStream, TcpStream) {
    let [_, a, b, c] = std::process::id().to_be_bytes();
    let own = Ipv4Addr::new(127, a + 1, b, c);
    let listener = TcpListener::bind((own, 0)).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_nodelay(true).unwrap();
    client
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let server = listener.accept().unwrap().0;
    (listener, server, client)
}

/// Whether a clock can be moved here; says why not, and fails where CI must run all.
fn can_run() -> bool {
    let (_listener, server, _client) = connection();
    let Err(ClockError::NotPermitted) = move_clock(&server, |now| now) else {
        return true;
    };
    let why = ClockError::NotPermitted;
    assert!(std::env::var_os("CI").is_none(), "CI must run this: {why}");
    eprintln!("SKIPPED: {why}");
    false
}

fn repair_mode(socket: &TcpStream) -> libc::c_int {
    get(
        socket,
        libc::IPPROTO_TCP,
        libc::TCP_REPAIR,
        "TCP_REPAIR",
        -7,
    )
    .unwrap()
}

fn pass(from: &mut TcpStream, to: &mut TcpStream) {
    let mut word = [0; 4];
    from.write_all(b"word").unwrap();
    to.read_exact(&mut word).unwrap();
    assert_eq!(&word, b"word");
}

/// Loopback acknowledges while the write lasts or soon after.
fn acknowledged(socket: &TcpStream) -> Sending {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let sending = sending(socket).unwrap();
        if (sending.segments_unacked, sending.bytes_unsent) == (0, 0) {
            return sending;
        }
        assert!(Instant::now() < end, "not acknowledged: {sending:?}");
        std::thread::yield_now();
    }
}

#[test]
fn a_moved_clock_reads_on_from_there_and_data_passes_both_ways() {
    if !can_run() {
        return;
    }
    let (_listener, mut server, mut client) = connection();
    let mut seen = 0;
    let moved = move_clock(&server, |now| {
        seen = now;
        now.wrapping_add(JUMP + 1)
    });
    assert_eq!(moved.unwrap(), seen.wrapping_add(JUMP), "bit 0 is cleared");
    pass(&mut server, &mut client);
    pass(&mut client, &mut server);
    let sending = acknowledged(&server);
    assert_eq!(sending.timestamps, Timestamps::Milliseconds);
    assert!(sending.open && sending.bytes_acked >= 4, "{sending:?}");
    move_clock(&server, |now| {
        assert!(
            now.wrapping_sub(seen.wrapping_add(JUMP)) < 20_000,
            "it goes on from there"
        );
        now.wrapping_add(JUMP)
    })
    .unwrap();
    pass(&mut server, &mut client);
}

#[test]
fn repair_mode_is_left_after_success_and_after_a_failure_in_the_middle() {
    if !can_run() {
        return;
    }
    let (_listener, mut server, mut client) = connection();
    move_clock(&server, |now| now.wrapping_add(JUMP)).unwrap();
    assert_eq!(repair_mode(&server), 0);
    let middle = std::panic::AssertUnwindSafe(|| {
        move_clock(&server, |_| {
            assert_eq!(repair_mode(&server), 1, "this is the middle");
            std::panic::resume_unwind(Box::new("the middle"))
        })
    });
    std::panic::catch_unwind(middle).unwrap_err();
    assert_eq!(repair_mode(&server), 0);
    assert!(SockRef::from(&server).reuse_address().unwrap());
    pass(&mut server, &mut client);
}

#[test]
fn a_listener_without_reuse_port_is_bound_again_while_a_moved_connection_lives() {
    if !can_run() {
        return;
    }
    let (listener, mut server, mut client) = connection();
    let address = listener.local_addr().unwrap();
    move_clock(&server, |now| now.wrapping_add(JUMP)).unwrap();
    drop(listener);
    // std sets SO_REUSEADDR, which helps only while every other socket of the port has it too.
    let again = TcpListener::bind(address).unwrap();
    SockRef::from(&server).set_reuse_address(false).unwrap();
    drop(again);
    let error = TcpListener::bind(address).expect_err("the trap");
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    pass(&mut server, &mut client);
}

#[test]
fn what_waits_is_counted_until_the_client_has_acknowledged_it() {
    let (_listener, mut server, mut client) = connection();
    let before = sending(&server).unwrap();
    assert_eq!((before.segments_unacked, before.bytes_unsent), (0, 0));
    server.set_nonblocking(true).unwrap();
    let mut written = 0_u64;
    while let Ok(n) = server.write(&[7; 65_536]) {
        written += n as u64;
    }
    let full = sending(&server).unwrap();
    assert!(full.bytes_unsent > 0, "the client does not read: {full:?}");
    std::io::copy(&mut (&mut client).take(written), &mut std::io::sink()).unwrap();
    assert_eq!(
        acknowledged(&server).bytes_acked - before.bytes_acked,
        written
    );
    server.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(!acknowledged(&server).open);
}

#[test]
fn without_the_capability_the_error_says_so_and_the_connection_goes_on() {
    let thread = std::thread::spawn(|| {
        give_up_net_admin();
        let (_listener, mut server, mut client) = connection();
        let result = move_clock(&server, |now| now.wrapping_add(JUMP));
        assert!(
            matches!(result, Err(ClockError::NotPermitted)),
            "{result:?}"
        );
        pass(&mut server, &mut client);
    });
    thread.join().unwrap();
}

/// Takes CAP_NET_ADMIN from the calling thread.
fn give_up_net_admin() {
    const VERSION_3: u32 = 0x2008_0522;
    let mut header = [VERSION_3, 0];
    // Effective, permitted, inheritable; the lower 32 capabilities, then the upper.
    let mut sets = [0_u32; 6];
    // SAFETY: both pointers are to arrays with the layout that this version of the interface reads and writes
    // (`linux/capability.h`); 0 is the calling thread.
    let result = unsafe { libc::syscall(libc::SYS_capget, header.as_mut_ptr(), sets.as_mut_ptr()) };
    assert_eq!(result, 0, "capget");
    const NET_ADMIN: u32 = 12;
    sets[..3]
        .iter_mut()
        .for_each(|set| *set &= !(1 << NET_ADMIN));
    // SAFETY: as above; giving up a capability affects this thread only.
    let result = unsafe { libc::syscall(libc::SYS_capset, header.as_mut_ptr(), sets.as_ptr()) };
    assert_eq!(result, 0, "capset");
}

/// What the kernel of the server takes for the round trip after its clock has moved so far and data has come that
/// echoes an earlier timestamp.
fn round_trip_after(jump: u32) -> Duration {
    let (_listener, mut server, mut client) = connection();
    move_clock(&server, |now| now.wrapping_add(jump)).unwrap();
    // One segment, a full one as far as the kernel knows. From the second window on it has better measures.
    client.write_all(&[7; 20_000]).unwrap();
    server.read_exact(&mut [0; 20_000]).unwrap();
    // SAFETY: the structure consists of integers, for all of which zero is a value.
    let zeroed: libc::tcp_info = unsafe { std::mem::zeroed() };
    let info = get(
        &server,
        libc::IPPROTO_TCP,
        libc::TCP_INFO,
        "TCP_INFO",
        zeroed,
    )
    .unwrap();
    Duration::from_micros(info.tcpi_rcv_rtt.into())
}

#[test]
fn a_jump_of_4194304_ms_passes_for_no_round_trip_and_one_of_half_does() {
    if !can_run() {
        return;
    }
    assert!(round_trip_after(1 << 22) < Duration::from_secs(20));
    assert!(round_trip_after(1 << 21) > Duration::from_secs(20));
}

#[test]
fn moving_a_clock_takes_microseconds() {
    if !can_run() {
        return;
    }
    const MOVES: u32 = 10_000;
    let (_listener, server, _client) = connection();
    let begun = Instant::now();
    for _ in 0..MOVES {
        move_clock(&server, |now| now).unwrap();
    }
    let each = begun.elapsed() / MOVES;
    let begun = Instant::now();
    for _ in 0..MOVES {
        sending(&server).unwrap();
    }
    let reading = begun.elapsed() / MOVES;
    eprintln!("moving a clock: {each:?}; reading what is under way: {reading:?}");
    // Generous: a machine that is busy with something else shall not fail here.
    assert!(each < Duration::from_millis(1), "{each:?}");
}
