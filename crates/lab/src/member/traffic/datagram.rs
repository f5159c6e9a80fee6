//! UDP flows: each sends a numbered message at its interval, and asks who answered.
//!
//! The server says which socket it saw. When that changes, another SE serves the flow, or the same one anew: it is broken,
//! although every datagram is answered. A datagram may be lost; one that is lost again and again, for as long as a flow waits for an answer, is a broken flow.

use super::super::frame::Frame;
use super::{Books, Failure, Shared, failure_of};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep_until, timeout_at};

/// A datagram without an answer for so long is sent again.
const REPEAT_AFTER: Duration = Duration::from_secs(1);
/// Longest answer: who was seen, and the message.
const ANSWER_LEN_MAX: usize = 512;

/// Opens UDP flows until there are as many as there should be, and waits until each works or failed.
pub(super) async fn open_missing(books: &Shared) {
    let (target, wanted) = {
        let books = books.borrow();
        (books.args.datagrams_to, books.args.datagram_flows)
    };
    let Some(target) = target else { return };
    while books.borrow().datagrams.len() + books.borrow().opening < wanted {
        books.borrow_mut().opening += 1;
        let task = spawn_local(live(Rc::clone(books), target));
        books.borrow_mut().tasks.push(task.abort_handle());
    }
    while books.borrow().opening > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A flow, until it breaks.
async fn live(books: Shared, target: SocketAddr) {
    let flow = books.borrow_mut().new_flow();
    let opened = Flow::open(&books, flow, target).await;
    books.borrow_mut().opening -= 1;
    let failure = match opened {
        Ok(opened) => {
            let lives = (opened.port, opened.engine());
            books.borrow_mut().datagrams.insert(flow, lives);
            let failure = opened.converse(&books, flow).await;
            books.borrow_mut().datagrams.remove(&flow);
            failure
        }
        Err(failure) => failure,
    };
    books.borrow_mut().report.datagrams_broken.push(failure);
}

struct Flow {
    socket: UdpSocket,
    port: u16,
    /// The socket that the server saw.
    seen: String,
}

impl Flow {
    /// Sends the first message; whoever serves that has the flow.
    async fn open(books: &Shared, flow: u64, target: SocketAddr) -> Result<Self, Failure> {
        let port = books.borrow_mut().new_port();
        let failed = |error: &io::Error| failure_of(port, None, error);
        let any: SocketAddr = match target {
            SocketAddr::V4(_) => ([0_u8; 4], port).into(),
            SocketAddr::V6(_) => ([0_u16; 8], port).into(),
        };
        let socket = UdpSocket::bind(any).await.map_err(|e| failed(&e))?;
        socket.connect(target).await.map_err(|e| failed(&e))?;
        let mut opened = Self {
            socket,
            port,
            seen: String::new(),
        };
        opened.seen = opened.ask(books, flow, 0).await.map_err(|e| failed(&e))?;
        Ok(opened)
    }

    /// Sends messages until one fails, or another socket is seen.
    async fn converse(&self, books: &Shared, flow: u64) -> Failure {
        let pause = Duration::from_millis(books.borrow().args.interval_ms);
        let mut next = Instant::now() + pause.mul_f64((flow % 97) as f64 / 97.0);
        for sequence in 1.. {
            sleep_until(next).await;
            match self.ask(books, flow, sequence).await {
                Ok(seen) if seen == self.seen => (),
                Ok(seen) => return self.failure(&io::Error::other(format!("now {seen}"))),
                Err(error) => return self.failure(&error),
            }
            next = (next + pause).max(Instant::now());
        }
        unreachable!("no flow lives for 2^64 messages")
    }

    /// One message, sent again while it has no answer; the socket that the server saw.
    async fn ask(&self, books: &Shared, flow: u64, sequence: u64) -> io::Result<String> {
        let frame = Frame::new(flow, sequence);
        let began = Instant::now();
        let until = began + books.borrow().patience();
        let mut next = began;
        while next < until {
            books.borrow_mut().report.datagrams_repeated += u64::from(next > began);
            next += REPEAT_AFTER;
            match timeout_at(next, self.try_once(&frame)).await {
                Ok(Ok(seen)) => {
                    books.borrow_mut().count_datagram(began.elapsed());
                    return Ok(seen);
                }
                Ok(Err(error)) if is_loss(&error) => sleep_until(next).await,
                Ok(Err(error)) => return Err(error),
                Err(_) => (),
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    async fn try_once(&self, frame: &Frame) -> io::Result<String> {
        self.socket.send(frame.bytes()).await?;
        self.answer(frame).await
    }

    /// Waits for the answer to this message; late ones to earlier messages are passed over.
    async fn answer(&self, frame: &Frame) -> io::Result<String> {
        let mut buffer = [0; ANSWER_LEN_MAX];
        loop {
            let length = self.socket.recv(&mut buffer).await?;
            let answer = &buffer[..length];
            let line = answer.iter().position(|byte| *byte == b'\n');
            let Some((seen, message)) = line.map(|at| answer.split_at(at)) else {
                return Err(io::ErrorKind::InvalidData.into());
            };
            if &message[1..] == frame.bytes() {
                return Ok(String::from_utf8_lossy(seen).into_owned());
            }
        }
    }

    /// The SE whose socket the server saw.
    fn engine(&self) -> Option<IpAddr> {
        let socket: SocketAddr = self.seen.rsplit(' ').next()?.parse().ok()?;
        Some(socket.ip().to_canonical())
    }

    fn failure(&self, error: &io::Error) -> Failure {
        failure_of(self.port, self.engine(), error)
    }
}

/// True for what a router says while it has no route: the datagram is lost, and the flow is not.
fn is_loss(error: &io::Error) -> bool {
    use io::ErrorKind::{HostUnreachable, NetworkUnreachable};
    matches!(error.kind(), HostUnreachable | NetworkUnreachable)
}

impl Books {
    fn count_datagram(&mut self, took: Duration) {
        self.report.datagrams += 1;
        self.count_gap(took);
    }
}
