//! The time of day, as the API and the store have it.

use std::time::{SystemTime, UNIX_EPOCH};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Microseconds since 1970.
pub fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX))
}

/// Seconds since 1970.
pub fn now_unix_s() -> u64 {
    now_us() / 1_000_000
}

/// Microseconds since 1970 in words (RFC 3339): in UTC, to the microsecond.
pub fn rfc3339(us: u64) -> String {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(us) * 1000);
    let text = time.ok().and_then(|t| t.format(&Rfc3339).ok());
    text.unwrap_or_else(|| format!("{us} us since 1970"))
}
