//! Brings a batch into the graph. It reads what the graph may hold of the nodes and relationships that the batch names, decides in
//! memory, and writes: relationships away, nodes, relationships, and at last the nodes that nothing holds any more. Every
//! statement finds its nodes by key, so the work follows the batch and not the graph.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::sinks::{Refused, SinkError, Write};

use super::client::{Executor, Row};
use super::cypher::{Layout, Node, NodeKey, Relationship, SINK, Side, VERSION};
use super::encode::{Cell, key_text};
use super::fresh::Fresh;
use super::rows::{Columns, end_key, rows_of, short};
use super::stubs::{Gift, Nodes, Properties, RecordChange, State, Step, Touched};

/// What every batch needs to know.
pub(crate) struct Context<'a> {
    pub(crate) engine: &'a mut dyn Executor,
    /// All targets of the graph: a stub is made again from relationships of any of them.
    pub(crate) layouts: &'a [Layout],
    pub(crate) fresh: &'a mut Fresh,
    pub(crate) batch_rows: usize,
    /// Bytes that the values of one key may have together.
    pub(crate) key_bytes_max: usize,
}

/// The relationships of one target in a batch.
struct Edges {
    layout: Arc<Relationship>,
    deletes: Vec<Cell>,
    updates: Vec<Cell>,
    creates: Vec<Cell>,
    /// How many of the type there must be before, if that is to be seen.
    before: Option<i64>,
}

/// A relationship that the graph holds.
struct Held {
    id: i64,
    version: i64,
}

/// Touched nodes by label.
type Labels = BTreeMap<NodeKey, Nodes>;

impl Context<'_> {
    /// Applies the writes inside the open transaction.
    pub(crate) fn apply(&mut self, writes: &[(Layout, &Write)]) -> Result<Vec<Refused>, SinkError> {
        let mut refused = Vec::new();
        let mut labels = Labels::new();
        let mut edges = Vec::new();
        for (index, (layout, write)) in writes.iter().enumerate() {
            let version = version(write)?;
            match layout {
                Layout::Node(node) => records(node, write, version, self.key_bytes_max, &mut labels, &mut |row, message| {
                    refused.push(Refused { write: index, row, message });
                })?,
                Layout::Relationship(relationship) => {
                    let found = self.edges(relationship, write, version, &mut labels, &mut |row, message| {
                        refused.push(Refused { write: index, row, message });
                    })?;
                    edges.push(found);
                }
            }
        }
        for found in &edges {
            self.see(found)?;
        }
        for found in &mut edges {
            self.write_all(&found.layout.delete(), std::mem::take(&mut found.deletes))?;
        }
        let mut after = Vec::new();
        for nodes in labels.values_mut() {
            self.states(nodes)?;
            let (mut records, mut writes) = (Vec::new(), Vec::new());
            let mut left = Vec::new();
            // Everybody who writes nodes locks them in this order, those of records first.
            let known = |(text, node): &(&String, &Touched)| node.only_gains() && self.fresh.is_record(&nodes.key, text);
            let mut touched: Vec<_> = nodes.touched.iter().filter(|node| !known(node)).collect();
            touched.sort_unstable_by_key(|(text, _)| text.as_str());
            for (text, node) in touched {
                if let Some(change) = &node.record {
                    self.fresh.record(&nodes.key, text, matches!(change, RecordChange::Upsert { .. }));
                }
                match nodes.step(node) {
                    Step::Keep => {}
                    Step::Record(version, properties) => {
                        records.push(listed(&node.key, [Cell::Int(version), Cell::Map(properties)]));
                    }
                    Step::Write(properties) => writes.push(surely(&node.key, properties)),
                    Step::Offer { by, properties } => {
                        let by = by.map_or(Cell::Null, |by| Cell::Text(by.into()));
                        writes.push(listed(&node.key, [Cell::Bool(false), by, Cell::Map(properties)]));
                    }
                    Step::Prune => left.push((node.key.clone(), false)),
                    Step::Remake => left.push((node.key.clone(), true)),
                }
            }
            self.write_all(&nodes.key.record(), records)?;
            self.write_all(&nodes.key.write(), writes)?;
            after.push((nodes.key.clone(), left));
        }
        for found in edges {
            self.write_all(&found.layout.update(), found.updates)?;
            self.connect_all(&found.layout.create(), found.creates)?;
        }
        for (key, left) in after {
            self.settle(key, &left)?;
        }
        Ok(refused)
    }

    /// Decides what happens to each relationship of a write, and tells the nodes at its ends.
    fn edges(
        &mut self,
        layout: &Arc<Relationship>,
        write: &Write,
        version: i64,
        labels: &mut Labels,
        refuse: &mut dyn FnMut(usize, String),
    ) -> Result<Edges, SinkError> {
        let (gone, here) = rows_of(layout, write, self.key_bytes_max, refuse)?;
        let texts: Vec<String> = gone.iter().chain(&here).map(|cells| edge_text(layout, cells)).collect();
        if self.fresh.asks(layout, texts.len()) {
            self.ask(&layout.target.table)?;
        }
        let held = self.held(layout, gone.iter().chain(&here).zip(&texts))?;
        let (gone_texts, here_texts) = texts.split_at(gone.len());
        let mut edges =
            Edges { layout: layout.clone(), deletes: Vec::new(), updates: Vec::new(), creates: Vec::new(), before: None };
        let mut ids: BTreeMap<String, (Vec<Cell>, Vec<Cell>)> = BTreeMap::new();
        let (mut made, mut deleted) = (Vec::new(), 0);
        for (cells, text) in gone.iter().zip(gone_texts) {
            let Some(found) = held.get(text).filter(|found| found.version <= version) else { continue };
            let anchor = end_key(layout, layout.anchor, cells);
            ids.entry(key_text(&anchor)).or_insert_with(|| (anchor, Vec::new())).1.push(Cell::Int(found.id));
            deleted += 1;
            for side in [Side::From, Side::To] {
                touch(labels, layout, side, cells, |node| node.detach(&stub_text(layout, text)));
            }
        }
        edges.deletes = ids.into_values().map(|(anchor, ids)| row(0, 'k', &anchor, [("ids", Cell::List(ids))])).collect();
        let mut here: Vec<(&String, Row)> = here_texts.iter().zip(here).collect();
        here.sort_by_cached_key(|(_, cells)| key_text(&end_key(layout, layout.anchor, cells)));
        for (text, cells) in here {
            let found = held.get(text);
            if found.is_some_and(|found| found.version > version) {
                continue;
            }
            for side in [Side::From, Side::To] {
                // A relationship that is there already changes its end only by what it gives.
                if found.is_none() || !layout.end(side).stub.is_empty() {
                    let gift = gift(layout, side, &cells);
                    let by = stub_text(layout, text);
                    touch(labels, layout, side, &cells, |node| match found {
                        Some(_) => node.renew(&by, gift),
                        None => node.attach(&by, gift),
                    });
                }
            }
            match found {
                Some(found) => {
                    let anchor = end_key(layout, layout.anchor, &cells);
                    let properties = Cell::Map(edge_properties(layout, &cells, version));
                    edges.updates.push(row(0, 'k', &anchor, [("id", Cell::Int(found.id)), ("props", properties)]));
                }
                None => {
                    made.push(text.as_str());
                    let mut create = end_key(layout, Side::From, &cells);
                    create.extend(end_key(layout, Side::To, &cells));
                    create.extend(layout.own().map(|index| cells[index].clone()));
                    create.push(Cell::Int(version));
                    edges.creates.push(Cell::List(create));
                }
            }
        }
        edges.before = self.fresh.change(layout, &made, deleted);
        Ok(edges)
    }

    /// Asks which types of a table there are none of yet.
    fn ask(&mut self, table: &str) -> Result<(), SinkError> {
        for layout in self.layouts {
            if let Layout::Relationship(layout) = layout
                && layout.target.table == table
                && self.fresh.asks(layout, usize::MAX)
            {
                let statement = layout.count();
                // Of two that are counted as one nobody knows whose they are.
                let same = |other: &&Layout| matches!(other, Layout::Relationship(other) if other.count() == statement);
                let count =
                    if self.layouts.iter().filter(same).count() > 1 { i64::MAX } else { self.engine.count(&statement)? };
                self.fresh.answer(layout, count);
            }
        }
        Ok(())
    }

    /// Looks whether a type that was taken for this run's own still is.
    fn see(&mut self, edges: &Edges) -> Result<(), SinkError> {
        let Some(before) = edges.before.filter(|_| self.engine.is_shared()) else { return Ok(()) };
        let statement = edges.layout.count();
        let count = self.engine.count(&statement)?;
        if count == before {
            return Ok(());
        }
        let message =
            format!("`{statement}` finds {count} where this run made {before}: others write them too, so they are read again");
        Err(SinkError::transient(SINK, message))
    }

    /// The relationships at the anchors of some rows, by the text of their key. Each row comes with its text.
    fn held<'a>(
        &mut self,
        layout: &Relationship,
        rows: impl Iterator<Item = (&'a Row, &'a String)>,
    ) -> Result<HashMap<String, Held>, SinkError> {
        let mut anchors = BTreeMap::new();
        for (cells, _) in rows.filter(|(_, text)| self.fresh.may_have(layout, text)) {
            let anchor = end_key(layout, layout.anchor, cells);
            anchors.entry(key_text(&anchor)).or_insert(anchor);
        }
        let questions = anchors.values().map(|anchor| row(0, 'k', anchor, [])).collect();
        let answers = self.read_all(&layout.read(layout.anchor, &layout.order), questions)?;
        let mut held = HashMap::with_capacity(answers.len());
        for (_, answer) in answers {
            let [_, id, found, key @ ..] = answer.as_slice() else { continue };
            if let Some(id) = id.as_int() {
                held.insert(key_text(key), Held { id, version: found.as_int().unwrap_or(-1) });
            }
        }
        Ok(held)
    }

    /// Fills in what the graph knows of the touched nodes, where it matters.
    fn states(&mut self, nodes: &mut Nodes) -> Result<(), SinkError> {
        let asked = nodes.touched.iter().filter(|(_, node)| node.asks());
        let texts: Vec<String> = asked.map(|(text, _)| text.clone()).collect();
        let questions = texts.iter().enumerate().map(|(i, text)| row(i, 'k', &nodes.touched[text].key, [])).collect();
        for (index, answer) in self.read_all(&nodes.key.read(), questions)? {
            let [_, stub, by, version] = answer.as_slice() else { continue };
            let state = match (stub, version) {
                (Cell::Bool(true), _) => State::Stub { by: by.as_text().map(str::to_owned) },
                (_, version) => State::Record { version: version.as_int().unwrap_or(-1) },
            };
            if let Some(node) = texts.get(index).and_then(|text| nodes.touched.get_mut(text)) {
                node.state = state;
            }
        }
        Ok(())
    }

    /// Deletes nodes that have no relationship, and makes those of the others stubs that lost what they were made from (`true`).
    fn settle(&mut self, key: NodeKey, left: &[(Vec<Cell>, bool)]) -> Result<(), SinkError> {
        let questions = left.iter().enumerate().map(|(i, (node, _))| row(i, 'k', node, [])).collect();
        let mut lonely = vec![false; left.len()];
        for (index, _) in self.read_all(&key.lonely(), questions)? {
            lonely[index] = true;
        }
        let gone = left.iter().zip(&lonely).filter(|(_, lonely)| **lonely).map(|((node, _), _)| row(0, 'k', node, []));
        self.write_all(&key.delete(), gone.collect())?;
        let remade: Vec<&Vec<Cell>> =
            left.iter().zip(&lonely).filter(|((_, remake), lonely)| *remake && !**lonely).map(|((node, _), _)| node).collect();
        let gifts = self.gifts(&key, &remade)?;
        let nodes = Nodes::new(key);
        let stubs = remade.iter().zip(&gifts).map(|(node, gift)| surely(node, nodes.stub(node, gift.as_ref())));
        self.write_all(&nodes.key.write(), stubs.collect())
    }

    /// The least gift of all relationships of each node.
    fn gifts(&mut self, key: &NodeKey, nodes: &[&Vec<Cell>]) -> Result<Vec<Option<Gift>>, SinkError> {
        let mut least: Vec<Option<Gift>> = vec![None; nodes.len()];
        if nodes.is_empty() {
            return Ok(least);
        }
        for layout in self.layouts {
            let Layout::Relationship(layout) = layout else { continue };
            for side in [Side::From, Side::To] {
                let end = layout.end(side);
                if end.label != key.label || end.stub.is_empty() {
                    continue;
                }
                let columns = || end.stub.iter().filter_map(|(_, column)| layout.target.schema.index_of(column).ok());
                let wanted: Vec<usize> =
                    layout.order.iter().copied().chain(columns().filter(|i| !layout.order.contains(i))).collect();
                let questions = nodes.iter().enumerate().map(|(i, node)| row(i, 'k', node, [])).collect();
                for (index, answer) in self.read_all(&layout.read(side, &wanted), questions)? {
                    let mut cells = vec![Cell::Null; layout.places.len()];
                    for (&place, cell) in wanted.iter().zip(answer.into_iter().skip(3)) {
                        cells[place] = cell;
                    }
                    let properties = gift(layout, side, &cells);
                    let by = stub_text(layout, &edge_text(layout, &cells));
                    if !properties.is_empty() && least[index].as_ref().is_none_or(|gift| by < gift.by) {
                        least[index] = Some(Gift { by, properties });
                    }
                }
            }
        }
        Ok(least)
    }

    /// Runs a statement over rows, some at a time.
    fn write_all(&mut self, statement: &str, rows: Vec<Cell>) -> Result<(), SinkError> {
        self.some_at_a_time(rows, |engine, some| engine.write(statement, some))
    }

    /// Runs a statement that makes one relationship for each row, some at a time.
    fn connect_all(&mut self, statement: &str, rows: Vec<Cell>) -> Result<(), SinkError> {
        self.some_at_a_time(rows, |engine, some| engine.connect(statement, some))
    }

    fn some_at_a_time(
        &mut self,
        rows: Vec<Cell>,
        run: impl Fn(&mut dyn Executor, Vec<Cell>) -> Result<(), SinkError>,
    ) -> Result<(), SinkError> {
        let mut rows = rows.into_iter();
        loop {
            let some: Vec<Cell> = rows.by_ref().take(self.batch_rows).collect();
            if some.is_empty() {
                return Ok(());
            }
            run(self.engine, some)?;
        }
    }

    /// Asks a statement about rows, some at a time: the number `i` that a question carried, with each answer to it.
    fn read_all(&mut self, statement: &str, rows: Vec<Cell>) -> Result<Vec<(usize, Vec<Cell>)>, SinkError> {
        let mut rows = rows.into_iter();
        let mut answers = Vec::new();
        loop {
            let some: Vec<Cell> = rows.by_ref().take(self.batch_rows).collect();
            if some.is_empty() {
                return Ok(answers);
            }
            for answer in self.engine.read(statement, some)? {
                let index = answer.first().and_then(Cell::as_int).and_then(|index| usize::try_from(index).ok());
                let index = index.ok_or_else(|| {
                    SinkError::permanent(SINK, format!("the engine answered without a row number: {statement}"))
                })?;
                answers.push((index, answer));
            }
        }
    }
}

/// A row of `$rows`: its number, key values under `letter` and their place, and more.
pub(crate) fn row<const N: usize>(index: usize, letter: char, key: &[Cell], more: [(&str, Cell); N]) -> Cell {
    let mut entries: Properties = Vec::with_capacity(1 + key.len() + N);
    entries.push((Arc::from("i"), Cell::Int(i64::try_from(index).unwrap_or(i64::MAX))));
    entries.extend(key.iter().enumerate().map(|(i, cell)| (Arc::from(format!("{letter}{i}")), cell.clone())));
    entries.extend(more.into_iter().map(|(name, cell)| (Arc::from(name), cell)));
    Cell::Map(entries)
}

/// A row for [`NodeKey::write`] that makes the node what it says whatever it was.
fn surely(key: &[Cell], properties: Properties) -> Cell {
    listed(key, [Cell::Bool(true), Cell::Null, Cell::Map(properties)])
}

/// A row of `$rows` that is a list: the key, and more.
fn listed<const N: usize>(key: &[Cell], more: [Cell; N]) -> Cell {
    Cell::List(key.iter().cloned().chain(more).collect())
}

fn version(write: &Write) -> Result<i64, SinkError> {
    i64::try_from(write.version).map_err(|_| {
        SinkError::permanent(SINK, format!("the epoch of version {} is above 127, the last that a graph can hold", write.version))
    })
}

/// Tells the label's nodes what a write does to their records.
fn records(
    node: &Node,
    write: &Write,
    version: i64,
    key_bytes_max: usize,
    labels: &mut Labels,
    refuse: &mut dyn FnMut(usize, String),
) -> Result<(), SinkError> {
    let schema = &node.target.schema;
    let nodes = labels.entry(node.key.clone()).or_insert_with(|| Nodes::new(node.key.clone()));
    let deletes = Columns::new(&write.deletes, node.key.properties.iter().map(String::as_str))?;
    for index in 0..write.deletes.num_rows() {
        // A key that the graph cannot hold is not in it.
        let Ok(key) = deletes.row(index) else { continue };
        nodes.touch(&key).record = Some(RecordChange::Delete { version });
    }
    let upserts = Columns::new(&write.upserts, schema.fields().iter().map(|field| field.name().as_str()))?;
    let places: Vec<usize> = node.key.properties.iter().filter_map(|name| schema.index_of(name).ok()).collect();
    let names: Vec<Arc<str>> = schema.fields().iter().map(|field| Arc::from(field.name().as_str())).collect();
    for index in 0..write.upserts.num_rows() {
        let cells = match upserts.row(index) {
            Ok(cells) => cells,
            Err(message) => {
                refuse(index, message);
                continue;
            }
        };
        if let Some(&place) = places.iter().find(|&&place| cells[place] == Cell::Null) {
            refuse(index, format!("key column `{}` is null", schema.field(place).name()));
            continue;
        }
        let key: Vec<Cell> = places.iter().map(|&place| cells[place].clone()).collect();
        if let Err(message) = short(&key, key_bytes_max) {
            refuse(index, message);
            continue;
        }
        let properties = names.iter().cloned().zip(cells).filter(|(_, cell)| *cell != Cell::Null).collect();
        nodes.touch(&key).record = Some(RecordChange::Upsert { version, properties });
    }
    Ok(())
}

/// The text of a relationship's key, from the cells of a row.
fn edge_text(layout: &Relationship, cells: &[Cell]) -> String {
    key_text(layout.order.iter().map(|&index| &cells[index]))
}

/// The text by which relationships of all types compare: key, then type, then labels.
fn stub_text(layout: &Relationship, text: &str) -> String {
    format!("{text}{}", layout.suffix)
}

/// What a row gives the node at one end.
fn gift(layout: &Relationship, side: Side, cells: &[Cell]) -> Properties {
    let stub = layout.end(side).stub.iter();
    let given = stub.filter_map(|(property, column)| {
        let cell = layout.target.schema.index_of(column).ok().map(|index| cells[index].clone())?;
        (cell != Cell::Null).then(|| (Arc::from(property.as_str()), cell))
    });
    given.collect()
}

fn touch(labels: &mut Labels, layout: &Relationship, side: Side, cells: &[Cell], change: impl FnOnce(&mut Touched)) {
    let key = NodeKey::of(layout.end(side));
    let nodes = labels.entry(key).or_insert_with_key(|key| Nodes::new(key.clone()));
    change(nodes.touch(&end_key(layout, side, cells)));
}

fn edge_properties(layout: &Relationship, cells: &[Cell], version: i64) -> Properties {
    let own = layout.own().filter(|&index| cells[index] != Cell::Null);
    let mut properties: Properties =
        own.map(|index| (Arc::from(layout.target.schema.field(index).name().as_str()), cells[index].clone())).collect();
    properties.push((Arc::from(VERSION), Cell::Int(version)));
    properties
}
