//! What each engine must hold of the library mapping, and what a sync must send to get there, worked out in plain Rust from the
//! records of a Delta snapshot. It knows the mapping by heart and uses nothing of `src/mapping`.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Float32Type, SchemaRef};
use distributary::embed::{Embedder, HashEmbedder};
use distributary::mapping::target::{SinkKind, Target, VECTOR};
use distributary::mapping::{MappingFile, compile};
use distributary::report::SyncReport;
use distributary::sinks::{Query, Sink};
use distributary::sync::Setup;
use serde_json::{Map, Value, json};

use super::lake::{Author, Book, Lake, Record};

/// The rows of one lane, by record and what else identifies a row.
pub(crate) type Lane = BTreeMap<(i64, String), Value>;
/// What some place holds, row by row.
pub(crate) type Contents = BTreeMap<String, BTreeMap<String, Value>>;

/// What the mapping makes of a lake at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Oracle {
    /// By table, sink and target.
    pub(crate) lanes: BTreeMap<(&'static str, &'static str, &'static str), Lane>,
    /// Records of which the table holds several equal rows, by table.
    twice: BTreeMap<&'static str, BTreeSet<i64>>,
    /// Texts by their hash.
    texts: BTreeMap<String, String>,
}

/// What is to be sent to one target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Needed {
    pub(crate) upserts: u64,
    pub(crate) deletes: u64,
    pub(crate) payload_updates: u64,
    pub(crate) texts_embedded: u64,
    pub(crate) texts_reused: u64,
    /// Those of the reused ones that may have to be embedded.
    doubtful: u64,
}

const LANES: [(&str, &str, &str); 10] = [
    ("books", "clickhouse", "book"),
    ("books", "clickhouse", "book_credit"),
    ("books", "clickhouse", "book_tag"),
    ("books", "graph", "Book"),
    ("books", "graph", "WROTE"),
    ("books", "graph", "HAS_TAG"),
    ("books", "vectors", "texts"),
    ("authors", "clickhouse", "author"),
    ("authors", "graph", "Author"),
    ("authors", "vectors", "texts"),
];

/// The records of a table, sorted.
struct Records<R> {
    /// One record of each key.
    good: BTreeMap<i64, R>,
    /// Keys of which there are several equal rows.
    twice: BTreeSet<i64>,
    /// Keys of which there are different rows: none of them can be delivered.
    bad: HashSet<i64>,
}

impl<R: Record> Records<R> {
    fn of(rows: Vec<R>) -> Self {
        let mut it = Self { good: BTreeMap::new(), twice: BTreeSet::new(), bad: HashSet::new() };
        for row in rows {
            let Some(key) = row.key() else { continue };
            match it.good.get(&key) {
                Some(other) if *other != row => drop(it.bad.insert(key)),
                Some(_) => drop(it.twice.insert(key)),
                None => {}
            }
            it.good.insert(key, row);
        }
        it.good.retain(|key, _| !it.bad.contains(key));
        it
    }
}

fn hash(text: &str) -> String {
    format!("{:032x}", xxhash_rust::xxh3::xxh3_128(text.as_bytes()))
}

impl Oracle {
    /// What the engines must hold of the lake's latest versions. Of bad records they hold what they held before.
    pub(crate) async fn of(lake: &Lake, before: &Self) -> Self {
        let mut oracle = Self::default();
        for lane in LANES {
            oracle.lanes.insert(lane, Lane::new());
        }
        let books = Records::of(lake.read::<Book>().await);
        let authors = Records::of(lake.read::<Author>().await);
        books.good.iter().for_each(|(id, book)| oracle.book(*id, book));
        authors.good.iter().for_each(|(id, author)| oracle.author(*id, author));
        oracle.twice = BTreeMap::from([("books", books.twice), ("authors", authors.twice)]);
        for (lane, rows) in &before.lanes {
            let bad = if lane.0 == "books" { &books.bad } else { &authors.bad };
            let kept = rows.iter().filter(|((record, _), _)| bad.contains(record));
            oracle.lanes.get_mut(lane).unwrap().extend(kept.map(|(key, row)| (key.clone(), row.clone())));
        }
        oracle.texts.extend(before.texts.clone());
        oracle
    }

    fn put(&mut self, lane: (&'static str, &'static str, &'static str), record: i64, rest: &str, row: Value) {
        self.lanes.get_mut(&lane).unwrap().insert((record, rest.to_owned()), row);
    }

    fn book(&mut self, id: i64, book: &Book) {
        let title = &book.title;
        self.put(LANES[0], id, "", json!({"book_id": id, "title": title, "popularity": book.popularity, "tags": book.tags}));
        self.put(LANES[3], id, "", json!({"book_id": id, "title": title}));
        for credit in book.credits.iter().flatten() {
            let (of, role) = (credit.author_id, &credit.role);
            let row = json!({"book_id": id, "credit_id": credit.credit_id, "author_id": of, "role": role});
            self.put(LANES[1], id, &credit.credit_id, row.clone());
            // The ends are part of what identifies a relationship.
            let mut row = row;
            row["name"] = json!(credit.name);
            self.put(LANES[4], id, &format!("{of}/{}", credit.credit_id), row);
        }
        for tag in &book.tags {
            self.put(LANES[2], id, tag, json!({"book_id": id, "tag": tag}));
            self.put(LANES[5], id, tag, json!({"book_id": id, "tag": tag}));
        }
        let parts: Vec<&str> = [title, &book.blurb].into_iter().flatten().map(String::as_str).collect();
        self.points(LANES[6], id, &parts.join("\n"), &json!({"id": id, "title": title, "tags": book.tags}));
    }

    fn author(&mut self, id: i64, author: &Author) {
        let name = &author.name;
        self.put(LANES[7], id, "", json!({"author_id": id, "name": name, "visits": author.visits}));
        self.put(LANES[8], id, "", json!({"author_id": id, "name": name}));
        if let Some(bio) = author.bio.as_deref().filter(|bio| !bio.trim_matches(' ').is_empty()) {
            self.points(LANES[9], id, bio, &json!({"id": id, "title": name}));
        }
    }

    fn points(&mut self, lane: (&'static str, &'static str, &'static str), id: i64, text: &str, payload: &Value) {
        let hasher = HashEmbedder::new();
        let chunks = hasher.chunk(text).unwrap();
        for (number, range) in chunks.iter().enumerate() {
            let piece = &text[range.clone()];
            let mut row = payload.clone();
            row["_chunk"] = json!(number);
            row["_chunks"] = json!(chunks.len());
            row["_start"] = json!(range.start);
            row["_end"] = json!(range.end);
            row["_text_hash"] = json!(hash(piece));
            row["_model"] = json!(hasher.identity());
            self.texts.insert(hash(piece), piece.to_owned());
            self.put(lane, id, &number.to_string(), row);
        }
    }

    /// What is to be found in the engines.
    pub(crate) fn contents(&self) -> Contents {
        let mut contents = Contents::new();
        let lane = |index: usize| &self.lanes[&LANES[index]];
        let plain = |lane: &Lane| -> BTreeMap<String, Value> {
            lane.iter().map(|((record, rest), row)| (format!("{record}/{rest}"), row.clone())).collect()
        };
        for index in [0, 1, 2, 7] {
            contents.insert(format!("clickhouse {}", LANES[index].2), plain(lane(index)));
        }
        let tags: BTreeSet<&str> = lane(2).values().map(|row| row["tag"].as_str().unwrap()).collect();
        contents.insert("clickhouse tag".to_owned(), tags.iter().map(|tag| ((*tag).to_owned(), json!({"tag": tag}))).collect());

        let node = |row: &Value, stub: bool| {
            let mut row = row.clone();
            row["stub"] = if stub { json!(true) } else { Value::Null };
            row
        };
        let books = lane(3).iter().map(|((id, _), row)| (id.to_string(), node(row, false)));
        let mut books: BTreeMap<String, Value> = books.collect();
        let authors = lane(8).iter().map(|((id, _), row)| (id.to_string(), node(row, false)));
        let mut authors: BTreeMap<String, Value> = authors.collect();
        // In order of book and credit, so the first name that is given is that of the least relationship.
        let mut given: BTreeMap<String, Value> = BTreeMap::new();
        let mut wrote: Vec<(&(i64, String), &Value)> = lane(4).iter().collect();
        wrote.sort_by_key(|((book, _), row)| (*book, row["credit_id"].as_str().unwrap().to_owned()));
        for ((book, _), row) in wrote {
            let author = row["author_id"].to_string();
            let name = given.entry(author).or_insert(Value::Null);
            if name.is_null() {
                name.clone_from(&row["name"]);
            }
            books.entry(book.to_string()).or_insert_with(|| json!({"book_id": book, "title": null, "stub": true}));
        }
        for (book, _) in lane(5).keys() {
            books.entry(book.to_string()).or_insert_with(|| json!({"book_id": book, "title": null, "stub": true}));
        }
        for (author, name) in given {
            let id: i64 = author.parse().unwrap();
            authors.entry(author).or_insert_with(|| json!({"author_id": id, "name": name, "stub": true}));
        }
        contents.insert("graph Book".to_owned(), books);
        contents.insert("graph Author".to_owned(), authors);
        let tags: BTreeSet<&str> = lane(5).values().map(|row| row["tag"].as_str().unwrap()).collect();
        let tags = tags.iter().map(|tag| ((*tag).to_owned(), json!({"tag": tag, "stub": true})));
        contents.insert("graph Tag".to_owned(), tags.collect());
        contents.insert("graph WROTE".to_owned(), plain(lane(4)));
        contents.insert("graph HAS_TAG".to_owned(), plain(lane(5)));
        for index in [6, 9] {
            contents.insert(format!("vectors {}", LANES[index].0), plain(lane(index)));
        }
        contents
    }

    /// What a sync must send to bring the engines from `before` to here, by table, sink and target.
    pub(crate) fn needed(&self, before: &Self) -> BTreeMap<(&'static str, &'static str, &'static str), Needed> {
        let none = Lane::new();
        let of = |lane: &(&'static str, &'static str, &'static str)| {
            let (was, is) = (before.lanes.get(lane).unwrap_or(&none), &self.lanes[lane]);
            let twice = [&before.twice, &self.twice].into_iter().filter_map(|all| all.get(lane.0)).flatten().copied().collect();
            (*lane, if lane.1 == "vectors" { needed_points(was, is, &twice) } else { needed_rows(was, is) })
        };
        self.lanes.keys().map(of).collect()
    }

    /// Fails with the differences when the engines do not hold exactly this.
    pub(crate) async fn check(&self, setup: &Setup, when: &str) {
        let found = Found::of(setup).await;
        let expected = self.contents();
        let mut differences = Vec::new();
        for name in expected.keys().chain(found.contents.keys()).collect::<BTreeSet<_>>() {
            let none = BTreeMap::new();
            let (should, is) = (expected.get(name).unwrap_or(&none), found.contents.get(name).unwrap_or(&none));
            for key in should.keys().chain(is.keys()).collect::<BTreeSet<_>>() {
                if should.get(key) != is.get(key) {
                    differences.push(format!("{name} {key}: should be {:?}, is {:?}", should.get(key), is.get(key)));
                }
            }
        }
        let mut hasher = HashEmbedder::new();
        for (text_hash, vector) in &found.vectors {
            let Some(text) = self.texts.get(text_hash) else { continue };
            let right = hasher.embed(&[text]).unwrap().remove(0);
            if right.iter().zip(vector).any(|(a, b)| (a - b).abs() > 1e-5) {
                differences.push(format!("the vector of {text:?} is another text's"));
            }
        }
        let shown = differences.iter().take(20).cloned().collect::<Vec<_>>().join("\n");
        assert!(differences.is_empty(), "{when}: {} differences\n{shown}", differences.len());
    }
}

fn needed_rows(was: &Lane, is: &Lane) -> Needed {
    Needed {
        upserts: is.iter().filter(|(key, row)| was.get(*key) != Some(row)).count() as u64,
        deletes: was.keys().filter(|key| !is.contains_key(*key)).count() as u64,
        ..Needed::default()
    }
}

/// A row's chunks are sent together: it counts once. A text is embedded once, by the first row that needs it, unless the table's points
/// have it already. Records that the table holds more than once are looked up after all others, when a point that had the text may be gone.
fn needed_points(was: &Lane, is: &Lane, twice: &BTreeSet<i64>) -> Needed {
    let mut needed = Needed::default();
    let hash_of = |row: &Value| row["_text_hash"].as_str().unwrap().to_owned();
    let mut there: HashSet<String> = was.values().map(hash_of).collect();
    let rows: BTreeSet<i64> = was.keys().chain(is.keys()).map(|(id, _)| *id).collect();
    for id in rows {
        let chunks = |lane: &Lane| -> BTreeMap<String, Value> {
            let of = lane.range((id, String::new())..(id + 1, String::new()));
            of.map(|((_, chunk), row)| (chunk.clone(), row.clone())).collect()
        };
        let (before, after) = (chunks(was), chunks(is));
        let new: Vec<String> = after
            .iter()
            .filter(|(chunk, row)| before.get(*chunk).is_none_or(|old| hash_of(old) != hash_of(row)))
            .map(|(_, row)| hash_of(row))
            .collect();
        if after.is_empty() {
            needed.deletes += 1;
        } else if !new.is_empty() {
            needed.upserts += 1;
            let embedded = new.iter().filter(|hash| there.insert((*hash).clone())).count();
            *(if embedded > 0 { &mut needed.texts_embedded } else { &mut needed.texts_reused }) += 1;
            needed.doubtful += u64::from(embedded == 0 && twice.contains(&id));
        } else if before != after {
            needed.payload_updates += 1;
        }
    }
    needed
}

/// What a report says was sent, by table, sink and target.
pub(crate) fn sent(report: &SyncReport) -> BTreeMap<(String, String, String), Needed> {
    let mut sent: BTreeMap<_, Needed> = BTreeMap::new();
    for (table, target) in report.targets() {
        let lane = (table.table.clone(), target.sink.name().to_owned(), target.target.clone());
        let of = sent.entry(lane).or_default();
        of.upserts += target.upserts;
        of.deletes += target.deletes;
        of.payload_updates += target.payload_updates;
        of.texts_embedded += target.texts_embedded;
        of.texts_reused += target.texts_reused;
    }
    sent
}

/// Fails when a report says that anything else was sent than what was needed.
pub(crate) fn assert_sent(
    report: &SyncReport,
    needed: &BTreeMap<(&'static str, &'static str, &'static str), Needed>,
    when: &str,
) {
    let sent = sent(report);
    for ((table, sink, target), needed) in needed {
        let lane = ((*table).to_owned(), (*sink).to_owned(), (*target).to_owned());
        let sent = sent.get(&lane).copied().unwrap_or_default();
        let mut needed = *needed;
        let again = sent.texts_embedded.saturating_sub(needed.texts_embedded).min(std::mem::take(&mut needed.doubtful));
        needed.texts_embedded += again;
        needed.texts_reused -= again;
        assert_eq!(sent, needed, "{when}: sent (left) and needed (right) for {table} {sink} {target}\n{}", strategies(report));
    }
    for (table, target) in report.targets() {
        let all = target.upserts + target.payload_updates + target.deletes + target.unchanged + target.quarantined;
        assert_eq!(all, target.given, "{when}: not everything given is accounted for in {} {target:?}", table.table);
    }
}

/// How the tables were read, for messages.
pub(crate) fn strategies(report: &SyncReport) -> String {
    let of = report.tables.iter().map(|t| format!("{}: {} {:?}..{} ({})", t.table, t.strategy, t.from, t.to, t.reason));
    of.collect::<Vec<_>>().join("\n")
}

/// What the engines hold, asked in their own languages.
struct Found {
    contents: Contents,
    /// Text hashes and vectors of points.
    vectors: Vec<(String, Vec<f32>)>,
}

impl Found {
    async fn of(setup: &Setup) -> Self {
        let mut found = Self { contents: Contents::new(), vectors: Vec::new() };
        for sink in &setup.sinks {
            match sink.kind() {
                SinkKind::Clickhouse => found.clickhouse(sink).await,
                SinkKind::Graph => found.graph(sink).await,
                SinkKind::Vectors => found.points(setup, sink).await,
            }
        }
        found
    }

    fn take(&mut self, name: &str, rows: Vec<Map<String, Value>>, key: impl Fn(&Map<String, Value>) -> String) {
        let mut kept = BTreeMap::new();
        for mut row in rows {
            if let Some(number) = row.get("popularity").and_then(Value::as_f64) {
                row.insert("popularity".to_owned(), json!(number));
            }
            let key = key(&row);
            let twice = kept.insert(key.clone(), Value::Object(row));
            assert!(twice.is_none(), "{name} holds {key} twice");
        }
        self.contents.insert(name.to_owned(), kept);
    }

    async fn clickhouse(&mut self, sink: &Arc<dyn Sink>) {
        let part = |row: &Map<String, Value>, name: &str| row[name].as_str().map_or_else(|| row[name].to_string(), str::to_owned);
        for (table, keys) in [
            ("book", ["book_id", ""]),
            ("book_credit", ["book_id", "credit_id"]),
            ("book_tag", ["book_id", "tag"]),
            ("author", ["author_id", ""]),
        ] {
            let rows = ask(sink, &format!("SELECT * FROM {table}_current")).await;
            let rest = |row: &Map<String, Value>| if keys[1].is_empty() { String::new() } else { part(row, keys[1]) };
            self.take(&format!("clickhouse {table}"), rows, |row| format!("{}/{}", part(row, keys[0]), rest(row)));
        }
        let rows = ask(sink, "SELECT * FROM tag").await;
        self.take("clickhouse tag", rows, |row| part(row, "tag"));
    }

    async fn graph(&mut self, sink: &Arc<dyn Sink>) {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let mut nodes = 0;
        let mut relationships = 0;
        for (label, key, more) in
            [("Book", "book_id", Some("title")), ("Author", "author_id", Some("name")), ("Tag", "tag", None)]
        {
            let more = more.map_or_else(String::new, |name| format!("n.{name} AS {name}, "));
            let rows = ask(sink, &format!("MATCH (n:{label}) RETURN n.{key} AS {key}, {more}n.`_stub` AS stub")).await;
            nodes += rows.len();
            self.take(&format!("graph {label}"), rows, |row| text(&row[key]));
        }
        let wrote = "MATCH (a:Author)-[r:WROTE]->(b:Book) RETURN b.book_id AS book_id, r.credit_id AS credit_id, \
                     a.author_id AS author_id, r.name AS name, r.role AS role";
        let rows = ask(sink, wrote).await;
        relationships += rows.len();
        self.take("graph WROTE", rows, |row| format!("{}/{}/{}", row["book_id"], row["author_id"], text(&row["credit_id"])));
        let rows = ask(sink, "MATCH (b:Book)-[r:HAS_TAG]->(t:Tag) RETURN b.book_id AS book_id, t.tag AS tag").await;
        relationships += rows.len();
        self.take("graph HAS_TAG", rows, |row| format!("{}/{}", row["book_id"], text(&row["tag"])));
        let all = ask(sink, "MATCH (n) RETURN count(n) AS c").await[0]["c"].as_u64().unwrap();
        let own = ask(sink, "MATCH (n:`_DistributaryCheckpoint`) RETURN count(n) AS c").await[0]["c"].as_u64().unwrap();
        assert_eq!(all - own, nodes as u64, "the graph has nodes of other labels");
        let all = ask(sink, "MATCH ()-[r]->() RETURN count(r) AS c").await[0]["c"].as_u64().unwrap();
        assert_eq!(all, relationships as u64, "the graph has relationships of other types");
    }

    async fn points(&mut self, setup: &Setup, sink: &Arc<dyn Sink>) {
        for target in point_targets(setup).await {
            let mut rows = Vec::new();
            for batch in all_rows(sink, &target).await {
                rows.extend(json_rows(&batch));
                let hashes = batch.column_by_name("_text_hash").unwrap().as_string::<i32>().clone();
                let vectors = batch.column_by_name(VECTOR).unwrap().as_fixed_size_list().clone();
                for row in 0..batch.num_rows() {
                    assert!(vectors.is_valid(row), "a point of {} has no vector", target.table);
                    let vector = vectors.value(row).as_primitive::<Float32Type>().values().to_vec();
                    self.vectors.push((hashes.value(row).to_owned(), vector));
                }
            }
            rows.iter_mut().for_each(|row| drop(row.remove(VECTOR)));
            self.take(&format!("vectors {}", target.table), rows, |row| format!("{}/{}", row["id"], row["_chunk"]));
        }
    }
}

async fn ask(sink: &Arc<dyn Sink>, text: &str) -> Vec<Map<String, Value>> {
    let answer = sink.query(&Query::Text(text.to_owned())).await;
    answer.unwrap_or_else(|error| panic!("{text}: {error:?}"))
}

/// Everything that a sink holds of a target.
pub(crate) async fn all_rows(sink: &Arc<dyn Sink>, target: &Target) -> Vec<RecordBatch> {
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    let mut after: Option<String> = None;
    loop {
        let page = sink.list(target, after.as_deref(), 1000).await.unwrap();
        let fresh: arrow::array::BooleanArray =
            json_rows(&page.keys).into_iter().map(|key| Some(seen.insert(Value::Object(key).to_string()))).collect();
        let keys = arrow::compute::filter_record_batch(&page.keys, &fresh).unwrap();
        if keys.num_rows() > 0 {
            found.push(sink.held(target, &keys).await.unwrap());
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return found,
        }
    }
}

/// Rows as objects, nulls among them.
pub(crate) fn json_rows(batch: &RecordBatch) -> Vec<Map<String, Value>> {
    let builder = arrow::json::WriterBuilder::new().with_explicit_nulls(true);
    let mut writer = builder.build::<_, arrow::json::writer::LineDelimited>(Vec::new());
    writer.write(batch).unwrap();
    writer.finish().unwrap();
    let text = String::from_utf8(writer.into_inner()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The targets of a mapping that are collections, as a sink must be asked for them.
async fn point_targets(setup: &Setup) -> Vec<Arc<Target>> {
    let mut schemas: BTreeMap<String, SchemaRef> = BTreeMap::new();
    schemas.insert("books".to_owned(), distributary::rows::canonical_schema(&Book::schema()));
    schemas.insert("authors".to_owned(), distributary::rows::canonical_schema(&Author::schema()));
    static KNOWN: tokio::sync::OnceCell<HashMap<std::path::PathBuf, Vec<Arc<Target>>>> = tokio::sync::OnceCell::const_new();
    let path = setup.config.mapping.clone();
    let known = KNOWN
        .get_or_init(|| async {
            let mapping = MappingFile::read(&path).unwrap();
            let compiled = compile(&mapping, &path, &schemas).await.unwrap();
            let all = compiled.tables.values().flat_map(|table| &table.projections).map(|p| p.target().clone());
            HashMap::from([(path.clone(), all.filter(|t| t.sink() == SinkKind::Vectors).collect())])
        })
        .await;
    known[&setup.config.mapping].clone()
}
