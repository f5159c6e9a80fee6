//! Steering in the kernel: loads the programs of `bpf/`, attaches them to uplinks, and keeps their maps as the
//! configuration says (docs/dev/steering.md).
//!
//! Programs, maps and links are pinned in a folder on a BPF file system, so that steering goes on without this process.
//! One that starts again adopts the maps and replaces the program in the links without a gap; [`detach`] removes all.

mod counters;
mod fill;
mod load;
mod raw;

pub use counters::Counters;
pub use load::{Error, Tried, detach};

use aya::Ebpf;
use flow::Config;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The programs and maps of an engine.
pub struct Steering {
    ebpf: Ebpf,
    dir: PathBuf,
    attached: BTreeSet<String>,
    places: fill::Places,
}

impl Steering {
    /// Loads the programs; maps that are pinned in the folder are adopted with what is in them. Nothing is attached yet.
    ///
    /// # Errors
    /// The folder is on no BPF file system and none can be mounted there, or the kernel refuses a program.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let (ebpf, dir) = load::open(dir)?;
        let places = fill::Places::recover(&ebpf)?;
        Ok(Self {
            attached: load::links(&dir),
            ebpf,
            dir,
            places,
        })
    }

    /// Attaches to exactly these interfaces; those that are attached already get this program without a gap.
    ///
    /// # Errors
    /// By interface: the kernel refuses. The others are attached all the same.
    pub fn attach<'a>(
        &mut self,
        interfaces: impl IntoIterator<Item = &'a str>,
    ) -> Vec<(String, Error)> {
        let wanted: BTreeSet<String> = interfaces.into_iter().map(str::to_owned).collect();
        for gone in &self.attached - &wanted {
            load::unlink(&self.dir, &gone);
        }
        let mut failed = Vec::new();
        let mut attached = BTreeSet::new();
        for interface in wanted {
            match load::attach(&mut self.ebpf, &self.dir, &interface) {
                Ok(()) => drop(attached.insert(interface)),
                Err(error) => failed.push((interface, error)),
            }
        }
        self.attached = attached;
        failed
    }

    /// Puts a configuration in force. What is new comes before what goes, so that no packet in between meets less than both say.
    ///
    /// # Errors
    /// There is no room for it, or the kernel refuses; what was in force stays as far as it was not replaced.
    pub fn apply(&mut self, config: &Config) -> Result<(), Error> {
        fill::fill(&mut self.ebpf, &mut self.places, config)
    }

    /// What the program would do with this Ethernet frame if it came from outside, `repeat` times: the kernel's code for the
    /// action, the frame afterwards, and how long it took each time. For tests and measurements.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn try_out(&mut self, frame: &[u8], repeat: u32) -> Result<Tried, Error> {
        load::try_out(&mut self.ebpf, frame, repeat)
    }

    /// What the programs have counted since they were first loaded.
    ///
    /// # Errors
    /// The kernel refuses to read a map.
    pub fn counters(&self) -> Result<Counters, Error> {
        counters::read(&self.ebpf, &self.places)
    }
}
