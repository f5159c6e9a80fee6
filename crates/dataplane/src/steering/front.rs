//! Native XDP in front of the program at tc (`bpf/steer_xdp.c`): where it is attached, and why not elsewhere.

use super::driver::Driver;
use super::load::{self, Error, Tried};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::{Xdp, XdpMode};
use aya::programs::{ProgramFd, TestRun as _, TestRunOptions};
use aya::{Ebpf, include_bytes_aligned};
use std::collections::BTreeSet;
use std::path::Path;

const STEER_XDP: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/steer_xdp.o"));

/// Names of the programs, as in the source: for network cards, and for veths.
const PROGRAM: &str = "steer_xdp";
const PROGRAM_VETH: &str = "steer_xdp_veth";

/// Settings below /proc/sys without which the program leaves to tc whatever is to be tunnelled, and the one at tc sends other members'
/// answers on by the interface that they come by: only where an interface forwards does the kernel tell programs its routes and
/// neighbours, and it is asked about the loopback interface, where nothing else comes of it.
pub const LOOPBACK_SETTINGS: [(&str, &str); 2] = [
    ("net/ipv4/conf/lo/forwarding", "1"),
    ("net/ipv6/conf/lo/forwarding", "1"),
];

/// What an operator wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Attach {
    /// Native XDP where it is good for something.
    #[default]
    Auto,
    /// tc alone.
    Tc,
    /// Native XDP, or an explanation.
    Xdp,
}

/// Where packets of an interface meet steering first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// In the driver, before there is a socket buffer; and then at tc.
    Xdp,
    /// At ingress, with all of it.
    Tc,
}

impl Hook {
    /// The word for it.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::Tc => "tc",
        }
    }
}

/// How steering is attached to an interface, and why so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// Which.
    pub interface: String,
    /// Where.
    pub hook: Hook,
    /// A sentence without its end.
    pub reason: String,
}

/// The programs, loaded when an interface can have one for the first time.
pub(super) struct Front {
    ebpf: Option<Ebpf>,
    /// Room in the cache, where it is not the program's own.
    cache: Option<u32>,
    attached: BTreeSet<String>,
}

impl Front {
    /// An earlier process may have left something.
    pub(super) fn new(dir: &Path, cache: Option<u32>) -> Self {
        Self {
            ebpf: None,
            cache,
            attached: load::links(dir, load::XDP_PREFIX),
        }
    }

    /// To this interface, or not any more.
    pub(super) fn attach(&mut self, dir: &Path, wanted: Attach, interface: &str) -> Attachment {
        let attached = match wanted {
            Attach::Tc => Err("steering_attach is tc".to_owned()),
            _ => self.try_link(dir, wanted, interface),
        };
        let (hook, reason) = match attached {
            Ok(why) => (Hook::Xdp, why.to_owned()),
            Err(why) => {
                self.detach(dir, interface);
                (Hook::Tc, why)
            }
        };
        Attachment {
            interface: interface.to_owned(),
            hook,
            reason,
        }
    }

    pub(super) fn detach(&mut self, dir: &Path, interface: &str) {
        if self.attached.remove(interface) {
            load::unlink(dir, load::XDP_PREFIX, interface);
        }
    }

    /// Why it is there now, or why not.
    fn try_link(
        &mut self,
        dir: &Path,
        wanted: Attach,
        interface: &str,
    ) -> Result<&'static str, String> {
        let driver = Driver::of(interface)
            .map_err(|error| format!("what its driver can do is not known: {error}"))?;
        let why = judge(wanted, driver, interface)?;
        let name = if driver.is_veth {
            PROGRAM_VETH
        } else {
            PROGRAM
        };
        let linked = self.link(dir, name, interface);
        linked.map_err(|error| in_words(&error))?;
        Ok(why)
    }

    /// In the link that is pinned, or by a new one.
    fn link(&mut self, dir: &Path, name: &'static str, interface: &str) -> Result<(), Error> {
        let pin = load::pin_of(dir, load::XDP_PREFIX, interface);
        let program = self.program_mut(dir, name)?;
        if let Ok(old) = PinnedLink::from_pin(&pin) {
            match program.attach_to_link(FdLink::from(old).try_into()?) {
                // The pin stays; dropping our handle of the link does not detach.
                Ok(id) => drop(program.take_link(id)?),
                // Its interface was removed, and is back under the same name.
                Err(_) => {
                    load::unlink(dir, load::XDP_PREFIX, interface);
                    new_link(program, &pin, interface)?;
                }
            }
        } else {
            new_link(program, &pin, interface)?;
        }
        self.attached.insert(interface.to_owned());
        Ok(())
    }

    /// Loaded when it is needed for the first time.
    fn program_mut(&mut self, dir: &Path, name: &'static str) -> Result<&mut Xdp, Error> {
        let ebpf = match &mut self.ebpf {
            Some(ebpf) => ebpf,
            none => none.insert(load::load(STEER_XDP, dir, self.cache)?),
        };
        let program = ebpf.program_mut(name).ok_or(Error::Missing(name))?;
        let program: &mut Xdp = program.try_into()?;
        if program.fd().is_err() {
            program.load()?;
        }
        Ok(program)
    }

    /// For whoever calls it from a program of theirs.
    pub(super) fn handle(&mut self, dir: &Path) -> Result<&ProgramFd, Error> {
        Ok(self.program_mut(dir, PROGRAM)?.fd()?)
    }

    pub(super) fn try_out(&mut self, dir: &Path, frame: &[u8], from: u32) -> Result<Tried, Error> {
        let mut after = vec![0; load::FRAME_MAX];
        let context = context(frame.len(), from);
        let done = self.program_mut(dir, PROGRAM)?.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut after),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        })?;
        Ok(load::tried(&done, after))
    }
}

/// `struct xdp_md` of `linux/bpf.h`: where the frame begins and ends, what is before it, and where it comes from.
fn context(len: usize, from: u32) -> [u8; 24] {
    let len = u32::try_from(len).unwrap_or(u32::MAX);
    let words = [0, len, 0, from, 0, 0].map(u32::to_ne_bytes);
    std::array::from_fn(|at| words[at / 4][at % 4])
}

fn new_link(program: &mut Xdp, pin: &Path, interface: &str) -> Result<(), Error> {
    let id = program.attach(interface, XdpMode::Driver)?;
    let link: FdLink = program.take_link(id)?.try_into()?;
    link.pin(pin)?;
    Ok(())
}

/// Whether it may have native XDP, and why so or not.
fn judge(wanted: Attach, driver: Driver, interface: &str) -> Result<&'static str, String> {
    let Driver {
        is_veth,
        has_xdp,
        sends,
    } = driver;
    match wanted {
        Attach::Auto if is_veth => {
            Err("a veth: with native XDP its other end would have to split large packets".into())
        }
        _ if !has_xdp && is_veth => {
            Err("the other end of this veth has more queues than this one: no native XDP".into())
        }
        _ if !has_xdp => Err("its driver has no native XDP".into()),
        _ if is_veth && !sends => Err(format!(
            "the other end of this veth takes no packets that XDP sends: switch GRO on there (ethtool -K NAME gro on, where NAME is the other end of {interface})"
        )),
        Attach::Xdp => Ok("steering_attach is xdp"),
        _ => Ok("its driver has native XDP"),
    }
}

/// With what is behind it.
fn in_words(error: &Error) -> String {
    let mut text = format!("the kernel refuses native XDP: {error}");
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn native_xdp_goes_where_it_is_wanted_and_packets_arrive() {
        let nic = Driver {
            is_veth: false,
            has_xdp: true,
            sends: true,
        };
        let no_tx = Driver {
            sends: false,
            ..nic
        };
        let plain = Driver {
            has_xdp: false,
            ..no_tx
        };
        let veth = Driver {
            is_veth: true,
            ..nic
        };
        let deaf = Driver {
            is_veth: true,
            ..no_tx
        };
        let odd = Driver {
            is_veth: true,
            ..plain
        };
        for (wanted, driver, expected) in [
            (Attach::Auto, nic, Ok("its driver has native XDP")),
            (Attach::Xdp, nic, Ok("steering_attach is xdp")),
            // What another interface redirects here is not ours.
            (Attach::Auto, no_tx, Ok("its driver has native XDP")),
            (Attach::Auto, plain, Err("its driver has no native XDP")),
            (Attach::Xdp, plain, Err("its driver has no native XDP")),
            (Attach::Auto, veth, Err("a veth:")),
            (Attach::Xdp, veth, Ok("steering_attach is xdp")),
            (Attach::Xdp, deaf, Err("the other end of this veth takes")),
            (Attach::Xdp, odd, Err("the other end of this veth has more")),
        ] {
            let seen = judge(wanted, driver, "eth0");
            match (&seen, expected) {
                (Ok(seen), Ok(expected)) => assert_eq!(*seen, expected),
                (Err(seen), Err(expected)) => assert!(seen.starts_with(expected), "{seen}"),
                _ => panic!("{wanted:?} on {driver:?}: {seen:?}"),
            }
        }
    }
}
