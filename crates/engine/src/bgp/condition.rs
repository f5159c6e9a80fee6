//! Why a session is not established: the first condition that does not hold, as `explain vip` and `show bgp` name it.

use bgp::session::{ErrorKind, LastError};
use bgp::{Session, StateName};
use model::condition::Condition;

use super::md5::Md5Failures;
use super::plan::SessionPlan;
use super::session::BfdState;

/// A condition that does not hold, and a sentence about this case.
pub(super) type Failed = (Condition, String);

/// What a session's conditions are judged by.
pub(super) struct Facts<'a> {
    pub(super) plan: &'a SessionPlan,
    pub(super) core: &'a Session,
    pub(super) bfd: BfdState,
    /// Since the session was set up.
    pub(super) md5: Md5Failures,
}

impl Facts<'_> {
    /// `None` while the session is established. In the order of [`Condition::ALL`]: a strict session waits for BFD
    /// in OpenConfirm (ADR 0005), so that whatever keeps it from getting there is named before BFD is.
    pub(super) fn first_failed(&self) -> Option<Failed> {
        match self.core.state() {
            StateName::Established => None,
            StateName::OpenConfirm if self.waits_for_bfd() => {
                Some((Condition::BfdAllows, self.bfd_sentence()))
            }
            StateName::OpenSent | StateName::OpenConfirm => {
                Some((Condition::OpenAgreed, self.answer_due()))
            }
            StateName::Idle | StateName::Connect | StateName::Active => Some(self.unconnected()),
        }
    }

    fn held_by_bfd(&self) -> bool {
        let strict = self.plan.bfd.is_some_and(|bfd| bfd.strict);
        strict && !matches!(self.bfd, BfdState::Up | BfdState::AdminDown)
    }

    /// In OpenConfirm. A router that has refused our OPEN before is about to do so again, until its KEEPALIVE shows
    /// that it has accepted this one; one that is strict itself sends none before BFD is up.
    fn waits_for_bfd(&self) -> bool {
        let refused = self.core.last_error().is_some_and(is_about_open);
        self.held_by_bfd() && (self.core.waits_for_gate() || !refused)
    }

    fn answer_due(&self) -> String {
        let due = "TCP is connected, and the peer's answer to our OPEN is due";
        match self.core.last_error().filter(|e| is_about_open(e)) {
            Some(error) => format!("{due}; before: {}", error.text),
            None => due.to_owned(),
        }
    }

    fn bfd_sentence(&self) -> String {
        match self.bfd {
            BfdState::CannotStart => {
                "BFD cannot be started, see show bfd, and the peer is bfd_strict".to_owned()
            }
            other => format!("BFD is {} and the peer is bfd_strict", other.word()),
        }
    }

    fn unconnected(&self) -> Failed {
        let Some(error) = self.core.last_error() else {
            let waiting = "the first TCP connect is under way".to_owned();
            return (Condition::TcpConnected, waiting);
        };
        match error.kind {
            ErrorKind::ConnectTimedOut => self.unanswered(error),
            ErrorKind::ConnectFailed => (Condition::TcpConnected, error.text.clone()),
            ErrorKind::ClosedBeforeOpen => (Condition::OpenAgreed, error.text.clone()),
            ErrorKind::Notification if is_about_open(error) => {
                (Condition::OpenAgreed, error.text.clone())
            }
            ErrorKind::Notification if self.held_by_bfd() && is_about_bfd(error) => {
                (Condition::BfdAllows, self.bfd_sentence())
            }
            ErrorKind::ConnectionLost | ErrorKind::Notification | ErrorKind::Update => {
                (Condition::SessionEstablished, error.text.clone())
            }
        }
    }

    /// A segment with a wrong signature is dropped without an answer (RFC 2385 section 2): silence where a key is
    /// set, or segments that this host has dropped for their signature, speak of the key.
    fn unanswered(&self, error: &LastError) -> Failed {
        let keyed = self.plan.transport.md5_key.expose().is_some();
        let Md5Failures { wrong, unexpected } = self.md5;
        let sentence = match (keyed, wrong, unexpected) {
            (true, 1.., _) => format!(
                "no answer, and {wrong} segments with a wrong MD5 signature have arrived: the keys differ"
            ),
            (true, 0, _) => "no answer, and an MD5 key is set: the router drops what is signed with another key without a word".to_owned(),
            (false, _, 1..) => format!(
                "no answer, and {unexpected} segments with an MD5 signature have arrived: the router has a key, and md5_secret is empty"
            ),
            (false, _, 0) => return (Condition::TcpConnected, error.text.clone()),
        };
        (Condition::Md5Accepted, sentence)
    }
}

/// The OPEN was refused: error in it (RFC 4271 section 6.2), or the connection itself (RFC 4486: Connection
/// Rejected, Connection Collision Resolution).
fn is_about_open(error: &LastError) -> bool {
    let codes = error.notification.as_ref().map(|n| (n.code, n.subcode));
    matches!(codes, Some((2, _) | (6, 5 | 7)))
}

/// What ends a session that waits for BFD only: the path went down (RFC 9384), or one side's hold timer expired
/// because no KEEPALIVE passes the gate (RFC 4271 section 6.5).
fn is_about_bfd(error: &LastError) -> bool {
    let codes = error.notification.as_ref().map(|n| (n.code, n.subcode));
    matches!(codes, Some((4, _) | (6, 10)))
}

#[cfg(test)]
mod tests;
