//! Keys of which the table holds more than one row: found by the key columns alone, then looked at in full. Rows that are all equal are one
//! record; different ones are none that could be delivered.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::compute::filter_record_batch;
use arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use datafusion::functions_aggregate::expr_fn::count;
use datafusion::logical_expr::{Expr, lit};
use futures::{StreamExt, TryStreamExt};

use super::ChangeBatch;
use super::error::{ChangesError, reading};
use super::fold::{Fold, Folded};
use super::json;
use super::keys::KeySet;
use super::out::Out;
use super::scan::{self, Scan};
use super::table::Table;

/// The keys of which a version holds more than one row. Groups by key, which spills when memory is short.
pub(super) async fn find(table: &Table, version: i64) -> Result<KeySet, ChangesError> {
    const ROWS: &str = "__distributary_rows";
    let failed = |error: DataFusionError| reading(table.name(), version, error);
    let schema = table.key_schema();
    let whole = table.key().iter().map(|name| scan::column(name).is_not_null()).reduce(Expr::and);
    let frame = table.frame(version, &schema, Scan { filter: whole, keys_only: true, ..Scan::default() }).await?;
    let keys: Vec<Expr> = table.key().iter().map(|name| scan::column(name)).collect();
    let counted = frame.aggregate(keys.clone(), vec![count(lit(1_i64)).alias(ROWS)]).map_err(failed)?;
    let twice = counted.filter(scan::column(ROWS).gt(lit(1_i64))).and_then(|frame| frame.select(keys)).map_err(failed)?;
    let mut twice = scan::canonical(twice.execute_stream().await.map_err(failed)?, schema);
    let mut found = KeySet::new(table).map_err(|error| failed(error.into()))?;
    while let Some(batch) = twice.try_next().await.map_err(failed)? {
        found.add(&batch).map_err(|error| failed(error.into()))?;
    }
    Ok(found)
}

/// Reads the rows of these keys at a version and sends each key's record, or the bad one it is. In a window (`replace`) the
/// state before is not known, so the keys of records that can be delivered go along as replaced. Answers the keys that were found.
pub(super) async fn send(
    table: &Table,
    version: i64,
    keys: Arc<KeySet>,
    replace: bool,
    out: &Out<ChangeBatch>,
) -> Result<KeySet, ChangesError> {
    let failed = |error: DataFusionError| reading(table.name(), version, error);
    let mut found = KeySet::new(table).map_err(|error| failed(error.into()))?;
    let filter = keys.predicate().map_err(|error| failed(error.into()))?;
    let rows = table.scan(version, Scan { filter, ..Scan::default() }).await?;
    let schema = rows.schema();
    let matching = rows.map(move |batch| {
        let batch = batch?;
        Ok(filter_record_batch(&batch, &keys.mask(&batch)?)?)
    });
    let matching = scan::with_sign(scan::boxed(schema, matching), 1);
    let mut fold = Fold::new(&matching.schema(), table.key()).map_err(|error| failed(error.into()))?;
    let mut sorted = scan::sort(table, matching, table.key()).await.map_err(failed)?;
    while let Some(batch) = sorted.try_next().await.map_err(failed)? {
        fold.push(&batch).map_err(|error| failed(error.into()))?;
        if fold.is_full(table.options.batch_rows) {
            send_judged(table, version, &mut fold, replace, &mut found, out).await?;
        }
    }
    fold.finish();
    send_judged(table, version, &mut fold, replace, &mut found, out).await?;
    Ok(found)
}

async fn send_judged(
    table: &Table,
    version: i64,
    fold: &mut Fold,
    replace: bool,
    found: &mut KeySet,
    out: &Out<ChangeBatch>,
) -> Result<(), ChangesError> {
    let failed = |error: ArrowError| reading(table.name(), version, error.into());
    let folded = fold.take().map_err(failed)?;
    if folded.nets.is_empty() {
        return Ok(());
    }
    let batch = judged(table, &folded, replace, found).map_err(failed)?;
    out.send(batch).await;
    Ok(())
}

/// One record for each key whose rows are equal, a bad one for each whose rows differ.
fn judged(table: &Table, folded: &Folded, replace: bool, found: &mut KeySet) -> Result<ChangeBatch, ArrowError> {
    let (mut good, mut all, mut bad) = (Vec::new(), Vec::new(), Vec::new());
    for net in &folded.nets {
        all.push(net.key);
        if let [(row, _)] = net.came.as_slice() {
            good.push(*row);
            continue;
        }
        let rows: Vec<_> = net.came.iter().map(|(row, _)| *row).collect();
        bad.push(json::duplicate(&folded.take(&rows, &table.schema)?, table.key(), table.name())?);
    }
    found.add(&folded.take(&all, &table.key_schema())?)?;
    let after = folded.take(&good, &table.schema)?;
    let (delivered, quarantined) = (good.len() as u64, bad.len() as u64);
    let mut batch = ChangeBatch { bad, ..ChangeBatch::nothing(table) };
    batch.counts.quarantined = quarantined;
    if replace {
        batch.replaced = json::project(&after, table.key())?;
        batch.counts.updated = delivered;
    } else {
        batch.counts.inserted = delivered;
    }
    batch.after = after;
    Ok(batch)
}

/// The hashes of the records without a key that a version holds.
pub(super) async fn keyless(table: &Table, version: i64) -> Result<HashSet<String>, ChangesError> {
    let failed = |error: DataFusionError| reading(table.name(), version, error);
    let filter = table.key().iter().map(|name| scan::column(name).is_null()).reduce(Expr::or);
    let mut rows = table.scan(version, Scan { filter, ..Scan::default() }).await?;
    let mut hashes = HashSet::new();
    while let Some(batch) = rows.try_next().await.map_err(failed)? {
        let identities = json::keyless(&batch, table.key()).map_err(|error| failed(error.into()))?;
        hashes.extend(identities.iter().flatten().flatten().map(str::to_owned));
    }
    Ok(hashes)
}
