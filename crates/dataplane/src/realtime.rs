//! Scheduling of a thread that must not wait for the others.

#![allow(unsafe_code)] // sched_setscheduler and setpriority have no safe wrapper

use std::io;

/// How the calling thread is scheduled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheduling {
    /// SCHED_FIFO: before every ordinary thread of the machine.
    RealTime,
    /// An ordinary thread with the highest weight: real time was refused (a container's cgroup without a real-time
    /// budget, or no CAP_SYS_NICE).
    Favoured,
    /// Like any other: both were refused.
    Ordinary,
}

impl Scheduling {
    /// The word of API and CLI.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::RealTime => "real_time",
            Self::Favoured => "favoured",
            Self::Ordinary => "ordinary",
        }
    }
}

/// Priority among real-time threads, 1 to 99: above ordinary ones, below the kernel's own (50).
const PRIORITY: libc::c_int = 10;

/// The strongest weight of an ordinary thread.
const NICE: libc::c_int = -20;

/// Gives the calling thread the best scheduling that is to be had. A real-time thread must never spin.
#[must_use]
pub fn prefer_this_thread() -> Scheduling {
    if real_time().is_ok() {
        Scheduling::RealTime
    } else if favoured().is_ok() {
        Scheduling::Favoured
    } else {
        Scheduling::Ordinary
    }
}

fn real_time() -> io::Result<()> {
    let parameters = libc::sched_param {
        sched_priority: PRIORITY,
    };
    // SAFETY: 0 is the calling thread; `parameters` outlives the call, which only reads it.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) };
    check(result)
}

fn favoured() -> io::Result<()> {
    // SAFETY: takes numbers only; 0 is the calling thread on Linux.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
    check(result)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_gets_some_scheduling_and_runs_on() {
        let scheduling = std::thread::spawn(prefer_this_thread).join();
        assert!(matches!(
            scheduling,
            Ok(Scheduling::RealTime | Scheduling::Favoured | Scheduling::Ordinary)
        ));
    }
}
