//! Net changes of a window: rows that came and went, from the change feed or from the files in which two snapshots differ, sorted by key, folded,
//! and checked against the table itself, which alone knows whether a key has one row.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int8Array, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::logical_expr::Expr;
use deltalake::delta_datafusion::DeltaCdfTableProvider;
use futures::{StreamExt, TryStreamExt, stream};

use super::duplicates;
use super::error::{ChangesError, reading, through};
use super::fold::{Fold, Folded, Net, RowRef};
use super::json;
use super::keys::{Counter, IDENTITY, KeySet, Touched, columns_of, group_columns, group_encoder, identified, identified_schema};
use super::out::Out;
use super::plan::{DataFile, Plan, Strategy};
use super::scan::{self, Scan};
use super::table::Table;
use super::{ChangeBatch, RecordCounts};
use crate::rows;

/// Commits whose actions are held in memory at once.
const COMMITS_AT_ONCE: i64 = 256;

/// Keys that are looked up again at once: as many as fit well into memory.
const LOOKED_UP_MAX: usize = 100_000;

/// Sends the net changes of the window.
pub(super) async fn send(table: &Table, plan: &Plan, out: &Out<ChangeBatch>) -> Result<(), ChangesError> {
    let Some(from) = plan.from.filter(|from| *from < plan.to) else { return Ok(()) };
    let rows = match plan.strategy {
        Strategy::Feed => feed(table, from, plan.to),
        _ => difference(table, from, plan.to).await?,
    };
    let failed = |error| reading(table.name(), plan.to, error);
    let touched = Touched::new();
    let events = watched(table, rows, &touched).map_err(failed)?;
    let schema = events.schema();
    let groups = group_columns(table.key());
    let mut events = scan::sort(table, events, &groups).await.map_err(failed)?;
    let mut fold = Fold::new(&schema, &groups).map_err(|error| failed(error.into()))?;
    let mut window = Window {
        table,
        to: plan.to,
        touched,
        counter: None,
        odd: KeySet::new(table).map_err(|error| failed(error.into()))?,
        left: Vec::new(),
    };
    while let Some(batch) = events.try_next().await.map_err(failed)? {
        fold.push(&batch).map_err(|error| failed(error.into()))?;
        if fold.is_full(table.options.batch_rows) {
            let folded = fold.take().map_err(|error| failed(error.into()))?;
            window.settle(&folded, out).await?;
        }
    }
    fold.finish();
    let folded = fold.take().map_err(|error| failed(error.into()))?;
    window.settle(&folded, out).await?;
    window.finish(out).await
}

/// Rows of the change feed with their signs.
fn feed(table: &Table, from: i64, to: i64) -> SendableRecordBatchStream {
    let schema = scan::signed_schema(&table.schema);
    let table = table.clone();
    let mut parts = Vec::new();
    let mut begin = from + 1;
    while begin <= to {
        let end = to.min(begin + COMMITS_AT_ONCE - 1);
        parts.push((begin, end));
        begin = end + 1;
    }
    let rows = stream::iter(parts).then(move |(begin, end)| {
        let table = table.clone();
        async move { feed_part(&table, begin, end).await.map_err(through) }
    });
    scan::boxed(schema, rows.try_flatten())
}

async fn feed_part(table: &Table, begin: i64, end: i64) -> Result<SendableRecordBatchStream, ChangesError> {
    let failed = |error| reading(table.name(), end, error);
    let version = |number: i64| u64::try_from(number).unwrap_or(0);
    let builder = table.delta.as_ref().clone().scan_cdf().with_starting_version(version(begin)).with_ending_version(version(end));
    let provider = DeltaCdfTableProvider::try_new(builder).map_err(|error| failed(error.into()))?;
    let context = scan::session(table);
    let frame = context.read_table(Arc::new(provider)).map_err(failed)?;
    let columns: Vec<Expr> = table.schema.fields().iter().map(|field| scan::column(field.name())).collect();
    let wanted = columns.into_iter().chain([scan::column("_change_type")]);
    let plan = frame.select(wanted.collect::<Vec<_>>()).map_err(failed)?.create_physical_plan().await.map_err(failed)?;
    let schema = table.schema();
    let signed = scan::signed_schema(&schema);
    let rows = scan::run(plan, &context.task_ctx()).map(move |batch| {
        let batch = batch?;
        let signs = signs(&batch)?;
        let mut columns = rows::cast_batch(&batch, &schema)?.columns().to_vec();
        columns.push(signs);
        Ok(RecordBatch::try_new(scan::signed_schema(&schema), columns)?)
    });
    Ok(scan::boxed(signed, rows))
}

fn signs(batch: &RecordBatch) -> DataFusionResult<ArrayRef> {
    let kinds = batch
        .column_by_name("_change_type")
        .ok_or_else(|| DataFusionError::Execution("the change feed has no _change_type".to_owned()))?;
    let kinds = cast(kinds, &DataType::Utf8)?;
    let signs = kinds.as_string::<i32>().iter().map(|kind| match kind {
        Some("insert" | "update_postimage") => Ok(1),
        Some("delete" | "update_preimage") => Ok(-1),
        other => Err(DataFusionError::Execution(format!("the change feed has a row of the unknown kind {other:?}"))),
    });
    Ok(Arc::new(signs.collect::<DataFusionResult<Int8Array>>()?))
}

/// Rows of the files that only one of two versions has.
async fn difference(table: &Table, from: i64, to: i64) -> Result<SendableRecordBatchStream, ChangesError> {
    let schema = scan::signed_schema(&table.schema);
    let (gone, new) = table.differing(from, to).await?;
    let owned = table.clone();
    let rows = stream::iter([(from, gone, -1), (to, new, 1)]).then(move |(version, files, sign)| {
        let table = owned.clone();
        async move { only_files(&table, version, &files, sign).await.map_err(through) }
    });
    Ok(scan::boxed(schema, rows.try_flatten()))
}

async fn only_files(
    table: &Table,
    version: i64,
    files: &[DataFile],
    sign: i8,
) -> Result<SendableRecordBatchStream, ChangesError> {
    if files.is_empty() {
        return Ok(scan::boxed(scan::signed_schema(&table.schema), stream::empty()));
    }
    let paths: Vec<String> = files.iter().map(|file| file.path.clone()).collect();
    let rows = table.scan(version, Scan { files: Some(&paths), ..Scan::default() }).await?;
    Ok(scan::with_sign(rows, sign))
}

/// The rows with the identities of those without a key, while the keys of the others are remembered.
fn watched(table: &Table, rows: SendableRecordBatchStream, touched: &Touched) -> DataFusionResult<SendableRecordBatchStream> {
    let schema = identified_schema(&rows.schema());
    let encoder = group_encoder(table)?;
    let (key, touched, content) = (table.key().to_vec(), touched.clone(), table.schema());
    let groups = group_columns(&key);
    let watched = rows.map(move |batch| {
        let batch = batch?;
        let identities = json::keyless(&rows::cast_batch(&batch, &content)?, &key)?;
        let batch = identified(&batch, identities)?;
        touched.add(&encoder.encode(&columns_of(&batch, &groups)?)?);
        Ok(batch)
    });
    Ok(scan::boxed(schema, watched))
}

struct Window<'a> {
    table: &'a Table,
    to: i64,
    touched: Touched,
    /// Made when the first key is asked for: then all keys are known.
    counter: Option<Counter>,
    /// Keys whose rows must be read from the table.
    odd: KeySet,
    /// Hashes of records without a key of which some went.
    left: Vec<String>,
}

/// What goes into one batch.
#[derive(Default)]
struct Sorted {
    before: Vec<RowRef>,
    after: Vec<RowRef>,
    keyless: Vec<RowRef>,
    hashes: Vec<String>,
    odd: Vec<RowRef>,
    counts: RecordCounts,
}

impl Window<'_> {
    fn failed(&self, error: impl Into<DataFusionError>) -> ChangesError {
        reading(self.table.name(), self.to, error.into())
    }

    async fn settle(&mut self, folded: &Folded, out: &Out<ChangeBatch>) -> Result<(), ChangesError> {
        for nets in folded.nets.chunks(self.table.options.batch_rows) {
            let sorted = self.sort_out(folded, nets).await?;
            if !sorted.odd.is_empty() {
                let rows = folded.take(&sorted.odd, &self.table.key_schema()).map_err(|error| self.failed(error))?;
                self.odd.add(&rows).map_err(|error| self.failed(error))?;
            }
            if let Some(batch) = self.batch(folded, sorted)? {
                out.send(batch).await;
            }
            if self.odd.len() >= LOOKED_UP_MAX {
                self.look_up(out).await?;
            }
        }
        Ok(())
    }

    /// What each key's net means, given how many rows of it the table holds.
    async fn sort_out(&mut self, folded: &Folded, nets: &[Net]) -> Result<Sorted, ChangesError> {
        let mut sorted = Sorted::default();
        for net in nets {
            if let Some(hash) = identity(folded, net.key) {
                if !net.came.is_empty() {
                    sorted.keyless.push(net.key);
                    sorted.hashes.push(hash.to_owned());
                    sorted.counts.quarantined += 1;
                } else if !net.gone.is_empty() {
                    self.left.push(hash.to_owned());
                    sorted.counts.deleted += 1;
                }
                continue;
            }
            if net.is_nothing() {
                sorted.counts.unchanged += 1;
                continue;
            }
            let rows_now = self.count(folded.key(net.key)).await?;
            if !net.is_plain() || rows_now != net.came.len() as u64 {
                sorted.odd.push(net.key);
                continue;
            }
            sorted.before.extend(net.gone.iter().map(|(row, _)| *row));
            sorted.after.extend(net.came.iter().map(|(row, _)| *row));
            match (net.gone.is_empty(), net.came.is_empty()) {
                (true, _) => sorted.counts.inserted += 1,
                (false, true) => sorted.counts.deleted += 1,
                (false, false) => sorted.counts.updated += 1,
            }
        }
        Ok(sorted)
    }

    async fn count(&mut self, key: &[u8]) -> Result<u64, ChangesError> {
        if self.counter.is_none() {
            self.counter = Some(Counter::new(self.table, self.to, &self.touched).await?);
        }
        let (name, to) = (self.table.name(), self.to);
        match &mut self.counter {
            Some(counter) => counter.count(key).await.map_err(|error| reading(name, to, error)),
            None => Ok(0),
        }
    }

    fn batch(&self, folded: &Folded, sorted: Sorted) -> Result<Option<ChangeBatch>, ChangesError> {
        if sorted.counts == RecordCounts::default() {
            return Ok(None);
        }
        let take = |rows: &[RowRef], schema: &SchemaRef| folded.take(rows, schema).map_err(|error| self.failed(error));
        let keyless = take(&sorted.keyless, &self.table.schema)?;
        let bad = json::null_keys(&keyless, self.table.key(), &sorted.hashes).map_err(|error| self.failed(error))?;
        Ok(Some(ChangeBatch {
            before: take(&sorted.before, &self.table.schema)?,
            after: take(&sorted.after, &self.table.schema)?,
            bad,
            counts: sorted.counts,
            ..ChangeBatch::nothing(self.table)
        }))
    }

    /// Reads the rows of the odd keys from the table, sends what they are now, and forgets the keys.
    async fn look_up(&mut self, out: &Out<ChangeBatch>) -> Result<(), ChangesError> {
        if self.odd.is_empty() {
            return Ok(());
        }
        let fresh = KeySet::new(self.table).map_err(|error| self.failed(error))?;
        let odd = Arc::new(std::mem::replace(&mut self.odd, fresh));
        let found = duplicates::send(self.table, self.to, odd.clone(), true, out).await?;
        let gone = odd.without(&found).map_err(|error| self.failed(error))?;
        for start in (0..gone.num_rows()).step_by(self.table.options.batch_rows) {
            let keys = gone.slice(start, self.table.options.batch_rows.min(gone.num_rows() - start));
            let counts = RecordCounts { deleted: keys.num_rows() as u64, ..RecordCounts::default() };
            out.send(ChangeBatch { replaced: keys, counts, ..ChangeBatch::nothing(self.table) }).await;
        }
        Ok(())
    }

    async fn finish(mut self, out: &Out<ChangeBatch>) -> Result<(), ChangesError> {
        self.look_up(out).await?;
        if self.left.is_empty() {
            return Ok(());
        }
        // Of two equal records without a key one may have gone and one stayed.
        let still = duplicates::keyless(self.table, self.to).await?;
        let mended: Vec<String> = std::mem::take(&mut self.left).into_iter().filter(|hash| !still.contains(hash)).collect();
        for hashes in mended.chunks(self.table.options.batch_rows) {
            out.send(ChangeBatch { mended: hashes.to_vec(), ..ChangeBatch::nothing(self.table) }).await;
        }
        Ok(())
    }
}

/// The identity of a row without a key.
fn identity(folded: &Folded, (batch, row): RowRef) -> Option<&str> {
    let identities = folded.batches[batch].column_by_name(IDENTITY)?.as_any().downcast_ref::<StringArray>()?;
    identities.is_valid(row).then(|| identities.value(row))
}
