//! Collections and aliases.

#![allow(deprecated, reason = "older clients use these fields")]

use std::sync::Arc;

use qdrant_client::qdrant::alias_operations::Action;
use qdrant_client::qdrant::collections_server::Collections;
use qdrant_client::qdrant::{
    AliasDescription, ChangeAliases, CollectionClusterInfoRequest, CollectionClusterInfoResponse, CollectionConfig,
    CollectionDescription, CollectionExists, CollectionExistsRequest, CollectionExistsResponse, CollectionInfo,
    CollectionOperationResponse, CollectionParams, CollectionStatus, CreateCollection, CreateShardKeyRequest,
    CreateShardKeyResponse, DeleteCollection, DeleteShardKeyRequest, DeleteShardKeyResponse, FieldType, GetCollectionInfoRequest,
    GetCollectionInfoResponse, HnswConfigDiff, ListAliasesRequest, ListAliasesResponse, ListCollectionAliasesRequest,
    ListCollectionsRequest, ListCollectionsResponse, ListShardKeysRequest, ListShardKeysResponse, OptimizerStatus,
    OptimizersConfigDiff, PayloadSchemaInfo, PayloadSchemaType as WireType, UpdateCollection,
    UpdateCollectionClusterSetupRequest, UpdateCollectionClusterSetupResponse, WalConfigDiff,
};
use qdrant_edge::PayloadSchemaType;
use tonic::{Request, Response, Status};

use super::State;
use super::shard::{Shard, vectors_of};

pub(super) struct Service(pub(super) Arc<State>);

type Answer<T> = Result<Response<T>, Status>;

fn done() -> Answer<CollectionOperationResponse> {
    Ok(Response::new(CollectionOperationResponse { result: true, time: 0.0 }))
}

fn missing(name: &str) -> Status {
    Status::not_found(format!("Not found: Collection `{name}` doesn't exist!"))
}

fn alone(what: &str) -> Status {
    Status::unimplemented(format!("this front is no cluster: it has no {what}"))
}

/// What a server answers for what was not given (Qdrant, `config.yaml`).
fn graph_config(given: HnswConfigDiff) -> HnswConfigDiff {
    HnswConfigDiff {
        m: given.m.or(Some(16)),
        ef_construct: given.ef_construct.or(Some(100)),
        full_scan_threshold: given.full_scan_threshold.or(Some(10_000)),
        max_indexing_threads: given.max_indexing_threads.or(Some(0)),
        ..given
    }
}

fn optimizer_config(given: OptimizersConfigDiff) -> OptimizersConfigDiff {
    OptimizersConfigDiff {
        deleted_threshold: given.deleted_threshold.or(Some(0.2)),
        vacuum_min_vector_number: given.vacuum_min_vector_number.or(Some(1_000)),
        default_segment_number: given.default_segment_number.or(Some(0)),
        indexing_threshold: given.indexing_threshold.or(Some(10_000)),
        flush_interval_sec: given.flush_interval_sec.or(Some(5)),
        ..given
    }
}

/// The protocol's name of a type of index.
pub(super) fn wire_type(of: PayloadSchemaType) -> WireType {
    match of {
        PayloadSchemaType::Keyword => WireType::Keyword,
        PayloadSchemaType::Integer => WireType::Integer,
        PayloadSchemaType::Float => WireType::Float,
        PayloadSchemaType::Geo => WireType::Geo,
        PayloadSchemaType::Text => WireType::Text,
        PayloadSchemaType::Bool => WireType::Bool,
        PayloadSchemaType::Datetime => WireType::Datetime,
        PayloadSchemaType::Uuid => WireType::Uuid,
    }
}

/// The engine's name of a type of index.
pub(super) fn edge_type(of: FieldType) -> PayloadSchemaType {
    match of {
        FieldType::Keyword => PayloadSchemaType::Keyword,
        FieldType::Integer => PayloadSchemaType::Integer,
        FieldType::Float => PayloadSchemaType::Float,
        FieldType::Geo => PayloadSchemaType::Geo,
        FieldType::Text => PayloadSchemaType::Text,
        FieldType::Bool => PayloadSchemaType::Bool,
        FieldType::Datetime => PayloadSchemaType::Datetime,
        FieldType::Uuid => PayloadSchemaType::Uuid,
    }
}

fn check_name(name: &str) -> Result<(), Status> {
    const FORBIDDEN: [char; 11] = ['<', '>', ':', '"', '/', '\\', '|', '?', '*', '\0', '\u{1F}'];
    if name.is_empty() || name.len() > 255 || name.contains(FORBIDDEN) {
        return Err(Status::invalid_argument(format!("Validation error: the name {name:?} cannot be a collection's")));
    }
    Ok(())
}

#[tonic::async_trait]
impl Collections for Service {
    async fn get(&self, request: Request<GetCollectionInfoRequest>) -> Answer<GetCollectionInfoResponse> {
        let shard = self.0.shard(&request.into_inner().collection_name)?;
        let info = shard.ask(|engine| Ok(engine.info())).await?;
        let made = shard.made.lock().unwrap().clone();
        let schema = info.payload_schema.into_iter().map(|(path, index)| {
            let data_type = wire_type(index.data_type).into();
            (path.to_string(), PayloadSchemaInfo { data_type, params: None, points: Some(index.points as u64) })
        });
        let params = CollectionParams {
            shard_number: made.shard_number.unwrap_or(1),
            on_disk_payload: made.on_disk_payload.unwrap_or(true),
            vectors_config: made.vectors_config.clone(),
            replication_factor: Some(1),
            write_consistency_factor: Some(1),
            ..CollectionParams::default()
        };
        let config = CollectionConfig {
            params: Some(params),
            hnsw_config: Some(graph_config(made.hnsw_config.unwrap_or_default())),
            optimizer_config: Some(optimizer_config(made.optimizers_config.unwrap_or_default())),
            wal_config: Some(WalConfigDiff {
                wal_capacity_mb: Some(32),
                wal_segments_ahead: Some(0),
                ..made.wal_config.unwrap_or_default()
            }),
            quantization_config: made.quantization_config,
            strict_mode_config: made.strict_mode_config,
            metadata: made.metadata,
        };
        let info = CollectionInfo {
            status: CollectionStatus::Green.into(),
            optimizer_status: Some(OptimizerStatus { ok: true, error: String::new() }),
            segments_count: info.segments_count as u64,
            config: Some(config),
            payload_schema: schema.collect(),
            points_count: Some(info.points_count as u64),
            indexed_vectors_count: Some(info.indexed_vectors_count as u64),
            ..CollectionInfo::default()
        };
        Ok(Response::new(GetCollectionInfoResponse { result: Some(info), time: 0.0 }))
    }

    async fn list(&self, _request: Request<ListCollectionsRequest>) -> Answer<ListCollectionsResponse> {
        let collections = self.0.lock().shards.keys().map(|name| CollectionDescription { name: name.clone() }).collect();
        Ok(Response::new(ListCollectionsResponse { collections, time: 0.0 }))
    }

    async fn create(&self, request: Request<CreateCollection>) -> Answer<CollectionOperationResponse> {
        let mut made = request.into_inner();
        let name = made.collection_name.clone();
        check_name(&name)?;
        made.strict_mode_config = made.strict_mode_config.or_else(|| self.0.strict.clone());
        let mut all = self.0.lock();
        if all.shards.contains_key(&name) {
            return Err(Status::already_exists(format!("Wrong input: Collection `{name}` already exists!")));
        }
        if all.aliases.contains_key(&name) {
            return Err(Status::invalid_argument(format!(
                "Wrong input: Can't create collection with name {name}. Alias with the same name already exists"
            )));
        }
        let shard = Shard::make(self.0.place(), made)?;
        all.shards.insert(name, Arc::new(shard));
        done()
    }

    async fn update(&self, request: Request<UpdateCollection>) -> Answer<CollectionOperationResponse> {
        let change = request.into_inner();
        let shard = self.0.shard(&change.collection_name)?;
        let mut made = shard.made.lock().unwrap();
        made.strict_mode_config = change.strict_mode_config.or_else(|| made.strict_mode_config.clone());
        made.optimizers_config = change.optimizers_config.or(made.optimizers_config);
        made.hnsw_config = change.hnsw_config.or(made.hnsw_config);
        made.metadata.extend(change.metadata);
        drop(made);
        done()
    }

    async fn delete(&self, request: Request<DeleteCollection>) -> Answer<CollectionOperationResponse> {
        let name = request.into_inner().collection_name;
        let gone = self.forget(&name);
        let result = gone.is_some();
        // The engine ends off the runtime's threads.
        tokio::task::spawn_blocking(move || drop(gone)).await.unwrap();
        Ok(Response::new(CollectionOperationResponse { result, time: 0.0 }))
    }

    async fn update_aliases(&self, request: Request<ChangeAliases>) -> Answer<CollectionOperationResponse> {
        let mut all = self.0.lock();
        let mut aliases = all.aliases.clone();
        for action in request.into_inner().actions {
            match action.action.ok_or_else(|| Status::invalid_argument("Malformed ChangeAliases request"))? {
                Action::CreateAlias(create) => {
                    check_name(&create.alias_name)?;
                    if !all.shards.contains_key(&create.collection_name) {
                        return Err(missing(&create.collection_name));
                    }
                    if all.shards.contains_key(&create.alias_name) {
                        return Err(Status::already_exists(format!(
                            "Wrong input: Collection `{}` already exists!",
                            create.alias_name
                        )));
                    }
                    aliases.insert(create.alias_name, create.collection_name);
                }
                Action::DeleteAlias(delete) => {
                    aliases.remove(&delete.alias_name);
                }
                Action::RenameAlias(rename) => {
                    let of = aliases.remove(&rename.old_alias_name);
                    let of = of.ok_or_else(|| {
                        Status::not_found(format!("Not found: Alias {} does not exists!", rename.old_alias_name))
                    })?;
                    aliases.insert(rename.new_alias_name, of);
                }
            }
        }
        all.aliases = aliases;
        done()
    }

    async fn list_collection_aliases(&self, request: Request<ListCollectionAliasesRequest>) -> Answer<ListAliasesResponse> {
        let name = request.into_inner().collection_name;
        self.0.shard(&name)?;
        Ok(Response::new(self.aliases(|of| of == name)))
    }

    async fn list_aliases(&self, _request: Request<ListAliasesRequest>) -> Answer<ListAliasesResponse> {
        Ok(Response::new(self.aliases(|_| true)))
    }

    async fn collection_exists(&self, request: Request<CollectionExistsRequest>) -> Answer<CollectionExistsResponse> {
        let exists = self.0.shard(&request.into_inner().collection_name).is_ok();
        Ok(Response::new(CollectionExistsResponse { result: Some(CollectionExists { exists }), time: 0.0 }))
    }

    async fn collection_cluster_info(
        &self,
        _request: Request<CollectionClusterInfoRequest>,
    ) -> Answer<CollectionClusterInfoResponse> {
        Err(alone("shards to ask about"))
    }

    async fn update_collection_cluster_setup(
        &self,
        _request: Request<UpdateCollectionClusterSetupRequest>,
    ) -> Answer<UpdateCollectionClusterSetupResponse> {
        Err(alone("shards to move"))
    }

    async fn create_shard_key(&self, _request: Request<CreateShardKeyRequest>) -> Answer<CreateShardKeyResponse> {
        Err(alone("shard keys"))
    }

    async fn delete_shard_key(&self, _request: Request<DeleteShardKeyRequest>) -> Answer<DeleteShardKeyResponse> {
        Err(alone("shard keys"))
    }

    async fn list_shard_keys(&self, _request: Request<ListShardKeysRequest>) -> Answer<ListShardKeysResponse> {
        Err(alone("shard keys"))
    }
}

impl Service {
    /// Takes a collection away, and its aliases with it.
    fn forget(&self, name: &str) -> Option<Arc<Shard>> {
        let mut all = self.0.lock();
        all.aliases.retain(|_, of| of != name);
        all.shards.remove(name)
    }

    fn aliases(&self, wanted: impl Fn(&str) -> bool) -> ListAliasesResponse {
        let all = self.0.lock();
        let aliases = all
            .aliases
            .iter()
            .filter(|(_, of)| wanted(of))
            .map(|(alias, of)| AliasDescription { alias_name: alias.clone(), collection_name: of.clone() });
        ListAliasesResponse { aliases: aliases.collect(), time: 0.0 }
    }
}

/// Length of the vectors of this name.
pub(super) fn dimensions(shard: &Shard, name: &str) -> Option<u64> {
    vectors_of(&shard.made.lock().unwrap()).get(name).map(|params| params.size)
}
