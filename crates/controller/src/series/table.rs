//! A ring of rows, one per step; not allocated while all that there is to keep is nothing. Pure.

/// See the module's documentation.
pub(super) struct Table {
    columns: usize,
    rows: usize,
    /// The first step that is known, and the one after the last.
    first: u64,
    end: u64,
    /// Row by row, at the step's remainder; NaN in the first column: nothing was reported. Empty: all are zeros.
    figures: Vec<f32>,
}

impl Table {
    pub(super) fn new(columns: usize, rows: usize) -> Self {
        Self {
            columns,
            rows,
            first: 0,
            end: 0,
            figures: Vec::new(),
        }
    }

    /// What is allocated.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.figures.capacity() * size_of::<f32>()
    }

    fn at(&self, slot: u64) -> std::ops::Range<usize> {
        // The remainder is less than `rows`, which is a usize.
        let row = usize::try_from(slot % self.rows as u64).unwrap_or(0);
        row * self.columns..(row + 1) * self.columns
    }

    /// The figures of a step; steps that are left out have none. One that is over already is not changed.
    pub(super) fn push(&mut self, slot: u64, row: &[f32]) {
        if slot < self.end {
            return;
        }
        if self.end == 0 || slot - self.end >= self.rows as u64 {
            self.figures = Vec::new();
            (self.first, self.end) = (slot, slot);
        }
        let zeros = row.iter().all(|f| *f == 0.0);
        if self.figures.is_empty() {
            if zeros && slot == self.end {
                self.end = slot + 1;
                return self.keep_to_rows();
            }
            self.figures = vec![0.0; self.columns * self.rows];
        }
        for missing in self.end..slot {
            let at = self.at(missing);
            self.figures[at].fill(f32::NAN);
        }
        let at = self.at(slot);
        self.figures[at].copy_from_slice(row);
        self.end = slot + 1;
        self.keep_to_rows();
    }

    fn keep_to_rows(&mut self) {
        self.first = self.first.max(self.end.saturating_sub(self.rows as u64));
    }

    /// From this step on and before that one.
    pub(super) fn read(&self, from: u64, before: u64) -> Vec<(u64, Option<Vec<f32>>)> {
        let slots = from.max(self.first)..before.min(self.end);
        let row = |slot: u64| match self.figures.get(self.at(slot)) {
            None => Some(vec![0.0; self.columns]),
            Some(row) if row[0].is_nan() => None,
            Some(row) => Some(row.to_vec()),
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
        let mut table = Table::new(2, 4);
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
    }

    #[test]
    fn nothing_is_allocated_for_nothing() {
        let mut table = Table::new(6, 144);
        for slot in 100..1000 {
            table.push(slot, &[0.0; 6]);
        }
        assert_eq!(table.figures.capacity(), 0);
        assert_eq!(first_figures(&table).len(), 144);
        table.push(1000, &[1.0; 6]);
        let all = first_figures(&table);
        assert_eq!((all[0], all[143]), ((857, Some(0.0)), (1000, Some(1.0))));
    }

    #[test]
    fn after_a_long_silence_it_begins_anew_and_what_is_over_stays() {
        let mut table = Table::new(1, 4);
        table.push(10, &[1.0]);
        table.push(10, &[9.0]);
        assert_eq!(first_figures(&table), [(10, Some(1.0))]);
        table.push(15, &[2.0]);
        assert_eq!(first_figures(&table), [(15, Some(2.0))]);
    }
}
