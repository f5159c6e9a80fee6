//! `GET /api/analytics/logs`: events (avi-api section 11). Logs of connections and requests there are none.

use super::audit::time_us;
use super::operation::Call;
use super::{Context, ok};
use crate::clock::{now_us, rfc3339};
use crate::error::ApiError;
use crate::events::Event;
use crate::events::filter::{self, Filter};
use axum::response::Response;
use serde_json::{Value, json};
use std::sync::Arc;

/// The `type` that events are.
const EVENTS: &str = "2";
const PAGE_SIZE: usize = 10;
const PAGE_SIZE_MAX: usize = 1000;
/// The order that is asked for when none is: newest first.
const NEWEST_FIRST: &str = "-report_timestamp";

/// What is asked for.
struct Question {
    /// Logs that there are none of.
    nothing: bool,
    virtual_service: Option<String>,
    start_us: Option<u64>,
    end_us: u64,
    filter: Filter,
}

/// `GET /api/analytics/logs`.
pub(super) fn logs(call: &Call<'_>) -> Result<Response, ApiError> {
    let question = Question::of(call.context)?;
    let mut found = question.find(call);
    sort(call.context, &mut found);
    let (page, size) = page(call.context)?;
    let start = (page - 1).saturating_mul(size).min(found.len());
    let end = start.saturating_add(size).min(found.len());
    let shown = found[start..end]
        .iter()
        .map(|e| selected(call.context, e.show()));
    let oldest_us = || {
        found
            .iter()
            .map(|e| e.time_us)
            .min()
            .unwrap_or(question.end_us)
    };
    let start_us = question.start_us.unwrap_or_else(oldest_us);
    Ok(ok(json!({
        "count": found.len(),
        "results": shown.collect::<Vec<_>>(),
        "more": end < found.len(),
        "percent_remaining": 0.0,
        "start": rfc3339(start_us),
        "end": rfc3339(question.end_us),
        "duration": question.end_us.saturating_sub(start_us) / 1_000_000,
    })))
}

impl Question {
    fn of(context: &Context) -> Result<Self, ApiError> {
        let kind = context.get("type").unwrap_or(EVENTS);
        if !["0", "1", EVENTS].contains(&kind) {
            let text =
                format!("type: {kind:?} is no kind of log; use 2 for events (0 and 1 are empty)");
            return Err(ApiError::bad_request(text));
        }
        if context.get("groupby").is_some_and(|g| !g.is_empty()) {
            let text = "groupby: is not available; ask for the events themselves, with filter=op(field,value)";
            return Err(ApiError::bad_request(text));
        }
        let filters = context.query.iter().filter(|(name, _)| name == "filter");
        let (start_us, end_us) = range(context)?;
        Ok(Self {
            nothing: kind != EVENTS,
            virtual_service: context
                .get("virtualservice")
                .filter(|v| !v.is_empty())
                .map(str::to_owned),
            start_us,
            end_us,
            filter: Filter::new(filters.map(|(_, value)| value.as_str()))?,
        })
    }

    /// The events that fit, of those that the caller sees; oldest first.
    fn find(&self, call: &Call<'_>) -> Vec<Arc<Event>> {
        if self.nothing {
            return Vec::new();
        }
        let (snapshot, view) = (call.app.objects.snapshot(), call.context.view());
        let mut found = call.app.events.all();
        found.retain(|e| view.shows(&snapshot, &call.context.access, &e.subject) && self.fits(e));
        found
    }

    fn fits(&self, event: &Event) -> bool {
        (self.start_us.unwrap_or(0)..=self.end_us).contains(&event.time_us)
            && self
                .virtual_service
                .as_ref()
                .is_none_or(|uuid| event.concerns(uuid))
            && self.filter.matches(|| event.show())
    }
}

/// `start`, `end`, `duration` (seconds before the end), in microseconds since 1970; without a start, from the first on.
pub(super) fn range(context: &Context) -> Result<(Option<u64>, u64), ApiError> {
    let time = |name: &str| {
        let given = context.get(name).filter(|t| !t.is_empty());
        given.map(|text| moment(name, text)).transpose()
    };
    let end_us = match time("end")? {
        Some(end) => end,
        None => time("stop")?.unwrap_or_else(now_us),
    };
    let seconds = context.get("duration").filter(|t| !t.is_empty());
    let seconds: Option<u64> = seconds.map(str::parse).transpose().map_err(|_| {
        ApiError::bad_request("duration: is no number of seconds; write one, such as 3600")
    })?;
    let before = seconds.map(|s| end_us.saturating_sub(s.saturating_mul(1_000_000)));
    Ok((time("start")?.or(before), end_us))
}

/// RFC 3339; a time without a zone is UTC.
pub(super) fn moment(name: &str, text: &str) -> Result<u64, ApiError> {
    let in_utc = || time_us(name, &format!("{text}Z"));
    time_us(name, text).or_else(|error| in_utc().map_err(|_| error))
}

fn page(context: &Context) -> Result<(usize, usize), ApiError> {
    let number = |name: &str, default: usize| match context.get(name).filter(|t| !t.is_empty()) {
        None => Ok(default),
        Some(text) => text.parse::<usize>().map_err(|_| {
            ApiError::bad_request(format!(
                "{name}: {text:?} is no number; write one, from 1 on"
            ))
        }),
    };
    let (page, size) = (number("page", 1)?, number("page_size", PAGE_SIZE)?);
    Ok((page.max(1), size.clamp(1, PAGE_SIZE_MAX)))
}

/// By `orderby`; the ring's order is that of time.
fn sort(context: &Context, found: &mut [Arc<Event>]) {
    let asked = context
        .get("orderby")
        .filter(|o| !o.is_empty())
        .unwrap_or(NEWEST_FIRST);
    let (field, down) = match asked.strip_prefix('-') {
        Some(field) => (field, true),
        None => (asked, false),
    };
    if field != "report_timestamp" {
        found.sort_by_cached_key(|e| e.show().get(field).map(filter::text));
    }
    if down {
        found.reverse();
    }
}

/// `cols`: only these fields.
fn selected(context: &Context, mut shown: Value) -> Value {
    let wanted = context.get("cols").filter(|c| !c.is_empty());
    if let (Some(wanted), Some(fields)) = (wanted, shown.as_object_mut()) {
        fields.retain(|name, _| wanted.split(',').any(|w| w == name));
    }
    shown
}
