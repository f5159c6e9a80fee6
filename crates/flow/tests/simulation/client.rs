//! A client: opens, sends now and then, retransmits with a doubling timer, closes.

use crate::rng::Rng;
use crate::stack::Answer;
use evenkeel_flow::key::Flow;
use evenkeel_flow::packet::{Flags, Segment};

/// What has become of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    SynSent,
    Open,
    /// Its FIN was acknowledged.
    Done,
    /// It believed an RST.
    Reset,
}

/// First retransmission timer, as Linux has it.
const RTO_US: u64 = 200_000;

/// Linux doubles it up to this.
const RTO_MAX_US: u64 = 120_000_000;

const SEGMENT: u32 = 1000;

const FIN_ACK: Flags = Flags {
    ack: true,
    fin: true,
    ..Flags::NONE
};

#[derive(Debug, Clone)]
pub struct Client {
    pub flow: Flow,
    pub state: State,
    pub timestamps: bool,
    pub snd_una: u32,
    pub rcv_nxt: u32,
    pub retransmissions: u64,
    /// Without progress in between, the most so far.
    pub in_a_row_max: u64,
    pub in_a_row: u64,
    snd_nxt: u32,
    /// End of what the application has written.
    written: u32,
    closing: bool,
    ts_recent: u32,
    rto_us: u64,
    /// The timer runs out at this time, if anything is unacknowledged.
    pub timer_us: Option<u64>,
    window: u32,
}

impl Client {
    pub fn new(rng: &mut Rng, flow: Flow, timestamps: bool) -> Self {
        let isn = rng.word();
        Self {
            flow,
            state: State::SynSent,
            timestamps,
            snd_una: isn,
            rcv_nxt: 0,
            retransmissions: 0,
            in_a_row_max: 0,
            in_a_row: 0,
            snd_nxt: isn,
            written: isn.wrapping_add(1),
            closing: false,
            ts_recent: 0,
            rto_us: RTO_US,
            timer_us: None,
            window: 4,
        }
    }

    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Done | State::Reset)
    }

    /// The application writes.
    pub fn write(&mut self, octets: u32) {
        if self.state == State::Open
            && !self.closing
            && self.written.wrapping_sub(self.snd_una) < 20_000
        {
            self.written = self.written.wrapping_add(octets);
        }
    }

    /// The application closes.
    pub fn close(&mut self) {
        if self.state == State::Open && !self.closing {
            self.closing = true;
            self.written = self.written.wrapping_add(1);
        }
    }

    /// The next packet that it would send if it had to: what an owner's socket must fit.
    pub fn oldest(&self) -> Segment {
        self.segment(self.snd_una)
    }

    /// What may be sent now.
    pub fn send(&mut self, now_us: u64) -> Vec<Segment> {
        let mut segments = Vec::new();
        while !self.is_over()
            && self.snd_nxt != self.written
            && self.snd_nxt.wrapping_sub(self.snd_una) < self.window * SEGMENT
            && (self.state == State::Open || segments.is_empty())
        {
            let segment = self.segment(self.snd_nxt);
            self.snd_nxt = self.snd_nxt.wrapping_add(length(&segment));
            segments.push(segment);
        }
        if self.snd_nxt != self.snd_una && self.timer_us.is_none() {
            self.timer_us = Some(now_us + self.rto_us);
        }
        segments
    }

    /// The timer has run out: from the beginning, one segment at first.
    pub fn timeout(&mut self, now_us: u64) -> Vec<Segment> {
        self.timer_us = None;
        if self.is_over() || self.snd_nxt == self.snd_una {
            return Vec::new();
        }
        self.retransmissions += 1;
        self.in_a_row += 1;
        self.in_a_row_max = self.in_a_row_max.max(self.in_a_row);
        self.rto_us = (self.rto_us * 2).min(RTO_MAX_US);
        self.snd_nxt = self.snd_una;
        self.window = 1;
        self.send(now_us)
    }

    /// A segment of the server; the answer to it.
    pub fn receive(&mut self, now_us: u64, answer: &Answer) -> Vec<Segment> {
        match self.state {
            State::SynSent => self.receive_syn_ack(now_us, answer),
            State::Open => self.receive_open(now_us, answer),
            State::Done | State::Reset => Vec::new(),
        }
    }

    fn receive_syn_ack(&mut self, now_us: u64, answer: &Answer) -> Vec<Segment> {
        if !answer.flags.syn && !answer.flags.rst {
            return vec![reset(answer.ack)]; // RFC 9293 section 3.5.1: a connection that we do not know
        }
        if !answer.flags.syn || answer.ack != self.snd_una.wrapping_add(1) {
            return Vec::new();
        }
        self.state = State::Open;
        self.rcv_nxt = answer.seq.wrapping_add(1);
        self.ts_recent = answer.ts_val;
        self.acknowledged(answer.ack);
        let mut segments = vec![self.pure_ack()];
        segments.extend(self.send(now_us));
        segments
    }

    fn receive_open(&mut self, now_us: u64, answer: &Answer) -> Vec<Segment> {
        if answer.flags.rst {
            // RFC 5961 section 3: the number must be exact.
            if answer.seq == self.rcv_nxt {
                self.state = State::Reset;
            }
            return Vec::new();
        }
        if answer.flags.syn {
            return vec![self.pure_ack()]; // RFC 5961 section 4: a challenge
        }
        let end = answer.seq.wrapping_add(answer.payload);
        let is_next = end.wrapping_sub(self.rcv_nxt) <= answer.payload;
        if is_next {
            self.rcv_nxt = end;
            self.ts_recent = answer.ts_val;
        }
        if answer.ack.wrapping_sub(self.snd_una) <= self.written.wrapping_sub(self.snd_una) {
            self.acknowledged(answer.ack);
        }
        let mut segments = Vec::new();
        segments.extend((answer.payload > 0 && self.state == State::Open).then(|| self.pure_ack()));
        segments.extend(self.send(now_us));
        segments
    }

    fn acknowledged(&mut self, ack: u32) {
        let acked = ack.wrapping_sub(self.snd_una);
        if acked == 0 {
            return;
        }
        if self.snd_nxt.wrapping_sub(self.snd_una) < acked {
            self.snd_nxt = ack;
        }
        self.snd_una = ack;
        self.rto_us = RTO_US;
        self.in_a_row = 0;
        self.timer_us = None;
        self.window = (self.window + 1).min(4);
        if self.closing && ack == self.written {
            self.state = State::Done;
        }
    }

    fn segment(&self, seq: u32) -> Segment {
        if self.state == State::SynSent {
            return Segment {
                flags: Flags::SYN,
                seq,
                ts_ecr: self.timestamps.then_some(0),
                ..Segment::default()
            };
        }
        let left = self.written.wrapping_sub(seq);
        let is_last = self.closing && left <= SEGMENT;
        Segment {
            flags: if is_last { FIN_ACK } else { Flags::ACK },
            payload: left.min(SEGMENT) - u32::from(is_last && left > 0),
            seq,
            ..self.pure_ack()
        }
    }

    fn pure_ack(&self) -> Segment {
        Segment {
            flags: Flags::ACK,
            seq: self.snd_nxt,
            ack: self.rcv_nxt,
            ts_ecr: self.timestamps.then_some(self.ts_recent),
            payload: 0,
        }
    }
}

fn reset(seq: u32) -> Segment {
    let flags = Flags {
        rst: true,
        ..Flags::NONE
    };
    Segment {
        flags,
        seq,
        ..Segment::default()
    }
}

/// Sequence numbers that a segment takes.
fn length(segment: &Segment) -> u32 {
    segment.payload + u32::from(segment.flags.syn) + u32::from(segment.flags.fin)
}
