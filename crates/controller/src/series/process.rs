//! What this process needs of its host (proc(5)).

use super::metric::{Figures, Host, Share};

/// How often to look, in seconds.
const PERIOD_S: u64 = 5;
/// `USER_HZ`, in which proc(5) counts processor time: 100 on every Linux that we run on.
const TICKS_PER_S: f64 = 100.0;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Process {
    /// When it was looked at last, and ticks of processor time until then.
    last: Option<(u64, u64)>,
}

impl Process {
    /// What it has used since the last look; none when that is not long ago.
    pub(super) fn look(&mut self, now_s: u64) -> Option<Figures> {
        let is_early = |at: u64| (at..at + PERIOD_S).contains(&now_s);
        if self.last.is_some_and(|(at, _)| is_early(at)) {
            return None;
        }
        let ticks = ticks(&std::fs::read_to_string("/proc/self/stat").ok()?)?;
        let total = kilobytes(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:")?;
        let memory = resident_bytes()?;
        let (at, before) = self.last.replace((now_s, ticks))?;
        // None where the clock was set back.
        let for_s = now_s.checked_sub(at)?;
        let used_s = ticks.saturating_sub(before) as f64 / TICKS_PER_S;
        let processors = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        let host = Host {
            resident: memory,
            own_cpu: Share {
                used: used_s,
                of: for_s as f64 * processors,
            },
            memory: Share::new(memory, total * 1024),
            ..Host::default()
        };
        Some(Figures {
            host: Some(Box::new(host)),
            ..Figures::default()
        })
    }
}

/// Resident memory of this process; none where proc(5) cannot be read.
pub fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    Some(kilobytes(&status, "VmRSS:")? * 1024)
}

/// User and system time: fields 14 and 15, counted from the end of the name, which may have blanks.
fn ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_past_a_name_with_blanks() {
        let stat = "7 (a b) c) S 1 1 1 0 -1 4194560 1 2 3 4 120 30 0 0 20 0 9 0 55 1 1";
        assert_eq!(ticks(stat), Some(150));
        assert_eq!(
            kilobytes("VmPeak: 9 kB\nVmRSS:\t  1234 kB\n", "VmRSS:"),
            Some(1234)
        );
    }

    #[test]
    fn this_process_uses_memory() {
        let mut process = Process::default();
        assert_eq!(process.look(100), None, "nothing to compare with");
        assert_eq!(process.look(101), None, "too soon");
        let figures = process.look(105).expect("figures");
        let host = figures.host.expect("of the process");
        let (cpu, memory) = (host.own_cpu, host.memory);
        assert!(host.resident > 0 && memory.used > 0.0 && memory.used < memory.of);
        assert!(cpu.of >= 5.0 && cpu.used >= 0.0);
    }
}
