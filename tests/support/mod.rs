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
