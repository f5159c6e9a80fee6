//! `GET /api/ek/event`: events as they happen, as server-sent events (WHATWG HTML, section 9.2). `id` is the event's
//! number: who names the last one that he has, in `Last-Event-ID`, gets those after it.
//!
//! A stream ends when the caller's session or user is gone, when he may not be in the tenant any more, or when the
//! controller stops. It does not keep a session alive: a browser that is left open logs out as any other. Events are
//! taken from the ring as fast as the reader reads, so that nothing waits in memory for a slow one.

use super::operation::Call;
use crate::access::Access;
use crate::auth::{Auth, Ticket};
use crate::error::ApiError;
use crate::events::{Event, Events, Seat, View};
use crate::objects::Objects;
use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::Stream;
use serde_json::json;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A comment goes out after this time without events, so that both sides notice when the other one is gone; the
/// caller's rights are looked at, too.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Events of one piece.
const BATCH_LEN: usize = 256;
/// How long a stream lasts whose caller has no session, but sent his password: he sends it again.
const WITHOUT_SESSION: Duration = Duration::from_secs(900);

/// Which events.
struct Wanted {
    objects: Option<Vec<String>>,
    ids: Option<Vec<String>>,
}

/// A caller who listens, for as long as he may.
pub(super) struct Caller {
    objects: Arc<Objects>,
    auth: Arc<Auth>,
    tenant: String,
    ticket: Ticket,
    /// Without a session: he proves himself again then.
    until: Option<Instant>,
    end: CancellationToken,
    _seat: Seat,
}

/// One who listens to events.
struct Listener {
    caller: Caller,
    events: Arc<Events>,
    view: View,
    wanted: Wanted,
    /// The last event that he has.
    last: u64,
    newest: watch::Receiver<u64>,
    greeted: bool,
}

/// `GET /api/ek/event`.
pub(super) fn events(call: &Call<'_>) -> Result<Response, ApiError> {
    let listener = Listener::new(call)?;
    let pieces = futures_util::stream::unfold(listener, |mut listener| async move {
        let piece = listener.next().await?;
        Some((Ok::<_, Infallible>(piece), listener))
    });
    Ok(response(pieces))
}

/// The answer that these pieces are.
pub(super) fn response(
    pieces: impl Stream<Item = Result<String, Infallible>> + Send + 'static,
) -> Response {
    let kind = [(header::CONTENT_TYPE, "text/event-stream; charset=utf-8")];
    (kind, Body::from_stream(pieces)).into_response()
}

impl Caller {
    /// # Errors
    /// 429 when too many listen.
    pub(super) fn new(call: &Call<'_>) -> Result<Self, ApiError> {
        let (app, context) = (call.app, call.context);
        let too_many = || {
            let text = "too many streams of events are open; close one, or ask /api/analytics/logs";
            ApiError::new(StatusCode::TOO_MANY_REQUESTS, text)
        };
        let ticket = context.ticket.clone();
        let ticket = ticket.ok_or_else(|| ApiError::new(StatusCode::UNAUTHORIZED, "log in"))?;
        Ok(Self {
            _seat: app.events.seat(&ticket.uuid).ok_or_else(too_many)?,
            until: (!ticket.has_session()).then(|| Instant::now() + WITHOUT_SESSION),
            ticket,
            objects: app.objects.clone(),
            auth: app.auth.clone(),
            tenant: context.author.tenant.clone(),
            end: app.events.streams_end(),
        })
    }

    /// What he may now; none when he is not to listen any longer: his session, his token or he himself is gone, or
    /// streams are to end.
    pub(super) async fn access(&self) -> Option<Access> {
        let open = match self.until {
            None => self.auth.is_open(&self.ticket.id),
            Some(until) => Instant::now() < until,
        };
        let may = open && !self.end.is_cancelled();
        (may && self.auth.still_good(&self.ticket).await.ok()?).then_some(())?;
        let access = Access::of_user(&self.objects.snapshot(), &self.ticket.uuid)?;
        access.enters(&self.tenant).then_some(access)
    }

    /// Waits so long; false when streams are to end.
    pub(super) async fn wait(&self, time: Duration) -> bool {
        tokio::select! {
            () = self.end.cancelled() => false,
            () = tokio::time::sleep(time) => true,
        }
    }
}

impl Wanted {
    fn fits(&self, event: &Event) -> bool {
        let objects = self.objects.as_ref();
        let ids = self.ids.as_ref();
        objects.is_none_or(|all| all.iter().any(|uuid| event.concerns(uuid)))
            && ids.is_none_or(|all| all.iter().any(|id| id == event.id.code()))
    }
}

impl Listener {
    fn new(call: &Call<'_>) -> Result<Self, ApiError> {
        let (app, context) = (call.app, call.context);
        let list = |name: &str| {
            let given = context.get(name).filter(|t| !t.is_empty());
            given.map(|t| t.split(',').map(str::to_owned).collect())
        };
        let newest = app.events.newest();
        let there = *newest.borrow();
        let last = last_event(call)?.map_or(there, |last| last.min(there));
        Ok(Self {
            caller: Caller::new(call)?,
            last,
            newest,
            events: app.events.clone(),
            view: context.view(),
            wanted: Wanted {
                objects: list("obj_uuid"),
                ids: list("event_id"),
            },
            greeted: false,
        })
    }

    /// The next piece of the stream; none: it ends. Cancelling it ends the stream.
    async fn next(&mut self) -> Option<String> {
        // The first bytes say that the stream is open.
        if !std::mem::replace(&mut self.greeted, true) {
            return Some(": events\n\n".to_owned());
        }
        loop {
            let newest = *self.newest.borrow_and_update();
            let access = self.caller.access().await?;
            let piece = self.piece(&access);
            if !piece.is_empty() {
                return Some(piece);
            }
            if self.last < newest {
                // None of these was for him; there are more.
                tokio::task::yield_now().await;
                continue;
            }
            tokio::select! {
                changed = self.newest.changed() => changed.ok()?,
                goes_on = self.caller.wait(KEEP_ALIVE) => {
                    goes_on.then_some(())?;
                    self.caller.access().await?;
                    // Where he goes on after a break, whatever of it he has seen.
                    return Some(format!("id: {}\n\n", self.last));
                }
            }
        }
    }

    /// Events after the last one; of those that he was too slow for, how many.
    fn piece(&mut self, access: &Access) -> String {
        let mut piece = String::new();
        let lost = self.events.forgotten_since(self.last);
        let new = self.events.since(self.last, BATCH_LEN);
        let Some(newest) = new.last() else {
            return piece;
        };
        // Numbers are left out at a start of the controller; before the first event there is nothing to lose.
        if lost > 0 && self.last > 0 {
            let data = json!({"lost": lost});
            piece.push_str(&format!("event: gap\ndata: {data}\n\n"));
        }
        self.last = newest.sequence;
        let snapshot = self.caller.objects.snapshot();
        let seen = new.iter().filter(|e| self.wanted.fits(e));
        for event in seen.filter(|e| self.view.shows(&snapshot, access, &e.subject)) {
            // JSON has no line ends in it.
            piece.push_str(&format!(
                "id: {}\ndata: {}\n\n",
                event.sequence,
                event.show()
            ));
        }
        piece
    }
}

/// The last event that the caller has.
fn last_event(call: &Call<'_>) -> Result<Option<u64>, ApiError> {
    let header = call
        .headers
        .get("Last-Event-ID")
        .map(|v| v.to_str().unwrap_or("?"));
    let given = header
        .or(call.context.get("last_event_id"))
        .filter(|t| !t.is_empty());
    let wrong = |_| {
        ApiError::bad_request(
            "Last-Event-ID: is no number; give the id of the last event that you have",
        )
    };
    given
        .map(|text| text.trim().parse().map_err(wrong))
        .transpose()
}
