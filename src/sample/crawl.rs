//! The sample lake as it is first written, and what one crawl does to it: everything that a day of a real crawl brings, once each.
//!
//! Nothing is drawn at random and no clock is read, so two lakes that are crawled are equal.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use super::catalogue::{Catalogue, credit_id};
use super::rows::{Movie, Person};
use super::write::{Changes, Row, apply, create, read};
use super::{Commit, SampleError, Table};

/// Not in a new lake: the crawl brings it, and its people a commit later.
const LATE: &str = "Carnival of Souls";
/// Not in a new lake: the crawl brings it with two cast entries of one `credit_id`.
const BROKEN: &str = "Dementia 13";
/// Deleted by the crawl.
const DELETED: &str = "Gulliver's Travels";
/// The films whose popularity stays as it was.
const STEADY: [&str; 2] = ["Fantasmagorie", "Häxan"];
/// Sentences that the crawl adds to overviews.
const EDITS: [(&str, &str); 3] = [
    ("Metropolis", "A print found in Buenos Aires in 2008 gave back nearly all that had been cut."),
    ("The General", "The bridge that falls was a real one, and so is the engine on it."),
    ("Nosferatu", "A court ordered every print of it burned, and some were overlooked."),
];

/// Writes the sample lake: `movies`, `people` and `tv_series` under `root`, one commit each, change feed on. Two films, and the people
/// whom only the first of them credits, are left for [`crawl`] to bring.
///
/// # Errors
/// When there is such a table under `root` already, or the disk refuses.
pub async fn write_lake(root: &Path) -> Result<Vec<Commit>, SampleError> {
    let catalogue = Catalogue::load()?;
    let late: HashSet<i64> = late_people(&catalogue)?.iter().map(Row::key).collect();
    let films: Vec<Movie> = (catalogue.films.into_iter()).filter(|film| !is(film, LATE) && !is(film, BROKEN)).collect();
    let people: Vec<Person> = (catalogue.people.into_iter()).filter(|person| !late.contains(&person.key())).collect();
    let series = catalogue.series;
    Ok(vec![
        create(root, &films, &format!("{} films", films.len())).await?,
        create(root, &people, &format!("{} people", people.len())).await?,
        create(root, &series, &format!("{} series", series.len())).await?,
    ])
}

/// Lets a crawl happen to the lake that [`write_lake`] wrote: ten commits.
///
/// # Errors
/// When the lake is not one of `write_lake`'s, or has been crawled already, or the disk refuses.
pub async fn crawl(root: &Path) -> Result<Vec<Commit>, SampleError> {
    let catalogue = Catalogue::load()?;
    let mut films: BTreeMap<i64, Movie> = read(root).await?;
    let deleted = find(&films, DELETED)?.key();
    let mut commits = Vec::new();

    let moved = move_popularity(&mut films);
    let what = format!("popularity of {} films", moved.len());
    commits.push(apply(root, &Changes::upserts(moved), &what).await?);

    let edited = Changes::upserts(edit_overviews(&mut films)?);
    commits.push(apply(root, &edited, "three overviews edited: Metropolis, The General, Nosferatu").await?);
    commits.push(apply(root, &edited, "the three edited films delivered a second time").await?);

    let recast = recast(&mut films, &catalogue)?;
    let what = "a role recast: a Union General in The General, Mike Donlin → Frederick Vroom";
    commits.push(apply(root, &Changes::upserts(vec![recast]), what).await?);

    let dropped = drop_crew(&mut films)?;
    let what = "a crew member dropped: Alma Reville from The 39 Steps";
    commits.push(apply(root, &Changes::upserts(vec![dropped]), what).await?);

    let second = second_job(&mut films)?;
    let what = "a second job: Karl Hardman did make-up on Night of the Living Dead, too";
    commits.push(apply(root, &Changes::upserts(vec![second]), what).await?);

    let what = format!("a film deleted: {DELETED}");
    commits.push(apply::<Movie>(root, &Changes::deletes(vec![deleted]), &what).await?);

    let late = catalogue_film(&catalogue, LATE)?.clone();
    let what = format!("a film that arrives before its people: {LATE}");
    commits.push(apply(root, &Changes::upserts(vec![late]), &what).await?);
    let people = late_people(&catalogue)?;
    let what = format!("{} people of {LATE} (of others nobody has a record)", people.len());
    commits.push(apply(root, &Changes::upserts(people), &what).await?);

    let what = format!("a broken record: {BROKEN} has two cast entries of one credit_id");
    commits.push(apply(root, &Changes::upserts(vec![broken(&catalogue)?]), &what).await?);
    Ok(commits)
}

/// Mends the record that [`crawl`] broke: each of its cast entries gets its own `credit_id` back.
///
/// # Errors
/// When the lake has no such record, or the disk refuses.
pub async fn mend(root: &Path) -> Result<Commit, SampleError> {
    let catalogue = Catalogue::load()?;
    let films: BTreeMap<i64, Movie> = read(root).await?;
    find(&films, BROKEN)?;
    let whole = catalogue_film(&catalogue, BROKEN)?.clone();
    apply(root, &Changes::upserts(vec![whole]), &format!("the broken record mended: {BROKEN}")).await
}

fn is(film: &Movie, title: &str) -> bool {
    film.movie_detail.title.as_deref() == Some(title)
}

fn missing(what: impl Into<String>) -> SampleError {
    SampleError::Missing { table: Table::Movies, what: what.into() }
}

fn find<'a>(films: &'a BTreeMap<i64, Movie>, title: &str) -> Result<&'a Movie, SampleError> {
    films.values().find(|film| is(film, title)).ok_or_else(|| missing(title))
}

fn find_mut<'a>(films: &'a mut BTreeMap<i64, Movie>, title: &str) -> Result<&'a mut Movie, SampleError> {
    films.values_mut().find(|film| is(film, title)).ok_or_else(|| missing(title))
}

fn catalogue_film<'a>(catalogue: &'a Catalogue, title: &str) -> Result<&'a Movie, SampleError> {
    catalogue.films.iter().find(|film| is(film, title)).ok_or_else(|| missing(title))
}

fn credited(film: &Movie) -> impl Iterator<Item = i64> {
    (film.casts_info.iter().map(|credit| credit.person_id)).chain(film.crews_info.iter().map(|credit| credit.person_id))
}

/// The people with a record whom the late film credits and nothing else does.
fn late_people(catalogue: &Catalogue) -> Result<Vec<Person>, SampleError> {
    let late: HashSet<i64> = credited(catalogue_film(catalogue, LATE)?).collect();
    let elsewhere: HashSet<i64> = (catalogue.films.iter().filter(|film| !is(film, LATE)).flat_map(credited))
        .chain(catalogue.series.iter().flat_map(|series| series.casts_info.iter().map(|credit| credit.person_id)))
        .chain(catalogue.series.iter().flat_map(|series| series.crews_info.iter().map(|credit| credit.person_id)))
        .collect();
    let only_here = |person: &&Person| late.contains(&person.key()) && !elsewhere.contains(&person.key());
    Ok(catalogue.people.iter().filter(only_here).cloned().collect())
}

/// Moves popularity by up to 5 % either way, by an amount that depends on the id alone.
fn move_popularity(films: &mut BTreeMap<i64, Movie>) -> Vec<Movie> {
    let mut moved = Vec::new();
    for film in films.values_mut().filter(|film| !STEADY.iter().any(|title| is(film, title))) {
        let step = (film.movie_id * 37 % 101 - 50) as f64 / 1000.0;
        let old = film.movie_detail.popularity.unwrap_or_default();
        let new = ((old * (1.0 + step) + 0.001) * 10_000.0).round() / 10_000.0;
        film.movie_detail.popularity = Some(new);
        moved.push(film.clone());
    }
    moved
}

fn edit_overviews(films: &mut BTreeMap<i64, Movie>) -> Result<Vec<Movie>, SampleError> {
    let mut edited = Vec::new();
    for (title, sentence) in EDITS {
        let film = find_mut(films, title)?;
        let overview = film.movie_detail.overview.get_or_insert_default();
        overview.push(' ');
        overview.push_str(sentence);
        edited.push(film.clone());
    }
    Ok(edited)
}

fn recast(films: &mut BTreeMap<i64, Movie>, catalogue: &Catalogue) -> Result<Movie, SampleError> {
    let name = "Frederick Vroom";
    let replacement = (catalogue.people.iter())
        .find(|person| person.person_detail.name.as_deref() == Some(name))
        .ok_or_else(|| missing(name))?;
    let film = find_mut(films, "The General")?;
    let about = format!("film/{}/cast/{}/Union General", film.movie_id, replacement.person_id);
    let role = (film.casts_info.iter_mut())
        .find(|role| role.name.as_deref() == Some("Mike Donlin"))
        .ok_or_else(|| missing("Mike Donlin in The General"))?;
    role.credit_id = credit_id(&about);
    role.person_id = replacement.person_id;
    role.name.clone_from(&replacement.person_detail.name);
    role.gender = replacement.person_detail.gender;
    role.known_for_department.clone_from(&replacement.person_detail.known_for_department);
    Ok(film.clone())
}

fn drop_crew(films: &mut BTreeMap<i64, Movie>) -> Result<Movie, SampleError> {
    let film = find_mut(films, "The 39 Steps")?;
    let before = film.crews_info.len();
    film.crews_info.retain(|credit| credit.name.as_deref() != Some("Alma Reville"));
    if film.crews_info.len() == before {
        return Err(missing("Alma Reville in The 39 Steps"));
    }
    Ok(film.clone())
}

fn second_job(films: &mut BTreeMap<i64, Movie>) -> Result<Movie, SampleError> {
    let film = find_mut(films, "Night of the Living Dead")?;
    let first = (film.crews_info.iter())
        .find(|credit| credit.name.as_deref() == Some("Karl Hardman"))
        .ok_or_else(|| missing("Karl Hardman in Night of the Living Dead"))?;
    let mut second = first.clone();
    second.job = Some("Makeup Artist".to_owned());
    second.department = Some("Costume & Make-Up".to_owned());
    second.credit_id = credit_id(&format!("film/{}/crew/{}/Makeup Artist", film.movie_id, second.person_id));
    film.crews_info.push(second);
    Ok(film.clone())
}

/// The film whose second role carries the first one's identity: two different rows with one key.
fn broken(catalogue: &Catalogue) -> Result<Movie, SampleError> {
    let mut film = catalogue_film(catalogue, BROKEN)?.clone();
    let [first, second, ..] = film.casts_info.as_mut_slice() else {
        return Err(missing(format!("two roles in {BROKEN}")));
    };
    second.credit_id.clone_from(&first.credit_id);
    Ok(film)
}

#[cfg(test)]
mod tests {
    use super::super::write::open;
    use super::super::{Counts, Series};
    use super::*;

    /// The table's rows at a version, read by time travel.
    async fn at<R: Row>(root: &Path, version: u64) -> BTreeMap<i64, R> {
        let mut table = open(root, R::TABLE).await.unwrap();
        table.load_version(version).await.unwrap();
        super::super::write::rows_of(&table).await.unwrap()
    }

    /// How many rows of each kind the change feed has at one version.
    async fn feed(root: &Path, table: Table, version: u64) -> BTreeMap<String, u64> {
        let opened = open(root, table).await.unwrap();
        let session = datafusion::prelude::SessionContext::new();
        let plan = (opened.scan_cdf().with_starting_version(version).with_ending_version(version))
            .build(&session.state(), None)
            .await
            .unwrap();
        let batches = datafusion::physical_plan::collect(plan, session.task_ctx()).await.unwrap();
        let mut kinds = BTreeMap::new();
        for batch in batches {
            let column = arrow::compute::cast(batch.column_by_name("_change_type").unwrap(), &arrow::datatypes::DataType::Utf8);
            for kind in arrow::array::AsArray::as_string::<i32>(&column.unwrap()).iter().flatten() {
                *kinds.entry(kind.to_owned()).or_default() += 1;
            }
        }
        kinds
    }

    fn differences<R: Row>(before: &BTreeMap<i64, R>, after: &BTreeMap<i64, R>) -> (u64, u64, u64) {
        let inserted = after.keys().filter(|key| !before.contains_key(key)).count() as u64;
        let deleted = before.keys().filter(|key| !after.contains_key(key)).count() as u64;
        let updated = after.iter().filter(|(key, row)| before.get(key).is_some_and(|old| old != *row)).count() as u64;
        (inserted, updated, deleted)
    }

    #[tokio::test]
    async fn a_lake_reads_back_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let commits = write_lake(dir.path()).await.unwrap();
        assert_eq!(commits.iter().map(|c| (c.table, c.version)).collect::<Vec<_>>(), Table::ALL.map(|t| (t, 0)));
        let catalogue = Catalogue::load().unwrap();
        let films: BTreeMap<i64, Movie> = read(dir.path()).await.unwrap();
        let people: BTreeMap<i64, Person> = read(dir.path()).await.unwrap();
        let series: BTreeMap<i64, Series> = read(dir.path()).await.unwrap();
        assert_eq!(films.len(), catalogue.films.len() - 2);
        assert!(films.len() >= 60);
        assert!(catalogue.films.iter().filter(|f| films.contains_key(&f.movie_id)).all(|f| films[&f.movie_id] == *f));
        assert_eq!(people.len(), catalogue.people.len() - late_people(&catalogue).unwrap().len());
        assert!(people.values().all(|p| catalogue.people.contains(p)));
        assert_eq!(series.values().collect::<Vec<_>>(), catalogue.series.iter().collect::<Vec<_>>());
        for table in Table::ALL {
            let opened = open(dir.path(), table).await.unwrap();
            let feed = opened.snapshot().unwrap().metadata().configuration().get("delta.enableChangeDataFeed").cloned();
            assert_eq!(feed.as_deref(), Some("true"));
        }
    }

    #[tokio::test]
    async fn a_second_lake_in_the_same_place_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        write_lake(dir.path()).await.unwrap();
        let error = write_lake(dir.path()).await.unwrap_err();
        assert!(matches!(error, SampleError::Exists { table: Table::Movies, .. }), "{error}");
    }

    #[tokio::test]
    async fn a_crawl_does_what_its_commits_say() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        write_lake(root).await.unwrap();
        let commits = crawl(root).await.unwrap();
        assert_eq!(commits.len(), 10);
        for commit in &commits {
            let found = match commit.table {
                Table::Movies => differences::<Movie>(&at(root, commit.version - 1).await, &at(root, commit.version).await),
                _ => differences::<Person>(&at(root, commit.version - 1).await, &at(root, commit.version).await),
            };
            let Counts { given, inserted, updated, deleted, unchanged } = commit.counts;
            assert_eq!(found, (inserted, updated, deleted), "{}", commit.what);
            assert_eq!(given, inserted + updated + deleted + unchanged, "{}", commit.what);
            let kinds = feed(root, commit.table, commit.version).await;
            let of = |kind: &str| kinds.get(kind).copied().unwrap_or_default();
            assert_eq!(of("insert"), inserted, "{}", commit.what);
            assert_eq!(of("delete"), deleted, "{}", commit.what);
            assert_eq!(of("update_postimage"), updated + unchanged, "equal rows are rewritten too: {}", commit.what);
        }
        let sum = |pick: fn(&Counts) -> u64| commits.iter().map(|c| pick(&c.counts)).sum::<u64>();
        assert_eq!(sum(|c| c.deleted), 1);
        assert_eq!(sum(|c| c.unchanged), 3);
        assert!(commits[0].counts.updated >= 60, "{:?}", commits[0]);
        assert!(commits.iter().any(|c| c.table == Table::People && c.counts.inserted > 1));
    }

    #[tokio::test]
    async fn two_crawls_of_equal_lakes_are_equal_and_a_second_crawl_of_one_is_refused() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut commits = Vec::new();
        for dir in [&one, &two] {
            write_lake(dir.path()).await.unwrap();
            commits.push(crawl(dir.path()).await.unwrap());
        }
        assert_eq!(commits[0], commits[1]);
        assert_eq!(read::<Movie>(one.path()).await.unwrap(), read::<Movie>(two.path()).await.unwrap());
        let error = crawl(one.path()).await.unwrap_err();
        assert!(matches!(&error, SampleError::Missing { what, .. } if what == DELETED), "{error}");
    }

    #[tokio::test]
    async fn the_broken_record_conflicts_until_it_is_mended() {
        let dir = tempfile::tempdir().unwrap();
        write_lake(dir.path()).await.unwrap();
        assert!(matches!(mend(dir.path()).await.unwrap_err(), SampleError::Missing { .. }));
        crawl(dir.path()).await.unwrap();
        let conflicts = |films: &BTreeMap<i64, Movie>| {
            (films.values())
                .filter(|film| {
                    let ids: HashSet<_> = film.casts_info.iter().map(|role| &role.credit_id).collect();
                    ids.len() < film.casts_info.len()
                })
                .count()
        };
        assert_eq!(conflicts(&read(dir.path()).await.unwrap()), 1);
        let commit = mend(dir.path()).await.unwrap();
        assert_eq!(commit.counts.updated, 1);
        assert_eq!(conflicts(&read(dir.path()).await.unwrap()), 0);
    }
}
