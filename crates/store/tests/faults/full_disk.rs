//! A full disk: a small file system in a mount namespace of the test's own thread.

use super::{commit, held, run};
use evenkeel_store::{Sqlite, Store as _, StoreError};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::path::Path;

/// Runs the test in a thread that sees a file system of 1 MiB at the path; false where that is not allowed.
fn on_small_disk(test: impl FnOnce(&Path) + Send + 'static) -> bool {
    let thread = std::thread::spawn(move || {
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        let alone = unshare(CloneFlags::CLONE_NEWNS)
            .and_then(|()| mount(None::<&str>, "/", None::<&str>, private, None::<&str>));
        if alone.is_err() {
            return false;
        }
        let folder = tempfile::tempdir().unwrap();
        resize(folder.path(), MsFlags::empty(), "1m");
        test(folder.path());
        nix::mount::umount(folder.path()).unwrap();
        true
    });
    thread.join().unwrap()
}

fn resize(path: &Path, flags: MsFlags, size: &str) {
    let size = format!("size={size}");
    mount(
        Some("tmpfs"),
        path,
        Some("tmpfs"),
        flags,
        Some(size.as_str()),
    )
    .unwrap();
}

#[allow(
    clippy::print_stderr,
    clippy::disallowed_macros,
    reason = "a test that does not run says so"
)]
fn skipped() {
    eprintln!("SKIPPED: needs root, for a mount namespace with a small file system");
}

#[test]
fn a_full_disk_refuses_writes_with_clear_words_until_there_is_room() {
    let ran = on_small_disk(|folder| {
        let store = Sqlite::open(&folder.join("s.db")).unwrap();
        let value = vec![b'x'; 20_000];
        let mut n = 0;
        let refused = loop {
            match run(commit(&store, n, &value)) {
                Ok(_) => n += 1,
                Err(error) => break error,
            }
            assert!(n < 1000, "the disk is never full");
        };
        assert!(matches!(refused, StoreError::Full { .. }), "{refused:?}");
        assert!(refused.to_string().contains("the disk is full"));
        let revision = *store.revision().borrow();
        for _ in 0..5 {
            assert!(run(commit(&store, n, &value)).is_err());
        }
        assert_eq!(*store.revision().borrow(), revision);
        let all: Vec<u64> = (0..n).collect();
        assert_eq!(
            held(&store),
            all,
            "reads go on, and nothing is there by half"
        );

        resize(folder, MsFlags::MS_REMOUNT, "4m");
        run(commit(&store, n, &value)).unwrap();
        drop(store);
        let store = Sqlite::open(&folder.join("s.db")).unwrap();
        assert_eq!(held(&store).len() as u64, n + 1);
    });
    if !ran {
        skipped();
    }
}

#[test]
fn commits_that_wait_together_on_a_full_disk_are_all_refused_and_none_is_kept() {
    let ran = on_small_disk(|folder| {
        let store = std::sync::Arc::new(Sqlite::open(&folder.join("s.db")).unwrap());
        let sizes = (0..400).map(|n| if n % 3 == 0 { 40_000 } else { 10 });
        let kept: Vec<u64> = run(async {
            let mut waiting = tokio::task::JoinSet::new();
            for (n, size) in (0..).zip(sizes) {
                let store = store.clone();
                waiting.spawn(async move {
                    let done = commit(&*store, n, &vec![b'x'; size]).await;
                    done.ok().map(|_| n)
                });
            }
            waiting.join_all().await.into_iter().flatten().collect()
        });
        let mut kept = kept;
        kept.sort_unstable();
        assert!(kept.len() < 400, "the disk is never full");
        assert_eq!(held(&*store), kept, "what was refused is not there");
        drop(store);
        let store = Sqlite::open(&folder.join("s.db")).unwrap();
        assert_eq!(held(&store), kept);
    });
    if !ran {
        skipped();
    }
}
