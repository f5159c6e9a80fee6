//! Many flows from one namespace, in one thread: each sends a message every ten seconds and wants it back.
//!
//! A process of its own, driven by lines on standard input ([`Told`]): it says `ready` once every flow has had its first
//! answer; `mark` begins a measurement, `look` and `report` are answered with [`Seen`] as JSON.

use crate::member;
use crate::speaker::Told;
use anyhow::{Context, Result, bail, ensure};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::error::TryRecvError;

/// Of each flow.
const MESSAGE_EVERY: Duration = Duration::from_secs(10);

/// Source addresses of one process.
const ADDRESSES: usize = 3;
const FIRST_PORT: u16 = 10_000;

/// Flows that are being set up at a time.
const IN_FLIGHT_MAX: usize = 128;

/// For setting up all flows; some thousand per second are usual.
const PATIENCE: Duration = Duration::from_secs(300);

/// How often what is due is looked at.
const TURN_MS: u16 = 5;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    pub(crate) vip: SocketAddrV4,
    /// Which of the clients: each has its own addresses.
    pub(crate) number: usize,
    /// How many flows it has.
    pub(crate) flows: usize,
    /// How many of them are set up in a second.
    pub(crate) per_second: usize,
}

/// What has been seen since the last mark.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// Flows that have had an answer to a message sent since then.
    pub(crate) answered: usize,
    /// Flows that ended, by how; since the beginning.
    pub(crate) broken: BTreeMap<String, usize>,
    /// From a message to its answer, each; only in a report.
    pub(crate) delays_us: Vec<u32>,
}

impl Seen {
    pub(crate) fn broken(&self) -> usize {
        self.broken.values().sum()
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.answered += other.answered;
        for (how, flows) in other.broken {
            *self.broken.entry(how).or_default() += flows;
        }
        self.delays_us.extend(other.delays_us);
    }
}

/// Source addresses of a client, each in a /24 of its own.
pub(crate) fn addresses(number: usize) -> Vec<Ipv4Addr> {
    let last = |index: usize| u8::try_from(number * ADDRESSES + index + 1);
    let address = |index| Some(Ipv4Addr::new(10, 20, last(index).ok()?, 2));
    (0..ADDRESSES).filter_map(address).collect()
}

/// The parent's side.
pub(crate) struct Client {
    child: Child,
    told: Told,
}

impl Client {
    pub(crate) fn start(namespace: &str, args: &Args) -> Result<Self> {
        let mut child = Command::new("ip")
            .args(["netns", "exec", namespace])
            .arg(std::env::current_exe()?)
            .args(["storm-client", &args.vip.to_string()])
            .args([args.number, args.flows, args.per_second].map(|n| n.to_string()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start a client")?;
        let told = Told::pipes(&mut child)?;
        Ok(Self { child, told })
    }

    pub(crate) fn await_ready(&mut self) -> Result<()> {
        let said = self.told.line()?;
        ensure!(said == "ready\n", "a client could not set up its flows");
        Ok(())
    }

    pub(crate) fn mark(&mut self) -> Result<()> {
        self.told.say("mark")
    }

    /// Without delays.
    pub(crate) fn look(&mut self) -> Result<Seen> {
        self.ask("look")
    }

    pub(crate) fn report(&mut self) -> Result<Seen> {
        self.ask("report")
    }

    fn ask(&mut self, line: &str) -> Result<Seen> {
        self.told.say(line)?;
        serde_json::from_str(&self.told.line()?).context("a client has ended")
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Connecting,
    /// Every message was answered.
    Idle,
    /// Sent at this time, and so many bytes are back.
    Waiting {
        since: Instant,
        back: usize,
    },
    Broken,
}

struct Flow {
    stream: TcpStream,
    state: State,
    /// Number of the message that is under way, or of the last one.
    message: u32,
    /// It has had an answer to a message sent since the mark.
    answered: bool,
}

const MESSAGE_LEN: usize = 16;

/// No two flows and no two messages of a flow have the same.
fn message(flow: usize, number: u32) -> [u8; MESSAGE_LEN] {
    let word = (flow as u64) << 32 | u64::from(number);
    let mixed = word.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
    let mut message = [0; MESSAGE_LEN];
    message[..8].copy_from_slice(&word.to_be_bytes());
    message[8..].copy_from_slice(&mixed.to_be_bytes());
    message
}

struct Load<'a> {
    args: &'a Args,
    epoll: Epoll,
    addresses: Vec<Ipv4Addr>,
    flows: Vec<Flow>,
    marked: Instant,
    seen: Seen,
    /// Since when the flows send by turns, and how many turns there were.
    started: Instant,
    turns: u64,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut load = Load::new(args)?;
    load.set_up()?;
    cli::out!("ready");
    let mut lines = member::input();
    load.started = Instant::now();
    loop {
        match lines.try_recv() {
            Ok(line) => load.obey(&line)?,
            Err(TryRecvError::Disconnected) => return Ok(()),
            Err(TryRecvError::Empty) => {}
        }
        load.send_due();
        load.hear()?;
    }
}

impl<'a> Load<'a> {
    fn new(args: &'a Args) -> Result<Self> {
        let now = Instant::now();
        Ok(Self {
            args,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            addresses: addresses(args.number),
            flows: Vec::with_capacity(args.flows),
            marked: now,
            seen: Seen::default(),
            started: now,
            turns: 0,
        })
    }

    /// At a bounded rate, until each flow has had an answer.
    fn set_up(&mut self) -> Result<()> {
        let started = Instant::now();
        while self.seen.answered < self.args.flows {
            let due = started.elapsed().as_secs_f64() * self.args.per_second as f64;
            let due = (due as usize).min(self.args.flows);
            while self.flows.len() < due && self.flows.len() - self.seen.answered < IN_FLIGHT_MAX {
                self.open()?;
            }
            self.hear()?;
            let (seen, all) = (&self.seen, self.args.flows);
            ensure!(seen.broken() == 0, "flows fail at once: {:?}", seen.broken);
            let late = started.elapsed() > PATIENCE;
            ensure!(!late, "{} of {all} flows after {PATIENCE:?}", seen.answered);
        }
        Ok(())
    }

    fn open(&mut self) -> Result<()> {
        let index = self.flows.len();
        let address = self.addresses[index % ADDRESSES];
        let port = FIRST_PORT + u16::try_from(index / ADDRESSES).context("too many flows")?;
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None)?;
        socket.set_tcp_nodelay(true)?;
        // What is left at the end goes at once.
        socket.set_linger(Some(Duration::ZERO))?;
        socket.bind(&SocketAddrV4::new(address, port).into())?;
        match socket.connect(&self.args.vip.into()) {
            Err(error) if error.raw_os_error() != Some(nix::errno::Errno::EINPROGRESS as i32) => {
                return Err(error).context("connect");
            }
            _ => {}
        }
        let wanted = EpollFlags::EPOLLIN
            | EpollFlags::EPOLLOUT
            | EpollFlags::EPOLLRDHUP
            | EpollFlags::EPOLLET;
        self.epoll
            .add(&socket, EpollEvent::new(wanted, index as u64))?;
        self.flows.push(Flow {
            stream: socket.into(),
            state: State::Connecting,
            message: 0,
            answered: false,
        });
        Ok(())
    }

    /// What the flows whose turn it is have to say; who still waits for an answer says nothing.
    fn send_due(&mut self) {
        let flows = self.flows.len() as u64;
        let share = self.started.elapsed().as_secs_f64() / MESSAGE_EVERY.as_secs_f64();
        let due = (share * flows as f64) as u64;
        while self.turns < due {
            let index = (self.turns % flows) as usize;
            self.turns += 1;
            if self.flows[index].state == State::Idle {
                self.send(index);
            }
        }
    }

    fn send(&mut self, index: usize) {
        let flow = &mut self.flows[index];
        flow.message += 1;
        let text = message(index, flow.message);
        match flow.stream.write_all(&text) {
            Ok(()) => {
                let since = Instant::now();
                flow.state = State::Waiting { since, back: 0 };
            }
            Err(error) => self.lose(index, &error.kind().to_string()),
        }
    }

    fn lose(&mut self, index: usize, how: &str) {
        self.flows[index].state = State::Broken;
        *self.seen.broken.entry(how.to_owned()).or_default() += 1;
    }

    fn hear(&mut self) -> Result<()> {
        let mut events = [EpollEvent::empty(); 512];
        let count = self.epoll.wait(&mut events, EpollTimeout::from(TURN_MS))?;
        for event in &events[..count] {
            let index = usize::try_from(event.data()).context("an index")?;
            match self.flows[index].state {
                State::Connecting => self.connected(index),
                State::Idle | State::Waiting { .. } => self.read(index),
                State::Broken => {}
            }
        }
        Ok(())
    }

    fn connected(&mut self, index: usize) {
        match self.flows[index].stream.take_error() {
            Ok(None) => self.send(index),
            Ok(Some(error)) | Err(error) => self.lose(index, &error.kind().to_string()),
        }
    }

    /// One read: more than a message is never under way.
    fn read(&mut self, index: usize) {
        let mut buffer = [0; 4 * MESSAGE_LEN];
        match self.flows[index].stream.read(&mut buffer) {
            Ok(0) => self.lose(index, "closed"),
            Ok(length) => self.take(index, &buffer[..length]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => self.lose(index, &error.kind().to_string()),
        }
    }

    fn take(&mut self, index: usize, heard: &[u8]) {
        let flow = &mut self.flows[index];
        let State::Waiting { since, back } = flow.state else {
            return self.lose(index, "an answer to nothing");
        };
        let text = message(index, flow.message);
        let now = back + heard.len();
        if text.get(back..now) != Some(heard) {
            return self.lose(index, "a wrong answer");
        }
        if now < MESSAGE_LEN {
            flow.state = State::Waiting { since, back: now };
            return;
        }
        flow.state = State::Idle;
        if since >= self.marked {
            let delay = since.elapsed().as_micros();
            self.seen
                .delays_us
                .push(delay.try_into().unwrap_or(u32::MAX));
            self.seen.answered += usize::from(!flow.answered);
            flow.answered = true;
        }
    }

    fn obey(&mut self, line: &str) -> Result<()> {
        match line {
            "mark" => self.mark(),
            "look" => {
                let delays_us = std::mem::take(&mut self.seen.delays_us);
                cli::out!("{}", serde_json::to_string(&self.seen)?);
                self.seen.delays_us = delays_us;
            }
            "report" => cli::out!("{}", serde_json::to_string(&self.seen)?),
            other => bail!("unknown command {other:?}"),
        }
        Ok(())
    }

    fn mark(&mut self) {
        self.marked = Instant::now();
        self.seen.answered = 0;
        self.seen.delays_us.clear();
        for flow in &mut self.flows {
            flow.answered = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_two_messages_are_equal() {
        let all: BTreeSet<_> = (0..100)
            .flat_map(|flow| (0..100).map(move |number| message(flow, number)))
            .collect();
        assert_eq!(all.len(), 10_000);
    }

    #[test]
    fn clients_share_no_address_and_no_network() {
        let of = |number: usize| addresses(number).into_iter().map(|a| a.octets()[2]);
        let networks: BTreeSet<u8> = (0..20).flat_map(of).collect();
        assert_eq!(networks.len(), 20 * ADDRESSES);
    }
}
