//! Names in a mapping file: well formed, each target filled by one projection, each label with one key. Looks at the file alone, before any
//! query is planned.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use super::MappingError;
use super::compile::refused;
use super::file::MappingFile;

/// The key properties of each label, and whether a node projection declares it. A label that none declares is identified by the
/// columns that relationships name, which must agree.
pub(super) fn label_keys(file: &MappingFile, path: &Path) -> Result<BTreeMap<String, (Vec<String>, bool)>, MappingError> {
    let mut labels: BTreeMap<String, (Vec<String>, bool)> = BTreeMap::new();
    for (table, entry) in &file.tables {
        for (label, node) in &entry.graph.nodes {
            if labels.insert(label.clone(), (node.key.clone(), true)).is_some() {
                let message = format!("the label {label} is declared by two projections; a target belongs to one");
                return Err(refused(path, table, &format!("graph.nodes.{label}"), message));
            }
        }
    }
    for (table, entry) in &file.tables {
        for (name, relationship) in &entry.graph.relationships {
            for (label, columns) in relationship.from.iter().chain(&relationship.to) {
                let (properties, declared) = labels.entry(label.clone()).or_insert_with(|| (columns.clone(), false));
                if !*declared && properties != columns {
                    let message = format!(
                        "no projection declares the label {label}, so its key properties are named after the columns that relationships \
                         give: here ({}), elsewhere ({}); name them alike",
                        columns.join(", "),
                        properties.join(", ")
                    );
                    return Err(refused(path, table, &format!("graph.relationships.{name}"), message));
                }
            }
        }
    }
    Ok(labels)
}

/// Names: well formed, and no target filled by two projections.
pub(super) fn check_names(file: &MappingFile, path: &Path) -> Result<(), MappingError> {
    let mut tables: HashSet<String> = HashSet::new();
    let mut relationships: HashSet<(String, Vec<String>, Vec<String>)> = HashSet::new();
    for (table, entry) in &file.tables {
        let of = entry.graph.nodes.keys().map(|n| ("graph.nodes", n));
        let of = of.chain(entry.graph.relationships.keys().map(|n| ("graph.relationships", n)));
        let of = of.chain(entry.clickhouse.keys().map(|n| ("clickhouse", n)));
        for (kind, name) in of.chain(entry.vectors.keys().map(|n| ("vectors", n))) {
            check_identifier(name).map_err(|m| refused(path, table, &format!("{kind}.{name}"), m))?;
        }
        for name in entry.clickhouse.keys() {
            for taken in [name.clone(), format!("{name}_current")] {
                if !tables.insert(taken.clone()) {
                    let message = format!("two projections would make {taken}; a target belongs to one");
                    return Err(refused(path, table, &format!("clickhouse.{name}"), message));
                }
            }
        }
        for (name, r) in &entry.graph.relationships {
            for label in r.from.keys().chain(r.to.keys()).chain(r.stub.from.keys()).chain(r.stub.to.keys()) {
                check_identifier(label).map_err(|m| refused(path, table, &format!("graph.relationships.{name}"), m))?;
            }
            let ends = (name.clone(), r.from.keys().cloned().collect(), r.to.keys().cloned().collect());
            if !relationships.insert(ends) {
                let message = format!("two projections make {name} between the same labels; a target belongs to one");
                return Err(refused(path, table, &format!("graph.relationships.{name}"), message));
            }
        }
    }
    for name in file.dimensions.keys() {
        check_identifier(name).map_err(|m| refused(path, "", &format!("dimensions.{name}"), m))?;
        if tables.contains(name) {
            let message = format!("{name} is the name of a table already");
            return Err(refused(path, "", &format!("dimensions.{name}"), message));
        }
    }
    Ok(())
}

pub(super) const IDENTIFIER: &str = "letters, digits and underscores, not beginning with a digit or an underscore";

pub(super) fn is_identifier(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn check_identifier(name: &str) -> Result<(), String> {
    if is_identifier(name) { Ok(()) } else { Err(format!("{name:?} is no usable name: {IDENTIFIER}")) }
}
