//! The files of the engine's log, which the engine never removes. It numbers its operations by them and reads nothing else back, so
//! all closed files but the last can go.

use std::fs;
use std::path::{Path, PathBuf};

/// Closed files of the engine's log by the number of their first entry.
pub(super) fn closed_log_files(place: &Path) -> Vec<(u64, PathBuf)> {
    let entries = fs::read_dir(place.join("wal")).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries
        .filter_map(|entry| {
            let name = entry.file_name();
            let number = name.to_str()?.strip_prefix("closed-")?.parse().ok()?;
            Some((number, entry.path()))
        })
        .collect();
    files.sort();
    files
}

/// Removes all but the last, by which the engine numbers its next operation. A file that stays costs space, nothing else.
pub(super) fn remove_closed_log_files(place: &Path) {
    let mut files = closed_log_files(place);
    files.pop();
    for (_, file) in files {
        if fs::remove_file(&file).is_err() {
            // The files that are left must have no gap.
            break;
        }
    }
}
