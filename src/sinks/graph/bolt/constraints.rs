//! Which keys a server keeps unique; pure.

use std::collections::BTreeSet;

use super::super::client::Row;
use super::super::cypher::NodeKey;
use super::super::encode::Cell;

/// Asks for the constraints that make keys of nodes unique, under the names that servers of all versions have for their kinds.
pub(super) const UNIQUE: &str = "SHOW CONSTRAINTS YIELD type, labelsOrTypes, properties \
     WHERE type IN ['UNIQUENESS', 'NODE_PROPERTY_UNIQUENESS', 'NODE_KEY'] RETURN labelsOrTypes, properties";

/// The keys that an answer to [`UNIQUE`] names.
pub(super) fn keys(rows: Vec<Row>) -> BTreeSet<NodeKey> {
    let names = |cell: &Cell| match cell {
        Cell::List(names) => names.iter().map(|name| name.as_text().map(str::to_owned)).collect::<Option<Vec<_>>>(),
        _ => None,
    };
    let keys = rows.iter().filter_map(|row| {
        let [labels, properties] = row.as_slice() else { return None };
        let (labels, properties) = (names(labels)?, names(properties)?);
        labels.into_iter().next().map(|label| NodeKey { label, properties })
    });
    keys.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_a_label_and_its_properties_in_their_order() {
        let list = |names: &[&str]| Cell::List(names.iter().map(|name| Cell::text(name)).collect());
        let key = |label: &str, properties: &[&str]| NodeKey {
            label: label.to_owned(),
            properties: properties.iter().map(|name| (*name).to_owned()).collect(),
        };
        let rows = vec![
            vec![list(&["A"]), list(&["x"])],
            vec![list(&["A"]), list(&["y", "x"])],
            // What is no key is none.
            vec![Cell::Null, list(&["x"])],
            vec![list(&[]), list(&["x"])],
            vec![list(&["B"]), Cell::List(vec![Cell::Int(1)])],
        ];
        assert_eq!(keys(rows), BTreeSet::from([key("A", &["x"]), key("A", &["y", "x"])]));
    }
}
