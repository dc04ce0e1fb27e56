//! Lakes of any size: written in batches, so that memory does not grow with them, and touched in place by one update. Who the records
//! are is `invent`'s business.

use std::path::Path;

use datafusion::functions::core::expr_fn::{get_field, named_struct};
use datafusion::prelude::{Expr, col, lit};
use serde::Serialize;
use xxhash_rust::xxh3::xxh3_64;

use super::invent::Inventor;
use super::schema::{Table, struct_fields};
use super::write::{NewTable, delta, open, version};
use super::{Commit, Counts, SampleError};

/// Records that are invented and written at once: some ten megabytes as structs.
const BATCH: u64 = 5_000;
/// Records a file, a multiple of [`BATCH`]: large enough to read fast, small enough that an update which rewrites a file or two stays
/// below a gigabyte.
const FILE: u64 = 50_000;
/// Up to so many films have casts and crews as large as real ones.
const FULL_CASTS_UP_TO: u64 = 10_000;

/// What is to be generated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GenerateOptions {
    /// Number of films; ids run from 1.
    pub films: u64,
    /// Everything follows from it: equal options make equal lakes.
    pub seed: u64,
    /// Number of people; ids run from 1.
    pub people: u64,
    /// Number of series; ids run from 1.
    pub series: u64,
}

impl GenerateOptions {
    /// So many films, half as many people (at least a hundred) and a tenth as many series.
    pub fn new(films: u64, seed: u64) -> Self {
        Self { films, seed, people: (films / 2).max(100), series: films / 10 }
    }

    /// Who invents the records. Casts are as large as real ones up to ten thousand films; beyond, a film keeps to one or two kilobytes,
    /// so that a million of them are made in minutes.
    fn inventor(&self) -> Inventor {
        let (cast_mean, crew_mean) = if self.films <= FULL_CASTS_UP_TO { (20.0, 12.0) } else { (6.0, 4.0) };
        Inventor { seed: self.seed, people: self.people.max(1), cast_mean, crew_mean }
    }
}

/// Generates a lake: `movies`, `people` and `tv_series` under `root`, one commit each, change feed on, files of fifty thousand
/// records. `progress` is told how many records of all three are written, now and then.
///
/// # Errors
/// When there is such a table under `root` already, or the disk refuses.
pub async fn generate(root: &Path, options: &GenerateOptions, mut progress: impl FnMut(u64)) -> Result<Vec<Commit>, SampleError> {
    let inventor = options.inventor();
    let mut done = 0;
    let mut step = |batch: u64| {
        done += batch;
        progress(done);
    };
    let films = fill(root, Table::Movies, options.films, move |id| inventor.film(id), &mut step).await?;
    let people = fill(root, Table::People, options.people, move |id| inventor.person(id), &mut step).await?;
    let series = fill(root, Table::TvSeries, options.series, move |id| inventor.series(id), &mut step).await?;
    Ok(vec![films, people, series])
}

/// Changes popularity and votes of a fraction of the films (rounded to whole films) in one update, that is one commit with change data.
/// The films stand next to one another, from a place that follows from the seed: so nothing is joined, and only the files that hold them
/// are read and rewritten.
///
/// # Errors
/// When `fraction` is not between 0 and 1, when there is no table `movies` under `root`, or Delta refuses.
pub async fn touch(root: &Path, fraction: f64, seed: u64) -> Result<Commit, SampleError> {
    if !(0.0..=1.0).contains(&fraction) {
        let value = fraction.to_string();
        return Err(SampleError::Option { name: "fraction", value, range: "between 0 and 1" });
    }
    let name = Table::Movies;
    let table = open(root, name).await?;
    let snapshot = table.snapshot().map_err(|source| delta(name, "count the films", source))?;
    let films: usize = snapshot.log_data().iter().filter_map(|file| file.num_records()).sum();
    let touched = (films as f64 * fraction).round() as u64;
    let from = 1 + xxh3_64(&seed.to_le_bytes()) % (films as u64 - touched + 1);
    let range = col("movie_id").gt_eq(lit(from as i64)).and(col("movie_id").lt(lit((from + touched) as i64)));
    let (table, metrics) = (table.update())
        .with_predicate(range)
        .with_update("movie_detail", touched_detail())
        .await
        .map_err(|source| delta(name, "touch films", source))?;
    let updated = metrics.num_updated_rows as u64;
    let counts = Counts { given: updated, updated, ..Counts::default() };
    let what = format!("popularity and votes of {updated} films");
    Ok(Commit { table: name, version: version(&table, name)?, what, counts })
}

/// `movie_detail`, field by field, with other popularity and votes.
fn touched_detail() -> Expr {
    let arguments = struct_fields(Table::Movies, "movie_detail").into_iter().flat_map(|name| {
        let old = get_field(col("movie_detail"), name.as_str());
        let new = match name.as_str() {
            "popularity" => old * lit(1.01_f64) + lit(0.001_f64),
            "vote_count" => old + lit(1_i64),
            _ => old,
        };
        [lit(name), new]
    });
    named_struct(arguments.collect())
}

/// Makes one table of invented records. The next batch is invented on another thread while this one is encoded.
async fn fill<R: Serialize + Send + 'static>(
    root: &Path,
    table: Table,
    records: u64,
    invent: impl Fn(i64) -> R + Copy + Send + 'static,
    step: &mut impl FnMut(u64),
) -> Result<Commit, SampleError> {
    let mut new = NewTable::begin(root, table).await?;
    let start = |from: u64| {
        let to = (from + BATCH).min(records);
        tokio::task::spawn_blocking(move || (from..to).map(|number| invent(number as i64 + 1)).collect::<Vec<R>>())
    };
    let mut next = start(0);
    let mut written = 0;
    while written < records {
        let rows = next.await.map_err(|_| SampleError::Interrupted { table })?;
        let count = rows.len() as u64;
        next = start(written + count);
        new.write(&rows).await?;
        written += count;
        if written % FILE == 0 {
            new.end_file().await?;
        }
        step(count);
    }
    let version = new.commit().await?;
    let counts = Counts { given: records, inserted: records, ..Counts::default() };
    Ok(Commit { table, version, what: format!("{records} generated records"), counts })
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use super::super::write::read;
    use super::super::{Movie, Person, Series};
    use super::*;

    #[tokio::test]
    async fn equal_seeds_make_equal_lakes_and_other_seeds_others() {
        let dirs: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
        for (dir, seed) in dirs.iter().zip([7, 7, 8]) {
            generate(dir.path(), &GenerateOptions::new(60, seed), |_| ()).await.unwrap();
        }
        let mut films = Vec::new();
        for dir in &dirs {
            films.push(read::<Movie>(dir.path()).await.unwrap());
        }
        assert_eq!(films[0], films[1]);
        assert_ne!(films[0], films[2]);
        assert_eq!(read::<Person>(dirs[0].path()).await.unwrap(), read::<Person>(dirs[1].path()).await.unwrap());
        assert_eq!(read::<Series>(dirs[0].path()).await.unwrap(), read::<Series>(dirs[1].path()).await.unwrap());
    }

    #[tokio::test]
    async fn counts_are_true_and_progress_reaches_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let options = GenerateOptions { films: 5_100, seed: 1, people: 500, series: 30 };
        let mut last = 0;
        let mut calls = 0;
        let commits = generate(dir.path(), &options, |done| (last, calls) = (done, calls + 1)).await.unwrap();
        assert_eq!((last, calls), (5_630, 4));
        assert_eq!(commits.iter().map(|c| c.counts.inserted).collect::<Vec<_>>(), [5_100, 500, 30]);
        let films: BTreeMap<i64, Movie> = read(dir.path()).await.unwrap();
        assert_eq!(films.keys().copied().collect::<Vec<_>>(), (1..=5_100).collect::<Vec<i64>>());
        assert_eq!(read::<Person>(dir.path()).await.unwrap().len(), 500);
        assert_eq!(read::<Series>(dir.path()).await.unwrap().len(), 30);
    }

    #[test]
    fn casts_are_long_tailed_and_people_follow_zipf() {
        let inventor = GenerateOptions::new(3_000, 5).inventor();
        let films: Vec<Movie> = (1..=3_000).map(|id| inventor.film(id)).collect();
        let mut sizes: Vec<usize> = films.iter().map(|film| film.casts_info.len()).collect();
        sizes.sort_unstable();
        let mean = sizes.iter().sum::<usize>() as f64 / sizes.len() as f64;
        assert!((17.0..23.0).contains(&mean), "{mean}");
        assert!(sizes[1_500] < 16 && sizes[2_990] > 80 && sizes[0] == 0, "{} {}", sizes[1_500], sizes[2_990]);
        let mut credits: HashMap<i64, usize> = HashMap::new();
        for role in films.iter().flat_map(|film| &film.casts_info) {
            *credits.entry(role.person_id).or_default() += 1;
        }
        let (first, tenth) = (credits[&1] as f64, credits[&10] as f64);
        assert!((5.0..25.0).contains(&(first / tenth)), "{first} {tenth}");
        let ids: Vec<_> = films.iter().flat_map(|film| film.casts_info.iter().map(|role| &role.credit_id)).collect();
        assert_eq!(ids.iter().collect::<std::collections::HashSet<_>>().len(), ids.len());
        let by_genre: HashMap<_, _> = films.iter().flat_map(|f| &f.movie_detail.genres).map(|g| (g.id, &g.name)).collect();
        assert!(by_genre.len() <= 16);
        assert!(films.iter().any(|film| film.movie_detail.overview.is_none()));
        assert!(films.iter().any(|film| film.movie_detail.release_date.as_deref() == Some("")));
    }

    #[test]
    fn a_term_has_one_name_and_a_person_too() {
        let inventor = GenerateOptions::new(2_000, 5).inventor();
        let mut keywords: HashMap<i64, String> = HashMap::new();
        for film in (1..=2_000).map(|id| inventor.film(id)) {
            for keyword in film.movie_detail.keywords {
                let name = keywords.entry(keyword.id).or_insert_with(|| keyword.name.clone());
                assert_eq!(*name, keyword.name);
            }
            for role in film.casts_info.iter().take(1) {
                assert_eq!(role.name, inventor.person(role.person_id).person_detail.name);
            }
        }
        let distinct: std::collections::HashSet<_> = keywords.values().collect();
        assert_eq!(distinct.len(), keywords.len());
    }

    #[tokio::test]
    async fn a_film_of_a_large_lake_keeps_to_two_kilobytes() {
        let inventor = GenerateOptions::new(1_000_000, 5).inventor();
        let bytes: usize = (1..=500).map(|id| serde_json::to_vec(&inventor.film(id * 1_999)).unwrap().len()).sum();
        // As JSON with its field names a film is twice as large as its values are.
        assert!((1_000..4_000).contains(&(bytes / 500)), "{}", bytes / 500);
    }

    #[tokio::test]
    async fn touching_changes_the_fraction_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let options = GenerateOptions { films: 3_000, seed: 2, people: 100, series: 0 };
        generate(dir.path(), &options, |_| ()).await.unwrap();
        let before: BTreeMap<i64, Movie> = read(dir.path()).await.unwrap();
        let commit = touch(dir.path(), 0.01, 3).await.unwrap();
        assert_eq!(commit.version, 1);
        let after: BTreeMap<i64, Movie> = read(dir.path()).await.unwrap();
        let changed: Vec<i64> = before.keys().filter(|key| before[key] != after[key]).copied().collect();
        assert_eq!(changed.len() as u64, commit.counts.updated);
        assert_eq!(changed.len(), 30);
        for key in before.keys() {
            let mut old = before[key].clone();
            old.movie_detail.popularity = after[key].movie_detail.popularity;
            old.movie_detail.vote_count = after[key].movie_detail.vote_count;
            assert_eq!(old, after[key]);
        }
        let error = touch(dir.path(), 1.5, 3).await.unwrap_err();
        assert!(matches!(error, SampleError::Option { name: "fraction", .. }));
    }
}
