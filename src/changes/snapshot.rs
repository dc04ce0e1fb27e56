//! One version whole: file by file in the order of their paths, so that it can go on in the middle, each key once. And the sweep: which keys that
//! somebody holds are not in it.

use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::{BatchCoalescer, filter_record_batch, not};
use arrow::error::ArrowError;
use datafusion::common::JoinType;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::Expr;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};

use super::error::{ChangesError, reading};
use super::keys::KeySet;
use super::out::{Out, produce};
use super::plan::{Plan, Strategy};
use super::scan::{self, Scan};
use super::table::Table;
use super::{ChangeBatch, RecordCounts, duplicates, json, window};
use crate::rows;

/// Small files are read together until they have so many bytes: a lake of tiny files must not become a stream of tiny batches, and a crash
/// should not cost more than some seconds of work.
const GROUP_BYTES: u64 = 32 << 20;

/// And at most so many of them, since each is opened.
const GROUP_FILES_MAX: usize = 512;

/// A failure of somebody who gives keys.
pub type KeysError = Box<dyn std::error::Error + Send + Sync>;

impl Table {
    /// Reads what the plan says. `files_done` files of a snapshot are left out: those that were delivered before.
    ///
    /// # Errors
    /// In the stream: when the storage fails, or memory is too short to sort even with spilling.
    #[must_use]
    pub fn read(&self, plan: &Plan, files_done: u64) -> BoxStream<'static, Result<ChangeBatch, ChangesError>> {
        let (table, plan) = (self.clone(), plan.clone());
        produce(move |out| async move {
            match plan.strategy {
                Strategy::Snapshot => send(&table, plan.to, files_done, &out).await,
                Strategy::Feed | Strategy::Diff => window::send(&table, &plan, &out).await,
            }
        })
    }

    /// The records of a version: [`ChangeBatch::after`] and the bad ones.
    ///
    /// # Errors
    /// In the stream: when the version cannot be read any more.
    #[must_use]
    pub fn at(&self, version: i64) -> BoxStream<'static, Result<ChangeBatch, ChangesError>> {
        let table = self.clone();
        produce(move |out| async move { send(&table, version, 0, &out).await })
    }

    /// Those of the keys that no record of a version has: what the sweep deletes. `keys` has the columns [`Table::key`]; a key that is given
    /// twice may be answered twice.
    ///
    /// # Errors
    /// In the stream: when the keys fail (the error is the source of a [`ChangesError::Read`]) or the version cannot be read.
    #[must_use]
    pub fn absent(
        &self,
        version: i64,
        keys: BoxStream<'static, Result<RecordBatch, KeysError>>,
    ) -> BoxStream<'static, Result<RecordBatch, ChangesError>> {
        let table = self.clone();
        produce(move |out| async move { send_absent(&table, version, keys, &out).await })
    }
}

async fn send(table: &Table, version: i64, files_done: u64, out: &Out<ChangeBatch>) -> Result<(), ChangesError> {
    let doubled = Arc::new(duplicates::find(table, version).await?);
    if files_done == 0 && !doubled.is_empty() {
        duplicates::send(table, version, doubled.clone(), false, out).await?;
    }
    let files: Vec<(String, u64)> = table.files(version).await?.into_iter().map(|(file, size)| (file.path, size)).collect();
    let mut done = usize::try_from(files_done).unwrap_or(usize::MAX).min(files.len());
    while done < files.len() {
        let group = group(&files[done..]);
        send_group(table, version, &files[done..done + group], done as u64, &doubled, out).await?;
        done += group;
    }
    Ok(())
}

/// How many of these files are read together.
fn group(files: &[(String, u64)]) -> usize {
    let (mut count, mut bytes) = (0, 0);
    for (_, size) in files.iter().take(GROUP_FILES_MAX) {
        bytes += size;
        if count > 0 && bytes > GROUP_BYTES {
            break;
        }
        count += 1;
    }
    count
}

async fn send_group(
    table: &Table,
    version: i64,
    files: &[(String, u64)],
    done: u64,
    doubled: &KeySet,
    out: &Out<ChangeBatch>,
) -> Result<(), ChangesError> {
    let failed = |error: DataFusionError| reading(table.name(), version, error);
    let broken = |error: ArrowError| failed(error.into());
    let paths: Vec<String> = files.iter().map(|(path, _)| path.clone()).collect();
    let mut rows = table.scan(version, Scan { files: Some(&paths), ..Scan::default() }).await?;
    let mut whole = BatchCoalescer::new(table.schema(), table.options.batch_rows);
    // The last batch says that the files are done, so one is always held back.
    let mut held: Option<ChangeBatch> = None;
    while let Some(batch) = rows.try_next().await.map_err(failed)? {
        whole.push_batch(batch).map_err(broken)?;
        while let Some(batch) = whole.next_completed_batch() {
            let next = delivered(table, &batch, doubled, done).map_err(broken)?;
            if let Some(before) = held.replace(next) {
                out.send(before).await;
            }
        }
    }
    whole.finish_buffered_batch().map_err(broken)?;
    while let Some(batch) = whole.next_completed_batch() {
        let next = delivered(table, &batch, doubled, done).map_err(broken)?;
        if let Some(before) = held.replace(next) {
            out.send(before).await;
        }
    }
    let last = held.unwrap_or_else(|| ChangeBatch::nothing(table));
    out.send(ChangeBatch { files_done: done + files.len() as u64, ..last }).await;
    Ok(())
}

/// The records of these rows, without those that were dealt with before.
fn delivered(table: &Table, rows: &RecordBatch, doubled: &KeySet, files_done: u64) -> Result<ChangeBatch, ArrowError> {
    let mut result = ChangeBatch { files_done, ..ChangeBatch::nothing(table) };
    let mut rows = rows.clone();
    if let Some(identities) = json::keyless(&rows, table.key())? {
        let keyless = BooleanArray::from_iter(identities.iter().map(|identity| Some(identity.is_some())));
        let hashes: Vec<String> = identities.iter().flatten().map(str::to_owned).collect();
        result.bad = json::null_keys(&filter_record_batch(&rows, &keyless)?, table.key(), &hashes)?;
        rows = filter_record_batch(&rows, &not(&keyless)?)?;
    }
    if !doubled.is_empty() {
        rows = filter_record_batch(&rows, &not(&doubled.mask(&rows)?)?)?;
    }
    result.counts =
        RecordCounts { inserted: rows.num_rows() as u64, quarantined: result.bad.len() as u64, ..RecordCounts::default() };
    result.after = rows;
    Ok(result)
}

async fn send_absent(
    table: &Table,
    version: i64,
    keys: BoxStream<'static, Result<RecordBatch, KeysError>>,
    out: &Out<RecordBatch>,
) -> Result<(), ChangesError> {
    let failed = |error: DataFusionError| reading(table.name(), version, error);
    let schema = table.key_schema();
    let target = schema.clone();
    let held = keys.map(move |batch| {
        let batch = batch.map_err(DataFusionError::External)?;
        Ok(rows::cast_batch(&batch, &target)?)
    });
    let context = scan::session(table);
    let held = context.read_table(Arc::new(scan::once(scan::boxed(schema.clone(), held)).map_err(failed)?)).map_err(failed)?;
    let there = table.scan(version, Scan { keys_only: true, ..Scan::default() }).await?;
    let names: Vec<String> = (0..table.key().len()).map(|number| format!("__distributary_key_{number}")).collect();
    let renamed: Vec<Expr> = table.key().iter().zip(&names).map(|(key, name)| scan::column(key).alias(name)).collect();
    let there = context
        .read_table(Arc::new(scan::once(there).map_err(failed)?))
        .and_then(|frame| frame.select(renamed))
        .map_err(failed)?;
    let on = table.key().iter().zip(&names).map(|(key, name)| scan::column(key).eq(scan::column(name)));
    let joined = held.join_on(there, JoinType::LeftAnti, on).map_err(failed)?;
    let mut absent = joined.execute_stream().await.map_err(failed)?;
    while let Some(batch) = absent.try_next().await.map_err(failed)? {
        if batch.num_rows() > 0 {
            out.send(rows::cast_batch(&batch, &schema).map_err(|error| failed(error.into()))?).await;
        }
    }
    Ok(())
}
