//! Tracing: what a run tells of itself, on stderr. Reports are the product; this is for those who look into it.

use tracing_subscriber::EnvFilter;

/// The variable that says what is logged, in the syntax of `RUST_LOG`: `info`, `distributary=debug`.
pub const LOG_ENV: &str = "DISTRIBUTARY_LOG";

/// Starts logging to stderr. Without [`LOG_ENV`] nothing but warnings is logged. A second call changes nothing.
pub fn start() {
    let filter = EnvFilter::try_from_env(LOG_ENV).unwrap_or_else(|_| EnvFilter::new("off,distributary=warn"));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .try_init();
}
