//! `lab member traffic`: a client whose own checks say which flows are broken.
//!
//! ```text
//!  stdin ─thread─▶ orders ─▶ main task ──▶ stdout: a report each 200 ms, a reply per order
//!                              │ owns
//!            ┌─────────────────┼───────────────┬───────────────┐
//!      long-lived × N     short × R/s   down- and uploads × M   pacer (starts the short ones)
//!            └───── all share Books, on one thread ────────────┘
//! ```
//! All tasks live on one thread and share the books; each short one ends with its connection or its deadline,
//! a long-lived one when its flow breaks, a download or upload follows the one before it. All end with the process. Source
//! ports are handed out in sequence from a random start, so no flow of a run has the 4-tuple of an earlier one.

use super::frame::{Frame, read_banner};
use super::{Order, now_us, orders, say};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, LocalSet, spawn_local};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

mod datagram;
mod download;
mod histogram;
mod report;
mod transfer;
mod upload;

use histogram::Histogram;
pub use report::{EngineShare, Exchange, Failure, Report};

/// Between two reports.
const REPORT_INTERVAL: Duration = Duration::from_millis(200);
/// A flow without an answer for so many milliseconds is broken: longer than any retransmission of a live one in the lab,
/// while the router has a route.
pub const ANSWER_TIMEOUT_MS: u64 = 3000;
/// Orders waiting; the scenario waits for each answer, so one is usual.
const ORDERS_MAX: usize = 16;
/// Source ports handed out; below are well-known services, above nothing.
pub const PORTS: std::ops::Range<u16> = 10_000..65_000;
/// Ports tried before a connection is given up: those in TIME_WAIT are skipped.
const PORT_ATTEMPTS_MAX: usize = 100;
/// Failed short connections that are kept with their port, per mark.
const FAILURES_KEPT_MAX: usize = 1000;

/// Arguments of `lab member traffic`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The VIP and port.
    #[arg(long)]
    target: SocketAddr,
    /// Long-lived connections.
    #[arg(long, default_value_t = 200)]
    connections: usize,
    /// Milliseconds between two messages of a long-lived connection.
    #[arg(long, default_value_t = 100)]
    interval_ms: u64,
    /// A flow without an answer for so long is broken.
    #[arg(long, default_value_t = ANSWER_TIMEOUT_MS)]
    answer_timeout_ms: u64,
    /// Keep every exchange of the long-lived connections for the order `exchanges`.
    #[arg(long)]
    keep_exchanges: bool,
    /// Short connections per second; 0 for none.
    #[arg(long, default_value_t = 200)]
    short_per_s: u32,
    /// First source port: another client has others, so that a port names a flow.
    #[arg(long, default_value_t = PORTS.start)]
    first_port: u16,
    /// The one after the last.
    #[arg(long, default_value_t = PORTS.end)]
    end_port: u16,
    /// Where `lab member http` is reached.
    #[arg(long)]
    download_from: Option<SocketAddr>,
    /// Downloads under way at any time.
    #[arg(long, default_value_t = 0)]
    downloads: usize,
    /// Bytes of each.
    #[arg(long, default_value_t = 8 << 20)]
    download_bytes: u64,
    /// Its pace.
    #[arg(long, default_value_t = 2 << 20)]
    download_bytes_per_s: u64,
    /// Where `lab member http` takes uploads.
    #[arg(long)]
    upload_to: Option<SocketAddr>,
    /// Uploads under way at any time.
    #[arg(long, default_value_t = 0)]
    uploads: usize,
    /// Bytes of each.
    #[arg(long, default_value_t = 8 << 20)]
    upload_bytes: u64,
    /// Its pace.
    #[arg(long, default_value_t = 2 << 20)]
    upload_bytes_per_s: u64,
    /// Where `lab member echo` is reached by UDP.
    #[arg(long)]
    datagrams_to: Option<SocketAddr>,
    /// UDP flows, each with a message per interval.
    #[arg(long, default_value_t = 0)]
    datagram_flows: usize,
}

/// What all tasks share.
struct Books {
    args: Args,
    next_port: u16,
    report: Report,
    /// Times between a message and its answer.
    times: Histogram,
    /// All of them since the last mark, where they are kept.
    exchanges: Vec<Exchange>,
    /// Living long-lived connections: source port and the SE that the server saw.
    flows: BTreeMap<u64, (u16, Option<IpAddr>)>,
    /// Downloads and uploads under way: source port, and the SE that the server saw, once it has said so.
    downloading: BTreeMap<u16, Option<IpAddr>>,
    uploading: BTreeMap<u16, Option<IpAddr>>,
    /// Living UDP flows: source port and the SE that the server saw.
    datagrams: BTreeMap<u64, (u16, Option<IpAddr>)>,
    /// Long-lived connections and UDP flows that are being opened.
    opening: usize,
    /// Ends the long-lived connections, living or not.
    tasks: Vec<AbortHandle>,
    /// Short connections under way.
    visits: BTreeSet<u64>,
    next_flow: u64,
}

type Shared = Rc<RefCell<Books>>;

/// Sends until standard input ends or says `stop`.
pub(super) fn run(args: Args) -> Result<()> {
    ensure!(
        args.first_port < args.end_port,
        "--first-port must be below --end-port"
    );
    super::raise_descriptors();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start a runtime")?;
    let (sender, receiver) = mpsc::channel(ORDERS_MAX);
    // Ends with standard input; the process does not wait for it.
    std::thread::spawn(move || orders().try_for_each(|order| sender.blocking_send(order)));
    LocalSet::new().block_on(&runtime, attend(Books::new(args), receiver))
}

async fn attend(books: Shared, mut orders: mpsc::Receiver<Order>) -> Result<()> {
    say(&json!({ "ready": true }))?;
    open_missing(&books).await;
    datagram::open_missing(&books).await;
    if books.borrow().args.short_per_s > 0 {
        spawn_local(pace(Rc::clone(&books)));
    }
    download::start(&books);
    upload::start(&books);
    let mut reports = interval(REPORT_INTERVAL);
    loop {
        // Cancel safe: both lose nothing when the other is ready first.
        tokio::select! {
            _ = reports.tick() => say(&books.borrow().now())?,
            order = orders.recv() => match order {
                Some(order) if order.verb != "stop" => obey(&books, &order).await?,
                _ => return Ok(()),
            },
        }
    }
}

async fn obey(books: &Shared, order: &Order) -> Result<()> {
    match order.verb.as_str() {
        "mark" => books.borrow_mut().mark(),
        "share" => books
            .borrow_mut()
            .report
            .engines
            .values_mut()
            .for_each(|e| e.share = 0),
        "reopen" => {
            open_missing(books).await;
            datagram::open_missing(books).await;
        }
        "renew" => {
            books.borrow_mut().end_all();
            open_missing(books).await;
            datagram::open_missing(books).await;
        }
        "report" => settle(books).await,
        "flows" => (),
        "exchanges" => {
            let exchanges = &books.borrow().exchanges;
            return say(&json!({ "reply": order.id, "exchanges": exchanges }));
        }
        other => {
            return say(&json!({ "reply": order.id, "error": format!("unknown order {other}") }));
        }
    }
    let books = books.borrow();
    let (report, flows, others) = (books.now(), books.long_lived(), books.others());
    say(&json!({ "reply": order.id, "report": report, "flows": flows, "others": others }))
}

/// Opens long-lived connections until there are as many as there should be, and waits until each works or failed.
async fn open_missing(books: &Shared) {
    let wanted = books.borrow().args.connections;
    while books.borrow().flows.len() + books.borrow().opening < wanted {
        books.borrow_mut().opening += 1;
        let task = spawn_local(live(Rc::clone(books)));
        books.borrow_mut().tasks.push(task.abort_handle());
    }
    // Every opening ends by itself: its steps have deadlines.
    while books.borrow().opening > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits for the short connections that are under way, so that each is counted where it began.
async fn settle(books: &Shared) {
    let last = books.borrow().next_flow;
    let until = Instant::now() + 2 * books.borrow().patience();
    let under_way = || books.borrow().visits.first().is_some_and(|v| *v <= last);
    while under_way() && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A long-lived connection, until it breaks.
async fn live(books: Shared) {
    let flow = books.borrow_mut().new_flow();
    let opened = Connection::open(&books).await;
    books.borrow_mut().opening -= 1;
    let mut connection = match opened {
        Ok(connection) => connection,
        Err(failure) => return books.borrow_mut().report.broken.push(failure),
    };
    let lives = (connection.port, connection.engine);
    books.borrow_mut().flows.insert(flow, lives);
    let failure = connection.converse(&books, flow).await;
    let mut books = books.borrow_mut();
    books.flows.remove(&flow);
    books.report.broken.push(failure);
}

/// Starts short connections at an even pace.
async fn pace(books: Shared) {
    let mut ticks = interval(Duration::from_secs(1) / books.borrow().args.short_per_s);
    // After a pause the rate goes on; it does not make up for what it missed in one burst.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        spawn_local(visit(Rc::clone(&books)));
    }
}

/// A short connection: banner, one exchange, close.
async fn visit(books: Shared) {
    let flow = books.borrow_mut().new_flow();
    books.borrow_mut().visits.insert(flow);
    let result = match Connection::open(&books).await {
        Ok(mut connection) => {
            let exchanged = connection
                .exchange(flow, 0)
                .await
                .map_err(|e| connection.failure(&e));
            exchanged.map(|_| connection.engine)
        }
        Err(failure) => Err(failure),
    };
    let mut books = books.borrow_mut();
    books.visits.remove(&flow);
    books.count_short(result);
}

struct Connection {
    stream: TcpStream,
    /// How long it waits for an answer.
    patience: Duration,
    port: u16,
    engine: Option<IpAddr>,
}

impl Connection {
    /// Connects and reads the banner.
    async fn open(books: &Shared) -> Result<Self, Failure> {
        let (target, patience) = {
            let books = books.borrow();
            (books.args.target, books.patience())
        };
        let socket = books.borrow_mut().socket(target);
        let (socket, port) = socket.map_err(|e| failure_of(0, None, &e))?;
        let opened = within(patience, async {
            let mut stream = socket.connect(target).await?;
            stream.set_nodelay(true)?;
            let banner = read_banner(&mut stream).await?;
            Ok((stream, banner))
        });
        let (stream, banner) = opened.await.map_err(|e| failure_of(port, None, &e))?;
        let engine = banner
            .rsplit(' ')
            .next()
            .and_then(|address| address.parse().ok());
        books.borrow_mut().meet(engine);
        Ok(Self {
            stream,
            patience,
            port,
            engine,
        })
    }

    /// Exchanges messages until one fails.
    async fn converse(&mut self, books: &Shared, flow: u64) -> Failure {
        let pause = Duration::from_millis(books.borrow().args.interval_ms);
        // Spread over the interval, so that not all flows speak at once.
        let mut next = Instant::now() + pause.mul_f64((flow % 97) as f64 / 97.0);
        for sequence in 0.. {
            sleep_until(next).await;
            match self.exchange(flow, sequence).await {
                Ok(took) => books.borrow_mut().count_exchange(self.port, took),
                Err(error) => return self.failure(&error),
            }
            next = (next + pause).max(Instant::now());
        }
        unreachable!("no flow lives for 2^64 messages")
    }

    /// One message and its answer, which must be the same.
    async fn exchange(&mut self, flow: u64, sequence: u64) -> io::Result<Duration> {
        let sent = Instant::now();
        let frame = Frame::new(flow, sequence);
        let stream = &mut self.stream;
        let answer = within(self.patience, async {
            stream.write_all(frame.bytes()).await?;
            Frame::read(stream).await
        });
        match answer.await? {
            Some(answer) if answer == frame => Ok(sent.elapsed()),
            Some(_) => Err(io::ErrorKind::InvalidData.into()),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn failure(&self, error: &io::Error) -> Failure {
        failure_of(self.port, self.engine, error)
    }
}

/// Bounds a step of a connection. Cancel safe: a connection is given up after a timeout.
async fn within<T>(patience: Duration, step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(patience, step)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn failure_of(port: u16, engine: Option<IpAddr>, error: &io::Error) -> Failure {
    Failure {
        port,
        reason: reason(error),
        engine,
        t_us: now_us(),
    }
}

/// The word for what no router had a way for.
pub const UNREACHABLE: &str = "unreachable";

/// A word for what ended a flow.
fn reason(error: &io::Error) -> String {
    let word = match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "reset",
        io::ErrorKind::ConnectionRefused => "refused",
        io::ErrorKind::UnexpectedEof => "closed",
        io::ErrorKind::TimedOut => "timeout",
        io::ErrorKind::InvalidData => "corrupt",
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => UNREACHABLE,
        _ => return error.to_string(),
    };
    word.to_owned()
}

impl Books {
    fn new(args: Args) -> Shared {
        Rc::new(RefCell::new(Self {
            next_port: rand::random_range(args.first_port..args.end_port),
            args,
            report: Report::default(),
            times: Histogram::default(),
            exchanges: Vec::new(),
            flows: BTreeMap::new(),
            downloading: BTreeMap::new(),
            uploading: BTreeMap::new(),
            datagrams: BTreeMap::new(),
            opening: 0,
            tasks: Vec::new(),
            visits: BTreeSet::new(),
            next_flow: 0,
        }))
    }

    fn patience(&self) -> Duration {
        Duration::from_millis(self.args.answer_timeout_ms)
    }

    /// Living long-lived connections with the SE of each.
    fn long_lived(&self) -> BTreeMap<u16, Option<IpAddr>> {
        self.flows.values().copied().collect()
    }

    /// The same of UDP flows, downloads and uploads.
    fn others(&self) -> BTreeMap<u16, Option<IpAddr>> {
        let transfers = self.downloading.iter().chain(&self.uploading);
        let transfers = transfers.map(|(port, engine)| (*port, *engine));
        self.datagrams.values().copied().chain(transfers).collect()
    }

    fn new_flow(&mut self) -> u64 {
        self.next_flow += 1;
        self.next_flow
    }

    /// A socket on the next free source port, of the target's family.
    fn socket(&mut self, target: SocketAddr) -> io::Result<(TcpSocket, u16)> {
        for _ in 0..PORT_ATTEMPTS_MAX {
            let port = self.new_port();
            let (socket, any) = if target.is_ipv4() {
                (TcpSocket::new_v4()?, Ipv4Addr::UNSPECIFIED.into())
            } else {
                (TcpSocket::new_v6()?, Ipv6Addr::UNSPECIFIED.into())
            };
            match socket.bind(SocketAddr::new(any, port)) {
                Ok(()) => return Ok((socket, port)),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => (),
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AddrInUse.into())
    }

    fn new_port(&mut self) -> u16 {
        let port = self.next_port;
        let next = port + 1;
        self.next_port = if next < self.args.end_port {
            next
        } else {
            self.args.first_port
        };
        port
    }

    fn meet(&mut self, engine: Option<IpAddr>) {
        let Some(engine) = engine else { return };
        let share = self.report.engines.entry(engine).or_default();
        if share.first_us == 0 {
            share.first_us = now_us();
        }
    }

    fn count_exchange(&mut self, port: u16, took: Duration) {
        self.report.exchanges += 1;
        if self.args.keep_exchanges {
            self.exchanges.push(Exchange::just_now(port, took));
        }
        self.times.add(took);
        self.count_gap(took);
    }

    fn count_gap(&mut self, waited: Duration) {
        let waited_ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
        self.report.longest_gap_ms = self.report.longest_gap_ms.max(waited_ms);
    }

    fn count_short(&mut self, result: Result<Option<IpAddr>, Failure>) {
        match result {
            Ok(engine) => {
                self.report.short_ok += 1;
                let share = engine.and_then(|e| self.report.engines.get_mut(&e));
                share.into_iter().for_each(|s| s.share += 1);
            }
            Err(failure) => {
                self.report.short_failed += 1;
                if self.report.short_failures.len() < FAILURES_KEPT_MAX {
                    self.report.short_failures.push(failure);
                }
            }
        }
    }

    /// Closes all long-lived connections and UDP flows; they do not count as broken.
    fn end_all(&mut self) {
        self.tasks.drain(..).for_each(|task| task.abort());
        self.opening = 0;
        self.flows.clear();
        self.datagrams.clear();
    }

    /// From here on everything is counted anew.
    fn mark(&mut self) {
        self.report = Report {
            download_ports: self.downloading.keys().copied().collect(),
            upload_ports: self.uploading.keys().copied().collect(),
            ..Report::default()
        };
        self.times = Histogram::default();
        self.exchanges.clear();
    }

    fn now(&self) -> Report {
        Report {
            t_us: now_us(),
            alive: self.flows.len(),
            p50_us: self.times.quantile_us(0.5),
            p99_us: self.times.quantile_us(0.99),
            datagram_flows: self.datagrams.len(),
            ..self.report.clone()
        }
    }
}

#[cfg(test)]
mod tests;
