//! What becomes of a packet or a message: one enum, of which counters, events and `explain` are made
//! (`docs/dev/steering.md`, sections 1, 2 and 4).

use std::fmt;

macro_rules! verdicts {
    ($($(#[$doc:meta])* $name:ident = $code:literal,)*) => {
        /// The outcome of a decision; the code is the counter's name, the position in [`Self::ALL`] its index.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Verdict {
            $($(#[$doc])* $name,)*
        }

        impl Verdict {
            /// All of them, in the order of [`Self::index`].
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The word of counters, events, CLI and API.
            #[must_use]
            pub fn code(self) -> &'static str {
                match self {
                    $(Self::$name => $code,)*
                }
            }
        }
    };
}

verdicts! {
    /// Not a steered service, or no tunnel or message of ours: untouched.
    Pass = "pass",
    /// A new flow, ours.
    LocalNew = "local_new",
    /// A socket of ours that the packet fits.
    LocalSocket = "local_socket",
    /// A valid answer to a SYN cookie of ours.
    LocalCookie = "local_cookie",
    /// Nobody else can be asked; the stack answers.
    LocalNone = "local_none",
    /// All others have denied this very packet; the stack answers RST.
    LocalDenied = "local_denied",
    /// To a VIP, and nobody's in particular: echo, a fragment whose first is here, an ICMP error that nobody can be asked about.
    LocalOther = "local_other",
    /// A new flow at an engine that drains, to a member that takes it.
    TunnelNew = "tunnel_new",
    /// To the member that the client's timestamp names.
    TunnelHint = "tunnel_hint",
    /// To the member that was found before.
    TunnelCache = "tunnel_cache",
    /// From a VIP of ours, to the primary, which sends it on to the client.
    TunnelAnswer = "tunnel_answer",
    /// Cloned to the members that may own the flow.
    Probe = "probe",
    /// The last probe about the flow had no claim and not all denials; counted beside the next `probe`.
    ProbeTimeout = "probe_timeout",
    /// An ICMP error whose owner is unknown, cloned to all members.
    ProbeError = "probe_error",
    /// A fragment before its first, cloned to all members and delivered here.
    ProbeFragment = "probe_fragment",
    /// Sent to us by hint or cache, and ours.
    DeliverData = "deliver_data",
    /// We were asked, and own it.
    DeliverClaim = "deliver_claim",
    /// We were asked, and do not own it.
    Deny = "deny",
    /// Sent to us by hint or cache, and not ours: it goes back.
    Return = "return",
    /// A packet came back; counted beside the verdict that it gets then.
    Returned = "returned",
    /// A member's answer, sent on to the client.
    RelayAnswer = "relay_answer",
    /// A claim was written into the cache.
    ClaimTaken = "claim_taken",
    /// A denial was noted.
    DenyTaken = "deny_taken",
    /// A flow ends here with this packet, and the member that has sent it is told; counted beside `deliver_data`.
    Release = "release",
    /// A flow has ended at its owner.
    ReleaseTaken = "release_taken",
    /// A member asked whether we are there, and was answered.
    HelloAnswered = "hello_answered",
    /// A member is there: its answer, for the process.
    HelloHeard = "hello_heard",
    /// Would have been cloned, but the budget is spent.
    DropBudget = "drop_budget",
    /// A question is open and waits for its answers.
    DropAsked = "drop_asked",
    /// An ICMP error sent to us whose flow is not ours.
    DropError = "drop_error",
    /// To a VIP, with more IPv6 extension headers than are walked.
    DropHeaders = "drop_headers",
    /// The outer source, or the sender of a message, is not a member.
    DropStranger = "drop_stranger",
    /// The inner source is a member's tunnel address.
    DropSpoofed = "drop_spoofed",
    /// A RETURN that answers no DATA of ours.
    DropCheck = "drop_check",
    /// A kind of tunnel packet or message that does not exist, or means nothing for this packet.
    DropKind = "drop_kind",
    /// Not version 1.
    DropVersion = "drop_version",
    /// Longer than a message.
    DropLength = "drop_length",
    /// Signed with a key that we do not have.
    DropKey = "drop_key",
    /// The MAC is wrong.
    DropMac = "drop_mac",
    /// Answers no open question.
    DropQuestion = "drop_question",
    /// The member has no tunnel address of the packet's family.
    DropFamily = "drop_family",
    /// The program could not make room for a header.
    DropRoom = "drop_room",
    /// Too big for the tunnel; the client is told what fits.
    DropMtu = "drop_mtu",
    /// A member's answer to a client that we have no route to.
    DropRoute = "drop_route",
}

impl Verdict {
    /// Position in [`Self::ALL`], for arrays of counters.
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }

    /// The verdict of this code.
    #[must_use]
    pub fn from_code(code: &str) -> Option<Self> {
        let all = Self::ALL.iter().copied();
        all.into_iter().find(|verdict| verdict.code() == code)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_the_snake_case_of_its_name_and_leads_back() {
        for (index, verdict) in Verdict::ALL.iter().enumerate() {
            assert_eq!(verdict.index(), index);
            assert_eq!(Verdict::from_code(verdict.code()), Some(*verdict));
            let name = format!("{verdict:?}");
            assert_eq!(verdict.code().replace('_', ""), name.to_lowercase());
        }
    }

    #[test]
    fn the_specification_names_every_verdict() {
        let specification = include_str!("../../../docs/dev/steering.md");
        for verdict in Verdict::ALL {
            let quoted = format!("`{verdict}`");
            assert!(specification.contains(&quoted), "{quoted} is not in it");
        }
    }
}
