//! Whatever a mapping file says, it is taken or refused with words.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema};
use distributary::mapping::{MappingFile, compile};

/// Ends the process where it does not hold.
pub(crate) fn holds(text: &str) {
    let path = Path::new("m.yaml");
    let Ok(file) = MappingFile::parse(text, path) else { return };
    let part =
        DataType::Struct(Fields::from(vec![Field::new("id", DataType::Utf8, true), Field::new("size", DataType::Int64, true)]));
    let schema = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("day", DataType::Date32, true),
        Field::new("name", DataType::Utf8, true),
        Field::new("score", DataType::Float64, true),
        Field::new("parts", DataType::List(Arc::new(Field::new("item", part.clone(), true))), true),
        Field::new("one", part, true),
    ]));
    // Any table is taken to be this one, so that queries are reached whatever tables are called.
    let schemas: BTreeMap<_, _> = file.tables.keys().map(|name| (name.clone(), schema.clone())).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    if let Err(error) = runtime.block_on(compile(&file, path, &schemas)) {
        assert!(!error.to_string().is_empty());
    }
}
