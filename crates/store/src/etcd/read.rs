//! What the store's reads are made of.

use super::Shared;
use super::layout::{self, Current, Head as HeadRecord, Place, Trace, Write};
use super::newest::{self, Descent};
use super::view::{Lost, Range, View};
use crate::{Change, Commit, Entry, Head, Listing, StoreError, Written};
use etcd_client::{KeyValue, TxnOp};
use std::collections::BTreeMap;
use std::ops::ControlFlow::{Break, Continue};
use std::sync::Arc;

pub(super) async fn get(shared: Arc<Shared>, key: &str) -> Result<Option<Entry>, Lost> {
    let op = TxnOp::get(shared.layout.current(key), None);
    let (view, gets) = View::open_with(shared, vec![op]).await?;
    if let Some((revision, values)) = view.overlay().await?
        && let Some(value) = values.get(key)
    {
        return Ok(value.clone().map(|value| Entry {
            key: key.to_owned(),
            value,
            revision,
        }));
    }
    let found = gets.first().and_then(|get| get.kvs().first());
    let entry = found.map(|found| entry_of(key.to_owned(), found));
    Ok(entry.transpose()?)
}

fn entry_of(key: String, found: &KeyValue) -> Result<Entry, StoreError> {
    let Current { revision, value } = layout::decode(found.key(), found.value())?;
    Ok(Entry {
        key,
        value,
        revision,
    })
}

pub(super) async fn list(shared: Arc<Shared>, prefix: &str) -> Result<Listing, Lost> {
    let range = Range::prefix(shared.layout.current(prefix));
    let (view, mut gets) = View::open_with(shared, vec![range.op()]).await?;
    let mut entries = BTreeMap::new();
    if let Some(first) = gets.pop() {
        let see = |found: &KeyValue| {
            let key = view.shared.layout.key_of_current(found.key())?;
            entries.insert(key.clone(), entry_of(key, found)?);
            Ok(Continue(()))
        };
        view.scan_from(first, range, see).await?;
    }
    lay_over(&view, prefix, &mut entries).await?;
    Ok(Listing {
        revision: view.revision,
        entries: entries.into_values().collect(),
    })
}

/// Makes of current values what they are once the pending commit is in place.
async fn lay_over(
    view: &View,
    prefix: &str,
    entries: &mut BTreeMap<String, Entry>,
) -> Result<(), Lost> {
    let Some((revision, values)) = view.overlay().await? else {
        return Ok(());
    };
    let ours = values.iter().filter(|(key, _)| key.starts_with(prefix));
    for (key, value) in ours {
        let Some(value) = value.clone() else {
            entries.remove(key);
            continue;
        };
        let entry = Entry {
            key: key.clone(),
            value,
            revision,
        };
        entries.insert(key.clone(), entry);
    }
    Ok(())
}

pub(super) async fn changes(view: &View, after: u64, limit: usize) -> Result<Vec<Change>, Lost> {
    let found = writes_after(view, after, limit, |_| true).await?;
    let places: Vec<Place> = found.iter().map(|(place, _)| *place).collect();
    let heads = heads_of(view, &places).await?;
    let changes = found.into_iter().map(|(place, write)| {
        let head = heads
            .get(&place.revision)
            .ok_or_else(|| no_head(view, place))?;
        Ok(change_of(place, write, head))
    });
    changes.collect()
}

fn no_head(view: &View, place: Place) -> Lost {
    let key = view.shared.layout.head(place.revision);
    layout::unreadable(&key, "a commit in the log has none").into()
}

fn change_of(place: Place, Write { key, value }: Write, head: &HeadRecord) -> Change {
    Change {
        revision: place.revision,
        key,
        value,
        meta: head.meta(),
        time_us: head.time_us,
    }
}

/// About `limit` writes after a revision that count, whole commits.
pub(super) async fn writes_after(
    view: &View,
    after: u64,
    limit: usize,
    counts: impl Fn(&Write) -> bool,
) -> Result<Vec<(Place, Write)>, Lost> {
    let layout = &view.shared.layout;
    let (mut found, mut len): (Vec<(Place, Write)>, usize) = (Vec::new(), 0);
    if after >= view.revision || limit == 0 {
        return Ok(found);
    }
    // What is staged for a commit that is not made yet is beyond.
    let range = Range::new(
        layout.log_from(after + 1),
        layout.log_from(view.revision + 1),
    );
    view.scan(range, |entry| {
        let place = layout.place_of_log(entry.key())?;
        let last = found.last().map(|(last, _)| last.revision);
        if len >= limit && last != Some(place.revision) {
            return Ok(Break(()));
        }
        let write: Write = layout::decode(entry.key(), entry.value())?;
        if counts(&write) {
            len += 1;
            found.push((place, write));
        }
        Ok(Continue(()))
    })
    .await?;
    Ok(found)
}

/// The heads of the commits that these places are in.
async fn heads_of(view: &View, places: &[Place]) -> Result<BTreeMap<u64, HeadRecord>, Lost> {
    let layout = &view.shared.layout;
    let mut revisions: Vec<u64> = places.iter().map(|place| place.revision).collect();
    revisions.dedup();
    let keys: Vec<_> = revisions.iter().map(|r| layout.head(*r)).collect();
    let found = view.entries(&keys).await?;
    let found = revisions
        .into_iter()
        .zip(found)
        .filter_map(|(r, entry)| Some((r, entry?)));
    let heads = found.map(|(r, entry)| Ok((r, layout::decode(entry.key(), entry.value())?)));
    heads.collect::<Result<_, StoreError>>().map_err(Lost::from)
}

pub(super) async fn history(view: &View, key: &str, limit: usize) -> Result<Vec<Change>, Lost> {
    let places = newest_places(view, key, limit).await?;
    let heads = heads_of(view, &places).await?;
    let writes = view.writes(&places).await?;
    let changes = places.into_iter().zip(writes).map(|(place, write)| {
        let head = heads
            .get(&place.revision)
            .ok_or_else(|| no_head(view, place))?;
        Ok(change_of(place, write, head))
    });
    changes.collect()
}

/// Where the log has what was written to a key, the newest first, at most `limit` of them.
async fn newest_places(view: &View, key: &str, limit: usize) -> Result<Vec<Place>, Lost> {
    let at = |revision| view.shared.layout.traces_from(key, revision);
    let end = view.revision + 1;
    let mut descent = Descent::new(at, 0, end, end).keys_only();
    let (mut kept, mut places) = (Kept::new(view.oldest), Vec::new());
    while places.len() < limit
        && let Some(entries) = descent.next(view).await?
    {
        for entry in entries {
            let trace = layout::trace_of(entry.key())?;
            places.extend((kept.next(&trace) == Fate::Kept).then_some(trace.place));
        }
    }
    places.truncate(limit);
    Ok(places)
}

/// What compaction leaves of a key's writes, seen from the newest to the oldest: all of the commits that are kept,
/// and the values of the last commit before them unless that deleted the key in the end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kept {
    oldest: u64,
    /// The last revision before the oldest that is kept, once it is known; 0 when nothing is kept of it.
    last: Option<u64>,
}

/// What becomes of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Kept,
    Forgotten,
}

impl Kept {
    pub(super) fn new(oldest: u64) -> Self {
        let last = None;
        Self { oldest, last }
    }

    pub(super) fn next(&mut self, trace: &Trace) -> Fate {
        let revision = trace.place.revision;
        if revision >= self.oldest {
            return Fate::Kept;
        }
        let none_if_deleted = if trace.is_deletion { 0 } else { revision };
        let last = *self.last.get_or_insert(none_if_deleted);
        if revision == last && !trace.is_deletion {
            Fate::Kept
        } else {
            Fate::Forgotten
        }
    }
}

pub(super) async fn heads(
    view: &View,
    prefix: &str,
    below: u64,
    limit: usize,
) -> Result<Vec<Head>, Lost> {
    let layout = &view.shared.layout;
    let end = below.min(view.revision.saturating_add(1));
    if end <= view.oldest || limit == 0 {
        return Ok(Vec::new());
    }
    let at = |revision| layout.head(revision);
    let width = u64::try_from(limit).unwrap_or(u64::MAX);
    let mut descent = Descent::new(at, view.oldest, end, width);
    let mut found = Vec::new();
    while found.len() < limit
        && let Some(entries) = descent.next(view).await?
    {
        for entry in entries {
            let (revision, record) = head_of(view, &entry).await?;
            found.extend(head_under(prefix, revision, record));
        }
    }
    found.truncate(limit);
    Ok(found)
}

/// A head with all its keys.
async fn head_of(view: &View, entry: &KeyValue) -> Result<(u64, HeadRecord), Lost> {
    let revision = view.shared.layout.revision_of_head(entry.key())?;
    let mut record: HeadRecord = layout::decode(entry.key(), entry.value())?;
    if record.keys_left_out {
        let writes = writes_after(view, revision.saturating_sub(1), 1, |_| true).await?;
        record.keys = writes.into_iter().map(|(_, write)| write.key).collect();
    }
    Ok((revision, record))
}

fn head_under(prefix: &str, revision: u64, record: HeadRecord) -> Option<Head> {
    let (meta, time_us) = (record.meta(), record.time_us);
    let mut keys = record.keys;
    keys.retain(|key| key.starts_with(prefix));
    let head = Head {
        revision,
        meta,
        time_us,
        keys,
    };
    Some(head).filter(|head| !head.keys.is_empty())
}

pub(super) async fn commit(view: &View, revision: u64) -> Result<Option<Commit>, Lost> {
    let Some(before) = revision.checked_sub(1) else {
        return Ok(None);
    };
    let mut found = writes_after(view, before, 1, |_| true).await?;
    found.retain(|(place, _)| place.revision == revision);
    let Some(place) = found.first().map(|(place, _)| *place) else {
        return Ok(None);
    };
    let heads = heads_of(view, &[place]).await?;
    let head = heads.get(&revision).ok_or_else(|| no_head(view, place))?;
    let keys: Vec<&str> = found.iter().map(|(_, write)| write.key.as_str()).collect();
    let befores = lasts(view, &keys, before).await?;
    let written = found.iter().zip(befores);
    let writes = written.map(|((_, Write { key, value }), before)| Written {
        key: key.clone(),
        before: before.map(|e| e.value),
        after: value.clone(),
    });
    Ok(Some(Commit {
        revision,
        meta: head.meta(),
        time_us: head.time_us,
        writes: writes.collect(),
    }))
}

pub(super) async fn last(view: &View, key: &str, revision: u64) -> Result<Option<Entry>, Lost> {
    Ok(lasts(view, &[key], revision).await?.pop().flatten())
}

/// The entries of keys as they were after a revision.
async fn lasts(view: &View, keys: &[&str], revision: u64) -> Result<Vec<Option<Entry>>, Lost> {
    let end = revision.min(view.revision) + 1;
    let traces = newest::last_traces(view, keys, end).await?;
    let valued = |trace: &Option<Trace>| trace.as_ref().filter(|t| !t.is_deletion).map(|t| t.place);
    let places: Vec<Option<Place>> = traces.iter().map(valued).collect();
    let wanted: Vec<Place> = places.iter().copied().flatten().collect();
    let mut writes = view.writes(&wanted).await?.into_iter();
    let entries = places.into_iter().map(|place| {
        let (place, Write { key, value }) = (place?, writes.next()?);
        Some(Entry {
            key,
            value: value?,
            revision: place.revision,
        })
    });
    Ok(entries.collect())
}
