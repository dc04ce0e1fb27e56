//! Small archives made on the spot for everything that can go wrong; the real packages once, through the cache.

use std::process::Command;
use std::sync::Mutex;

use super::*;

const NONE: [&[&str]; 1] = [&["no-such-program-anywhere"]];

/// An item of two files whose archive already lies in the cache, so that no package client is needed.
fn item(cache: &Path, kind: client::Kind) -> Item {
    let source = cache.join("source/package");
    fs::create_dir_all(&source).unwrap();
    let contents = [("one.bin", vec![1_u8; 3_000_000]), ("two.bin", b"two".to_vec())];
    let digest = |bytes: &[u8]| copy_hashing(&mut &bytes[..], &mut io::sink(), &mut |_| {}).unwrap();
    let files = contents.iter().map(|(name, content)| {
        fs::write(source.join(name), content).unwrap();
        PinnedFile {
            member: format!("package/{name}"),
            name: (*name).to_owned(),
            bytes: content.len() as u64,
            sha256: digest(content),
        }
    });
    let files: Vec<PinnedFile> = files.collect();
    let archive = cache.join("made");
    let (program, args): (_, &[&str]) = match kind {
        client::Kind::Npm => ("tar", &["-czf"]),
        client::Kind::Wheel => ("python3", &["-m", "zipfile", "-c"]),
    };
    let status =
        Command::new(program).args(args).arg(&archive).arg("package").current_dir(cache.join("source")).status().unwrap();
    assert!(status.success());
    let bytes = fs::read(&archive).unwrap();
    let item = Item {
        name: "thing 1".to_owned(),
        by_path: MODEL_ENV,
        archive: Archive {
            kind,
            package: "thing@1".to_owned(),
            file: "thing.tgz".to_owned(),
            bytes: bytes.len() as u64,
            sha256: digest(&bytes),
        },
        folder: PathBuf::from("things/1"),
        files,
    };
    place_archive(cache);
    item
}

fn place_archive(cache: &Path) {
    fs::create_dir_all(cache.join("partial")).unwrap();
    fs::copy(cache.join("made"), cache.join("partial/thing.tgz")).unwrap();
}

fn get(item: &Item, cache: &Path) -> Result<PathBuf, FetchError> {
    obtain(item, cache, false, &NONE, &mut |_| {})
}

#[test]
fn files_of_both_kinds_of_archive_come_verified_and_are_not_read_twice() {
    for kind in [client::Kind::Npm, client::Kind::Wheel] {
        let cache = tempfile::tempdir().unwrap();
        let item = item(cache.path(), kind);
        let mut steps = Vec::new();
        let dir = obtain(&item, cache.path(), false, &NONE, &mut |p| steps.push((p.step, p.done, p.total))).unwrap();
        assert_eq!(fs::read(dir.join("one.bin")).unwrap(), vec![1; 3_000_000]);
        assert_eq!(fs::read(dir.join("two.bin")).unwrap(), b"two");
        assert!(steps.contains(&(Step::Unpacking, 3_000_000, 3_000_000)), "{steps:?}");
        assert!(!cache.path().join("partial/thing.tgz").exists());
        // Now without archive, program or a single byte read.
        obtain(&item, cache.path(), true, &NONE, &mut |p| panic!("{p:?}")).unwrap();
    }
}

#[test]
fn what_a_crash_left_is_taken_up_and_what_is_damaged_is_replaced() {
    let cache = tempfile::tempdir().unwrap();
    let item = item(cache.path(), client::Kind::Npm);
    let dir = cache.path().join("things/1");
    fs::create_dir_all(&dir).unwrap();
    // A crash in the middle of the first file, and a second file that was complete without its mark.
    fs::write(dir.join("one.bin.unfinished"), [1; 17]).unwrap();
    fs::write(dir.join("two.bin"), b"two").unwrap();
    get(&item, cache.path()).unwrap();
    assert_eq!(fs::metadata(dir.join("one.bin")).unwrap().len(), 3_000_000);

    // Same size, other content, another time: the mark no longer holds.
    fs::write(dir.join("two.bin"), b"owt").unwrap();
    File::options().write(true).open(dir.join("two.bin")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    let error = obtain(&item, cache.path(), true, &NONE, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("two.bin") && error.contains("offline"), "{error}");
    place_archive(cache.path());
    let mut unpacked = Vec::new();
    obtain(&item, cache.path(), false, &NONE, &mut |p| unpacked.extend((p.step == Step::Unpacking).then_some(p.total))).unwrap();
    assert_eq!(fs::read(dir.join("two.bin")).unwrap(), b"two");
    assert_eq!(unpacked, [3], "what was whole is kept");
}

#[test]
fn what_is_not_pinned_is_never_kept() {
    let cache = tempfile::tempdir().unwrap();
    let mut item = item(cache.path(), client::Kind::Npm);
    // A file of the archive that is not what was pinned.
    item.files[1].sha256 = "0".repeat(64);
    let error = get(&item, cache.path()).unwrap_err();
    assert!(matches!(error, FetchError::Digest { .. }), "{error}");
    assert!(!cache.path().join("things/1/two.bin").exists() && !cache.path().join("things/1/two.bin.unfinished").exists());
    // An archive that was cut short is thrown away and fetched anew, for which there is no program here.
    let archive = cache.path().join("partial/thing.tgz");
    fs::write(&archive, "half").unwrap();
    assert!(matches!(get(&item, cache.path()).unwrap_err(), FetchError::NoProgram { .. }));
    assert!(!archive.exists());
    // An archive that lacks a member.
    place_archive(cache.path());
    item.files[1].member = "package/absent".to_owned();
    let error = get(&item, cache.path()).unwrap_err().to_string();
    assert!(error.contains("absent") && error.contains("tar"), "{error}");
}

#[test]
fn without_a_package_client_the_error_says_how_to_give_the_files() {
    let cache = tempfile::tempdir().unwrap();
    let item = item(cache.path(), client::Kind::Npm);
    fs::remove_file(cache.path().join("partial/thing.tgz")).unwrap();
    let error = get(&item, cache.path()).unwrap_err().to_string();
    assert!(error.contains("thing 1") && error.contains("no-such-program-anywhere") && error.contains(MODEL_ENV), "{error}");
    // A client that fails is quoted.
    let error = obtain(&item, cache.path(), false, &[&["ls"]], &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("ls pack thing@1") && error.contains("exit status"), "{error}");
}

#[test]
fn offline_names_what_is_missing_and_the_command() {
    let cache = tempfile::tempdir().unwrap();
    let options = Options { cache: Some(cache.path().join("none")), offline: true, ..Options::default() };
    let wanted = Wanted { library: false, model: Some(manifest::DEFAULT_MODEL.to_owned()) };
    let error = ensure(&wanted, &options, &mut |p| panic!("{p:?}")).unwrap_err().to_string();
    assert!(error.contains("model.safetensors") && error.contains("distributary fetch") && error.contains(MODEL_ENV), "{error}");
    assert!(!cache.path().join("none").exists());
    let error = ensure(&Wanted { library: true, model: None }, &options, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("libchdb") && error.contains(LIBRARY_ENV), "{error}");
}

#[test]
fn several_at_once_end_with_one_copy() {
    let cache = tempfile::tempdir().unwrap();
    let item = item(cache.path(), client::Kind::Npm);
    let unpacked = Mutex::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut count = |p: Progress<'_>| {
                    if p.step == Step::Unpacking && p.done == p.total {
                        *unpacked.lock().unwrap() += 1;
                    }
                };
                obtain(&item, cache.path(), false, &NONE, &mut count).unwrap();
            });
        }
    });
    assert_eq!(*unpacked.lock().unwrap(), 2, "one thread did the work for all");
}

#[test]
fn paths_that_are_given_are_taken_or_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let library = dir.path().join("mine.so");
    let options = Options { library: Some(library.clone()), model_dir: Some(dir.path().to_owned()), offline: true, cache: None };
    let wanted = Wanted { library: true, model: None };
    let error = ensure(&wanted, &options, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("mine.so") && error.contains(LIBRARY_ENV), "{error}");
    fs::write(&library, "x").unwrap();
    assert_eq!(ensure(&wanted, &options, &mut |_| {}).unwrap().library, Some(library));

    let wanted = Wanted { library: false, model: Some(manifest::DEFAULT_MODEL.to_owned()) };
    let error = ensure(&wanted, &options, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("config.json") && error.contains(MODEL_ENV), "{error}");
    let by_path = Wanted { library: false, model: Some("e5-small-v2".to_owned()) };
    let none = Options { offline: true, ..Options::default() };
    let error = ensure(&by_path, &none, &mut |_| {}).unwrap_err().to_string();
    for named in ["e5-small-v2", "`files.model`", "`files.models.e5-small-v2`", MODEL_ENV, "tokenizer.json", "intfloat"] {
        assert!(error.contains(named), "{named}: {error}");
    }
    for file in manifest::FILES {
        fs::write(dir.path().join(file), "{}").unwrap();
    }
    assert_eq!(ensure(&by_path, &options, &mut |_| {}).unwrap().models["e5-small-v2"], dir.path());
    let wanted = Wanted { library: false, model: Some("other".to_owned()) };
    assert!(ensure(&wanted, &options, &mut |_| {}).unwrap_err().to_string().contains("other"));
}

#[test]
fn the_real_library_and_model_are_here_after_it() {
    let wanted = Wanted {
        library: cfg!(all(target_os = "linux", target_arch = "x86_64")),
        model: Some(manifest::DEFAULT_MODEL.to_owned()),
    };
    let begun = std::time::Instant::now();
    let paths = ensure(&wanted, &Options::from_env(), &mut |_| {}).unwrap();
    println!("first {:?}", begun.elapsed());
    assert_eq!(paths.library.is_some(), wanted.library);
    assert!(paths.model_dir.unwrap().join("model.safetensors").is_file());
    let begun = std::time::Instant::now();
    ensure(&wanted, &Options { offline: true, ..Options::from_env() }, &mut |p| panic!("{p:?}")).unwrap();
    println!("second {:?}", begun.elapsed());
}
