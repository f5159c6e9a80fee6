//! `GET /api/ek/flowevent/stream`: what becomes of packets of flows that live elsewhere, as it happens, as server-sent
//! events. `id` is the event's time, in nanoseconds since 1970 by the clock of its engine.
//!
//! Engines keep these events for whoever asks, and are asked twice a second. What is newer than what was told is told, up
//! to `limit` events of an engine from one question to the next, the newest.

use super::Context;
use super::operation::Call;
use super::stream::{Caller, response};
use crate::access::{self, Level};
use crate::error::ApiError;
use crate::plan::Backend;
use axum::response::Response;
use serde_json::Value;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

/// How often engines are asked.
const PERIOD: Duration = Duration::from_millis(500);
/// A comment goes out after so many questions without an event.
const SILENT_MAX: u32 = 20;

struct Listener {
    caller: Caller,
    backend: Arc<Backend>,
    context: Context,
    told: Told,
    silent: u32,
}

/// Up to when each engine's events were told, in nanoseconds by its own clock; by its uuid.
#[derive(Default)]
struct Told(BTreeMap<String, u64>);

/// `GET /api/ek/flowevent/stream`, with the parameters of `/api/ek/flowevent`.
pub(super) async fn flow_events(call: &Call<'_>) -> Result<Response, ApiError> {
    let context = call.context.clone();
    // Whatever is wrong with the parameters is said before the stream begins, and so is what there is by then.
    let before = call.app.backend.ek_flow_events(&context).await?;
    let mut told = Told::default();
    told.new_of(&before);
    let listener = Listener {
        caller: Caller::new(call)?,
        backend: call.app.backend.clone(),
        context,
        told,
        silent: SILENT_MAX,
    };
    let pieces = futures_util::stream::unfold(listener, |mut listener| async move {
        let piece = listener.next().await?;
        Some((Ok::<_, Infallible>(piece), listener))
    });
    Ok(response(pieces))
}

/// As the operation asks for at its start; rights may be taken away while it goes on.
fn may_ask(context: &Context) -> bool {
    let read = |path: &str| (Level::Read, access::resource(path));
    let ((level, services), (_, controller)) = (read("virtualservice"), read(""));
    context.may(level, &services) || context.access.may_everywhere(level, &controller)
}

impl Listener {
    /// The next piece of the stream; none: it ends. Cancelling it ends the stream.
    async fn next(&mut self) -> Option<String> {
        loop {
            self.context.access = self.caller.access().await?;
            may_ask(&self.context).then_some(())?;
            // A VIP that he may not see any more ends it, too.
            let answer = self.backend.ek_flow_events(&self.context).await.ok()?;
            let piece = self.told.new_of(&answer);
            self.silent = if piece.is_empty() { self.silent + 1 } else { 0 };
            if !piece.is_empty() {
                return Some(piece);
            }
            if self.silent > SILENT_MAX {
                self.silent = 0;
                return Some(":\n\n".to_owned());
            }
            if !self.caller.wait(PERIOD).await {
                return None;
            }
        }
    }
}

impl Told {
    /// What of an answer is new, as pieces of the stream.
    fn new_of(&mut self, answer: &Value) -> String {
        let mut piece = String::new();
        let before = self.0.clone();
        for event in answer["results"].as_array().into_iter().flatten() {
            let (Some(se), Some(at)) = (event["se_uuid"].as_str(), event["unix_ns"].as_u64())
            else {
                continue;
            };
            if at <= before.get(se).copied().unwrap_or(0) {
                continue;
            }
            let until = self.0.entry(se.to_owned()).or_default();
            *until = at.max(*until);
            // JSON has no line ends in it.
            piece.push_str(&format!("id: {at}\ndata: {event}\n\n"));
        }
        piece
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn answer(events: &[(&str, u64)]) -> Value {
        let event = |(se, at): &(&str, u64)| json!({"se_uuid": se, "unix_ns": at});
        json!({"results": events.iter().map(event).collect::<Vec<_>>()})
    }

    #[test]
    fn each_event_is_told_once_by_the_clock_of_its_engine() {
        let mut told = Told::default();
        let first = told.new_of(&answer(&[("a", 110), ("slow", 5), ("a", 120)]));
        assert_eq!(first.matches("id: ").count(), 3, "{first}");
        let again = answer(&[("a", 110), ("slow", 5), ("a", 120)]);
        assert_eq!(told.new_of(&again), "");
        let next = told.new_of(&answer(&[("a", 120), ("slow", 6)]));
        assert_eq!(
            next,
            "id: 6\ndata: {\"se_uuid\":\"slow\",\"unix_ns\":6}\n\n"
        );
    }

    #[test]
    fn events_of_one_instant_are_told_together() {
        let mut told = Told::default();
        let both = told.new_of(&answer(&[("a", 5), ("a", 5)]));
        assert_eq!(both.matches("id: 5\n").count(), 2);
    }
}
