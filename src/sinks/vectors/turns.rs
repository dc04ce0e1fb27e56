//! Who has a directory open. One process at a time; one that works for long gives way to others between two of its steps, and they
//! wait for their turn. Locks of files, which the system lets go when a process ends, however it ends; it knows nothing of points.
//!
//! ```text
//! <path>/lock                    held by the process that has the directory open
//! <path>/rebuild.lock            held, also while it gives way, by the process that rebuilds a collection
//! <path>/waiting-<process>-<n>   there, and held, while a process waits for its turn
//! ```

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::config::SINK;
use super::directory::failed;
use crate::sinks::SinkError;

const LOCK_FILE: &str = "lock";
const REBUILD_FILE: &str = "rebuild.lock";
const WAITING: &str = "waiting-";

/// How long a process waits for one that gives way: a batch of texts takes seconds, and others may come first.
const WAIT_MAX: Duration = Duration::from_secs(120);
const LOOK_AGAIN: Duration = Duration::from_millis(5);
const LOOKED_AT_MAX: Duration = Duration::from_millis(200);

static WAITS: AtomicU64 = AtomicU64::new(0);

/// The right to use a directory, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    root: PathBuf,
    lock: File,
    /// Held by one that gives way.
    rebuild: Option<File>,
}

/// Whether the name is one of this room's files.
pub(crate) fn is_own(name: &str) -> bool {
    name == LOCK_FILE || name == REBUILD_FILE || name.starts_with(WAITING)
}

impl Turn {
    /// Takes the directory. It is waited for while somebody gives way, whoever has it at the moment.
    pub(crate) fn take(root: &Path, gives_way: bool) -> Result<Self, SinkError> {
        let rebuild = if gives_way { Some(only_rebuild(root)?) } else { None };
        let path = root.join(LOCK_FILE);
        let lock = open(&path)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) if rebuild.is_none() && is_rebuilt(root)? => wait(root, &path, &lock)?,
            Err(TryLockError::WouldBlock) => return Err(in_use(root)),
            Err(TryLockError::Error(e)) => return Err(failed("lock", &path, e)),
        }
        Ok(Self { root: root.to_owned(), lock, rebuild })
    }

    /// Whether it is one that gives way, and somebody waits.
    pub(crate) fn is_awaited(&self) -> bool {
        self.rebuild.is_some() && is_awaited(&self.root)
    }

    /// Whether another process, which gave way, rebuilds a collection here.
    pub(crate) fn is_beside_a_rebuild(&self) -> Result<bool, SinkError> {
        if self.rebuild.is_some() { Ok(false) } else { is_rebuilt(&self.root) }
    }

    /// Lets those who wait in, and takes the directory back when they are done.
    pub(crate) fn pass(&mut self) -> Result<(), SinkError> {
        let path = self.root.join(LOCK_FILE);
        while is_awaited(&self.root) {
            self.lock.unlock().map_err(|e| failed("unlock", &path, e))?;
            // Who waits takes the lock within moments and takes its sign away.
            while is_awaited(&self.root) {
                std::thread::sleep(LOOK_AGAIN);
            }
            self.lock.lock().map_err(|e| failed("lock", &path, e))?;
        }
        Ok(())
    }
}

/// Whether some process rebuilds a collection there.
fn is_rebuilt(root: &Path) -> Result<bool, SinkError> {
    let path = root.join(REBUILD_FILE);
    if !path.exists() {
        return Ok(false);
    }
    match open(&path)?.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(e)) => Err(failed("lock", &path, e)),
    }
}

fn open(path: &Path) -> Result<File, SinkError> {
    File::options().create(true).truncate(false).write(true).open(path).map_err(|e| failed("open", path, e))
}

fn only_rebuild(root: &Path) -> Result<File, SinkError> {
    let path = root.join(REBUILD_FILE);
    let file = open(&path)?;
    let began = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            // Who looks whether there is a rebuild has it for a moment.
            Err(TryLockError::WouldBlock) if began.elapsed() < LOOKED_AT_MAX => std::thread::sleep(LOOK_AGAIN),
            Err(TryLockError::WouldBlock) => {
                let root = root.display();
                let message =
                    format!("a collection of {root} is being rebuilt by another process: wait until it is done, or stop it");
                return Err(SinkError::stop(SINK, message));
            }
            Err(TryLockError::Error(e)) => return Err(failed("lock", &path, e)),
        }
    }
}

fn in_use(root: &Path) -> SinkError {
    SinkError::stop(SINK, format!("{} is in use by another process: wait until it is done, or stop it", root.display()))
}

/// The sign that a process waits. It is held, so that one of a process that ended is known.
struct Sign(PathBuf, #[allow(dead_code, reason = "held, not read")] File);

impl Drop for Sign {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn wait(root: &Path, path: &Path, lock: &File) -> Result<(), SinkError> {
    let name = format!("{WAITING}{}-{}", std::process::id(), WAITS.fetch_add(1, Ordering::Relaxed));
    let place = root.join(name);
    let file = File::create(&place).map_err(|e| failed("make", &place, e))?;
    file.lock().map_err(|e| failed("lock", &place, e))?;
    let _sign = Sign(place, file);
    let began = Instant::now();
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if began.elapsed() < WAIT_MAX => std::thread::sleep(LOOK_AGAIN),
            Err(TryLockError::WouldBlock) => return Err(in_use(root)),
            Err(TryLockError::Error(e)) => return Err(failed("lock", path, e)),
        }
    }
}

/// Whether some living process waits. Signs of others are taken away.
fn is_awaited(root: &Path) -> bool {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let signs = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(WAITING));
    let mut awaited = false;
    for sign in signs {
        match File::options().write(true).open(sign.path()).map(|file| file.try_lock()) {
            Ok(Err(TryLockError::WouldBlock)) => awaited = true,
            // One that was made a moment ago may not be held yet; it is looked at again.
            Ok(Ok(())) if is_fresh(&sign) => awaited = true,
            Ok(_) => drop(fs::remove_file(sign.path())),
            Err(_) => {}
        }
    }
    awaited
}

fn is_fresh(sign: &fs::DirEntry) -> bool {
    let made = sign.metadata().and_then(|data| data.modified());
    made.is_ok_and(|made| made.elapsed().is_ok_and(|age| age < Duration::from_secs(1)))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn who_does_not_give_way_refuses_others_at_once() {
        let root = tempfile::tempdir().unwrap();
        let turn = Turn::take(root.path(), false).unwrap();
        assert!(Turn::take(root.path(), false).unwrap_err().message.contains("in use by another process"));
        drop(turn);
        drop(Turn::take(root.path(), false).unwrap());
    }

    #[test]
    fn who_gives_way_lets_others_in_and_comes_back_after_them() {
        let root = tempfile::tempdir().unwrap();
        let mut turn = Turn::take(root.path(), true).unwrap();
        assert!(!turn.is_awaited());
        assert!(Turn::take(root.path(), true).unwrap_err().message.contains("being rebuilt"));
        assert!(!turn.is_beside_a_rebuild().unwrap(), "its own is none beside it");
        let (taken, took) = mpsc::channel();
        let others: Vec<_> = (0..3)
            .map(|_| {
                let (place, taken) = (root.path().to_owned(), taken.clone());
                std::thread::spawn(move || {
                    let turn = Turn::take(&place, false).unwrap();
                    assert!(turn.is_beside_a_rebuild().unwrap());
                    taken.send(()).unwrap();
                    drop(turn);
                })
            })
            .collect();
        let began = Instant::now();
        let mut count = 0;
        while count < 3 {
            assert!(began.elapsed() < Duration::from_secs(30), "{count} of 3 were let in");
            if turn.is_awaited() {
                turn.pass().unwrap();
            }
            count += took.try_iter().count();
        }
        others.into_iter().for_each(|other| other.join().unwrap());
        assert!(!turn.is_awaited());
        assert!(Turn::take(root.path(), true).is_err(), "it is still the one that rebuilds");
        drop(turn);
        assert!(!Turn::take(root.path(), false).unwrap().is_beside_a_rebuild().unwrap());
    }

    #[test]
    fn a_sign_of_a_process_that_ended_is_taken_away() {
        let root = tempfile::tempdir().unwrap();
        let turn = Turn::take(root.path(), true).unwrap();
        let sign = root.path().join("waiting-1-0");
        let old = std::time::SystemTime::now() - Duration::from_secs(60);
        File::create(&sign).unwrap().set_modified(old).unwrap();
        assert!(!turn.is_awaited());
        assert!(!sign.exists());
    }
}
