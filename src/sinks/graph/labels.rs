//! The targets of a graph together: each label has one key, whatever targets name it. Pure; asks no engine.

use std::collections::BTreeMap;

use arrow::datatypes::DataType;

use crate::mapping::target::Target;
use crate::sinks::SinkError;

use super::cypher::{Layout, NodeKey, SINK};

/// The layouts with those of `more`, which replace the ones of the same targets.
pub(super) fn with_layouts(known: &[Layout], more: Vec<Layout>) -> Vec<Layout> {
    let mut all = known.to_vec();
    for layout in more {
        all.retain(|other| other.identity() != layout.identity());
        all.push(layout);
    }
    all
}

/// The keys of all labels, each once.
pub(super) fn label_keys(layouts: &[Layout]) -> Result<Vec<NodeKey>, SinkError> {
    let mut labels: BTreeMap<String, (NodeKey, Vec<DataType>, String)> = BTreeMap::new();
    let mut add = |target: &Target, key: NodeKey, columns: &[&String]| {
        let types: Vec<DataType> = columns
            .iter()
            .filter_map(|name| target.schema.field_with_name(name).ok())
            .map(|field| field.data_type().clone())
            .collect();
        let (known, kinds, by) =
            labels.entry(key.label.clone()).or_insert_with(|| (key.clone(), types.clone(), target.name.clone()));
        let alike = kinds.len() == types.len() && kinds.iter().zip(&types).all(|(one, other)| alike(one, other));
        if *known == key && alike {
            return Ok(());
        }
        let show = |key: &NodeKey, types: &[DataType]| {
            key.properties.iter().zip(types).map(|(name, kind)| format!("{name} {kind}")).collect::<Vec<_>>().join(", ")
        };
        let message = format!(
            "label `{}` is found by ({}) in `{}` and by ({}) in `{by}`; name the same properties, and cast the columns to the same types",
            key.label,
            show(&key, &types),
            target.name,
            show(known, kinds)
        );
        Err(SinkError::stop(SINK, message))
    };
    for layout in layouts {
        match layout {
            Layout::Node(node) => add(&node.target, node.key.clone(), &node.key.properties.iter().collect::<Vec<_>>())?,
            Layout::Relationship(relationship) => {
                for end in [&relationship.from, &relationship.to] {
                    add(&relationship.target, NodeKey::of(end), &end.columns.iter().collect::<Vec<_>>())?;
                }
            }
        }
    }
    Ok(labels.into_values().map(|(key, _, _)| key).collect())
}

/// Whether values of both types are one value in the graph when they are equal: integers of any width are.
fn alike(one: &DataType, other: &DataType) -> bool {
    let texts = [DataType::Utf8, DataType::LargeUtf8];
    one == other || (one.is_integer() && other.is_integer()) || (texts.contains(one) && texts.contains(other))
}
