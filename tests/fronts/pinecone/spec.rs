//! The vendor's OpenAPI documents as judges of requests and answers. They lie where `PINECONE_OPENAPI` says; without it nothing is judged.

use std::collections::HashMap;
use std::path::Path;

use jsonschema::Validator;
use serde_json::{Value, json};

/// One operation.
struct Operation {
    /// Segments of its path; one in braces is any.
    path: Vec<String>,
    method: String,
    /// Query parameters: the schema of each, and whether it must be there.
    query: HashMap<String, (Value, bool)>,
    request: Option<Validator>,
    answers: HashMap<String, Validator>,
}

/// The operations of both planes.
#[derive(Default)]
pub(crate) struct Spec {
    operations: Vec<Operation>,
}

impl std::fmt::Debug for Spec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spec").field("operations", &self.operations.len()).finish()
    }
}

fn validator(document: &Value, schema: &Value) -> Validator {
    // References in the document begin at its root.
    let whole =
        json!({"$schema": "http://json-schema.org/draft-04/schema#", "allOf": [schema], "components": document["components"]});
    jsonschema::validator_for(&whole).unwrap()
}

/// OpenAPI's schemas carry what JSON Schema does not have, or has in another form.
fn mended(value: &mut Value) {
    match value {
        Value::Object(object) => {
            // Names of required properties beside a type that has none.
            if object.contains_key("type") && !object.contains_key("properties") {
                object.remove("required");
            }
            object.retain(|key, _| !matches!(key.as_str(), "example" | "examples" | "discriminator" | "format"));
            object.values_mut().for_each(mended);
        }
        Value::Array(items) => items.iter_mut().for_each(mended),
        _ => {}
    }
}

impl Spec {
    /// The documents in the folder that the environment names.
    pub(crate) fn from_environment() -> Self {
        std::env::var_os("PINECONE_OPENAPI").map_or_else(Self::default, |folder| Self::read(Path::new(&folder)))
    }

    /// The documents in a folder.
    fn read(folder: &Path) -> Self {
        let mut spec = Self::default();
        for name in ["pinecone_db_control_2025-10.oas.yaml", "pinecone_db_data_2025-10.oas.yaml"] {
            let path = folder.join(name);
            let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("PINECONE_OPENAPI: {}: {e}", path.display()));
            let mut document: Value = serde_saphyr::from_str(&text).unwrap();
            mended(&mut document["components"]);
            for (path, methods) in document["paths"].as_object().unwrap() {
                for (method, operation) in methods.as_object().unwrap() {
                    spec.operations.push(Self::operation(&document, path, method, operation));
                }
            }
        }
        spec
    }

    fn operation(document: &Value, path: &str, method: &str, operation: &Value) -> Operation {
        let content = |value: &Value| {
            let schema = &value["content"]["application/json"]["schema"];
            (!schema.is_null()).then(|| validator(document, schema))
        };
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        let query = parameters.iter().filter(|parameter| parameter["in"] == "query").map(|parameter| {
            let name = parameter["name"].as_str().unwrap().to_owned();
            (name, (parameter["schema"].clone(), parameter["required"] == true))
        });
        let answers = operation["responses"].as_object().unwrap().iter();
        Operation {
            path: path.trim_start_matches('/').split('/').map(str::to_owned).collect(),
            method: method.to_uppercase(),
            query: query.collect(),
            request: content(&operation["requestBody"]),
            answers: answers.filter_map(|(status, answer)| Some((status.to_uppercase(), content(answer)?))).collect(),
        }
    }

    fn find(&self, method: &str, path: &[String]) -> Option<&Operation> {
        let fits = |operation: &&Operation| {
            let mut pairs = operation.path.iter().zip(path);
            operation.method == method
                && operation.path.len() == path.len()
                && pairs.all(|(known, given)| known.starts_with('{') || known == given)
        };
        // `/indexes/create-for-model` is no index's name.
        self.operations.iter().filter(fits).min_by_key(|operation| operation.path.iter().filter(|s| s.starts_with('{')).count())
    }

    /// What is wrong with a request.
    pub(crate) fn request(&self, method: &str, path: &[String], query: &[(String, String)], body: Option<&Value>) -> Vec<String> {
        if self.operations.is_empty() {
            return Vec::new();
        }
        let Some(operation) = self.find(method, path) else {
            return vec![format!("{method} /{}: there is no such operation", path.join("/"))];
        };
        let mut wrong = Vec::new();
        for (name, (_, _)) in operation.query.iter().filter(|(_, (_, required))| *required) {
            if !query.iter().any(|(given, _)| given == name) {
                wrong.push(format!("the parameter {name} is missing"));
            }
        }
        for (name, value) in query {
            match operation.query.get(name) {
                None => wrong.push(format!("there is no parameter {name}")),
                Some((schema, _)) if schema["type"] == "integer" && value.parse::<i64>().is_err() => {
                    wrong.push(format!("the parameter {name} is no whole number: {value}"));
                }
                Some(_) => {}
            }
        }
        match (&operation.request, body) {
            (Some(validator), Some(body)) => {
                wrong.extend(validator.iter_errors(body).map(|e| format!("{}: {e}", e.instance_path())))
            }
            (Some(_), None) => wrong.push("it has no body".to_owned()),
            (None, Some(_)) => wrong.push("it has a body".to_owned()),
            (None, None) => {}
        }
        wrong.into_iter().map(|wrong| format!("{method} /{}: {wrong}", path.join("/"))).collect()
    }

    /// What is wrong with an answer of this front.
    pub(crate) fn answer(&self, method: &str, path: &[String], status: u16, body: &Value) -> Vec<String> {
        let Some(operation) = self.find(method, path) else { return Vec::new() };
        let class = format!("{}XX", status / 100);
        let Some(validator) = operation.answers.get(&status.to_string()).or_else(|| operation.answers.get(&class)) else {
            return Vec::new();
        };
        validator
            .iter_errors(body)
            .map(|e| format!("answer {status} to {method} /{}: {}: {e}", path.join("/"), e.instance_path()))
            .collect()
    }
}
