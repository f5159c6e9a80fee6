//! An engine's TCP, as far as ownership goes: requests, connections, TIME_WAIT, SYN cookies, and RST for strangers.

use crate::rng::Rng;
use evenkeel_flow::key::Flow;
use evenkeel_flow::packet::{Flags, Segment, Socket};
use std::collections::BTreeMap;

/// A segment to the client.
#[derive(Debug, Clone, Copy)]
pub struct Answer {
    pub flags: Flags,
    pub seq: u32,
    pub ack: u32,
    pub ts_val: u32,
    pub payload: u32,
}

/// A connection.
#[derive(Debug, Clone, Copy)]
pub struct Open {
    pub rcv_nxt: u32,
    pub snd_una: u32,
    pub snd_nxt: u32,
    /// Added to the milliseconds of the simulation.
    pub ts_offset: u32,
}

#[derive(Debug, Clone, Copy)]
pub enum Sock {
    Request { rcv_isn: u32, snt_isn: u32 },
    Open(Open),
    TimeWait { rcv_nxt: u32, snd_nxt: u32 },
}

/// What the stack did with a segment.
#[derive(Debug, Default)]
pub struct Outcome {
    pub answer: Option<Answer>,
    /// A connection was accepted: the proxy stamps it.
    pub accepted: bool,
}

#[derive(Debug, Default)]
pub struct Stack {
    pub socks: BTreeMap<Flow, Sock>,
    /// Answers SYNs with cookies, and remembers none.
    pub cookies: bool,
    pub secret: u32,
}

/// What the server says to each piece of data.
const RESPONSE: u32 = 300;

const SYN_ACK: Flags = Flags {
    syn: true,
    ack: true,
    ..Flags::NONE
};

const RST: Flags = Flags {
    rst: true,
    ..Flags::NONE
};

impl Stack {
    /// As the kernel's look-up shows it to the program.
    pub fn view(&self, flow: &Flow, segment: &Segment) -> Socket {
        match self.socks.get(flow) {
            None => Socket::Listener {
                cookie_valid: self.accepts_cookie(flow, segment),
            },
            Some(&Sock::Request { rcv_isn, snt_isn }) => Socket::NewSynRecv { rcv_isn, snt_isn },
            Some(&Sock::TimeWait { rcv_nxt, snd_nxt }) => Socket::TimeWait { rcv_nxt, snd_nxt },
            Some(Sock::Open(open)) => Socket::Established {
                rcv_nxt: open.rcv_nxt,
                rcv_wnd: 65535,
                snd_una: open.snd_una,
                snd_nxt: open.snd_nxt,
                fin_sent: false,
                fin_received: false,
            },
        }
    }

    /// Takes a segment.
    pub fn deliver(&mut self, rng: &mut Rng, flow: Flow, segment: &Segment) -> Outcome {
        match self.socks.get(&flow).copied() {
            None => self.stranger(rng, flow, segment),
            Some(Sock::Request { rcv_isn, snt_isn }) => {
                self.request(rng, flow, segment, rcv_isn, snt_isn)
            }
            Some(Sock::Open(open)) => self.open(flow, segment, open),
            Some(Sock::TimeWait { rcv_nxt, snd_nxt }) => {
                self.time_wait(rng, flow, segment, rcv_nxt, snd_nxt)
            }
        }
    }

    fn stranger(&mut self, rng: &mut Rng, flow: Flow, segment: &Segment) -> Outcome {
        if segment.flags.opens() {
            let isn = self.isn(rng, &flow);
            if !self.cookies {
                let request = Sock::Request {
                    rcv_isn: segment.seq,
                    snt_isn: isn,
                };
                self.socks.insert(flow, request);
            }
            return answer(SYN_ACK, isn, segment.seq.wrapping_add(1));
        }
        if self.accepts_cookie(&flow, segment) {
            return self.accept(rng, flow, segment);
        }
        if segment.flags.rst {
            return Outcome::default();
        }
        answer(RST, segment.ack, 0)
    }

    fn request(
        &mut self,
        rng: &mut Rng,
        flow: Flow,
        segment: &Segment,
        rcv_isn: u32,
        snt_isn: u32,
    ) -> Outcome {
        if segment.flags.opens() && segment.seq == rcv_isn {
            return answer(SYN_ACK, snt_isn, rcv_isn.wrapping_add(1));
        }
        if segment.flags.opens() {
            self.socks.remove(&flow);
            return self.stranger(rng, flow, segment);
        }
        if segment.flags.rst {
            let exact = segment.seq == rcv_isn.wrapping_add(1);
            self.socks.retain(|known, _| *known != flow || !exact);
            return Outcome::default();
        }
        if segment.ack != snt_isn.wrapping_add(1) {
            return answer(RST, segment.ack, 0);
        }
        if segment.seq != rcv_isn.wrapping_add(1) {
            return Outcome::default(); // a later one; the first is on its way
        }
        self.accept(rng, flow, segment)
    }

    fn accept(&mut self, rng: &mut Rng, flow: Flow, segment: &Segment) -> Outcome {
        let open = Open {
            rcv_nxt: segment.seq,
            snd_una: segment.ack,
            snd_nxt: segment.ack,
            ts_offset: rng.word(),
        };
        let outcome = self.open(flow, segment, open);
        Outcome {
            accepted: true,
            ..outcome
        }
    }

    fn open(&mut self, flow: Flow, segment: &Segment, mut open: Open) -> Outcome {
        if segment.flags.rst {
            let exact = segment.seq == open.rcv_nxt;
            self.socks.retain(|known, _| *known != flow || !exact);
            return Outcome::default();
        }
        let acked = segment.ack.wrapping_sub(open.snd_una);
        if segment.flags.ack && acked <= open.snd_nxt.wrapping_sub(open.snd_una) {
            open.snd_una = segment.ack;
        }
        let is_next = segment.seq == open.rcv_nxt && !segment.flags.syn;
        if is_next && segment.payload > 0 {
            open.rcv_nxt = open.rcv_nxt.wrapping_add(segment.payload);
            let unacked = open.snd_nxt.wrapping_sub(open.snd_una);
            open.snd_nxt = open
                .snd_nxt
                .wrapping_add(if unacked < 20_000 { RESPONSE } else { 0 });
        }
        if is_next && segment.flags.fin {
            open.rcv_nxt = open.rcv_nxt.wrapping_add(1);
        }
        let ended = is_next && segment.flags.fin;
        let sock = if ended {
            time_wait(open)
        } else {
            Sock::Open(open)
        };
        self.socks.insert(flow, sock);
        let silent = segment.payload == 0 && is_next && !ended && !segment.flags.syn;
        if silent {
            Outcome::default()
        } else {
            acknowledge(&open)
        }
    }

    fn time_wait(
        &mut self,
        rng: &mut Rng,
        flow: Flow,
        segment: &Segment,
        rcv_nxt: u32,
        snd_nxt: u32,
    ) -> Outcome {
        if segment.flags.opens() {
            self.socks.remove(&flow);
            return self.stranger(rng, flow, segment);
        }
        if segment.flags.rst {
            return Outcome::default();
        }
        answer(Flags::ACK, snd_nxt, rcv_nxt)
    }

    fn isn(&self, rng: &mut Rng, flow: &Flow) -> u32 {
        if self.cookies {
            self.cookie(flow)
        } else {
            rng.word()
        }
    }

    fn cookie(&self, flow: &Flow) -> u32 {
        Rng(u64::from(self.secret) << 32 | u64::from(flow.client.port())).word()
    }

    fn accepts_cookie(&self, flow: &Flow, segment: &Segment) -> bool {
        let expected = self.cookie(flow).wrapping_add(1);
        self.cookies && segment.flags.is_pure_ack() && segment.ack == expected
    }
}

fn time_wait(open: Open) -> Sock {
    Sock::TimeWait {
        rcv_nxt: open.rcv_nxt,
        snd_nxt: open.snd_nxt,
    }
}

/// Everything that is not acknowledged, again: there is no timer at this side.
fn acknowledge(open: &Open) -> Outcome {
    let mut outcome = answer(Flags::ACK, open.snd_una, open.rcv_nxt);
    if let Some(answer) = &mut outcome.answer {
        answer.payload = open.snd_nxt.wrapping_sub(open.snd_una);
    }
    outcome
}

fn answer(flags: Flags, seq: u32, ack: u32) -> Outcome {
    Outcome {
        answer: Some(Answer {
            flags,
            seq,
            ack,
            ts_val: 0,
            payload: 0,
        }),
        accepted: false,
    }
}
