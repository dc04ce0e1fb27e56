//! The contract of [`crate::sinks`] on a ClickHouse. Speaks to it through the transport alone; types and texts come from `encode`
//! and `rows`.
//!
//! A write is an insert of rows with their `_version`, a delete an insert of tombstones. Rows are gathered over several writes, and an
//! insert may still be on its way to a server when the write that sent it is answered. What waits is inserted, and every insert answered, before
//! anything is read. An insert is stored when it is answered, so [`Sink::flush`] has only the checkpoints left to write then.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{Array, BooleanArray, RecordBatch, UInt8Array, UInt64Array};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use async_trait::async_trait;
use tokio::sync::Mutex;

use super::NAME;
use super::chdb::Chdb;
use super::client::{External, Transport};
use super::config::{ClickhouseOptions, ServerOptions};
use super::encode::{DELETED, KEYS, VERSION, check, column_type, is_nested, literal, qualified, quote, quoted_list, tuple};
use super::flights::Outgoing;
use super::gather::{Insert, Place};
use super::prepare::prepare;
use super::site::Site;
use super::tokens::Tokens;
use super::{checkpoints, claims, rows, server};
use crate::mapping::target::{Dimension, Target};
use crate::sinks::{Checkpoint, Lease, Page, Query, Refused, Sink, SinkError, SinkKind, Write};

/// Inserts that may be on their way to a server when a write is answered: while they are stored, the next is made ready and sent.
const LEFT_FLYING: usize = 1;

/// A ClickHouse that holds tables.
#[derive(Debug)]
pub struct ClickhouseSink {
    engine: Arc<dyn Transport>,
    site: Site,
    outgoing: Mutex<Outgoing>,
    tokens: Arc<Tokens>,
    /// Whether rows are compressed on their way.
    compression: bool,
    /// Whether other processes can write here, so that a lease has to be held.
    shared: bool,
    /// Whether the table of leases is there.
    leased: AtomicBool,
}

/// Opens the embedded engine and makes its directory and database where they are missing. Opening a directory again in the same
/// process joins the engine that runs; it ends with the last sink.
///
/// # Errors
/// [`crate::sinks::Class::Stop`] when another process holds the directory or a newer engine wrote it; permanent when the library or the
/// directory cannot be used, or this process runs the engine on another directory.
pub async fn open(options: ClickhouseOptions) -> Result<ClickhouseSink, SinkError> {
    let site = Site::new(&options.database, options.fsync);
    let engine = Arc::new(Chdb::open(options).await?);
    Ok(ClickhouseSink::on(engine, site, false, false))
}

/// Meets a server: sees that it lets the user in and takes what is asked of it, and makes the database where it is missing.
///
/// # Errors
/// [`crate::sinks::Class::Transient`] when the server cannot be reached or has no time; permanent when it refuses the user, the
/// certificates cannot be read, or the user may only read; [`crate::sinks::Class::Stop`] when it is too old or the engine's template
/// cannot hold what is delivered.
pub async fn open_server(options: ServerOptions) -> Result<ClickhouseSink, SinkError> {
    let (engine, site) = server::meet(&options).await?;
    Ok(ClickhouseSink::on(Arc::new(engine), site, options.compression, true))
}

fn doing(place: &Place) -> String {
    format!("writing {} of {}", if place.deleted { "tombstones" } else { "rows" }, place.table)
}

fn arrow_failed(doing: &str) -> impl Fn(ArrowError) -> SinkError {
    move |error| SinkError::permanent(NAME, format!("{doing}: {error}")).because(error)
}

/// Refuses rows that have not exactly the columns of `schema`.
fn columns_of(target: &Target, batch: &RecordBatch, schema: &Schema) -> Result<(), SinkError> {
    let same = batch.num_columns() == schema.fields().len()
        && batch
            .schema_ref()
            .fields()
            .iter()
            .zip(schema.fields())
            .all(|(is, needed)| is.name() == needed.name() && is.data_type().equals_datatype(needed.data_type()));
    if same {
        return Ok(());
    }
    let message = format!("{}: the rows have the columns {:?}, the target has {schema:?}", target.name, batch.schema());
    Err(SinkError::permanent(NAME, message))
}

impl ClickhouseSink {
    fn on(engine: Arc<dyn Transport>, site: Site, compression: bool, shared: bool) -> Self {
        let (outgoing, tokens, leased) = (Mutex::default(), Tokens::new(), AtomicBool::new(false));
        Self { engine, site, outgoing, tokens, compression, shared, leased }
    }

    fn named(&self, table: &str) -> String {
        qualified(&self.site.database, table)
    }

    /// Takes rows with their version; inserts what is due.
    async fn insert(&self, target: &Target, rows: &RecordBatch, version: u64, deleted: bool) -> Result<(), SinkError> {
        let place = Place { table: target.name.clone(), deleted };
        let wire = rows::to_wire(rows).map_err(arrow_failed(&doing(&place)))?;
        let (mut fields, mut columns) = (wire.schema_ref().fields().to_vec(), wire.columns().to_vec());
        fields.push(Arc::new(Field::new(VERSION, DataType::UInt64, false)));
        columns.push(Arc::new(UInt64Array::from_value(version, wire.num_rows())));
        if deleted {
            fields.push(Arc::new(Field::new(DELETED, DataType::UInt8, false)));
            columns.push(Arc::new(UInt8Array::from_value(1, wire.num_rows())));
        }
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(arrow_failed(&doing(&place)))?;
        let mut out = self.outgoing.lock().await;
        let mut due = out.gathered.add(&place, &batch).into_iter();
        while let Some(insert) = due.next() {
            if let Err(error) = self.send(&mut out, &place, insert).await {
                due.for_each(|insert| out.gathered.put_back(&place, insert));
                return Err(error);
            }
        }
        if out.gathered.is_full() { self.send_all(&mut out).await } else { Ok(()) }
    }

    /// Sends an insert, and waits until few enough are on their way.
    async fn send(&self, out: &mut Outgoing, place: &Place, insert: Insert) -> Result<(), SinkError> {
        let Some(first) = insert.batches.first() else { return Ok(()) };
        let names: Vec<&String> = first.schema_ref().fields().iter().map(|field| field.name()).collect();
        let sql = format!("INSERT INTO {} ({})", self.named(&place.table), quoted_list(&names));
        let bytes = match rows::encode_all(&insert.batches, self.compression) {
            Ok(bytes) => bytes,
            Err(error) => {
                let error = arrow_failed(&doing(place))(error);
                out.gathered.lose(place, &error.message);
                return Err(error);
            }
        };
        let (engine, token, doing) = (self.engine.clone(), self.tokens.begin(place, &bytes), doing(place));
        out.start(place.clone(), insert, async move {
            let sent = engine.insert(sql, bytes, token.name()).await;
            if sent.is_ok() {
                token.done();
            }
            sent.map_err(|error| error.during(&doing))
        });
        // The engine in this process works on one at a time, and replicas that agree on each insert take one after the other.
        out.land(if self.shared && !self.site.is_replicated() { LEFT_FLYING } else { 0 }).await
    }

    /// Inserts all that waits.
    async fn send_all(&self, out: &mut Outgoing) -> Result<(), SinkError> {
        while let Some((place, insert)) = out.gathered.pop() {
            self.send(out, &place, insert).await?;
        }
        Ok(())
    }

    /// Refuses checkpoints of tables that lost rows.
    async fn whole(&self, checkpoints: &[Checkpoint]) -> Result<(), SinkError> {
        let out = self.outgoing.lock().await;
        let lost = checkpoints.iter().find_map(|checkpoint| {
            let table = &checkpoint.lane.target;
            Some((table, out.gathered.lost(table)?))
        });
        match lost {
            Some((table, reason)) => {
                let message =
                    format!("rows of {table} that were accepted before could not be inserted, so its checkpoint stays: {reason}");
                Err(SinkError::permanent(NAME, message))
            }
            None => Ok(()),
        }
    }

    /// Inserts all that waits and has every insert answered, before anything is read.
    async fn settle(&self) -> Result<(), SinkError> {
        let mut out = self.outgoing.lock().await;
        self.send_all(&mut out).await?;
        out.land(0).await
    }

    /// Takes one write; answers the rows that the engine cannot hold.
    async fn write_one(&self, index: usize, write: &Write) -> Result<Vec<Refused>, SinkError> {
        let target = &write.target;
        let mut refused = Vec::new();
        if write.upserts.num_rows() > 0 {
            let image = self.image(target, &write.upserts)?;
            let (kept, reasons) = holdable(target, &image)?;
            refused.extend(reasons.into_iter().map(|(row, message)| Refused { write: index, row, message }));
            self.insert(target, &kept, write.version, false).await?;
        }
        if write.deletes.num_rows() > 0 {
            let given = write.deletes.schema();
            if target.key.iter().any(|name| given.field_with_name(name).is_err()) {
                let message = format!("{}: a tombstone needs the columns {:?}, given {given:?}", target.name, target.key);
                return Err(SinkError::permanent(NAME, message));
            }
            // What was never held needs no tombstone.
            let (kept, _) = holdable(target, &write.deletes)?;
            self.insert(target, &kept, write.version, true).await?;
        }
        Ok(refused)
    }
}

/// The rows that the engine can hold, and the others with the reason.
fn holdable(target: &Target, image: &RecordBatch) -> Result<(RecordBatch, Vec<(usize, String)>), SinkError> {
    let doing = format!("checking rows of {}", target.name);
    let reasons = rows::refusals(image, &target.key).map_err(arrow_failed(&doing))?;
    if reasons.is_empty() {
        return Ok((image.clone(), reasons));
    }
    let mut keep = vec![true; image.num_rows()];
    for (row, _) in &reasons {
        keep[*row] = false;
    }
    let kept = filter_record_batch(image, &BooleanArray::from(keep)).map_err(arrow_failed(&doing))?;
    Ok((kept, reasons))
}

/// The keys as a table that a statement can read.
fn external(target: &Target, keys: &RecordBatch) -> Result<External, SinkError> {
    let mut structure = Vec::new();
    for (field, column) in keys.schema_ref().fields().iter().zip(keys.columns()) {
        let (name, kind) = (field.name(), field.data_type());
        let known = target.schema.field_with_name(name).is_ok_and(|f| f.data_type().equals_datatype(kind));
        if !known || is_nested(kind) {
            return Err(SinkError::permanent(NAME, format!("{}: cannot look up rows by `{name}` {kind}", target.name)));
        }
        let kind = column_type(kind, column.null_count() > 0)
            .map_err(|error| SinkError::permanent(NAME, format!("{}: `{name}`: {}", target.name, error.reason)))?;
        structure.push(format!("{} {kind}", quote(name)));
    }
    let wire = rows::to_wire(keys).and_then(|wire| rows::encode(&wire));
    let rows = wire.map_err(arrow_failed(&format!("sending keys of {}", target.name)))?;
    Ok(External { name: KEYS, structure: structure.join(", "), rows })
}

/// The condition that a key lies after the one that a cursor names.
fn after_cursor(target: &Target, keys: &Schema, cursor: &str) -> Result<String, SinkError> {
    let bad = || SinkError::permanent(NAME, format!("{}: not a place in its list of keys: {cursor}", target.name));
    let texts: Vec<String> = serde_json::from_str(cursor).map_err(|error| bad().because(error))?;
    if texts.len() != keys.fields().len() {
        return Err(bad());
    }
    let values = keys
        .fields()
        .iter()
        .zip(&texts)
        .map(|(field, text)| match field.data_type() {
            DataType::Utf8 => Ok(literal(text)),
            DataType::Binary => Ok(format!("unhex({})", literal(text))),
            kind => column_type(kind, false).map(|kind| format!("CAST({} AS {kind})", literal(text))).map_err(|_| bad()),
        })
        .collect::<Result<Vec<_>, _>>()?;
    let (Some(first), Some(value)) = (target.record_key.first(), values.first()) else {
        return Err(bad());
    };
    if values.len() == 1 {
        return Ok(format!("{} > {value}", quote(first)));
    }
    // The first column alone lets the engine skip what lies before.
    Ok(format!("{} >= {value} AND {} > tuple({})", quote(first), tuple(&target.record_key), values.join(", ")))
}

/// The last key of a page as text.
fn cursor(keys: &RecordBatch) -> Result<Option<String>, ArrowError> {
    let Some(last) = keys.num_rows().checked_sub(1) else {
        return Ok(None);
    };
    let texts = keys.columns().iter().map(|column| rows::key_text(column, last)).collect::<Result<Vec<_>, _>>()?;
    Ok(Some(serde_json::Value::from(texts).to_string()))
}

#[async_trait]
impl Sink for ClickhouseSink {
    fn kind(&self) -> SinkKind {
        SinkKind::Clickhouse
    }

    fn check(&self, target: &Target) -> Result<(), SinkError> {
        check(target)
    }

    fn image(&self, target: &Target, rows: &RecordBatch) -> Result<RecordBatch, SinkError> {
        columns_of(target, rows, &target.schema)?;
        rows::image(rows).map_err(arrow_failed(&format!("rows of {}", target.name)))
    }

    async fn hold(&self, lease: &Lease) -> Result<(), SinkError> {
        if self.shared {
            let first = !self.leased.load(Ordering::Relaxed);
            claims::hold(self.engine.as_ref(), &self.site, lease, first).await?;
            self.leased.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn release(&self, lease: &Lease) -> Result<(), SinkError> {
        if self.shared {
            claims::release(self.engine.as_ref(), &self.site, lease).await?;
        }
        Ok(())
    }

    async fn prepare(&self, targets: &[Arc<Target>], dimensions: &[Dimension]) -> Result<(), SinkError> {
        self.settle().await?;
        prepare(self.engine.as_ref(), &self.site, targets, dimensions).await
    }

    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, SinkError> {
        checkpoints::all(self.engine.as_ref(), &self.site).await
    }

    async fn write(&self, writes: &[Write]) -> Result<Vec<Refused>, SinkError> {
        let mut refused = Vec::new();
        for (index, write) in writes.iter().enumerate() {
            refused.extend(self.write_one(index, write).await?);
        }
        Ok(refused)
    }

    async fn flush(&self, checkpoints: &[Checkpoint]) -> Result<(), SinkError> {
        // The end of a batch: nothing counts on its rows yet, so they wait for those of the next.
        if checkpoints.is_empty() {
            return Ok(());
        }
        self.settle().await?;
        self.whole(checkpoints).await?;
        checkpoints::store(self.engine.as_ref(), &self.site, checkpoints).await
    }

    async fn held(&self, target: &Target, keys: &RecordBatch) -> Result<RecordBatch, SinkError> {
        let doing = format!("reading rows of {}", target.name);
        let reasons = rows::refusals(keys, &[]).map_err(arrow_failed(&doing))?;
        // Keys that cannot be held are not held.
        let keys = if reasons.is_empty() { keys.clone() } else { holdable(target, keys)?.0 };
        if keys.num_rows() == 0 || keys.num_columns() == 0 {
            return Ok(RecordBatch::new_empty(target.schema.clone()));
        }
        self.settle().await?;
        let table = external(target, &keys)?;
        let names: Vec<String> = keys.schema_ref().fields().iter().map(|field| field.name().clone()).collect();
        let columns: Vec<&String> = target.schema.fields().iter().map(|field| field.name()).collect();
        // A condition on the key holds for all versions of a row alike, so it may be asked before they are merged.
        let whole = names.iter().all(|name| target.key.contains(name));
        // Columns, not a tuple made of them: the engine finds them in its index.
        let list = quoted_list(&names);
        let nulls = keys.columns().iter().any(|column| column.null_count() > 0);
        let sql = format!(
            "SELECT {} FROM {} FINAL {} ({list}) IN (SELECT {list} FROM {}){}",
            quoted_list(&columns),
            self.named(&target.name),
            if whole { "PREWHERE" } else { "WHERE" },
            quote(table.name),
            if nulls { " SETTINGS transform_null_in = 1" } else { "" }
        );
        match self.engine.query_with(sql, "ArrowStream", table).await {
            Ok(bytes) => rows::decode(&bytes, &target.schema).map_err(arrow_failed(&doing)),
            Err(error) if error.absent() => Ok(RecordBatch::new_empty(target.schema.clone())),
            Err(error) => Err(error.during(&doing)),
        }
    }

    async fn list(&self, target: &Target, after: Option<&str>, limit: usize) -> Result<Page, SinkError> {
        self.settle().await?;
        let doing = format!("listing keys of {}", target.name);
        let limit = limit.max(1);
        let fields: Vec<Field> = target
            .record_key
            .iter()
            .map(|name| target.schema.field_with_name(name).cloned())
            .collect::<Result<_, _>>()
            .map_err(arrow_failed(&doing))?;
        let schema: SchemaRef = Arc::new(Schema::new(fields));
        let condition = match after {
            Some(place) => format!(" WHERE {}", after_cursor(target, &schema, place)?),
            None => String::new(),
        };
        let names = quoted_list(&target.record_key);
        let sql =
            format!("SELECT DISTINCT {names} FROM {} FINAL{condition} ORDER BY {names} LIMIT {limit}", self.named(&target.name));
        let keys = match self.engine.query(sql, "ArrowStream").await {
            Ok(bytes) => rows::decode(&bytes, &schema).map_err(arrow_failed(&doing))?,
            Err(error) if error.absent() => RecordBatch::new_empty(schema),
            Err(error) => return Err(error.during(&doing)),
        };
        let next = if keys.num_rows() < limit { None } else { cursor(&keys).map_err(arrow_failed(&doing))? };
        Ok(Page { keys, next })
    }

    async fn newest(&self, target: &Target) -> Result<Option<u64>, SinkError> {
        self.settle().await?;
        let doing = format!("reading the newest version of {}", target.name);
        // Tombstones count: they win over what is written below them.
        let sql = format!("SELECT toString(max(_version)), count() FROM {}", self.named(&target.name));
        let text = match self.engine.query(sql, "TSV").await {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.absent() => return Ok(None),
            Err(error) => return Err(error.during(&doing)),
        };
        let (version, count) = text.trim().split_once('\t').unwrap_or_default();
        let version = version.parse().map_err(|e| SinkError::permanent(NAME, format!("{doing}: {text:?}")).because(e))?;
        Ok(Some(version).filter(|_| count != "0"))
    }

    async fn query(&self, query: &Query) -> Result<Vec<serde_json::Map<String, serde_json::Value>>, SinkError> {
        let Query::Text(sql) = query else {
            return Err(SinkError::permanent(NAME, "takes SQL; nearest points are a question for the vectors"));
        };
        self.settle().await?;
        let bytes = self.engine.ask(sql.clone(), "JSONEachRow").await.map_err(|error| error.during("the statement failed"))?;
        let text = String::from_utf8_lossy(&bytes);
        serde_json::Deserializer::from_str(&text).into_iter().collect::<Result<_, _>>().map_err(|error| {
            SinkError::permanent(NAME, "the answer is not in rows of JSON: leave out FORMAT, the answer has one").because(error)
        })
    }

    async fn close(&self) -> Result<(), SinkError> {
        let settled = self.settle().await;
        let closed = self.engine.close().await.map_err(|error| error.during("closing the engine"));
        settled.and(closed)
    }
}
