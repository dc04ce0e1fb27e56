//! Secrets are planted in every option that takes one, everything is made to fail, and whatever the program says or leaves behind is
//! searched for them.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;

use distributary::config::{self, Config};

use crate::support::command::{Answer, distributary, run};

/// What is planted. Each is told from the others, so that a leak names its source.
const PLANTED: [&str; 9] = [
    "PLANTED-clickhouse-password",
    "PLANTED-clickhouse-file",
    "PLANTED-graph-password",
    "PLANTED-graph-file",
    "PLANTED-vectors-key",
    "PLANTED-vectors-file",
    "PLANTED-storage-key",
    "PLANTED-storage-token",
    "PLANTED-environment",
];

fn assert_clean(what: &str, text: &str) {
    // Also as clients send them: in base64, alone or after a user's name.
    for secret in PLANTED {
        for form in [secret.to_owned(), base64(secret), base64(&format!("user:{secret}"))] {
            if let Some(place) = text.find(&form) {
                let around: String = text[..place].chars().rev().take(300).collect::<Vec<_>>().into_iter().rev().collect();
                panic!("{what} shows {secret} as {form}, after: {around}");
            }
        }
    }
}

/// The part of the base64 that does not depend on what follows.
fn base64(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits = |bytes: &[u8]| bytes.iter().fold(0_u32, |sum, byte| sum << 8 | u32::from(*byte));
    let (whole, _) = text.as_bytes().as_chunks::<3>();
    whole.iter().flat_map(|three| [18, 12, 6, 0].map(|by| char::from(DIGITS[(bits(three) >> by & 63) as usize]))).collect()
}

/// Every file below a directory, but those in which the secrets were planted.
fn search(directory: &Path) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            search(&path);
        } else if path.extension().is_none_or(|extension| extension != "planted") {
            assert_clean(&path.display().to_string(), &String::from_utf8_lossy(&std::fs::read(&path).unwrap()));
        }
    }
}

/// Says no to every client, in HTTP, for as long as the test runs.
fn refusing() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            std::thread::spawn(move || {
                let mut bytes = [0; 4096];
                // The client may be gone: this is a server that nobody can rely on.
                let _ = stream.read(&mut bytes);
                let _ = stream.write_all(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 6\r\nconnection: close\r\n\r\nno way");
            });
        }
    });
    port
}

/// A port at which nobody listens.
fn nobody() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// How the secrets are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Given {
    InTheFile,
    ByFiles,
    ByTheEnvironment,
}

const ENGINES: [(&str, &str, &str); 3] =
    [("clickhouse", "http", "password"), ("graph", "bolt", "password"), ("vectors", "qdrant", "api_key")];

/// Writes a configuration of servers at one port. Answers the environment that it needs.
fn configuration(directory: &Path, port: u16, given: Given, pinecone: bool) -> Vec<(String, String)> {
    let mapping = Path::new(env!("CARGO_MANIFEST_DIR")).join("mappings/tmdb.yaml");
    let mut text = format!("source: {{root: ./silver}}\nmapping: {}\nembed: hash\n", mapping.display());
    let mut environment = Vec::new();
    for (engine, scheme, option) in ENGINES {
        let kind = if option == "password" { "password" } else { "key" };
        let user = if option == "password" { "  user: user\n" } else { "" };
        let (address, more) = if engine == "vectors" && pinecone {
            ("pinecone://films".to_owned(), format!("  controller: \"http://127.0.0.1:{port}\"\n"))
        } else {
            (format!("{scheme}://127.0.0.1:{port}"), String::new())
        };
        text.push_str(&format!("{engine}:\n  url: \"{address}\"\n{user}{more}"));
        match given {
            Given::InTheFile => text.push_str(&format!("  {option}: PLANTED-{engine}-{kind}\n")),
            Given::ByFiles => {
                std::fs::write(directory.join(format!("{engine}.planted")), format!("PLANTED-{engine}-file\n")).unwrap();
                text.push_str(&format!("  {option}_file: {engine}.planted\n"));
            }
            Given::ByTheEnvironment => {
                let name = config::variable(&[engine.to_owned(), option.to_owned()]);
                environment.push((name, "PLANTED-environment".to_owned()));
            }
        }
    }
    std::fs::write(directory.join("config.planted"), text).unwrap();
    environment
}

fn told(directory: &Path, arguments: &[&str], environment: &[(String, String)]) -> Answer {
    let mut command = distributary(directory);
    command.args(arguments).args(["--config", "config.planted"]);
    command.envs(environment.iter().cloned()).env("DISTRIBUTARY_LOG", "trace");
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Answer { code: output.status.code().unwrap_or(-1), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

const COMMANDS: [&[&str]; 7] = [
    &["check"],
    &["plan", "--json"],
    &["sync", "--json"],
    &["status"],
    &["verify"],
    &["search", "x"],
    &["schema", "--of", "config"],
];

fn fails_without_a_word(given: Given) {
    let home = tempfile::tempdir().unwrap();
    run(home.path(), &["sample", "silver"]).expect(0);
    for (port, pinecone) in [(refusing(), false), (refusing(), true), (nobody(), false), (nobody(), true)] {
        let environment = configuration(home.path(), port, given, pinecone);
        for arguments in COMMANDS {
            let answer = told(home.path(), arguments, &environment);
            let when = format!("{arguments:?}, secrets given {given:?}, at port {port}");
            let fine = ["check", "schema"].contains(&arguments[0]);
            assert_eq!(answer.code == 0, fine, "{when}: {}", answer.all());
            assert!(fine || answer.stderr.contains("TRACE"), "{when}: nothing is logged, so nothing is tested");
            assert_clean(&format!("stdout of {when}"), &answer.stdout);
            assert_clean(&format!("stderr of {when}"), &answer.stderr);
        }
    }
    search(home.path());
}

#[test]
fn secrets_of_the_file_are_not_told() {
    fails_without_a_word(Given::InTheFile);
}

#[test]
fn secrets_of_files_of_their_own_are_not_told() {
    fails_without_a_word(Given::ByFiles);
}

#[test]
fn secrets_of_the_environment_are_not_told() {
    fails_without_a_word(Given::ByTheEnvironment);
}

#[test]
fn options_of_the_storage_are_not_told() {
    let home = tempfile::tempdir().unwrap();
    let mapping = Path::new(env!("CARGO_MANIFEST_DIR")).join("mappings/tmdb.yaml");
    for port in [refusing(), nobody()] {
        let text = format!(
            "source:\n  root: s3://silver\n  storage_options:\n    AWS_ENDPOINT_URL: \"http://127.0.0.1:{port}\"\n    \
             AWS_ALLOW_HTTP: \"true\"\n    AWS_REGION: nowhere\n    AWS_ACCESS_KEY_ID: user\n    \
             AWS_SECRET_ACCESS_KEY: PLANTED-storage-key\n    AWS_SESSION_TOKEN: PLANTED-storage-token\n    max_retries: \"0\"\n\
             mapping: {}\nembed: hash\nquarantine: {{url: \"s3://silver/quarantine\"}}\ngraph: {{url: \"grafeo:./graph\"}}\n",
            mapping.display()
        );
        std::fs::write(home.path().join("config.planted"), text).unwrap();
        for arguments in [&["check"][..], &["plan"], &["sync", "--json"], &["status"], &["verify"]] {
            let answer = told(home.path(), arguments, &[]);
            assert_eq!(answer.code == 0, arguments[0] == "check", "{arguments:?}: {}", answer.all());
            assert_clean(&format!("stdout of {arguments:?}"), &answer.stdout);
            // The session token goes out as a header, and an HTTP client logs the headers of a request that it is told to trace.
            assert_clean(&format!("stderr of {arguments:?}"), &answer.stderr);
        }
        let config = Config::read_with(&home.path().join("config.planted"), |_| None).unwrap();
        assert_clean("Debug of the configuration", &format!("{config:?} {config:#?}"));
    }
    search(home.path());
}

#[test]
fn a_configuration_shows_none_of_them() {
    let home = tempfile::tempdir().unwrap();
    for given in [Given::InTheFile, Given::ByFiles, Given::ByTheEnvironment] {
        for pinecone in [false, true] {
            let environment = configuration(home.path(), 1, given, pinecone);
            let of = |name: &str| environment.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
            let config = Config::read_with(&home.path().join("config.planted"), of).unwrap();
            assert_clean("Debug of the configuration", &format!("{config:?} {config:#?}"));
        }
    }
}

/// An error names the key and the line, and quotes no line in which a secret may stand.
#[test]
fn a_mistake_beside_a_secret_does_not_show_it() {
    let home = tempfile::tempdir().unwrap();
    let head = "source: {root: ./silver}\nmapping: m.yaml\n";
    let server = "  url: \"http://127.0.0.1:1\"\n";
    for broken in [
        format!("{head}clickhouse:\n{server}  password: PLANTED-clickhouse-password\n  pasword: x\n"),
        format!("{head}clickhouse:\n{server}  pasword: PLANTED-clickhouse-password\n"),
        format!("{head}clickhouse:\n{server}  password: [PLANTED-clickhouse-password]\n"),
        format!("{head}clickhouse:\n{server}  password: {{PLANTED-clickhouse-password: 1}}\n"),
        format!("{head}clickhouse:\n{server}  password: \"PLANTED-clickhouse-password\n"),
        format!("{head}clickhouse:\n{server}  password: PLANTED-clickhouse-password\n password: wrong\n"),
        format!("{head}vectors: {{url: \"qdrant://h:1\", api_key: PLANTED-vectors-key, compression: true}}\n"),
        format!("{head}clickhouse: {{url: \"http://user:PLANTED-clickhouse-password@h:1\"}}\n"),
        format!("{head}graph: {{url: \"http://user:PLANTED-graph-password@h:1\"}}\n"),
        format!("{head}clickhouse: {{url: \"chdb:./x\", password: PLANTED-clickhouse-password, user: me}}\n"),
        "source: {root: ./silver, storage_options: PLANTED-storage-key}\nmapping: m.yaml\n".to_owned(),
    ] {
        std::fs::write(home.path().join("config.planted"), &broken).unwrap();
        for command in ["check", "sync"] {
            let answer = told(home.path(), &[command], &[]);
            assert_eq!(answer.code, 2, "{broken}{}", answer.all());
            assert_clean(&format!("the error for\n{broken}"), &answer.all());
        }
    }
    std::fs::write(home.path().join("config.planted"), format!("{head}graph: {{url: \"grafeo:./g\"}}\n")).unwrap();
    let options = ("DISTRIBUTARY_SOURCE_STORAGE_OPTIONS".to_owned(), String::new());
    for value in
        ["PLANTED-environment", "\"PLANTED-environment\"", "{\"KEY\": [\"PLANTED-environment\"]}", "[\"PLANTED-environment\"]"]
    {
        let answer = told(home.path(), &["check"], &[(options.0.clone(), value.to_owned())]);
        assert_eq!(answer.code, 2, "{value}: {}", answer.all());
        assert_clean(&format!("the error for {value} in the environment"), &answer.all());
    }
}
