//! `show events`: what happened, and with `--follow` what happens.

use crate::lookup::{items, number, text};
use crate::output::table::{self, Column, Row};
use crate::output::{self, Format};
use anyhow::bail;
use client::Client;
use serde::Serialize;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::time::Duration;

/// How long one connection of `--follow` lasts; the next one goes on where it ended. A controller that is gone without a
/// word is noticed then.
const CONNECTION: Duration = Duration::from_secs(300);
/// Pause before a connection that has ended is opened again.
const PAUSE: Duration = Duration::from_secs(1);

/// Which events.
#[derive(Debug, clap::Args)]
pub struct EventFilter {
    /// Only events of, or about, the object with this name or UUID.
    object: Option<String>,
    /// Only events of this id, such as VS_DOWN; several are separated by commas.
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    id: Vec<String>,
    /// Only events of the last so many seconds.
    #[arg(long, value_name = "S")]
    since: Option<u64>,
    /// At most so many, the newest.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(0..=1000))]
    limit: u16,
    /// Go on with what happens, until it is interrupted. With -o json: a line of JSON per event.
    #[arg(long, short)]
    follow: bool,
}

/// An event, as the API has it.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(super) struct EventRow(Value);

impl Row for EventRow {
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("TIME", |r| super::audit::seconds(text(&r.0, "/time"))),
        Column::new("EVENT", |r| text(&r.0, "/event_id").into()),
        Column::new("TYPE", |r| text(&r.0, "/obj_type").to_lowercase()),
        Column::new("NAME", |r| text(&r.0, "/obj_name").into()),
        Column::new("SUMMARY", |r| text(&r.0, "/details_summary").into()),
        Column::wide("REASON", |r| text(&r.0, "/reason_code").into()),
        Column::wide("UUID", |r| text(&r.0, "/obj_uuid").into()),
    ];
}

impl EventRow {
    fn concerns(&self, wanted: Option<&str>) -> bool {
        let related = items(&self.0, "/related_uuids");
        wanted.is_none_or(|wanted| {
            text(&self.0, "/obj_name") == wanted
                || text(&self.0, "/obj_uuid") == wanted
                || related.iter().any(|uuid| uuid == wanted)
        })
    }

    /// A line of a log that goes on.
    fn line(&self, format: Format) -> String {
        match format {
            Format::Json => self.0.to_string(),
            Format::Yaml => format!("---\n{}", table::yaml(&self.0).trim_end()),
            Format::Table | Format::Wide => format!(
                "{} {} {}",
                super::audit::seconds(text(&self.0, "/time")),
                text(&self.0, "/event_id"),
                text(&self.0, "/details_summary")
            ),
        }
    }
}

pub(super) fn show(client: &Client, filter: &EventFilter, format: Format) -> anyhow::Result<()> {
    if !filter.follow {
        super::print_named("such event", newest(client, filter)?, format);
        return Ok(());
    }
    // What comes between the two questions comes with the stream.
    let mut last = last_sequence(client)?;
    let rows = newest(client, filter)?;
    let there = |row: &&EventRow| number(&row.0, "/sequence").is_some_and(|n| n <= last);
    for row in rows.iter().filter(there) {
        output::line(row.line(format));
    }
    follow(client, filter, format, &mut last)
}

/// Those that are there, oldest first.
fn newest(client: &Client, filter: &EventFilter) -> anyhow::Result<Vec<EventRow>> {
    if filter.limit == 0 {
        return Ok(Vec::new());
    }
    // What is picked by the object's name is picked here: the API knows related objects by their UUID.
    let size = match filter.object {
        Some(_) => 1000,
        None => filter.limit,
    };
    let (size, ids) = (
        size.to_string(),
        format!("eq(event_id,[{}])", filter.id.join(",")),
    );
    let since = filter.since.map(|s| s.to_string());
    let all = [
        ("type", Some("2")),
        ("page_size", Some(size.as_str())),
        ("duration", since.as_deref()),
        (
            "filter",
            Some(ids.as_str()).filter(|_| !filter.id.is_empty()),
        ),
    ];
    let query: Vec<_> = all.into_iter().filter_map(|(k, v)| Some((k, v?))).collect();
    let page = client.get("/api/analytics/logs", &query)?;
    let rows = items(&page, "/results").iter().cloned().map(EventRow);
    let wanted = filter.object.as_deref();
    let rows = rows
        .filter(|row| row.concerns(wanted))
        .take(filter.limit.into());
    let mut rows: Vec<EventRow> = rows.collect();
    rows.reverse();
    Ok(rows)
}

/// The number of the newest event of all.
fn last_sequence(client: &Client) -> anyhow::Result<u64> {
    let page = client.get("/api/analytics/logs", &[("type", "2"), ("page_size", "1")])?;
    Ok(number(&page, "/results/0/sequence").unwrap_or_default())
}

/// What happens, until nobody reads it any more.
fn follow(
    client: &Client,
    filter: &EventFilter,
    format: Format,
    last: &mut u64,
) -> anyhow::Result<()> {
    let ids = filter.id.join(",");
    let query: Vec<_> = [("event_id", ids.as_str())]
        .into_iter()
        .filter(|(_, v)| !v.is_empty())
        .collect();
    let mut unreachable = false;
    while !output::closed() {
        let id = last.to_string();
        match client.get_stream(
            "/api/ek/event",
            &query,
            &[("Last-Event-ID", &id)],
            CONNECTION,
        ) {
            Ok(stream) => {
                unreachable = false;
                read(BufReader::new(stream), filter, format, last)?;
            }
            Err(error @ client::Error::Status { .. })
                if error.status().is_some_and(|s| s < 500) =>
            {
                return Err(error.into());
            }
            // The password is another one by now: to try it again and again would lock the address out.
            Err(error @ client::Error::Login { .. }) => return Err(error.into()),
            Err(error) => {
                if !std::mem::replace(&mut unreachable, true) {
                    crate::note!("{error}; trying again");
                }
            }
        }
        pause();
    }
    Ok(())
}

/// Prints the events of a stream until it ends.
fn read(
    stream: impl BufRead,
    filter: &EventFilter,
    format: Format,
    last: &mut u64,
) -> anyhow::Result<()> {
    // A stream that breaks off is opened again.
    for line in stream.lines().map_while(Result::ok) {
        if output::closed() {
            return Ok(());
        }
        if let Some(id) = line.strip_prefix("id: ") {
            *last = id.parse().unwrap_or(*last);
            continue;
        }
        let Some(data) = line.strip_prefix("data: ") else {
            continue;
        };
        let Ok(event) = serde_json::from_str::<Value>(data) else {
            bail!("the controller sent an event that is no JSON: {data}");
        };
        if let Some(lost) = number(&event, "/lost") {
            crate::note!("{lost} events came too fast and are lost here");
            continue;
        }
        let row = EventRow(event);
        if row.concerns(filter.object.as_deref()) {
            output::line(row.line(format));
        }
    }
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    reason = "the pause between two connections of a log that somebody follows"
)]
fn pause() {
    std::thread::sleep(PAUSE);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::table::render;
    use serde_json::json;

    fn event() -> Value {
        json!({
            "time": "2026-01-01T00:00:00.000001Z", "sequence": 7, "event_id": "SE_BGP_PEER_DOWN", "obj_type": "SERVICEENGINE",
            "obj_name": "se-1", "obj_uuid": "serviceengine-1", "details_summary": "se-1: the BGP session with 10.0.0.1 went down",
            "reason_code": "", "related_uuids": ["virtualservice-1"],
        })
    }

    fn cells(text: &str) -> Vec<&str> {
        text.split("  ")
            .map(str::trim)
            .filter(|c| !c.is_empty())
            .collect()
    }

    #[test]
    fn an_event_is_a_line_with_its_object_and_its_sentence() {
        let text = render(&[EventRow(event())], Format::Wide, None);
        let expected = [
            "2026-01-01T00:00:00Z",
            "SE_BGP_PEER_DOWN",
            "serviceengine",
            "se-1",
            "se-1: the BGP session with 10.0.0.1 went down",
            "-",
            "serviceengine-1",
        ];
        assert_eq!(cells(text.lines().nth(1).unwrap()), expected);
        let line = EventRow(event()).line(Format::Table);
        assert_eq!(
            line,
            "2026-01-01T00:00:00Z SE_BGP_PEER_DOWN se-1: the BGP session with 10.0.0.1 went down"
        );
        assert_eq!(EventRow(event()).line(Format::Json), event().to_string());
    }

    #[test]
    fn an_object_is_named_by_name_or_uuid_or_concerned() {
        let row = EventRow(event());
        for wanted in [
            None,
            Some("se-1"),
            Some("serviceengine-1"),
            Some("virtualservice-1"),
        ] {
            assert!(row.concerns(wanted), "{wanted:?}");
        }
        assert!(!row.concerns(Some("se-2")));
    }

    #[test]
    fn a_stream_is_read_from_event_to_event() {
        let filter = EventFilter {
            object: Some("nobody".into()),
            id: Vec::new(),
            since: None,
            limit: 0,
            follow: true,
        };
        let text = format!(
            ": events\n\nid: 7\ndata: {}\n\n:\n\nid: 9\ndata: {{}}\n\n",
            event()
        );
        let mut last = 3;
        read(text.as_bytes(), &filter, Format::Table, &mut last).unwrap();
        assert_eq!(last, 9);
        assert!(read("data: {\n".as_bytes(), &filter, Format::Table, &mut last).is_err());
    }
}
