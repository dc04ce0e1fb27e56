//! What an answer of ClickHouse's HTTP interface means: rows, or an error with its number and class. Pure: no connection, no driver.
//!
//! The server tells an error by the header `X-ClickHouse-Exception-Code`, by a status that is not 200, and by its text, which opens with
//! `Code: N.`. One that comes while rows are already on their way stands at the end of the body, since release 25.11 between marks
//! that a header names. An answer without a number is not the server's: something on the way to it gave it.

use std::time::Duration;

use super::client::{EngineError, READONLY, class_of, code_in};
use crate::sinks::Class;

/// Bytes of an error's text that are kept: it may quote a whole statement.
const TEXT_BYTES_MAX: usize = 4096;

/// What surrounds an error at the end of a body.
const MARK: &str = "__exception__";

/// What is known of an answer before its body.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Head {
    /// The HTTP status.
    pub(super) status: u16,
    /// `X-ClickHouse-Exception-Code`.
    pub(super) code: Option<u32>,
    /// `X-ClickHouse-Exception-Tag`.
    pub(super) tag: Option<String>,
    /// `Retry-After`, where it is in seconds.
    pub(super) retry_after: Option<Duration>,
}

/// The rows of an answer, or what it says went wrong.
pub(super) fn rows_of(head: &Head, body: Vec<u8>) -> Result<Vec<u8>, EngineError> {
    if head.status != 200 || head.code.is_some() {
        return Err(error_of(head, &text_of(&body)));
    }
    match broken_off(head.tag.as_deref(), &body) {
        Some(text) => Err(error_of(head, &text)),
        None => Ok(body),
    }
}

fn text_of(body: &[u8]) -> String {
    let end = body.len().min(TEXT_BYTES_MAX);
    String::from_utf8_lossy(&body[..end]).trim().to_owned()
}

/// The error at the end of rows that were on their way.
fn broken_off(tag: Option<&str>, body: &[u8]) -> Option<String> {
    // Only the end can hold it; the server keeps it to 16 KiB.
    let tail = &body[body.len().saturating_sub(32 << 10)..];
    if let Some(tag) = tag {
        let end = format!(" {tag}\r\n{MARK}\r\n");
        if tail.ends_with(end.as_bytes()) {
            let begin = format!("{MARK}\r\n{tag}\r\n");
            let text = String::from_utf8_lossy(tail).into_owned();
            let inner = text.rsplit_once(&begin).map_or(text.as_str(), |(_, inner)| inner);
            let inner = inner.strip_suffix(&end).unwrap_or(inner);
            // The last line is the length of the text.
            return Some(inner.rsplit_once('\n').map_or(inner, |(text, _)| text).trim().to_owned());
        }
    }
    if !tail.ends_with(b")\n") {
        return None;
    }
    let text = String::from_utf8_lossy(tail);
    let start = text.rfind("Code: ")?;
    let (text, numbered) = (&text[start..], code_in(&text[start..]).is_some());
    let whole = numbered && text.contains("Exception: ") && text.contains(" (version ") && text.trim_end().lines().count() == 1;
    whole.then(|| text.trim().to_owned())
}

fn error_of(head: &Head, text: &str) -> EngineError {
    let code = head.code.or_else(|| code_in(text));
    let class = code.map_or_else(|| class_of_status(head.status), class_of);
    let said = if text.is_empty() { "the answer has no text".to_owned() } else { shown(head, code, text) };
    let message = match hint(head.status, code) {
        Some(hint) => format!("{hint}: {said}"),
        None => said,
    };
    EngineError { code, message, class, retry_after: head.retry_after }
}

/// The text with what it lacks to be understood.
fn shown(head: &Head, code: Option<u32>, text: &str) -> String {
    match code {
        Some(_) if code_in(text).is_some() => text.to_owned(),
        Some(code) => format!("Code: {code}. {text}"),
        None => format!("HTTP status {}, not from ClickHouse itself: {text}", head.status),
    }
}

/// What something on the way asks of the caller: to come later, or not at all.
fn class_of_status(status: u16) -> Class {
    match status {
        408 | 425 | 429 | 502 | 503 | 504 => Class::Transient,
        _ => Class::Permanent,
    }
}

/// What to do about errors that the configuration or the server's administrator mends.
fn hint(status: u16, code: Option<u32>) -> Option<&'static str> {
    match (code, status) {
        (Some(192..=194 | 516), _) | (None, 401) => Some(
            "the server does not let this user in: see to `clickhouse.user` and to the password in DISTRIBUTARY_CLICKHOUSE_PASSWORD \
             or `clickhouse.password_file`",
        ),
        (None, 403) => {
            Some("the way to the server is forbidden: see to `clickhouse.url`, `clickhouse.user` and what lies between")
        }
        (Some(497), _) => Some("`clickhouse.user` lacks a right that is needed: grant it, or name another user"),
        (Some(READONLY), _) => {
            Some("`clickhouse.user` may only read, and what is delivered has to be written: name another user")
        }
        (Some(452), _) => Some("the profile of `clickhouse.user` forbids a setting that makes an answer mean stored: allow it"),
        (Some(115), _) => Some("the server does not know a setting: is it older than 24.8?"),
        (None, 301..=308) => Some("the server is somewhere else: write its own address in `clickhouse.url`"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(status: u16) -> Head {
        Head { status, ..Head::default() }
    }

    #[test]
    fn number_header_and_status_decide_the_class() {
        let memory = "Code: 241. DB::Exception: Memory limit exceeded. (MEMORY_LIMIT_EXCEEDED) (version 24.8.1.1)";
        let table: [(Head, &str, Option<u32>, Class); 18] = [
            (head(500), memory, Some(241), Class::Transient),
            (head(404), "Code: 60. DB::Exception: no table", Some(60), Class::Permanent),
            // The header is the server's, whatever the text is.
            (Head { code: Some(252), ..head(500) }, "gone", Some(252), Class::Transient),
            (Head { code: Some(252), ..head(500) }, "", Some(252), Class::Transient),
            (Head { code: Some(62), ..head(200) }, "Code: 62. DB::Exception: x", Some(62), Class::Permanent),
            (Head { code: Some(497), ..head(403) }, "Code: 497. DB::Exception: x", Some(497), Class::Permanent),
            (Head { code: Some(516), ..head(403) }, "Code: 516. DB::Exception: x", Some(516), Class::Permanent),
            (head(401), "Code: 194. DB::Exception: x", Some(194), Class::Permanent),
            // Without a number it was not the server.
            (head(502), "<html>Bad Gateway</html>", None, Class::Transient),
            (head(503), "", None, Class::Transient),
            (head(504), "upstream timed out", None, Class::Transient),
            (head(429), "slow down", None, Class::Transient),
            (head(408), "", None, Class::Transient),
            (head(500), "oops", None, Class::Permanent),
            (head(401), "", None, Class::Permanent),
            (head(403), "", None, Class::Permanent),
            (head(413), "too large", None, Class::Permanent),
            (head(301), "", None, Class::Permanent),
        ];
        for (head, text, code, class) in table {
            let error = rows_of(&head, text.as_bytes().to_vec()).unwrap_err();
            assert_eq!((error.code, error.class), (code, class), "{head:?} {text}");
            assert!(!error.message.is_empty());
        }
    }

    #[test]
    fn an_error_says_what_to_do() {
        for (head, text, words) in [
            (head(403), "Code: 516. DB::Exception: x", ["clickhouse.user", "DISTRIBUTARY_CLICKHOUSE_PASSWORD"]),
            (head(401), "", ["clickhouse.user", "DISTRIBUTARY_CLICKHOUSE_PASSWORD"]),
            (head(500), "Code: 164. DB::Exception: Cannot modify 'x' setting in readonly mode", ["may only read", "Code: 164"]),
            (head(502), "<html>", ["HTTP status 502", "not from ClickHouse"]),
            (head(308), "moved", ["clickhouse.url", "HTTP status 308"]),
        ] {
            let error = rows_of(&head, text.as_bytes().to_vec()).unwrap_err();
            assert!(words.iter().all(|word| error.message.contains(word)), "{error}");
        }
        let patient = Head { retry_after: Some(Duration::from_secs(7)), ..head(503) };
        assert_eq!(rows_of(&patient, vec![]).unwrap_err().retry_after, Some(Duration::from_secs(7)));
    }

    #[test]
    fn an_error_after_rows_is_an_error() {
        let error = "Code: 159. DB::Exception: Timeout exceeded: elapsed 1.2 seconds. (TIMEOUT_EXCEEDED) (version 24.10.1.2812 (official build))";
        let old = rows_of(&head(200), format!("{{\"a\":1}}\n{error}\n").into_bytes()).unwrap_err();
        assert_eq!((old.code, old.class, old.message.as_str()), (Some(159), Class::Transient, error));
        let tagged = Head { tag: Some("rnywyenlaeqynhmu".into()), ..head(200) };
        let body =
            format!("{{\"a\":1}}\n\r\n__exception__\r\nrnywyenlaeqynhmu\r\n{error}\n142 rnywyenlaeqynhmu\r\n__exception__\r\n");
        let new = rows_of(&tagged, body.into_bytes()).unwrap_err();
        assert_eq!((new.code, new.message.as_str()), (Some(159), error));
        // Rows that speak of errors are rows.
        for rows in ["{\"text\":\"Code: 159. DB::Exception: x (version 1)\"}\n", "Code: 1)\n", ")\n", "", "__exception__\r\n"] {
            assert_eq!(rows_of(&tagged, rows.as_bytes().to_vec()).unwrap(), rows.as_bytes());
            assert_eq!(rows_of(&head(200), rows.as_bytes().to_vec()).unwrap(), rows.as_bytes());
        }
    }

    #[test]
    fn a_text_without_end_is_cut() {
        let error = rows_of(&head(500), vec![b'x'; 1 << 20]).unwrap_err();
        assert!(error.message.len() < TEXT_BYTES_MAX + 200);
    }
}
