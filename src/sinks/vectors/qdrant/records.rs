//! The reserved collection: checkpoints, leases, and what each generation is, a point each. A record is written on top of the one that
//! was read, which the server compares (`update_filter`), and read again to know whether it was.

use std::collections::HashMap;

use qdrant_client::qdrant::{
    Condition, DeletePoints, FieldType, Filter, GetPoints, PointStruct, ScrollPoints, UpsertPoints, Value, WriteOrderingType,
};
use uuid::Uuid;

use super::QdrantStore;
use super::collections::Shape;
use super::convert::{self, id, is, object_of, ordered, own_writes, parts, these, those};
use crate::sinks::SinkError;
use crate::sinks::vectors::remote::{Kind, Record};
use crate::sinks::vectors::store::{Part, Payload};

/// The name of the collection.
pub(super) const RECORDS: &str = "_distributary";

/// Payload entries of a record; the first two are looked for.
const KIND: &str = "kind";
const MARK: &str = "mark";
const NAME: &str = "name";
const VALUE: &str = "value";

/// A point must have a vector: all records have this one.
const VECTOR: [f32; 1] = [1.0];

fn payload_of(record: &Record) -> HashMap<String, Value> {
    let entries = [(KIND, record.kind.name()), (MARK, &record.mark), (NAME, &record.name), (VALUE, &record.value)];
    entries.into_iter().map(|(name, text)| (name.to_owned(), text.into())).collect()
}

fn record_of(kind: Kind, payload: &Payload) -> Option<Record> {
    let text = |name: &str| payload.get(name).and_then(serde_json::Value::as_str).map(str::to_owned);
    Some(Record { kind, name: text(NAME)?, mark: text(MARK)?, value: text(VALUE)? })
}

impl QdrantStore {
    /// Makes the reserved collection if it is not there.
    pub(super) async fn make_records(&self) -> Result<(), SinkError> {
        if self.limits_of(RECORDS).await?.is_none() {
            self.make(RECORDS, &Shape::of_records()).await?;
        }
        for name in [KIND, MARK] {
            self.index_entry(RECORDS, name, FieldType::Keyword).await?;
        }
        Ok(())
    }

    /// All records of a kind.
    pub(super) async fn records(&self, kind: Kind) -> Result<Vec<Record>, SinkError> {
        let (mut records, mut from) = (Vec::new(), None);
        let Some(limits) = self.limits_of(RECORDS).await? else { return Ok(records) };
        let (with_payload, with_vectors) = parts(Part::Payload);
        loop {
            let request = ScrollPoints {
                collection_name: RECORDS.to_owned(),
                filter: Some(Filter::must([is(KIND, kind.name())])),
                offset: from,
                limit: u32::try_from(limits.page).ok(),
                with_payload: with_payload.clone(),
                with_vectors: with_vectors.clone(),
                read_consistency: own_writes(),
                ..ScrollPoints::default()
            };
            let answer = self.client.points().scroll(request).await;
            let Some(page) = self.client.found("read the collection _distributary", answer)? else { return Ok(records) };
            records.extend(page.result.into_iter().filter_map(|point| record_of(kind, &object_of(point.payload))));
            from = page.next_page_offset;
            if from.is_none() {
                return Ok(records);
            }
        }
    }

    /// One record.
    pub(super) async fn record(&self, kind: Kind, at: Uuid) -> Result<Option<Record>, SinkError> {
        let (with_payload, with_vectors) = parts(Part::Payload);
        let request = GetPoints {
            collection_name: RECORDS.to_owned(),
            ids: vec![id(at)],
            with_payload,
            with_vectors,
            read_consistency: own_writes(),
            ..GetPoints::default()
        };
        let answer = self.client.points().get(request).await;
        let found = self.client.found("read the collection _distributary", answer)?;
        let point = found.and_then(|found| found.result.into_iter().next());
        Ok(point.and_then(|point| record_of(kind, &object_of(point.payload))))
    }

    /// Writes the record if the one that is there has this mark, or if none is there. What became of it is known by reading.
    pub(super) async fn move_record(&self, record: &Record, from: &str) -> Result<(), SinkError> {
        let point = PointStruct { id: Some(id(record.id())), payload: payload_of(record), vectors: Some(VECTOR.to_vec().into()) };
        let request = UpsertPoints {
            collection_name: RECORDS.to_owned(),
            wait: Some(true),
            points: vec![point],
            ordering: ordered(WriteOrderingType::Strong),
            update_filter: Some(Filter::must([is(MARK, from)])),
            ..UpsertPoints::default()
        };
        let answer = self.client.points().upsert(request).await;
        let done = self.client.answer(&format!("write the {} {}", record.kind.name(), record.name), answer)?;
        self.is_done("write to the collection _distributary", done.result.as_ref())
    }

    /// Deletes records.
    pub(super) async fn forget(&self, records: &[Record]) -> Result<(), SinkError> {
        if records.is_empty() {
            return Ok(());
        }
        self.delete_records(these(records.iter().map(Record::id))).await
    }

    /// Deletes a record if it still has this mark.
    pub(super) async fn forget_if(&self, record: &Record, mark: &str) -> Result<(), SinkError> {
        let is_it: [Condition; 2] = [Condition::has_id([convert::id(record.id())]), is(MARK, mark)];
        self.delete_records(those(Filter::must(is_it))).await
    }

    async fn delete_records(&self, points: Option<qdrant_client::qdrant::PointsSelector>) -> Result<(), SinkError> {
        let request = DeletePoints {
            collection_name: RECORDS.to_owned(),
            wait: Some(true),
            points,
            ordering: ordered(WriteOrderingType::Strong),
            ..DeletePoints::default()
        };
        let answer = self.client.points().delete(request).await;
        match self.client.found("delete from the collection _distributary", answer)? {
            Some(done) => self.is_done("delete from the collection _distributary", done.result.as_ref()),
            None => Ok(()),
        }
    }
}
