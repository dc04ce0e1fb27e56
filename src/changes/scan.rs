//! Streams of rows out of a Delta table: a version whole or in part, by delta-rs' own scan (deletion vectors, partition values and column mapping
//! are its affair), and the sort that spills. Everything comes out in the canonical schema of the table.

use std::sync::{Arc, Mutex};

use arrow::array::{ArrayRef, Int8Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::streaming::StreamingTable;
use datafusion::common::Column;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, SortExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::{RecordBatchReceiverStreamBuilder, RecordBatchStreamAdapter};
use datafusion::physical_plan::streaming::PartitionStream;
use datafusion::prelude::{DataFrame, SessionConfig, SessionContext};
use deltalake::delta_datafusion::FileSelection;
use deltalake::kernel::Add;
use futures::{Stream, StreamExt};

use super::error::{ChangesError, reading};
use super::table::Table;
use crate::rows;

/// Name of the column that says whether a row came (1) or went (-1).
pub(super) const SIGN: &str = "__distributary_sign";

/// How many files of a window are read at once: the window's files are many and small, and each one that is open takes memory.
const READERS: usize = 2;

/// A session of the table's memory and spill directory, with plain strings, late reading of the columns behind a filter, and
/// joins that can spill.
pub(super) fn session(table: &Table) -> SessionContext {
    let mut config = SessionConfig::new().with_batch_size(table.options.batch_rows).with_target_partitions(READERS);
    let options = config.options_mut();
    options.execution.parquet.schema_force_view_types = false;
    // Spark writes timestamps in 96 bits. In nanoseconds, those before 1677 and after 2262 would come out as others.
    options.execution.parquet.coerce_int96 = Some("us".to_owned());
    options.execution.parquet.pushdown_filters = true;
    options.optimizer.prefer_hash_join = false;
    options.optimizer.repartition_file_scans = false;
    SessionContext::new_with_config_rt(config, table.runtime.clone())
}

/// A column by its exact name.
pub(super) fn column(name: &str) -> Expr {
    Expr::Column(Column::from_name(name))
}

/// Which rows of a version, and which columns of them.
#[derive(Default)]
pub(super) struct Scan<'a> {
    /// Decoded paths of the files; all when none.
    pub files: Option<&'a [String]>,
    /// Only rows for which this holds.
    pub filter: Option<Expr>,
    /// The key columns alone.
    pub keys_only: bool,
}

impl Table {
    /// Rows of a version in the canonical schema ([`Table::schema`] or [`Table::key_schema`]), in any order.
    pub(super) async fn scan(&self, version: i64, scan: Scan<'_>) -> Result<SendableRecordBatchStream, ChangesError> {
        let schema = if scan.keys_only { self.key_schema() } else { self.schema() };
        let frame = self.frame(version, &schema, scan).await?;
        let stream = frame.execute_stream().await.map_err(|error| reading(self.name(), version, error))?;
        Ok(canonical(stream, schema))
    }

    /// The same before it is run, in the types that the files have.
    pub(super) async fn frame(&self, version: i64, schema: &SchemaRef, scan: Scan<'_>) -> Result<DataFrame, ChangesError> {
        let failed = |error| reading(self.name(), version, error);
        let table = self.at_version(version).await?;
        let context = session(self);
        let mut provider = table.table_provider().with_session(Arc::new(context.state()));
        if let Some(files) = scan.files {
            provider = provider.with_file_selection(FileSelection::from_adds(
                files.iter().map(|path| Add { path: path.clone(), ..Add::default() }),
            ));
        }
        let provider = provider.build().await.map_err(failed)?;
        let mut frame = context.read_table(Arc::new(provider)).map_err(failed)?;
        if let Some(filter) = scan.filter {
            frame = frame.filter(filter).map_err(failed)?;
        }
        let there: Vec<Expr> = {
            let has = frame.schema();
            schema
                .fields()
                .iter()
                .filter(|field| has.has_column_with_unqualified_name(field.name()))
                .map(|field| column(field.name()))
                .collect()
        };
        frame.select(there).map_err(failed)
    }
}

/// The same rows in this schema.
pub(super) fn canonical(stream: SendableRecordBatchStream, schema: SchemaRef) -> SendableRecordBatchStream {
    let target = schema.clone();
    boxed(schema, stream.map(move |batch| Ok(rows::cast_batch(&batch?, &target)?)))
}

/// A stream with its schema.
pub(super) fn boxed(
    schema: SchemaRef,
    stream: impl Stream<Item = DataFusionResult<RecordBatch>> + Send + 'static,
) -> SendableRecordBatchStream {
    Box::pin(RecordBatchStreamAdapter::new(schema, stream))
}

/// The schema with a column of signs behind it.
pub(super) fn signed_schema(schema: &Schema) -> SchemaRef {
    let mut fields: Vec<_> = schema.fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new(SIGN, DataType::Int8, false)));
    Arc::new(Schema::new(fields))
}

/// The rows with one sign for all of them.
pub(super) fn with_sign(stream: SendableRecordBatchStream, sign: i8) -> SendableRecordBatchStream {
    let schema = signed_schema(&stream.schema());
    let target = schema.clone();
    boxed(
        schema,
        stream.map(move |batch| {
            let batch = batch?;
            let mut columns = batch.columns().to_vec();
            columns.push(Arc::new(Int8Array::from_value(sign, batch.num_rows())) as ArrayRef);
            Ok(RecordBatch::try_new(target.clone(), columns)?)
        }),
    )
}

/// All partitions of a plan, a few of them at once however many there are.
pub(super) fn run(plan: Arc<dyn ExecutionPlan>, context: &Arc<TaskContext>) -> SendableRecordBatchStream {
    let count = plan.properties().output_partitioning().partition_count();
    let mut builder = RecordBatchReceiverStreamBuilder::new(plan.schema(), READERS);
    let next = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    for _ in 0..READERS.min(count) {
        let (plan, context, next, sender) = (plan.clone(), context.clone(), next.clone(), builder.tx());
        builder.spawn(async move {
            loop {
                let partition = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                if partition >= count {
                    return Ok(());
                }
                let mut rows = plan.execute(partition, context.clone())?;
                while let Some(batch) = rows.next().await {
                    let failed = batch.is_err();
                    // Nobody reads any more: the reader was dropped.
                    if sender.send(batch).await.is_err() || failed {
                        return Ok(());
                    }
                }
            }
        });
    }
    builder.build()
}

/// The rows in ascending order of these columns, nulls first. Spills when memory is short.
pub(super) async fn sort(
    table: &Table,
    rows: SendableRecordBatchStream,
    by: &[String],
) -> DataFusionResult<SendableRecordBatchStream> {
    let context = session(table);
    let order: Vec<SortExpr> = by.iter().map(|name| column(name).sort(true, true)).collect();
    context.read_table(Arc::new(once(rows)?))?.sort(order)?.execute_stream().await
}

/// A table that can be read once.
pub(super) fn once(rows: SendableRecordBatchStream) -> DataFusionResult<StreamingTable> {
    let schema = rows.schema();
    let partition = Once { schema: schema.clone(), rows: Mutex::new(Some(rows)) };
    StreamingTable::try_new(schema, vec![Arc::new(partition)])
}

struct Once {
    schema: SchemaRef,
    rows: Mutex<Option<SendableRecordBatchStream>>,
}

impl std::fmt::Debug for Once {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Once")
    }
}

impl PartitionStream for Once {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let rows = self.rows.lock().ok().and_then(|mut rows| rows.take());
        rows.unwrap_or_else(|| {
            let again = DataFusionError::Internal("a stream of rows was read twice".to_owned());
            boxed(self.schema.clone(), futures::stream::iter([Err(again)]))
        })
    }
}
