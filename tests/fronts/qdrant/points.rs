//! Points: writes into the collection's queue, reads from its engine.

#![allow(deprecated, reason = "older clients use these fields")]

use std::sync::Arc;

use ::qdrant_client::qdrant::points_selector::PointsSelectorOneOf;
use ::qdrant_client::qdrant::points_server::Points;
use ::qdrant_client::qdrant::points_update_operation::{Operation, OverwritePayload, PointStructList, SetPayload};
use ::qdrant_client::qdrant::query::Variant;
use ::qdrant_client::qdrant::*;
use qdrant_edge::{
    ConditionalInsertOperation, CountRequest, CreateIndex, DeletePayloadOp, FieldIndexOperations, JsonPath, NamedQuery,
    PayloadFieldSchema, PayloadOps, PointIdsList as EdgeIds, PointInsertOperations, PointOperations, PointStructPersisted,
    QueryEnum, ScrollRequest, SearchRequest, SetPayloadOp, UpdateOperation, UpdateVectorsOp, VectorInternal, VectorOperations,
    VectorPersisted, VectorStructInternal, VectorStructPersisted, WithPayloadInterface, WithVector,
};
use tonic::{Request, Response, Status};

use super::State;
use super::collections::{dimensions, edge_type};
use super::convert::{
    edge_filter, edge_id, edge_ids, edge_point, edge_vectors, object_of, retrieved, scored, wire_id, with_payload, with_vectors,
};
use super::shard::Shard;
use super::strict;

pub(super) struct Service(pub(super) Arc<State>);

type Answer<T> = Result<Response<T>, Status>;

fn applied(result: UpdateResult) -> Answer<PointsOperationResponse> {
    Ok(Response::new(PointsOperationResponse { result: Some(result), time: 0.0, usage: None }))
}

fn not_here(what: &str) -> Status {
    Status::unimplemented(format!("this front does not {what}"))
}

fn path(key: &str) -> Result<JsonPath, Status> {
    key.parse().map_err(|()| Status::invalid_argument(format!("Wrong input: Invalid json path: '{key}'")))
}

/// Points by ids or by a filter.
enum Selected {
    Ids(Vec<qdrant_edge::PointId>),
    Filter(qdrant_edge::Filter),
}

impl Service {
    fn shard(&self, name: &str) -> Result<Arc<Shard>, Status> {
        self.0.shard(name)
    }

    /// The engine's filter, if strict mode lets it pass.
    async fn filter(
        &self,
        shard: &Arc<Shard>,
        filter: Option<&Filter>,
        is_read: bool,
    ) -> Result<Option<qdrant_edge::Filter>, Status> {
        let Some(filter) = filter else { return Ok(None) };
        if let Some(strict) = shard.strict() {
            let indexes = shard.ask(|engine| Ok(engine.info().payload_schema)).await?;
            strict::check(&strict, filter, &indexes, is_read)?;
        }
        edge_filter(filter).map(Some)
    }

    async fn selected(&self, shard: &Arc<Shard>, selector: Option<PointsSelector>) -> Result<Selected, Status> {
        match selector.and_then(|selector| selector.points_selector_one_of) {
            Some(PointsSelectorOneOf::Points(points)) => Ok(Selected::Ids(edge_ids(points.ids)?)),
            Some(PointsSelectorOneOf::Filter(filter)) => {
                let filter = self.filter(shard, Some(&filter), false).await?;
                Ok(Selected::Filter(filter.unwrap()))
            }
            None => Err(Status::invalid_argument("PointsSelector is missing")),
        }
    }

    fn check_limit(shard: &Shard, limit: u64) -> Result<(), Status> {
        match shard.strict().and_then(|strict| strict.max_query_limit) {
            Some(most) if limit > u64::from(most) => {
                Err(strict::refusal(&format!("Limit exceeded {limit} > {most} for \"limit\""), "reduce it"))
            }
            _ => Ok(()),
        }
    }

    async fn operation(&self, shard: &Arc<Shard>, operation: Operation) -> Result<UpdateOperation, Status> {
        Ok(match operation {
            Operation::Upsert(upsert) => self.upserted(shard, upsert).await?,
            Operation::DeletePoints(delete) => {
                UpdateOperation::PointOperation(match self.selected(shard, delete.points).await? {
                    Selected::Ids(ids) => PointOperations::DeletePoints { ids },
                    Selected::Filter(filter) => PointOperations::DeletePointsByFilter(filter),
                })
            }
            Operation::DeleteDeprecated(selector) => {
                UpdateOperation::PointOperation(match self.selected(shard, Some(selector)).await? {
                    Selected::Ids(ids) => PointOperations::DeletePoints { ids },
                    Selected::Filter(filter) => PointOperations::DeletePointsByFilter(filter),
                })
            }
            Operation::SetPayload(set) => {
                let op = self.payload(shard, set.payload, set.points_selector, set.key).await?;
                UpdateOperation::PayloadOperation(PayloadOps::SetPayload(op))
            }
            Operation::OverwritePayload(set) => {
                let op = self.payload(shard, set.payload, set.points_selector, set.key).await?;
                UpdateOperation::PayloadOperation(PayloadOps::OverwritePayload(op))
            }
            Operation::DeletePayload(delete) => {
                let keys = delete.keys.iter().map(|key| path(key)).collect::<Result<_, _>>()?;
                let (points, filter) = match self.selected(shard, delete.points_selector).await? {
                    Selected::Ids(ids) => (Some(ids), None),
                    Selected::Filter(filter) => (None, Some(filter)),
                };
                UpdateOperation::PayloadOperation(PayloadOps::DeletePayload(DeletePayloadOp { keys, points, filter }))
            }
            Operation::ClearPayload(clear) => self.cleared(shard, clear.points).await?,
            Operation::ClearPayloadDeprecated(selector) => self.cleared(shard, Some(selector)).await?,
            Operation::UpdateVectors(update) => {
                let update_filter = self.filter(shard, update.update_filter.as_ref(), false).await?;
                let points = update.points.into_iter().map(edge_vectors).collect::<Result<_, _>>()?;
                UpdateOperation::VectorOperation(VectorOperations::UpdateVectors(UpdateVectorsOp { points, update_filter }))
            }
            Operation::DeleteVectors(delete) => {
                let names = delete.vectors.map(|vectors| vectors.names).unwrap_or_default();
                UpdateOperation::VectorOperation(match self.selected(shard, delete.points_selector).await? {
                    Selected::Ids(ids) => VectorOperations::DeleteVectors(EdgeIds::from(ids), names),
                    Selected::Filter(filter) => VectorOperations::DeleteVectorsByFilter(filter, names),
                })
            }
        })
    }

    async fn cleared(&self, shard: &Arc<Shard>, points: Option<PointsSelector>) -> Result<UpdateOperation, Status> {
        Ok(UpdateOperation::PayloadOperation(match self.selected(shard, points).await? {
            Selected::Ids(points) => PayloadOps::ClearPayload { points },
            Selected::Filter(filter) => PayloadOps::ClearPayloadByFilter(filter),
        }))
    }

    async fn payload(
        &self,
        shard: &Arc<Shard>,
        payload: std::collections::HashMap<String, Value>,
        points: Option<PointsSelector>,
        key: Option<String>,
    ) -> Result<SetPayloadOp, Status> {
        let (points, filter) = match self.selected(shard, points).await? {
            Selected::Ids(ids) => (Some(ids), None),
            Selected::Filter(filter) => (None, Some(filter)),
        };
        let key = key.map(|key| path(&key)).transpose()?;
        Ok(SetPayloadOp { payload: qdrant_edge::Payload(object_of(payload)), points, filter, key })
    }

    async fn upserted(&self, shard: &Arc<Shard>, upsert: PointStructList) -> Result<UpdateOperation, Status> {
        if let Some(most) = shard.strict().and_then(|strict| strict.upsert_max_batchsize) {
            let count = upsert.points.len() as u64;
            if count > most {
                return Err(strict::refusal(&format!("Limit exceeded {count} > {most} for \"upsert limit\""), "reduce it"));
            }
        }
        let points: Vec<PointStructPersisted> = upsert.points.into_iter().map(edge_point).collect::<Result<_, _>>()?;
        for point in &points {
            check_vectors(shard, point)?;
        }
        let points = PointInsertOperations::PointsList(points);
        let mode = match upsert.update_mode.map(UpdateMode::try_from) {
            None => None,
            Some(Ok(UpdateMode::Upsert)) => Some(qdrant_edge::UpdateMode::Upsert),
            Some(Ok(UpdateMode::InsertOnly)) => Some(qdrant_edge::UpdateMode::InsertOnly),
            Some(Ok(UpdateMode::UpdateOnly)) => Some(qdrant_edge::UpdateMode::UpdateOnly),
            Some(Err(_)) => return Err(Status::invalid_argument("Unknown update mode")),
        };
        let condition = self.filter(shard, upsert.update_filter.as_ref(), false).await?;
        Ok(UpdateOperation::PointOperation(match (condition, mode) {
            (None, None) => PointOperations::UpsertPoints(points),
            (condition, update_mode) => PointOperations::UpsertPointsConditional(ConditionalInsertOperation {
                points_op: points,
                condition: condition.unwrap_or_default(),
                update_mode,
            }),
        }))
    }

    /// A search for what is near to a vector.
    async fn near(&self, shard: &Arc<Shard>, asked: Near) -> Result<Vec<ScoredPoint>, Status> {
        Self::check_limit(shard, asked.limit)?;
        let wanted = dimensions(shard, &asked.using)
            .ok_or_else(|| Status::invalid_argument(format!("Wrong input: Not existing vector name error: {}", asked.using)))?;
        if asked.vector.len() as u64 != wanted {
            return Err(wrong_dimensions(wanted, asked.vector.len()));
        }
        let request = SearchRequest {
            query: QueryEnum::Nearest(NamedQuery::new(VectorInternal::Dense(asked.vector), asked.using)),
            filter: self.filter(shard, asked.filter.as_ref(), true).await?,
            params: None,
            limit: usize::try_from(asked.limit).unwrap_or(usize::MAX),
            offset: usize::try_from(asked.offset).unwrap_or(usize::MAX),
            with_payload: Some(asked.with_payload),
            with_vector: Some(asked.with_vector),
            score_threshold: asked.threshold,
        };
        Ok(shard.ask(|engine| engine.search(request)).await?.into_iter().map(scored).collect())
    }

    async fn queried(&self, asked: QueryPoints) -> Result<Vec<ScoredPoint>, Status> {
        if !asked.prefetch.is_empty() {
            return Err(not_here("prefetch"));
        }
        let shard = self.shard(&asked.collection_name)?;
        let using = asked.using.unwrap_or_default();
        let (with_payload, with_vector) = (with_payload(asked.with_payload, false)?, with_vectors(asked.with_vectors));
        let (limit, offset) = (asked.limit.unwrap_or(10), asked.offset.unwrap_or(0));
        let vector = match asked.query.and_then(|query| query.variant) {
            Some(Variant::Nearest(VectorInput { variant: Some(vector_input::Variant::Dense(dense)) })) => dense.data,
            Some(Variant::Nearest(VectorInput { variant: Some(vector_input::Variant::Id(id)) })) => {
                self.vector_of(&shard, id, &using).await?
            }
            None => {
                Self::check_limit(&shard, limit)?;
                let request = ScrollRequest {
                    offset: None,
                    limit: Some(usize::try_from(limit + offset).unwrap_or(usize::MAX)),
                    filter: self.filter(&shard, asked.filter.as_ref(), true).await?,
                    with_payload: Some(with_payload),
                    with_vector,
                    order_by: None,
                };
                let (found, _) = shard.ask(|engine| engine.scroll(request)).await?;
                let points = found.into_iter().skip(usize::try_from(offset).unwrap()).map(retrieved);
                return Ok(points
                    .map(|point| ScoredPoint {
                        id: point.id,
                        payload: point.payload,
                        vectors: point.vectors,
                        ..ScoredPoint::default()
                    })
                    .collect());
            }
            Some(_) => return Err(not_here("answer this kind of query")),
        };
        let threshold = asked.score_threshold;
        self.near(&shard, Near { vector, using, filter: asked.filter, limit, offset, with_payload, with_vector, threshold }).await
    }

    async fn vector_of(&self, shard: &Arc<Shard>, id: PointId, using: &str) -> Result<Vec<f32>, Status> {
        let id = edge_id(Some(id))?;
        let found = shard.ask(move |engine| engine.retrieve(&[id], None, Some(WithVector::Bool(true)))).await?;
        let vector = found.into_iter().next().and_then(|record| record.vector);
        let vector = match vector {
            Some(VectorStructInternal::Single(vector)) => Some(vector),
            Some(VectorStructInternal::Named(mut named)) => match named.remove(using) {
                Some(VectorInternal::Dense(vector)) => Some(vector),
                _ => None,
            },
            _ => None,
        };
        vector.ok_or_else(|| Status::not_found("Not found: No point with this id and vector"))
    }

    async fn searched(&self, asked: SearchPoints) -> Result<Vec<ScoredPoint>, Status> {
        let shard = self.shard(&asked.collection_name)?;
        let near = Near {
            vector: asked.vector,
            using: asked.vector_name.unwrap_or_default(),
            filter: asked.filter,
            limit: asked.limit,
            offset: asked.offset.unwrap_or(0),
            with_payload: with_payload(asked.with_payload, false)?,
            with_vector: with_vectors(asked.with_vectors),
            threshold: asked.score_threshold,
        };
        self.near(&shard, near).await
    }

    async fn update(&self, name: &str, operation: Operation, wait: Option<bool>) -> Answer<PointsOperationResponse> {
        let shard = self.shard(name)?;
        self.0.admit()?;
        let operation = self.operation(&shard, operation).await?;
        applied(shard.update(operation, wait.unwrap_or(false)).await?)
    }
}

/// A question for what is near.
struct Near {
    vector: Vec<f32>,
    using: String,
    filter: Option<Filter>,
    limit: u64,
    offset: u64,
    with_payload: WithPayloadInterface,
    with_vector: WithVector,
    threshold: Option<f32>,
}

fn wrong_dimensions(wanted: u64, found: usize) -> Status {
    Status::invalid_argument(format!("Wrong input: Vector dimension error: expected dim: {wanted}, got {found}"))
}

fn check_vectors(shard: &Shard, point: &PointStructPersisted) -> Result<(), Status> {
    let check = |name: &str, found: usize| match dimensions(shard, name) {
        Some(wanted) if found as u64 == wanted => Ok(()),
        Some(wanted) => Err(wrong_dimensions(wanted, found)),
        None => Err(Status::invalid_argument(format!("Wrong input: Not existing vector name error: {name}"))),
    };
    match &point.vector {
        VectorStructPersisted::Single(vector) => check("", vector.len()),
        VectorStructPersisted::Named(named) => named.iter().try_for_each(|(name, vector)| match vector {
            VectorPersisted::Dense(vector) => check(name, vector.len()),
            _ => Err(not_here("hold other vectors than dense ones")),
        }),
        VectorStructPersisted::MultiDense(_) => Err(not_here("hold other vectors than dense ones")),
    }
}

#[tonic::async_trait]
impl Points for Service {
    async fn upsert(&self, request: Request<UpsertPoints>) -> Answer<PointsOperationResponse> {
        let UpsertPoints { collection_name, wait, points, update_filter, update_mode, .. } = request.into_inner();
        let list = PointStructList { points, shard_key_selector: None, update_filter, update_mode };
        self.update(&collection_name, Operation::Upsert(list), wait).await
    }

    async fn delete(&self, request: Request<DeletePoints>) -> Answer<PointsOperationResponse> {
        let DeletePoints { collection_name, wait, points, .. } = request.into_inner();
        let delete = points_update_operation::DeletePoints { points, shard_key_selector: None };
        self.update(&collection_name, Operation::DeletePoints(delete), wait).await
    }

    async fn get(&self, request: Request<GetPoints>) -> Answer<GetResponse> {
        let asked = request.into_inner();
        let shard = self.shard(&asked.collection_name)?;
        let ids = edge_ids(asked.ids)?;
        let (payload, vector) = (with_payload(asked.with_payload, true)?, with_vectors(asked.with_vectors));
        let found = shard.ask(move |engine| engine.retrieve(&ids, Some(payload), Some(vector))).await?;
        Ok(Response::new(GetResponse { result: found.into_iter().map(retrieved).collect(), time: 0.0, usage: None }))
    }

    async fn update_vectors(&self, request: Request<UpdatePointVectors>) -> Answer<PointsOperationResponse> {
        let UpdatePointVectors { collection_name, wait, points, update_filter, .. } = request.into_inner();
        let update = points_update_operation::UpdateVectors { points, shard_key_selector: None, update_filter };
        self.update(&collection_name, Operation::UpdateVectors(update), wait).await
    }

    async fn delete_vectors(&self, request: Request<DeletePointVectors>) -> Answer<PointsOperationResponse> {
        let DeletePointVectors { collection_name, wait, points_selector, vectors, .. } = request.into_inner();
        let delete = points_update_operation::DeleteVectors { points_selector, vectors, shard_key_selector: None };
        self.update(&collection_name, Operation::DeleteVectors(delete), wait).await
    }

    async fn set_payload(&self, request: Request<SetPayloadPoints>) -> Answer<PointsOperationResponse> {
        let SetPayloadPoints { collection_name, wait, payload, points_selector, key, .. } = request.into_inner();
        let set = SetPayload { payload, points_selector, shard_key_selector: None, key };
        self.update(&collection_name, Operation::SetPayload(set), wait).await
    }

    async fn overwrite_payload(&self, request: Request<SetPayloadPoints>) -> Answer<PointsOperationResponse> {
        let SetPayloadPoints { collection_name, wait, payload, points_selector, key, .. } = request.into_inner();
        let set = OverwritePayload { payload, points_selector, shard_key_selector: None, key };
        self.update(&collection_name, Operation::OverwritePayload(set), wait).await
    }

    async fn delete_payload(&self, request: Request<DeletePayloadPoints>) -> Answer<PointsOperationResponse> {
        let DeletePayloadPoints { collection_name, wait, keys, points_selector, .. } = request.into_inner();
        let delete = points_update_operation::DeletePayload { keys, points_selector, shard_key_selector: None };
        self.update(&collection_name, Operation::DeletePayload(delete), wait).await
    }

    async fn clear_payload(&self, request: Request<ClearPayloadPoints>) -> Answer<PointsOperationResponse> {
        let ClearPayloadPoints { collection_name, wait, points, .. } = request.into_inner();
        let clear = points_update_operation::ClearPayload { points, shard_key_selector: None };
        self.update(&collection_name, Operation::ClearPayload(clear), wait).await
    }

    async fn create_field_index(&self, request: Request<CreateFieldIndexCollection>) -> Answer<PointsOperationResponse> {
        let asked = request.into_inner();
        let shard = self.shard(&asked.collection_name)?;
        let field_type = asked.field_type.map_or(Ok(FieldType::Keyword), FieldType::try_from);
        let field_type = field_type.map_err(|_| Status::invalid_argument("cannot convert field_type"))?;
        let name = path(&asked.field_name)?;
        if let Some(most) = shard.strict().and_then(|strict| strict.max_payload_index_count) {
            let indexes = shard.ask(|engine| Ok(engine.info().payload_schema)).await?;
            if !indexes.contains_key(&name) && indexes.len() as u64 >= most {
                return Err(strict::refusal("Collection already has the maximum number of payload indices", "delete one"));
            }
        }
        let schema = Some(PayloadFieldSchema::FieldType(edge_type(field_type)));
        let create = FieldIndexOperations::CreateIndex(CreateIndex { field_name: name, field_schema: schema });
        applied(shard.update(UpdateOperation::FieldIndexOperation(create), asked.wait.unwrap_or(false)).await?)
    }

    async fn delete_field_index(&self, request: Request<DeleteFieldIndexCollection>) -> Answer<PointsOperationResponse> {
        let asked = request.into_inner();
        let shard = self.shard(&asked.collection_name)?;
        let delete = FieldIndexOperations::DeleteIndex(path(&asked.field_name)?);
        applied(shard.update(UpdateOperation::FieldIndexOperation(delete), asked.wait.unwrap_or(false)).await?)
    }

    async fn search(&self, request: Request<SearchPoints>) -> Answer<SearchResponse> {
        let result = self.searched(request.into_inner()).await?;
        Ok(Response::new(SearchResponse { result, time: 0.0, usage: None }))
    }

    async fn search_batch(&self, request: Request<SearchBatchPoints>) -> Answer<SearchBatchResponse> {
        let asked = request.into_inner();
        let mut result = Vec::new();
        for mut one in asked.search_points {
            one.collection_name.clone_from(&asked.collection_name);
            result.push(BatchResult { result: self.searched(one).await? });
        }
        Ok(Response::new(SearchBatchResponse { result, time: 0.0, usage: None }))
    }

    async fn scroll(&self, request: Request<ScrollPoints>) -> Answer<ScrollResponse> {
        let asked = request.into_inner();
        let shard = self.shard(&asked.collection_name)?;
        let limit = asked.limit.unwrap_or(10);
        if limit == 0 {
            return Err(Status::invalid_argument("Validation error: limit must be at least 1"));
        }
        Self::check_limit(&shard, u64::from(limit))?;
        let order_by = asked.order_by.map(|order| {
            let direction = if order.direction == Some(Direction::Desc.into()) { "desc" } else { "asc" };
            serde_json::from_value(serde_json::json!({"key": order.key, "direction": direction}))
        });
        let request = ScrollRequest {
            offset: asked.offset.map(|id| edge_id(Some(id))).transpose()?,
            limit: Some(limit as usize),
            filter: self.filter(&shard, asked.filter.as_ref(), true).await?,
            with_payload: Some(with_payload(asked.with_payload, true)?),
            with_vector: with_vectors(asked.with_vectors),
            order_by: order_by.transpose().map_err(|e| Status::invalid_argument(e.to_string()))?,
        };
        let (found, next) = shard.ask(|engine| engine.scroll(request)).await?;
        let result = found.into_iter().map(retrieved).collect();
        Ok(Response::new(ScrollResponse { next_page_offset: next.map(wire_id), result, time: 0.0, usage: None }))
    }

    async fn count(&self, request: Request<CountPoints>) -> Answer<CountResponse> {
        let asked = request.into_inner();
        let shard = self.shard(&asked.collection_name)?;
        let filter = self.filter(&shard, asked.filter.as_ref(), true).await?;
        let exact = asked.exact.unwrap_or(true);
        let count = shard.ask(move |engine| engine.count(CountRequest { filter, exact })).await? as u64;
        Ok(Response::new(CountResponse { result: Some(CountResult { count }), time: 0.0, usage: None }))
    }

    async fn update_batch(&self, request: Request<UpdateBatchPoints>) -> Answer<UpdateBatchResponse> {
        let asked = request.into_inner();
        let shard = self.shard(&asked.collection_name)?;
        self.0.admit()?;
        let mut result = Vec::new();
        for operation in asked.operations {
            let operation = operation.operation.ok_or_else(|| Status::invalid_argument("Operation is missing"))?;
            let operation = self.operation(&shard, operation).await?;
            result.push(shard.update(operation, asked.wait.unwrap_or(false)).await?);
        }
        Ok(Response::new(UpdateBatchResponse { result, time: 0.0, usage: None }))
    }

    async fn query(&self, request: Request<QueryPoints>) -> Answer<QueryResponse> {
        let result = self.queried(request.into_inner()).await?;
        Ok(Response::new(QueryResponse { result, time: 0.0, usage: None }))
    }

    async fn query_batch(&self, request: Request<QueryBatchPoints>) -> Answer<QueryBatchResponse> {
        let asked = request.into_inner();
        let mut result = Vec::new();
        for mut one in asked.query_points {
            one.collection_name.clone_from(&asked.collection_name);
            result.push(BatchResult { result: self.queried(one).await? });
        }
        Ok(Response::new(QueryBatchResponse { result, time: 0.0, usage: None }))
    }

    async fn create_vector_name(&self, _request: Request<CreateVectorNameRequest>) -> Answer<PointsOperationResponse> {
        Err(not_here("add vectors"))
    }

    async fn delete_vector_name(&self, _request: Request<DeleteVectorNameRequest>) -> Answer<PointsOperationResponse> {
        Err(not_here("remove vectors"))
    }

    async fn search_groups(&self, _request: Request<SearchPointGroups>) -> Answer<SearchGroupsResponse> {
        Err(not_here("search in groups"))
    }

    async fn recommend(&self, _request: Request<RecommendPoints>) -> Answer<RecommendResponse> {
        Err(not_here("recommend"))
    }

    async fn recommend_batch(&self, _request: Request<RecommendBatchPoints>) -> Answer<RecommendBatchResponse> {
        Err(not_here("recommend"))
    }

    async fn recommend_groups(&self, _request: Request<RecommendPointGroups>) -> Answer<RecommendGroupsResponse> {
        Err(not_here("recommend"))
    }

    async fn discover(&self, _request: Request<DiscoverPoints>) -> Answer<DiscoverResponse> {
        Err(not_here("discover"))
    }

    async fn discover_batch(&self, _request: Request<DiscoverBatchPoints>) -> Answer<DiscoverBatchResponse> {
        Err(not_here("discover"))
    }

    async fn query_groups(&self, _request: Request<QueryPointGroups>) -> Answer<QueryGroupsResponse> {
        Err(not_here("query in groups"))
    }

    async fn facet(&self, _request: Request<FacetCounts>) -> Answer<FacetResponse> {
        Err(not_here("count facets"))
    }

    async fn search_matrix_pairs(&self, _request: Request<SearchMatrixPoints>) -> Answer<SearchMatrixPairsResponse> {
        Err(not_here("make matrices"))
    }

    async fn search_matrix_offsets(&self, _request: Request<SearchMatrixPoints>) -> Answer<SearchMatrixOffsetsResponse> {
        Err(not_here("make matrices"))
    }
}
