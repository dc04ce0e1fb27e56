//! A question to a collection: conditions of the types that its indexes have, and what is said when nothing is found.

use qdrant_client::qdrant::query::Variant;
use qdrant_client::qdrant::{
    Condition, DenseVector, Filter, IsEmptyCondition, Query, QueryPoints, ScrollPoints, VectorInput, vector_input,
};

use super::QdrantStore;
use super::collections::index_of;
use super::convert::{self, parts, scored, typed};
use crate::sinks::SinkError;
use crate::sinks::vectors::config::{Collection, SINK};
use crate::sinks::vectors::moves;
use crate::sinks::vectors::store::{Part, Point};

impl QdrantStore {
    /// The points nearest to the vector that fulfil all conditions.
    pub(super) async fn search(
        &self,
        collection: &Collection,
        vector: Vec<f32>,
        conditions: &[(String, String)],
        limit: usize,
    ) -> Result<Vec<(f32, Point)>, SinkError> {
        let Some(limits) = self.limits(collection).await? else { return Err(self.unknown(collection).await?) };
        let filter =
            if conditions.is_empty() { Some(Filter::default()) } else { self.conditions(collection, conditions).await? };
        let mut found = Vec::new();
        if let Some(filter) = filter {
            let (with_payload, with_vectors) = parts(Part::Payload);
            let variant = Some(vector_input::Variant::Dense(DenseVector { data: vector }));
            let request = QueryPoints {
                collection_name: collection.generation(),
                query: Some(Query { variant: Some(Variant::Nearest(VectorInput { variant })) }),
                filter: Some(filter).filter(|_| !conditions.is_empty()),
                limit: Some(limit.min(limits.answers) as u64),
                with_payload,
                with_vectors,
                ..QueryPoints::default()
            };
            let answer = self.client.points().query(request).await;
            let answer = self.client.answer(&format!("search collection {}", collection.name), answer)?;
            found.extend(answer.result.into_iter().filter_map(scored));
        }
        if found.is_empty() {
            self.known_columns(collection, conditions).await?;
        }
        Ok(found)
    }

    /// The conditions of a question; none where they cannot hold.
    async fn conditions(&self, collection: &Collection, given: &[(String, String)]) -> Result<Option<Filter>, SinkError> {
        let Some(info) = self.info(&collection.generation()).await? else { return Ok(None) };
        let mut conditions = Vec::new();
        for (name, text) in given {
            let path = convert::path(name).map_err(|why| SinkError::permanent(SINK, why))?;
            conditions.push(typed(&path, text, index_of(&info, &path)));
        }
        let all: Option<Vec<Condition>> = conditions.into_iter().collect();
        Ok(all.map(Filter::must))
    }

    /// No answers may mean that a condition names a column that no point has.
    async fn known_columns(&self, collection: &Collection, conditions: &[(String, String)]) -> Result<(), SinkError> {
        let generation = collection.generation();
        let first =
            |filter| ScrollPoints { collection_name: generation.clone(), limit: Some(1), filter, ..ScrollPoints::default() };
        let Some(info) = self.info(&generation).await? else { return Ok(()) };
        for (name, _) in conditions {
            let key = convert::path(name).map_err(|why| SinkError::permanent(SINK, why))?;
            if index_of(&info, &key).is_some() {
                // It is a column of the target.
                continue;
            }
            let having = Filter::must_not([Condition::from(IsEmptyCondition { key })]);
            let (found, _) = self.page(first(Some(having)), Part::Version).await?;
            if found.is_empty() {
                let (some, _) = self.page(first(None), Part::Payload).await?;
                let names = some.into_iter().flat_map(|point| point.payload.into_iter().map(|(name, _)| name));
                let columns: Vec<String> = names.filter(|name| !name.starts_with('_')).collect();
                if !columns.is_empty() {
                    let (name_of, columns) = (&collection.name, columns.join(", "));
                    let message = format!("no point of collection {name_of} has a column {name}; there are {columns}");
                    return Err(SinkError::permanent(SINK, message));
                }
            }
        }
        Ok(())
    }

    async fn unknown(&self, collection: &Collection) -> Result<SinkError, SinkError> {
        let (all, aliases) = (self.all().await?, self.aliases().await?);
        let serving = aliases.serving(&collection.name);
        let serving = all.iter().find(|one| serving == Some(one.generation().as_str()));
        let mut names: Vec<String> = all.iter().map(|one| one.name.clone()).collect();
        names.dedup();
        Ok(moves::unknown(collection, serving, &names))
    }
}
