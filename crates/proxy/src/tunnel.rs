//! The byte pump: two directions, each with its own end.
//!
//! A direction waits until there is something to read, borrows a buffer of the thread, reads, and writes all of it
//! before it reads again: nothing is kept for an idle connection, and a slow reader slows the writer down. The end of
//! one direction is passed on as FIN while the other goes on; an error of one side resets the other. A direction that need
//! not wait lets other connections have their turn now and then (`weight`).

use crate::client::Client;
use crate::keepalive;
use crate::shared::{Counted, Service};
use crate::weight::Turn;
use std::cell::{Cell, RefCell};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::coop::unconstrained;
use tokio::time::Instant;

/// One read and one write; big enough that bulk is not bound by system calls.
const BUFFER_LEN: usize = 16 * 1024;
/// Buffers that a thread keeps for reuse.
const BUFFERS_KEPT: usize = 32;

thread_local! {
    static BUFFERS: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer of this thread, given back when dropped.
struct Buffer(Box<[u8]>);

impl Buffer {
    fn borrow() -> Self {
        let kept = BUFFERS.with_borrow_mut(Vec::pop);
        Self(kept.unwrap_or_else(|| vec![0; BUFFER_LEN].into_boxed_slice()))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.0);
        BUFFERS.with_borrow_mut(|kept| {
            if kept.len() < BUFFERS_KEPT {
                kept.push(buffer);
            }
        });
    }
}

/// Bytes of one direction: of the virtual service, of this connection, and of the server where they are the same.
pub(crate) struct Count<'a>(
    pub &'a AtomicU64,
    pub &'a Cell<u64>,
    pub Option<&'a AtomicU64>,
);

impl Count<'_> {
    pub(crate) fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, Relaxed);
        self.1.set(self.1.get() + bytes);
        if let Some(server) = self.2 {
            server.fetch_add(bytes, Relaxed);
        }
    }
}

/// When a byte last passed in either direction, and how many directions have some that the other end does not take.
pub(crate) struct Activity(Cell<Instant>, Cell<u8>);

impl Activity {
    /// Now.
    pub(crate) fn begin() -> Self {
        Self(Cell::new(Instant::now()), Cell::new(0))
    }

    /// A byte passes.
    pub(crate) fn touch(&self) {
        self.0.set(Instant::now());
    }

    /// A direction has something that the other end does not take, or has not any more.
    pub(crate) fn set_stuck(&self, stuck: bool) {
        let others = self.1.get();
        self.1.set(if stuck { others + 1 } else { others - 1 });
    }

    pub(crate) fn is_stuck(&self) -> bool {
        self.1.get() > 0
    }
}

/// Pumps until both directions have ended, one has failed, nothing passed for the idle timeout, or the connections of the
/// virtual service or of the server are cut.
pub(crate) async fn run(client: &Client, server: &TcpStream, service: &Service, counted: &Counted) {
    let activity = Activity::begin();
    let (traffic, client) = (&client.traffic, &client.stream);
    let (counters, meter) = (&service.counters, counted.meter());
    let count_in = Count(&counters.bytes_in, &traffic.bytes_in, Some(meter.sent()));
    let received = Some(meter.received());
    let count_out = Count(&counters.bytes_out, &traffic.bytes_out, received);
    let pumps = async {
        let up = pump(client, server, count_in, &activity, service);
        let down = pump(server, client, count_out, &activity, service);
        tokio::try_join!(up, down).map(drop)
    };
    // Turns say how long it may go on, and tokio's budget would cut the longer ones short.
    let pumps = unconstrained(pumps);
    let ended = tokio::select! {
        result = pumps => result,
        () = idle_for_good(service, &activity, [client, server]) => Err(io::ErrorKind::TimedOut.into()),
        () = service.cut.given() => Err(io::ErrorKind::ConnectionAborted.into()),
        () = counted.retired() => Err(io::ErrorKind::ConnectionAborted.into()),
    };
    if ended.is_err() {
        reset(client);
        reset(server);
    }
}

/// Ends when an idle connection is to be ended. One that is kept goes on, and the kernel ends it when an end is gone; but not
/// one whose end takes no more of what there is for it: the kernel asks no such end.
pub(crate) async fn idle_for_good(service: &Service, activity: &Activity, ends: [&TcpStream; 2]) {
    let mut asked = None;
    loop {
        let timeout = service.idle_timeout();
        idle(timeout, activity).await;
        let is_kept = service.keeps_idle() && !activity.is_stuck();
        let Some(after) = timeout.filter(|_| is_kept) else {
            return;
        };
        // Once: the kernel would ask at once again.
        if asked != timeout && keepalive::begin(ends, after).is_err() {
            return;
        }
        asked = timeout;
        tokio::time::sleep(after).await;
    }
}

async fn pump(
    from: &TcpStream,
    to: &TcpStream,
    count: Count<'_>,
    activity: &Activity,
    service: &Service,
) -> io::Result<()> {
    let mut turn = Turn::begin(service.weight());
    loop {
        if turn.is_over() {
            tokio::task::yield_now().await;
            turn = Turn::begin(service.weight());
        }
        from.readable().await?;
        let mut buffer = Buffer::borrow();
        match from.try_read(&mut buffer.0) {
            Ok(0) => {
                return socket2::SockRef::from(to)
                    .shutdown(std::net::Shutdown::Write)
                    .or_else(already_closed);
            }
            Ok(n) => {
                count.add(n as u64);
                turn.pass(n as u64);
                activity.touch();
                if write_all(to, &buffer.0[..n], activity).await? {
                    turn = Turn::begin(service.weight());
                }
            }
            // Now it waits.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                turn = Turn::begin(service.weight());
            }
            Err(error) => return Err(error),
        }
    }
}

pub(crate) fn already_closed(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotConnected {
        Ok(())
    } else {
        Err(error)
    }
}

/// Says whether it had to wait.
async fn write_all(to: &TcpStream, mut bytes: &[u8], activity: &Activity) -> io::Result<bool> {
    let mut has_waited = false;
    while !bytes.is_empty() {
        match to.try_write(bytes) {
            Ok(n) => {
                bytes = &bytes[n..];
                activity.touch();
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                activity.set_stuck(true);
                let writable = to.writable().await;
                activity.set_stuck(false);
                writable?;
                has_waited = true;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(has_waited)
}

/// Ends when nothing has passed for `timeout`.
pub(crate) async fn idle(timeout: Option<Duration>, activity: &Activity) {
    let Some(timeout) = timeout else {
        return std::future::pending().await;
    };
    loop {
        let until = activity.0.get() + timeout;
        if until <= Instant::now() {
            return;
        }
        tokio::time::sleep_until(until).await;
    }
}

/// Closing this socket sends RST instead of FIN.
pub(crate) fn reset(stream: &TcpStream) {
    // A socket that is gone already needs no RST.
    socket2::SockRef::from(stream)
        .set_linger(Some(Duration::ZERO))
        .ok();
}
