//! Requests to etcd: which server is asked, how long, and what an error means.
//!
//! One server is asked until it fails, then the next. Each request has a deadline. What may be repeated is repeated
//! elsewhere; for the rest an error says whether the request can have been done ([`Fault`]).

use super::Config;
use crate::{Cause, StoreError};
use etcd_client::{
    Certificate, Client, ConnectOptions, Error, GetResponse, Identity, TlsOptions, Txn,
    TxnOpResponse, TxnResponse,
};
use std::error::Error as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;

/// How long one server is waited for: longer than etcd needs to elect a leader of its own (1 to 2 s).
const ATTEMPT: Duration = Duration::from_secs(3);
/// How long a request is repeated at one server after the other: long enough to get past one that hangs and an
/// election, and short enough for a client that waits.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// Pauses between two attempts grow from the first to the second.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_millis(500);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A connection on which nothing comes is asked for life. etcd takes less than 5 s for an attack.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// What came of a request that failed.
#[derive(Debug)]
pub(super) enum Fault {
    /// It was not done, and can be at another server or later.
    NotDone(Error),
    /// It may have been done, and may yet be.
    Unknown(Error),
    /// It was not done, and would not be if it was repeated.
    Refused(Error),
    /// It was not done: etcd is out of space.
    Full,
    /// The revision of etcd's that it is about is compacted: read anew.
    Moved,
}

impl Fault {
    pub(super) fn error(self, doing: &'static str) -> StoreError {
        match self {
            Self::NotDone(e) | Self::Unknown(e) => StoreError::Unreachable {
                doing,
                source: cause(&e),
            },
            Self::Refused(e) => StoreError::Refused {
                doing,
                source: cause(&e),
            },
            Self::Full => StoreError::NoSpace { doing },
            Self::Moved => StoreError::Unreachable {
                doing,
                source: "etcd's history is compacted faster than it can be read".into(),
            },
        }
    }
}

/// The client's errors name no source, which is where the reason is.
fn cause(error: &Error) -> Cause {
    let (mut text, mut below) = match error {
        Error::GRpcStatus(status) => (status.message().to_owned(), status.source()),
        Error::TransportError(transport) => (transport.to_string(), transport.source()),
        other => (other.to_string(), None),
    };
    while let Some(error) = below {
        text = format!("{text}: {error}");
        below = error.source();
    }
    text.into()
}

/// Sorts an error of the client's by what it tells about the request.
fn fault(error: Error) -> Fault {
    let Error::GRpcStatus(status) = &error else {
        return match error {
            Error::TransportError(_) | Error::IoError(_) => Fault::NotDone(error),
            Error::WatchError(_) | Error::LeaseKeepAliveError(_) => Fault::Unknown(error),
            _ => Fault::Refused(error),
        };
    };
    let says = |text: &str| status.message().contains(text);
    match status.code() {
        Code::OutOfRange if says("compacted") || says("future revision") => Fault::Moved,
        Code::ResourceExhausted if says("space exceeded") => Fault::Full,
        // etcd's "too many requests".
        Code::ResourceExhausted => Fault::NotDone(error),
        Code::Unavailable if is_not_connected(status) => Fault::NotDone(error),
        Code::Unavailable
        | Code::Unknown
        | Code::Internal
        | Code::Cancelled
        | Code::Aborted
        | Code::DeadlineExceeded => Fault::Unknown(error),
        _ => Fault::Refused(error),
    }
}

/// True when there was no connection on which the request could have been sent.
fn is_not_connected(status: &tonic::Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

fn too_late() -> Error {
    Error::GRpcStatus(tonic::Status::deadline_exceeded("no answer in time"))
}

/// The servers.
pub(super) struct Wire {
    servers: Vec<Server>,
    asked: AtomicUsize,
    options: ConnectOptions,
}

struct Server {
    url: String,
    /// With a user, connecting is a request, which can fail.
    client: OnceCell<Client>,
}

impl Server {
    /// An error is about the connection alone, so what is asked is not done.
    async fn client(&self, options: &ConnectOptions) -> Result<Client, Fault> {
        let connect = || Client::connect([&self.url], Some(options.clone()));
        let connected = self.client.get_or_try_init(connect);
        let connected = timeout(ATTEMPT, connected).await;
        let connected = connected.map_err(|_| Fault::NotDone(too_late()))?;
        connected.cloned().map_err(|error| match fault(error) {
            Fault::Unknown(error) => Fault::NotDone(error),
            known => known,
        })
    }
}

/// What comes first gives what is asked for the second, and both have this long. Only the second can have done
/// something when the time is over.
async fn one_after_the_other<A, B, F: Future<Output = Result<B, Fault>>>(
    patience: Duration,
    first: impl Future<Output = Result<A, Fault>>,
    second: impl FnOnce(A) -> F,
) -> Result<B, Fault> {
    let mut is_first_over = false;
    let both = async {
        let given = first.await?;
        is_first_over = true;
        second(given).await
    };
    match timeout(patience, both).await {
        Ok(answer) => answer,
        Err(_) if is_first_over => Err(Fault::Unknown(too_late())),
        Err(_) => Err(Fault::NotDone(too_late())),
    }
}

impl Wire {
    pub(super) fn new(config: &Config) -> Result<Self, StoreError> {
        let server = |url: &String| Server {
            url: url.clone(),
            client: OnceCell::new(),
        };
        Ok(Self {
            servers: config.endpoints.iter().map(server).collect(),
            asked: AtomicUsize::new(0),
            options: options(config)?,
        })
    }

    /// Asks once; an error says whether it can have been done.
    pub(super) async fn once<T, F: Future<Output = Result<T, Error>>>(
        &self,
        ask: impl FnOnce(Client) -> F,
    ) -> Result<T, Fault> {
        self.once_within(ATTEMPT, ask).await
    }

    /// The same with a time of its own.
    pub(super) async fn once_within<T, F: Future<Output = Result<T, Error>>>(
        &self,
        patience: Duration,
        ask: impl FnOnce(Client) -> F,
    ) -> Result<T, Fault> {
        let asked = self.asked.load(Ordering::Relaxed);
        let answer = self.ask(asked, patience, ask).await;
        if matches!(answer, Err(Fault::NotDone(_) | Fault::Unknown(_))) {
            self.go_on(asked);
        }
        answer
    }

    /// Asks until it is done or refused, or patience ends; for what may be done twice. Gives how often it was asked,
    /// too.
    pub(super) async fn counted<T, F: Future<Output = Result<T, Error>>>(
        &self,
        ask: impl Fn(Client) -> F,
    ) -> Result<(T, u32), Fault> {
        let (until, mut pause) = (Instant::now() + PATIENCE, PAUSE_MIN);
        for times in 1.. {
            match self.once(&ask).await {
                Ok(answer) => return Ok((answer, times)),
                Err(Fault::NotDone(_) | Fault::Unknown(_)) if Instant::now() + pause < until => {
                    sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                Err(fault) => return Err(fault),
            }
        }
        Err(Fault::Unknown(too_late()))
    }

    /// The same for who does not count.
    pub(super) async fn repeated<T, F: Future<Output = Result<T, Error>>>(
        &self,
        ask: impl Fn(Client) -> F,
    ) -> Result<T, Fault> {
        self.counted(ask).await.map(|(answer, _)| answer)
    }

    /// A transaction that may be done twice, in particular one that reads alone.
    pub(super) async fn transact(&self, txn: &Txn) -> Result<TxnResponse, Fault> {
        self.repeated(|client| send(client, txn.clone())).await
    }

    /// Asks one server that is allowed to take its time.
    pub(super) async fn patiently<T, F: Future<Output = Result<T, Error>>>(
        &self,
        patience: Duration,
        ask: impl FnOnce(Client) -> F,
    ) -> Result<T, Fault> {
        let asked = self.asked.load(Ordering::Relaxed);
        self.ask(asked, patience, ask).await
    }

    /// Asks this server, once.
    pub(super) async fn one<T, F: Future<Output = Result<T, Error>>>(
        &self,
        server: usize,
        patience: Duration,
        ask: impl FnOnce(Client) -> F,
    ) -> Result<T, Fault> {
        self.ask(server, patience, ask).await
    }

    /// How many servers are named.
    pub(super) fn len(&self) -> usize {
        self.servers.len()
    }

    async fn ask<T, F: Future<Output = Result<T, Error>>>(
        &self,
        server: usize,
        patience: Duration,
        ask: impl FnOnce(Client) -> F,
    ) -> Result<T, Fault> {
        let server = &self.servers[server % self.servers.len()];
        let asked = |client| async move { ask(client).await.map_err(fault) };
        one_after_the_other(patience, server.client(&self.options), asked).await
    }

    /// The next server is asked from now on, unless somebody went on already.
    fn go_on(&self, from: usize) {
        let next = from.wrapping_add(1);
        let order = Ordering::Relaxed;
        self.asked.compare_exchange(from, next, order, order).ok();
    }
}

/// Sends a transaction.
pub(super) async fn send(client: Client, txn: Txn) -> Result<TxnResponse, Error> {
    let mut kv = client.kv_client().max_decoding_message_size(usize::MAX);
    kv.txn(txn).await
}

/// The answers of a transaction that reads alone.
pub(super) fn gets(answer: &TxnResponse) -> Vec<GetResponse> {
    let all = answer.op_responses().into_iter();
    let gets = all.filter_map(|op| match op {
        TxnOpResponse::Get(get) => Some(get),
        _ => None,
    });
    gets.collect()
}

/// etcd's revision at an answer.
pub(super) fn revision_of(answer: &TxnResponse) -> i64 {
    answer
        .header()
        .map_or(0, etcd_client::ResponseHeader::revision)
}

fn options(config: &Config) -> Result<ConnectOptions, StoreError> {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_keep_alive(PING_INTERVAL, PING_TIMEOUT)
        // etcd closes connections that are asked for life while nothing is open on them.
        .with_keep_alive_while_idle(false)
        // A member that has lost the others must not let a watch hang.
        .with_require_leader(true)
        .with_auto_token_refresh(true);
    if let Some(login) = &config.login {
        options = options.with_user(&login.user, &login.password);
    }
    if let Some(tls) = tls(config)? {
        options = options.with_tls(tls);
    }
    Ok(options)
}

fn tls(config: &Config) -> Result<Option<TlsOptions>, StoreError> {
    let is_tls = |url: &String| url.starts_with("https://");
    let wanted = config.endpoints.iter().filter(|url| is_tls(url)).count();
    let right = match &config.ca {
        None => wanted == 0,
        Some(_) => wanted == config.endpoints.len(),
    };
    if !right {
        return Err(StoreError::Refused {
            doing: "connect",
            source: "either all endpoints are https:// and a CA is named, or neither".into(),
        });
    }
    let Some(ca) = &config.ca else {
        return Ok(None);
    };
    let tls = TlsOptions::new().ca_certificate(Certificate::from_pem(read(ca)?));
    let Some((certificate, key)) = &config.identity else {
        return Ok(Some(tls));
    };
    let identity = Identity::from_pem(read(certificate)?, read(key)?);
    Ok(Some(tls.identity(identity)))
}

fn read(path: &Path) -> Result<Vec<u8>, StoreError> {
    std::fs::read(path).map_err(|source| StoreError::File {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;

    const PATIENCE: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn a_login_and_what_is_asked_share_one_patience() {
        let most = || async {
            sleep(PATIENCE * 3 / 5).await;
            Ok(())
        };
        let late = one_after_the_other(PATIENCE, most(), |()| most()).await;
        assert!(late.is_err(), "each had it all");
    }

    #[tokio::test]
    async fn what_is_late_is_unknown_only_if_it_was_asked() {
        let never = || pending::<Result<(), Fault>>();
        let asked = one_after_the_other(PATIENCE, async { Ok(()) }, |()| never()).await;
        assert!(matches!(asked, Err(Fault::Unknown(_))), "{asked:?}");
        let unasked = one_after_the_other(PATIENCE, never(), |()| async { Ok(()) }).await;
        assert!(matches!(unasked, Err(Fault::NotDone(_))), "{unasked:?}");
    }
}
