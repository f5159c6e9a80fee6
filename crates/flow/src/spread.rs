//! Native scaling: which member gets a new flow that comes to the primary (`docs/dev/steering.md`, section 11).
//!
//! A flow's hash names one of [`SLOTS`] slots, and a slot a member. Every member has the same table, so that a flow goes the same way
//! whichever of them is the primary when its first packet comes.

use crate::key::Flow;
use crate::mark::{HintKey, Mark};

/// Parts that a VIP's new flows are cut into.
pub const SLOTS: usize = 256;

/// What of a flow is hashed (`flow_dist`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The client's address and port, and the service.
    AddressAndPort,
    /// The client's address alone: all its flows to the VIP go to one member.
    Address,
}

/// How new flows are spread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spread {
    /// What is hashed.
    pub by: By,
    /// By slot: the id of the member.
    pub slots: Box<[u8; SLOTS]>,
}

impl Spread {
    /// Over these members, by their weights; see [`share_out`].
    #[must_use]
    pub fn over(by: By, members: &[(u8, u32)]) -> Self {
        Self {
            by,
            slots: share_out(members),
        }
    }

    /// What is hashed of this flow.
    #[must_use]
    pub fn mark(by: By, key: HintKey, flow: &Flow) -> Mark {
        match by {
            By::AddressAndPort => Mark::of(key, flow),
            By::Address => Mark::of_address(key, flow),
        }
    }

    /// Whom the table names for it.
    #[must_use]
    pub fn named(&self, mark: Mark) -> u8 {
        self.slots[usize::from(mark.slot())]
    }
}

/// Each member gets its share of the slots, exact but for rounding, and among those that it likes best: when one comes or
/// goes, few slots change between the others. Members are ids with weights; without any weight all slots are member 0's, who
/// need not exist.
#[must_use]
pub fn share_out(members: &[(u8, u32)]) -> Box<[u8; SLOTS]> {
    let mut left = quotas(members);
    let mut slots = Box::new([0; SLOTS]);
    for (slot, member) in slots.iter_mut().enumerate() {
        let wanted = left.iter_mut().filter(|(_, quota)| *quota > 0);
        if let Some((id, quota)) = wanted.max_by_key(|(id, _)| liking(slot, *id)) {
            *quota -= 1;
            *member = *id;
        }
    }
    slots
}

/// Slots of each member: what its weight gives, and of what is left by rounding one more for the largest remainders.
fn quotas(members: &[(u8, u32)]) -> Vec<(u8, usize)> {
    let total: u64 = members.iter().map(|(_, weight)| u64::from(*weight)).sum();
    if total == 0 {
        return Vec::new();
    }
    let exact = |weight: u32| u64::from(weight) * SLOTS as u64;
    let mut shares: Vec<(u8, usize, u64)> = members
        .iter()
        .map(|(id, weight)| {
            let whole = usize::try_from(exact(*weight) / total).unwrap_or(SLOTS);
            (*id, whole, exact(*weight) % total)
        })
        .collect();
    shares.sort_by_key(|(id, _, rest)| (std::cmp::Reverse(*rest), *id));
    let given: usize = shares.iter().map(|(_, whole, _)| whole).sum();
    for share in shares.iter_mut().take(SLOTS - given) {
        share.1 += 1;
    }
    shares
        .into_iter()
        .map(|(id, whole, _)| (id, whole))
        .collect()
}

fn liking(slot: usize, id: u8) -> u64 {
    let step = (u64::from(id) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let x = (slot as u64 ^ step).wrapping_mul(0xC2B2_AE3D_27D4_EB4F);
    (x ^ x >> 29).wrapping_mul(0x1656_67B1_9E37_79F9)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn count(slots: &[u8; SLOTS], id: u8) -> usize {
        slots.iter().filter(|member| **member == id).count()
    }

    #[test]
    fn five_members_get_a_fifth_each() {
        let slots = share_out(&[(0, 1), (1, 1), (2, 1), (3, 1), (7, 1)]);
        let shares = [0, 1, 2, 3, 7].map(|id| count(&slots, id));
        assert_eq!(shares, [52, 51, 51, 51, 51]);
    }

    #[test]
    fn without_weight_nobody_is_named_but_zero() {
        assert_eq!(*share_out(&[(3, 0)]), [0; SLOTS]);
        assert_eq!(*share_out(&[]), [0; SLOTS]);
    }

    #[test]
    fn when_one_goes_the_others_keep_most_of_their_slots() {
        let before = share_out(&[(0, 1), (1, 1), (2, 1), (3, 1), (4, 1)]);
        let after = share_out(&[(0, 1), (1, 1), (2, 1), (3, 1)]);
        let pairs = before.iter().zip(after.iter());
        let moved = pairs.filter(|(b, a)| b != a && **b != 4).count();
        assert!(moved < SLOTS / 4, "{moved} slots moved between survivors");
    }

    proptest! {
        #[test]
        fn shares_are_exact_but_for_one_slot(weights in proptest::collection::vec(1u32..1000, 1..6)) {
            let members: Vec<(u8, u32)> = (0u8..).zip(weights.iter().copied()).collect();
            let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
            let slots = share_out(&members);
            for (id, weight) in members {
                let exact = u64::from(weight) * SLOTS as u64 / total;
                let given = count(&slots, id) as u64;
                prop_assert!(given == exact || given == exact + 1, "{given} of {exact}");
            }
        }
    }
}
