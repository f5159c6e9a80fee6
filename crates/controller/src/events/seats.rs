//! How many streams are open at the same time, in all and of one user: each is a connection.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// In all.
const MAX: usize = 100;
/// Of one user, so that one alone shuts nobody out.
const OF_USER_MAX: usize = 20;

/// See the module's documentation. Open streams by the user's uuid.
#[derive(Default, Clone)]
pub(super) struct Seats(Arc<Mutex<BTreeMap<String, usize>>>);

/// Given back when it is dropped.
pub struct Seat {
    seats: Seats,
    user: String,
}

impl Seats {
    fn taken(&self) -> MutexGuard<'_, BTreeMap<String, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One for this user; none when there are too many.
    pub(super) fn take(&self, user: &str) -> Option<Seat> {
        let mut taken = self.taken();
        let his = taken.get(user).copied().unwrap_or(0);
        if his >= OF_USER_MAX || taken.values().sum::<usize>() >= MAX {
            return None;
        }
        taken.insert(user.to_owned(), his + 1);
        Some(Seat {
            seats: self.clone(),
            user: user.to_owned(),
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken();
        match taken.get_mut(&self.user) {
            Some(his) if *his > 1 => *his -= 1,
            _ => drop(taken.remove(&self.user)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_are_bounded_in_all_and_by_user_and_are_given_back() {
        let seats = Seats::default();
        let take = |user: &str| (0..MAX).map_while(|_| seats.take(user)).collect::<Vec<_>>();
        let mut his = take("u-1");
        assert_eq!(his.len(), OF_USER_MAX);
        assert!(seats.take("u-2").is_some(), "others have theirs");
        his.pop();
        assert!(seats.take("u-1").is_some());
        let all: Vec<Vec<Seat>> = (2..10).map(|n| take(&format!("u-{n}"))).collect();
        assert_eq!(his.len() + all.iter().map(Vec::len).sum::<usize>(), MAX);
        assert!(seats.take("u-10").is_none(), "in all");
        drop((his, all));
        assert!(seats.taken().is_empty());
    }
}
