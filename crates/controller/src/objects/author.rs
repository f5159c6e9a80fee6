//! Who writes, and what he asks for beside the change: a message in the log, a time within which he confirms.

use super::{Planned, refs};
use crate::confirm;
use crate::error::ApiError;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use store::{Meta, Op};

/// A word to the audit log about a write: UTF-8, percent-encoded.
const MESSAGE: &str = "X-Evenkeel-Message";
/// Longest message, in bytes, once it is decoded.
const MESSAGE_LEN_MAX: usize = 1024;
/// Seconds within which the write is confirmed, or else it is reverted.
pub const CONFIRM_WITHIN: &str = "X-Evenkeel-Confirm-Within";
/// A day: whoever needs longer to look has other means.
const CONFIRM_WITHIN_MAX_S: u64 = 86_400;

/// Who writes, in which tenant.
#[derive(Debug, Clone)]
pub struct Author {
    /// User, or the part of the controller.
    pub who: String,
    /// Address that the user calls from; empty for a part of the controller.
    pub from: String,
    /// uuid of the tenant for new objects.
    pub tenant: String,
    /// His own words about the change.
    pub message: Option<String>,
    /// What he writes is reverted unless it is confirmed within this.
    pub confirm_within_s: Option<u64>,
    /// What he writes is checked, and not stored.
    pub dry_run: bool,
    /// What he would have written.
    planned: Arc<Mutex<Option<Planned>>>,
    /// The revision of the last change that was committed in his name, 0 before the first.
    written: Arc<AtomicU64>,
}

impl Default for Author {
    /// Nobody, in tenant admin.
    fn default() -> Self {
        Self {
            who: String::new(),
            from: String::new(),
            tenant: "admin".into(),
            message: None,
            confirm_within_s: None,
            dry_run: false,
            planned: Arc::default(),
            written: Arc::default(),
        }
    }
}

impl Author {
    /// The controller itself, in tenant admin.
    pub fn system(part: &str) -> Self {
        Self {
            who: format!("system:{part}"),
            ..Self::default()
        }
    }

    /// A user.
    pub fn user(name: &str, from: IpAddr, tenant: String) -> Self {
        Self {
            who: name.to_owned(),
            from: from.to_string(),
            tenant,
            ..Self::default()
        }
    }

    /// With what the headers of his call ask for.
    ///
    /// # Errors
    /// 400 with the header that is wrong.
    pub fn with_headers(self, headers: &HeaderMap) -> Result<Self, ApiError> {
        Ok(Self {
            message: headers.get(MESSAGE).map(message).transpose()?,
            confirm_within_s: headers.get(CONFIRM_WITHIN).map(seconds).transpose()?,
            ..self
        })
    }

    /// What the log keeps of a change that does `what`: his own words follow.
    pub(super) fn meta(&self, what: &str) -> Meta {
        let own = self.message.as_ref();
        Meta {
            who: self.who.clone(),
            from: self.from.clone(),
            message: own.map_or_else(|| what.to_owned(), |own| format!("{what}: {own}")),
        }
    }

    /// The write that makes the change one to be confirmed, if he asks for that.
    pub(super) fn to_confirm(&self) -> Option<Op> {
        self.confirm_within_s
            .map(|within_s| confirm::ask(&self.who, within_s))
    }

    /// Keeps what a dry run has checked; the error ends whatever would follow a write.
    pub(super) fn keep(&self, planned: Planned) -> ApiError {
        let mut kept = self.planned.lock().unwrap_or_else(PoisonError::into_inner);
        *kept = Some(planned);
        let text = "dry_run: it was checked, and nothing was stored";
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, text)
    }

    /// What a dry run in his name has checked.
    pub fn planned(&self) -> Option<Planned> {
        let mut kept = self.planned.lock().unwrap_or_else(PoisonError::into_inner);
        kept.take()
    }

    pub(super) fn has_written(&self, revision: u64) {
        self.written.store(revision, Ordering::Relaxed);
    }

    /// The revision of the last change that was committed in his name.
    pub fn written(&self) -> Option<u64> {
        Some(self.written.load(Ordering::Relaxed)).filter(|r| *r > 0)
    }
}

fn message(value: &HeaderValue) -> Result<String, ApiError> {
    let text = refs::decode_path(value.to_str().unwrap_or("\u{FFFD}"));
    // What is no UTF-8 is decoded to the replacement character.
    let clean = !text.contains(['\u{FFFD}', '\n', '\r', '\0']);
    if text.is_empty() || text.len() > MESSAGE_LEN_MAX || !clean {
        return Err(ApiError::bad_request(format!(
            "{MESSAGE}: is no line of text; write 1 to {MESSAGE_LEN_MAX} bytes of UTF-8, percent-encoded"
        )));
    }
    Ok(text)
}

fn seconds(value: &HeaderValue) -> Result<u64, ApiError> {
    let number = value.to_str().ok().and_then(|t| t.parse().ok());
    number
        .filter(|s| (1..=CONFIRM_WITHIN_MAX_S).contains(s))
        .ok_or_else(|| {
            ApiError::bad_request(format!(
                "{CONFIRM_WITHIN}: is no time; write seconds, 1 to {CONFIRM_WITHIN_MAX_S}"
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &'static str, value: &str) -> Result<Author, String> {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_str(value).expect("a header"));
        let author = Author::default().with_headers(&headers);
        author.map_err(|e| e.text)
    }

    #[test]
    fn a_message_is_a_line_of_percent_encoded_text_of_bounded_length() {
        let message = |value: &str| with(MESSAGE, value).map(|a| a.message.unwrap_or_default());
        assert_eq!(message("caf%C3%A9 100%25+x").as_deref(), Ok("café 100%+x"));
        assert_eq!(message(&"x".repeat(1024)).map(|m| m.len()), Ok(1024));
        for wrong in ["", "a%0Ab", "%FF", &"x".repeat(1025)] {
            let text = message(wrong).expect_err(wrong);
            assert!(text.starts_with(MESSAGE), "{text}");
        }
    }

    #[test]
    fn a_time_to_confirm_is_up_to_a_day() {
        let seconds = |value: &str| with(CONFIRM_WITHIN, value).map(|a| a.confirm_within_s);
        assert_eq!(seconds("60"), Ok(Some(60)));
        for wrong in ["0", "86401", "1m", "-1", ""] {
            let text = seconds(wrong).expect_err(wrong);
            assert!(text.starts_with(CONFIRM_WITHIN), "{text}");
        }
    }

    #[test]
    fn his_words_follow_what_was_done() {
        let author = Author {
            message: Some("ticket 7".into()),
            ..Author::system("x")
        };
        assert_eq!(
            author.meta("update pool p").message,
            "update pool p: ticket 7"
        );
        assert_eq!(Author::system("x").meta("y").message, "y");
    }
}
