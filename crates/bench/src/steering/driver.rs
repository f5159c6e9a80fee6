//! The programs of `bpf/bench/bare.c`: what is under test, on which packets, and how long it takes.

use super::ground::{self, CACHED, FOREIGN, FORGED, HINTED, LOCAL, PEER, PORT, US};
use anyhow::{Context, Result, ensure};
use aya::maps::{Array, HashMap, MapData, ProgramArray};
use aya::programs::{ProgramFd, SchedClassifier, TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use nix::time::{ClockId, clock_gettime};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

const OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bare.o"));

/// `TC_ACT_*`: what the driver answers when it fails itself.
const STOLEN: u32 = 4;
/// `enum xdp_action`: the same of the other one.
const ABORTED: u32 = 0;
const OUTER_LEN: usize = 20;
/// Of the client's address in a frame.
pub(super) const CLIENT_AT: usize = 14 + 12;
const DATA: u16 = 1 << 14;
pub(super) const FLOWS_MAX: usize = 1 << 19;

/// A program, by its place in the driver's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    Nothing,
    Steer,
    Vip,
    Socket,
    Encap,
    SocketEncap,
    LruFill,
    LruEncap,
    OffOnce,
    OffOften,
    OnOnce,
    OnOften,
}

impl Target {
    /// Those of the object; [`Self::Steer`] is not.
    const BARE: [(Self, &'static str); 11] = [
        (Self::Nothing, "nothing"),
        (Self::Vip, "vip"),
        (Self::Socket, "socket"),
        (Self::Encap, "encap"),
        (Self::SocketEncap, "socket_encap"),
        (Self::LruFill, "lru_fill"),
        (Self::LruEncap, "lru_encap"),
        (Self::OffOnce, "off_once"),
        (Self::OffOften, "off_often"),
        (Self::OnOnce, "on_once"),
        (Self::OnOften, "on_often"),
    ];
}

/// A program of native XDP, by its place in that driver's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Front {
    Nothing,
    Steer,
    OffOnce,
    OffOften,
}

impl Front {
    /// Those of the object; [`Self::Steer`] is not.
    const BARE: [(Self, &'static str); 3] = [
        (Self::Nothing, "front_nothing"),
        (Self::OffOnce, "front_off_once"),
        (Self::OffOften, "front_off_often"),
    ];
}

/// The packets that are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packets {
    /// To no service of ours.
    Foreign,
    /// Of connections that end here.
    Local,
    /// The same, from a member's tunnel.
    Tunnelled,
    /// Somebody else's, and the timestamp says whose.
    Hinted,
    /// Somebody else's, and the cache says whose.
    Cached,
    /// The first packets of those: they fill the cache.
    CachedSyn,
    /// Nobody's, with clients of all networks.
    Forged,
}

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

impl Packets {
    fn vip(self) -> Ipv4Addr {
        match self {
            Self::Foreign => FOREIGN,
            Self::Local | Self::Tunnelled => LOCAL,
            Self::Hinted => HINTED,
            Self::Cached | Self::CachedSyn => CACHED,
            Self::Forged => FORGED,
        }
    }

    /// The driver writes client and timestamp.
    pub(super) fn frame(self) -> Vec<u8> {
        let flags = if self == Self::CachedSyn { SYN } else { ACK };
        let inside = packet(self.vip(), flags);
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
        if self == Self::Tunnelled {
            frame.extend(outer(inside.len()));
        }
        frame.extend(inside);
        frame
    }
}

/// A segment without payload, its numbers those of a connection that was just repaired.
fn packet(vip: Ipv4Addr, flags: u8) -> Vec<u8> {
    let mut tcp = vec![0, 0];
    tcp.extend(PORT.to_be_bytes());
    tcp.extend([0; 8]);
    tcp.extend([0x80, flags, 0xff, 0xff, 0, 0, 0, 0]);
    tcp.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0]);
    let mut ip = ip_header(6, tcp.len(), 1, Ipv4Addr::UNSPECIFIED, vip);
    ip.extend(tcp);
    ip
}

fn outer(inside: usize) -> Vec<u8> {
    ip_header(4, inside, DATA | 1, PEER, US)
}

/// Without a checksum: nothing here looks at it.
fn ip_header(protocol: u8, payload: usize, id: u16, from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let len = u16::try_from(OUTER_LEN + payload).expect("a short packet");
    let mut ip = vec![0x45, 0];
    ip.extend(len.to_be_bytes());
    ip.extend(id.to_be_bytes());
    ip.extend([0x40, 0, 64, protocol, 0, 0]);
    ip.extend(from.octets());
    ip.extend(to.octets());
    ip
}

/// As `struct control` of `bare.c`: seven numbers, and an outer header.
const CONTROL_WORDS: usize = 7 + OUTER_LEN / 4;

/// How long a packet takes.
pub(super) struct Took {
    /// As seen from outside, with everything that the driver does.
    pub(super) ns: f64,
    /// Octets by which the last frame has become longer.
    pub(super) grown: i64,
}

pub(super) struct Driver {
    ebpf: Ebpf,
    targets: ProgramArray<MapData>,
    front_targets: ProgramArray<MapData>,
    flows: Array<MapData, [u32; 4]>,
    control: Array<MapData, [u32; CONTROL_WORDS]>,
    /// How many there are, a power of two.
    number: usize,
    next: u32,
}

impl Driver {
    pub(super) fn new(steer: &ProgramFd, front: &ProgramFd) -> Result<Self> {
        let mut ebpf = EbpfLoader::new().load(OBJECT)?;
        let mut driver = Self {
            targets: take(&mut ebpf, "targets")?.try_into()?,
            front_targets: take(&mut ebpf, "front_targets")?.try_into()?,
            flows: take(&mut ebpf, "flows")?.try_into()?,
            control: take(&mut ebpf, "control")?.try_into()?,
            ebpf,
            number: 1,
            next: 0,
        };
        driver.classifier("driver")?.load()?;
        driver.targets.set(Target::Steer as u32, steer, 0)?;
        for (target, name) in Target::BARE {
            driver.classifier(name)?.load()?;
            let program = driver.program(name)?.fd()?.try_clone()?;
            driver.targets.set(target as u32, &program, 0)?;
        }
        for name in ["xdp_tx", "xdp_nothing", "front_driver"] {
            driver.front(name)?.load()?;
        }
        driver.front_targets.set(Front::Steer as u32, front, 0)?;
        for (target, name) in Front::BARE {
            driver.front(name)?.load()?;
            let program = driver.program(name)?.fd()?.try_clone()?;
            driver.front_targets.set(target as u32, &program, 0)?;
        }
        driver.fill_vips()?;
        Ok(driver)
    }

    fn program(&self, name: &str) -> Result<&aya::programs::Program> {
        self.ebpf.program(name).with_context(|| name.to_owned())
    }

    fn classifier(&mut self, name: &str) -> Result<&mut SchedClassifier> {
        let program = self.ebpf.program_mut(name);
        Ok(program.with_context(|| name.to_owned())?.try_into()?)
    }

    fn front(&mut self, name: &str) -> Result<&mut Xdp> {
        let program = self.ebpf.program_mut(name);
        Ok(program.with_context(|| name.to_owned())?.try_into()?)
    }

    /// The services of the program under test, and like it each VIP once more without a port.
    fn fill_vips(&mut self) -> Result<()> {
        let mut vips: HashMap<_, [u8; 20], u64> = take(&mut self.ebpf, "vips")?.try_into()?;
        for service in ground::services() {
            let SocketAddr::V4(service) = service else {
                continue;
            };
            let mut key = [0; 20];
            key[..4].copy_from_slice(&service.ip().octets());
            vips.insert(key, 1, 0)?;
            key[16..18].copy_from_slice(&service.port().to_be_bytes());
            key[18] = 6;
            vips.insert(key, 1, 0)?;
        }
        Ok(())
    }

    /// From now on these flows, in an order that is not the one in which they came into tables.
    pub(super) fn set_flows(&mut self, number: usize) -> Result<()> {
        let mut order: Vec<usize> = (0..number).collect();
        shuffle(&mut order);
        for (at, index) in order.into_iter().enumerate() {
            self.flows.set(u32::try_from(at)?, entry(index), 0)?;
        }
        self.number = number;
        self.next = 0;
        Ok(())
    }

    /// So many packets, beginning where the last run ended.
    pub(super) fn run(&mut self, target: Target, packets: Packets, repeat: u32) -> Result<Took> {
        let frame = packets.frame();
        self.control.set(0, self.words(target as u32, packets), 0)?;
        self.next = self.next.wrapping_add(repeat);
        let program: &SchedClassifier = self.program("driver")?.try_into()?;
        let mut after = [0; 256];
        let options = TestRunOptions {
            data_in: Some(&frame),
            data_out: Some(&mut after),
            repeat,
            ..TestRunOptions::default()
        };
        let start = cpu_time()?;
        let done = program.test_run(options)?;
        let took = cpu_time()?.saturating_sub(start);
        ensure!(
            done.return_value != STOLEN,
            "the driver of bpf/bench/bare.c failed on {target:?}"
        );
        Ok(Took {
            ns: took.as_secs_f64() * 1e9 / f64::from(repeat),
            grown: i64::from(done.data_size_out) - i64::try_from(frame.len())?,
        })
    }

    /// The same with a program of native XDP.
    pub(super) fn run_front(
        &mut self,
        target: Front,
        packets: Packets,
        repeat: u32,
    ) -> Result<f64> {
        let frame = packets.frame();
        self.control.set(0, self.words(target as u32, packets), 0)?;
        self.next = self.next.wrapping_add(repeat);
        let program: &Xdp = self.program("front_driver")?.try_into()?;
        let (mut after, context) = ([0; 256], context(frame.len()));
        let options = TestRunOptions {
            data_in: Some(&frame),
            data_out: Some(&mut after),
            ctx_in: Some(&context),
            repeat,
            ..TestRunOptions::default()
        };
        let start = cpu_time()?;
        let done = program.test_run(options)?;
        let took = cpu_time()?.saturating_sub(start);
        ensure!(
            done.return_value != ABORTED,
            "the driver of bpf/bench/bare.c failed on {target:?} in front"
        );
        Ok(took.as_secs_f64() * 1e9 / f64::from(repeat))
    }

    fn words(&self, target: u32, packets: Packets) -> [u32; CONTROL_WORDS] {
        let frame = packets.frame();
        let mut words = [0; CONTROL_WORDS];
        words[..7].copy_from_slice(&[
            self.next,
            u32::try_from(self.number - 1).expect("at most FLOWS_MAX"),
            target,
            u32::try_from(frame.len()).expect("a short frame"),
            (packets == Packets::Tunnelled).into(),
            (packets == Packets::Forged).into(),
            if packets == Packets::Hinted {
                u32::MAX
            } else {
                0
            },
        ]);
        let outer = outer(packet(LOCAL, ACK).len());
        for (word, bytes) in words[7..].iter_mut().zip(outer.chunks_exact(4)) {
            *word = u32::from_ne_bytes(bytes.try_into().expect("four"));
        }
        words
    }

    /// XDP_TX less what test-run itself costs.
    pub(super) fn xdp_tx(&self, repeat: u32) -> Result<f64> {
        Ok(self.xdp("xdp_tx", repeat)? - self.xdp("xdp_nothing", repeat)?)
    }

    fn xdp(&self, name: &str, repeat: u32) -> Result<f64> {
        let program: &Xdp = self.program(name)?.try_into()?;
        let frame = Packets::Foreign.frame();
        let mut after = [0; 256];
        let options = TestRunOptions {
            data_in: Some(&frame),
            data_out: Some(&mut after),
            repeat,
            ..TestRunOptions::default()
        };
        let start = cpu_time()?;
        program.test_run(options)?;
        let took = cpu_time()?.saturating_sub(start);
        Ok(took.as_secs_f64() * 1e9 / f64::from(repeat))
    }
}

/// `struct xdp_md`: the end of the frame, and the interface that it comes from.
fn context(len: usize) -> [u8; 24] {
    let mut context = [0; 24];
    let len = u32::try_from(len).expect("a short frame");
    context[4..8].copy_from_slice(&len.to_ne_bytes());
    context[12..16].copy_from_slice(&ground::UPLINK.to_ne_bytes());
    context
}

/// What the kernel's scheduler has given to us: another process in between does not count.
fn cpu_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

fn take(ebpf: &mut Ebpf, name: &str) -> Result<aya::maps::Map> {
    ebpf.take_map(name)
        .with_context(|| format!("bare.c has no map {name}"))
}

/// As `struct flow` of `bare.c`.
fn entry(index: usize) -> [u32; 4] {
    let client = ground::flow_address(index);
    let [high, low] = client.port().to_be_bytes();
    let scattered = (index as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    [
        u32::from_ne_bytes(client.ip().octets()),
        u32::from_ne_bytes([high, low, 0, 0]),
        ground::hint(client).to_be(),
        (scattered >> 32) as u32,
    ]
}

/// Fisher and Yates, with numbers of xorshift64*: the same order every time.
fn shuffle(order: &mut [usize]) {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    for end in (1..order.len()).rev() {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        let draw = state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        order.swap(end, (draw as usize) % (end + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shuffled_numbers_are_all_there_and_not_in_their_order() {
        let mut order: Vec<usize> = (0..4096).collect();
        shuffle(&mut order);
        let next = order.windows(2).filter(|w| w[0] + 1 == w[1]).count();
        assert!(next < 10, "{next} follow their neighbour");
        order.sort_unstable();
        assert_eq!(order, (0..4096).collect::<Vec<_>>());
    }

    #[test]
    fn frames_are_as_long_as_the_driver_expects() {
        assert_eq!(Packets::Local.frame().len(), 14 + 20 + 32);
        assert_eq!(Packets::Tunnelled.frame().len(), 14 + 20 + 20 + 32);
    }
}
