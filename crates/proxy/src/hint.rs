//! Owner hints: connections are stamped so that clients echo the member id of this engine in their timestamps.
//!
//! What is written, how far clocks are moved and when is `flow::stamp`'s; how is `dataplane::timestamp`'s. A stamp is
//! made in one go on the thread that owns the connection, without an await between the look at what is under way and the
//! move. One that fails is counted and harmless: another engine that gets the client's packets asks for their owner.

use crate::client::Client;
use dataplane::timestamp::{self, ClockError, Sending, Timestamps};
use flow::key::{Flow, Protocol};
use flow::mark::{HintKey, Mark};
use flow::stamp::{self, Field, Sent, Stamp};
use std::cell::Cell;
use std::error::Error as _;
use std::io;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How often the log says that stamping fails, per worker.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// What the connections of a virtual service say about their owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HintSpec {
    /// Our id among the engines of the VIP, 0 to 63.
    pub member: u8,
    /// Blinds it; the same at all of them.
    pub key: HintKey,
}

/// When the stamps of long connections are renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HintRenewal {
    /// The age at which a stamp is; see [`stamp::RENEW_AFTER`].
    pub after: Duration,
    /// How often a worker looks at its connections.
    pub sweep_every: Duration,
}

impl Default for HintRenewal {
    /// Five minutes between sweeps: a stamp is right for 3.4 h, so that 80 minutes are left for a moment in which nothing
    /// is unacknowledged; and a sweep costs a fraction of a microsecond for each connection that needs nothing.
    fn default() -> Self {
        Self {
            after: stamp::RENEW_AFTER,
            sweep_every: Duration::from_secs(300),
        }
    }
}

/// Counters of the stamps of a virtual service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HintStats {
    /// Connections stamped for the first time.
    pub stamped: u64,
    /// Connections that cannot be, because the client has not negotiated timestamps (or the route, with `tcp_usec_ts`,
    /// wants them in microseconds).
    pub unstamped_no_timestamps: u64,
    /// Connections given up, because the kernel refused.
    pub stamp_failed: u64,
    /// Later stamps of connections.
    pub renewed: u64,
}

#[derive(Default)]
pub(crate) struct HintCounters {
    stamped: AtomicU64,
    unstamped_no_timestamps: AtomicU64,
    stamp_failed: AtomicU64,
    renewed: AtomicU64,
}

impl HintCounters {
    pub(crate) fn stats(&self) -> HintStats {
        HintStats {
            stamped: self.stamped.load(Relaxed),
            unstamped_no_timestamps: self.unstamped_no_timestamps.load(Relaxed),
            stamp_failed: self.stamp_failed.load(Relaxed),
            renewed: self.renewed.load(Relaxed),
        }
    }
}

/// How far a connection has come.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) enum Stamping {
    /// Hints are off, or something was in the way.
    #[default]
    NotYet,
    /// It has no timestamps to stamp, or the kernel refused: it is left alone.
    Never,
    /// The last one.
    Done(Stamp),
}

/// What came of a look at a connection.
enum Step {
    /// It is not due, or cannot take it now.
    Nothing,
    NoTimestamps,
    Stamped(Stamp),
}

/// Why a connection was not stamped.
#[derive(Debug, thiserror::Error)]
enum StampError {
    #[error("read the connection's own address")]
    Address(#[source] io::Error),
    #[error(transparent)]
    Clock(#[from] ClockError),
}

/// Stamps a connection if its service has hints, it is due and can take it now; else a later sweep will.
pub(crate) fn stamp(client: &Client, renewal: HintRenewal, warned: &Warned) {
    let Some(hint) = client.service.hint() else {
        return;
    };
    let counters = &client.service.counters.hints;
    let step = match client.stamping.get() {
        Stamping::Never => return,
        Stamping::NotYet => step(client, hint, None, renewal.after),
        Stamping::Done(last) => step(client, hint, Some(&last), renewal.after),
    };
    match step {
        Ok(Step::Nothing) => {}
        Ok(Step::NoTimestamps) => {
            counters.unstamped_no_timestamps.fetch_add(1, Relaxed);
            client.stamping.set(Stamping::Never);
        }
        Ok(Step::Stamped(stamp)) => {
            let renewed = matches!(client.stamping.get(), Stamping::Done(_));
            let counter = if renewed {
                &counters.renewed
            } else {
                &counters.stamped
            };
            counter.fetch_add(1, Relaxed);
            client.stamping.set(Stamping::Done(stamp));
        }
        Err(error) => {
            counters.stamp_failed.fetch_add(1, Relaxed);
            client.stamping.set(Stamping::Never);
            warned.tell(&client.service.uuid, &error);
        }
    }
}

fn step(
    client: &Client,
    hint: HintSpec,
    last: Option<&Stamp>,
    renew_after: Duration,
) -> Result<Step, StampError> {
    let field = Field::of(hint.member, mark(client, hint.key)?);
    let at = Instant::now();
    if !stamp::is_due(last, field, at, renew_after) {
        return Ok(Step::Nothing);
    }
    let sending = timestamp::sending(&client.stream).map_err(ClockError::from)?;
    if sending.timestamps != Timestamps::Milliseconds {
        return Ok(Step::NoTimestamps);
    }
    if !sending.open || !stamp::is_safe(last, sent(&sending)) {
        return Ok(Step::Nothing);
    }
    timestamp::move_clock(&client.stream, |clock| stamp::next_clock(clock, field))?;
    Ok(Step::Stamped(Stamp {
        field,
        at,
        bytes_acked: sending.bytes_acked,
    }))
}

fn mark(client: &Client, key: HintKey) -> Result<Mark, StampError> {
    let flow = Flow {
        protocol: Protocol::Tcp,
        client: client.peer,
        service: client.stream.local_addr().map_err(StampError::Address)?,
    };
    Ok(Mark::of(key, &flow))
}

fn sent(sending: &Sending) -> Sent {
    Sent {
        all_acked: sending.segments_unacked == 0 && sending.bytes_unsent == 0,
        bytes_acked: sending.bytes_acked,
    }
}

/// When the log of a worker last said that stamping fails.
#[derive(Default)]
pub(crate) struct Warned(Cell<Option<Instant>>);

impl Warned {
    fn tell(&self, vs: &str, error: &StampError) {
        match error {
            StampError::Clock(ClockError::NotPermitted) => tell_not_permitted(),
            other if self.is_time() => {
                tracing::warn!(vs, error = %chain(other), "a connection gets no owner hint; others may follow unsaid");
            }
            _ => {}
        }
    }

    fn is_time(&self) -> bool {
        let now = Instant::now();
        let time = self.0.get().is_none_or(|at| now - at >= WARN_EVERY);
        if time {
            self.0.set(Some(now));
        }
        time
    }
}

/// Capabilities are the process's: one line says it all.
fn tell_not_permitted() {
    static SAID: Once = Once::new();
    SAID.call_once(|| {
        tracing::error!(
            "connections get no owner hints, because this process lacks CAP_NET_ADMIN: engines ask each other for the \
             owners of connections instead. Give the engine's unit AmbientCapabilities=CAP_NET_ADMIN"
        );
    });
}

/// An error with its causes.
fn chain(error: &StampError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
