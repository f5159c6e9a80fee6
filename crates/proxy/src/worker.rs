//! A worker: a thread with a current-thread runtime that owns listeners and connections.

use crate::client::{self, Clients};
use crate::hint::HintRenewal;
use crate::listener;
use crate::shared::Service;
use crate::{OpenFlows, WantedFlow};
use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, LocalSet};

/// Commands that wait for a worker; they come one at a time and are answered.
const QUEUE_LEN: usize = 4;

enum Command {
    Listen(SocketAddr, TcpListener, Arc<Service>, oneshot::Sender<()>),
    Close(SocketAddr, oneshot::Sender<()>),
    CloseAll(oneshot::Sender<()>),
    Flows(Arc<WantedFlow>, usize, oneshot::Sender<OpenFlows>),
}

/// Handle of a worker thread, which ends when this is dropped.
pub(crate) struct Worker {
    commands: mpsc::Sender<Command>,
}

impl Worker {
    pub(crate) fn start(number: usize, renewal: HintRenewal) -> io::Result<Self> {
        let (commands, inbox) = mpsc::channel(QUEUE_LEN);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        std::thread::Builder::new()
            .name(format!("proxy-{number}"))
            .spawn(move || runtime.block_on(run(inbox, renewal)))?;
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
        addr: SocketAddr,
        listener: TcpListener,
        service: Arc<Service>,
    ) {
        self.ask(|done| Command::Listen(addr, listener, service, done))
            .await;
    }

    pub(crate) async fn close(&self, addr: SocketAddr) {
        self.ask(|done| Command::Close(addr, done)).await;
    }

    /// Its connections that are wanted, `most` at most.
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

/// Dropping a `LocalSet` drops its tasks, and with them the sockets.
async fn run(mut inbox: mpsc::Receiver<Command>, renewal: HintRenewal) {
    loop {
        let tasks = LocalSet::new();
        match tasks.run_until(serve(&mut inbox, renewal)).await {
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
    inbox: &mut mpsc::Receiver<Command>,
    renewal: HintRenewal,
) -> Option<oneshot::Sender<()>> {
    let clients = Rc::new(Clients::new(renewal));
    // Ends with the other tasks.
    drop(tokio::task::spawn_local(client::sweep(clients.clone())));
    let mut listeners: BTreeMap<SocketAddr, AbortHandle> = BTreeMap::new();
    loop {
        match inbox.recv().await? {
            Command::Listen(addr, listener, service, done) => {
                let task =
                    tokio::task::spawn_local(listener::accept(listener, service, clients.clone()));
                listeners.insert(addr, task.abort_handle());
                done.send(()).ok();
            }
            Command::Close(addr, done) => {
                if let Some(task) = listeners.remove(&addr) {
                    close(&task).await;
                }
                done.send(()).ok();
            }
            Command::CloseAll(done) => return Some(done),
            Command::Flows(wanted, most, done) => {
                done.send(clients.flows(&*wanted, most)).ok();
            }
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
