//! A ring of rows, one per step, kept by column: one in which all figures are alike takes no room. Pure.

/// See the module's documentation.
pub(super) struct Table {
    rows: usize,
    /// The first step that is known, and the one after the last.
    first: u64,
    end: u64,
    columns: Vec<Column>,
    /// Steps in which nothing was reported, at the step's remainder; empty: there are none.
    gaps: Vec<bool>,
}

/// A figure of all rows.
enum Column {
    /// It has been this in all of them.
    Alike(f32),
    /// Row by row, at the step's remainder.
    Each(Box<[f32]>),
}

impl Column {
    fn get(&self, at: usize) -> f32 {
        match self {
            Self::Alike(figure) => *figure,
            Self::Each(figures) => figures[at],
        }
    }

    fn set(&mut self, at: usize, figure: f32, rows: usize) {
        match self {
            Self::Alike(known) if is_same(*known, figure) => {}
            Self::Alike(known) => {
                let mut figures = vec![*known; rows].into_boxed_slice();
                figures[at] = figure;
                *self = Self::Each(figures);
            }
            Self::Each(figures) => figures[at] = figure,
        }
    }

    /// Gives its room back where all are alike again.
    fn shrink(&mut self) {
        if let Self::Each(figures) = self {
            let first = figures[0];
            if figures.iter().all(|figure| is_same(*figure, first)) {
                *self = Self::Alike(first);
            }
        }
    }
}

/// Also where neither is known.
fn is_same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits()
}

impl Table {
    pub(super) fn new(rows: usize) -> Self {
        Self {
            rows,
            first: 0,
            end: 0,
            columns: Vec::new(),
            gaps: Vec::new(),
        }
    }

    /// What the figures take.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        let each = self.columns.iter().map(|column| match column {
            Column::Alike(_) => 0,
            Column::Each(figures) => size_of_val::<[f32]>(figures),
        });
        each.sum()
    }

    fn at(&self, slot: u64) -> usize {
        // The remainder is less than `rows`, which is a usize.
        usize::try_from(slot % self.rows as u64).unwrap_or(0)
    }

    /// The figures of a step; steps that are left out have none. One that is over already is not changed.
    pub(super) fn push(&mut self, slot: u64, row: &[f32]) {
        if slot < self.end {
            return;
        }
        if self.end == 0 || slot - self.end >= self.rows as u64 {
            self.begin(slot, row);
        }
        for missing in self.end..slot {
            self.set_gap(missing, true);
        }
        self.set_gap(slot, false);
        let at = self.at(slot);
        for (column, figure) in self.columns.iter_mut().zip(row) {
            column.set(at, *figure, self.rows);
        }
        if at == 0 {
            self.columns.iter_mut().for_each(Column::shrink);
        }
        self.end = slot + 1;
        self.first = self.first.max(self.end.saturating_sub(self.rows as u64));
    }

    /// Nothing before this step is known any more.
    fn begin(&mut self, slot: u64, row: &[f32]) {
        (self.first, self.end) = (slot, slot);
        self.columns = row.iter().map(|figure| Column::Alike(*figure)).collect();
        self.gaps = Vec::new();
    }

    fn set_gap(&mut self, slot: u64, is_gap: bool) {
        if is_gap && self.gaps.is_empty() {
            self.gaps = vec![false; self.rows];
        }
        let at = self.at(slot);
        if let Some(gap) = self.gaps.get_mut(at) {
            *gap = is_gap;
        }
    }

    /// From this step on and before that one.
    pub(super) fn read(&self, from: u64, before: u64) -> Vec<(u64, Option<Vec<f32>>)> {
        let slots = from.max(self.first)..before.min(self.end);
        let row = |slot: u64| {
            let at = self.at(slot);
            let is_gap = self.gaps.get(at).is_some_and(|gap| *gap);
            (!is_gap).then(|| self.columns.iter().map(|column| column.get(at)).collect())
        };
        slots.map(|slot| (slot, row(slot))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first_figures(table: &Table) -> Vec<(u64, Option<f32>)> {
        let all = table.read(0, u64::MAX).into_iter();
        all.map(|(slot, row)| (slot, row.map(|r| r[0]))).collect()
    }

    #[test]
    fn the_newest_rows_stay_and_gaps_are_gaps() {
        let mut table = Table::new(4);
        for (slot, figure) in [(10, 1.0), (11, 2.0), (13, 3.0)] {
            table.push(slot, &[figure, figure]);
        }
        let expected = [
            (10, Some(1.0)),
            (11, Some(2.0)),
            (12, None),
            (13, Some(3.0)),
        ];
        assert_eq!(first_figures(&table), expected);
        table.push(14, &[4.0, 4.0]);
        assert_eq!(first_figures(&table)[0], (11, Some(2.0)));
        assert_eq!(first_figures(&table).len(), 4);
        assert_eq!(table.read(12, 14).len(), 2);
        table.push(15, &[5.0, 5.0]);
        table.push(16, &[6.0, 6.0]);
        let known = first_figures(&table);
        assert!(
            known.iter().all(|(_, figure)| figure.is_some()),
            "{known:?}"
        );
    }

    #[test]
    fn a_column_takes_room_only_while_its_figures_differ() {
        let mut table = Table::new(144);
        for slot in 100..1000 {
            table.push(slot, &[0.0, 100.0, f32::NAN]);
        }
        assert_eq!(table.bytes(), 0, "alike, or not known");
        assert_eq!(first_figures(&table).len(), 144);
        table.push(1000, &[1.0, 100.0, f32::NAN]);
        assert_eq!(table.bytes(), 144 * 4);
        let all = first_figures(&table);
        assert_eq!((all[0], all[143]), ((857, Some(0.0)), (1000, Some(1.0))));
        for slot in 1001..1300 {
            table.push(slot, &[0.0, 100.0, f32::NAN]);
        }
        assert_eq!(table.bytes(), 0, "alike again");
        let last = table.read(1299, 1300).remove(0).1.expect("known");
        assert_eq!((last[0], last[1], last[2].is_nan()), (0.0, 100.0, true));
    }

    #[test]
    fn a_gap_alone_takes_no_room_for_figures() {
        let mut table = Table::new(4);
        table.push(10, &[0.0]);
        table.push(12, &[0.0]);
        assert_eq!(table.bytes(), 0);
        let expected = [(10, Some(0.0)), (11, None), (12, Some(0.0))];
        assert_eq!(first_figures(&table), expected);
    }

    #[test]
    fn after_a_long_silence_it_begins_anew_and_what_is_over_stays() {
        let mut table = Table::new(4);
        table.push(10, &[1.0]);
        table.push(10, &[9.0]);
        assert_eq!(first_figures(&table), [(10, Some(1.0))]);
        table.push(15, &[2.0]);
        assert_eq!(first_figures(&table), [(15, Some(2.0))]);
    }
}
