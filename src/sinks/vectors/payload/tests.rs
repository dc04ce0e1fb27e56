//! Every type there and back, through the text of JSON.

use arrow::array::{
    Date32Array, Decimal128Array, Decimal256Array, Float32Array, Float64Array, Int8Array, Int32Array, Int64Array, Int64Builder,
    ListBuilder, MapBuilder, StringBuilder, TimestampMicrosecondArray, TimestampNanosecondArray, TimestampSecondArray,
    UInt64Array,
};
use arrow::datatypes::{Field, i256};

use super::*;

fn there_and_back(column: &ArrayRef) -> (Vec<Value>, ArrayRef) {
    assert_eq!(supported(column.data_type()), Ok(()), "{}", column.data_type());
    let values: Vec<Value> = (0..column.len()).map(|row| encode(column, row).unwrap()).collect();
    let read: Vec<Value> = values.iter().map(|value| serde_json::from_str(&value.to_string()).unwrap()).collect();
    let options: Vec<Option<&Value>> = read.iter().map(|value| Some(value).filter(|value| !value.is_null())).collect();
    let back =
        decode(column.data_type(), &options, &mut |i| panic!("value {i} of {} is strange: {}", column.data_type(), read[i]));
    (values, back.unwrap())
}

fn list(values: &[Option<&[Option<i64>]>]) -> ArrayRef {
    let mut builder = ListBuilder::new(Int64Builder::new());
    for value in values {
        match value {
            Some(items) => builder.append_value(items.iter().copied()),
            None => builder.append_null(),
        }
    }
    Arc::new(builder.finish())
}

fn structs_of_lists() -> ArrayRef {
    let lists = list(&[Some(&[Some(1), None]), None, Some(&[])]);
    let names: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None, Some("")]));
    let fields =
        Fields::from(vec![Field::new("items", lists.data_type().clone(), true), Field::new("name", DataType::Utf8, true)]);
    Arc::new(StructArray::new(fields, vec![lists, names], Some(NullBuffer::from(vec![true, true, false]))))
}

fn lists_of_structs() -> ArrayRef {
    let items = structs_of_lists();
    let item = Arc::new(Field::new("item", items.data_type().clone(), true));
    Arc::new(ListArray::new(item, OffsetBuffer::from_lengths([2, 0, 1]), items, Some(NullBuffer::from(vec![true, false, true]))))
}

fn map() -> ArrayRef {
    let mut builder = MapBuilder::new(None, StringBuilder::new(), Int64Builder::new());
    builder.keys().append_value("b");
    builder.values().append_value(1);
    builder.keys().append_value("a");
    builder.values().append_null();
    builder.append(true).unwrap();
    builder.append(true).unwrap();
    builder.append(false).unwrap();
    Arc::new(builder.finish())
}

#[test]
fn every_type_is_read_as_it_was_written() {
    let columns: Vec<(ArrayRef, &str)> = vec![
        (Arc::new(NullArray::new(2)), "null"),
        (Arc::new(BooleanArray::from(vec![Some(true), Some(false), None])), "true"),
        (Arc::new(Int8Array::from(vec![Some(i8::MIN), Some(i8::MAX), None])), "-128"),
        (Arc::new(Int32Array::from(vec![i32::MIN, i32::MAX])), "-2147483648"),
        (Arc::new(Int64Array::from(vec![i64::MIN, i64::MAX, 9_007_199_254_740_993])), "-9223372036854775808"),
        (Arc::new(UInt64Array::from(vec![u64::MAX, 0])), "18446744073709551615"),
        (Arc::new(Float32Array::from(vec![0.1, f32::MIN_POSITIVE, f32::MAX, f32::INFINITY])), "0.10000000149011612"),
        (Arc::new(Float64Array::from(vec![0.1, 5e-324, f64::MAX, -0.0, f64::NEG_INFINITY])), "0.1"),
        (Arc::new(StringArray::from(vec!["a\0'\"\\`é🎬 שלום", "", &"x".repeat(1 << 20)])), "\"a\\u0000'\\\"\\\\`é🎬 שלום\""),
        (Arc::new(BinaryArray::from_opt_vec(vec![Some(b"\x00\xff"), Some(b""), None])), "\"AP8=\""),
        (Arc::new(Date32Array::from(vec![-20_051, 0, i32::MIN, i32::MAX])), "\"1915-02-08\""),
        (Arc::new(TimestampMicrosecondArray::from(vec![-1, 0, 1, i64::MAX])), "\"1969-12-31T23:59:59.999999\""),
        (Arc::new(TimestampMicrosecondArray::from(vec![-1, i64::MIN]).with_timezone("UTC")), "\"1969-12-31T23:59:59.999999Z\""),
        (Arc::new(TimestampNanosecondArray::from(vec![1, i64::MIN, i64::MAX])), "\"1970-01-01T00:00:00.000000001\""),
        (Arc::new(TimestampSecondArray::from(vec![-1, 253_402_300_800])), "\"1969-12-31T23:59:59\""),
        (Arc::new(Decimal128Array::from(vec![1250, -1, 0]).with_precision_and_scale(10, 2).unwrap()), "\"12.50\""),
        (
            Arc::new(Decimal128Array::from(vec![10_i128.pow(38) - 1]).with_precision_and_scale(38, 38).unwrap()),
            "\"0.99999999999999999999999999999999999999\"",
        ),
        (list(&[Some(&[Some(1), None]), None, Some(&[])]), "[1,null]"),
        (structs_of_lists(), r#"{"items":[1,null],"name":"a"}"#),
        (lists_of_structs(), r#"[{"items":[1,null],"name":"a"},{"items":null,"name":null}]"#),
        (map(), r#"[["b",1],["a",null]]"#),
    ];
    for (column, first) in columns {
        let (values, back) = there_and_back(&column);
        assert_eq!(values[0].to_string(), first);
        assert_eq!(&back, &column, "{}", column.data_type());
    }
    let wide = Decimal256Array::from(vec![Some(i256::from_i128(i128::MIN)), None]).with_precision_and_scale(76, 10).unwrap();
    let wide: ArrayRef = Arc::new(wide);
    assert_eq!(&there_and_back(&wide).1, &wide);
}

#[test]
fn floats_that_json_lacks_are_text() {
    let column: ArrayRef = Arc::new(Float64Array::from(vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY]));
    let (values, back) = there_and_back(&column);
    assert_eq!(Value::from(values).to_string(), r#"["NaN","Infinity","-Infinity"]"#);
    let back = back.as_primitive::<Float64Type>();
    assert!(back.value(0).is_nan() && back.value(1) == f64::INFINITY && back.value(2) == f64::NEG_INFINITY);
}

#[test]
fn values_of_another_type_are_told_and_become_null() {
    let list = DataType::List(Arc::new(Field::new("item", DataType::Int64, true)));
    for (data_type, value) in [
        (DataType::Int64, Value::from("1")),
        (DataType::Int64, Value::from(1.5)),
        (DataType::Int8, Value::from(128)),
        (DataType::Utf8, Value::from(1)),
        (DataType::Float64, Value::from("x")),
        (DataType::Date32, Value::from("1970-02-30")),
        (DataType::Binary, Value::from("?")),
        (DataType::Decimal128(4, 2), Value::from("123.45")),
        (list.clone(), Value::from(1)),
        (list, Value::from(vec![Value::from("x")])),
    ] {
        let mut strange = Vec::new();
        let column = decode(&data_type, &[None, Some(&value)], &mut |i| strange.push(i)).unwrap();
        assert_eq!(strange, [1], "{data_type} {value}");
        assert_eq!(column.len(), 2);
    }
}

#[test]
fn types_without_a_payload_value_come_with_a_cast() {
    for (data_type, cast) in [
        (DataType::Float16, "float"),
        (DataType::Date64, "date"),
        (DataType::LargeBinary, "bytea"),
        (DataType::LargeUtf8, "varchar"),
        (DataType::Duration(TimeUnit::Second), "varchar"),
        (DataType::List(Arc::new(Field::new("item", DataType::Float16, true))), "float"),
    ] {
        assert_eq!(supported(&data_type), Err(cast));
    }
}
