//! Invents films, people and series of any number. A record depends on the seed and its own id alone, so that any part of a lake can
//! be made apart from the rest and is the same every time. Knows no Delta and no file.
//!
//! Sizes follow the shape of real catalogues: long-tailed casts (log-normal), Zipf's law for who is credited and which genres,
//! keywords and companies occur, overviews of very different lengths, and a few dates that are empty or missing.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::distributions::{chance, long_tail, zipf};
use super::rows::{
    Cast, Country, Creator, Crew, Language, Movie, MovieDetail, Named, Network, Person, PersonDetail, Season, Series,
    SeriesDetail,
};

use super::words::{company, keyword, name, sentence, text, title};

const GENRES: [&str; 16] = [
    "Drama",
    "Comedy",
    "Thriller",
    "Romance",
    "Action",
    "Horror",
    "Documentary",
    "Crime",
    "Adventure",
    "Family",
    "Science Fiction",
    "Animation",
    "Mystery",
    "Fantasy",
    "History",
    "Western",
];
const COUNTRIES: [(&str, &str, &str, &str); 8] = [
    ("US", "United States of America", "en", "English"),
    ("FR", "France", "fr", "Français"),
    ("GB", "United Kingdom", "en", "English"),
    ("DE", "Germany", "de", "Deutsch"),
    ("JP", "Japan", "ja", "日本語"),
    ("IT", "Italy", "it", "Italiano"),
    ("SE", "Sweden", "sv", "svenska"),
    ("ES", "Spain", "es", "Español"),
];
const JOBS: [(&str, &str); 10] = [
    ("Director", "Directing"),
    ("Writer", "Writing"),
    ("Producer", "Production"),
    ("Director of Photography", "Camera"),
    ("Editor", "Editing"),
    ("Original Music Composer", "Sound"),
    ("Costume Design", "Costume & Make-Up"),
    ("Production Design", "Art"),
    ("Visual Effects", "Visual Effects"),
    ("Assistant Director", "Directing"),
];

/// Number of different keywords, companies and characters' names that are drawn from.
const KEYWORDS: u64 = 20_000;
const COMPANIES: u64 = 30_000;
/// The largest cast and the largest crew.
const CREDITS_MAX: usize = 300;

/// What kind of record a random stream is for, so that film 7 and person 7 have nothing in common.
#[derive(Clone, Copy)]
enum Kind {
    Film = 1,
    Person = 2,
    Series = 3,
    Name = 4,
}

/// Invents records.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inventor {
    /// Everything follows from it.
    pub(super) seed: u64,
    /// Number of people whom credits are drawn from; ids run from 1.
    pub(super) people: u64,
    /// Mean size of a cast.
    pub(super) cast_mean: f64,
    /// Mean number of jobs in a crew.
    pub(super) crew_mean: f64,
}

impl Inventor {
    /// The film of an id.
    pub(super) fn film(&self, id: i64) -> Movie {
        let mut rng = self.stream(Kind::Film, id);
        let country = COUNTRIES[zipf(&mut rng, COUNTRIES.len() as u64) as usize];
        let title = title(&mut rng);
        let adult_runtime = 60 + rng.random_range(0..90);
        Movie {
            movie_id: id,
            casts_info: self.cast(&mut rng, false),
            crews_info: self.crew(&mut rng, false),
            movie_detail: MovieDetail {
                id,
                original_title: Some(title.clone()),
                title: Some(title),
                original_language: Some(country.2.to_owned()),
                overview: overview(&mut rng),
                tagline: chance(&mut rng, 0.6).then(|| sentence(&mut rng, 6)),
                popularity: Some(popularity(&mut rng)),
                release_date: date(&mut rng),
                runtime: Some(adult_runtime),
                budget: Some(if chance(&mut rng, 0.2) { rng.random_range(1..3000) * 100_000 } else { 0 }),
                revenue: Some(if chance(&mut rng, 0.2) { rng.random_range(1..9000) * 100_000 } else { 0 }),
                status: Some("Released".to_owned()),
                vote_average: Some(f64::from(rng.random_range(20..95_u32)) / 10.0),
                vote_count: Some(long_tail(&mut rng, 60.0, 1.6, 40_000) as i64),
                homepage: None,
                genres: terms(&mut rng, GENRES.len() as u64, 2.2, 5, |n| GENRES[n as usize].to_owned()),
                keywords: terms(&mut rng, KEYWORDS, 4.0, 30, keyword),
                production_countries: vec![Country { iso_3166_1: country.0.to_owned(), name: country.1.to_owned() }],
                production_companies: terms(&mut rng, COMPANIES, 2.0, 8, company),
                spoken_languages: vec![Language { iso_639_1: country.2.to_owned(), name: country.3.to_owned() }],
            },
        }
    }

    /// The person of an id.
    pub(super) fn person(&self, id: i64) -> Person {
        let mut rng = self.stream(Kind::Person, id);
        let face = self.face(id);
        let biography = chance(&mut rng, 0.15).then(|| text(&mut rng, 40.0));
        let born = chance(&mut rng, 0.4).then(|| day(&mut rng, 1860, 2005));
        Person {
            person_id: id,
            person_detail: PersonDetail {
                id,
                name: Some(face.name),
                gender: Some(face.gender),
                biography,
                birthday: born,
                deathday: None,
                place_of_birth: chance(&mut rng, 0.3).then(|| name(&mut rng)),
                known_for_department: Some(face.department.to_owned()),
                popularity: Some(popularity(&mut rng)),
                also_known_as: Vec::new(),
            },
        }
    }

    /// The series of an id.
    pub(super) fn series(&self, id: i64) -> Series {
        let mut rng = self.stream(Kind::Series, id);
        let country = COUNTRIES[zipf(&mut rng, COUNTRIES.len() as u64) as usize];
        let title = title(&mut rng);
        let seasons: Vec<Season> = (1..=1 + long_tail(&mut rng, 2.0, 0.8, 40) as i64)
            .map(|number| Season {
                id: id * 100 + number,
                season_number: number,
                name: Some(format!("Season {number}")),
                overview: None,
                air_date: date(&mut rng),
                episode_count: Some(rng.random_range(4..30)),
            })
            .collect();
        let creator = self.draw(&mut rng);
        let face = self.face(creator);
        Series {
            tv_series_id: id,
            casts_info: self.cast(&mut rng, true),
            crews_info: self.crew(&mut rng, true),
            tv_series_detail: SeriesDetail {
                id,
                original_name: Some(title.clone()),
                name: Some(title),
                original_language: Some(country.2.to_owned()),
                overview: overview(&mut rng),
                tagline: chance(&mut rng, 0.3).then(|| sentence(&mut rng, 6)),
                popularity: Some(popularity(&mut rng)),
                first_air_date: date(&mut rng),
                last_air_date: date(&mut rng),
                number_of_seasons: Some(seasons.len() as i64),
                number_of_episodes: Some(seasons.iter().filter_map(|season| season.episode_count).sum()),
                episode_run_time: vec![rng.random_range(20..60)],
                status: Some("Ended".to_owned()),
                kind: Some("Scripted".to_owned()),
                in_production: Some(false),
                vote_average: Some(f64::from(rng.random_range(20..95_u32)) / 10.0),
                vote_count: Some(long_tail(&mut rng, 40.0, 1.5, 20_000) as i64),
                homepage: None,
                languages: vec![country.2.to_owned()],
                origin_country: vec![country.0.to_owned()],
                genres: terms(&mut rng, GENRES.len() as u64, 2.0, 5, |n| GENRES[n as usize].to_owned()),
                networks: terms(&mut rng, 400, 1.2, 4, company)
                    .into_iter()
                    .map(|Named { id, name }| Network { id, name, origin_country: Some(country.0.to_owned()) })
                    .collect(),
                production_companies: terms(&mut rng, COMPANIES, 1.5, 6, company),
                created_by: vec![Creator {
                    id: creator,
                    credit_id: Some(credit(&mut rng)),
                    name: face.name,
                    gender: Some(face.gender),
                }],
                keywords: terms(&mut rng, KEYWORDS, 3.0, 20, keyword),
                seasons,
            },
        }
    }

    fn stream(&self, kind: Kind, id: i64) -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(xxh3_64_with_seed(&id.to_le_bytes(), self.seed ^ (kind as u64) << 56))
    }

    /// A person's id by Zipf's law: the low ids are the stars.
    fn draw(&self, rng: &mut ChaCha8Rng) -> i64 {
        zipf(rng, self.people) as i64 + 1
    }

    /// What credits repeat of a person.
    fn face(&self, person: i64) -> Face {
        let mut rng = self.stream(Kind::Name, person);
        let department = match rng.random_range(0..10_u32) {
            0..=6 => "Acting",
            other => JOBS[other as usize - 7].1,
        };
        Face { name: format!("{} {}", name(&mut rng), name(&mut rng)), gender: rng.random_range(0..3), department }
    }

    fn cast(&self, rng: &mut ChaCha8Rng, series: bool) -> Vec<Cast> {
        let size = size(rng, self.cast_mean, 0.01);
        (0..size as i64)
            .map(|order| {
                let person_id = self.draw(rng);
                let face = self.face(person_id);
                Cast {
                    cast_id: Some(order + 1),
                    character: Some(name(rng)),
                    credit_id: credit(rng),
                    person_id,
                    name: Some(face.name),
                    order: Some(order),
                    gender: Some(face.gender),
                    known_for_department: Some(face.department.to_owned()),
                    episode_count: series.then(|| rng.random_range(1..100)),
                }
            })
            .collect()
    }

    fn crew(&self, rng: &mut ChaCha8Rng, series: bool) -> Vec<Crew> {
        let size = size(rng, self.crew_mean, 0.02);
        let mut rows: Vec<Crew> = Vec::with_capacity(size);
        for number in 0..size {
            // Every eighth job or so is done by the one who did the job before.
            let again = rows.last().map(|row| row.person_id).filter(|_| chance(rng, 0.12));
            let person_id = again.unwrap_or_else(|| self.draw(rng));
            let face = self.face(person_id);
            let (job, department) = JOBS[number % JOBS.len()];
            rows.push(Crew {
                credit_id: credit(rng),
                department: Some(department.to_owned()),
                job: Some(job.to_owned()),
                person_id,
                name: Some(face.name),
                gender: Some(face.gender),
                known_for_department: Some(face.department.to_owned()),
                episode_count: series.then(|| rng.random_range(1..100)),
            });
        }
        rows
    }
}

struct Face {
    name: String,
    gender: i64,
    department: &'static str,
}

/// The size of a list of credits with this mean; `none` of all are empty.
fn size(rng: &mut ChaCha8Rng, mean: f64, none: f64) -> usize {
    const SPREAD: f64 = 0.9;
    if chance(rng, none) {
        return 0;
    }
    // The mean of a log-normal is its median times exp(spread² / 2); rounding down costs half a credit.
    let median = (mean + 0.5) * (-SPREAD * SPREAD / 2.0).exp();
    (long_tail(rng, median, SPREAD, CREDITS_MAX as u64) as usize).max(1)
}

fn credit(rng: &mut ChaCha8Rng) -> String {
    format!("{:016x}{:08x}", rng.random::<u64>(), rng.random::<u32>())
}

fn popularity(rng: &mut ChaCha8Rng) -> f64 {
    long_tail(rng, 1500.0, 1.3, 1_000_000) as f64 / 1000.0
}

/// Different terms of a vocabulary, ids from 1, the common ones more often.
fn terms(rng: &mut ChaCha8Rng, vocabulary: u64, mean: f64, max: usize, name: impl Fn(u64) -> String) -> Vec<Named> {
    let count = if chance(rng, 0.03) { 0 } else { size(rng, mean, 0.0).min(max) };
    let mut drawn: Vec<u64> = Vec::with_capacity(count);
    for _ in 0..count {
        let term = zipf(rng, vocabulary);
        if !drawn.contains(&term) {
            drawn.push(term);
        }
    }
    drawn.into_iter().map(|term| Named { id: term as i64 + 1, name: name(term) }).collect()
}

/// One in a hundred is missing, one in three hundred is empty.
fn overview(rng: &mut ChaCha8Rng) -> Option<String> {
    match rng.random_range(0..300_u32) {
        0..=2 => None,
        3 => Some(String::new()),
        _ => Some(text(rng, 42.0)),
    }
}

/// Mostly of late; one in a hundred empty, one in five hundred missing.
fn date(rng: &mut ChaCha8Rng) -> Option<String> {
    match rng.random_range(0..500_u32) {
        0 => None,
        1..=5 => Some(String::new()),
        _ => {
            let years_ago = long_tail(rng, 14.0, 1.0, 120) as i64;
            Some(day(rng, 2024 - years_ago, 2024 - years_ago))
        }
    }
}

fn day(rng: &mut ChaCha8Rng, from: i64, to: i64) -> String {
    let year = rng.random_range(from..=to);
    format!("{year:04}-{:02}-{:02}", rng.random_range(1..=12), rng.random_range(1..=28))
}
