//! Arrow types and values in one canonical form, so that schemas can be compared and values can be equal. Knows neither
//! Delta nor a mapping nor an engine.
//!
//! Equal means equal in value: null equals null, NaN equals NaN, -0.0 equals 0.0, and two maps are equal when they hold the
//! same entries, in whatever order; at every depth.

use std::fmt;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, DynComparator, FixedSizeListArray, GenericListArray, MapArray, OffsetSizeTrait,
    PrimitiveArray, RecordBatch, RecordBatchOptions, StructArray, UInt32Array, make_comparator,
};
use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::compute::{CastOptions, SortOptions, cast_with_options, take};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Float32Type, Float64Type, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
pub use arrow::row::{Row, Rows};
use arrow::row::{RowConverter, SortField};

/// The type that stands for all types that hold the same values: strings are `Utf8`, binaries `Binary`, lists `List` of a
/// nullable `item`, maps have entries `key` and `value`, timestamps count microseconds and are in `UTC` or have no zone, small decimals are
/// `Decimal128`, half floats `Float32`, a dictionary is what it holds, and nested fields are nullable and have no metadata.
#[must_use]
pub fn canonical_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Float16 => DataType::Float32,
        DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::Timestamp(_, Some(_)) => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        DataType::Timestamp(_, None) => DataType::Timestamp(TimeUnit::Microsecond, None),
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => DataType::Decimal128(*precision, *scale),
        DataType::Dictionary(_, value) => canonical_type(value),
        DataType::RunEndEncoded(_, value) => canonical_type(value.data_type()),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _) => {
            DataType::List(Arc::new(Field::new("item", canonical_type(item.data_type()), true)))
        }
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(|field| canonical_field(field)).collect()),
        DataType::Map(entries, _) => canonical_map(entries),
        other => other.clone(),
    }
}

fn canonical_field(field: &Field) -> FieldRef {
    Arc::new(Field::new(field.name(), canonical_type(field.data_type()), true))
}

fn canonical_map(entries: &Field) -> DataType {
    let DataType::Struct(fields) = entries.data_type() else {
        return DataType::Map(Arc::new(entries.clone()), false);
    };
    let inner = |index: usize| fields.get(index).map_or(DataType::Null, |field| canonical_type(field.data_type()));
    let pair = Fields::from(vec![Field::new("key", inner(0), false), Field::new("value", inner(1), true)]);
    DataType::Map(Arc::new(Field::new("entries", DataType::Struct(pair), false)), false)
}

/// The same columns in [`canonical_type`]s, all of them nullable, without metadata.
#[must_use]
pub fn canonical_schema(schema: &Schema) -> SchemaRef {
    Arc::new(Schema::new(schema.fields().iter().map(|field| canonical_field(field)).collect::<Vec<_>>()))
}

/// The same rows in [`canonical_schema`].
///
/// # Errors
/// When a value does not fit: a timestamp beyond what microseconds can count.
pub fn canonical_batch(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    cast_batch(batch, &canonical_schema(batch.schema_ref()))
}

/// The columns of `schema`, taken from `batch` by name and cast to the types of `schema`; a column that the batch lacks is null.
///
/// # Errors
/// When a value cannot be cast without loss.
pub fn cast_batch(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let columns = schema
        .fields()
        .iter()
        .map(|field| match batch.column_by_name(field.name()) {
            Some(column) => cast_array(column, field.data_type()),
            None => Ok(arrow::array::new_null_array(field.data_type(), batch.num_rows())),
        })
        .collect::<Result<Vec<_>, _>>()?;
    RecordBatch::try_new_with_options(schema.clone(), columns, &RecordBatchOptions::new().with_row_count(Some(batch.num_rows())))
}

/// The array in another type of the same shape. Struct fields are found by name, those that are missing are null, at every depth.
///
/// # Errors
/// When a value cannot be cast without loss.
pub fn cast_array(array: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    if array.data_type() == to {
        return Ok(array.clone());
    }
    match (array.data_type(), to) {
        (DataType::Struct(_), DataType::Struct(fields)) => {
            let from = array.as_struct();
            let columns = fields
                .iter()
                .map(|field| match from.column_by_name(field.name()) {
                    Some(column) => cast_array(column, field.data_type()),
                    None => Ok(arrow::array::new_null_array(field.data_type(), from.len())),
                })
                .collect::<Result<Vec<_>, _>>()?;
            Ok(Arc::new(StructArray::try_new_with_length(fields.clone(), columns, from.nulls().cloned(), from.len())?))
        }
        (DataType::List(_), DataType::List(item)) => {
            let from = array.as_list::<i32>();
            let values = cast_array(from.values(), item.data_type())?;
            Ok(Arc::new(GenericListArray::<i32>::try_new(item.clone(), from.offsets().clone(), values, from.nulls().cloned())?))
        }
        (DataType::Map(_, _), DataType::Map(entries, ordered)) => {
            let from = array.as_map();
            let DataType::Struct(fields) = entries.data_type() else {
                return Err(ArrowError::CastError(format!("{to} is no map")));
            };
            let keys = cast_array(from.keys(), fields[0].data_type())?;
            let values = cast_array(from.values(), fields[1].data_type())?;
            let pairs = StructArray::try_new(fields.clone(), vec![keys, values], None)?;
            Ok(Arc::new(MapArray::try_new(entries.clone(), from.offsets().clone(), pairs, from.nulls().cloned(), *ordered)?))
        }
        (
            DataType::LargeList(item)
            | DataType::ListView(item)
            | DataType::LargeListView(item)
            | DataType::FixedSizeList(item, _),
            DataType::List(_),
        ) => {
            let plain = strict_cast(array, &DataType::List(item.clone()))?;
            cast_array(&plain, to)
        }
        _ => strict_cast(array, to),
    }
}

fn strict_cast(array: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    cast_with_options(array, to, &CastOptions { safe: false, ..CastOptions::default() })
}

/// Makes bytes of rows: two rows have equal bytes if and only if they have equal values.
#[derive(Debug)]
pub struct Encoder {
    converter: RowConverter,
    /// For each column: whether it has anything whose equal values differ in bytes.
    ambiguous: Vec<bool>,
}

impl Encoder {
    /// For rows with columns of these types, which are canonical ([`canonical_type`]).
    ///
    /// # Errors
    /// When a type has no rows (a union).
    pub fn new(types: &[DataType]) -> Result<Self, ArrowError> {
        let converter = RowConverter::new(types.iter().map(|data_type| SortField::new(data_type.clone())).collect())?;
        Ok(Self { converter, ambiguous: types.iter().map(is_ambiguous).collect() })
    }

    /// The rows of these columns, which have the types that the encoder was made for.
    ///
    /// # Errors
    /// When the types differ or the rows take more memory than can be addressed.
    pub fn encode(&self, columns: &[ArrayRef]) -> Result<Rows, ArrowError> {
        let columns = columns
            .iter()
            .zip(&self.ambiguous)
            .map(|(column, ambiguous)| if *ambiguous { unambiguous(column) } else { Ok(column.clone()) })
            .collect::<Result<Vec<_>, _>>()?;
        self.converter.convert_columns(&columns)
    }
}

/// Tells whether rows of one column have the values of rows of another, without a copy of either.
pub struct Equality(DynComparator);

impl fmt::Debug for Equality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Equality")
    }
}

impl Equality {
    /// For two columns of one type, which is canonical ([`canonical_type`]).
    ///
    /// # Errors
    /// When the types differ or cannot be compared (a union).
    pub fn new(left: &ArrayRef, right: &ArrayRef) -> Result<Self, ArrowError> {
        make_comparator(&unambiguous(left)?, &unambiguous(right)?, SortOptions::default()).map(Self)
    }

    /// Whether a row of the left column equals a row of the right one.
    #[must_use]
    pub fn equal(&self, left: usize, right: usize) -> bool {
        (self.0)(left, right).is_eq()
    }
}

fn is_ambiguous(data_type: &DataType) -> bool {
    match data_type {
        DataType::Float32 | DataType::Float64 | DataType::Map(_, _) => true,
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => is_ambiguous(item.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| is_ambiguous(field.data_type())),
        _ => false,
    }
}

/// The same rows with one form for values that are equal.
pub(crate) fn unambiguous_batch(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let columns = batch.columns().iter().map(unambiguous).collect::<Result<Vec<_>, _>>()?;
    RecordBatch::try_new_with_options(batch.schema(), columns, &RecordBatchOptions::new().with_row_count(Some(batch.num_rows())))
}

/// The same values with one NaN, one zero and the entries of maps in the order of their keys.
fn unambiguous(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    if !is_ambiguous(array.data_type()) {
        return Ok(array.clone());
    }
    Ok(match array.data_type() {
        DataType::Float32 => one_form::<Float32Type>(array, |value| if value.is_nan() { f32::NAN } else { value + 0.0 }),
        DataType::Float64 => one_form::<Float64Type>(array, |value| if value.is_nan() { f64::NAN } else { value + 0.0 }),
        DataType::List(item) => unambiguous_list::<i32>(array, item)?,
        DataType::LargeList(item) => unambiguous_list::<i64>(array, item)?,
        DataType::FixedSizeList(item, width) => {
            let list = array.as_fixed_size_list();
            let values = unambiguous(list.values())?;
            Arc::new(FixedSizeListArray::try_new_with_length(item.clone(), *width, values, list.nulls().cloned(), list.len())?)
        }
        DataType::Struct(fields) => {
            let from = array.as_struct();
            let columns = from.columns().iter().map(unambiguous).collect::<Result<Vec<_>, _>>()?;
            Arc::new(StructArray::try_new_with_length(fields.clone(), columns, from.nulls().cloned(), from.len())?)
        }
        DataType::Map(entries, _) => unambiguous_map(array.as_map(), entries)?,
        _ => array.clone(),
    })
}

fn one_form<T: ArrowPrimitiveType>(array: &ArrayRef, form: impl Fn(T::Native) -> T::Native) -> ArrayRef {
    let from = array.as_primitive::<T>();
    let changed: PrimitiveArray<T> = from.unary(form);
    Arc::new(changed)
}

fn unambiguous_list<O: OffsetSizeTrait>(array: &ArrayRef, item: &FieldRef) -> Result<ArrayRef, ArrowError> {
    let list = array.as_list::<O>();
    let values = unambiguous(list.values())?;
    Ok(Arc::new(GenericListArray::<O>::try_new(item.clone(), list.offsets().clone(), values, list.nulls().cloned())?))
}

/// Maps with their entries in the order of their keys; entries that no map refers to are left out.
fn unambiguous_map(map: &MapArray, entries: &FieldRef) -> Result<ArrayRef, ArrowError> {
    let keys = unambiguous(map.keys())?;
    let values = unambiguous(map.values())?;
    let order =
        RowConverter::new(vec![SortField::new(keys.data_type().clone())])?.convert_columns(std::slice::from_ref(&keys))?;
    let mut picked: Vec<u32> = Vec::with_capacity(keys.len());
    let mut offsets: Vec<i32> = Vec::with_capacity(map.len() + 1);
    offsets.push(0);
    for row in 0..map.len() {
        let begin = picked.len();
        if map.is_valid(row) {
            let (from, to) = (map.value_offsets()[row], map.value_offsets()[row + 1]);
            picked.extend((from..to).filter_map(|entry| u32::try_from(entry).ok()));
            picked[begin..].sort_by(|left, right| order.row(*left as usize).cmp(&order.row(*right as usize)));
        }
        offsets.push(i32::try_from(picked.len()).map_err(|_| ArrowError::OffsetOverflowError(picked.len()))?);
    }
    let picked = UInt32Array::from(picked);
    let DataType::Struct(fields) = entries.data_type() else {
        return Err(ArrowError::SchemaError(format!("the entries of a map are no structs but {}", entries.data_type())));
    };
    let columns = vec![take(&keys, &picked, None)?, take(&values, &picked, None)?];
    let nulls: Option<NullBuffer> = None;
    let pairs = StructArray::try_new(fields.clone(), columns, nulls)?;
    let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
    Ok(Arc::new(MapArray::try_new(entries.clone(), offsets, pairs, map.nulls().cloned(), false)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{
        Float32Array, Float64Array, Int32Array, Int32Builder, ListArray, MapBuilder, StringArray, StringBuilder, StringViewArray,
    };
    use arrow::datatypes::Int32Type;

    fn equal(left: &ArrayRef, right: &ArrayRef) -> Vec<bool> {
        let encoder = Encoder::new(&[left.data_type().clone()]).unwrap();
        let (a, b) = (encoder.encode(std::slice::from_ref(left)).unwrap(), encoder.encode(std::slice::from_ref(right)).unwrap());
        let same = Equality::new(left, right).unwrap();
        let rows = (0..left.len()).map(|row| {
            assert_eq!(a.row(row) == b.row(row), same.equal(row, row), "bytes and values of row {row}");
            same.equal(row, row)
        });
        rows.collect()
    }

    #[test]
    fn floats_are_equal_by_value() {
        let payload = f64::from_bits(0x7ff8_0000_0000_1234);
        let left: ArrayRef = Arc::new(Float64Array::from(vec![Some(f64::NAN), Some(-0.0), None, Some(1.0), Some(f64::INFINITY)]));
        let right: ArrayRef =
            Arc::new(Float64Array::from(vec![Some(-payload), Some(0.0), None, Some(1.5), Some(f64::NEG_INFINITY)]));
        assert_eq!(equal(&left, &right), [true, true, true, false, false]);
        let left: ArrayRef = Arc::new(Float32Array::from(vec![Some(-f32::NAN), Some(-0.0), Some(f32::MIN_POSITIVE)]));
        let right: ArrayRef = Arc::new(Float32Array::from(vec![Some(f32::NAN), Some(0.0), Some(-f32::MIN_POSITIVE)]));
        assert_eq!(equal(&left, &right), [true, true, false]);
    }

    #[test]
    fn floats_inside_lists_and_structs_are_equal_by_value() {
        let list = |values: Vec<f64>| -> ArrayRef {
            let fields = Fields::from(vec![Field::new("x", DataType::Float64, true)]);
            let length = i32::try_from(values.len()).unwrap();
            let item: ArrayRef = Arc::new(StructArray::new(fields.clone(), vec![Arc::new(Float64Array::from(values))], None));
            let field = Arc::new(Field::new("item", DataType::Struct(fields), true));
            Arc::new(ListArray::new(field, OffsetBuffer::new(vec![0, length].into()), item, None))
        };
        assert_eq!(equal(&list(vec![-0.0, f64::NAN]), &list(vec![0.0, -f64::NAN])), [true]);
        assert_eq!(equal(&list(vec![0.0]), &list(vec![0.0, 0.0])), [false]);
    }

    #[test]
    fn maps_are_equal_in_any_order_of_entries() {
        let map = |rows: &[Option<&[(&str, i32)]>]| -> ArrayRef {
            let mut builder = MapBuilder::new(None, StringBuilder::new(), Int32Builder::new());
            for row in rows {
                for (key, value) in row.unwrap_or_default() {
                    builder.keys().append_value(key);
                    builder.values().append_value(*value);
                }
                builder.append(row.is_some()).unwrap();
            }
            Arc::new(builder.finish())
        };
        let left = map(&[Some(&[("a", 1), ("b", 2)]), Some(&[]), None, Some(&[("a", 1)])]);
        let right = map(&[Some(&[("b", 2), ("a", 1)]), None, None, Some(&[("a", 2)])]);
        assert_eq!(equal(&left, &right), [true, false, true, false]);
        assert_eq!(equal(&left.slice(3, 1), &map(&[Some(&[("a", 1)])])), [true]);
    }

    #[test]
    fn an_empty_list_a_null_and_an_empty_string_differ() {
        let left: ArrayRef =
            Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(vec![Some(vec![]), Some(vec![None]), None]));
        let right: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(vec![None, Some(vec![]), None]));
        assert_eq!(equal(&left, &right), [false, false, true]);
        let left: ArrayRef = Arc::new(StringArray::from(vec![Some(""), Some("a\0")]));
        let right: ArrayRef = Arc::new(StringArray::from(vec![None, Some("a")]));
        assert_eq!(equal(&left, &right), [false, false]);
    }

    #[test]
    fn canonical_batches_have_plain_types() {
        let views: ArrayRef = Arc::new(StringViewArray::from(vec![Some("a"), None]));
        let numbers: ArrayRef = Arc::new(Int32Array::from(vec![1, 2]));
        let inner = Fields::from(vec![Field::new("s", DataType::Utf8View, true)]);
        let nested: ArrayRef = Arc::new(StructArray::new(inner.clone(), vec![views.clone()], None));
        let schema = Schema::new(vec![
            Field::new("v", DataType::Utf8View, true),
            Field::new("n", DataType::Int32, false),
            Field::new("d", DataType::Struct(inner), true),
        ]);
        let batch = RecordBatch::try_new(Arc::new(schema), vec![views, numbers, nested]).unwrap();
        let canonical = canonical_batch(&batch).unwrap();
        assert_eq!(canonical.column(0).as_string::<i32>().iter().collect::<Vec<_>>(), [Some("a"), None]);
        assert_eq!(
            canonical.schema().field(2).data_type(),
            &DataType::Struct(Fields::from(vec![Field::new("s", DataType::Utf8, true)]))
        );
        assert!(canonical.schema().field(1).is_nullable());
        assert_eq!(canonical_batch(&canonical).unwrap(), canonical);
    }

    #[test]
    fn canonical_types_are_stable() {
        let entries =
            Fields::from(vec![Field::new("keys", DataType::Utf8View, false), Field::new("vals", DataType::LargeUtf8, true)]);
        let types = [
            DataType::LargeList(Arc::new(Field::new("element", DataType::BinaryView, false))),
            DataType::Map(Arc::new(Field::new("kv", DataType::Struct(entries), false)), false),
            DataType::Timestamp(TimeUnit::Nanosecond, Some("Europe/Bucharest".into())),
            DataType::Dictionary(Box::new(DataType::UInt16), Box::new(DataType::Utf8View)),
            DataType::Decimal64(10, 2),
        ];
        for data_type in types {
            let canonical = canonical_type(&data_type);
            assert_ne!(canonical, data_type);
            assert_eq!(canonical_type(&canonical), canonical);
        }
    }

    #[test]
    fn a_cast_finds_struct_fields_by_name_and_fills_missing_ones_with_null() {
        let from = Fields::from(vec![Field::new("b", DataType::Int32, true), Field::new("a", DataType::Int32, true)]);
        let array: ArrayRef = Arc::new(StructArray::new(
            from,
            vec![Arc::new(Int32Array::from(vec![2])), Arc::new(Int32Array::from(vec![1]))],
            None,
        ));
        let to = Fields::from(vec![
            Field::new("a", DataType::Int64, true),
            Field::new("b", DataType::Int32, true),
            Field::new("c", DataType::Utf8, true),
        ]);
        let cast = cast_array(&array, &DataType::Struct(to)).unwrap();
        let cast = cast.as_struct();
        assert_eq!(cast.column(0).as_primitive::<arrow::datatypes::Int64Type>().value(0), 1);
        assert_eq!(cast.column(1).as_primitive::<Int32Type>().value(0), 2);
        assert!(cast.column(2).is_null(0));
    }

    #[test]
    fn a_value_that_does_not_fit_is_an_error() {
        let array: ArrayRef = Arc::new(arrow::array::Int64Array::from(vec![i64::MAX]));
        assert!(cast_array(&array, &DataType::Int32).is_err());
    }
}
