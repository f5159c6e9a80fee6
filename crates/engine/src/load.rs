//! What the engine and its host carry: processors' time and packets, as counters that the kernel keeps, and memory (proc(5)).
//!
//! Processors' time and memory are those of the host, also where the engine runs in a container; the process' own time is
//! told beside it. The interfaces are those of the engine's network namespace.

use proto::v1::{EngineLoad, Interface};
use std::time::{Duration, Instant};

/// Reports may come in bursts; the counters are read no more often than this.
const PERIOD: Duration = Duration::from_secs(1);
/// A tick of `USER_HZ`, in which proc(5) counts processors' time: 100 a second on every Linux that we run on.
const TICK_MS: u64 = 10;

/// Reads the counters.
pub(crate) struct Meter {
    started: Instant,
    last: Option<(Instant, EngineLoad)>,
}

impl Meter {
    /// One whose clock begins now.
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            last: None,
        }
    }

    /// The counters of this moment, or of one that is not long ago. Of the interfaces, those with addresses count: what
    /// goes over a VLAN or a bundle is counted there, and not at what is below it again.
    pub(crate) fn load(&mut self, interfaces: &[Interface]) -> EngineLoad {
        let now = Instant::now();
        match self.last {
            Some((at, load)) if now < at + PERIOD => load,
            _ => {
                let load = self.read(interfaces, now);
                self.last = Some((now, load));
                load
            }
        }
    }

    /// What cannot be read is 0, and stays it.
    fn read(&self, interfaces: &[Interface], now: Instant) -> EngineLoad {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let since = now.duration_since(self.started).as_millis();
        let process_ticks = process_ticks(&text("/proc/self/stat"));
        let host = Host::of(&text("/proc/stat")).unwrap_or_default();
        let counted = interfaces.iter().filter(|i| !i.addresses.is_empty());
        let names: Vec<&str> = counted.map(|i| i.name.as_str()).collect();
        let packets = Packets::of(&text("/proc/self/net/dev"), &names);
        let memory = Memory::of(&text("/proc/meminfo")).unwrap_or_default();
        EngineLoad {
            at_ms: u64::try_from(since).unwrap_or(u64::MAX),
            processors: processors(),
            process_cpu_ms: process_ticks.unwrap_or(0) * TICK_MS,
            host_busy_ms: host.busy * TICK_MS,
            host_softirq_ms: host.softirq * TICK_MS,
            host_cpu_ms: host.all * TICK_MS,
            rx_packets: packets.rx_packets,
            rx_bytes: packets.rx_bytes,
            tx_packets: packets.tx_packets,
            tx_bytes: packets.tx_bytes,
            host_memory_bytes: memory.all,
            host_memory_available_bytes: memory.available,
        }
    }
}

/// Ticks of all processors of the host, at work and all together; none where they cannot be read.
pub(crate) fn host_ticks() -> Option<(u64, u64)> {
    let host = Host::of(&std::fs::read_to_string("/proc/stat").ok()?)?;
    Some((host.busy, host.all))
}

/// Those that the process may use; a quota of its control group counts.
pub(crate) fn processors() -> u32 {
    let number = std::thread::available_parallelism().map_or(1, usize::from);
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// User and system time: fields 14 and 15, counted from the end of the name, which may have blanks.
fn process_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

/// Ticks of all processors together since the host was started.
#[derive(Debug, Default, PartialEq, Eq)]
struct Host {
    /// At work: user, nice, system, interrupts.
    busy: u64,
    /// Of that, in soft interrupts, which is where packets are.
    softirq: u64,
    /// At work or idle; what a hypervisor took away is neither.
    all: u64,
}

impl Host {
    /// From the first line: `cpu user nice system idle iowait irq softirq steal …`. `guest` is in `user` already.
    fn of(stat: &str) -> Option<Self> {
        let numbers = stat.lines().next()?.strip_prefix("cpu ")?;
        let numbers: Result<Vec<u64>, _> = numbers.split_whitespace().map(str::parse).collect();
        let numbers = numbers.ok()?;
        let [user, nice, system, idle, iowait, irq, softirq, ..] = numbers[..] else {
            return None;
        };
        let busy = user + nice + system + irq + softirq;
        Some(Self {
            busy,
            softirq,
            all: busy + idle + iowait,
        })
    }
}

/// Of the host, in bytes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Memory {
    all: u64,
    /// What programs may still take without swapping, by the kernel's own estimate.
    available: u64,
}

impl Memory {
    /// From the lines `MemTotal: N kB` and `MemAvailable: N kB`; neither without the other.
    fn of(meminfo: &str) -> Option<Self> {
        let bytes = |name: &str| {
            let line = meminfo.lines().find_map(|l| l.strip_prefix(name))?;
            let number: u64 = line.split_whitespace().next()?.parse().ok()?;
            Some(number * 1024)
        };
        Some(Self {
            all: bytes("MemTotal:")?,
            available: bytes("MemAvailable:")?,
        })
    }
}

/// Of all counted interfaces together.
#[derive(Debug, Default, PartialEq, Eq)]
struct Packets {
    rx_packets: u64,
    rx_bytes: u64,
    tx_packets: u64,
    tx_bytes: u64,
}

impl Packets {
    /// `NAME: bytes packets errs drop fifo frame compressed multicast bytes packets …`, received before sent.
    fn of(dev: &str, names: &[&str]) -> Self {
        let mut sum = Self::default();
        for line in dev.lines() {
            let Some((name, numbers)) = line.split_once(':') else {
                continue;
            };
            let numbers = numbers.split_whitespace().map(str::parse);
            let numbers: Vec<u64> = numbers.map_while(Result::ok).collect();
            if let [
                rx_bytes,
                rx_packets,
                _,
                _,
                _,
                _,
                _,
                _,
                tx_bytes,
                tx_packets,
                ..,
            ] = numbers[..]
                && names.contains(&name.trim())
            {
                sum.rx_packets += rx_packets;
                sum.rx_bytes += rx_bytes;
                sum.tx_packets += tx_packets;
                sum.tx_bytes += tx_bytes;
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_time_is_what_is_used_beside_what_there_is() {
        let stat = "cpu  100 20 30 400 50 6 7 1000 99 0\ncpu0 1 1 1 1 1 1 1 1 1 1\nintr 5\n";
        let host = Host::of(stat).expect("read");
        assert_eq!(
            host,
            Host {
                busy: 163,
                softirq: 7,
                all: 613
            }
        );
        assert_eq!(Host::of("cpu  1 2\n"), None);
        let own = "7 (a b) c) S 1 1 1 0 -1 4194560 1 2 3 4 120 30 0 0 20 0 9 0 55 1 1";
        assert_eq!(process_ticks(own), Some(150));
    }

    #[test]
    fn memory_is_all_of_the_host_and_what_is_available_of_it() {
        let meminfo = "MemTotal:       2000 kB\nMemFree:  10 kB\nMemAvailable:    500 kB\n";
        let memory = Memory::of(meminfo).expect("read");
        assert_eq!((memory.all, memory.available), (2_048_000, 512_000));
        assert_eq!(Memory::of("MemTotal: 2000 kB\nMemFree: 10 kB\n"), None);
    }

    #[test]
    fn packets_are_those_of_the_interfaces_that_count() {
        let dev = "Inter-|   Receive                 |  Transmit\n face |bytes    packets errs\n\
                       lo: 9 9 0 0 0 0 0 0 9 9 0 0 0 0 0 0\n\
                   eth0: 1000 10 0 0 0 0 0 0 2000 20 0 0 0 0 0 0\n\
                   eth1:100 1 0 0 0 0 0 0 200 2 0 0 0 0 0 0\n";
        let both = Packets::of(dev, &["eth0", "eth1"]);
        assert_eq!((both.rx_bytes, both.rx_packets), (1100, 11));
        assert_eq!((both.tx_bytes, both.tx_packets), (2200, 22));
        assert_eq!(Packets::of(dev, &["eth7"]), Packets::default());
    }

    #[test]
    fn the_host_of_this_test_has_processors_memory_and_lo() {
        let lo = Interface {
            name: "lo".into(),
            addresses: vec!["127.0.0.1/8".into()],
            ..Interface::default()
        };
        let mut meter = Meter::new();
        let load = meter.load(std::slice::from_ref(&lo));
        assert!(load.processors > 0 && load.host_cpu_ms >= load.host_busy_ms);
        assert!(load.host_busy_ms > 0, "{load:?}");
        let (all, available) = (load.host_memory_bytes, load.host_memory_available_bytes);
        assert!(all > available && available > 0, "{load:?}");
        assert_eq!(load, meter.load(&[lo]), "read once in a while");
    }
}
