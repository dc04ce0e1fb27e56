//! Who writes to a server: a table of claims, on a server that has neither locks nor transactions.
//!
//! **How it is safe.** A run first *writes* a claim, then *reads* all claims that have not ended, and holds the place only if it sees no
//! other. Of two runs that want it at once, each has written before it reads, and a read sees what was stored before it: so at least one
//! sees the other, and that one withdraws. Both may; then each waits a moment of its own length and tries once more. A run that holds
//! the place does not give way to a claim that is not held.
//!
//! A claim ends when it was not renewed for as long as it lasts, by the *server's* clock alone: no client's clock is looked at. It is
//! renewed by one statement that copies the claim only while it has not ended, so a run that was paused cannot wake up and renew
//! what somebody else has meanwhile; it has to take the place anew, and is refused.
//!
//! **What remains.** A renewal that begins just before the claim ends and is stored just after another run has looked. Then two hold it;
//! the next time that either renews, it sees the other and stops. The same is true of a run that is paused in the middle of a write. What
//! such a run can still do is harmless: its rows carry the `_version` of its window and lose against newer ones, and those of the same
//! window are the same rows; and its checkpoint is stored by a statement that compares the revision at the server.

use std::time::Duration;

use serde::Deserialize;
use uuid::Uuid;

use super::NAME;
use super::client::{EngineError, Transport};
use super::encode::{literal, qualified};
use super::site::Site;
use crate::sinks::lease::now_ms;
use crate::sinks::{Lease, SinkError, Work};

/// The table of claims.
pub(super) const CLAIMS: &str = "_distributary_lease";
/// How long a run waits at most, and at least half as long, before it tries a second and last time.
const TIE_PAUSE_MS: u64 = 1000;

/// What a claim is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Somebody wants the place.
    Wanted = 0,
    /// Somebody has it.
    Held = 1,
    /// It was given back.
    Over = 2,
}

/// A claim that has not ended.
#[derive(Debug, Clone, Deserialize)]
struct Claim {
    token: String,
    holder: String,
    held: u8,
    lasts_ms: u64,
    /// How long ago the run began, and was last heard of.
    since_ms: u64,
    seen_ms: u64,
}

impl Claim {
    /// The same as others see it.
    fn lease(&self, work: Work) -> Lease {
        let now = now_ms();
        Lease {
            work,
            token: self.token.clone(),
            holder: self.holder.clone(),
            since_ms: now.saturating_sub(self.since_ms),
            renewed_ms: now.saturating_sub(self.seen_ms),
            lasts_ms: self.lasts_ms,
        }
    }
}

/// The statement that makes the table of claims. What is long over leaves it by itself.
pub(super) fn create_claims(site: &Site) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {} (work String, token String, holder String, since DateTime64(6, 'UTC'), \
         seen DateTime64(6, 'UTC'), lasts_ms UInt64, state UInt8) ENGINE = {} ORDER BY (work, token) \
         TTL toDateTime(seen) + INTERVAL 7 DAY{}",
        site.made(CLAIMS),
        site.engine(CLAIMS, &["seen"]),
        site.settings()
    )
}

/// One run's part in the table.
struct Claims<'a> {
    engine: &'a dyn Transport,
    site: &'a Site,
    lease: &'a Lease,
}

/// See [`crate::sinks::Sink::hold`]. `first` tells that the table may not be there yet.
pub(super) async fn hold(engine: &dyn Transport, site: &Site, lease: &Lease, first: bool) -> Result<(), SinkError> {
    let claims = Claims { engine, site, lease };
    claims.take(first).await
}

/// See [`crate::sinks::Sink::release`].
pub(super) async fn release(engine: &dyn Transport, site: &Site, lease: &Lease) -> Result<(), SinkError> {
    let claims = Claims { engine, site, lease };
    claims.withdraw().await
}

impl Claims<'_> {
    async fn take(&self, first: bool) -> Result<(), SinkError> {
        if first {
            self.run(create_claims(self.site)).await.map_err(failed)?;
        }
        self.move_to(State::Held, "state = 1").await.map_err(failed)?;
        let (own, others) = self.live().await?;
        if own.is_some_and(|own| own.held == 1) {
            return match others.iter().find(|other| other.held == 1) {
                Some(other) => self.refuse(other).await,
                None => Ok(()),
            };
        }
        match self.take_anew().await? {
            None => return Ok(()),
            Some(other) if other.held == 1 => return self.refuse(&other).await,
            Some(_) => self.withdraw().await?,
        }
        let (random, _) = Uuid::new_v4().as_u64_pair();
        tokio::time::sleep(Duration::from_millis(TIE_PAUSE_MS / 2 + random % (TIE_PAUSE_MS / 2))).await;
        match self.take_anew().await? {
            None => Ok(()),
            Some(other) => self.refuse(&other).await,
        }
    }

    /// Writes a claim, then reads; the claim in the way, if there is one.
    async fn take_anew(&self) -> Result<Option<Claim>, SinkError> {
        let lease = self.lease;
        let sql = format!(
            "INSERT INTO {} (work, token, holder, since, seen, lasts_ms, state) \
             SELECT {}, {}, {}, now64(6, 'UTC'), now64(6, 'UTC'), {}, {}",
            self.table(),
            literal(lease.work.name()),
            literal(&lease.token),
            literal(&lease.holder),
            lease.lasts_ms,
            State::Wanted as u8
        );
        self.run(sql).await.map_err(failed)?;
        let (_, others) = self.live().await?;
        // One that holds the place says more than one that wants it.
        if let Some(other) = others.iter().max_by_key(|other| other.held) {
            return Ok(Some(other.clone()));
        }
        self.move_to(State::Held, "state = 0").await.map_err(failed)?;
        let (own, others) = self.live().await?;
        let other = others.into_iter().find(|other| other.held == 1);
        match own {
            Some(own) if own.held == 1 => Ok(other),
            // It ended while it was taken: the server was slower than the lease is long.
            _ => Err(SinkError::transient(NAME, "the lease ended while it was being taken")),
        }
    }

    /// Renews the run's own claim in another state, if it has not ended and is `only` so.
    async fn move_to(&self, state: State, only: &str) -> Result<(), EngineError> {
        let sql = format!(
            "INSERT INTO {table} (work, token, holder, since, seen, lasts_ms, state) \
             SELECT work, token, holder, since, now64(6, 'UTC'), lasts_ms, {} FROM {table} FINAL WHERE {} AND {only} AND {LIVE}",
            state as u8,
            self.own(),
            table = self.table(),
        );
        self.run(sql).await
    }

    /// Gives the claim back, whatever it is. One that is not there is no error.
    async fn withdraw(&self) -> Result<(), SinkError> {
        match self.move_to(State::Over, "state != 2").await {
            Err(error) if error.absent() => Ok(()),
            other => other.map_err(failed),
        }
    }

    async fn refuse(&self, other: &Claim) -> Result<(), SinkError> {
        self.withdraw().await?;
        let place = format!("the database {}", self.site.database);
        Err(other.lease(self.lease.work).refusal(NAME, &place, now_ms()))
    }

    /// The run's own claim and those of others, as far as they have not ended.
    async fn live(&self) -> Result<(Option<Claim>, Vec<Claim>), SinkError> {
        let ago = |column: &str| format!("toUInt64(greatest(0, dateDiff('millisecond', {column}, now64(6, 'UTC'))))");
        let sql = format!(
            "SELECT token, holder, state AS held, lasts_ms, {} AS since_ms, {} AS seen_ms FROM {} FINAL \
             WHERE work = {} AND state != 2 AND {LIVE} ORDER BY since, token",
            ago("since"),
            ago("seen"),
            self.table(),
            literal(self.lease.work.name())
        );
        let bytes = self.engine.query(sql, "JSONEachRow").await.map_err(failed)?;
        let claims: Vec<Claim> = serde_json::Deserializer::from_slice(&bytes)
            .into_iter()
            .collect::<Result<_, _>>()
            .map_err(|error| SinkError::permanent(NAME, "the table of leases cannot be read").because(error))?;
        let (own, others): (Vec<Claim>, Vec<Claim>) = claims.into_iter().partition(|claim| claim.token == self.lease.token);
        Ok((own.into_iter().next(), others))
    }

    fn table(&self) -> String {
        qualified(&self.site.database, CLAIMS)
    }

    fn own(&self) -> String {
        format!("work = {} AND token = {}", literal(self.lease.work.name()), literal(&self.lease.token))
    }

    async fn run(&self, sql: String) -> Result<(), EngineError> {
        self.engine.query(sql, "Null").await.map(|_| ())
    }
}

/// The condition that a claim has not ended.
const LIVE: &str = "dateDiff('millisecond', seen, now64(6, 'UTC')) <= lasts_ms";

fn failed(error: EngineError) -> SinkError {
    error.during("asking who writes here")
}
