//! What went wrong at a server, and what that asks of the caller; pure. The codes are those of the Neo4j status codes for errors.

use std::io::ErrorKind;
use std::time::Duration;

use neo4rs::Error;

use crate::sinks::{Class, SinkError};

use super::super::cypher::SINK;

/// What a failure is about, beyond its class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum About {
    /// The server lacks memory for a transaction of this size, or time.
    Size,
    /// User or password.
    Credentials,
    /// A password that was right and is to be changed.
    Expired,
    /// A user whose password was wrong too often: nobody is let in under this name for a while.
    Attempts,
    /// A login that was refused for a reason that is not known here.
    Login,
    /// What the user may do.
    Rights,
    /// The database's name.
    Database,
    /// What is in the way of a constraint.
    Constraint,
    /// The connection, the server as a whole, or a lock: it passes.
    Moment,
    /// The statement.
    Statement,
}

/// So long a server lets nobody in whose password was wrong too often, unless it was told otherwise (`dbms.security.auth_lock_time`).
const LOCKED: Duration = Duration::from_secs(5);

/// The codes of logins that are refused, by the texts that servers send with them: the driver keeps nothing of such an answer but its
/// text. Neo4j 5.26 and 2026.08 have one text for each of these codes.
const REFUSED: [(&str, &str); 9] = [
    ("The client is unauthorized due to authentication failure.", "Neo.ClientError.Security.Unauthorized"),
    (
        "The client has provided incorrect authentication details too many times in a row.",
        "Neo.ClientError.Security.AuthenticationRateLimit",
    ),
    ("The credentials have expired and need to be updated.", "Neo.ClientError.Security.CredentialsExpired"),
    ("The auth provider token has expired", "Neo.ClientError.Security.TokenExpired"),
    ("An auth provider request timed out.", "Neo.TransientError.Security.AuthProviderTimeout"),
    ("An auth provider request failed.", "Neo.TransientError.Security.AuthProviderFailed"),
    (
        "The database is not currently available to serve your request, refer to the database logs for more details. Retrying your \
         request at a later time may succeed.",
        "Neo.TransientError.General.DatabaseUnavailable",
    ),
    (
        "There are no available threads to serve this request at the moment. You can retry at a later time or consider increasing max \
         thread pool size for bolt connector(s).",
        "Neo.TransientError.Request.NoThreadsAvailable",
    ),
    (
        "The server has rejected this request as a resource is exhausted at the moment. You can retry at a later time. For further \
         details see server logs.",
        "Neo.TransientError.Request.ResourceExhaustion",
    ),
];

/// The one place where a server's code becomes a class. What is not known is permanent.
pub(super) fn judge(code: &str) -> (Class, About) {
    match code {
        "Neo.TransientError.General.MemoryPoolOutOfMemoryError"
        | "Neo.TransientError.General.OutOfMemoryError"
        | "Neo.TransientError.General.TransactionMemoryLimit"
        | "Neo.TransientError.General.TransactionOutOfMemoryError"
        | "Neo.TransientError.Transaction.TransactionMemoryLimit"
        | "Neo.ClientError.Transaction.TransactionTimedOut" => (Class::Transient, About::Size),
        // Somebody ended the transaction.
        "Neo.TransientError.Transaction.Terminated"
        | "Neo.TransientError.Transaction.LockClientStopped"
        | "Neo.ClientError.Transaction.Terminated"
        | "Neo.ClientError.Transaction.LockClientStopped" => (Class::Permanent, About::Statement),
        // The leader has moved, or the user's rights are to be read again.
        "Neo.ClientError.Cluster.NotALeader"
        | "Neo.ClientError.General.ForbiddenOnReadOnlyDatabase"
        | "Neo.ClientError.Security.AuthorizationExpired" => (Class::Transient, About::Moment),
        "Neo.ClientError.Security.Unauthorized" | "Neo.ClientError.Security.TokenExpired" => {
            (Class::Permanent, About::Credentials)
        }
        "Neo.ClientError.Security.CredentialsExpired" => (Class::Permanent, About::Expired),
        "Neo.ClientError.Security.AuthenticationRateLimit" => (Class::Transient, About::Attempts),
        "Neo.ClientError.Security.Forbidden" => (Class::Permanent, About::Rights),
        "Neo.ClientError.Database.DatabaseNotFound" => (Class::Permanent, About::Database),
        "Neo.ClientError.Schema.ConstraintCreationFailed"
        | "Neo.ClientError.Schema.ConstraintWithNameAlreadyExists"
        | "Neo.ClientError.Schema.ConstraintAlreadyExists"
        | "Neo.ClientError.Schema.EquivalentSchemaRuleAlreadyExists"
        | "Neo.ClientError.Schema.IndexAlreadyExists" => (Class::Stop, About::Constraint),
        // A constraint's index has its name before the constraint is there: the one that was asked for before is still being made.
        "Neo.ClientError.Schema.IndexWithNameAlreadyExists" => (Class::Transient, About::Constraint),
        other if other.starts_with("Neo.TransientError.") => (Class::Transient, About::Moment),
        _ => (Class::Permanent, About::Statement),
    }
}

/// A driver's error as one of this sink. `place` is the server and its database, `doing` what it was asked.
pub(super) fn failed(place: &str, doing: &str, cause: Error) -> (SinkError, About) {
    let (class, about) = match &cause {
        Error::Neo4j(error) => judge(error.code()),
        Error::RoutingTableError((code, _)) => judge(code),
        Error::AuthenticationError(text) => {
            let known = REFUSED.iter().find(|(known, _)| known == text);
            known.map_or((Class::Permanent, About::Login), |(_, code)| judge(code))
        }
        Error::ConnectionClosed(_)
        | Error::ConnectionError
        | Error::ConnectionTimedOut
        | Error::IncompleteBoltExchange
        | Error::Ignored(_)
        | Error::RequestIgnoredError
        | Error::RoutingTableRefreshFailed(_)
        | Error::ServerUnavailableError(_) => (Class::Transient, About::Moment),
        // A certificate that is not trusted will not be at the next attempt either.
        Error::IOError { detail } if detail.kind() == ErrorKind::InvalidData => (Class::Permanent, About::Moment),
        Error::IOError { .. } => (Class::Transient, About::Moment),
        _ => (Class::Permanent, About::Statement),
    };
    let message = told(place, doing, class, about, &cause);
    let error = match class {
        Class::Transient => SinkError::transient(SINK, message),
        Class::Permanent => SinkError::permanent(SINK, message),
        Class::Stop => SinkError::stop(SINK, message),
    };
    (if about == About::Attempts { error.after(LOCKED) } else { error }, about)
}

/// The failure in words, with what to look at.
fn told(place: &str, doing: &str, class: Class, about: About, cause: &Error) -> String {
    let shown: String = doing.chars().take(200).collect();
    match (about, cause) {
        (About::Credentials, _) => format!(
            "{place} does not let this user in ({cause}); check `graph.user` and the password (DISTRIBUTARY_GRAPH_PASSWORD or \
             `graph.password_file`)"
        ),
        (About::Expired, _) => format!(
            "{place} lets this user in for no more than changing the password ({cause}); change it (ALTER CURRENT USER SET PASSWORD), \
             and name the new one in DISTRIBUTARY_GRAPH_PASSWORD or `graph.password_file`"
        ),
        (About::Attempts, _) => format!(
            "{place} lets this user in no more for a while, because its password was wrong too often ({cause}); find out who \
             sends a wrong one, here (DISTRIBUTARY_GRAPH_PASSWORD or `graph.password_file`) or elsewhere"
        ),
        (About::Login, _) => {
            format!("{place} refused the login ({cause}); its log tells more, and `graph.user` is who asked")
        }
        (About::Rights, _) => {
            format!("the user of {place} may not do `{shown}` ({cause}); grant it, or name another `graph.user`")
        }
        (About::Database, _) => format!("{place} is not there ({cause}); create it, or name another one in `graph.database`"),
        (About::Constraint, _) => {
            format!("{place} holds something that is in the way of `{shown}` ({cause}); remove it, or sync into another database")
        }
        (About::Size, _) => format!("{place} has not enough memory or time for `{shown}` ({cause})"),
        (About::Moment, Error::IOError { .. }) if class == Class::Permanent => format!(
            "{place} cannot be trusted ({cause}); check `graph.url`, and `graph.ca_file` where its certificate is your own"
        ),
        // Without TLS a server that wants it hangs up at once.
        (About::Moment, Error::IOError { detail }) if detail.kind() == ErrorKind::UnexpectedEof => format!(
            "{place} ended the connection at `{shown}` ({cause}); if it always does, see whether it wants TLS (bolt+s://, neo4j+s://)"
        ),
        (About::Moment, _) => format!("{place} did not answer `{shown}` ({cause})"),
        (About::Statement, Error::UnsupportedVersion(..) | Error::ProtocolMismatch(_)) => {
            format!("{place} does not speak Bolt 4.4 ({cause}); check host and port of `graph.url`")
        }
        (About::Statement, _) => format!("{place} refused `{shown}` ({cause})"),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn codes_have_their_classes() {
        use Class::{Permanent, Stop, Transient};
        for (code, expected) in [
            ("Neo.TransientError.Transaction.DeadlockDetected", (Transient, About::Moment)),
            ("Neo.TransientError.Transaction.LockAcquisitionTimeout", (Transient, About::Moment)),
            ("Neo.TransientError.Database.DatabaseUnavailable", (Transient, About::Moment)),
            ("Neo.TransientError.General.DatabaseUnavailable", (Transient, About::Moment)),
            ("Neo.TransientError.Cluster.ReplicationFailure", (Transient, About::Moment)),
            ("Neo.TransientError.Something.New", (Transient, About::Moment)),
            ("Neo.TransientError.General.MemoryPoolOutOfMemoryError", (Transient, About::Size)),
            ("Neo.TransientError.General.TransactionOutOfMemoryError", (Transient, About::Size)),
            ("Neo.ClientError.Transaction.TransactionTimedOut", (Transient, About::Size)),
            ("Neo.TransientError.Transaction.Terminated", (Permanent, About::Statement)),
            ("Neo.ClientError.Transaction.Terminated", (Permanent, About::Statement)),
            ("Neo.ClientError.Cluster.NotALeader", (Transient, About::Moment)),
            ("Neo.ClientError.General.ForbiddenOnReadOnlyDatabase", (Transient, About::Moment)),
            ("Neo.ClientError.Security.AuthorizationExpired", (Transient, About::Moment)),
            ("Neo.ClientError.Security.Unauthorized", (Permanent, About::Credentials)),
            ("Neo.ClientError.Security.AuthenticationRateLimit", (Transient, About::Attempts)),
            ("Neo.ClientError.Security.CredentialsExpired", (Permanent, About::Expired)),
            ("Neo.TransientError.Security.AuthProviderTimeout", (Transient, About::Moment)),
            ("Neo.ClientError.Security.TokenExpired", (Permanent, About::Credentials)),
            ("Neo.ClientError.Security.Forbidden", (Permanent, About::Rights)),
            ("Neo.ClientError.Database.DatabaseNotFound", (Permanent, About::Database)),
            ("Neo.ClientError.Schema.ConstraintCreationFailed", (Stop, About::Constraint)),
            ("Neo.ClientError.Schema.IndexAlreadyExists", (Stop, About::Constraint)),
            ("Neo.ClientError.Schema.IndexWithNameAlreadyExists", (Transient, About::Constraint)),
            ("Neo.ClientError.Schema.ConstraintValidationFailed", (Permanent, About::Statement)),
            ("Neo.ClientError.Statement.SyntaxError", (Permanent, About::Statement)),
            ("Neo.ClientError.Statement.AccessMode", (Permanent, About::Statement)),
            ("Neo.DatabaseError.General.UnknownError", (Permanent, About::Statement)),
            // Never by a part of the text.
            ("Neo.ClientError.Security.UnauthorizedElsewhere", (Permanent, About::Statement)),
            ("", (Permanent, About::Statement)),
        ] {
            assert_eq!(judge(code), expected, "{code}");
        }
    }

    #[test]
    fn what_the_driver_says_of_itself_has_a_class() {
        let io = |kind: io::ErrorKind| Error::IOError { detail: io::Error::new(kind, "why") };
        for (cause, class, part) in [
            (io(io::ErrorKind::ConnectionRefused), Class::Transient, "did not answer"),
            (io(io::ErrorKind::UnexpectedEof), Class::Transient, "bolt+s://"),
            (io(io::ErrorKind::InvalidData), Class::Permanent, "graph.ca_file"),
            (Error::ConnectionTimedOut, Class::Transient, "did not answer"),
            (Error::ConnectionError, Class::Transient, "did not answer"),
            (Error::AuthenticationError("no".to_owned()), Class::Permanent, "refused the login (no)"),
            (Error::ProtocolMismatch(1), Class::Permanent, "graph.url"),
            (Error::UnsupportedVersion(9, 9), Class::Permanent, "graph.url"),
            (Error::ConversionError, Class::Permanent, "refused"),
            (
                Error::RoutingTableError(("Neo.ClientError.Database.DatabaseNotFound".to_owned(), "no".to_owned())),
                Class::Permanent,
                "graph.database",
            ),
        ] {
            let (error, _) = failed("the server x", "BEGIN", cause);
            assert_eq!(error.class, class, "{error}");
            assert!(error.message.contains(part) && error.message.contains("the server x"), "{error}");
        }
    }

    #[test]
    fn a_refused_login_is_told_by_its_reason() {
        for (text, class, part, pause) in [
            ("The client is unauthorized due to authentication failure.", Class::Permanent, "does not let this user in", None),
            (
                "The client has provided incorrect authentication details too many times in a row.",
                Class::Transient,
                "wrong too often",
                Some(LOCKED),
            ),
            ("The credentials have expired and need to be updated.", Class::Permanent, "ALTER CURRENT USER", None),
            ("An auth provider request failed.", Class::Transient, "did not answer", None),
            // Never by a part of the text.
            ("The client is unauthorized", Class::Permanent, "refused the login", None),
        ] {
            let (error, _) = failed("the server x", "BEGIN", Error::AuthenticationError(text.to_owned()));
            assert_eq!((error.class, error.retry_after), (class, pause), "{error}");
            assert!(error.message.contains(part) && error.message.contains(text), "{error}");
        }
    }
}
