//! The real binary, as a person runs it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// What a command answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Answer {
    fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Everything that was printed.
    pub(crate) fn all(&self) -> String {
        format!("exit code {}\n{}{}", self.code, self.stdout, self.stderr)
    }

    /// The one JSON value on stdout.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}", self.all()))
    }

    /// The same, if the exit code is this one.
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}", self.all());
        self
    }
}

/// The binary, free of the caller's options but not of the paths of what is fetched.
pub(crate) fn distributary(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_distributary"));
    let kept = ["DISTRIBUTARY_CACHE", "DISTRIBUTARY_LIBCHDB", "DISTRIBUTARY_MODEL_DIR"];
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy().into_owned();
        if text.starts_with("DISTRIBUTARY_") && !kept.contains(&text.as_str()) {
            command.env_remove(&name);
        }
    }
    command.current_dir(directory);
    command
}

/// Runs it to its end.
pub(crate) fn run(directory: &Path, arguments: &[&str]) -> Answer {
    Answer::of(distributary(directory).args(arguments).output().unwrap())
}

/// Writes the smallest configuration for the sample's lake, with the cheap embedder, into a directory.
pub(crate) fn sample_configuration(directory: &Path) -> PathBuf {
    let mapping = Path::new(env!("CARGO_MANIFEST_DIR")).join("mappings/tmdb.yaml");
    let text = format!(
        "source: {{root: ./silver}}\nmapping: {}\nembed: hash\nclickhouse: {{url: \"chdb:./data/clickhouse\"}}\n\
         graph: {{url: \"grafeo:./data/graph\"}}\nvectors: {{url: \"edge:./data/vectors\"}}\n",
        mapping.display()
    );
    let path = directory.join("distributary.yaml");
    std::fs::write(&path, text).unwrap();
    path
}

/// Everything that a sync's report says was sent, and embedded.
pub(crate) fn operations(report: &Value) -> u64 {
    let targets = report["tables"].as_array().unwrap().iter().flat_map(|table| table["targets"].as_array().unwrap());
    let counts = ["upserts", "deletes", "payload_updates", "texts_embedded"];
    targets.flat_map(|target| counts.map(|count| target[count].as_u64().unwrap())).sum()
}
