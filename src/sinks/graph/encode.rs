//! Arrow columns as values that a property graph can hold; pure, and without a driver's types. The way back is `decode`.
//!
//! A property is a boolean, an integer, a float, a text, a date, a moment or a list of one of these. What else Arrow has is
//! held as text: decimals as digits, bytes in hexadecimal, structs, maps, lists of lists and lists with a null in them as
//! JSON. The target's type says how a text is read back, so nothing is lost.

use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Decimal256Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type,
    UInt64Type,
};
use serde_json::Value as Json;

use super::calendar::{date_text, timestamp_text};

/// Bytes of the longest property value: the embedded engine refuses values above 16 MiB.
pub(crate) const VALUE_BYTES_MAX: usize = 16 * 1024 * 1024 - 1024;

/// A value on its way into or out of the graph.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Cell {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Arc<str>),
    /// Days since 1970-01-01.
    Date(i32),
    /// Microseconds since 1970-01-01, of a moment (`true`) or of a clock on some wall.
    Timestamp(i64, bool),
    List(Vec<Cell>),
    Map(Vec<(Arc<str>, Cell)>),
}

impl Cell {
    pub(crate) fn text(text: &str) -> Self {
        Self::Text(Arc::from(text))
    }

    pub(crate) fn as_int(&self) -> Option<i64> {
        if let Self::Int(value) = self { Some(*value) } else { None }
    }

    pub(crate) fn as_text(&self) -> Option<&str> {
        if let Self::Text(value) = self { Some(value) } else { None }
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }
}

/// The cast that makes a type one that the graph can hold; none for a type that it can.
pub(crate) fn cast_for(data_type: &DataType, column: &str) -> Option<String> {
    match data_type {
        DataType::Boolean
        | DataType::Null
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::UInt8
        | DataType::UInt16
        | DataType::UInt32
        | DataType::UInt64
        | DataType::Float32
        | DataType::Float64
        | DataType::Utf8
        | DataType::LargeUtf8
        | DataType::Binary
        | DataType::LargeBinary
        | DataType::Date32
        | DataType::Decimal128(..)
        | DataType::Decimal256(..) => None,
        DataType::Timestamp(TimeUnit::Nanosecond, zone) => {
            let zone = zone.as_ref().map_or("None".to_owned(), |zone| format!("Some(\"{zone}\")"));
            Some(format!("arrow_cast({column}, 'Timestamp(Microsecond, {zone})')"))
        }
        DataType::Timestamp(..) => None,
        DataType::List(item) => cast_for(item.data_type(), column),
        DataType::Struct(fields) => {
            fields.iter().find_map(|field| cast_for(field.data_type(), &format!("{column}['{}']", field.name())))
        }
        DataType::Map(entries, _) => cast_for(entries.data_type(), column),
        DataType::Float16 => Some(format!("CAST({column} AS DOUBLE)")),
        DataType::Date64 => Some(format!("CAST({column} AS DATE)")),
        _ => Some(format!("CAST({column} AS VARCHAR)")),
    }
}

/// Whether a type can identify something: it has one text for each value and compares exactly.
pub(crate) fn is_key_type(data_type: &DataType) -> bool {
    use DataType::{
        Binary, Boolean, Date32, Decimal128, Decimal256, Int8, Int16, Int32, Int64, LargeBinary, LargeUtf8, Timestamp,
    };
    use DataType::{UInt8, UInt16, UInt32, UInt64, Utf8};
    matches!(
        data_type,
        Boolean
            | Int8
            | Int16
            | Int32
            | Int64
            | UInt8
            | UInt16
            | UInt32
            | UInt64
            | Utf8
            | LargeUtf8
            | Binary
            | LargeBinary
            | Date32
            | Decimal128(..)
            | Decimal256(..)
    ) || matches!(data_type, Timestamp(unit, _) if *unit != TimeUnit::Nanosecond)
}

/// The property value of one row of a column.
///
/// # Errors
/// In words, when the graph cannot hold this value though it can hold the column's type.
pub(crate) fn property(column: &dyn Array, row: usize) -> Result<Cell, String> {
    let value = cell(column, row)?;
    let plain = match column.data_type() {
        DataType::Struct(_) | DataType::Map(..) => value.is_null(),
        DataType::List(item) => match &value {
            Cell::List(items) => !item.data_type().is_nested() && !items.iter().any(Cell::is_null),
            _ => true,
        },
        _ => true,
    };
    let value = if plain { value } else { Cell::Text(json(&value).to_string().into()) };
    let bytes = match &value {
        Cell::Text(text) => text.len(),
        Cell::List(items) => items.iter().map(|item| item.as_text().map_or(16, |text| text.len() + 16)).sum(),
        _ => 0,
    };
    if bytes > VALUE_BYTES_MAX {
        return Err(format!("a value of {bytes} bytes is longer than {VALUE_BYTES_MAX}"));
    }
    Ok(value)
}

/// The value of one row as a tree.
fn cell(column: &dyn Array, row: usize) -> Result<Cell, String> {
    if column.is_null(row) {
        return Ok(Cell::Null);
    }
    Ok(match column.data_type() {
        DataType::Null => Cell::Null,
        DataType::Boolean => Cell::Bool(column.as_boolean().value(row)),
        DataType::Int8 => Cell::Int(column.as_primitive::<Int8Type>().value(row).into()),
        DataType::Int16 => Cell::Int(column.as_primitive::<Int16Type>().value(row).into()),
        DataType::Int32 => Cell::Int(column.as_primitive::<Int32Type>().value(row).into()),
        DataType::Int64 => Cell::Int(column.as_primitive::<Int64Type>().value(row)),
        DataType::UInt8 => Cell::Int(column.as_primitive::<UInt8Type>().value(row).into()),
        DataType::UInt16 => Cell::Int(column.as_primitive::<UInt16Type>().value(row).into()),
        DataType::UInt32 => Cell::Int(column.as_primitive::<UInt32Type>().value(row).into()),
        DataType::UInt64 => {
            let value = column.as_primitive::<UInt64Type>().value(row);
            Cell::Int(i64::try_from(value).map_err(|_| format!("{value} is above the largest integer of a graph, {}", i64::MAX))?)
        }
        DataType::Float32 => Cell::Float(column.as_primitive::<Float32Type>().value(row).into()),
        DataType::Float64 => Cell::Float(column.as_primitive::<Float64Type>().value(row)),
        DataType::Utf8 => Cell::text(column.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => Cell::text(column.as_string::<i64>().value(row)),
        DataType::Binary => Cell::Text(hex(column.as_binary::<i32>().value(row)).into()),
        DataType::LargeBinary => Cell::Text(hex(column.as_binary::<i64>().value(row)).into()),
        DataType::Date32 => Cell::Date(column.as_primitive::<Date32Type>().value(row)),
        DataType::Decimal128(..) => Cell::Text(column.as_primitive::<Decimal128Type>().value_as_string(row).into()),
        DataType::Decimal256(..) => Cell::Text(column.as_primitive::<Decimal256Type>().value_as_string(row).into()),
        DataType::Timestamp(unit, zone) => {
            let (value, factor) = match unit {
                TimeUnit::Second => (column.as_primitive::<TimestampSecondType>().value(row), 1_000_000),
                TimeUnit::Millisecond => (column.as_primitive::<TimestampMillisecondType>().value(row), 1_000),
                TimeUnit::Microsecond => (column.as_primitive::<TimestampMicrosecondType>().value(row), 1),
                TimeUnit::Nanosecond => return Err("nanoseconds are finer than the graph's microseconds".to_owned()),
            };
            let micros = value.checked_mul(factor).ok_or_else(|| format!("the timestamp {value} is out of range"))?;
            Cell::Timestamp(micros, zone.is_some())
        }
        DataType::List(_) => Cell::List(cells_of(column.as_list::<i32>().value(row).as_ref())?),
        DataType::Struct(fields) => {
            let columns = column.as_struct();
            let entries = fields
                .iter()
                .enumerate()
                .map(|(index, field)| Ok((Arc::from(field.name().as_str()), cell(columns.column(index).as_ref(), row)?)));
            Cell::Map(entries.collect::<Result<_, String>>()?)
        }
        DataType::Map(..) => {
            let entries = column.as_map().value(row);
            let pairs = (0..entries.len()).map(|index| {
                Ok(Cell::List(vec![cell(entries.column(0).as_ref(), index)?, cell(entries.column(1).as_ref(), index)?]))
            });
            Cell::List(pairs.collect::<Result<_, String>>()?)
        }
        other => return Err(format!("values of type {other} cannot be held")),
    })
}

fn cells_of(array: &dyn Array) -> Result<Vec<Cell>, String> {
    (0..array.len()).map(|row| cell(array, row)).collect()
}

/// A value as JSON: what JSON lacks (`NaN`, infinities, dates) is text.
pub(crate) fn json(value: &Cell) -> Json {
    match value {
        Cell::Null => Json::Null,
        Cell::Bool(value) => Json::Bool(*value),
        Cell::Int(value) => Json::from(*value),
        Cell::Float(value) => serde_json::Number::from_f64(*value).map_or_else(|| Json::from(value.to_string()), Json::Number),
        Cell::Text(value) => Json::from(value.as_ref()),
        Cell::Date(days) => Json::from(date_text(i64::from(*days))),
        Cell::Timestamp(micros, utc) => Json::from(timestamp_text(*micros, *utc)),
        Cell::List(items) => Json::Array(items.iter().map(json).collect()),
        Cell::Map(entries) => Json::Object(entries.iter().map(|(name, value)| (name.to_string(), json(value))).collect()),
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

/// A text for some key values that compares as the values do, byte by byte here and in the units of UTF-16 that servers compare:
/// integers by size, texts by their characters, and value by value. No two different keys have one text.
pub(crate) fn key_text<'a>(values: impl IntoIterator<Item = &'a Cell>) -> String {
    let mut text = String::new();
    for value in values {
        match value {
            // Like no text, in which `\u{1}` follows every zero.
            Cell::Null => text.push_str("\0\u{2}"),
            Cell::Bool(value) => text.push(if *value { '1' } else { '0' }),
            Cell::Int(value) | Cell::Timestamp(value, _) => push_ordered(&mut text, *value),
            Cell::Date(value) => push_ordered(&mut text, i64::from(*value)),
            Cell::Text(value) => text.push_str(&value.replace('\0', "\0\u{1}")),
            other => text.push_str(&json(other).to_string()),
        }
        text.push_str("\0\0");
    }
    if text.chars().any(|one| one >= LAST) { text.chars().flat_map(below).collect() } else { text }
}

/// The last character of one unit of UTF-16. The characters of two units come after it, and their units before.
const LAST: char = '\u{ffff}';

/// A character as characters of one unit each, which compare as the character does.
fn below(one: char) -> impl Iterator<Item = char> {
    let place = u32::from(one);
    let units = match place.checked_sub(0x1_0000) {
        Some(place) => [Some(LAST), char::from_u32(0x400 + (place >> 10)), char::from_u32(place & 0x3ff)],
        None if one == LAST => [Some(LAST), Some('\0'), None],
        None => [Some(one), None, None],
    };
    units.into_iter().flatten()
}

/// Appends an integer so that texts compare as integers do: moved to begin at 0, in 20 digits.
fn push_ordered(text: &mut String, value: i64) {
    use std::fmt::Write as _;
    // Writing into a `String` cannot fail.
    let _ = write!(text, "{:020}", (value as u64) ^ (1 << 63));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn texts_of_keys_compare_as_the_keys_do(
            one in (any::<i64>(), "[\0\u{1}a\u{ff5e}\u{fffe}\u{ffff}\u{10000}😀\u{10ffff}]{0,3}", any::<i32>(), "[\0\u{1}ab]{0,3}"),
            other in (any::<i64>(), "[\0\u{1}a\u{ff5e}\u{fffe}\u{ffff}\u{10000}😀\u{10ffff}]{0,3}", any::<i32>(), "[\0\u{1}ab]{0,3}"),
            same in any::<bool>(),
        ) {
            let other = if same { (one.0, other.1, other.2, other.3) } else { other };
            let text = |key: &(i64, String, i32, String)| {
                key_text(&[Cell::Int(key.0), Cell::text(&key.1), Cell::Date(key.2), Cell::text(&key.3)])
            };
            prop_assert_eq!(text(&one).cmp(&text(&other)), one.cmp(&other));
            prop_assert_eq!(text(&one).encode_utf16().cmp(text(&other).encode_utf16()), one.cmp(&other));
        }
    }

    #[test]
    fn null_is_no_text() {
        let texts = [vec![Cell::Null, Cell::text("")], vec![Cell::text(""), Cell::Null], vec![Cell::text("\0"), Cell::text("")]];
        let texts: std::collections::BTreeSet<String> = texts.iter().map(key_text).collect();
        assert_eq!(texts.len(), 3);
    }
}
