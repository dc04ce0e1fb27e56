//! What every engine must do alike, written once against the contract of [`distributary::sinks`] and stamped on each engine by
//! [`conformance`]. A behaviour takes a [`Place`] and knows nothing of the engine behind it but its kind.

pub(crate) mod checkpoints;
pub(crate) mod rows;
pub(crate) mod schema;
pub(crate) mod subject;
pub(crate) mod values;

use std::sync::Arc;

use async_trait::async_trait;
use distributary::sinks::{Lease, Sink, SinkError, SinkKind};

/// What becomes of a second writer to a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Others {
    /// It cannot open the place.
    Refused,
    /// The process that has the place may open it as often as it wants.
    SameProcess,
    /// It opens the place, and a lease keeps it from writing.
    Leased,
}

/// Somewhere to deliver to: an engine with nothing of anybody else in it.
#[async_trait]
pub(crate) trait Place: Send + Sync + Sized {
    /// Which projections it takes.
    const KIND: SinkKind;
    /// What becomes of a second writer.
    const OTHERS: Others;

    /// A place where nothing is.
    async fn fresh() -> Self;

    /// Opens it, as a new process would. Vectors are of [`subject::MODEL`], [`subject::DIMENSIONS`] long.
    async fn try_open(&self) -> Result<Arc<dyn Sink>, SinkError>;

    /// Lets a lease end that is held, as if its holder had not been heard of for longer than it lasts. Where those who ask go by their own
    /// clocks, the lease says when it was renewed; a server that goes by its own has to be told.
    async fn outlive(&self, holder: &Arc<dyn Sink>, lease: &Lease) {
        let long_ago = Lease { since_ms: 0, renewed_ms: 0, lasts_ms: 1000, ..lease.clone() };
        holder.hold(&long_ago).await.unwrap();
    }

    /// [`Place::try_open`], where it must go well.
    async fn open(&self) -> Arc<dyn Sink> {
        self.try_open().await.unwrap()
    }
}

/// Runs a behaviour to its end.
pub(crate) fn run(behaviour: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(Box::pin(behaviour));
    runtime.shutdown_background();
}

/// A module of tests: each behaviour on one place.
macro_rules! conformance {
    ($engine:ident, $place:ty) => {
        mod $engine {
            #[allow(unused_imports, reason = "the place is named as it is where it was declared")]
            use super::*;

            $crate::conformance::stamped! { $place;
                rows: a_new_place_is_empty, what_is_written_is_held, a_replay_changes_nothing, an_older_version_loses,
                    what_is_deleted_is_gone_and_can_come_back, a_record_shrinks_and_grows, no_rows_are_no_work,
                    a_large_batch_is_whole, rows_are_found_by_any_columns, a_list_has_every_record_on_any_pages,
                    a_list_goes_on_when_what_it_listed_is_deleted, the_newest_version_is_known, a_payload_changes_alone,
                    two_targets_are_apart;
                values: hostile_values_are_values, hostile_keys_are_keys, every_type_there_and_back, a_row_is_refused_alone;
                schema: to_prepare_again_changes_nothing, a_column_is_added, unknown_columns_are_refused,
                    a_name_is_held_or_refused_by_name, questions_are_answered_or_refused;
                checkpoints: a_checkpoint_moves_only_from_the_one_before, checkpoints_move_together_or_not_at_all,
                    any_text_is_kept_in_a_checkpoint, what_was_flushed_is_there_when_it_is_opened_again,
                    a_second_writer_does_no_harm, a_place_has_one_run_of_a_kind, another_model_is_another_generation;
            }
        }
    };
}
pub(crate) use conformance;

macro_rules! stamped {
    ($place:ty; $($group:ident: $($behaviour:ident),+;)+) => {
        $($(
            #[test]
            fn $behaviour() {
                $crate::conformance::run($crate::conformance::$group::$behaviour::<$place>());
            }
        )+)+
    };
}
pub(crate) use stamped;
