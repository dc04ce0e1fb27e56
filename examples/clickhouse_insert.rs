//! Writes the rows of an Arrow file to a ClickHouse server through the sink, and prints how long that took:
//! `cargo run --release --example clickhouse_insert -- http://127.0.0.1:8123 DATABASE TABLE KEY rows.arrow`
//!
//! It is how `bench/clickhouse_http.py` measures the sink alone, and how a program of one's own would use it.

#![allow(clippy::print_stdout, reason = "it prints what it measured")]

use std::error::Error;
use std::fs::File;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::RecordBatch;
use arrow::ipc::reader::StreamReader;
use distributary::mapping::target::{Shape, Target};
use distributary::sinks::clickhouse::{ServerOptions, open_server};
use distributary::sinks::{Sink, Write};

/// The program's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Rows of one call, as many as a sync gives by default.
const BATCH_ROWS: usize = 8192 * 8;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, database, table, key, file] = arguments.as_slice() else {
        return Err("usage: clickhouse_insert URL DATABASE TABLE KEY FILE".into());
    };
    let batches = StreamReader::try_new(File::open(file)?, None)?.collect::<Result<Vec<RecordBatch>, _>>()?;
    let schema = batches.first().ok_or("the file holds no rows")?.schema();
    let target = Arc::new(Target {
        table: table.clone(),
        name: table.clone(),
        shape: Shape::Table,
        schema: schema.clone(),
        key: vec![key.clone()],
        record_key: vec![key.clone()],
        fingerprint: String::new(),
    });
    let deletes = RecordBatch::new_empty(schema.clone()).project(&[schema.index_of(key)?])?;
    let mut options = ServerOptions::at(url.parse()?);
    options.database.clone_from(database);
    options.compression = std::env::var_os("COMPRESSION").is_some();
    let sink = open_server(options).await?;
    sink.prepare(std::slice::from_ref(&target), &[]).await?;
    let begin = Instant::now();
    let mut rows = 0;
    for batch in &batches {
        for start in (0..batch.num_rows()).step_by(BATCH_ROWS) {
            let upserts = batch.slice(start, BATCH_ROWS.min(batch.num_rows() - start));
            rows += upserts.num_rows();
            sink.write(&[Write { target: target.clone(), version: 1, upserts, deletes: deletes.clone() }]).await?;
        }
    }
    sink.flush(&[]).await?;
    println!("{{\"rows\": {rows}, \"seconds\": {}}}", begin.elapsed().as_secs_f64());
    sink.close().await?;
    Ok(())
}
