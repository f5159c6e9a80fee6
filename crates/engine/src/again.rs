//! Starting anew, in place: the process runs its own program again, with its own arguments and environment, so that nobody else has to
//! start it.
//!
//! By then the engine has stopped in order, and nothing of it is left but the process. The kernel ends its other threads and closes its
//! descriptors, all of which are opened close-on-exec; pid, user, rights, limits and network namespace stay what they are.

use nix::unistd::execv;
use std::ffi::{CString, OsString};
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

/// What the process runs now, also when there is no file of it any more.
const OWN: &str = "/proc/self/exe";
/// What the kernel adds to the path of a file that was replaced or removed.
const REPLACED: &str = " (deleted)";

/// Does not return, unless it cannot be done.
pub(crate) fn start() -> anyhow::Error {
    let program = program(std::env::current_exe().ok());
    let error = one_of_both(&program, exec);
    anyhow::Error::new(error).context("the engine has stopped and cannot start anew")
}

/// The program, or what runs now where that does not start: its file may be one that is being written, or no program.
fn one_of_both(program: &Path, exec: impl Fn(&Path) -> io::Error) -> io::Error {
    let error = exec(program);
    if program == Path::new(OWN) {
        return error;
    }
    tracing::warn!(program = %program.display(), %error, "cannot start anew from the file; what has run until now starts");
    exec(Path::new(OWN))
}

/// Has the process run it, with its own arguments. Returns if the kernel cannot; no shell is asked then to take the file for a script.
fn exec(program: &Path) -> io::Error {
    let text = |text: OsString| CString::new(text.into_vec());
    let arguments: Result<Vec<_>, _> = std::env::args_os().map(text).collect();
    let program = text(program.as_os_str().to_owned());
    match program.and_then(|program| Ok((program, arguments?))) {
        Ok((program, arguments)) => {
            let Err(errno) = execv(&program, &arguments);
            errno.into()
        }
        Err(error) => error.into(),
    }
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
    use nix::errno::Errno;
    use std::cell::RefCell;
    use std::os::unix::fs::PermissionsExt as _;

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

    #[test]
    fn what_runs_starts_again_where_the_file_does_not() {
        let tried = RefCell::new(Vec::new());
        let exec = |path: &Path| {
            tried.borrow_mut().push(path.to_owned());
            io::Error::from(Errno::ETXTBSY)
        };
        one_of_both(Path::new("/new"), exec);
        assert_eq!(tried.take(), [Path::new("/new"), Path::new(OWN)]);
        one_of_both(Path::new(OWN), exec);
        assert_eq!(tried.take(), [Path::new(OWN)], "once is enough");
    }

    #[test]
    fn a_file_that_is_no_program_is_no_script_either() {
        let folder = tempfile::tempdir().expect("made");
        let path = folder.path().join("evenkeel");
        std::fs::write(&path, "exit 1").expect("written");
        let runs = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(&path, runs).expect("set");
        // A shell that took it for a script would end this process.
        assert!(exec(&path).raw_os_error().is_some());
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(exec(&path).kind(), io::ErrorKind::NotFound);
    }
}
