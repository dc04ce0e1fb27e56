//! What a run did, counted. Plain data that serialises to the JSON of `--json`; how it is shown to people is made in
//! [`crate::cli`].

use serde::Serialize;
use serde_json::{Map, Value};

use crate::changes::RecordCounts;
use crate::mapping::target::SinkKind;

/// What one run did.
#[derive(Debug, Clone, Default, Serialize)]
pub struct SyncReport {
    /// One entry for each way on which changes of a table were read: usually one a table.
    pub tables: Vec<TableReport>,
    /// Tables of the mapping that are not in the lake and were skipped.
    pub missing_tables: Vec<String>,
    /// Lanes in the sinks that the mapping no longer has. They are left as they are.
    pub left_alone: Vec<String>,
    /// What a person should know of generations of vectors: which are kept besides those in service.
    pub notes: Vec<String>,
    /// Calls to engines that were made again after one that failed for a passing reason, those of opening and closing included. What
    /// they sent may have arrived the first time; it is counted once in the targets.
    pub retries: u64,
    /// Whether the run was told to stop before it was done.
    pub interrupted: bool,
    /// Wall-clock time in milliseconds.
    pub elapsed_ms: u64,
}

/// What was read of one table on one way, and what was made of it.
#[derive(Debug, Clone, Serialize)]
pub struct TableReport {
    /// The Silver table.
    pub table: String,
    /// `feed`, `diff` or `snapshot`.
    pub strategy: &'static str,
    /// Why this way.
    pub reason: String,
    /// The version that the lanes were at; none before the first sync.
    pub from: Option<i64>,
    /// The version that they were brought to.
    pub to: i64,
    /// What happened to the records.
    pub records: RecordCounts,
    /// One entry a target.
    pub targets: Vec<TargetReport>,
}

/// What was done to one target. `upserts + payload_updates + deletes + unchanged + quarantined = given`.
#[derive(Debug, Clone, Serialize)]
pub struct TargetReport {
    /// The sink.
    pub sink: SinkKind,
    /// The target.
    pub target: String,
    /// Rows that the records made, before or after.
    pub given: u64,
    /// Rows written.
    pub upserts: u64,
    /// Rows deleted.
    pub deletes: u64,
    /// Rows that needed nothing.
    pub unchanged: u64,
    /// Points whose vector was kept while their payload was replaced.
    pub payload_updates: u64,
    /// Rows whose text was embedded.
    pub texts_embedded: u64,
    /// Rows written with vectors that were there already.
    pub texts_reused: u64,
    /// Rows kept out, with their record.
    pub quarantined: u64,
    /// Whether the lane got where it should.
    pub ok: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Whether a person has to decide before it can.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub stopped: bool,
}

impl TargetReport {
    /// An entry without counts.
    #[must_use]
    pub fn new(sink: SinkKind, target: &str) -> Self {
        Self {
            sink,
            target: target.to_owned(),
            given: 0,
            upserts: 0,
            deletes: 0,
            unchanged: 0,
            payload_updates: 0,
            texts_embedded: 0,
            texts_reused: 0,
            quarantined: 0,
            ok: true,
            error: None,
            stopped: false,
        }
    }

    /// Adds the counts of another batch.
    pub fn add(&mut self, counts: &Counts) {
        self.given += counts.given;
        self.upserts += counts.upserts;
        self.deletes += counts.deletes;
        self.unchanged += counts.unchanged;
        self.payload_updates += counts.payload_updates;
        self.texts_embedded += counts.texts_embedded;
        self.texts_reused += counts.texts_reused;
        self.quarantined += counts.quarantined;
    }

    /// Everything that was sent.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.upserts + self.deletes + self.payload_updates
    }
}

/// What one batch did to one target: see [`TargetReport`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of TargetReport")]
pub struct Counts {
    pub given: u64,
    pub upserts: u64,
    pub deletes: u64,
    pub unchanged: u64,
    pub payload_updates: u64,
    pub texts_embedded: u64,
    pub texts_reused: u64,
    pub quarantined: u64,
}

impl Counts {
    /// Whether everything given is accounted for.
    #[must_use]
    pub fn balanced(&self) -> bool {
        self.upserts + self.payload_updates + self.deletes + self.unchanged + self.quarantined == self.given
    }
}

impl SyncReport {
    /// Every target's entry, with its table.
    pub fn targets(&self) -> impl Iterator<Item = (&TableReport, &TargetReport)> {
        self.tables.iter().flat_map(|table| table.targets.iter().map(move |target| (table, target)))
    }

    /// Whether every lane is where it should be.
    #[must_use]
    pub fn ok(&self) -> bool {
        !self.interrupted && self.targets().all(|(_, target)| target.ok)
    }

    /// Whether some lane waits for a decision.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.targets().any(|(_, target)| target.stopped)
    }

    /// Everything that was sent to any sink.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.targets().map(|(_, target)| target.operations()).sum()
    }
}

/// How a rebuild of a collection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ReembedState {
    /// The generation was in service already.
    Serving,
    /// It was put in service.
    Swapped,
    /// The comparison of answers was not passed: it is complete, and not in service.
    Refused,
    /// It was told to stop.
    Interrupted,
    /// A part failed.
    Failed,
    /// A person has to decide.
    Stopped,
    /// A generation was deleted.
    Dropped,
}

/// What a rebuild of a collection did.
#[derive(Debug, Clone, Serialize)]
pub struct ReembedReport {
    /// The collection.
    pub collection: String,
    /// The model in service when it began.
    pub from: String,
    /// The model that was worked with.
    pub to: String,
    /// How it ended.
    pub state: ReembedState,
    /// Texts that went through the model; a long one is several.
    pub texts_embedded: u64,
    /// Their tokens.
    pub tokens: u64,
    /// What was read, as in a [`SyncReport`].
    pub tables: Vec<TableReport>,
    /// The comparison of answers, when one was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gate: Option<GateReport>,
    /// Wall-clock time in milliseconds.
    pub elapsed_ms: u64,
}

impl ReembedReport {
    /// A report of nothing yet.
    #[must_use]
    pub fn new(collection: &str, from: &str, to: &str, state: ReembedState) -> Self {
        let (collection, from, to) = (collection.to_owned(), from.to_owned(), to.to_owned());
        Self { collection, from, to, state, texts_embedded: 0, tokens: 0, tables: Vec::new(), gate: None, elapsed_ms: 0 }
    }

    /// Every target's entry, with its table.
    pub fn targets(&self) -> impl Iterator<Item = (&TableReport, &TargetReport)> {
        self.tables.iter().flat_map(|table| table.targets.iter().map(move |target| (table, target)))
    }
}

/// How the answers of two generations compare.
#[derive(Debug, Clone, Serialize)]
pub struct GateReport {
    /// How many questions were asked.
    pub queries: usize,
    /// The share of the ten nearest records that both have, in the mean.
    pub overlap: f64,
    /// The least that passes.
    pub min_overlap: f64,
    /// Whether it passed.
    pub passed: bool,
    /// The questions whose answers differ most.
    pub examples: Vec<Compared>,
}

/// One question's answers compared.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Compared {
    /// The question.
    pub query: String,
    /// The share of the ten nearest records that both have.
    pub overlap: f64,
    /// Answers of the generation in service that the new one does not give.
    pub only_before: Vec<Map<String, Value>>,
    /// Answers of the new generation that the one in service does not give.
    pub only_after: Vec<Map<String, Value>>,
}

/// What a rebuild of a collection would do.
#[derive(Debug, Clone, Serialize)]
pub struct Foresight {
    /// The collection.
    pub collection: String,
    /// The model in service.
    pub from: String,
    /// The model that it would be made with.
    pub to: String,
    /// Texts that would go through the model; a long one is several.
    pub texts: u64,
    /// Their tokens.
    pub tokens: u64,
    /// Rows whose vectors are there already.
    pub reused: u64,
    /// Texts that this machine embeds in a second, measured on a sample of them.
    pub texts_per_second: f64,
    /// The same in tokens.
    pub tokens_per_second: f64,
    /// How long embedding would take at that speed.
    pub seconds: f64,
    /// About what the new generation would take on disk; none where the engine does not say what the one in service takes.
    pub bytes: Option<u64>,
    /// What would be read, as in a [`SyncReport`].
    pub tables: Vec<TableReport>,
}

impl Foresight {
    /// Nothing to do.
    #[must_use]
    pub fn new(collection: &str, from: &str, to: &str) -> Self {
        let (collection, from, to) = (collection.to_owned(), from.to_owned(), to.to_owned());
        let (texts_per_second, tokens_per_second, seconds) = (0.0, 0.0, 0.0);
        Self {
            collection,
            from,
            to,
            texts: 0,
            tokens: 0,
            reused: 0,
            texts_per_second,
            tokens_per_second,
            seconds,
            bytes: None,
            tables: Vec::new(),
        }
    }
}

/// What a comparison of the sinks with Silver found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct VerifyReport {
    /// One entry a target.
    pub targets: Vec<VerifiedTarget>,
    /// Wall-clock time in milliseconds.
    pub elapsed_ms: u64,
}

/// What a comparison of one target with Silver found.
#[derive(Debug, Clone, Serialize)]
pub struct VerifiedTarget {
    /// The Silver table.
    pub table: String,
    /// The sink.
    pub sink: SinkKind,
    /// The target.
    pub target: String,
    /// The version at which it was compared; none when it was never synced.
    pub version: Option<i64>,
    /// Rows that are as they should be.
    pub equal: u64,
    /// Rows that the sink lacks.
    pub missing: u64,
    /// Rows that it should not have.
    pub extra: u64,
    /// Rows that are there with other contents.
    pub different: u64,
    /// Records left out of the comparison because they are in quarantine.
    pub quarantined: u64,
    /// A few of the differences, in words.
    pub examples: Vec<String>,
    /// Why it could not be compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl VerifiedTarget {
    /// Whether the sink holds exactly what it should.
    #[must_use]
    pub fn ok(&self) -> bool {
        self.error.is_none() && self.missing + self.extra + self.different == 0
    }
}

/// How far the lanes have come.
#[derive(Debug, Clone, Default, Serialize)]
pub struct StatusReport {
    /// One entry a lane.
    pub lanes: Vec<LaneStatus>,
}

/// How far one lane has come.
#[derive(Debug, Clone, Serialize)]
pub struct LaneStatus {
    /// The Silver table.
    pub table: String,
    /// The sink.
    pub sink: SinkKind,
    /// The target.
    pub target: String,
    /// Whether the sink could be asked; where it could not, nothing of what it holds is known.
    pub reached: bool,
    /// The version that the sink holds; none before the first sync is done.
    pub version: Option<i64>,
    /// The version that the table is at; none when the table cannot be read.
    pub latest: Option<i64>,
    /// Commits between the two.
    pub lag: Option<i64>,
    /// What was begun and is not done: the version that it leads to.
    pub pending: Option<i64>,
    /// Records in quarantine.
    pub quarantined: u64,
    /// When the checkpoint moved last, RFC 3339.
    pub updated_at: Option<String>,
    /// What stands in the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}
