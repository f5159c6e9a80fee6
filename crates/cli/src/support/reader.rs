//! Questions to the API. Some wait at the same time, each has a time limit and so have all together, so that engines that
//! do not answer cost seconds; an answer is read up to a length, masked, and written as people read it.
//!
//! The threads of [`Reader::read_all`] end with it: each takes questions until there are no more, and all of them when
//! whoever takes the answers has stopped.

use super::Piece;
use super::list::{Ask, Form};
use super::secrets;
use crate::lookup::{items, text};
use crate::output::table;
use client::Client;
use serde_json::{Value, json};
use std::io::Read as _;
use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long an answer may take; an engine that is asked has 2 s of it.
const ANSWER_TIME: Duration = Duration::from_secs(30);
/// Length of an answer: an inventory of 5,000 virtual services is some 10 MB.
const ANSWER_LEN_MAX: u64 = 64 << 20;

/// Reads from a controller until a point in time.
pub(super) struct Reader<'a> {
    client: &'a Client,
    time_max: Duration,
    deadline: Instant,
}

impl<'a> Reader<'a> {
    pub(super) fn new(client: &'a Client, time_max: Duration) -> Self {
        Self {
            client,
            time_max,
            deadline: Instant::now() + time_max,
        }
    }

    /// The controller's version in words, if it says one.
    pub(super) fn version(&self) -> Option<String> {
        let value = self.value("/api/cluster/version", &[]).ok()?;
        let words = ["/ProductName", "/Version"].map(|pointer| text(&value, pointer));
        Some(format!("{} (API {})", words[0], words[1]))
    }

    /// Asks all, `at_once` at a time, and hands on each piece as it is there.
    pub(super) fn read_all(
        &self,
        asks: Vec<Ask>,
        at_once: usize,
        each: impl FnMut(Piece) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let asks = Mutex::new(asks.into_iter());
        let next = || asks.lock().unwrap_or_else(PoisonError::into_inner).next();
        // As many as wait for an answer: what is read faster than it is packed stays in memory.
        let (sender, pieces) = sync_channel(at_once);
        std::thread::scope(|scope| {
            for _ in 0..at_once {
                let sender = sender.clone();
                let next = &next;
                scope.spawn(move || {
                    while let Some(ask) = next() {
                        if sender.send(self.read(&ask)).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(sender);
            pieces.into_iter().try_for_each(each)
        })
    }

    /// The file that an answer becomes.
    pub(super) fn read(&self, ask: &Ask) -> Piece {
        match ask.form {
            Form::Text => {
                let text = self.text(&ask.path, &[]);
                let error = text.as_ref().err().cloned();
                piece(ask, text.ok().map(|text| secrets::without(&text)), error)
            }
            Form::Json => match self.value(&ask.path, &[]) {
                Ok(value) => of_value(ask, value, None),
                Err(error) => piece(ask, None, Some(error)),
            },
            Form::Pages { .. } => self.read_list(ask).0,
        }
    }

    /// The file that a list becomes, and the list.
    pub(super) fn read_list(&self, ask: &Ask) -> (Piece, Vec<Value>) {
        let Pages { list, count, error } = self.pages(ask);
        if list.is_empty() && error.is_some() {
            return (piece(ask, None, error), list);
        }
        let value = json!({"count": count, "results": list});
        (of_value(ask, value, error), list)
    }

    /// Page by page; those before one that fails are kept.
    fn pages(&self, ask: &Ask) -> Pages {
        let (size, max) = match ask.form {
            Form::Pages { size, max } => (size, max),
            Form::Json | Form::Text => (1, 1),
        };
        let mut read = Pages::default();
        for number in 1.. {
            let (number, size) = (number.to_string(), size.to_string());
            let query = [
                ("page", number.as_str()),
                ("page_size", &size),
                ("include_name", ""),
            ];
            let page = match self.value(&ask.path, &query) {
                Ok(page) => page,
                Err(error) => {
                    read.error = Some(error);
                    break;
                }
            };
            if read.take(&page, max) {
                break;
            }
        }
        read
    }

    fn value(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, String> {
        let text = self.text(path, query)?;
        serde_json::from_str(&text).map_err(|error| format!("the answer is not JSON: {error}"))
    }

    fn text(&self, path: &str, query: &[(&str, &str)]) -> Result<String, String> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let s = self.time_max.as_secs();
            return Err(format!("not asked: {s} s for all questions were over"));
        }
        let time = left.min(ANSWER_TIME);
        let stream = self.client.get_stream(path, query, &[], time);
        let stream = stream.map_err(|error| in_words(&error))?;
        let mut bytes = Vec::new();
        let read = stream.take(ANSWER_LEN_MAX + 1).read_to_end(&mut bytes);
        let len = read.map_err(|error| format!("the answer broke off: {error}"))?;
        if len as u64 > ANSWER_LEN_MAX {
            return Err(format!(
                "left out: the answer is longer than {} MiB",
                ANSWER_LEN_MAX >> 20
            ));
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// What has been read of a list.
#[derive(Default)]
struct Pages {
    list: Vec<Value>,
    /// Items that there are.
    count: Option<u64>,
    error: Option<String>,
}

impl Pages {
    /// Takes a page; true when it was the last one that is wanted.
    fn take(&mut self, page: &Value, max: usize) -> bool {
        let results = items(page, "/results");
        let room = max - self.list.len();
        self.list.extend(results.iter().take(room).cloned());
        self.count = page["count"].as_u64().or(self.count);
        let more = page.get("next").is_some() || page["more"] == true;
        !more || results.is_empty() || self.list.len() == max
    }
}

fn of_value(ask: &Ask, mut value: Value, error: Option<String>) -> Piece {
    secrets::mask(&mut value);
    // An engine that did not say it: the answer has the words, and what there is without it.
    let silent = text(&value, "/0/not_answered");
    let silent = Some(silent).filter(|why| !why.is_empty());
    let error = error.or(silent.map(str::to_owned));
    piece(ask, Some(table::json(&value)), error)
}

fn piece(ask: &Ask, text: Option<String>, error: Option<String>) -> Piece {
    let path = ask.file.clone();
    Piece { path, text, error }
}

/// With the status, which says whether it was refused or has failed.
fn in_words(error: &client::Error) -> String {
    match error.status() {
        Some(status) => format!("{status}: {error}"),
        None => error.to_string(),
    }
}
