//! What the tests stand on: lakes, engines, faults, servers behind a proxy, the oracle, and the real binary.

pub(crate) mod command;
pub(crate) mod engines;
pub(crate) mod faults;
pub(crate) mod kill;
pub(crate) mod killed;
pub(crate) mod lake;
pub(crate) mod oracle;
pub(crate) mod proxy;
pub(crate) mod server;
pub(crate) mod spoilt;

/// Where the files of the tests lie.
pub(crate) fn tests_dir() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// Runs a test that waits for things, on as many threads as the program itself would.
pub(crate) fn wait_for<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_stack_size(8 << 20).build().unwrap();
    let answer = runtime.block_on(Box::pin(future));
    runtime.shutdown_background();
    answer
}

/// Runs a test in a process of its own. The column store's engine answers one question of a process at a time, so tests that ask much of
/// it would wait for each other. `test` is the name that the test has.
pub(crate) fn apart(test: &str, body: impl FnOnce()) {
    const APART: &str = "DISTRIBUTARY_TEST_APART";
    if std::env::var_os(APART).is_some() {
        return body();
    }
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    let answer = command.args(["--exact", test, "--nocapture"]).env(APART, "1").output().unwrap();
    let said = String::from_utf8_lossy(&answer.stdout);
    let is_done = answer.status.success() && said.contains("test result: ok. 1 passed");
    assert!(is_done, "{}\n{said}\n{}", answer.status, String::from_utf8_lossy(&answer.stderr));
}
