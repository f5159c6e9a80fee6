//! Starting anew, in place: the process runs its own program again, with its own arguments and environment, so that nobody else has to
//! start it.
//!
//! By then the engine has stopped in order, and nothing of it is left but the process. The kernel ends its other threads and closes its
//! descriptors, all of which are opened close-on-exec; pid, user, rights, limits and network namespace stay what they are.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the process runs now, also when there is no file of it any more.
const OWN: &str = "/proc/self/exe";
/// What the kernel adds to the path of a file that was replaced or removed.
const REPLACED: &str = " (deleted)";

/// Does not return, unless it cannot be done.
pub(crate) fn start() -> anyhow::Error {
    let mut arguments = std::env::args_os();
    let mut command = Command::new(program(std::env::current_exe().ok()));
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    let error = command.args(arguments).exec();
    anyhow::Error::new(error).context("the engine has stopped and cannot start anew")
}

/// The file at the path that the process was started from, as whoever starts it would: an upgrade may have put another one there.
fn program(exe: Option<PathBuf>) -> PathBuf {
    let before = |exe: &Path| Some(PathBuf::from(exe.to_str()?.strip_suffix(REPLACED)?));
    let path = exe.map(|exe| before(&exe).unwrap_or(exe));
    let there = path.filter(|path| path.is_file());
    there.unwrap_or_else(|| OWN.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_the_one_at_its_path_or_what_runs_where_there_is_none() {
        let folder = tempfile::tempdir().expect("made");
        let path = folder.path().join("evenkeel");
        let replaced = folder.path().join("evenkeel (deleted)");
        assert_eq!(program(Some(replaced.clone())), Path::new(OWN));
        std::fs::write(&path, "new").expect("written");
        assert_eq!(program(Some(replaced)), path);
        assert_eq!(program(Some(path.clone())), path);
        assert_eq!(program(None), Path::new(OWN));
    }
}
