//! Runs a projection: records in, rows of the target out. A record that the query cannot take is set apart; the others go on.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::error::ArrowError;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::{SessionConfig, SessionContext};

use super::file::Place;
use super::reads::FieldPath;
use super::target::Target;
use crate::rows;

/// A compiled query and the target it fills.
pub struct Projection {
    target: Arc<Target>,
    place: Place,
    silver_key: Vec<String>,
    silver_types: Vec<DataType>,
    reads: Vec<FieldPath>,
    plan: Arc<dyn ExecutionPlan>,
    query: Query,
    running: tokio::sync::Mutex<()>,
    /// The plan that makes only as much of each row as shows that it is there. Made when it is first needed.
    counting: tokio::sync::OnceCell<Arc<dyn ExecutionPlan>>,
}

/// A query as planned, and the session and slot that it was planned with.
pub(super) struct Query {
    pub(super) logical: LogicalPlan,
    pub(super) context: SessionContext,
    pub(super) slot: Arc<Slot>,
}

impl std::fmt::Debug for Projection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Projection").field("target", &self.target).finish_non_exhaustive()
    }
}

/// A record that the projection cannot take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowFault {
    /// Index of the record in what was projected.
    pub record: usize,
    /// A code for quarantine.
    pub reason: &'static str,
    /// What is wrong, with column and value.
    pub message: String,
}

/// The place in a plan where the records are put before it runs.
#[derive(Debug)]
pub(super) struct Slot {
    schema: SchemaRef,
    records: Mutex<Option<RecordBatch>>,
}

impl PartitionStream for Slot {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _ctx: Arc<TaskContext>) -> SendableRecordBatchStream {
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let stream = futures::stream::iter(records.map(Ok));
        Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), stream))
    }
}

/// A session in which the Silver table is a slot to be filled.
pub(super) fn session(table: &str, schema: &SchemaRef) -> Result<(SessionContext, Arc<Slot>), DataFusionError> {
    let mut config = SessionConfig::new().with_target_partitions(1).with_information_schema(false);
    let options = config.options_mut();
    // Strings are `Utf8` everywhere downstream.
    options.sql_parser.map_string_types_to_utf8view = false;
    // The dialect whose lambdas (`array_transform(list, x -> x['name'])`) and quoting are nearest to standard SQL.
    options.sql_parser.dialect = datafusion::config::Dialect::DuckDB;
    // Names are what they are in Delta, whatever their case.
    options.sql_parser.enable_ident_normalization = false;
    let context = SessionContext::new_with_config(config);
    let slot = Arc::new(Slot { schema: schema.clone(), records: Mutex::new(None) });
    let provider = StreamingTable::try_new(schema.clone(), vec![slot.clone()])?;
    context.register_table(datafusion::common::TableReference::bare(table), Arc::new(provider))?;
    Ok((context, slot))
}

impl Projection {
    pub(super) fn new(
        target: Arc<Target>,
        place: Place,
        (silver_key, silver_types): (Vec<String>, Vec<DataType>),
        reads: Vec<FieldPath>,
        plan: Arc<dyn ExecutionPlan>,
        query: Query,
    ) -> Self {
        let (running, counting) = (tokio::sync::Mutex::new(()), tokio::sync::OnceCell::new());
        Self { target, place, silver_key, silver_types, reads, plan, query, running, counting }
    }

    /// What it fills.
    #[must_use]
    pub fn target(&self) -> &Arc<Target> {
        &self.target
    }

    /// Where it stands in the mapping file.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// What the query reads of a Silver record: records that are equal in this make equal rows.
    #[must_use]
    pub fn reads(&self) -> &[FieldPath] {
        &self.reads
    }

    /// The rows that the records make, in the columns of [`Target::schema`] but nullable, and the records that cannot be taken. Records have the columns of
    /// [`super::compile::CompiledTable::columns`].
    ///
    /// # Errors
    /// When Arrow or DataFusion fail on something that is no record's fault.
    pub async fn project(&self, records: &RecordBatch) -> Result<(RecordBatch, Vec<RowFault>), DataFusionError> {
        let mut faults = Vec::new();
        let mut done: Vec<RecordBatch> = Vec::new();
        // Parts still to be tried, the next one last: (offset, length).
        let mut parts = vec![(0, records.num_rows())];
        while let Some((offset, length)) = parts.pop() {
            if length == 0 {
                continue;
            }
            match self.run(&records.slice(offset, length)).await {
                Ok(rows) => done.push(rows),
                Err(error) if is_data_error(&error) => {
                    if length == 1 {
                        let message = format!("{}: {}", self.place.target, error.strip_backtrace());
                        faults.push(RowFault { record: offset, reason: "cast_failed", message });
                    } else {
                        let half = length / 2;
                        parts.push((offset + half, length - half));
                        parts.push((offset, half));
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok((concat_batches(&nullable(&self.target.schema), &done)?, faults))
    }

    /// How many rows the records make; none when a record is one that the query cannot take.
    ///
    /// # Errors
    /// When DataFusion fails on something that is no record's fault.
    pub async fn count(&self, records: &RecordBatch) -> Result<Option<u64>, DataFusionError> {
        let plan = self.counting.get_or_try_init(|| self.counting_plan()).await?;
        match self.collect(plan, records).await {
            Ok(rows) => Ok(Some(rows.iter().map(|batch| batch.num_rows() as u64).sum())),
            Err(error) if is_data_error(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn counting_plan(&self) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let columns = self.query.logical.schema().columns();
        let key = columns.into_iter().filter(|column| self.target.record_key.contains(&column.name)).map(Expr::Column);
        let narrow = LogicalPlanBuilder::from(self.query.logical.clone()).project(key)?.build()?;
        self.query.context.state().create_physical_plan(&narrow).await
    }

    async fn run(&self, records: &RecordBatch) -> Result<RecordBatch, DataFusionError> {
        let result = self.collect(&self.plan, records).await?;
        let result = concat_batches(&self.plan.schema(), &result)?;
        let result = rows::canonical_batch(&result)?;
        // Key columns are declared not null; whether they are is found out when rows are indexed.
        Ok(RecordBatch::try_new(nullable(&self.target.schema), result.columns().to_vec())?)
    }

    async fn collect(&self, plan: &Arc<dyn ExecutionPlan>, records: &RecordBatch) -> Result<Vec<RecordBatch>, DataFusionError> {
        let slot = &self.query.slot.records;
        // The plan was made for the whole table and reads no more of it than it needs.
        let records = rows::cast_batch(records, &self.query.slot.schema)?;
        let _one_at_a_time = self.running.lock().await;
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(records);
        let result = collect(plan.clone(), self.query.context.task_ctx()).await;
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = None;
        result
    }

    /// The Silver keys of records, in the Silver table's own types.
    ///
    /// # Errors
    /// When the batch lacks a key column.
    pub fn silver_keys(&self, records: &RecordBatch) -> Result<Vec<ArrayRef>, ArrowError> {
        self.silver_key
            .iter()
            .map(|name| {
                let column = records.column_by_name(name);
                column.cloned().ok_or_else(|| ArrowError::SchemaError(format!("no key column {name}")))
            })
            .collect()
    }

    /// The Silver keys of rows of the target, in the Silver table's own types.
    ///
    /// # Errors
    /// When the batch lacks a column of the record key.
    pub fn keys_of_rows(&self, rows: &RecordBatch) -> Result<Vec<ArrayRef>, ArrowError> {
        self.target
            .record_key
            .iter()
            .zip(&self.silver_types)
            .map(|(name, silver)| {
                let column = rows.column_by_name(name);
                let column = column.ok_or_else(|| ArrowError::SchemaError(format!("no key column {name}")))?;
                cast(column, silver)
            })
            .collect()
    }

    /// Silver keys in the types and under the names of the target: what [`crate::sinks::Sink::held`] takes.
    ///
    /// # Errors
    /// When a key column is missing.
    pub fn record_keys(&self, records: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        let columns = self.silver_keys(records)?;
        let mut fields = Vec::new();
        let mut arrays = Vec::new();
        for (name, column) in self.target.record_key.iter().zip(&columns) {
            let field = self.target.schema.field_with_name(name)?;
            fields.push(field.clone());
            arrays.push(cast(column, field.data_type())?);
        }
        RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)
    }

    /// The Silver key's columns.
    #[must_use]
    pub fn silver_key(&self) -> &[String] {
        &self.silver_key
    }

    /// Silver keys of rows of the target under the Silver table's own names: the way back from [`Projection::record_keys`].
    ///
    /// # Errors
    /// When a column of the record key is missing.
    pub fn silver_key_batch(&self, rows: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
        RecordBatch::try_new(nullable(schema), self.keys_of_rows(rows)?)
    }
}

/// The same columns, all nullable: what a query gives before its rows were looked at.
pub(crate) fn nullable(schema: &Schema) -> SchemaRef {
    Arc::new(Schema::new(schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect::<Vec<_>>()))
}

/// Whether an error may be the fault of a value, so that leaving out the record helps.
fn is_data_error(error: &DataFusionError) -> bool {
    match error.find_root() {
        DataFusionError::ArrowError(arrow, _) => {
            !matches!(arrow.as_ref(), ArrowError::MemoryError(_) | ArrowError::IoError(..) | ArrowError::SchemaError(_))
        }
        DataFusionError::Execution(_) => true,
        _ => false,
    }
}
