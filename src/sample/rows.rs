//! Rows of the three Silver tables, as plain structs. Field names are the tables' column names; knows no Delta and no file.

use serde::{Deserialize, Serialize};

/// An id with a name: a genre, a keyword, a company.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// Id.
    pub id: i64,
    /// Name.
    pub name: String,
}

/// A country of production.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Country {
    /// ISO 3166-1 code of two letters.
    pub iso_3166_1: String,
    /// Name in English.
    pub name: String,
}

/// A spoken language.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Language {
    /// ISO 639-1 code of two letters; `xx` where nobody speaks.
    pub iso_639_1: String,
    /// Name of the language in itself.
    pub name: String,
}

/// One role of one person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cast {
    /// Number of the entry in its record.
    pub cast_id: Option<i64>,
    /// The role.
    pub character: Option<String>,
    /// Identity of the credit: 24 hex digits.
    pub credit_id: String,
    /// Who.
    pub person_id: i64,
    /// The person's name as credited.
    pub name: Option<String>,
    /// Place in the billing, from 0.
    pub order: Option<i64>,
    /// 1 female, 2 male, 0 not known.
    pub gender: Option<i64>,
    /// What the person is best known for.
    pub known_for_department: Option<String>,
    /// Series only: number of episodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub episode_count: Option<i64>,
}

/// One job of one person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crew {
    /// Identity of the credit: 24 hex digits.
    pub credit_id: String,
    /// Department of the job.
    pub department: Option<String>,
    /// The job.
    pub job: Option<String>,
    /// Who.
    pub person_id: i64,
    /// The person's name as credited.
    pub name: Option<String>,
    /// 1 female, 2 male, 0 not known.
    pub gender: Option<i64>,
    /// What the person is best known for.
    pub known_for_department: Option<String>,
    /// Series only: number of episodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub episode_count: Option<i64>,
}

/// A row of `movies`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Movie {
    /// Key.
    pub movie_id: i64,
    /// Roles in billing order.
    pub casts_info: Vec<Cast>,
    /// Jobs.
    pub crews_info: Vec<Crew>,
    /// The rest.
    pub movie_detail: MovieDetail,
}

/// `movie_detail` of [`Movie`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are those of the Silver schema, which says what they are")]
pub struct MovieDetail {
    pub id: i64,
    pub title: Option<String>,
    pub original_title: Option<String>,
    pub original_language: Option<String>,
    pub overview: Option<String>,
    pub tagline: Option<String>,
    pub popularity: Option<f64>,
    pub release_date: Option<String>,
    pub runtime: Option<i64>,
    pub budget: Option<i64>,
    pub revenue: Option<i64>,
    pub status: Option<String>,
    pub vote_average: Option<f64>,
    pub vote_count: Option<i64>,
    pub homepage: Option<String>,
    pub genres: Vec<Named>,
    pub keywords: Vec<Named>,
    pub production_countries: Vec<Country>,
    pub production_companies: Vec<Named>,
    pub spoken_languages: Vec<Language>,
}

/// A row of `people`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Person {
    /// Key.
    pub person_id: i64,
    /// The rest.
    pub person_detail: PersonDetail,
}

/// `person_detail` of [`Person`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are those of the Silver schema, which says what they are")]
pub struct PersonDetail {
    pub id: i64,
    pub name: Option<String>,
    pub gender: Option<i64>,
    pub biography: Option<String>,
    pub birthday: Option<String>,
    pub deathday: Option<String>,
    pub place_of_birth: Option<String>,
    pub known_for_department: Option<String>,
    pub popularity: Option<f64>,
    pub also_known_as: Vec<String>,
}

/// A row of `tv_series`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// Key.
    pub tv_series_id: i64,
    /// Roles in billing order.
    pub casts_info: Vec<Cast>,
    /// Jobs.
    pub crews_info: Vec<Crew>,
    /// The rest.
    pub tv_series_detail: SeriesDetail,
}

/// `tv_series_detail` of [`Series`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are those of the Silver schema, which says what they are")]
pub struct SeriesDetail {
    pub id: i64,
    pub name: Option<String>,
    pub original_name: Option<String>,
    pub original_language: Option<String>,
    pub overview: Option<String>,
    pub tagline: Option<String>,
    pub popularity: Option<f64>,
    pub first_air_date: Option<String>,
    pub last_air_date: Option<String>,
    pub number_of_seasons: Option<i64>,
    pub number_of_episodes: Option<i64>,
    pub episode_run_time: Vec<i64>,
    pub status: Option<String>,
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub in_production: Option<bool>,
    pub vote_average: Option<f64>,
    pub vote_count: Option<i64>,
    pub homepage: Option<String>,
    pub languages: Vec<String>,
    pub origin_country: Vec<String>,
    pub genres: Vec<Named>,
    pub networks: Vec<Network>,
    pub production_companies: Vec<Named>,
    pub created_by: Vec<Creator>,
    pub keywords: Vec<Named>,
    pub seasons: Vec<Season>,
}

/// Who showed a series.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Id.
    pub id: i64,
    /// Name.
    pub name: String,
    /// ISO 3166-1 code of two letters.
    pub origin_country: Option<String>,
}

/// Who thought a series up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Creator {
    /// Id of the person.
    pub id: i64,
    /// Identity of the credit.
    pub credit_id: Option<String>,
    /// Name.
    pub name: String,
    /// 1 female, 2 male, 0 not known.
    pub gender: Option<i64>,
}

/// A season of a series.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Season {
    /// Id.
    pub id: i64,
    /// Number from 1.
    pub season_number: i64,
    /// Name.
    pub name: Option<String>,
    /// What happens in it.
    pub overview: Option<String>,
    /// First day.
    pub air_date: Option<String>,
    /// Number of episodes.
    pub episode_count: Option<i64>,
}
