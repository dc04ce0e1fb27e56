//! Rows of a points target in, rows as a sink stores them out: one for each chunk of the text. Pure Arrow.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, FixedSizeListArray, Float32Array, Int64Array, RecordBatch, StringArray, UInt64Array, new_null_array,
};
use arrow::buffer::NullBuffer;
use arrow::compute::take;
use arrow::datatypes::{DataType, Field};
use xxhash_rust::xxh3::xxh3_128;

use super::{EmbedError, Worker};
use crate::mapping::target::{Shape, Target, VECTOR};

/// Rows of a points target, cut into chunks.
#[derive(Debug, Clone)]
pub struct Pieces {
    /// One row for each chunk, in [`Target::stored_schema`], every vector null.
    pub rows: RecordBatch,
    /// The chunk's text, for each row of `rows`.
    pub texts: Vec<String>,
    /// Which row of the input each row of `rows` comes from.
    pub source: Vec<usize>,
}

/// The `_text_hash` of a text: 32 hexadecimal digits of its XXH3-128.
#[must_use]
pub fn text_hash(text: &str) -> String {
    format!("{:032x}", xxh3_128(text.as_bytes()))
}

/// Cuts the rows' texts by the worker's model: [`pieces`] for those who have a [`Worker`].
///
/// # Errors
/// [`EmbedError`] when the tokenizer fails or the rows are not the target's.
pub async fn cut(worker: &Worker, target: &Target, rows: &RecordBatch) -> Result<Pieces, EmbedError> {
    let texts = text_column(target, rows)?;
    let chunks = worker.chunk(texts.iter().map(|text| text.unwrap_or_default().to_owned()).collect()).await?;
    assemble(target, rows, &texts, &chunks, worker.identity(), worker.dimensions())
}

/// One row for each chunk of each row's text; a row whose text is null or blank has none. `rows` are in [`Target::schema`].
///
/// # Errors
/// [`EmbedError`] when `chunk` fails or the rows are not the target's.
pub fn pieces(
    target: &Target,
    rows: &RecordBatch,
    chunk: impl Fn(&str) -> Result<Vec<Range<usize>>, EmbedError>,
    model: &str,
    dimensions: usize,
) -> Result<Pieces, EmbedError> {
    let texts = text_column(target, rows)?;
    let chunks = texts.iter().map(|text| text.map_or_else(|| Ok(Vec::new()), &chunk)).collect::<Result<Vec<_>, _>>()?;
    assemble(target, rows, &texts, &chunks, model, dimensions)
}

fn text_column<'a>(target: &Target, rows: &'a RecordBatch) -> Result<Vec<Option<&'a str>>, EmbedError> {
    let Shape::Points { text } = &target.shape else {
        return Err(EmbedError::Failed(format!("target {} has no text to embed", target.name)));
    };
    let column = rows.column_by_name(text).ok_or_else(|| wrong(target, &format!("column {text} is missing")))?;
    let column = column.as_any().downcast_ref::<StringArray>();
    Ok(column.ok_or_else(|| wrong(target, &format!("column {text} is no string")))?.iter().collect())
}

fn wrong(target: &Target, message: &str) -> EmbedError {
    EmbedError::Failed(format!("rows of target {}: {message}", target.name))
}

fn assemble(
    target: &Target,
    rows: &RecordBatch,
    texts: &[Option<&str>],
    chunks: &[Vec<Range<usize>>],
    model: &str,
    dimensions: usize,
) -> Result<Pieces, EmbedError> {
    if chunks.len() != rows.num_rows() {
        return Err(wrong(target, "not every row was cut"));
    }
    let mut source = Vec::new();
    let mut pieces: Vec<String> = Vec::new();
    let (mut number, mut count, mut start, mut end) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (row, (text, ranges)) in texts.iter().zip(chunks).enumerate() {
        for (i, range) in ranges.iter().enumerate() {
            let piece = text.and_then(|text| text.get(range.clone()));
            pieces.push(piece.ok_or_else(|| wrong(target, "a chunk lies outside its text"))?.to_owned());
            source.push(row);
            number.push(integer(i));
            count.push(integer(ranges.len()));
            start.push(integer(range.start));
            end.push(integer(range.end));
        }
    }
    let schema = target.stored_schema(dimensions);
    let indices = UInt64Array::from_iter_values(source.iter().map(|row| *row as u64));
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(schema.fields().len());
    // What the chunk adds is the last seven columns of the stored schema.
    for field in schema.fields().iter().take(schema.fields().len().saturating_sub(7)) {
        let column = rows.column_by_name(field.name());
        let column = column.ok_or_else(|| wrong(target, &format!("column {} is missing", field.name())))?;
        columns.push(take(column, &indices, None).map_err(|e| wrong(target, &e.to_string()))?);
    }
    for values in [number, count, start, end] {
        columns.push(Arc::new(Int64Array::from(values)));
    }
    columns.push(Arc::new(StringArray::from_iter_values(pieces.iter().map(|piece| text_hash(piece)))));
    columns.push(Arc::new(StringArray::from_iter_values(pieces.iter().map(|_| model))));
    columns.push(new_null_array(schema.field(schema.fields().len() - 1).data_type(), pieces.len()));
    let rows = RecordBatch::try_new(schema, columns).map_err(|e| wrong(target, &e.to_string()))?;
    Ok(Pieces { rows, texts: pieces, source })
}

fn integer(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The same rows with these vectors, one for each row, null where there is none.
///
/// # Errors
/// [`EmbedError::Failed`] when their number or a vector's length does not fit the rows.
pub fn with_vectors(rows: &RecordBatch, vectors: &[Option<Arc<[f32]>>]) -> Result<RecordBatch, EmbedError> {
    let failed = |message: String| EmbedError::Failed(format!("vectors do not fit their rows: {message}"));
    let index = rows.schema().index_of(VECTOR).map_err(|e| failed(e.to_string()))?;
    let DataType::FixedSizeList(item, width) = rows.schema().field(index).data_type().clone() else {
        return Err(failed(format!("column {VECTOR} holds no vectors")));
    };
    if vectors.len() != rows.num_rows() {
        return Err(failed(format!("{} for {} rows", vectors.len(), rows.num_rows())));
    }
    let length = usize::try_from(width).unwrap_or(0);
    let mut values: Vec<f32> = Vec::with_capacity(vectors.len() * length);
    for vector in vectors {
        match vector {
            Some(vector) if vector.len() == length => values.extend_from_slice(vector),
            Some(vector) => return Err(failed(format!("one has {} dimensions, not {length}", vector.len()))),
            None => values.resize(values.len() + length, 0.0),
        }
    }
    let column = vector_column(item, width, values, vectors).map_err(|e| failed(e.to_string()))?;
    let mut columns = rows.columns().to_vec();
    columns[index] = Arc::new(column);
    RecordBatch::try_new(rows.schema(), columns).map_err(|e| failed(e.to_string()))
}

fn vector_column(
    item: Arc<Field>,
    width: i32,
    values: Vec<f32>,
    vectors: &[Option<Arc<[f32]>>],
) -> Result<FixedSizeListArray, arrow::error::ArrowError> {
    let valid: NullBuffer = vectors.iter().map(Option::is_some).collect();
    FixedSizeListArray::try_new(item, width, Arc::new(Float32Array::from(values)), Some(valid))
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::{Float32Type, Int64Type, Schema};

    use super::super::{Embedder, HashEmbedder};
    use super::*;
    use crate::mapping::target::{CHUNK, CHUNK_END, CHUNK_START, CHUNKS, MODEL, TEXT_HASH};

    fn target() -> Target {
        let fields = vec![
            Field::new("id", DataType::Int64, false),
            Field::new("text", DataType::Utf8, true),
            Field::new("title", DataType::Utf8, true),
        ];
        Target {
            table: "books".to_owned(),
            name: "blurbs".to_owned(),
            shape: Shape::Points { text: "text".to_owned() },
            schema: Arc::new(Schema::new(fields)),
            key: vec!["id".to_owned()],
            record_key: vec!["id".to_owned()],
            fingerprint: String::new(),
        }
    }

    fn rows(texts: &[Option<&str>]) -> RecordBatch {
        let ids: Vec<i64> = (0..texts.len()).map(|i| 10 + integer(i)).collect();
        let titles = texts.iter().enumerate().map(|(i, _)| (i % 2 == 0).then(|| format!("t{i}"))).collect::<StringArray>();
        let columns: Vec<ArrayRef> =
            vec![Arc::new(Int64Array::from(ids)), Arc::new(texts.iter().collect::<StringArray>()), Arc::new(titles)];
        RecordBatch::try_new(target().schema, columns).unwrap()
    }

    fn cut_by_hash(rows: &RecordBatch) -> Pieces {
        pieces(&target(), rows, |text| HashEmbedder::new().chunk(text), "hash-64@1", 64).unwrap()
    }

    #[test]
    fn each_chunk_is_a_row_and_blank_texts_are_none() {
        let long = "word ".repeat(300);
        let made = cut_by_hash(&rows(&[Some("short"), None, Some(" \n"), Some(&long), Some("")]));
        assert_eq!(made.source, [0, 3, 3]);
        assert_eq!(made.rows.schema(), target().stored_schema(64));
        let ints = |name: &str| made.rows.column_by_name(name).unwrap().as_primitive::<Int64Type>().values().to_vec();
        assert_eq!(ints("id"), [10, 13, 13]);
        assert_eq!(ints(CHUNK), [0, 0, 1]);
        assert_eq!(ints(CHUNKS), [1, 2, 2]);
        assert_eq!((ints(CHUNK_START)[0], ints(CHUNK_END)[0], ints(CHUNK_END)[2]), (0, 5, 1500));
        for (row, text) in made.texts.iter().enumerate() {
            let (start, end) = (ints(CHUNK_START)[row] as usize, ints(CHUNK_END)[row] as usize);
            assert_eq!(text, &[Some("short"), None, None, Some(long.as_str())][made.source[row]].unwrap()[start..end]);
            let hash = made.rows.column_by_name(TEXT_HASH).unwrap().as_string::<i32>().value(row);
            assert_eq!((hash, hash.len()), (text_hash(text).as_str(), 32));
            assert_eq!(made.rows.column_by_name(MODEL).unwrap().as_string::<i32>().value(row), "hash-64@1");
        }
        assert_eq!(made.rows.column_by_name(VECTOR).unwrap().null_count(), 3);
    }

    #[test]
    fn the_hash_of_a_text_stays_the_same_for_ever() {
        assert_eq!(text_hash(""), "99aa06d3014798d86001c324468d497f");
        assert_ne!(text_hash("a"), text_hash("a "));
    }

    #[test]
    fn no_rows_make_no_pieces() {
        let made = cut_by_hash(&rows(&[]));
        assert_eq!((made.rows.num_rows(), made.rows.schema()), (0, target().stored_schema(64)));
        assert_eq!(with_vectors(&made.rows, &[]).unwrap().num_rows(), 0);
    }

    #[test]
    fn vectors_are_filled_in_or_null_and_must_fit() {
        let made = cut_by_hash(&rows(&[Some("a"), Some("b")]));
        let vector: Arc<[f32]> = vec![0.5; 64].into();
        let full = with_vectors(&made.rows, &[None, Some(vector.clone())]).unwrap();
        let column = full.column_by_name(VECTOR).unwrap().as_fixed_size_list();
        assert!(column.is_null(0) && column.is_valid(1));
        assert_eq!(column.value(1).as_primitive::<Float32Type>().values().to_vec(), vec![0.5; 64]);
        assert_eq!(full.schema(), made.rows.schema());
        assert!(with_vectors(&made.rows, &[None]).is_err());
        assert!(with_vectors(&made.rows, &[None, Some(vec![0.5; 63].into())]).is_err());
    }

    #[test]
    fn rows_of_another_target_are_refused() {
        let mut other = target();
        other.shape = Shape::Points { text: "absent".to_owned() };
        let error = pieces(&other, &rows(&[Some("a")]), |_| Ok(Vec::new()), "m", 4).unwrap_err().to_string();
        assert!(error.contains("absent") && error.contains("blurbs"), "{error}");
        other.shape = Shape::Table;
        assert!(pieces(&other, &rows(&[]), |_| Ok(Vec::new()), "m", 4).is_err());
    }

    #[tokio::test]
    async fn the_worker_cuts_the_same() {
        let worker = super::super::worker(&super::super::Choice::Hash, super::super::DEFAULT_PRECISION, None).unwrap().unwrap();
        let long = "word ".repeat(700);
        let input = rows(&[Some("a"), None, Some(&long)]);
        let made = cut(&worker, &target(), &input).await.unwrap();
        assert_eq!(made.rows, cut_by_hash(&input).rows);
    }
}
