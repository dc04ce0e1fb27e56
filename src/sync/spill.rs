//! Where a run spills: a directory of its own, which goes when the run ends. One that was killed leaves its directory behind, and the
//! next run that spills to the same place removes it. It knows nothing of tables and sinks.
//!
//! ```text
//! <spill_dir>/distributary-spill-<random>/lock   held by the process that spills there, until it ends, however it ends
//! <spill_dir>/distributary-spill-<random>/…      what was spilled
//! ```

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::error::DataFusionError;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use uuid::Uuid;

use super::OpenError;
use crate::config::Config;

const PREFIX: &str = "distributary-spill-";
const LOCK_FILE: &str = "lock";
/// What is spilled are records: nobody else may read them.
const OWNER_ONLY: u32 = 0o700;

/// A memory pool of the configured size, that spills to a directory of its own under the configured one. What is spilled goes with the
/// [`Spill`].
///
/// # Errors
/// When the directory cannot be used.
pub fn runtime(config: &Config) -> Result<(Arc<RuntimeEnv>, Spill), OpenError> {
    let spill = Spill::new(&config.spill_dir).map_err(|error| {
        let place = config.spill_dir.display();
        DataFusionError::from(io::Error::new(error.kind(), format!("`limits.spill_dir` {place} cannot be used: {error}")))
    })?;
    let disk = DiskManagerBuilder::default().with_mode(DiskManagerMode::Directories(vec![spill.path.clone()]));
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(FairSpillPool::new(config.memory_bytes)))
        .with_disk_manager_builder(disk)
        .build_arc()?;
    Ok((runtime, spill))
}

/// A directory that is this run's alone, until it is dropped.
#[derive(Debug)]
pub struct Spill {
    path: PathBuf,
    /// Held, so that no other run takes the directory for one that was left behind.
    _lock: File,
}

impl Spill {
    /// Makes a directory in `place`, and removes those of runs that were killed.
    fn new(place: &Path) -> io::Result<Self> {
        fs::create_dir_all(place)?;
        sweep(place)?;
        loop {
            // Never a name that was there before, so that a sweep that is slow cannot take a new directory for an old one.
            let path = place.join(format!("{PREFIX}{}", Uuid::new_v4().simple()));
            fs::DirBuilder::new().mode(OWNER_ONLY).create(&path)?;
            match hold(&path) {
                Ok(lock) => return Ok(Self { path, _lock: lock }),
                // A run that swept came between.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Spill {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "what was spilled stays until the next run");
        }
    }
}

/// Takes the directory's lock, after a sweep that looks at it is over.
fn hold(path: &Path) -> io::Result<File> {
    let place = path.join(LOCK_FILE);
    let lock = File::create(&place)?;
    match lock.lock() {
        // Where nobody can lock, nobody sweeps.
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
        locked => locked?,
    }
    fs::metadata(&place)?;
    Ok(lock)
}

/// Removes the directories that no process holds. What cannot be removed is left to its owner.
fn sweep(place: &Path) -> io::Result<()> {
    for entry in fs::read_dir(place)? {
        let Ok(entry) = entry else { continue };
        let own = entry.file_name().to_string_lossy().starts_with(PREFIX);
        if own && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_if_left(&entry.path());
        }
    }
    Ok(())
}

fn remove_if_left(path: &Path) {
    let removed = match File::options().write(true).open(path.join(LOCK_FILE)) {
        Ok(lock) if lock.try_lock().is_ok() => fs::remove_dir_all(path),
        Ok(_) => return,
        // Killed before it had its lock, or about to take it: then it finds its directory gone, and makes another.
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs::remove_dir(path),
        Err(error) => Err(error),
    };
    match removed {
        Ok(()) => tracing::info!(path = %path.display(), "removed what a run that was killed had spilled"),
        Err(error) => tracing::debug!(path = %path.display(), %error, "what another run had spilled cannot be removed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names in a directory, in order.
    fn names(place: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(place).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_run_removes_what_it_spilled() {
        let place = tempfile::tempdir().unwrap();
        let inner = place.path().join("not/there/yet");
        let spill = Spill::new(&inner).unwrap();
        fs::create_dir(spill.path.join("datafusion-x")).unwrap();
        fs::write(spill.path.join("datafusion-x/rows"), "rows").unwrap();
        drop(spill);
        assert_eq!(names(&inner), Vec::<String>::new());
    }

    #[test]
    fn what_killed_runs_left_goes_and_what_others_hold_stays() {
        let place = tempfile::tempdir().unwrap();
        let held = Spill::new(place.path()).unwrap();
        fs::write(held.path.join("rows"), "rows").unwrap();
        for left in ["distributary-spill-7-0", "distributary-spill-7-1", "datafusion-of-somebody", "distributary-other"] {
            fs::create_dir(place.path().join(left)).unwrap();
        }
        // The lock of a process that ended is there, and nobody holds it.
        fs::write(place.path().join("distributary-spill-7-0/lock"), "").unwrap();
        fs::write(place.path().join("distributary-spill-7-0/rows"), "rows").unwrap();
        fs::write(place.path().join("distributary-spill-file"), "somebody's file").unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        fs::write(elsewhere.path().join("lock"), "").unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), place.path().join("distributary-spill-link")).unwrap();
        let second = Spill::new(place.path()).unwrap();
        let name = |spill: &Spill| spill.path.file_name().unwrap().to_str().unwrap().to_owned();
        let mut expected = vec![
            "datafusion-of-somebody".to_owned(),
            "distributary-other".to_owned(),
            "distributary-spill-file".to_owned(),
            "distributary-spill-link".to_owned(),
            name(&held),
            name(&second),
        ];
        expected.sort();
        assert_eq!(names(place.path()), expected);
        assert_eq!(names(&held.path), ["lock", "rows"]);
        assert_eq!(names(elsewhere.path()), ["lock"]);
    }

    #[test]
    fn runs_that_begin_together_do_not_take_each_others_directory() {
        let place = tempfile::tempdir().unwrap();
        let runs: Vec<_> = (0..8)
            .map(|_| {
                let place = place.path().to_owned();
                std::thread::spawn(move || {
                    for _ in 0..50 {
                        let spill = Spill::new(&place).unwrap();
                        fs::write(spill.path.join("rows"), "rows").unwrap();
                        assert_eq!(names(&spill.path), ["lock", "rows"]);
                    }
                })
            })
            .collect();
        for run in runs {
            run.join().unwrap();
        }
        assert_eq!(names(place.path()), Vec::<String>::new());
    }
}
