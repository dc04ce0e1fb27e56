//! What the engine is told, and what it is spared: the sink over an engine that counts.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::client::{Directory, Executor, Grafeo};
use super::super::transaction::Graph;
use super::*;

/// What an engine was told, while the graph that it is part of has it.
#[derive(Debug, Clone, Default)]
struct Counts {
    /// Constraints.
    constraints: Arc<AtomicUsize>,
    /// Nodes whose relationships were asked for.
    asked: Arc<AtomicUsize>,
    /// Nodes that may have become stubs.
    offered: Arc<AtomicUsize>,
    /// Statements that had too many rows.
    refused: Arc<AtomicUsize>,
}

/// An engine that takes no more than so many rows in a statement, and counts.
struct Tight {
    engine: Grafeo,
    rows_max: usize,
    short: bool,
    counts: Counts,
}

/// A graph on such an engine, which is told as many rows at once as `batch_rows` allows.
fn tight(engine: Grafeo, rows_max: usize, batch_rows: usize, counts: &Counts) -> Graph {
    Graph::new(Box::new(Tight { engine, rows_max, short: false, counts: counts.clone() }), batch_rows)
}

fn in_memory() -> Grafeo {
    Grafeo::start(None, &GraphOptions::in_memory()).unwrap()
}

fn taken(count: &AtomicUsize) -> usize {
    count.swap(0, Ordering::Relaxed)
}

impl Executor for Tight {
    fn read(&mut self, statement: &str, rows: Vec<Cell>) -> Result<Vec<Vec<Cell>>, SinkError> {
        self.counts.asked.fetch_add(if statement.contains("id(r)") { rows.len() } else { 0 }, Ordering::Relaxed);
        self.engine.read(statement, rows)
    }

    fn write(&mut self, statement: &str, rows: Vec<Cell>) -> Result<(), SinkError> {
        if rows.len() > self.rows_max {
            self.short = true;
            self.counts.refused.fetch_add(1, Ordering::Relaxed);
            return Err(SinkError::transient("graph", "not enough memory"));
        }
        self.counts.constraints.fetch_add(usize::from(statement.starts_with("CREATE CONSTRAINT")), Ordering::Relaxed);
        self.counts.offered.fetch_add(if statement.contains("CASE WHEN row[") { rows.len() } else { 0 }, Ordering::Relaxed);
        self.engine.write(statement, rows)
    }

    fn unique(&mut self) -> Result<BTreeSet<NodeKey>, SinkError> {
        self.engine.unique()
    }

    fn index(&mut self, properties: &[String]) -> Result<(), SinkError> {
        self.engine.index(properties)
    }

    fn begin(&mut self) -> Result<(), SinkError> {
        self.engine.begin()
    }

    fn commit(&mut self) -> Result<(), SinkError> {
        self.engine.commit()
    }

    fn rollback(&mut self) -> Result<(), SinkError> {
        self.engine.rollback()
    }

    fn ask(&mut self, statement: &str) -> Result<Vec<Map<String, Json>>, SinkError> {
        self.engine.ask(statement)
    }

    fn short_of_memory(&mut self) -> bool {
        std::mem::take(&mut self.short)
    }

    fn close(&mut self) -> Result<(), SinkError> {
        self.engine.close()
    }
}

fn layouts(targets: &[Arc<Target>]) -> Vec<Layout> {
    targets.iter().map(|target| Layout::of(target).unwrap()).collect()
}

#[test]
fn a_constraint_that_is_there_is_not_made_again() {
    let (c, counts) = (Catalogue::new(), Counts::default());
    let directory = tempfile::tempdir().unwrap();
    let open = || {
        let engine = Grafeo::start(Some(Directory::take(directory.path()).unwrap()), &GraphOptions::at(directory.path()));
        tight(engine.unwrap(), 100, 100, &counts)
    };
    let mut graph = open();
    graph.prepare(layouts(std::slice::from_ref(&c.movie))).unwrap();
    assert_eq!(taken(&counts.constraints), 2, "the label's, and that of the checkpoints");
    graph.prepare(layouts(&c.all())).unwrap();
    assert_eq!(taken(&counts.constraints), 3, "those of the labels that are new");
    for _ in 0..2 {
        graph.prepare(layouts(&c.all())).unwrap();
        assert_eq!(taken(&counts.constraints), 0);
        graph.close().unwrap();
        graph = open();
    }
}

#[test]
fn an_engine_that_lacks_memory_is_given_less_until_it_takes_it() {
    let (c, counts) = (Catalogue::new(), Counts::default());
    let mut graph = tight(in_memory(), 70, 1_000, &counts);
    graph.prepare(layouts(&c.all())).unwrap();
    let films =
        |from: i64| change(&c.movie, 1, &(from..from + 500).map(|i| vec![json!(i), json!("film")]).collect::<Vec<_>>(), &[]);
    let mut attempts = 0;
    for from in [0, 500] {
        while let Err(error) = graph.write(&[films(from)]) {
            assert_eq!(error.class, Class::Transient);
            attempts += 1;
        }
    }
    graph.flush(&[checkpoint(1)]).unwrap();
    // From 1,000 rows by halves to 62.
    assert_eq!((attempts, taken(&counts.refused)), (4, 4));
    let answer = graph.engine.ask("MATCH (m:Movie) RETURN count(m) AS n").unwrap();
    assert_eq!(answer[0]["n"], json!(1_000));
}

#[test]
fn relationships_of_a_type_that_was_empty_are_not_read() {
    let (c, counts) = (Catalogue::new(), Counts::default());
    let mut graph = tight(in_memory(), 250, 250, &counts);
    graph.prepare(layouts(&c.all())).unwrap();
    let mut write = |numbers, name| {
        graph.write(&[change(&c.acted, 1, &credits(numbers, name), &[])]).unwrap();
        graph.flush(&[]).unwrap();
        taken(&counts.asked)
    };
    assert_eq!(write(0..1_500, "one"), 0);
    assert_eq!(write(1_000..3_000, "one"), 500, "those that were made");
    assert_eq!(write(3_000..3_001, "one"), 0);
    // What could have been undone is read from then on.
    assert!(graph.write(&[change(&c.acted, 1 << 63, &credits(0..1, "one"), &[])]).is_err());
    graph.write(&[change(&c.acted, 1, &credits(3_001..5_000, "one"), &[])]).unwrap();
    assert_eq!(taken(&counts.asked), 1_999);
    // Where there is one there may be others.
    let mut graph = Graph::new(graph.engine, 250);
    graph.prepare(layouts(&c.all())).unwrap();
    graph.write(&[change(&c.acted, 1, &credits(5_000..6_500, "one"), &[])]).unwrap();
    assert_eq!(taken(&counts.asked), 1_500);
}

#[test]
fn a_node_that_was_given_its_record_is_not_written_for_its_relationships() {
    let (c, counts) = (Catalogue::new(), Counts::default());
    let mut graph = tight(in_memory(), 1_000, 1_000, &counts);
    graph.prepare(layouts(&c.all())).unwrap();
    let mut write = |writes: &[Write]| {
        graph.write(writes).unwrap();
        graph.flush(&[]).unwrap();
        let kinds = graph.engine.ask("MATCH (p:Person) RETURN p.name AS name, p._stub AS stub ORDER BY name");
        let kinds = kinds.unwrap().into_iter().map(|row| (row["name"].clone(), row["stub"].clone()));
        (taken(&counts.offered), kinds.collect::<Vec<_>>())
    };
    let person = |version, name| change(&c.person, version, &[vec![json!(7), json!(name), json!(1907)]], &[]);
    let acted = |film: i64| change(&c.acted, 1, &[vec![json!(film), json!(7), json!("c"), json!("F. Wray"), json!(0)]], &[]);
    let (record, stub) = ((json!("Fay Wray"), json!(null)), (json!("F. Wray"), json!(true)));
    assert_eq!(write(&[person(1, "Fay Wray")]), (0, vec![record.clone()]));
    assert_eq!(write(&[acted(1)]), (1, vec![record.clone()]), "the film alone");
    assert_eq!(write(&[acted(2), person(1, "Fay Wray")]), (1, vec![record.clone()]));
    // Its record is gone: what comes from then on may give it something.
    assert_eq!(write(&[change(&c.person, 2, &[], &[vec![json!(7)]])]), (1, vec![stub.clone()]), "it is made a stub");
    assert_eq!(write(&[acted(3)]), (2, vec![stub]));
    assert_eq!(write(&[person(3, "Fay Wray"), acted(4)]), (1, vec![record.clone()]));
    assert_eq!(write(&[acted(5)]), (1, vec![record]));
    // What could have been undone is not counted on.
    assert!(graph.write(&[change(&c.acted, 1 << 63, &credits(0..1, "one"), &[])]).is_err());
    graph.write(&[acted(6)]).unwrap();
    assert_eq!(taken(&counts.offered), 2);
}
