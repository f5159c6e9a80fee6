//! Steering in the kernel: loads the programs of `bpf/`, attaches them to uplinks, and keeps their maps as the
//! configuration says (docs/dev/steering.md).
//!
//! The program at tc ingress does all of it. Native XDP may stand in front, and ends what it can at less cost.
//!
//! Programs, maps and links are pinned in a folder on a BPF file system, so that steering goes on without this process.
//! One that starts again adopts the maps and replaces the program in the links without a gap; [`detach`] removes all.

mod counters;
mod driver;
mod fill;
mod flows;
mod front;
mod load;
mod raw;
mod watch;

pub use counters::{Counters, Tunnelled};
pub use flows::{FlowTables, Question, RemoteFlow, RemoteFlows};
pub use front::{Attach, Attachment, Hook, LOOPBACK_SETTINGS};
pub use load::{Error, LAYOUT, Tried, detach};
pub use watch::{Event, WATCHED_MAX};

use aya::Ebpf;
use aya::programs::ProgramFd;
use flow::{Config, Flow, Settings};
use load::Side;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The programs and maps of an engine.
pub struct Steering {
    ebpf: Ebpf,
    dir: PathBuf,
    attached: BTreeSet<String>,
    /// At egress.
    attached_out: BTreeSet<String>,
    front: front::Front,
    places: fill::Places,
    events: watch::Events,
    watching: bool,
}

/// What [`Steering::attach`] has come to.
#[must_use = "what could not be attached is not steered"]
#[derive(Debug)]
pub struct Attaching {
    /// Interfaces where the kernel refuses; the others are attached all the same.
    pub failed: Vec<(String, Error)>,
    /// Whether programs of other versions are gone; an error: a pin cannot be removed.
    pub others: std::io::Result<()>,
}

impl Steering {
    /// Loads the programs; maps that are pinned in the folder are adopted with what is in them. Nothing is attached yet.
    ///
    /// # Errors
    /// The folder is on no BPF file system and none can be mounted there, or the kernel refuses a program.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        Self::open_sized(dir, None)
    }

    /// As [`Self::open`], with room for so many flows in the cache. For measurements.
    ///
    /// # Errors
    /// As [`Self::open`], or a cache of another size is pinned in the folder.
    pub fn open_with_cache(dir: &Path, flows: u32) -> Result<Self, Error> {
        Self::open_sized(dir, Some(flows))
    }

    fn open_sized(dir: &Path, cache: Option<u32>) -> Result<Self, Error> {
        let (mut ebpf, dir) = load::open(dir, cache)?;
        let places = fill::Places::recover(&ebpf)?;
        Ok(Self {
            events: watch::Events::take(&mut ebpf)?,
            watching: false,
            attached: load::links(&dir, load::TC_PREFIX),
            attached_out: load::links(&dir, load::OUT_PREFIX),
            front: front::Front::new(&dir, cache),
            ebpf,
            dir,
            places,
        })
    }

    /// Attaches to exactly these interfaces; those that are attached already get this program without a gap. Once it is attached
    /// somewhere, what versions with another layout of the maps have left in the folder is detached and removed: packets would be
    /// steered twice, and no network card has room for two programs. Where this one is attached nowhere, the other one is better
    /// than none.
    pub fn attach<'a>(&mut self, interfaces: impl IntoIterator<Item = &'a str>) -> Attaching {
        let wanted: BTreeSet<String> = interfaces.into_iter().map(str::to_owned).collect();
        for gone in &self.attached - &wanted {
            self.front.detach(&self.dir, &gone);
            load::unlink(&self.dir, load::TC_PREFIX, &gone);
        }
        let mut failed = Vec::new();
        let mut attached = BTreeSet::new();
        for interface in wanted {
            match load::attach(&mut self.ebpf, &self.dir, Side::In, &interface) {
                Ok(()) => drop(attached.insert(interface)),
                Err(error) => failed.push((interface, error)),
            }
        }
        self.attached = attached;
        let others = match self.attached.is_empty() {
            true => Ok(()),
            false => load::detach_others(&self.dir),
        };
        Attaching { failed, others }
    }

    /// The program at egress, without which answers reach clients by our own routes ([`flow::config::Answers`]): on those interfaces
    /// where steering is attached, or nowhere.
    ///
    /// # Errors
    /// By interface: the kernel refuses. The others have it all the same.
    pub fn attach_out(&mut self, wanted: bool) -> Vec<(String, Error)> {
        let wanted = match wanted {
            true => self.attached.clone(),
            false => BTreeSet::new(),
        };
        for gone in &self.attached_out - &wanted {
            load::unlink(&self.dir, load::OUT_PREFIX, &gone);
        }
        let mut failed = Vec::new();
        for interface in &wanted {
            if let Err(error) = load::attach(&mut self.ebpf, &self.dir, Side::Out, interface) {
                failed.push((interface.clone(), error));
            }
        }
        self.attached_out = wanted;
        failed
    }

    /// Native XDP in front of the program at tc, on those interfaces where that is attached. It changes what packets cost
    /// and nothing else; where it may not or cannot be, the reason is said. It needs [`LOOPBACK_SETTINGS`].
    pub fn attach_in_front(&mut self, wanted: Attach) -> Vec<Attachment> {
        let interfaces = self.attached.iter();
        let attach = |interface: &String| self.front.attach(&self.dir, wanted, interface);
        interfaces.map(attach).collect()
    }

    /// Puts a configuration in force. What is new comes before what goes, so that no packet in between meets less than both say.
    ///
    /// # Errors
    /// There is no room for it, or the kernel refuses; what was in force stays as far as it was not replaced.
    pub fn apply(&mut self, config: &Config) -> Result<(), Error> {
        fill::fill(&mut self.ebpf, &mut self.places, config, self.watching)
    }

    /// Puts other settings in force, and nothing else.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn apply_settings(&mut self, settings: &Settings) -> Result<(), Error> {
        fill::fill_settings(&mut self.ebpf, settings, self.watching)
    }

    /// Hints of all flows are believed again: the programs doubt those of a flow once one was wrong, and do not forget.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn trust_hints(&mut self) -> Result<(), Error> {
        fill::trust_hints(&mut self.ebpf)
    }

    /// Flows that were tunnelled to each peer since this was called last, about, by uuid of the peer.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn take_flows(&mut self) -> Result<BTreeMap<String, u64>, Error> {
        counters::take_flows(&mut self.ebpf, &self.places)
    }

    /// Has every packet of these flows, and of no others, told as an event, each until its time. It holds with the
    /// next [`Self::apply_settings`] or [`Self::apply`]. Flows beyond [`WATCHED_MAX`] are left out.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn watch(&mut self, flows: &BTreeMap<Flow, Instant>) -> Result<(), Error> {
        self.watching = !flows.is_empty();
        watch::watch(&mut self.ebpf, flows)
    }

    /// Events since the last call, `most` at most, oldest first. The ring holds some thousand; what finds no room is lost.
    pub fn events(&mut self, most: usize) -> Vec<Event> {
        self.events.next(most)
    }

    /// What the program would do with this Ethernet frame if it came from outside, `repeat` times: the kernel's code for the
    /// action, the frame afterwards, and how long it took each time. For tests and measurements.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn try_out(&mut self, frame: &[u8], repeat: u32) -> Result<Tried, Error> {
        load::try_out(&mut self.ebpf, Side::In, (frame, 0), repeat)
    }

    /// What the program at egress would do with this frame of a packet with this mark; as [`Self::try_out`].
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn try_out_leaving(&mut self, frame: &[u8], mark: u32) -> Result<Tried, Error> {
        load::try_out(&mut self.ebpf, Side::Out, (frame, mark), 1)
    }

    /// What native XDP would do with this frame if it came in by the interface with this index; as [`Self::try_out`].
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn try_out_in_front(&mut self, frame: &[u8], from: u32) -> Result<Tried, Error> {
        self.front.try_out(&self.dir, frame, from)
    }

    /// The program of native XDP, for a driver that calls it. For measurements.
    ///
    /// # Errors
    /// The kernel does not take it.
    pub fn program_in_front(&mut self) -> Result<&ProgramFd, Error> {
        self.front.handle(&self.dir)
    }

    /// The program itself, for a driver that calls it. For measurements.
    ///
    /// # Errors
    /// It is not loaded.
    pub fn program(&self) -> Result<&ProgramFd, Error> {
        load::handle(&self.ebpf)
    }

    /// What the programs have counted since they were first loaded.
    ///
    /// # Errors
    /// The kernel refuses to read a map.
    pub fn counters(&self) -> Result<Counters, Error> {
        counters::read(&self.ebpf, &self.places)
    }
}
