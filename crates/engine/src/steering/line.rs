//! Lines to the other members' processes: a TCP connection for each way, on which nothing is said but a first HELLO. When a
//! process is killed its kernel ends them at once, and when it comes up it opens them: both move flows, and a router
//! acts on it sooner than a hello is missed ([`super::hello`]) or the controller tells.
//!
//! What counts are the lines that others have opened to us. A HELLO with a number is a question whether we are there
//! ([`super::sentry`]): it is answered, and the connection ends; it may come from any engine of our SE group.
//!
//! Tasks: one per local address, that accepts; one per way, that keeps our own line open; one per line of others. All end
//! with [`run`].

use super::Plan;
use super::hello::letters;
use crate::Task;
use dataplane::sockopt;
use flow::config::MessageKey;
use flow::hello::Way;
use flow::wire::{Envelope, MESSAGE_LEN, MESSAGE_PORT, Message, MessageKind};
use socket2::{Domain, Socket, TcpKeepalive, Type};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Lines that other members hold to us, and since when.
pub(crate) type Lines = BTreeMap<Way, Instant>;

/// Before a line that has ended, or could not be opened, is tried again; and before an address is.
const RETRY: Duration = Duration::from_millis(300);

/// Longest wait for a connection, and for its HELLO.
const OPENING: Duration = Duration::from_secs(1);

/// A host that has died says nothing: then a line ends after twice this.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// With so many connections at an address, only members' are taken.
const STRANGERS: usize = 256;

/// Of the kernel's queue; each way opens one.
const BACKLOG: i32 = 64;

/// Keeps lines on all ways of the plan, and publishes those that others keep to us. When we are `leaving` our own end: to the
/// others the process is gone. Cancel-safe: it waits for a newer plan.
pub(crate) async fn run(
    mut plans: watch::Receiver<Arc<Plan>>,
    lines: watch::Sender<Lines>,
    leaving: CancellationToken,
) {
    let mut ours: BTreeMap<Way, Task<()>> = BTreeMap::new();
    let mut doors: BTreeMap<IpAddr, Task<()>> = BTreeMap::new();
    loop {
        let plan = plans.borrow_and_update().clone();
        let ways: BTreeSet<Way> = letters(&plan.config).into_keys().collect();
        let locals = locals(&plan, &ways);
        ours.retain(|way, _| ways.contains(way));
        doors.retain(|local, _| locals.contains(local));
        for local in locals {
            let door = || answer(local, plans.clone(), lines.clone());
            doors
                .entry(local)
                .or_insert_with(|| Task(tokio::spawn(door())));
        }
        for way in ways.into_iter().filter(|_| !leaving.is_cancelled()) {
            ours.entry(way)
                .or_insert_with(|| Task(tokio::spawn(keep(way, plans.clone()))));
        }
        tokio::select! {
            changed = plans.changed() => if changed.is_err() { return },
            () = leaving.cancelled(), if !ours.is_empty() => ours.clear(),
        }
    }
}

/// Where others may call us, once they can be told from strangers.
fn locals(plan: &Plan, ways: &BTreeSet<Way>) -> BTreeSet<IpAddr> {
    if plan.config.settings.message_keys.is_empty() {
        return BTreeSet::new();
    }
    let ours = plan.config.addresses.iter().copied();
    ours.chain(ways.iter().map(|way| way.local)).collect()
}

/// Keeps our line on this way.
async fn keep(way: Way, plans: watch::Receiver<Arc<Plan>>) {
    loop {
        let first = hello(&way, &plans.borrow());
        if let Some(first) = first
            && let Ok(Ok(line)) = timeout(OPENING, open(&way, &first)).await
        {
            ended(line).await;
        }
        sleep(RETRY).await;
    }
}

fn hello(way: &Way, plan: &Plan) -> Option<[u8; MESSAGE_LEN]> {
    let key = plan.config.settings.message_keys.first()?;
    Some(letters(&plan.config).get(way)?.sign(key))
}

async fn open(way: &Way, first: &[u8]) -> io::Result<TcpStream> {
    let socket = socket(way.local, 0)?;
    let socket = TcpSocket::from_std_stream(socket.into());
    let remote = SocketAddr::new(way.remote, MESSAGE_PORT);
    let mut line = socket.connect(remote).await?;
    line.write_all(first).await?;
    Ok(line)
}

/// Accepts lines of members, and questions, at this address of ours.
async fn answer(local: IpAddr, plans: watch::Receiver<Arc<Plan>>, lines: watch::Sender<Lines>) {
    let door = door(local).await;
    let mut visitors: Vec<Task<()>> = Vec::new();
    loop {
        let Ok((line, from)) = door.accept().await else {
            sleep(RETRY).await;
            continue;
        };
        let remote = from.ip().to_canonical();
        let way = Way { local, remote };
        visitors.retain(|task| !task.0.is_finished());
        let is_member = letters(&plans.borrow().config).contains_key(&way);
        if is_member || visitors.len() < STRANGERS {
            let visit = visit(way, line, plans.clone(), lines.clone());
            visitors.push(Task(tokio::spawn(visit)));
        }
    }
}

/// Waits until the address is there.
async fn door(local: IpAddr) -> TcpListener {
    let mut told = false;
    loop {
        match listen(local) {
            Ok(door) => return door,
            Err(error) if !told => {
                tracing::warn!(%local, "no lines of other engines here: {error}")
            }
            Err(_) => {}
        }
        told = true;
        sleep(RETRY).await;
    }
}

fn listen(local: IpAddr) -> io::Result<TcpListener> {
    let socket = socket(local, MESSAGE_PORT)?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn socket(local: IpAddr, port: u16) -> io::Result<Socket> {
    let address = SocketAddr::new(local, port);
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    socket.set_reuse_address(true)?;
    sockopt::set_tos(&socket, local, sockopt::TOS_CS6).map_err(io::Error::other)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE);
    let keepalive = keepalive.with_interval(KEEPALIVE / 2).with_retries(2);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// A connection that another one has opened: a question, or a line.
async fn visit(
    way: Way,
    mut line: TcpStream,
    plans: watch::Receiver<Arc<Plan>>,
    lines: watch::Sender<Lines>,
) {
    let mut first = [0; MESSAGE_LEN];
    let read = timeout(OPENING, line.read_exact(&mut first)).await;
    let plan = plans.borrow().clone();
    let Some((hello, key)) = read
        .ok()
        .and_then(Result::ok)
        .and_then(|_| hello_in(&first, &plan.config.settings.message_keys))
    else {
        return;
    };
    if hello.number != 0 {
        // Whoever has gone meanwhile asks again.
        timeout(OPENING, be_there(line, hello, key)).await.ok();
    } else if letters(&plan.config).contains_key(&way) {
        hold(way, line, lines).await;
    }
}

/// A member's line counts from its HELLO to its end, or until a newer one comes.
async fn hold(way: Way, line: TcpStream, lines: watch::Sender<Lines>) {
    let mut newer = lines.subscribe();
    let held = Held::new(way, lines);
    tokio::select! {
        () = ended(line) => {}
        _ = newer.wait_for(|lines| lines.get(&way) != Some(&held.since)) => {}
    }
}

/// With the key of the question: whoever is cut off may have others that he signs with.
async fn be_there(mut line: TcpStream, hello: Message, key: MessageKey) -> io::Result<()> {
    let heard = Message {
        kind: MessageKind::Heard,
        ..hello
    };
    line.write_all(&heard.sign(&key)).await?;
    line.shutdown().await
}

/// And the key that it is signed with.
fn hello_in(first: &[u8], keys: &[MessageKey]) -> Option<(Message, MessageKey)> {
    let envelope = Envelope::read(first).ok()?;
    envelope.check().ok()?;
    let opened = keys.iter().find_map(|key| {
        let message = envelope.open(std::slice::from_ref(key)).ok()?;
        Some((message, *key))
    });
    opened.filter(|(message, _)| message.kind == MessageKind::Hello)
}

/// Whoever says more is no member of ours.
async fn ended(mut line: TcpStream) {
    let end = line.read_u8().await;
    tracing::trace!(?end, "a line has ended");
}

/// Published while it lives.
struct Held {
    way: Way,
    since: Instant,
    lines: watch::Sender<Lines>,
}

impl Held {
    fn new(way: Way, lines: watch::Sender<Lines>) -> Self {
        let since = Instant::now();
        lines.send_modify(|lines| {
            lines.insert(way, since);
        });
        Self { way, since, lines }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Self { way, since, lines } = self;
        lines.send_if_modified(|lines| {
            let is_last = lines.get(way) == Some(since);
            is_last && lines.remove(way).is_some()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::hello::tests::config;
    use super::*;

    const A: &str = "127.0.92.1";
    const B: &str = "127.0.92.2";
    const A2: &str = "127.0.92.3";
    const B2: &str = "127.0.92.4";
    const C2: &str = "127.0.92.5";
    const A3: &str = "127.0.92.6";
    const B3: &str = "127.0.92.7";
    const KEY: [u64; 2] = [1, 2];

    struct Process {
        lines: watch::Receiver<Lines>,
        leaving: CancellationToken,
        _plans: watch::Sender<Arc<Plan>>,
        _task: Task<()>,
    }

    fn process(local: &str, remote: &str, secret: [u64; 2]) -> Process {
        let mut config = config(local, remote);
        config.settings.message_keys[0].secret = secret;
        let plan = Plan {
            config,
            ..Plan::default()
        };
        let (plans, planned) = watch::channel(Arc::new(plan));
        let (sender, lines) = watch::channel(Lines::new());
        let leaving = CancellationToken::new();
        Process {
            lines,
            _plans: plans,
            _task: Task(tokio::spawn(run(planned, sender, leaving.clone()))),
            leaving,
        }
    }

    #[tokio::test]
    async fn a_line_begins_and_ends_with_the_process_that_holds_it() {
        let mut a = process(A, B, KEY);
        let b = process(B, A, KEY);
        let way = Way {
            local: A.parse().unwrap(),
            remote: B.parse().unwrap(),
        };
        let held = a.lines.wait_for(|lines| !lines.is_empty()).await;
        let first = held.unwrap()[&way];
        drop(b);
        a.lines.wait_for(Lines::is_empty).await.unwrap();
        let _b = process(B, A, KEY);
        let held = a.lines.wait_for(|lines| !lines.is_empty()).await;
        assert!(held.unwrap()[&way] > first);
    }

    #[tokio::test]
    async fn one_that_leaves_ends_its_own_lines_and_keeps_those_of_others() {
        let (mut a, mut b) = (process(A3, B3, KEY), process(B3, A3, KEY));
        for process in [&mut a, &mut b] {
            let held = process.lines.wait_for(|lines| !lines.is_empty()).await;
            assert_eq!(held.unwrap().len(), 1);
        }
        a.leaving.cancel();
        b.lines.wait_for(Lines::is_empty).await.unwrap();
        assert_eq!(a.lines.borrow().len(), 1);
    }

    /// A line from there to `A2` that says this first is ended by the other side.
    async fn is_refused(local: &str, first: &[u8]) {
        let way = Way {
            local: local.parse().unwrap(),
            remote: A2.parse().unwrap(),
        };
        let line = loop {
            match open(&way, first).await {
                Ok(line) => break line,
                Err(_) => sleep(Duration::from_millis(10)).await,
            }
        };
        ended(line).await;
    }

    #[tokio::test]
    async fn strangers_and_those_without_our_key_hold_no_line() {
        let mut a = process(A2, B2, KEY);
        let hello = |local: &str, secret| {
            let mut config = config(local, A2);
            config.settings.message_keys[0].secret = secret;
            let plan = Plan {
                config,
                ..Plan::default()
            };
            let way = *letters(&plan.config).keys().next().unwrap();
            hello(&way, &plan).unwrap()
        };
        is_refused(B2, &hello(B2, [1, 3])).await;
        is_refused(C2, &hello(C2, KEY)).await;
        assert!(!a.lines.has_changed().unwrap());
        let _b = process(B2, A2, KEY);
        a.lines.wait_for(|lines| lines.len() == 1).await.unwrap();
    }
}
