//! Collections, their indexes and limits, and the aliases that say which generation serves.
//!
//! ```text
//! <name>__<model>     one generation of a collection
//! <name>              alias of the generation that answers questions
//! <name>.kept         alias of the one that did before; no collection of ours has a dot in its name
//! ```

use std::collections::HashMap;

use qdrant_client::qdrant::alias_operations::Action;
use qdrant_client::qdrant::quantization_config::Quantization as Quantized;
use qdrant_client::qdrant::{
    AliasOperations, BinaryQuantization, ChangeAliases, CollectionExistsRequest, CollectionInfo, CreateAlias, CreateCollection,
    CreateFieldIndexCollection, DeleteAlias, DeleteCollection, Distance, FieldType, GetCollectionInfoRequest, ListAliasesRequest,
    ListCollectionsRequest, PayloadSchemaType, QuantizationConfig, QuantizationType, ScalarQuantization, VectorParams,
    VectorsConfig, WriteOrderingType, vectors_config,
};

use super::convert::ordered;
use super::records::RECORDS;
use super::{QdrantStore, lock};
use crate::sinks::vectors::config::{Collection, POINTS_AN_OPERATION, Quantization, VALUES_A_FILTER};
use crate::sinks::vectors::remote::{Kind, Record, founded};
use crate::sinks::{Checkpoint, SinkError};

/// Points in one page of a read.
const POINTS_A_PAGE: usize = 1_024;

/// How a collection is made.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    dimensions: u64,
    distance: Distance,
    on_disk: bool,
    quantization: Option<Quantization>,
    shards: Option<u32>,
}

impl Shape {
    /// Of records: one vector of one component, on one shard, so that there is one order of writes.
    pub(super) fn of_records() -> Self {
        Self { dimensions: 1, distance: Distance::Dot, on_disk: false, quantization: None, shards: Some(1) }
    }

    /// Of points.
    pub(super) fn of_points(dimensions: usize, on_disk: bool, quantization: Option<Quantization>) -> Self {
        let dimensions = dimensions as u64;
        Self { dimensions, distance: Distance::Cosine, on_disk, quantization, shards: None }
    }

    #[expect(deprecated, reason = "servers before 1.20 know these fields, and not the ones that take their place")]
    fn request(&self, name: &str) -> CreateCollection {
        let quantized = self.quantization.map(|kind| match kind {
            Quantization::Scalar => {
                let int8 = QuantizationType::Int8.into();
                Quantized::Scalar(ScalarQuantization { r#type: int8, ..ScalarQuantization::default() })
            }
            Quantization::Binary => Quantized::Binary(BinaryQuantization::default()),
        });
        let vectors = VectorParams {
            size: self.dimensions,
            distance: self.distance.into(),
            on_disk: self.on_disk.then_some(true),
            ..VectorParams::default()
        };
        CreateCollection {
            collection_name: name.to_owned(),
            vectors_config: Some(VectorsConfig { config: Some(vectors_config::Config::Params(vectors)) }),
            on_disk_payload: self.on_disk.then_some(true),
            quantization_config: quantized.map(|quantized| QuantizationConfig { quantization: Some(quantized) }),
            shard_number: self.shards,
            ..CreateCollection::default()
        }
    }
}

/// What a server takes in one request to a collection; less than usual where it is in strict mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// Points in one write.
    pub(super) points: usize,
    /// Points in one page of a read.
    pub(super) page: usize,
    /// Answers to one question.
    pub(super) answers: usize,
    /// Values in one "any of these" condition.
    pub(super) values: usize,
}

impl Limits {
    /// Where the server sets none.
    pub(super) const USUAL: Self =
        Self { points: POINTS_AN_OPERATION, page: POINTS_A_PAGE, answers: usize::MAX, values: VALUES_A_FILTER };

    fn of(info: &CollectionInfo) -> Self {
        let strict = info.config.as_ref().and_then(|config| config.strict_mode_config.as_ref());
        let Some(strict) = strict.filter(|strict| strict.enabled()) else { return Self::USUAL };
        let least = |usual: usize, set: Option<u64>| {
            set.map_or(usual, |set| usual.min(usize::try_from(set).unwrap_or(usize::MAX)).max(1))
        };
        Self {
            points: least(Self::USUAL.points, strict.upsert_max_batchsize),
            page: least(Self::USUAL.page, strict.max_query_limit.map(u64::from)),
            answers: least(Self::USUAL.answers, strict.max_query_limit.map(u64::from)),
            values: least(Self::USUAL.values, strict.condition_max_size),
        }
    }
}

/// The alias of the generation that served before.
fn kept(name: &str) -> String {
    format!("{name}.kept")
}

fn create(alias: &str, collection: &str) -> AliasOperations {
    let create = CreateAlias { collection_name: collection.to_owned(), alias_name: alias.to_owned() };
    AliasOperations { action: Some(Action::CreateAlias(create)) }
}

fn delete(alias: &str) -> AliasOperations {
    AliasOperations { action: Some(Action::DeleteAlias(DeleteAlias { alias_name: alias.to_owned() })) }
}

/// All aliases of the server, and the collection of each.
#[derive(Debug, Default)]
pub(super) struct Aliases(HashMap<String, String>);

impl Aliases {
    /// The generation in service.
    pub(super) fn serving(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The generation that served before.
    pub(super) fn kept(&self, name: &str) -> Option<&str> {
        self.0.get(&kept(name)).map(String::as_str)
    }

    /// What puts a generation in service and keeps the one before, in one request.
    fn moves(&self, name: &str, generation: &str) -> Vec<AliasOperations> {
        let serving = self.serving(name);
        let mut actions = Vec::new();
        if serving.is_some() {
            actions.push(delete(name));
        }
        if self.kept(name).is_some() {
            actions.push(delete(&kept(name)));
        }
        actions.push(create(name, generation));
        actions.extend(serving.map(|serving| create(&kept(name), serving)));
        actions
    }
}

impl QdrantStore {
    /// What the server says of a collection; none where it is not there.
    pub(super) async fn info(&self, name: &str) -> Result<Option<CollectionInfo>, SinkError> {
        let request = GetCollectionInfoRequest { collection_name: name.to_owned() };
        let answer = self.client.collections().get(request).await;
        Ok(self.client.found(&format!("look at collection {name}"), answer)?.and_then(|found| found.result))
    }

    /// What the server takes for a collection; none where it is not there.
    pub(super) async fn limits_of(&self, name: &str) -> Result<Option<Limits>, SinkError> {
        if let Some(limits) = lock(&self.known).get(name) {
            return Ok(Some(*limits));
        }
        let Some(info) = self.info(name).await? else { return Ok(None) };
        let limits = Limits::of(&info);
        lock(&self.known).insert(name.to_owned(), limits);
        Ok(Some(limits))
    }

    /// Whether a collection is there.
    pub(super) async fn exists(&self, name: &str) -> Result<bool, SinkError> {
        let request = CollectionExistsRequest { collection_name: name.to_owned() };
        let answer = self.client.collections().collection_exists(request).await;
        let found = self.client.answer(&format!("look for collection {name}"), answer)?;
        Ok(found.result.is_some_and(|result| result.exists))
    }

    /// Makes a collection; one that somebody made meanwhile is taken.
    pub(super) async fn make(&self, name: &str, shape: &Shape) -> Result<(), SinkError> {
        let answer = self.client.collections().create(shape.request(name)).await;
        match self.client.answer(&format!("make collection {name}"), answer) {
            Err(error) if !self.exists(name).await? => Err(error),
            _ => Ok(()),
        }
    }

    /// Makes an index over a payload entry; one that is there stays.
    pub(super) async fn index_entry(&self, collection: &str, path: &str, of: FieldType) -> Result<(), SinkError> {
        let request = CreateFieldIndexCollection {
            collection_name: collection.to_owned(),
            wait: Some(true),
            field_name: path.to_owned(),
            field_type: Some(of.into()),
            ordering: ordered(WriteOrderingType::Medium),
            ..CreateFieldIndexCollection::default()
        };
        let answer = self.client.points().create_field_index(request).await;
        let what = format!("index {path} of collection {collection}");
        let done = self.client.answer(&what, answer)?;
        self.is_done(&what, done.result.as_ref())
    }

    /// The names of all collections of the server.
    async fn names(&self) -> Result<Vec<String>, SinkError> {
        let answer = self.client.collections().list(ListCollectionsRequest {}).await;
        let found = self.client.answer("list the collections", answer)?;
        Ok(found.collections.into_iter().map(|one| one.name).collect())
    }

    /// The generations that are described, and whether each is there.
    async fn described(&self) -> Result<Vec<(Collection, bool)>, SinkError> {
        let names = self.names().await?;
        if !names.iter().any(|name| name == RECORDS) {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        for record in self.records(Kind::Generation).await? {
            let one: Collection = record.read()?;
            let is_there = names.contains(&one.generation());
            found.push((one, is_there));
        }
        found.sort_by_key(|(one, _)| one.generation());
        Ok(found)
    }

    /// All generations that are there, in order of their names.
    pub(super) async fn all(&self) -> Result<Vec<Collection>, SinkError> {
        let described = self.described().await?;
        Ok(described.into_iter().filter(|(_, is_there)| *is_there).map(|(one, _)| one).collect())
    }

    /// Deletes what is recorded of generations that are not there: checkpoints must not come to stand on a new, empty one.
    pub(super) async fn forget_unfounded(&self) -> Result<(), SinkError> {
        let (there, gone): (Vec<_>, Vec<_>) = self.described().await?.into_iter().partition(|(_, is_there)| *is_there);
        let there: Vec<Collection> = there.into_iter().map(|(one, _)| one).collect();
        let mut records = Vec::new();
        for (one, _) in gone {
            records.push(Record::of_generation(&one)?);
        }
        for record in self.records(Kind::Checkpoint).await? {
            let checkpoint: Checkpoint = record.read()?;
            if founded(vec![checkpoint], &there).is_empty() {
                records.push(record);
            }
        }
        self.forget(&records).await
    }

    /// All aliases.
    pub(super) async fn aliases(&self) -> Result<Aliases, SinkError> {
        let answer = self.client.collections().list_aliases(ListAliasesRequest {}).await;
        let found = self.client.answer("list the aliases", answer)?;
        Ok(Aliases(found.aliases.into_iter().map(|one| (one.alias_name, one.collection_name)).collect()))
    }

    /// Puts a generation in service and keeps the one before, in one step.
    pub(super) async fn serve(&self, aliases: &Aliases, collection: &Collection) -> Result<(), SinkError> {
        let actions = aliases.moves(&collection.name, &collection.generation());
        let answer = self.client.collections().update_aliases(ChangeAliases { actions, timeout: None }).await;
        self.client.answer(&format!("move the alias {}", collection.name), answer).map(|_| ())
    }

    /// Deletes a collection, and with it its aliases.
    pub(super) async fn remove(&self, name: &str) -> Result<(), SinkError> {
        let request = DeleteCollection { collection_name: name.to_owned(), timeout: None };
        let answer = self.client.collections().delete(request).await;
        self.client.found(&format!("delete collection {name}"), answer)?;
        lock(&self.known).remove(name);
        Ok(())
    }
}

/// What an entry is indexed as; none where it is not.
pub(super) fn index_of(info: &CollectionInfo, path: &str) -> Option<FieldType> {
    let schema = info.payload_schema.get(path)?;
    match schema.data_type() {
        PayloadSchemaType::Keyword => Some(FieldType::Keyword),
        PayloadSchemaType::Integer => Some(FieldType::Integer),
        PayloadSchemaType::Float => Some(FieldType::Float),
        PayloadSchemaType::Bool => Some(FieldType::Bool),
        PayloadSchemaType::Uuid => Some(FieldType::Uuid),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qdrant_client::qdrant::{CollectionConfig, StrictModeConfig};

    fn aliases(of: &[(&str, &str)]) -> Aliases {
        Aliases(of.iter().map(|(alias, of)| ((*alias).to_owned(), (*of).to_owned())).collect())
    }

    fn shown(actions: &[AliasOperations]) -> Vec<String> {
        let one = |action: &AliasOperations| match action.action.as_ref().unwrap() {
            Action::CreateAlias(create) => format!("{} → {}", create.alias_name, create.collection_name),
            Action::DeleteAlias(delete) => format!("no {}", delete.alias_name),
            Action::RenameAlias(_) => unreachable!(),
        };
        actions.iter().map(one).collect()
    }

    #[test]
    fn one_request_moves_both_aliases() {
        assert_eq!(shown(&aliases(&[]).moves("t", "t__1")), ["t → t__1"]);
        assert_eq!(shown(&aliases(&[("t", "t__1")]).moves("t", "t__2")), ["no t", "t → t__2", "t.kept → t__1"]);
        let both = aliases(&[("t", "t__2"), ("t.kept", "t__1"), ("u", "u__1")]);
        assert_eq!(shown(&both.moves("t", "t__1")), ["no t", "no t.kept", "t → t__1", "t.kept → t__2"]);
    }

    #[test]
    fn strict_mode_makes_requests_smaller() {
        let info = |strict| CollectionInfo {
            config: Some(CollectionConfig { strict_mode_config: strict, ..CollectionConfig::default() }),
            ..CollectionInfo::default()
        };
        assert_eq!(Limits::of(&info(None)), Limits::USUAL);
        let strict = StrictModeConfig {
            upsert_max_batchsize: Some(10),
            max_query_limit: Some(20),
            condition_max_size: Some(1_000_000),
            ..StrictModeConfig::default()
        };
        assert_eq!(Limits::of(&info(Some(strict.clone()))), Limits::USUAL, "it is off");
        let strict = StrictModeConfig { enabled: Some(true), ..strict };
        assert_eq!(Limits::of(&info(Some(strict))), Limits { points: 10, page: 20, answers: 20, ..Limits::USUAL });
    }

    #[test]
    #[expect(deprecated, reason = "servers before 1.17 know no other way")]
    fn options_are_passed_through() {
        let request = Shape::of_points(4, true, Some(Quantization::Binary)).request("t__1");
        assert_eq!(request.on_disk_payload, Some(true));
        let shown = format!("{request:?}");
        assert!(shown.contains("on_disk: Some(true)") && shown.contains("Binary(") && shown.contains("size: 4"), "{shown}");
        let shown = format!("{:?}", Shape::of_points(4, false, Some(Quantization::Scalar)).request("t__1"));
        assert!(shown.contains("Scalar(") && shown.contains("on_disk: None"), "{shown}");
    }
}
