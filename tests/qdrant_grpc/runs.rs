//! Whole runs against a server: the sample's lake, a rebuild while others ask, and the points compared with those of the embedded engine.

use std::collections::BTreeMap;
use std::path::Path;

use qdrant_client::qdrant::collections_client::CollectionsClient;
use qdrant_client::qdrant::points_client::PointsClient;
use qdrant_client::qdrant::{
    CollectionInfo, DeleteCollection, GetCollectionInfoRequest, ListCollectionsRequest, ScrollPoints, Value as WireValue,
    value::Kind, vector_output, vectors_output,
};
use qdrant_edge::{EdgeShard, ScrollRequest, VectorStructInternal, WithPayloadInterface, WithVector};
use serde_json::Value;
use tonic::transport::Channel;

use crate::fronts::qdrant::{Front, Rules};
use crate::reembed::{asked_during_a_rebuild, random_rebuild};
use crate::support::command::{operations, run, sample_configuration};
use crate::support::wait_for;

async fn channel(front: &Front) -> Channel {
    let address = front.address().replace("qdrant://", "http://");
    Channel::from_shared(address).unwrap().connect().await.unwrap()
}

/// The server's collections.
pub(super) async fn collections(front: &Front) -> CollectionsClient<Channel> {
    CollectionsClient::new(channel(front).await)
}

/// What the server says of a collection.
pub(super) async fn info(client: &mut CollectionsClient<Channel>, name: &str) -> Option<CollectionInfo> {
    client.get(GetCollectionInfoRequest { collection_name: name.to_owned() }).await.unwrap().into_inner().result
}

/// Deletes a collection behind the sink's back.
pub(super) async fn delete(client: &mut CollectionsClient<Channel>, name: &str) {
    client.delete(DeleteCollection { collection_name: name.to_owned(), timeout: None }).await.unwrap();
}

/// A configuration with the vectors alone, at this address.
fn configure(home: &Path, address: &str) {
    let path = sample_configuration(home);
    let text = std::fs::read_to_string(&path).unwrap();
    let kept = text.lines().filter(|line| !["clickhouse", "graph", "vectors"].iter().any(|key| line.starts_with(key)));
    let text: String = kept.map(|line| format!("{line}\n")).collect();
    std::fs::write(&path, format!("{text}vectors: {{url: \"{address}\"}}\n")).unwrap();
}

/// Payload and vector of each point, by collection and id.
type Points = BTreeMap<(String, String), (Value, Vec<f32>)>;

fn json_of(value: WireValue) -> Value {
    match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(flag)) => flag.into(),
        Some(Kind::StringValue(text)) => text.into(),
        Some(Kind::IntegerValue(whole)) => whole.into(),
        Some(Kind::DoubleValue(float)) => float.into(),
        Some(Kind::ListValue(list)) => list.values.into_iter().map(json_of).collect(),
        Some(Kind::StructValue(object)) => object.fields.into_iter().map(|(name, value)| (name, json_of(value))).collect(),
    }
}

async fn points_at(front: &Front) -> Points {
    let mut found = Points::new();
    let listed = collections(front).await.list(ListCollectionsRequest {}).await.unwrap().into_inner().collections;
    for collection in listed.into_iter().map(|one| one.name).filter(|name| name != "_distributary") {
        let request = ScrollPoints {
            collection_name: collection.clone(),
            limit: Some(100_000),
            with_payload: Some(true.into()),
            with_vectors: Some(true.into()),
            ..ScrollPoints::default()
        };
        let mut client = PointsClient::new(channel(front).await).max_decoding_message_size(usize::MAX);
        for point in client.scroll(request).await.unwrap().into_inner().result {
            let Some(vectors_output::VectorsOptions::Vector(vector)) = point.vectors.unwrap().vectors_options else { panic!() };
            let Some(vector_output::Vector::Dense(dense)) = vector.vector else { panic!() };
            let id = match point.id.unwrap().point_id_options.unwrap() {
                qdrant_client::qdrant::point_id::PointIdOptions::Uuid(id) => id,
                other => panic!("{other:?}"),
            };
            let payload = point.payload.into_iter().map(|(name, value)| (name, json_of(value))).collect();
            found.insert((collection.clone(), id), (payload, dense.data));
        }
    }
    found
}

fn points_in(directory: &Path) -> Points {
    let mut found = Points::new();
    for entry in std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
        if !entry.join("collection.json").exists() {
            continue;
        }
        let shard = EdgeShard::load(&entry, None).unwrap();
        let request = ScrollRequest {
            offset: None,
            limit: Some(100_000),
            filter: None,
            with_payload: Some(WithPayloadInterface::Bool(true)),
            with_vector: WithVector::Bool(true),
            order_by: None,
        };
        for record in shard.scroll(request).unwrap().0 {
            let vector = match record.vector.unwrap() {
                VectorStructInternal::Single(vector) => vector,
                other => panic!("{other:?}"),
            };
            let collection = entry.file_name().unwrap().to_str().unwrap().to_owned();
            found.insert((collection, record.id.to_string()), (Value::Object(record.payload.unwrap().0), vector));
        }
    }
    found
}

/// Syncs a first time, after a crawl, and once more; verifies; answers the points.
fn synced(front: &Front) -> Points {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    configure(home, &front.address());
    run(home, &["sample", "silver"]).expect(0);
    let (server, embedded) = (home.join("server"), home.join("embedded"));
    for (place, address) in [(&server, front.address()), (&embedded, "edge:./vectors".to_owned())] {
        std::fs::create_dir(place).unwrap();
        configure(place, &address);
        let path = place.join("distributary.yaml");
        let text = std::fs::read_to_string(&path).unwrap().replace("./silver", "../silver");
        std::fs::write(&path, text).unwrap();
    }
    let sync = |place: &Path| run(place, &["sync", "--json"]).expect(0).json();
    let first = [sync(&server), sync(&embedded)].map(|report| operations(&report));
    assert!(first[0] > 80 && first[0] == first[1], "{first:?}");
    run(home, &["sample", "silver", "--crawl"]).expect(0);
    let second = [sync(&server), sync(&embedded)].map(|report| operations(&report));
    assert!(second[0] > 0 && second[0] == second[1], "{second:?}");
    assert_eq!(operations(&sync(&server)), 0, "a third sync sends nothing");
    let verified = run(&server, &["verify", "--json"]).expect(0).json();
    assert!(!verified["targets"].as_array().unwrap().is_empty(), "{verified}");
    let nearest = run(&server, &["search", "--json", "a machine that looks like a woman"]).expect(0).json();
    let beside = run(&embedded, &["search", "--json", "a machine that looks like a woman"]).expect(0).json();
    let titles = |answers: &Value| answers.as_array().unwrap().iter().map(|one| one["title"].clone()).collect::<Vec<_>>();
    assert_eq!(titles(&nearest), titles(&beside));
    points_in(&embedded.join("vectors"))
}

#[test]
fn a_sync_ends_with_the_points_of_the_embedded_engine() {
    for strict in [false, true] {
        let front = Front::with(Rules { strict, ..Rules::default() });
        let embedded = synced(&front);
        if strict {
            // It answers no page of all points.
            continue;
        }
        let server = wait_for(points_at(&front));
        assert_eq!(server.len(), embedded.len());
        assert!(server.len() > 80, "{}", server.len());
        for (id, (payload, vector)) in &embedded {
            let (found, near) = &server[id];
            assert_eq!(found, payload, "{id:?}");
            assert_eq!(near, vector, "{id:?}");
        }
    }
}

#[test]
fn who_asks_during_a_rebuild_is_answered_by_one_generation_whole() {
    let front = Front::start();
    wait_for(asked_during_a_rebuild(Some(&front.address())));
}

#[test]
fn random_changes_during_a_rebuild_arrive_in_both_generations() {
    for seed in [1, rand::random()] {
        eprintln!("seed {seed}");
        let front = Front::start();
        wait_for(random_rebuild(seed, Some(&front.address())));
    }
}

#[test]
fn two_runs_at_a_time_are_one_too_many() {
    let front = Front::start();
    let home = tempfile::tempdir().unwrap();
    configure(home.path(), &front.address());
    run(home.path(), &["sample", "silver"]).expect(0);
    let lease = distributary::sinks::Lease::new(distributary::sinks::Work::Sync, std::time::Duration::from_secs(86_400));
    wait_for(async {
        use distributary::sinks::Sink as _;
        super::opened(&front).await.hold(&lease).await.unwrap();
    });
    let refused = run(home.path(), &["sync"]);
    assert!(refused.code != 0 && refused.stderr.contains(&lease.holder), "{}", refused.all());
    // Who only looks needs no lease.
    run(home.path(), &["status"]).expect(0);
}

#[test]
fn a_wrong_way_to_quantize_is_known_before_anything_is_opened() {
    let home = tempfile::tempdir().unwrap();
    configure(home.path(), "qdrant://127.0.0.1:1");
    let path = home.path().join("distributary.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("127.0.0.1:1\"", "127.0.0.1:1\", quantization: product")).unwrap();
    let refused = run(home.path(), &["check"]).expect(2);
    for part in ["vectors.quantization", "product", "scalar", "binary"] {
        assert!(refused.stderr.contains(part), "{}", refused.all());
    }
}
