//! Model
use distributary::sync::{self, Options};
use crate::support::engines::Bench;
use crate::support::lake::*;
use crate::support::oracle::*;
use crate::support::{tests_dir, wait_for};

#[test]
fn first() {
    wait_for(async {
        let bench = Bench::new(tests_dir().join("mappings/library.yaml"));
        let t = std::time::Instant::now();
        let books: Vec<Book> = (1..=20).map(|id| Book { book_id: Some(id), title: Some(format!("Book {id}")), blurb: Some(format!("about {id}")), popularity: Some(1.0), tags: vec![format!("t{}", id % 3)], credits: Some(vec![Credit { credit_id: format!("c{id}"), author_id: id % 5, name: Some(format!("A{}", id%5)), role: Some("writer".into()) }]) }).collect();
        let authors: Vec<Author> = (1..=3).map(|id| Author { author_id: Some(id), name: Some(format!("Author {id}")), bio: Some(format!("bio {id}")), visits: Some(3)}).collect();
        bench.lake.create(&books, true).await;
        bench.lake.create(&authors, true).await;
        eprintln!("lake {:?}", t.elapsed()); let t = std::time::Instant::now();
        let setup = bench.open().await;
        eprintln!("open {:?}", t.elapsed()); let t = std::time::Instant::now();
        let report = sync::sync(&setup, &Options::default()).await.unwrap();
        eprintln!("first {:?}", t.elapsed()); let t = std::time::Instant::now();
        let oracle = Oracle::of(&bench.lake, &Oracle::default()).await;
        eprintln!("oracle {:?}", t.elapsed()); let t = std::time::Instant::now();
        assert!(report.ok(), "{report:?}");
        oracle.check(&setup, "first").await;
        assert_sent(&report, &oracle.needed(&Oracle::default()), "first");
        eprintln!("check {:?}", t.elapsed()); 
        for i in 0..3 {
        let t = std::time::Instant::now();
        let mut b = books[3].clone(); b.title = Some(format!("x{i}"));
        bench.lake.merge(&[b], &[5+i]).await;
        eprintln!("merge {:?}", t.elapsed()); let t = std::time::Instant::now();
        let report = sync::sync(&setup, &Options::default()).await.unwrap();
        eprintln!("sync {:?}", t.elapsed());
        assert!(report.ok(), "{report:?}");
        let t = std::time::Instant::now();
        let report = sync::sync(&setup, &Options::default()).await.unwrap();
        assert_eq!(report.operations(), 0);
        eprintln!("nothing {:?}", t.elapsed());
        }
    });
}
