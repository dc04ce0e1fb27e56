//! Types, identifiers, literals and statements of ClickHouse as text. Pure: no driver, no async, no rows.

use arrow::datatypes::{DataType, Field, TimeUnit};

use super::NAME;
use super::site::Site;
use crate::mapping::target::{Dimension, Shape, Target};
use crate::sinks::SinkError;

/// The column that orders what was written of one row: the highest wins.
pub(super) const VERSION: &str = "_version";
/// The column that marks a tombstone.
pub(super) const DELETED: &str = "_deleted";
/// The table of checkpoints.
pub(super) const CHECKPOINTS: &str = "_distributary_checkpoint";
/// The suffix of the view that shows what a table holds now.
pub(super) const CURRENT: &str = "_current";
/// The name under which a statement reads the keys it was given.
pub(super) const KEYS: &str = "_distributary_keys";

/// An identifier in backticks.
pub(super) fn quote(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 2);
    out.push('`');
    for c in name.chars() {
        if matches!(c, '`' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('`');
    out
}

/// A string in quotes.
pub(super) fn literal(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('\'');
    for c in text.chars() {
        match c {
            '\'' | '\\' => out.extend(['\\', c]),
            '\0' => out.push_str("\\0"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c => out.push(c),
        }
    }
    out.push('\'');
    out
}

/// Names in backticks with commas between them.
pub(super) fn quoted_list<S: AsRef<str>>(names: &[S]) -> String {
    names.iter().map(|name| quote(name.as_ref())).collect::<Vec<_>>().join(", ")
}

/// Names in backticks as a tuple, also where there is one.
pub(super) fn tuple<S: AsRef<str>>(names: &[S]) -> String {
    format!("tuple({})", quoted_list(names))
}

/// `database.table`.
pub(super) fn qualified(database: &str, table: &str) -> String {
    format!("{}.{}", quote(database), quote(table))
}

/// Why a type has no place in ClickHouse, and what to write in the query instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unsupported {
    /// What is wrong, in words.
    pub(super) reason: String,
    /// The SQL type to cast to.
    pub(super) cast: &'static str,
}

fn unsupported(data_type: &DataType, cast: &'static str) -> Unsupported {
    Unsupported { reason: format!("ClickHouse has no type for {data_type}"), cast }
}

/// The ClickHouse type that holds values of `data_type`; `Nullable` where that is asked for and possible.
pub(super) fn column_type(data_type: &DataType, nullable: bool) -> Result<String, Unsupported> {
    let scalar = match data_type {
        DataType::Boolean => "Bool".to_owned(),
        DataType::Int8 => "Int8".to_owned(),
        DataType::Int16 => "Int16".to_owned(),
        DataType::Int32 => "Int32".to_owned(),
        DataType::Int64 => "Int64".to_owned(),
        DataType::UInt8 => "UInt8".to_owned(),
        DataType::UInt16 => "UInt16".to_owned(),
        DataType::UInt32 => "UInt32".to_owned(),
        DataType::UInt64 => "UInt64".to_owned(),
        DataType::Float32 => "Float32".to_owned(),
        DataType::Float64 => "Float64".to_owned(),
        DataType::Utf8 | DataType::Binary => "String".to_owned(),
        DataType::Date32 => "Date32".to_owned(),
        // A timestamp without a zone is a clock's face: kept and shown as if it were UTC, whatever zone a reader's session has.
        DataType::Timestamp(unit, _) => format!("DateTime64({}, 'UTC')", digits(*unit)),
        DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale) => {
            if *scale < 0 || u8::try_from(*scale).is_ok_and(|scale| scale > *precision) {
                return Err(unsupported(data_type, "DECIMAL(38, 0)"));
            }
            format!("Decimal({precision}, {scale})")
        }
        DataType::List(item) => {
            return Ok(format!("Array({})", column_type(item.data_type(), true)?));
        }
        DataType::Struct(fields) => return tuple_type(fields.iter().map(AsRef::as_ref)),
        DataType::Map(entries, _) => return map_type(entries),
        DataType::Float16 => return Err(unsupported(data_type, "REAL")),
        DataType::Date64 => return Err(unsupported(data_type, "DATE")),
        DataType::Decimal32(..) | DataType::Decimal64(..) => {
            return Err(unsupported(data_type, "DECIMAL(38, 10)"));
        }
        DataType::LargeUtf8 | DataType::Utf8View | DataType::Dictionary(..) => {
            return Err(unsupported(data_type, "VARCHAR"));
        }
        DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            return Err(unsupported(data_type, "BYTEA"));
        }
        DataType::Duration(_) | DataType::Interval(_) | DataType::Time32(_) | DataType::Time64(_) => {
            return Err(unsupported(data_type, "VARCHAR"));
        }
        _ => return Err(unsupported(data_type, "VARCHAR")),
    };
    Ok(if nullable { format!("Nullable({scalar})") } else { scalar })
}

/// How many digits of a second a unit has.
fn digits(unit: TimeUnit) -> u8 {
    match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 3,
        TimeUnit::Microsecond => 6,
        TimeUnit::Nanosecond => 9,
    }
}

fn tuple_type<'a>(fields: impl Iterator<Item = &'a Field>) -> Result<String, Unsupported> {
    let mut parts: Vec<String> = Vec::new();
    let mut names: Vec<&str> = Vec::new();
    for field in fields {
        if field.name().is_empty() || names.contains(&field.name().as_str()) {
            let reason = format!("a struct has a field name that is empty or there twice: `{}`", field.name());
            return Err(Unsupported { reason, cast: "VARCHAR" });
        }
        names.push(field.name());
        parts.push(format!("{} {}", quote(field.name()), column_type(field.data_type(), true)?));
    }
    if parts.is_empty() {
        return Err(Unsupported { reason: "a struct without fields holds nothing".to_owned(), cast: "VARCHAR" });
    }
    Ok(format!("Tuple({})", parts.join(", ")))
}

fn map_type(entries: &Field) -> Result<String, Unsupported> {
    let DataType::Struct(fields) = entries.data_type() else {
        return Err(unsupported(entries.data_type(), "VARCHAR"));
    };
    let [key, value] = fields.iter().as_slice() else {
        return Err(unsupported(entries.data_type(), "VARCHAR"));
    };
    if is_nested(key.data_type()) || matches!(key.data_type(), DataType::Float32 | DataType::Float64) {
        let reason = format!("a map's keys cannot be {}", key.data_type());
        return Err(Unsupported { reason, cast: "VARCHAR" });
    }
    Ok(format!("Map({}, {})", column_type(key.data_type(), false)?, column_type(value.data_type(), true)?))
}

/// Longest name of a table: the engine makes file names of it, with the view's ending, the database and 45 bytes of its own.
const NAME_BYTES_MAX: usize = 160;

/// Whether ClickHouse has no null for the type itself.
pub(super) fn is_nested(data_type: &DataType) -> bool {
    matches!(data_type, DataType::List(_) | DataType::Struct(_) | DataType::Map(..))
}

/// The columns of the sort key: the Silver key first, so that everything of one record lies together.
pub(super) fn sort_key(target: &Target) -> Vec<String> {
    let mut columns = target.record_key.clone();
    columns.extend(target.key.iter().filter(|name| !target.record_key.contains(name)).cloned());
    columns
}

/// Names and types of the target's columns, without the sink's own.
pub(super) fn columns(target: &Target) -> Result<Vec<(String, String)>, SinkError> {
    let mut out = Vec::with_capacity(target.schema.fields().len());
    for field in target.schema.fields() {
        let nullable = !target.key.contains(field.name());
        let text = column_type(field.data_type(), nullable).map_err(|error| refused(target, field, &error))?;
        out.push((field.name().clone(), text));
    }
    Ok(out)
}

fn refused(target: &Target, field: &Field, error: &Unsupported) -> SinkError {
    let name = field.name();
    SinkError::stop(
        NAME,
        format!(
            "{}: column `{name}` is {}: {}. Write CAST({name} AS {}) AS {name} in the projection",
            target.name,
            field.data_type(),
            error.reason,
            error.cast
        ),
    )
}

/// Whether the target can be a table here: its shape, names and types.
pub(crate) fn check(target: &Target) -> Result<(), SinkError> {
    let stop = |message: String| Err(SinkError::stop(NAME, format!("{}: {message}", target.name)));
    if target.shape != Shape::Table {
        return stop("only tables can be held here".to_owned());
    }
    if target.name.starts_with("_distributary") || target.name.ends_with(CURRENT) {
        return stop(format!(
            "names that begin with `_distributary` or end in `{CURRENT}` are the sink's own: choose another name"
        ));
    }
    // In file names, a byte that is no letter, digit or underscore becomes three.
    let bytes: usize = target.name.bytes().map(|b| if b.is_ascii_alphanumeric() || b == b'_' { 1 } else { 3 }).sum();
    if bytes > NAME_BYTES_MAX {
        return stop(format!("the name takes {bytes} bytes in file names, more than {NAME_BYTES_MAX}: choose a shorter one"));
    }
    if target.key.is_empty() || target.record_key.is_empty() {
        return stop("a table needs a key that contains the Silver key".to_owned());
    }
    for name in target.key.iter().chain(&target.record_key) {
        let Ok(field) = target.schema.field_with_name(name) else {
            return stop(format!("the key column `{name}` is not a column of the query"));
        };
        if is_nested(field.data_type()) {
            return stop(format!(
                "the key column `{name}` is {}: a key column holds one value, cast it to VARCHAR",
                field.data_type()
            ));
        }
    }
    for field in target.schema.fields() {
        if matches!(field.name().as_str(), VERSION | DELETED) {
            return stop(format!("the column `{}` is the sink's own: name it otherwise with AS", field.name()));
        }
    }
    columns(target).map(|_| ())
}

/// The statement that makes the target's table.
pub(super) fn create_table(site: &Site, target: &Target) -> Result<String, SinkError> {
    let mut parts: Vec<String> = columns(target)?.iter().map(|(name, kind)| format!("{} {kind}", quote(name))).collect();
    parts.push(format!("{} UInt64", quote(VERSION)));
    parts.push(format!("{} UInt8 DEFAULT 0", quote(DELETED)));
    Ok(format!(
        "CREATE TABLE IF NOT EXISTS {} ({}) ENGINE = {} ORDER BY ({}){}",
        site.made(&target.name),
        parts.join(", "),
        site.engine(&target.name, &[VERSION, DELETED]),
        quoted_list(&sort_key(target)),
        site.settings()
    ))
}

/// The statement that makes the table of checkpoints.
pub(super) fn create_checkpoints(site: &Site) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {} (lane String, checkpoint String, revision UInt64) ENGINE = {} ORDER BY lane{}",
        site.made(CHECKPOINTS),
        site.engine(CHECKPOINTS, &["revision"]),
        site.settings()
    )
}

/// The statement that stores the checkpoints of the table that is sent along, each where the one before it is the last.
pub(super) fn store_checkpoints(database: &str) -> String {
    let (table, new) = (qualified(database, CHECKPOINTS), quote(KEYS));
    format!(
        "INSERT INTO {table} (lane, checkpoint, revision) SELECT lane, checkpoint, revision FROM {new} \
         WHERE (lane, toUInt64(revision - 1)) IN (SELECT lane, max(revision) FROM {table} GROUP BY lane) \
         OR (revision = 1 AND lane NOT IN (SELECT lane FROM {table}))"
    )
}

/// The query of the view that shows what a target holds now.
pub(super) fn current_view(database: &str, target: &Target) -> String {
    let names: Vec<&String> = target.schema.fields().iter().map(|field| field.name()).collect();
    format!("SELECT {} FROM {} FINAL", quoted_list(&names), qualified(database, &target.name))
}

/// The query of a dimension's view: for each key the columns of the row with the least Silver key.
///
/// Where `comparable`, the bridges' Silver keys are compared with each other, and the earlier bridge wins between equals. Where they
/// are of different kinds, the earlier bridge wins.
pub(super) fn dimension_view(database: &str, dimension: &Dimension, comparable: bool) -> String {
    let key = quoted_list(&dimension.key);
    if dimension.columns.is_empty() {
        let parts: Vec<String> = dimension
            .bridges
            .iter()
            .map(|(table, _)| format!("SELECT {key} FROM {}", qualified(database, &format!("{table}{CURRENT}"))))
            .collect();
        return format!("SELECT DISTINCT {key} FROM ({})", parts.join(" UNION ALL "));
    }
    // A tuple is never null, so that argMin passes over no row.
    let parts: Vec<String> = dimension
        .bridges
        .iter()
        .enumerate()
        .map(|(index, (table, silver))| {
            let from = qualified(database, &format!("{table}{CURRENT}"));
            let (row, silver) = (tuple(&dimension.columns), tuple(silver));
            if comparable {
                format!("SELECT {key}, {row} AS _row, tuple({silver}, {index}) AS _order FROM {from}")
            } else {
                format!("SELECT {key}, argMin({row}, {silver}) AS _row, {index} AS _order FROM {from} GROUP BY {key}")
            }
        })
        .collect();
    let columns: Vec<String> = dimension
        .columns
        .iter()
        .enumerate()
        .map(|(index, name)| format!("tupleElement(_least, {}) AS {}", index + 1, quote(name)))
        .collect();
    format!(
        "SELECT {key}, {} FROM (SELECT {key}, argMin(_row, _order) AS _least FROM ({}) GROUP BY {key})",
        columns.join(", "),
        parts.join(" UNION ALL ")
    )
}

/// The statement that makes or replaces a view. Its text is kept as the comment, so that it can be told whether it changed.
pub(super) fn create_view(site: &Site, name: &str, query: &str) -> String {
    format!("CREATE OR REPLACE VIEW {} AS {query} COMMENT {}", site.made(name), literal(query))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::Schema;

    use super::super::config::ServerOptions;
    use super::*;
    use crate::sinks::Class;

    fn target(fields: Vec<Field>) -> Target {
        Target {
            table: "movies".into(),
            name: "movie_genre".into(),
            shape: Shape::Table,
            schema: Arc::new(Schema::new(fields)),
            key: vec!["genre_id".into(), "movie_id".into()],
            record_key: vec!["movie_id".into()],
            fingerprint: "f".into(),
        }
    }

    fn keyed(mut more: Vec<Field>) -> Target {
        let mut fields = vec![Field::new("genre_id", DataType::Int32, false), Field::new("movie_id", DataType::Int64, false)];
        fields.append(&mut more);
        target(fields)
    }

    #[test]
    fn hostile_names_and_texts_stay_inside_their_quotes() {
        assert_eq!(quote("a`b\\c"), "`a\\`b\\\\c`");
        assert_eq!(literal("it's\\ \0\n'; DROP"), "'it\\'s\\\\ \\0\\n\\'; DROP'");
    }

    #[test]
    fn the_statements_of_a_target() {
        let target = keyed(vec![
            Field::new("name", DataType::Utf8, false),
            Field::new("tags", DataType::List(Arc::new(Field::new("item", DataType::Utf8, true))), true),
        ]);
        assert_eq!(
            create_table(&Site::new("default", true), &target).unwrap(),
            "CREATE TABLE IF NOT EXISTS `default`.`movie_genre` (`genre_id` Int32, `movie_id` Int64, `name` Nullable(String), \
             `tags` Array(Nullable(String)), `_version` UInt64, `_deleted` UInt8 DEFAULT 0) \
             ENGINE = ReplacingMergeTree(`_version`, `_deleted`) ORDER BY (`movie_id`, `genre_id`) \
             SETTINGS fsync_after_insert = 1, fsync_part_directory = 1"
        );
        assert_eq!(
            current_view("default", &target),
            "SELECT `genre_id`, `movie_id`, `name`, `tags` FROM `default`.`movie_genre` FINAL"
        );
    }

    #[test]
    fn the_statements_of_a_cluster() {
        let mut options = ServerOptions::at("http://localhost:8123".parse().unwrap());
        options.database = "films".into();
        options.cluster = Some("main".into());
        options.engine =
            Some("ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{table}', '{replica}', _version, _deleted)".into());
        let site = Site::of_server(&options, false).unwrap();
        let statements = [
            site.create_database(),
            create_table(&site, &keyed(vec![])).unwrap(),
            create_checkpoints(&site),
            create_view(&site, "movie_genre_current", "SELECT 1"),
        ];
        let engine = |table: &str, columns: &str| {
            format!("ReplicatedReplacingMergeTree('/clickhouse/tables/{{shard}}/{table}', '{{replica}}', {columns})")
        };
        let fsync = "SETTINGS fsync_after_insert = 1, fsync_part_directory = 1";
        let expected = [
            "CREATE DATABASE IF NOT EXISTS `films` ON CLUSTER `main`".to_owned(),
            format!(
                "CREATE TABLE IF NOT EXISTS `films`.`movie_genre` ON CLUSTER `main` (`genre_id` Int32, `movie_id` Int64, `_version` UInt64, \
                 `_deleted` UInt8 DEFAULT 0) ENGINE = {} ORDER BY (`movie_id`, `genre_id`) {fsync}",
                engine("movie_genre", "`_version`, `_deleted`")
            ),
            format!(
                "CREATE TABLE IF NOT EXISTS `films`.`_distributary_checkpoint` ON CLUSTER `main` (lane String, checkpoint String, \
                 revision UInt64) ENGINE = {} ORDER BY lane {fsync}",
                engine("_distributary_checkpoint", "`revision`")
            ),
            "CREATE OR REPLACE VIEW `films`.`movie_genre_current` ON CLUSTER `main` AS SELECT 1 COMMENT 'SELECT 1'".to_owned(),
        ];
        assert_eq!(statements, expected);
    }

    #[test]
    fn what_cannot_be_held_is_refused_with_the_cast_that_helps() {
        let table = [
            (Field::new("x", DataType::Float16, true), "CAST(x AS REAL)"),
            (Field::new("x", DataType::Null, true), "CAST(x AS VARCHAR)"),
            (Field::new("x", DataType::Utf8View, true), "CAST(x AS VARCHAR)"),
            (Field::new("x", DataType::LargeBinary, true), "CAST(x AS BYTEA)"),
            (Field::new("x", DataType::Date64, true), "CAST(x AS DATE)"),
            (Field::new("x", DataType::Decimal128(10, -2), true), "CAST(x AS DECIMAL(38, 0))"),
            (Field::new("x", DataType::Duration(TimeUnit::Second), true), "CAST(x AS VARCHAR)"),
            (Field::new("x", DataType::Struct(vec![Field::new("", DataType::Int8, true)].into()), true), "CAST(x AS VARCHAR)"),
            (Field::new("_version", DataType::Int64, true), "name it otherwise"),
        ];
        for (field, hint) in table {
            let name = field.name().clone();
            let error = check(&keyed(vec![field])).unwrap_err();
            assert_eq!(error.class, Class::Stop, "{error}");
            assert!(error.message.contains(hint) && error.message.contains(&name), "{error}");
        }
    }

    #[test]
    fn a_key_column_holds_one_value_and_is_there() {
        let list = DataType::List(Arc::new(Field::new("item", DataType::Int64, true)));
        let nested = target(vec![Field::new("genre_id", list, false), Field::new("movie_id", DataType::Int64, false)]);
        assert!(check(&nested).unwrap_err().message.contains("genre_id"));
        let missing = target(vec![Field::new("movie_id", DataType::Int64, false)]);
        assert!(check(&missing).unwrap_err().message.contains("genre_id"));
        for name in ["movie_current", "_distributary_x"] {
            let mut target = keyed(vec![]);
            target.name = name.into();
            assert_eq!(check(&target).unwrap_err().class, Class::Stop);
        }
        let mut node = keyed(vec![]);
        node.shape = Shape::Node;
        assert_eq!(check(&node).unwrap_err().class, Class::Stop);
    }
}
