//! What a failure of Pinecone asks of the caller. Pure: it knows statuses and texts, and no client.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::sinks::vectors::config::SINK;
use crate::sinks::{Class, SinkError};

/// Characters of an answer that are shown where it is none of the shapes that are known.
const SHOWN_MAX: usize = 300;

/// An answer that is no success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// The HTTP status.
    pub(super) status: u16,
    /// The service's own code: a word of the control plane, a number of the data plane, empty where there is none.
    pub(super) code: String,
    /// What it says.
    pub(super) message: String,
    /// How long it asks to be left alone.
    pub(super) retry_after: Option<Duration>,
}

impl Failure {
    /// Reads an answer: `{"error": {"code", "message"}}` of the control plane, `{"code", "message"}` of the data plane, or plain text.
    pub(super) fn read(status: u16, body: &[u8], retry_after: Option<&str>, now: DateTime<Utc>) -> Self {
        let retry_after = retry_after.and_then(|text| pause(text, now));
        let text = |value: &Value| match value {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            other => other.to_string(),
        };
        let told: Value = serde_json::from_slice(body).unwrap_or_default();
        let inner = if told["error"].is_object() { &told["error"] } else { &told };
        let (code, mut message) = (text(&inner["code"]), text(&inner["message"]));
        if message.is_empty() {
            message = String::from_utf8_lossy(body).trim().chars().take(SHOWN_MAX).collect();
        }
        if message.is_empty() {
            "it says nothing more".clone_into(&mut message);
        }
        Self { status, code, message, retry_after }
    }

    /// The one place that decides. A monthly limit and a limit for each second have one status and, at the data plane, one code: only
    /// the text tells them apart. A text that is not known is taken for the second kind, which costs some tries.
    pub(super) fn class(&self) -> Class {
        match (self.status, self.code.as_str()) {
            (402, _) | (429, "QUOTA_EXCEEDED") => Class::Stop,
            (429, _) if self.is_of_the_month() => Class::Stop,
            (408 | 429 | 500 | 502..=599, _) => Class::Transient,
            _ => Class::Permanent,
        }
    }

    fn is_of_the_month(&self) -> bool {
        let said = self.message.to_lowercase();
        ["month", "upgrade your plan", "usage limit"].iter().any(|sign| said.contains(sign))
    }

    fn advice(&self) -> &'static str {
        match (self.status, self.class()) {
            (401, _) => ". Set `vectors.api_key` (DISTRIBUTARY_VECTORS_API_KEY) to a key of the project that has the index",
            (403, _) => {
                ". The key in `vectors.api_key` (DISTRIBUTARY_VECTORS_API_KEY) may not do this, or the project is at a limit of its \
                 plan: give the key the right, or raise the limit"
            }
            (402, _) => ". Settle the account's invoices in Pinecone's console, then run again: nothing is lost meanwhile",
            (429, Class::Stop) => {
                ". The limit of the plan is reached: raise it in Pinecone's console or wait until it begins anew, then run again. \
                 Nothing is lost meanwhile"
            }
            _ => "",
        }
    }

    /// The error of a request that was `what`.
    pub(super) fn error(&self, what: &str) -> SinkError {
        let code = if self.code.is_empty() { String::new() } else { format!(" ({})", self.code) };
        let message = format!("cannot {what}: Pinecone answered {}{code}: {}{}", self.status, self.message, self.advice());
        let error = match self.class() {
            Class::Transient => SinkError::transient(SINK, message),
            Class::Permanent => SinkError::permanent(SINK, message),
            Class::Stop => SinkError::stop(SINK, message),
        };
        match self.retry_after {
            Some(pause) => error.after(pause),
            None => error,
        }
    }
}

/// `Retry-After` (RFC 9110, section 10.2.3): seconds, or a date.
fn pause(text: &str, now: DateTime<Utc>) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = DateTime::parse_from_rfc2822(text.trim()).ok()?;
    Some((until.with_timezone(&Utc) - now).to_std().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(status: u16, body: &str) -> Failure {
        Failure::read(status, body.as_bytes(), None, DateTime::UNIX_EPOCH)
    }

    #[test]
    fn each_failure_has_a_class() {
        let month = r#"{"code":8,"message":"Request failed. You've reached your write unit limit for the current month (2000000). To continue writing data, upgrade your plan.","details":[]}"#;
        let second = r#"{"code":8,"message":"Too many requests. You've reached the max upsert requests per second (100) for namespace a.","details":[]}"#;
        for (status, body, class) in [
            (400, r#"{"code":3,"message":"Vector dimension 3 does not match","details":[]}"#, Class::Permanent),
            (401, "Unauthorized", Class::Permanent),
            (402, r#"{"error":{"code":"PAYMENT_REQUIRED","message":"pay"},"status":402}"#, Class::Stop),
            (403, r#"{"error":{"code":"FORBIDDEN","message":"no"},"status":403}"#, Class::Permanent),
            (404, r#"{"error":{"code":"NOT_FOUND","message":"no"},"status":404}"#, Class::Permanent),
            (408, "", Class::Transient),
            (409, r#"{"error":{"code":"ALREADY_EXISTS","message":"is"},"status":409}"#, Class::Permanent),
            (412, "", Class::Permanent),
            (422, "", Class::Permanent),
            (429, "", Class::Transient),
            (429, second, Class::Transient),
            (429, month, Class::Stop),
            (429, r#"{"error":{"code":"QUOTA_EXCEEDED","message":"pods"},"status":429}"#, Class::Stop),
            (429, r#"{"error":{"code":"RESOURCE_EXHAUSTED","message":"slower"},"status":429}"#, Class::Transient),
            (500, r#"{"code":2,"message":"month","details":[]}"#, Class::Transient),
            (501, "", Class::Permanent),
            (502, "<html>", Class::Transient),
            (503, "", Class::Transient),
            (504, "", Class::Transient),
            (302, "", Class::Permanent),
        ] {
            assert_eq!(failure(status, body).class(), class, "{status} {body}");
        }
    }

    #[test]
    fn what_it_says_is_said_with_what_to_do() {
        let error = failure(401, "Unauthorized").error("find index films");
        for part in ["find index films", "401", "Unauthorized", "vectors.api_key", "DISTRIBUTARY_VECTORS_API_KEY"] {
            assert!(error.message.contains(part), "{error}");
        }
        let error = failure(400, r#"{"code":3,"message":"dimension","details":[]}"#).error("write");
        assert!(error.message.contains("400 (3): dimension"), "{error}");
        assert!(failure(500, "").error("write").message.contains("nothing more"));
        assert!(failure(400, &"x".repeat(10_000)).error("write").message.len() < 500);
    }

    #[test]
    fn the_pause_is_seconds_or_a_date() {
        let now = DateTime::parse_from_rfc3339("2025-11-05T10:00:00Z").unwrap().with_timezone(&Utc);
        let read = |text| Failure::read(429, b"", Some(text), now).error("write").retry_after;
        assert_eq!(read("7"), Some(Duration::from_secs(7)));
        assert_eq!(read("Wed, 05 Nov 2025 10:00:30 GMT"), Some(Duration::from_secs(30)));
        assert_eq!(read("Wed, 05 Nov 2025 09:00:30 GMT"), Some(Duration::ZERO));
        assert_eq!(read("soon"), None);
    }
}
