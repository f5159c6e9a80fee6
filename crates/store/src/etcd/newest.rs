//! Reading backwards: what is newest comes first.
//!
//! etcd reads all of a range before it gives its end. So whoever wants the newest entries of many asks for windows of
//! revisions, each with as many entries as are read at once, in the order in which etcd has them.

use super::layout::{self, Key, Trace};
use super::view::{Lost, Range, View};
use etcd_client::{GetOptions, GetResponse, KeyValue, SortOrder, SortTarget, TxnOp};

/// Entries that etcd may read to give the last of them.
const CROWD_MAX: i64 = 1000;

/// Entries with revisions in their keys, from the newest to the oldest.
pub(super) struct Descent<F> {
    /// The key where the entries of a revision begin.
    at: F,
    floor: u64,
    /// All from here on are read.
    end: u64,
    /// Revisions of the next window.
    width: u64,
    keys_only: bool,
}

impl<F: Fn(u64) -> Key> Descent<F> {
    /// The entries of the revisions from `floor` to before `end`, about so many at first.
    pub(super) fn new(at: F, floor: u64, end: u64, width: u64) -> Self {
        Self {
            at,
            floor,
            end,
            width: width.max(1),
            keys_only: false,
        }
    }

    pub(super) fn keys_only(self) -> Self {
        let keys_only = true;
        Self { keys_only, ..self }
    }

    /// The entries of the next window, the newest first, of which there may be none; none when that was all.
    pub(super) async fn next(&mut self, view: &View) -> Result<Option<Vec<KeyValue>>, Lost> {
        while self.end > self.floor {
            let begin = self.end.saturating_sub(self.width).max(self.floor);
            let range = self.range(begin);
            let page = view.page(&range).await?;
            if page.more() && self.end - begin > 1 {
                self.narrow(begin, page.count(), range.page_len());
                continue;
            }
            if page.count() < range.page_len() / 2 {
                self.width = self.width.saturating_mul(2);
            }
            self.end = begin;
            return all_of(view, page, range).await.map(Some);
        }
        Ok(None)
    }

    fn range(&self, begin: u64) -> Range {
        let range = Range::new((self.at)(begin), (self.at)(self.end));
        if self.keys_only {
            range.keys_only()
        } else {
            range
        }
    }

    /// To half of what a page holds, if they are as many everywhere.
    fn narrow(&mut self, begin: u64, count: i64, page_len: i64) {
        let pages = u64::try_from(2 * count / page_len).unwrap_or(0);
        self.width = ((self.end - begin) / pages.max(2)).max(1);
    }
}

/// A window, whose first page is at hand, the newest first. There are more pages only when one commit wrote a key more
/// often than a page has entries.
async fn all_of(view: &View, page: GetResponse, range: Range) -> Result<Vec<KeyValue>, Lost> {
    let mut all = Vec::new();
    let see = |entry: &KeyValue| {
        all.push(entry.clone());
        Ok(std::ops::ControlFlow::Continue(()))
    };
    view.scan_from(page, range, see).await?;
    all.reverse();
    Ok(all)
}

/// The last entry of the index for each of these keys before revision `end`.
pub(super) async fn last_traces(
    view: &View,
    keys: &[&str],
    end: u64,
) -> Result<Vec<Option<Trace>>, Lost> {
    let mut searches: Vec<_> = keys.iter().map(|key| Search::new(key, end)).collect();
    loop {
        let open = searches.iter_mut().filter(|s| s.found.is_none());
        let mut open: Vec<&mut Search<'_>> = open.collect();
        if open.is_empty() {
            break;
        }
        let reads = open.iter().map(|search| search.op(view)).collect();
        let answers = view.answers(reads).await?;
        for (search, answer) in open.iter_mut().zip(answers) {
            search.learn(answer);
        }
    }
    let found = searches.into_iter().map(|search| search.found.flatten());
    let traces = found.map(|entry| entry.map(|e| layout::trace_of(e.key())).transpose());
    Ok(traces.collect::<Result<_, _>>()?)
}

/// Looks for the last entry of the index for a key: counts, which costs etcd little, and halves what is too many.
struct Search<'a> {
    key: &'a str,
    /// It is among these revisions, unless there is none.
    from: u64,
    end: u64,
    /// Whether it is from here on is asked next.
    middle: u64,
    /// They are few enough from there on that the last one may be asked for.
    are_few: bool,
    found: Option<Option<KeyValue>>,
}

impl<'a> Search<'a> {
    fn new(key: &'a str, end: u64) -> Self {
        Self {
            key,
            from: 0,
            end,
            middle: 0,
            are_few: false,
            found: None,
        }
    }

    fn op(&self, view: &View) -> TxnOp {
        let layout = &view.shared.layout;
        let options = GetOptions::new()
            .with_revision(view.at)
            .with_range(layout.traces_from(self.key, self.end))
            .with_keys_only()
            .with_limit(1);
        let options = match self.are_few {
            true => options.with_sort(SortTarget::Key, SortOrder::Descend),
            false => options,
        };
        TxnOp::get(layout.traces_from(self.key, self.middle), Some(options))
    }

    fn learn(&mut self, mut answer: GetResponse) {
        let (count, first) = (answer.count(), answer.take_kvs().into_iter().next());
        let is_all = self.middle == self.from;
        if self.are_few || count == 1 || (count == 0 && is_all) {
            self.found = Some(first);
        } else if count == 0 {
            self.end = self.middle;
            self.halve();
        } else if count <= CROWD_MAX {
            self.are_few = true;
        } else {
            self.from = self.middle;
            self.halve();
        }
    }

    /// One revision is not halved: a commit that wrote the key so often is looked at as it is.
    fn halve(&mut self) {
        self.middle = self.from + (self.end - self.from) / 2;
        self.are_few = self.middle == self.from;
    }
}
