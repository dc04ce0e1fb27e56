//! How a server is met: whether it lets the user in, what it is, whether it takes what is asked of it. Makes the database where it is
//! missing.

use super::NAME;
use super::client::{EngineError, READONLY, Transport};
use super::config::ServerOptions;
use super::encode::literal;
use super::http::Http;
use super::settings::settings;
use super::site::Site;
use crate::sinks::{Class, SinkError};

/// The oldest release that knows all that is asked.
const OLDEST: [u64; 2] = [24, 8];

/// What a server says of itself.
#[derive(Debug, PartialEq, Eq)]
struct Greeting {
    version: String,
    in_cloud: bool,
    has_database: bool,
}

/// The way to the server, and how tables are made there.
pub(super) async fn meet(options: &ServerOptions) -> Result<(Http, Site), SinkError> {
    let doing = format!("opening {}", options.url);
    let failed = |error: EngineError| opening(error, &doing);
    let server = Http::new(options)?;
    let question = format!(
        "SELECT version(), (SELECT count() FROM system.settings WHERE name = 'cloud_mode' AND value IN ('1', 'true')), \
         (SELECT count() FROM system.databases WHERE name = {})",
        literal(&options.database)
    );
    let answer = server.outside(question, "TSV").await.map_err(failed)?;
    let greeting = greeting(&answer).ok_or_else(|| {
        let message = format!(
            "{doing}: what answers there is not a ClickHouse: {}",
            String::from_utf8_lossy(&answer[..answer.len().min(200)])
        );
        SinkError::permanent(NAME, message)
    })?;
    if is_older(&greeting.version) {
        let message = format!("{doing}: the server is ClickHouse {}, and 24.8 or newer is needed", greeting.version);
        return Err(SinkError::stop(NAME, message));
    }
    let site = Site::of_server(options, greeting.in_cloud)?;
    let server = server.with_settings(settings(&site, options.compression));
    if !greeting.has_database {
        server.outside(site.create_database(), "Null").await.map_err(failed)?;
    }
    server.query("SELECT 1".to_owned(), "Null").await.map_err(failed)?;
    Ok((server, site))
}

/// An error before anything was asked that matters. Who may only read now may only read later.
fn opening(error: EngineError, doing: &str) -> SinkError {
    let class = if error.code == Some(READONLY) { Class::Permanent } else { error.class };
    SinkError { class, ..error.during(doing) }
}

fn greeting(answer: &[u8]) -> Option<Greeting> {
    let text = std::str::from_utf8(answer).ok()?;
    match text.trim_end().split('\t').collect::<Vec<_>>().as_slice() {
        [version, cloud, database] => {
            let is = |count: &str| count.parse::<u64>().ok().map(|count| count > 0);
            Some(Greeting { version: (*version).to_owned(), in_cloud: is(cloud)?, has_database: is(database)? })
        }
        _ => None,
    }
}

/// Whether a version is known to be too old.
fn is_older(version: &str) -> bool {
    let numbers: Vec<u64> = version.split('.').map_while(|part| part.parse().ok()).take(2).collect();
    numbers.len() == 2 && numbers.as_slice() < OLDEST.as_slice()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_is_three_values() {
        let known = Greeting { version: "24.8.1.1".into(), in_cloud: false, has_database: true };
        assert_eq!(greeting(b"24.8.1.1\t0\t1\n"), Some(known));
        for other in [&b""[..], b"<html>", b"1\t2", b"1\tx\t1", b"\xff\t0\t0"] {
            assert_eq!(greeting(other), None);
        }
    }

    #[test]
    fn old_servers_are_told_by_numbers() {
        for (version, old) in
            [("24.8.1.1", false), ("24.7.9", true), ("9.10.1", true), ("24.10.1", false), ("26.7.3", false), ("x", false)]
        {
            assert_eq!(is_older(version), old, "{version}");
        }
    }
}
