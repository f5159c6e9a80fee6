//! A worker: a thread with a current-thread runtime that owns listeners and connections.

use crate::client::{self, Clients};
use crate::hint::HintRenewal;
use crate::http;
use crate::listener::{self, Endpoint, Listener};
use crate::shared::Service;
use crate::udp::{self, Flows, Homes, Stray};
use crate::{OpenFlows, TcpSpec, WantedFlow};
use socket2::SockRef;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, LocalSet, spawn_local};

/// Commands that wait for a worker; they come one at a time and are answered.
const QUEUE_LEN: usize = 4;

enum Command {
    Listen(Endpoint, Listener, Arc<Service>, oneshot::Sender<()>),
    Change(Arc<Vec<(Endpoint, TcpSpec)>>, oneshot::Sender<()>),
    Close(Endpoint, oneshot::Sender<()>),
    CloseAll(oneshot::Sender<()>),
    Flows(Arc<WantedFlow>, usize, oneshot::Sender<OpenFlows>),
}

/// Handle of a worker thread, which ends when this is dropped.
pub(crate) struct Worker {
    commands: mpsc::Sender<Command>,
}

impl Worker {
    pub(crate) fn start(
        number: usize,
        renewal: HintRenewal,
        homes: Homes,
        strays: mpsc::Receiver<Stray>,
    ) -> io::Result<Self> {
        let (commands, inbox) = mpsc::channel(QUEUE_LEN);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        std::thread::Builder::new()
            .name(format!("proxy-{number}"))
            .spawn(move || {
                let inboxes = Inboxes {
                    commands: inbox,
                    strays,
                };
                runtime.block_on(run(number, renewal, homes, inboxes));
            })?;
        Ok(Self { commands })
    }

    async fn ask(&self, command: impl FnOnce(oneshot::Sender<()>) -> Command) {
        let (done, answer) = oneshot::channel();
        // A worker ends only with its handle, so neither can fail.
        self.commands.send(command(done)).await.ok();
        answer.await.ok();
    }

    pub(crate) async fn listen(
        &self,
        endpoint: Endpoint,
        listener: Listener,
        service: Arc<Service>,
    ) {
        self.ask(|done| Command::Listen(endpoint, listener, service, done))
            .await;
    }

    /// The listeners have these settings from now on.
    pub(crate) async fn change(&self, listeners: Arc<Vec<(Endpoint, TcpSpec)>>) {
        self.ask(|done| Command::Change(listeners, done)).await;
    }

    pub(crate) async fn close(&self, endpoint: Endpoint) {
        self.ask(|done| Command::Close(endpoint, done)).await;
    }

    /// Its connections and UDP flows that are wanted, `most` at most.
    pub(crate) async fn flows(&self, wanted: &Arc<WantedFlow>, most: usize) -> OpenFlows {
        let (done, answer) = oneshot::channel();
        let command = Command::Flows(wanted.clone(), most, done);
        self.commands.send(command).await.ok();
        answer.await.unwrap_or_default()
    }

    pub(crate) async fn close_all(&self) {
        self.ask(Command::CloseAll).await;
    }
}

/// What a worker is told, and the datagrams that others have for it.
struct Inboxes {
    commands: mpsc::Receiver<Command>,
    strays: mpsc::Receiver<Stray>,
}

/// Dropping a `LocalSet` drops its tasks, and with them the sockets.
async fn run(number: usize, renewal: HintRenewal, homes: Homes, mut inboxes: Inboxes) {
    loop {
        let tasks = LocalSet::new();
        let flows = Rc::new(Flows::new(number, homes.clone()));
        match tasks.run_until(serve(&mut inboxes, renewal, flows)).await {
            Some(done) => {
                drop(tasks);
                done.send(()).ok();
            }
            None => return,
        }
    }
}

/// Serves until everything is to be closed (gives who waits for it), or the handle is gone.
async fn serve(
    inboxes: &mut Inboxes,
    renewal: HintRenewal,
    flows: Rc<Flows>,
) -> Option<oneshot::Sender<()>> {
    let clients = Rc::new(Clients::new(renewal));
    // Both end with the other tasks.
    drop(spawn_local(client::sweep(clients.clone())));
    drop(spawn_local(http::expire(clients.clone())));
    let mut listeners: BTreeMap<Endpoint, Listening> = BTreeMap::new();
    loop {
        // Cancel-safe: what is not received stays in its queue.
        let command = tokio::select! {
            command = inboxes.commands.recv() => command?,
            Some(stray) = inboxes.strays.recv() => {
                flows.take_stray(&stray);
                continue;
            }
        };
        match command {
            Command::Listen(endpoint, listener, service, done) => {
                let opened = match listener {
                    Listener::Tcp(listener) => Listening::tcp(listener, service, &clients).ok(),
                    Listener::Udp(socket) => {
                        let receive = udp::receive(socket, endpoint.1, service, flows.clone());
                        Some(Listening::udp(spawn_local(receive).abort_handle()))
                    }
                };
                listeners.extend(opened.map(|opened| (endpoint, opened)));
                done.send(()).ok();
            }
            Command::Change(changed, done) => {
                for (endpoint, tcp) in changed.iter() {
                    if let Some(listener) = listeners.get(endpoint) {
                        listener.change(tcp, endpoint.1);
                    }
                }
                done.send(()).ok();
            }
            Command::Close(endpoint, done) => {
                if let Some(listener) = listeners.remove(&endpoint) {
                    close(&listener.task).await;
                }
                done.send(()).ok();
            }
            Command::CloseAll(done) => return Some(done),
            Command::Flows(wanted, most, done) => {
                let mut all = clients.flows(&*wanted, most);
                all.append(most, flows.open(&*wanted, most));
                done.send(all).ok();
            }
        }
    }
}

/// A listener that is open: its task, which owns its socket.
struct Listening {
    task: AbortHandle,
    /// Of nobody for UDP.
    socket: Weak<TcpListener>,
}

impl Listening {
    fn tcp(
        listener: std::net::TcpListener,
        service: Arc<Service>,
        clients: &Rc<Clients>,
    ) -> io::Result<Self> {
        let listener = Rc::new(TcpListener::from_std(listener)?);
        let socket = Rc::downgrade(&listener);
        let task = spawn_local(listener::accept(listener, service, clients.clone()));
        Ok(Self {
            task: task.abort_handle(),
            socket,
        })
    }

    fn udp(task: AbortHandle) -> Self {
        Self {
            task,
            socket: Weak::new(),
        }
    }

    fn change(&self, tcp: &TcpSpec, addr: SocketAddr) {
        let Some(listener) = self.socket.upgrade() else {
            return;
        };
        if let Err(error) = tcp.change(&SockRef::from(&*listener), addr) {
            tracing::warn!(%addr, %error, "a listener has not all of its new settings");
        }
    }
}

/// Waits until the task, and with it the socket, is gone.
async fn close(task: &AbortHandle) {
    task.abort();
    while !task.is_finished() {
        tokio::task::yield_now().await;
    }
}
