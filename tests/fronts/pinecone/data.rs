//! The data plane: what one index answers.

use serde_json::{Map, Value, json};

use super::filter::filter;
use super::space::{Record, Space, Write};
use super::{Index, Reply, Request};

const RECORDS_MAX: usize = 1_000;
const BYTES_MAX: usize = 2_000_000;
const METADATA_BYTES_MAX: usize = 40 * 1024;
const ID_LENGTH_MAX: usize = 512;
const PAGE_MAX: usize = 100;
const TOP_MAX: usize = 10_000;
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// What proxies on the way to the service take.
const ADDRESS_BYTES_MAX: usize = 8 << 10;

const WRITTEN: &str = "x-pinecone-request-lsn";
const INDEXED: &str = "x-pinecone-max-indexed-lsn";

/// An error of the data plane.
fn refused(status: u16, code: u32, message: impl Into<String>) -> Reply {
    Reply::new(status, json!({"code": code, "message": message.into(), "details": []}))
}

fn wrong(message: impl Into<String>) -> Reply {
    refused(400, 3, message)
}

fn unknown() -> Reply {
    refused(404, 5, "Namespace not found")
}

/// `""` is the default namespace.
fn namespace(text: Option<&str>) -> Result<String, Reply> {
    match text.unwrap_or_default() {
        "" | "__default__" => Ok(String::new()),
        name if name.is_ascii() && name.len() <= ID_LENGTH_MAX => Ok(name.to_owned()),
        _ => Err(wrong("a namespace is at most 512 ASCII characters")),
    }
}

pub(super) fn answer(index: &mut Index, request: &Request, lag: u32) -> Reply {
    if request.address_bytes > ADDRESS_BYTES_MAX {
        return Reply::new(414, Value::from("URI too long"));
    }
    if request.bytes > BYTES_MAX {
        return refused(400, 11, format!("message length too large: found {} bytes, the limit is {BYTES_MAX}", request.bytes));
    }
    route(index, request, lag).unwrap_or_else(|refused| refused)
}

fn route(index: &mut Index, request: &Request, lag: u32) -> Result<Reply, Reply> {
    let path: Vec<&str> = request.path.iter().map(String::as_str).collect();
    let body = request.body.clone().unwrap_or_default();
    let named = match request.method.as_str() {
        "GET" => namespace(request.parameter("namespace"))?,
        _ => namespace(body["namespace"].as_str())?,
    };
    match (request.method.as_str(), path.as_slice()) {
        ("POST", ["vectors", "upsert"]) => {
            let records = records(&body["vectors"], index.dimension)?;
            let count = records.len();
            let dimension = index.dimension;
            let space = index.spaces.entry(named).or_insert_with(|| Space::new(dimension));
            let number = space.write(Write::Upsert(records), lag);
            Ok(Reply::new(200, json!({"upsertedCount": count})).with(WRITTEN, number))
        }
        ("POST", ["vectors", "update"]) => update(index, &named, &body, lag),
        ("POST", ["vectors", "delete"]) => {
            let write = deletion(&body)?;
            let space = index.spaces.get_mut(&named).ok_or_else(unknown)?;
            Ok(Reply::new(200, json!({})).with(WRITTEN, space.write(write, lag)))
        }
        ("GET", ["vectors", "fetch"]) => {
            let ids: Vec<String> = request.query.iter().filter(|(name, _)| name == "ids").map(|(_, id)| id.clone()).collect();
            if !(1..=RECORDS_MAX).contains(&ids.len()) || ids.iter().any(|id| id.is_empty() || id.contains(' ')) {
                return Err(wrong("ids must be 1 to 1000 ids without spaces"));
            }
            read(index, &named, |space| {
                let found: Map<String, Value> =
                    space.fetch(&ids).into_iter().map(|record| (record.id.clone(), record.json(true, true))).collect();
                Ok(json!({"vectors": found, "namespace": named, "usage": {"readUnits": 1}}))
            })
        }
        ("POST", ["vectors", "fetch_by_metadata"]) => by_metadata(index, &named, &body),
        ("GET", ["vectors", "list"]) => {
            let limit = request.parameter("limit").map_or(Ok(PAGE_MAX), str::parse).map_err(|_| wrong("limit"))?;
            if !(1..=PAGE_MAX).contains(&limit) {
                return Err(wrong("limit must be 1 to 100"));
            }
            let after = request.parameter("paginationToken").map(opened).transpose()?;
            let prefix = request.parameter("prefix").unwrap_or_default();
            read(index, &named, |space| {
                let mut ids = space.list(prefix, after.as_deref(), limit + 1);
                let next = (ids.len() > limit).then(|| token(&ids[limit - 1]));
                ids.truncate(limit);
                let items: Vec<Value> = ids.into_iter().map(|id| json!({"id": id})).collect();
                let mut answer = json!({"vectors": items, "namespace": named, "usage": {"readUnits": 1}});
                if let Some(next) = next {
                    answer["pagination"] = json!({"next": next});
                }
                Ok(answer)
            })
        }
        ("POST", ["query"]) => query(index, &named, &body),
        ("POST", ["describe_index_stats"]) => {
            if body.get("filter").is_some_and(|filter| !filter.is_null()) {
                return Err(wrong("Serverless indexes do not support describing index stats with metadata filtering"));
            }
            let spaces = index.spaces.iter().filter(|(_, space)| space.len() > 0);
            let spaces: Map<String, Value> = spaces
                .map(|(name, space)| {
                    (if name.is_empty() { "__default__" } else { name }.to_owned(), json!({"vectorCount": space.len()}))
                })
                .collect();
            let total: usize = index.spaces.values().map(Space::len).sum();
            index.spaces.values_mut().for_each(Space::was_read);
            Ok(Reply::new(
                200,
                json!({
                    "namespaces": spaces, "dimension": index.dimension, "indexFullness": 0, "totalVectorCount": total,
                    "metric": "cosine", "vectorType": "dense",
                }),
            ))
        }
        ("GET", ["namespaces"]) => {
            let prefix = request.parameter("prefix").unwrap_or_default();
            let limit = request.parameter("limit").map_or(Ok(PAGE_MAX), str::parse).map_err(|_| wrong("limit"))?;
            let after = request.parameter("paginationToken").map(opened).transpose()?;
            let all = index.spaces.iter().filter(|(name, _)| name.starts_with(prefix));
            let total = all.clone().count();
            let mut some = all.filter(|(name, _)| after.as_ref().is_none_or(|after| *name > after));
            let page: Vec<(&String, &Space)> = some.by_ref().take(limit).collect();
            let named: Vec<Value> = page.iter().map(|(name, space)| json!({"name": name, "record_count": space.len()})).collect();
            let mut answer = json!({"namespaces": named, "total_count": total});
            if let (Some(_), Some((last, _))) = (some.next(), page.last()) {
                answer["pagination"] = json!({"next": token(last)});
            }
            Ok(Reply::new(200, answer))
        }
        ("POST", ["namespaces"]) => {
            let name = namespace(body["name"].as_str())?;
            if index.spaces.contains_key(&name) {
                return Err(refused(409, 6, "Namespace already exists"));
            }
            index.spaces.insert(name.clone(), Space::new(index.dimension));
            Ok(Reply::new(200, json!({"name": name, "record_count": 0})))
        }
        ("GET", ["namespaces", name]) => {
            let space = index.spaces.get(&namespace(Some(name))?).ok_or_else(unknown)?;
            Ok(Reply::new(200, json!({"name": name, "record_count": space.len()})))
        }
        ("DELETE", ["namespaces", name]) => {
            index.spaces.remove(&namespace(Some(name))?).ok_or_else(unknown)?;
            Ok(Reply::new(200, json!({})))
        }
        _ => Ok(Reply::new(0, Value::Null)),
    }
}

/// A read: what is visible, and then a little more is. A namespace that is not there has nothing.
fn read(index: &mut Index, named: &str, ask: impl FnOnce(&Space) -> Result<Value, Reply>) -> Result<Reply, Reply> {
    let Some(space) = index.spaces.get_mut(named) else {
        let nothing = Space::new(index.dimension);
        return Ok(Reply::new(200, ask(&nothing)?).with(INDEXED, 0));
    };
    let (answer, indexed) = (ask(space)?, space.indexed);
    space.was_read();
    if answer.to_string().len() > ANSWER_BYTES_MAX {
        return Err(refused(400, 11, "the answer is larger than 4 MB"));
    }
    Ok(Reply::new(200, answer).with(INDEXED, indexed))
}

fn records(vectors: &Value, dimension: usize) -> Result<Vec<Record>, Reply> {
    let vectors = vectors.as_array().filter(|vectors| (1..=RECORDS_MAX).contains(&vectors.len()));
    let vectors = vectors.ok_or_else(|| wrong("an upsert has 1 to 1000 vectors"))?;
    vectors.iter().map(|vector| record(vector, dimension)).collect()
}

fn record(vector: &Value, dimension: usize) -> Result<Record, Reply> {
    let id = checked_id(&vector["id"])?;
    let values = values(&vector["values"], dimension)?;
    let metadata = metadata(vector.get("metadata"))?;
    Ok(Record { id, values, metadata })
}

fn checked_id(id: &Value) -> Result<String, Reply> {
    let id = id.as_str().filter(|id| (1..=ID_LENGTH_MAX).contains(&id.len()) && id.is_ascii());
    id.map(str::to_owned).ok_or_else(|| wrong("an id is 1 to 512 ASCII characters"))
}

fn values(values: &Value, dimension: usize) -> Result<Vec<f32>, Reply> {
    let values: Vec<f32> = serde_json::from_value(values.clone()).map_err(|_| wrong("values must be numbers"))?;
    if values.len() != dimension {
        return Err(wrong(format!("Vector dimension {} does not match the dimension of the index {dimension}", values.len())));
    }
    if values.iter().any(|x| !x.is_finite()) {
        return Err(wrong("values must be finite"));
    }
    if values.iter().all(|x| *x == 0.0) {
        return Err(wrong("Dense vectors must contain at least one non-zero value"));
    }
    Ok(values)
}

/// Metadata as the service has it: every number is a double.
fn metadata(metadata: Option<&Value>) -> Result<Map<String, Value>, Reply> {
    let Some(metadata) = metadata else { return Ok(Map::new()) };
    let bytes = metadata.to_string().len();
    if bytes > METADATA_BYTES_MAX {
        return Err(wrong(format!(
            "Metadata size is {bytes} bytes, which exceeds the limit of {METADATA_BYTES_MAX} bytes per vector"
        )));
    }
    let metadata = metadata.as_object().ok_or_else(|| wrong("metadata must be an object"))?;
    let mut kept = Map::new();
    for (name, value) in metadata {
        if name.is_empty() || name.starts_with('$') {
            return Err(wrong(format!("'{name}' is no name of metadata")));
        }
        let is_list = value.as_array().is_some_and(|items| !items.is_empty() && items.iter().all(Value::is_string));
        let value = match value {
            Value::String(_) | Value::Bool(_) => value.clone(),
            Value::Number(number) => Value::from(number.as_f64().unwrap()),
            _ if is_list => value.clone(),
            _ => {
                let message =
                    format!("Metadata value must be a string, number, boolean or list of strings, got '{value}' for {name}");
                return Err(wrong(message));
            }
        };
        kept.insert(name.clone(), value);
    }
    Ok(kept)
}

fn deletion(body: &Value) -> Result<Write, Reply> {
    let ids = body.get("ids").and_then(Value::as_array).filter(|ids| !ids.is_empty());
    let all = body["deleteAll"] == true;
    let matching = body.get("filter").filter(|filter| !filter.is_null());
    match (ids, all, matching) {
        (Some(ids), false, None) if ids.len() <= RECORDS_MAX => {
            Ok(Write::Delete(ids.iter().map(checked_id).collect::<Result<_, _>>()?))
        }
        (None, true, None) => Ok(Write::DeleteAll),
        (None, false, Some(matching)) => Ok(Write::DeleteWhere(filter(matching).map_err(wrong)?)),
        _ => Err(wrong("a delete has one of 1 to 1000 ids, deleteAll and filter")),
    }
}

fn update(index: &mut Index, named: &str, body: &Value, lag: u32) -> Result<Reply, Reply> {
    let set = metadata(body.get("setMetadata"))?;
    let dimension = index.dimension;
    let space = index.spaces.get_mut(named).ok_or_else(unknown)?;
    if let Some(matching) = body.get("filter") {
        let matching = filter(matching).map_err(wrong)?;
        let count = space.matching(matching.clone()).len();
        if body["dryRun"] == true {
            return Ok(Reply::new(200, json!({"matchedRecords": count})));
        }
        let number = space.write(Write::UpdateWhere(matching, set), lag);
        return Ok(Reply::new(200, json!({"matchedRecords": count})).with(WRITTEN, number));
    }
    let id = checked_id(&body["id"])?;
    let values = body.get("values").map(|given| values(given, dimension)).transpose()?;
    let number = space.write(Write::Update { id, values, set }, lag);
    Ok(Reply::new(200, json!({})).with(WRITTEN, number))
}

fn by_metadata(index: &mut Index, named: &str, body: &Value) -> Result<Reply, Reply> {
    let matching = filter(body.get("filter").unwrap_or(&json!({}))).map_err(wrong)?;
    let limit = body["limit"].as_u64().map_or(PAGE_MAX, |limit| usize::try_from(limit).unwrap());
    let after = body["paginationToken"].as_str().map(opened).transpose()?;
    read(index, named, |space| {
        let ids = space.matching(matching).into_iter().filter(|id| after.as_ref().is_none_or(|after| id > after));
        let mut ids: Vec<String> = ids.take(limit + 1).collect();
        let next = (ids.len() > limit).then(|| token(&ids[limit - 1]));
        ids.truncate(limit);
        let found: Map<String, Value> =
            space.fetch(&ids).into_iter().map(|record| (record.id.clone(), record.json(true, true))).collect();
        let mut answer = json!({"vectors": found, "namespace": named, "usage": {"readUnits": 1}});
        if let Some(next) = next {
            answer["pagination"] = json!({"next": next});
        }
        Ok(answer)
    })
}

fn query(index: &mut Index, named: &str, body: &Value) -> Result<Reply, Reply> {
    let top = body["topK"].as_u64().and_then(|top| usize::try_from(top).ok()).filter(|top| (1..=TOP_MAX).contains(top));
    let top = top.ok_or_else(|| wrong("topK must be 1 to 10000"))?;
    let matching = body.get("filter").map(filter).transpose().map_err(wrong)?;
    let (with_values, with_metadata) = (body["includeValues"] == true, body["includeMetadata"] == true);
    let dimension = index.dimension;
    let by_id = body["id"].as_str().map(str::to_owned);
    let vector = match (&by_id, body.get("vector").filter(|vector| vector.as_array().is_some_and(|v| !v.is_empty()))) {
        (None, Some(vector)) => values(vector, dimension)?,
        (Some(_), None) => Vec::new(),
        _ => return Err(wrong("a query has one of vector and id")),
    };
    read(index, named, |space| {
        let vector = match by_id {
            None => vector,
            Some(id) => space.fetch(&[id]).pop().map(|record| record.values).unwrap_or_default(),
        };
        let found = if vector.is_empty() { Vec::new() } else { space.nearest(vector, matching, top) };
        let matches: Vec<Value> = found
            .into_iter()
            .map(|(score, record)| {
                let mut one = record.json(with_values, with_metadata);
                one["score"] = json!(score);
                one
            })
            .collect();
        Ok(json!({"matches": matches, "namespace": named, "usage": {"readUnits": 1}}))
    })
}

/// Where the next page begins: opaque to clients.
fn token(id: &str) -> String {
    id.bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn opened(token: &str) -> Result<String, Reply> {
    let pairs = token.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    let bytes: Option<Vec<u8>> = pairs.collect();
    bytes.and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(|| wrong("invalid pagination token"))
}
