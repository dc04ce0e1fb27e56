//! The catalogue of `sample/`, built into the program, as full Silver rows. Knows the compact form of those files and no Delta.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::SampleError;
use super::rows::{
    Cast, Country, Creator, Crew, Language, Movie, MovieDetail, Named, Network, Person, PersonDetail, Season, Series,
    SeriesDetail,
};

const FILMS: &str = "films.json";
const SERIES: &str = "series.json";
const PEOPLE: &str = "people.json";
const VOCABULARY: &str = "vocabulary.json";

/// The sample's records.
#[derive(Debug, Clone)]
pub struct Catalogue {
    /// All films, those among them that only a crawl brings.
    pub films: Vec<Movie>,
    /// All series.
    pub series: Vec<Series>,
    /// Everybody of whom there is a record.
    pub people: Vec<Person>,
    /// Names, ids and the people without a record.
    pub vocabulary: Vocabulary,
}

/// Names and ids that the records share.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vocabulary {
    /// Genre to id.
    pub genres: BTreeMap<String, i64>,
    /// Keyword to id.
    pub keywords: BTreeMap<String, i64>,
    /// Production company to id.
    pub companies: BTreeMap<String, i64>,
    /// Network to id and country.
    pub networks: BTreeMap<String, (i64, String)>,
    /// ISO 3166-1 code to name.
    pub countries: BTreeMap<String, String>,
    /// ISO 639-1 code to name.
    pub languages: BTreeMap<String, String>,
    /// Job to department.
    pub jobs: BTreeMap<String, String>,
    /// People whom credits name and of whom there is no record: id, name, gender.
    pub unrecorded: Vec<(i64, String, i64)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Film {
    id: i64,
    title: String,
    original_title: String,
    language: String,
    release_date: String,
    runtime: i64,
    countries: Vec<String>,
    spoken: Vec<String>,
    genres: Vec<String>,
    keywords: Vec<String>,
    companies: Vec<String>,
    tagline: Option<String>,
    overview: String,
    budget: i64,
    popularity: f64,
    vote_average: f64,
    vote_count: i64,
    cast: Vec<CastEntry>,
    crew: Vec<CrewEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Show {
    id: i64,
    name: String,
    original_name: String,
    language: String,
    first_air_date: Option<String>,
    last_air_date: Option<String>,
    countries: Vec<String>,
    run_time: i64,
    status: String,
    #[serde(rename = "type")]
    kind: String,
    number_of_seasons: i64,
    number_of_episodes: Option<i64>,
    genres: Vec<String>,
    keywords: Vec<String>,
    networks: Vec<String>,
    companies: Vec<String>,
    created_by: Vec<(i64, String)>,
    tagline: Option<String>,
    overview: String,
    popularity: f64,
    vote_average: f64,
    vote_count: i64,
    cast: Vec<CastEntry>,
    crew: Vec<CrewEntry>,
    seasons: Vec<(i64, Option<String>, Option<i64>)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Somebody {
    id: i64,
    name: String,
    gender: i64,
    department: String,
    born: Option<String>,
    died: Option<String>,
    place: Option<String>,
    #[serde(default)]
    also: Vec<String>,
    popularity: f64,
    biography: Option<String>,
}

/// Person, name, character.
type CastEntry = (i64, String, String);
/// Person, name, jobs.
type CrewEntry = (i64, String, Vec<String>);

/// What credits repeat of a person: gender and department.
type Faces = HashMap<i64, (i64, Option<String>)>;

impl Catalogue {
    /// The catalogue that is built into the program.
    ///
    /// # Errors
    /// When a file of `sample/` does not parse or names something that the vocabulary lacks; the tests hold that none does.
    pub fn load() -> Result<Self, SampleError> {
        let films: Vec<Film> = parse(FILMS, include_str!("../../sample/films.json"))?;
        let shows: Vec<Show> = parse(SERIES, include_str!("../../sample/series.json"))?;
        let people: Vec<Somebody> = parse(PEOPLE, include_str!("../../sample/people.json"))?;
        let vocabulary: Vocabulary = parse(VOCABULARY, include_str!("../../sample/vocabulary.json"))?;
        let mut faces: Faces = people.iter().map(|p| (p.id, (p.gender, Some(p.department.clone())))).collect();
        faces.extend(vocabulary.unrecorded.iter().map(|(id, _, gender)| (*id, (*gender, None))));
        Ok(Self {
            films: films.into_iter().map(|f| film(f, &vocabulary, &faces)).collect::<Result<_, _>>()?,
            series: shows.into_iter().map(|s| series(s, &vocabulary, &faces)).collect::<Result<_, _>>()?,
            people: people.into_iter().map(person).collect(),
            vocabulary,
        })
    }
}

/// The identity of a credit: the first 24 hex digits of the SHA-256 of what it is about.
pub(super) fn credit_id(about: &str) -> String {
    let digest = Sha256::digest(about.as_bytes());
    digest.iter().take(12).fold(String::with_capacity(24), |mut id, byte| {
        // Writing to a string cannot fail.
        let _ = write!(id, "{byte:02x}");
        id
    })
}

fn parse<T: DeserializeOwned>(file: &'static str, text: &str) -> Result<T, SampleError> {
    serde_json::from_str(text).map_err(|source| SampleError::Catalogue { file, source })
}

fn unknown(file: &'static str, kind: &'static str, name: &str) -> SampleError {
    SampleError::Unknown { file, kind, name: name.to_owned() }
}

fn named(
    names: Vec<String>,
    ids: &BTreeMap<String, i64>,
    file: &'static str,
    kind: &'static str,
) -> Result<Vec<Named>, SampleError> {
    names
        .into_iter()
        .map(|name| {
            let id = *ids.get(&name).ok_or_else(|| unknown(file, kind, &name))?;
            Ok(Named { id, name })
        })
        .collect()
}

fn face(person: i64, name: &str, file: &'static str, faces: &Faces) -> Result<(i64, Option<String>), SampleError> {
    faces.get(&person).cloned().ok_or_else(|| unknown(file, "person", &format!("{person} {name}")))
}

/// Roles in billing order. `about` is the record: `film/31`. `series` rows have a column more, which stays null.
fn cast(entries: Vec<CastEntry>, about: &str, file: &'static str, faces: &Faces) -> Result<Vec<Cast>, SampleError> {
    entries
        .into_iter()
        .zip(0_i64..)
        .map(|((person_id, name, character), order)| {
            let (gender, department) = face(person_id, &name, file, faces)?;
            Ok(Cast {
                cast_id: Some(order + 1),
                credit_id: credit_id(&format!("{about}/cast/{person_id}/{character}")),
                character: Some(character),
                person_id,
                name: Some(name),
                order: Some(order),
                gender: Some(gender),
                known_for_department: department,
                episode_count: None,
            })
        })
        .collect()
}

/// Jobs, one row each.
fn crew(
    entries: Vec<CrewEntry>,
    about: &str,
    file: &'static str,
    jobs: &BTreeMap<String, String>,
    faces: &Faces,
) -> Result<Vec<Crew>, SampleError> {
    let mut rows = Vec::new();
    for (person_id, name, person_jobs) in entries {
        let (gender, known_for) = face(person_id, &name, file, faces)?;
        for job in person_jobs {
            let department = jobs.get(&job).ok_or_else(|| unknown(file, "job", &job))?;
            rows.push(Crew {
                credit_id: credit_id(&format!("{about}/crew/{person_id}/{job}")),
                department: Some(department.clone()),
                job: Some(job),
                person_id,
                name: Some(name.clone()),
                gender: Some(gender),
                known_for_department: known_for.clone(),
                episode_count: None,
            });
        }
    }
    Ok(rows)
}

fn film(film: Film, vocabulary: &Vocabulary, faces: &Faces) -> Result<Movie, SampleError> {
    let about = format!("film/{}", film.id);
    let countries = film.countries.into_iter().map(|code| {
        let name = vocabulary.countries.get(&code).ok_or_else(|| unknown(FILMS, "country", &code))?.clone();
        Ok(Country { iso_3166_1: code, name })
    });
    let languages = film.spoken.into_iter().map(|code| {
        let name = vocabulary.languages.get(&code).ok_or_else(|| unknown(FILMS, "language", &code))?.clone();
        Ok(Language { iso_639_1: code, name })
    });
    Ok(Movie {
        movie_id: film.id,
        casts_info: cast(film.cast, &about, FILMS, faces)?,
        crews_info: crew(film.crew, &about, FILMS, &vocabulary.jobs, faces)?,
        movie_detail: MovieDetail {
            id: film.id,
            title: Some(film.title),
            original_title: Some(film.original_title),
            original_language: Some(film.language),
            overview: Some(film.overview),
            tagline: film.tagline,
            popularity: Some(film.popularity),
            release_date: Some(film.release_date),
            runtime: Some(film.runtime),
            budget: Some(film.budget),
            revenue: Some(0),
            status: Some("Released".to_owned()),
            vote_average: Some(film.vote_average),
            vote_count: Some(film.vote_count),
            homepage: None,
            genres: named(film.genres, &vocabulary.genres, FILMS, "genre")?,
            keywords: named(film.keywords, &vocabulary.keywords, FILMS, "keyword")?,
            production_countries: countries.collect::<Result<_, SampleError>>()?,
            production_companies: named(film.companies, &vocabulary.companies, FILMS, "company")?,
            spoken_languages: languages.collect::<Result<_, SampleError>>()?,
        },
    })
}

fn series(show: Show, vocabulary: &Vocabulary, faces: &Faces) -> Result<Series, SampleError> {
    let about = format!("series/{}", show.id);
    let networks = show.networks.into_iter().map(|name| {
        let (id, country) = vocabulary.networks.get(&name).ok_or_else(|| unknown(SERIES, "network", &name))?;
        Ok(Network { id: *id, name, origin_country: Some(country.clone()) })
    });
    let created_by = show.created_by.into_iter().map(|(id, name)| {
        let (gender, _) = face(id, &name, SERIES, faces)?;
        let credit_id = Some(credit_id(&format!("{about}/created/{id}")));
        Ok(Creator { id, credit_id, name, gender: Some(gender) })
    });
    let seasons = show.seasons.into_iter().map(|(number, air_date, episode_count)| Season {
        id: show.id * 100 + number,
        season_number: number,
        name: Some(format!("Season {number}")),
        overview: None,
        air_date,
        episode_count,
    });
    Ok(Series {
        tv_series_id: show.id,
        casts_info: cast(show.cast, &about, SERIES, faces)?,
        crews_info: crew(show.crew, &about, SERIES, &vocabulary.jobs, faces)?,
        tv_series_detail: SeriesDetail {
            id: show.id,
            name: Some(show.name),
            original_name: Some(show.original_name),
            original_language: Some(show.language.clone()),
            overview: Some(show.overview),
            tagline: show.tagline,
            popularity: Some(show.popularity),
            first_air_date: show.first_air_date,
            last_air_date: show.last_air_date,
            number_of_seasons: Some(show.number_of_seasons),
            number_of_episodes: show.number_of_episodes,
            episode_run_time: vec![show.run_time],
            status: Some(show.status),
            kind: Some(show.kind),
            in_production: Some(false),
            vote_average: Some(show.vote_average),
            vote_count: Some(show.vote_count),
            homepage: None,
            languages: vec![show.language],
            origin_country: show.countries,
            genres: named(show.genres, &vocabulary.genres, SERIES, "genre")?,
            networks: networks.collect::<Result<_, SampleError>>()?,
            production_companies: named(show.companies, &vocabulary.companies, SERIES, "company")?,
            created_by: created_by.collect::<Result<_, SampleError>>()?,
            keywords: named(show.keywords, &vocabulary.keywords, SERIES, "keyword")?,
            seasons: seasons.collect(),
        },
    })
}

fn person(somebody: Somebody) -> Person {
    Person {
        person_id: somebody.id,
        person_detail: PersonDetail {
            id: somebody.id,
            name: Some(somebody.name),
            gender: Some(somebody.gender),
            biography: somebody.biography,
            birthday: somebody.born,
            deathday: somebody.died,
            place_of_birth: somebody.place,
            known_for_department: Some(somebody.department),
            popularity: Some(somebody.popularity),
            also_known_as: somebody.also,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Year, month and day, if it is a day of the calendar as a whole.
    fn is_day(date: &str) -> bool {
        let parts: Vec<Option<u32>> = date.split('-').map(|part| part.parse().ok()).collect();
        date.len() == 10
            && matches!(parts[..], [Some(1265..=2030), Some(month @ 1..=12), Some(day @ 1..=31)]
                if day <= match month { 2 => 29, 4 | 6 | 9 | 11 => 30, _ => 31 })
    }

    #[test]
    fn is_as_large_as_promised() {
        let catalogue = Catalogue::load().unwrap();
        assert!(catalogue.films.len() >= 62, "60 remain when two are held back: {}", catalogue.films.len());
        assert!(catalogue.series.len() >= 12);
        let with_biography = catalogue.people.iter().filter(|p| p.person_detail.biography.is_some()).count();
        assert!(with_biography >= 150, "{with_biography}");
        assert!(with_biography < catalogue.people.len(), "some have none");
    }

    #[test]
    fn ids_and_overviews_are_distinct() {
        let catalogue = Catalogue::load().unwrap();
        let films: HashSet<_> = catalogue.films.iter().map(|f| f.movie_id).collect();
        let people: HashSet<_> = catalogue.people.iter().map(|p| p.person_id).collect();
        let series: HashSet<_> = catalogue.series.iter().map(|s| s.tv_series_id).collect();
        assert_eq!(films.len(), catalogue.films.len());
        assert_eq!(people.len(), catalogue.people.len());
        assert_eq!(series.len(), catalogue.series.len());
        let overviews: Vec<_> = (catalogue.films.iter().map(|f| f.movie_detail.overview.clone()))
            .chain(catalogue.series.iter().map(|s| s.tv_series_detail.overview.clone()))
            .collect();
        assert!(overviews.iter().flatten().all(|text| text.len() > 120));
        assert_eq!(overviews.iter().collect::<HashSet<_>>().len(), films.len() + series.len());
        let biographies: Vec<_> = catalogue.people.iter().filter_map(|p| p.person_detail.biography.as_ref()).collect();
        assert_eq!(biographies.iter().collect::<HashSet<_>>().len(), biographies.len());
    }

    #[test]
    fn everyone_credited_has_a_record_or_is_named_as_without_one() {
        let catalogue = Catalogue::load().unwrap();
        let names: HashMap<i64, &str> = (catalogue.people.iter())
            .map(|p| (p.person_id, p.person_detail.name.as_deref().unwrap()))
            .chain(catalogue.vocabulary.unrecorded.iter().map(|(id, name, _)| (*id, name.as_str())))
            .collect();
        assert_eq!(names.len(), catalogue.people.len() + catalogue.vocabulary.unrecorded.len());
        let lists = (catalogue.films.iter().map(|f| (&f.casts_info, &f.crews_info)))
            .chain(catalogue.series.iter().map(|s| (&s.casts_info, &s.crews_info)));
        let mut credited = HashSet::new();
        for (cast, crew) in lists {
            let credits = (cast.iter().map(|c| (c.person_id, &c.name))).chain(crew.iter().map(|c| (c.person_id, &c.name)));
            for (id, name) in credits {
                assert_eq!(names.get(&id).copied(), name.as_deref(), "person {id}");
                credited.insert(id);
            }
        }
        for (id, name, _) in &catalogue.vocabulary.unrecorded {
            assert!(credited.contains(id), "{name} is listed and never credited");
        }
    }

    #[test]
    fn credit_ids_are_unique_and_of_24_hex_digits() {
        let catalogue = Catalogue::load().unwrap();
        let ids: Vec<&str> = (catalogue.films.iter())
            .flat_map(|f| f.casts_info.iter().map(|c| &c.credit_id).chain(f.crews_info.iter().map(|c| &c.credit_id)))
            .chain(
                catalogue
                    .series
                    .iter()
                    .flat_map(|s| s.casts_info.iter().map(|c| &c.credit_id).chain(s.crews_info.iter().map(|c| &c.credit_id))),
            )
            .map(String::as_str)
            .collect();
        assert!(ids.iter().all(|id| id.len() == 24 && id.bytes().all(|b| b.is_ascii_hexdigit())));
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len());
    }

    #[test]
    fn dates_parse_but_for_those_damaged_on_purpose() {
        let catalogue = Catalogue::load().unwrap();
        let damaged: Vec<_> = (catalogue.films.iter())
            .filter(|f| !f.movie_detail.release_date.as_deref().is_some_and(is_day))
            .map(|f| (f.movie_detail.title.as_deref().unwrap(), f.movie_detail.release_date.as_deref().unwrap()))
            .collect();
        assert_eq!(damaged, [("Dr. Jekyll and Mr. Hyde", ""), ("Steamboat Bill, Jr.", "1928-05-??")]);
        for person in &catalogue.people {
            let detail = &person.person_detail;
            for date in detail.birthday.iter().chain(&detail.deathday) {
                assert!(is_day(date), "{:?}: {date}", detail.name);
            }
            if let (Some(born), Some(died)) = (&detail.birthday, &detail.deathday) {
                assert!(born < died, "{:?}", detail.name);
            }
        }
        for series in &catalogue.series {
            let detail = &series.tv_series_detail;
            let seasons = detail.seasons.iter().filter_map(|s| s.air_date.as_ref());
            for date in detail.first_air_date.iter().chain(&detail.last_air_date).chain(seasons) {
                assert!(is_day(date), "{:?}: {date}", detail.name);
            }
        }
    }

    #[test]
    fn people_have_several_jobs_and_several_roles() {
        let catalogue = Catalogue::load().unwrap();
        let film = |title: &str| catalogue.films.iter().find(|f| f.movie_detail.title.as_deref() == Some(title)).unwrap();
        let by = |film: &Movie, name: &str| {
            let cast = film.casts_info.iter().filter(|c| c.name.as_deref() == Some(name)).count();
            let crew = film.crews_info.iter().filter(|c| c.name.as_deref() == Some(name)).count();
            (cast, crew)
        };
        assert_eq!(by(film("Sherlock Jr."), "Buster Keaton"), (2, 3));
        assert_eq!(by(film("City Lights"), "Charlie Chaplin"), (1, 5));
        assert_eq!(by(film("Metropolis"), "Brigitte Helm"), (2, 0));
        assert_eq!(by(film("The Great Train Robbery"), "Gilbert M. Anderson"), (3, 0));
    }
}
