//! The weight of a virtual service (avi-api `VirtualService.weight`): how much of a busy engine its connections have beside
//! others'. What writes, tells and acts on it takes this type.

use serde::{Deserialize, Deserializer};

/// 1 to 128.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Weight(u8);

/// It is no weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is more than {max}", max = Weight::MAX)]
pub struct TooHeavy(u32);

impl Weight {
    /// The greatest.
    pub const MAX: u32 = 128;

    /// As an engine is told of it; 0, which controllers say that know no weights, is 1.
    ///
    /// # Errors
    /// It is beyond [`Self::MAX`].
    pub fn told(weight: u32) -> Result<Self, TooHeavy> {
        match u8::try_from(weight.max(1)) {
            Ok(small) if weight <= Self::MAX => Ok(Self(small)),
            _ => Err(TooHeavy(weight)),
        }
    }

    /// The nearest to a number: what was checked already.
    pub fn nearest(weight: u32) -> Self {
        Self::told(weight.min(Self::MAX)).unwrap_or_default()
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0.into()
    }
}

/// What has no other one.
impl Default for Weight {
    fn default() -> Self {
        Self(1)
    }
}

/// Of an object that is stored: a write is refused beyond the range (`schema`), and one that a version without the range has
/// let in keeps no engine from the rest of what it is told.
impl<'de> Deserialize<'de> for Weight {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        u32::deserialize(deserializer).map(Self::nearest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_takes_what_is_in_the_range_and_says_what_is_beyond() {
        for (told, weight) in [(0, 1), (1, 1), (7, 7), (128, 128)] {
            assert_eq!(Weight::told(told).map(Weight::get), Ok(weight));
        }
        for beyond in [129, 256, 257, u32::MAX] {
            let error = Weight::told(beyond).unwrap_err();
            assert_eq!(error.to_string(), format!("{beyond} is more than 128"));
        }
    }

    #[test]
    fn what_is_stored_is_the_nearest_in_the_range() {
        for (stored, weight) in [("0", 1), ("1", 1), ("128", 128), ("300", 128)] {
            let read: Weight = serde_json::from_str(stored).unwrap();
            assert_eq!(read.get(), weight, "{stored}");
        }
        assert_eq!(Weight::default().get(), 1);
    }

    #[test]
    fn the_schema_has_the_same_range() {
        let ty = crate::schema::object_type("virtualservice").unwrap();
        let range = ty.field("weight").unwrap().range.clone();
        assert!(
            matches!(range, Some(crate::schema::Range::Span(1, max)) if max == i64::from(Weight::MAX)),
            "{range:?}"
        );
    }
}
