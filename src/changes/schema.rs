//! Whether records of two versions can be compared column by column: the same columns, in types of which the later one holds every
//! value of the earlier one. Works on the schema as the log has it, in JSON.

use std::collections::BTreeMap;

use serde_json::Value;

/// One leaf of a schema.
#[derive(Debug, PartialEq, Eq)]
struct Leaf {
    data_type: String,
    /// The names in the files on the way to it: its own until columns are mapped. They change when a column is dropped and added again.
    physical: Vec<String>,
}

/// Says in words what keeps records of the schema `from` from being compared with records of the schema `to`, looking at
/// these columns alone; none if nothing does.
pub(super) fn incomparable(from: &str, to: &str, columns: &[String]) -> Option<String> {
    // A renamed column has another name before.
    let (Some(before), Some(after)) = (leaves(from, None), leaves(to, Some(columns))) else {
        return Some("the schema cannot be read".to_owned());
    };
    for (path, new) in &after {
        match before.get(path) {
            Some(old) if old.physical != new.physical => {
                return Some(format!("column {path} was dropped and added again, or renamed"));
            }
            Some(old) if !widens(&old.data_type, &new.data_type) => {
                return Some(format!("column {path} changed from {} to {}", old.data_type, new.data_type));
            }
            Some(_) => {}
            None => {
                let renamed = before.values().any(|old| old.physical == new.physical);
                let reshaped = before.keys().any(|old| inside(old, path) || inside(path, old));
                if renamed || reshaped {
                    return Some(format!("column {path} was renamed or changed its shape"));
                }
            }
        }
    }
    None
}

/// Whether a leaf lies inside what was a leaf: `a` became `a.b`.
fn inside(outer: &str, path: &str) -> bool {
    path.strip_prefix(outer).is_some_and(|rest| rest.starts_with('.'))
}

fn leaves(schema: &str, columns: Option<&[String]>) -> Option<BTreeMap<String, Leaf>> {
    let schema: Value = serde_json::from_str(schema).ok()?;
    let mut found = BTreeMap::new();
    for field in schema.get("fields")?.as_array()? {
        let name = field.get("name").and_then(Value::as_str).unwrap_or_default();
        if columns.is_none_or(|columns| columns.iter().any(|column| column == name)) {
            walk_field(field, "", &[], &mut found);
        }
    }
    Some(found)
}

fn walk_field(field: &Value, above: &str, physical_above: &[String], found: &mut BTreeMap<String, Leaf>) {
    let name = field.get("name").and_then(Value::as_str).unwrap_or_default();
    let path = if above.is_empty() { name.to_owned() } else { format!("{above}.{name}") };
    let mut physical = physical_above.to_vec();
    let mapped =
        field.get("metadata").and_then(|metadata| metadata.get("delta.columnMapping.physicalName")).and_then(Value::as_str);
    physical.push(mapped.unwrap_or(name).to_owned());
    walk_type(field.get("type").unwrap_or(&Value::Null), &path, &physical, found);
}

fn walk_type(data_type: &Value, path: &str, physical: &[String], found: &mut BTreeMap<String, Leaf>) {
    let kind = data_type.get("type").and_then(Value::as_str);
    match (data_type, kind) {
        (Value::String(name), _) => {
            found.insert(path.to_owned(), Leaf { data_type: name.clone(), physical: physical.to_vec() });
        }
        (_, Some("struct")) => {
            for field in data_type.get("fields").and_then(Value::as_array).into_iter().flatten() {
                walk_field(field, path, physical, found);
            }
        }
        (_, Some("array")) => walk_type(&data_type["elementType"], &format!("{path}.element"), physical, found),
        (_, Some("map")) => {
            walk_type(&data_type["keyType"], &format!("{path}.key"), physical, found);
            walk_type(&data_type["valueType"], &format!("{path}.value"), physical, found);
        }
        _ => {
            found.insert(path.to_owned(), Leaf { data_type: data_type.to_string(), physical: physical.to_vec() });
        }
    }
}

/// Whether every value of the type `from` is one of the type `to`: the widenings that the Delta protocol allows.
fn widens(from: &str, to: &str) -> bool {
    const WHOLE: [&str; 4] = ["byte", "short", "integer", "long"];
    if from == to {
        return true;
    }
    let rank = |name: &str| WHOLE.iter().position(|whole| *whole == name);
    match (rank(from), rank(to)) {
        (Some(small), Some(large)) => return small < large,
        (Some(small), None) if to == "double" => return small < 3,
        (Some(small), None) => {
            let digits = [3, 5, 10, 19][small];
            return decimal(to).is_some_and(|(precision, scale)| precision - scale >= digits);
        }
        _ => {}
    }
    match (decimal(from), decimal(to)) {
        (Some((p, s)), Some((wider_p, wider_s))) => wider_s >= s && wider_p - wider_s >= p - s,
        _ => (from, to) == ("float", "double") || (from, to) == ("date", "timestamp_ntz"),
    }
}

fn decimal(name: &str) -> Option<(i32, i32)> {
    let (precision, scale) = name.strip_prefix("decimal(")?.strip_suffix(')')?.split_once(',')?;
    Some((precision.trim().parse().ok()?, scale.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(fields: &str) -> String {
        format!(r#"{{"type":"struct","fields":[{fields}]}}"#)
    }

    fn one(name: &str, data_type: &str, physical: &str) -> String {
        schema(&format!(
            r#"{{"name":"{name}","type":{data_type},"nullable":true,"metadata":{{"delta.columnMapping.physicalName":"{physical}"}}}}"#
        ))
    }

    #[test]
    fn widening_is_comparable_and_narrowing_is_not() {
        let cases = [
            ("\"integer\"", "\"long\"", true),
            ("\"long\"", "\"integer\"", false),
            ("\"long\"", "\"string\"", false),
            ("\"long\"", "\"double\"", false),
            ("\"integer\"", "\"double\"", true),
            ("\"decimal(10,2)\"", "\"decimal(12,2)\"", true),
            ("\"decimal(10,2)\"", "\"decimal(10,3)\"", false),
            ("\"integer\"", "\"decimal(10,0)\"", true),
            ("\"date\"", "\"timestamp_ntz\"", true),
            (r#"{"type":"array","elementType":"integer"}"#, r#"{"type":"array","elementType":"long"}"#, true),
            (r#"{"type":"array","elementType":"integer"}"#, "\"integer\"", false),
        ];
        for (from, to, comparable) in cases {
            let verdict = incomparable(&one("a", from, "x"), &one("a", to, "x"), &["a".to_owned()]);
            assert_eq!(verdict.is_none(), comparable, "{from} to {to}: {verdict:?}");
        }
    }

    #[test]
    fn a_renamed_column_is_seen_by_its_name_in_the_files() {
        let columns = ["b".to_owned()];
        assert!(incomparable(&one("a", "\"long\"", "x"), &one("b", "\"long\"", "x"), &columns).is_some());
        assert!(incomparable(&one("b", "\"long\"", "x"), &one("b", "\"long\"", "y"), &columns).is_some());
        assert!(incomparable(&one("c", "\"long\"", "x"), &one("b", "\"long\"", "y"), &columns).is_none());
        // The mapping is turned on: every column keeps its name in the files.
        let plain = schema(r#"{"name":"b","type":"long","nullable":true,"metadata":{}}"#);
        assert!(incomparable(&plain, &one("b", "\"long\"", "b"), &columns).is_none());
        assert!(incomparable(&plain, &one("b", "\"long\"", "x"), &columns).is_some());
    }

    #[test]
    fn columns_that_are_not_read_do_not_matter() {
        assert!(incomparable(&one("a", "\"long\"", "x"), &one("a", "\"string\"", "x"), &["b".to_owned()]).is_none());
    }
}
