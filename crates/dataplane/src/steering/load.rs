//! Programs, pins and links.

use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::{SchedClassifier, TcAttachOptions, TcAttachType};
use aya::programs::{
    LinkOrder, ProgramError, ProgramFd, TestRun as _, TestRunOptions, TestRunResult,
};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

const STEER_TC: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/steer_tc.o"));

/// Names of the programs, as in the source: at ingress, and at egress.
const PROGRAM: &str = "steer";
const PROGRAM_OUT: &str = "steer_out";

/// Layout of the maps; another one is another folder, so that nothing is misread. `v` and a number.
pub const LAYOUT: &str = "v6";

/// Of pinned links at tc.
pub(super) const TC_PREFIX: &str = "link-";
/// Of those at its egress.
pub(super) const OUT_PREFIX: &str = "out-";
/// And of those of native XDP.
pub(super) const XDP_PREFIX: &str = "xdp-";

/// What can go wrong with programs and maps.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder for pins.
    #[error("cannot use {path} for pinned programs")]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Loading.
    #[error(
        "the kernel does not take the steering program; it needs Linux 6.6, CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
    )]
    Load(#[from] aya::EbpfError),
    /// A program.
    #[error("the kernel does not take the steering program")]
    Program(#[from] ProgramError),
    /// A link.
    #[error("cannot attach")]
    Link(#[from] LinkError),
    /// A pin.
    #[error("cannot pin")]
    Pin(#[from] aya::pin::PinError),
    /// A map.
    #[error("cannot use map {name}")]
    Map {
        /// Which.
        name: &'static str,
        /// Why.
        source: aya::maps::MapError,
    },
    /// The built-in object lacks something.
    #[error("the built-in steering object has no {0}")]
    Missing(&'static str),
    /// More than fits.
    #[error("more than {most} {what}: not all of them can be steered")]
    Room {
        /// Of what.
        what: &'static str,
        /// The limit.
        most: usize,
    },
}

pub(super) fn open(dir: &Path, cache: Option<u32>) -> Result<(Ebpf, PathBuf), Error> {
    let dir = folder(dir).map_err(|source| Error::Folder {
        path: dir.to_owned(),
        source,
    })?;
    let mut ebpf = load(STEER_TC, &dir, cache)?;
    for name in [PROGRAM, PROGRAM_OUT] {
        program(&mut ebpf, name)?.load()?;
    }
    Ok((ebpf, dir))
}

/// Maps that are pinned in the folder are adopted, the others are pinned there.
pub(super) fn load(object: &[u8], dir: &Path, cache: Option<u32>) -> Result<Ebpf, Error> {
    let mut loader = EbpfLoader::new();
    loader.default_map_pin_directory(dir);
    if let Some(flows) = cache {
        loader.map_max_entries("cache", flows);
    }
    Ok(loader.load(object)?)
}

/// The folder for this layout, on a BPF file system.
fn folder(dir: &Path) -> std::io::Result<PathBuf> {
    std::fs::create_dir_all(dir)?;
    if statfs(dir)?.filesystem_type() != BPF_FS_MAGIC {
        mount(
            Some("bpf"),
            dir,
            Some("bpf"),
            MsFlags::empty(),
            Some("mode=0700"),
        )?;
    }
    let dir = layout(dir);
    match std::fs::create_dir(&dir) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(dir),
    }
}

/// Where the pins of this layout are in an engine's folder.
pub(super) fn layout(dir: &Path) -> PathBuf {
    dir.join(LAYOUT)
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut SchedClassifier, Error> {
    let program = ebpf.program_mut(name).ok_or(Error::Missing(name))?;
    Ok(program.try_into()?)
}

/// For whoever calls it from a program of theirs.
pub(super) fn handle(ebpf: &Ebpf) -> Result<&ProgramFd, Error> {
    let program = ebpf.program(PROGRAM).ok_or(Error::Missing(PROGRAM))?;
    Ok(program.fd()?)
}

pub(super) fn pin_of(dir: &Path, prefix: &str, interface: &str) -> PathBuf {
    // A file on a BPF file system has no dots in its name; an interface may have some.
    dir.join(format!("{prefix}{}", interface.replace('.', "%")))
}

/// Interfaces with a pinned link.
pub(super) fn links(dir: &Path, prefix: &str) -> BTreeSet<String> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return BTreeSet::new();
    };
    let name = |entry: std::fs::DirEntry| entry.file_name().into_string().ok();
    let names = entries.flatten().filter_map(name);
    names
        .filter_map(|n| Some(n.strip_prefix(prefix)?.replace('%', ".")))
        .collect()
}

/// Removing the pin detaches: nothing else holds the link.
pub(super) fn unlink(dir: &Path, prefix: &str, interface: &str) {
    // It may be gone with its interface.
    let _ = std::fs::remove_file(pin_of(dir, prefix, interface));
}

/// At which side of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    In,
    Out,
}

impl Side {
    fn prefix(self) -> &'static str {
        match self {
            Self::In => TC_PREFIX,
            Self::Out => OUT_PREFIX,
        }
    }

    fn program(self) -> &'static str {
        match self {
            Self::In => PROGRAM,
            Self::Out => PROGRAM_OUT,
        }
    }

    fn hook(self) -> TcAttachType {
        match self {
            Self::In => TcAttachType::Ingress,
            Self::Out => TcAttachType::Egress,
        }
    }
}

/// In the link that is pinned, or by a new one.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    dir: &Path,
    side: Side,
    interface: &str,
) -> Result<(), Error> {
    let pin = pin_of(dir, side.prefix(), interface);
    let program = program(ebpf, side.program())?;
    if let Ok(old) = PinnedLink::from_pin(&pin) {
        let id = program.attach_to_link(FdLink::from(old).try_into()?);
        match id {
            // The pin stays; dropping our handle of the link does not detach.
            Ok(id) => return program.take_link(id).map(drop).map_err(Into::into),
            // Its interface was removed, and is back under the same name.
            Err(_) => unlink(dir, side.prefix(), interface),
        }
    }
    let first = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program.attach_with_options(interface, side.hook(), first)?;
    let link: FdLink = program.take_link(id)?.try_into()?;
    link.pin(&pin)?;
    Ok(())
}

/// What became of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// `TC_ACT_*` of `linux/pkt_cls.h`; -1 = to the next program, or the stack. Of XDP: `enum xdp_action` of `linux/bpf.h`.
    pub action: i32,
    /// The frame afterwards.
    pub frame: Vec<u8>,
    /// For each repetition, as the kernel measures it.
    pub duration: Duration,
}

/// More than any frame that is tried out, with what is put around it.
pub(super) const FRAME_MAX: usize = 4096;

/// The packet has this mark.
pub(super) fn try_out(
    ebpf: &mut Ebpf,
    side: Side,
    (frame, mark): (&[u8], u32),
    repeat: u32,
) -> Result<Tried, Error> {
    let mut after = vec![0; FRAME_MAX];
    let done = program(ebpf, side.program())?.test_run(TestRunOptions {
        data_in: Some(frame),
        data_out: Some(&mut after),
        ctx_in: (mark != 0).then_some(&context(mark)[..]),
        repeat,
        ..TestRunOptions::default()
    })?;
    Ok(tried(&done, after))
}

/// The beginning of `struct __sk_buff` of `linux/bpf.h`: length and type are the kernel's to say.
fn context(mark: u32) -> [u8; 12] {
    let words = [0, 0, mark].map(u32::to_ne_bytes);
    std::array::from_fn(|at| words[at / 4][at % 4])
}

pub(super) fn tried(done: &TestRunResult, mut after: Vec<u8>) -> Tried {
    after.truncate(done.data_size_out as usize);
    Tried {
        action: done.return_value.cast_signed(),
        frame: after,
        duration: done.duration,
    }
}

/// Detaches everywhere and removes programs and maps that are pinned in the folder, by whatever version; true when there were any.
///
/// # Errors
/// The folder is there and cannot be emptied.
pub fn detach(dir: &Path) -> std::io::Result<bool> {
    let all = layouts(dir)?;
    all.iter().try_for_each(|dir| remove(dir))?;
    Ok(!all.is_empty())
}

/// The same of what versions with other layouts have left beside this folder of ours: packets would be steered twice.
///
/// # Errors
/// A folder cannot be emptied.
pub(super) fn detach_others(ours: &Path) -> std::io::Result<()> {
    let all = layouts(ours.parent().unwrap_or(ours))?;
    let others = all.iter().filter(|dir| *dir != ours);
    others.into_iter().try_for_each(|dir| remove(dir))
}

/// Folders of pins: `v` and a number, with a map of ours in it.
fn layouts(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let is_one = |entry: &std::fs::DirEntry| {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix('v'));
        let is_layout = number.is_some_and(|n| n.parse::<u32>().is_ok());
        is_layout && entry.path().join("settings").exists()
    };
    Ok(entries.flatten().filter(is_one).map(|e| e.path()).collect())
}

fn remove(dir: &Path) -> std::io::Result<()> {
    let entries = std::fs::read_dir(dir)?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    paths.sort_by_key(|path| rank(path));
    paths.iter().try_for_each(std::fs::remove_file)?;
    std::fs::remove_dir(dir)
}

/// In which order pins go: what stands in front first, maps last. A program does without a map that is unpinned, but there is no need.
fn rank(pin: &Path) -> u8 {
    let name = pin.file_name().unwrap_or_default().to_string_lossy();
    match () {
        () if name.starts_with(XDP_PREFIX) => 0,
        () if name.starts_with(OUT_PREFIX) || name.starts_with(TC_PREFIX) => 1,
        () => 2,
    }
}
