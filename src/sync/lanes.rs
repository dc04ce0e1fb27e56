//! Which lanes there are: for each projection one, and for a collection that is held several times one for each generation. What
//! concerns one lane alone is in [`super::lane`].

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use super::lake::Opened;
use super::lane::{Lane, describe};
use super::models::shown;
use super::open::Setup;
use super::points::Foreseen;
use super::{LaneError, Options};
use crate::embed::Worker;
use crate::mapping::target::{Shape, Target};
use crate::report::TargetReport;
use crate::sinks::{Checkpoint, Generation, LaneId, Role, Sink, SinkError, SinkKind};

/// One generation of one target, all others left out.
#[derive(Debug, Clone)]
pub(super) struct Only {
    pub(super) target: String,
    pub(super) model: String,
    pub(super) dimensions: usize,
    /// What a dry run would embed.
    pub(super) foreseen: Arc<Mutex<Foreseen>>,
}

/// Where rows of a target go, and what makes their vectors.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) sink: Arc<dyn Sink>,
    pub(super) role: Role,
    /// Whether another process is at work on it.
    pub(super) taken: bool,
    /// For points.
    pub(super) embedder: Option<Arc<Worker>>,
    /// The model's identity, for points.
    pub(super) model: Option<String>,
    /// Why there is no embedder where there should be one.
    pub(super) lacks: Option<String>,
}

impl Place {
    pub(super) fn lane_id(&self, target: &Target) -> LaneId {
        LaneId::new(&target.table, target.sink(), &target.name, self.model.as_deref())
    }

    /// How reports call the target: by its name where it is in service, with the model behind it elsewhere.
    pub(super) fn name(&self, target: &str) -> String {
        match (self.role, &self.model) {
            (Role::Serving, _) | (_, None) => target.to_owned(),
            (_, Some(model)) => format!("{target}@{model}"),
        }
    }

    pub(super) fn dimensions(&self) -> usize {
        self.embedder.as_ref().map_or(0, |embedder| embedder.dimensions())
    }
}

/// The places of one sink: itself, and itself as other models see it.
#[derive(Debug)]
pub(super) struct Places {
    own: Place,
    /// Other generations, by target.
    others: Vec<(Generation, Place)>,
}

impl Places {
    pub(super) async fn of(setup: &Setup, sink: &Arc<dyn Sink>) -> Result<Self, SinkError> {
        let embedder = setup.embedder.clone();
        let model = embedder.as_ref().map(|e| e.identity().to_owned());
        let own = Place { sink: sink.clone(), role: Role::Serving, taken: false, embedder, model, lacks: None };
        let mut others: Vec<(Generation, Place)> = Vec::new();
        for generation in sink.generations().await? {
            // Lanes of one model share a sink, so that they are served together.
            let known = others.iter().find(|(other, _)| other.model == generation.model).map(|(_, place)| place.clone());
            let mut place = match known {
                Some(place) => place,
                None if own.model.as_ref() == Some(&generation.model) => own.clone(),
                None => {
                    let (embedder, lacks) = match setup.models.of(&generation.model) {
                        Ok(embedder) => (Some(embedder), None),
                        Err(why) => (None, Some(why)),
                    };
                    let sink = sink.of_model(&generation.model, generation.dimensions)?;
                    Place { sink, role: generation.role, taken: false, embedder, model: Some(generation.model.clone()), lacks }
                }
            };
            (place.role, place.taken) = (generation.role, generation.taken);
            others.push((generation, place));
        }
        Ok(Self { own, others })
    }

    /// A place for a generation that is to be made, if it is not there.
    fn begin(&mut self, setup: &Setup, only: &Only) -> Result<(), SinkError> {
        let is = |(one, _): &(Generation, Place)| one.target == only.target && one.model == only.model;
        if self.own.sink.kind() != SinkKind::Vectors || self.others.iter().any(is) {
            return Ok(());
        }
        let embedder = setup.models.of(&only.model).ok();
        let generation = Generation {
            target: only.target.clone(),
            model: only.model.clone(),
            dimensions: only.dimensions,
            role: Role::Building,
            taken: false,
        };
        let sink = self.own.sink.of_model(&only.model, only.dimensions)?;
        let place = Place { sink, role: Role::Building, taken: false, embedder, model: Some(only.model.clone()), lacks: None };
        self.others.push((generation, place));
        Ok(())
    }

    /// Where rows of the target go; the place in service first.
    pub(super) fn of_target(&self, target: &Target) -> Vec<Place> {
        if !matches!(target.shape, Shape::Points { .. }) {
            return vec![self.rows()];
        }
        self.of_collection(&target.name)
    }

    /// Where rows go that no model makes.
    pub(super) fn rows(&self) -> Place {
        Place { embedder: None, model: None, lacks: None, ..self.own.clone() }
    }

    /// [`Places::of_target`] of a collection.
    pub(super) fn of_collection(&self, name: &str) -> Vec<Place> {
        let mut places: Vec<Place> =
            self.others.iter().filter(|(generation, _)| generation.target == name).map(|(_, place)| place.clone()).collect();
        places.sort_by_key(|place| place.role != Role::Serving);
        // A new collection is made by the model of the configuration.
        if places.first().is_none_or(|place| place.role != Role::Serving) {
            places.retain(|place| place.model != self.own.model);
            places.insert(0, self.own.clone());
        }
        places
    }
}

/// The lanes of a run.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    pub(super) lanes: Vec<Lane>,
    /// What a person should know of generations.
    pub(super) notes: BTreeSet<String>,
}

/// The lanes of every opened table, with their checkpoints, their sinks prepared. What fails for a sink or a target is written on
/// its lanes; the others are not touched by it. With `only`, the lanes of that generation and no others.
pub(super) async fn lanes(setup: &Setup, opened: &Opened, options: &Options, only: Option<&Only>) -> Lanes {
    let mut all = Lanes::default();
    for sink in &setup.sinks {
        let mut of_sink = Lanes::default();
        let outcome = match Places::of(setup, sink).await {
            Ok(mut places) => match only.map_or(Ok(()), |only| places.begin(setup, only)) {
                Ok(()) => gather(setup, opened, &places, only, &mut of_sink).await,
                Err(error) => Err(error),
            },
            Err(error) => {
                // Nothing is known of generations: each target's lane says so.
                let own =
                    Place { sink: sink.clone(), role: Role::Serving, taken: false, embedder: None, model: None, lacks: None };
                let places = Places { own, others: Vec::new() };
                drop(gather(setup, opened, &places, only, &mut of_sink).await);
                Err(error)
            }
        };
        let outcome = match outcome {
            Ok(()) => ready(&mut of_sink.lanes, opened, options).await,
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            for lane in of_sink.lanes.iter_mut().filter(|lane| lane.failed.is_none()) {
                lane.fail(again(&error).into());
            }
        }
        all.lanes.append(&mut of_sink.lanes);
        all.notes.append(&mut of_sink.notes);
    }
    all
}

/// The lanes of one sink.
async fn gather(setup: &Setup, opened: &Opened, places: &Places, only: Option<&Only>, into: &mut Lanes) -> Result<(), SinkError> {
    let sink = &places.own.sink;
    let checkpoints = sink.checkpoints().await;
    let known: &[Checkpoint] = checkpoints.as_deref().unwrap_or_default();
    let mut foreseen: HashMap<Option<String>, Arc<Mutex<Foreseen>>> = HashMap::new();
    if let Some(only) = only {
        foreseen.insert(Some(only.model.clone()), only.foreseen.clone());
    }
    for table in opened.mapping.tables.values() {
        for projection in table.projections.iter().filter(|p| p.target().sink() == sink.kind()) {
            let target = projection.target();
            for place in places.of_target(target) {
                let chosen = |only: &Only| only.target == target.name && Some(&only.model) == place.model.as_ref();
                if only.is_some_and(|only| !chosen(only)) {
                    continue;
                }
                let id = place.lane_id(target);
                let checkpoint = known.iter().find(|checkpoint| checkpoint.lane == id).cloned();
                if only.is_none() && !is_followed(setup, target, &place, checkpoint.as_ref(), &mut into.notes) {
                    continue;
                }
                let mut lane = Lane {
                    projection: projection.clone(),
                    checkpoint,
                    report: TargetReport::new(target.sink(), &place.name(&target.name)),
                    failed: None,
                    schema_fingerprint: table.schema_fingerprint.clone(),
                    repaired: false,
                    newest: None,
                    foreseen: foreseen.entry(place.model.clone()).or_default().clone(),
                    place,
                };
                if let Some(why) = lane.place.lacks.clone() {
                    lane.fail(LaneError::Stop(format!(
                        "the collection {} cannot be kept current: {why}. `distributary reembed --collection {} --model NAME` builds it \
                         with another model",
                        target.name, target.name
                    )));
                } else if let Err(error) = sink.check(target) {
                    lane.fail(error.into());
                }
                into.lanes.push(lane);
            }
        }
    }
    checkpoints.map(drop)
}

/// Whether a run that was not told which generations to work on keeps this one current. What it leaves alone it notes.
fn is_followed(
    setup: &Setup,
    target: &Target,
    place: &Place,
    checkpoint: Option<&Checkpoint>,
    notes: &mut BTreeSet<String>,
) -> bool {
    let (name, Some(model)) = (&target.name, &place.model) else { return true };
    let command = format!("`distributary reembed --collection {name}");
    if place.taken {
        notes.insert(format!("{name}: the generation of {model} is being built, or brought back, by another process"));
        return false;
    }
    match place.role {
        Role::Serving => {
            if let Some(own) = setup.embedder.as_ref().map(|e| e.identity()).filter(|own| own != model) {
                notes.insert(format!(
                    "{name} is of {model} and stays so; the configuration's {own} is for new collections. {command} --model {}` changes it",
                    shown(own)
                ));
            }
            true
        }
        Role::Kept => {
            let why = place
                .lacks
                .as_ref()
                .map_or_else(|| "is kept current".to_owned(), |why| format!("cannot be kept current ({why})"));
            notes.insert(format!(
                "{name}: the generation of {model}, which was in service before, {why}. {command} --rollback` goes back to it, \
                 --drop-old deletes it"
            ));
            place.lacks.is_none()
        }
        Role::Building => {
            notes.insert(format!(
                "{name}: a generation of {model} is being built. {command} --model {}` goes on with it, --abandon deletes it",
                shown(model)
            ));
            // Its first snapshot is the work of `reembed`.
            place.lacks.is_none() && checkpoint.is_some_and(|checkpoint| checkpoint.version.is_some())
        }
    }
}

/// The same error for another lane; its causes become part of the message.
pub(super) fn again(error: &SinkError) -> SinkError {
    let text = describe(error);
    let message = text.strip_prefix(&format!("{}: ", error.sink)).unwrap_or(&text).to_owned();
    SinkError { class: error.class, sink: error.sink, message, retry_after: error.retry_after, source: None }
}

/// Prepares the lanes that may be written to, each place for itself.
async fn ready(lanes: &mut [Lane], opened: &Opened, options: &Options) -> Result<(), SinkError> {
    if options.dry_run {
        return Ok(());
    }
    let mut places: Vec<Arc<dyn Sink>> = Vec::new();
    for lane in lanes.iter() {
        if !places.iter().any(|place| Arc::ptr_eq(place, lane.sink())) {
            places.push(lane.sink().clone());
        }
    }
    for sink in places {
        let mut of_place: Vec<&mut Lane> = lanes.iter_mut().filter(|lane| Arc::ptr_eq(lane.sink(), &sink)).collect();
        prepare(&sink, &mut of_place, opened, options).await?;
    }
    Ok(())
}

async fn prepare(sink: &Arc<dyn Sink>, lanes: &mut [&mut Lane], opened: &Opened, options: &Options) -> Result<(), SinkError> {
    let wanted = |lane: &&&mut Lane| {
        let changed = lane.checkpoint.as_ref().is_some_and(|c| lane.changed(c).is_some());
        lane.failed.is_none() && (options.rebuild || !changed)
    };
    let mut targets: Vec<Arc<Target>> = lanes.iter().filter(wanted).map(|lane| lane.target().clone()).collect();
    let refused = |error: &SinkError| error.class == crate::sinks::Class::Stop;
    if let Err(error) = sink.prepare(&targets, &[]).await {
        if !refused(&error) {
            return Err(error);
        }
        // One that waits for a decision holds back no other.
        let wanted = targets.clone();
        for lane in lanes.iter_mut().filter(|lane| wanted.iter().any(|t| Arc::ptr_eq(t, lane.target()))) {
            if let Err(error) = sink.prepare(std::slice::from_ref(lane.target()), &[]).await {
                targets.retain(|t| !Arc::ptr_eq(t, lane.projection.target()));
                lane.fail(error.into());
            }
        }
    }
    let dimensions: Vec<_> = opened
        .mapping
        .dimensions
        .iter()
        .filter(|d| d.bridges.iter().all(|(bridge, _)| targets.iter().any(|t| t.name == *bridge)))
        .cloned()
        .collect();
    sink.prepare(&targets, &dimensions).await
}

/// Lanes of which a sink holds a checkpoint and the mapping says nothing.
pub(super) async fn left_alone(setup: &Setup) -> Vec<String> {
    let mut found = Vec::new();
    for sink in &setup.sinks {
        for checkpoint in sink.checkpoints().await.unwrap_or_default() {
            let lane = &checkpoint.lane;
            let known =
                setup.mapping.tables.get(&lane.table).is_some_and(|t| t.targets().contains(&(lane.sink, lane.target.as_str())));
            if !known {
                found.push(lane.name());
            }
        }
    }
    found
}
