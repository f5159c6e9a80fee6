//! Messages of members (`docs/dev/steering.md`, section 4).

use super::{Decision, Members, Steering};
use crate::verdict::Verdict;
use crate::wire::{Envelope, MESSAGE_LEN, Message, MessageKind, Refusal};
use std::net::IpAddr;
use std::time::Instant;

impl Steering {
    /// A datagram to the message port, from this address. It is dropped, whatever it says, unless it is somebody else's,
    /// or the answer that our process waits for.
    pub fn on_message(&mut self, now: Instant, from: IpAddr, datagram: &[u8]) -> Decision {
        let message = self.checked(from, datagram);
        let taken = message.and_then(|message| self.take(now, &message));
        match taken.unwrap_or_else(Refusal::verdict) {
            verdict @ (Verdict::Pass | Verdict::HelloHeard) => Decision::stack(verdict),
            Verdict::HelloAnswered => Decision {
                reply: message.ok().and_then(|message| self.heard(&message)),
                ..Decision::drop(Verdict::HelloAnswered)
            },
            verdict => Decision::drop(verdict),
        }
    }

    /// The answer to a hello.
    fn heard(&self, hello: &Message) -> Option<[u8; MESSAGE_LEN]> {
        let (sender, generation) = self.map.us(&self.map.ground(&hello.flow)?);
        let answer = Message {
            kind: MessageKind::Heard,
            sender,
            generation,
            ..*hello
        };
        let key = self.map.config().settings.message_keys.first()?;
        Some(answer.sign(key))
    }

    fn checked(&self, from: IpAddr, datagram: &[u8]) -> Result<Message, Refusal> {
        let envelope = Envelope::read(datagram)?;
        let flow = envelope.flow().ok_or(Refusal::Service)?;
        let ground = self.map.ground(&flow).ok_or(Refusal::Service)?;
        envelope.check()?;
        let at = self.map.members_at(&ground, from);
        if !at.contains(envelope.sender()) {
            return Err(Refusal::Stranger);
        }
        envelope.open(&self.map.config().settings.message_keys)
    }

    fn take(&mut self, now: Instant, message: &Message) -> Result<Verdict, Refusal> {
        match message.kind {
            MessageKind::Claim => self.claim(now, message),
            MessageKind::Deny => self.denial(now, message),
            MessageKind::Release => {
                self.forget_owner(&message.flow, message.sender);
                Ok(Verdict::ReleaseTaken)
            }
            MessageKind::Hello => Ok(Verdict::HelloAnswered),
            MessageKind::Heard => Ok(Verdict::HelloHeard),
        }
    }

    /// The first one stands: it ends the question, and the second finds none.
    fn claim(&mut self, now: Instant, message: &Message) -> Result<Verdict, Refusal> {
        self.require_question(now, message)?;
        self.questions.remove(&message.flow);
        self.cache.insert(message.flow, message.sender);
        Ok(Verdict::ClaimTaken)
    }

    fn denial(&mut self, now: Instant, message: &Message) -> Result<Verdict, Refusal> {
        self.require_question(now, message)?;
        let question = self.questions.get(&message.flow).ok_or(Refusal::Question)?;
        question.denied = question.denied.with(Members::of([message.sender]));
        self.forget_owner(&message.flow, message.sender);
        Ok(Verdict::DenyTaken)
    }

    /// There is an open question of this number about the flow.
    fn require_question(&self, now: Instant, message: &Message) -> Result<(), Refusal> {
        let question = self.questions.peek(&message.flow);
        let question = question.filter(|q| q.is_open(now) && q.number == message.number);
        question.map(|_| ()).ok_or(Refusal::Question)
    }
}
