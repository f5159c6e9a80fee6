//! Lines to the other members' processes: a TCP connection for each way, on which nothing is said but a first HELLO. When a
//! process is killed its kernel ends them at once, and when it comes up it opens them: both move flows, and a router
//! acts on it sooner than a hello is missed ([`super::hello`]) or the controller tells.
//!
//! What counts are the lines that others have opened to us. A HELLO with a number is a question whether we are there
//! ([`super::sentry`]): it is answered, and the connection ends; it may come from any engine of our SE group.
//!
//! A line is to the port in force, or to the former one where that is the only one that is listened at, and stays what it is when
//! the port is changed: the process at its other end is the same.
//!
//! Tasks: one per local address, that welcomes; one per port of it, that accepts; one per way, that keeps our own line open; one
//! per line of others. All end with [`run`].

use super::Plan;
use super::hello::letters;
use crate::Task;
use dataplane::sockopt;
use flow::config::{MessageKey, Settings};
use flow::hello::Way;
use flow::wire::{Envelope, MESSAGE_LEN, Message, MessageKind};
use socket2::{Domain, Socket, TcpKeepalive, Type};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
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

/// Accepted and not welcomed yet: what is more waits in the kernel's queue.
const AT_DOORS: usize = 1;

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
    let mut halls: BTreeMap<IpAddr, Task<()>> = BTreeMap::new();
    loop {
        let plan = plans.borrow_and_update().clone();
        let ways: BTreeSet<Way> = letters(&plan.config).into_keys().collect();
        let locals = locals(&plan, &ways);
        ours.retain(|way, _| ways.contains(way));
        halls.retain(|local, _| locals.contains(local));
        for local in locals {
            let hall = || welcome(local, plans.clone(), lines.clone());
            halls
                .entry(local)
                .or_insert_with(|| Task(tokio::spawn(hall())));
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
        if let Some(line) = call(&way, &plans).await {
            ended(line).await;
        }
        sleep(RETRY).await;
    }
}

/// By the first port at which the other process listens.
async fn call(way: &Way, plans: &watch::Receiver<Arc<Plan>>) -> Option<TcpStream> {
    let plan = plans.borrow().clone();
    let first = hello(way, &plan)?;
    for port in plan.config.settings.ports() {
        if let Ok(Ok(line)) = timeout(OPENING, open(way, port, &first)).await {
            return Some(line);
        }
    }
    None
}

fn hello(way: &Way, plan: &Plan) -> Option<[u8; MESSAGE_LEN]> {
    let key = plan.config.settings.message_keys.first()?;
    Some(letters(&plan.config).get(way)?.sign(key))
}

async fn open(way: &Way, port: u16, first: &[u8]) -> io::Result<TcpStream> {
    let socket = socket(way.local, 0)?;
    let socket = TcpSocket::from_std_stream(socket.into());
    let remote = SocketAddr::new(way.remote, port);
    let mut line = socket.connect(remote).await?;
    line.write_all(first).await?;
    Ok(line)
}

/// A connection, and from where.
type Comer = (TcpStream, IpAddr);

/// Lines of members, and questions, at this address of ours, by whichever port they come. They outlive the door that they came by.
/// Cancel-safe: it waits for the next one, or for a newer plan.
async fn welcome(
    local: IpAddr,
    mut plans: watch::Receiver<Arc<Plan>>,
    lines: watch::Sender<Lines>,
) {
    let (sender, mut comers) = mpsc::channel(AT_DOORS);
    let mut doors: BTreeMap<u16, Task<()>> = BTreeMap::new();
    let mut visitors: Vec<Task<()>> = Vec::new();
    loop {
        let plan = plans.borrow_and_update().clone();
        open_doors(&mut doors, &plan.config.settings, (local, &sender));
        let (line, remote) = tokio::select! {
            Some(comer) = comers.recv() => comer,
            changed = plans.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        let way = Way { local, remote };
        visitors.retain(|task| !task.0.is_finished());
        let is_member = letters(&plan.config).contains_key(&way);
        if is_member || visitors.len() < STRANGERS {
            let visit = visit(way, line, plans.clone(), lines.clone());
            visitors.push(Task(tokio::spawn(visit)));
        }
    }
}

/// At each port that is good now.
fn open_doors(
    doors: &mut BTreeMap<u16, Task<()>>,
    settings: &Settings,
    (local, comers): (IpAddr, &mpsc::Sender<Comer>),
) {
    let ports: BTreeSet<u16> = settings.ports().collect();
    doors.retain(|port, _| ports.contains(port));
    for port in ports {
        let door = || answer(local, port, comers.clone());
        doors
            .entry(port)
            .or_insert_with(|| Task(tokio::spawn(door())));
    }
}

/// Accepts at this port, once the address is there.
async fn answer(local: IpAddr, port: u16, comers: mpsc::Sender<Comer>) {
    let door = door(local, port).await;
    loop {
        let Ok((line, from)) = door.accept().await else {
            sleep(RETRY).await;
            continue;
        };
        let remote = from.ip().to_canonical();
        if comers.send((line, remote)).await.is_err() {
            return;
        }
    }
}

/// Waits until the address is there.
async fn door(local: IpAddr, port: u16) -> TcpListener {
    let mut told = false;
    loop {
        match listen(local, port) {
            Ok(door) => return door,
            Err(error) if !told => {
                tracing::warn!(%local, port, "no lines of other engines here: {error}")
            }
            Err(_) => {}
        }
        told = true;
        sleep(RETRY).await;
    }
}

fn listen(local: IpAddr, port: u16) -> io::Result<TcpListener> {
    let socket = socket(local, port)?;
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
    use flow::wire::MESSAGE_PORT;

    const A: &str = "127.0.92.1";
    const B: &str = "127.0.92.2";
    const A2: &str = "127.0.92.3";
    const B2: &str = "127.0.92.4";
    const C2: &str = "127.0.92.5";
    const A3: &str = "127.0.92.6";
    const B3: &str = "127.0.92.7";
    const A4: &str = "127.0.92.8";
    const B4: &str = "127.0.92.9";
    const KEY: [u64; 2] = [1, 2];

    struct Process {
        lines: watch::Receiver<Lines>,
        leaving: CancellationToken,
        plans: watch::Sender<Arc<Plan>>,
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
            plans,
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

    impl Process {
        /// From now on these, the first one in force.
        fn use_ports(&self, port: u16, former: Option<u16>) {
            self.plans.send_modify(|plan| {
                let settings = &mut Arc::make_mut(plan).config.settings;
                (settings.port, settings.former_port) = (port, former);
            });
        }
    }

    #[tokio::test]
    async fn lines_stay_when_the_port_is_changed_and_later_ones_are_to_the_new_one() {
        const NEW: u16 = 4790;
        let (mut a, b) = (process(A4, B4, KEY), process(B4, A4, KEY));
        let held = a.lines.wait_for(|lines| !lines.is_empty()).await;
        let first = held.unwrap().clone();
        a.use_ports(NEW, Some(MESSAGE_PORT));
        // One that has not been told calls, and is called, by the former port.
        drop(b);
        a.lines.wait_for(Lines::is_empty).await.unwrap();
        let mut b = process(B4, A4, KEY);
        b.lines.wait_for(|lines| !lines.is_empty()).await.unwrap();
        let held = a.lines.wait_for(|lines| !lines.is_empty()).await;
        let second = held.unwrap().clone();
        assert_ne!(first, second);
        // The door that it came by is closed, and the line stays.
        b.use_ports(NEW, None);
        a.use_ports(NEW, None);
        let way = Way {
            local: B4.parse().unwrap(),
            remote: A4.parse().unwrap(),
        };
        while open(&way, MESSAGE_PORT, &[]).await.is_ok() {
            sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(*a.lines.borrow(), second);
        // Whoever comes later calls by the new one.
        drop(b);
        a.lines.wait_for(Lines::is_empty).await.unwrap();
        let b = process(B4, A4, KEY);
        b.use_ports(NEW, None);
        let held = a.lines.wait_for(|lines| !lines.is_empty()).await;
        assert_ne!(*held.unwrap(), second);
    }

    /// A line from there to `A2` that says this first is ended by the other side.
    async fn is_refused(local: &str, first: &[u8]) {
        let way = Way {
            local: local.parse().unwrap(),
            remote: A2.parse().unwrap(),
        };
        let line = loop {
            match open(&way, MESSAGE_PORT, first).await {
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
