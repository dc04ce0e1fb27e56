//! The Arrow schemas of the three Silver tables. Column order and types are those of the Silver schema; every column may be null.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};

/// A Silver table of the sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Table {
    /// Films.
    Movies,
    /// People.
    People,
    /// Series.
    TvSeries,
}

impl Table {
    /// All of them, in the order in which a lake is written.
    pub const ALL: [Table; 3] = [Table::Movies, Table::People, Table::TvSeries];

    /// The table's name, which is its directory under the lake's root.
    pub fn name(self) -> &'static str {
        match self {
            Table::Movies => "movies",
            Table::People => "people",
            Table::TvSeries => "tv_series",
        }
    }

    /// The key column.
    pub fn key(self) -> &'static str {
        match self {
            Table::Movies => "movie_id",
            Table::People => "person_id",
            Table::TvSeries => "tv_series_id",
        }
    }

    /// The table's schema.
    pub fn schema(self) -> SchemaRef {
        let fields = match self {
            Table::Movies => vec![
                int("movie_id"),
                list("casts_info", cast(false)),
                list("crews_info", crew(false)),
                field("movie_detail", movie_detail()),
            ],
            Table::People => vec![int("person_id"), field("person_detail", person_detail())],
            Table::TvSeries => vec![
                int("tv_series_id"),
                list("casts_info", cast(true)),
                list("crews_info", crew(true)),
                field("tv_series_detail", series_detail()),
            ],
        };
        Arc::new(Schema::new(fields))
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The names of a struct column's fields; none if the column is no struct.
pub(super) fn struct_fields(table: Table, column: &str) -> Vec<String> {
    match table.schema().field_with_name(column).map(Field::data_type) {
        Ok(DataType::Struct(fields)) => fields.iter().map(|field| field.name().clone()).collect(),
        _ => Vec::new(),
    }
}

fn field(name: &str, kind: DataType) -> Field {
    Field::new(name, kind, true)
}

fn int(name: &str) -> Field {
    field(name, DataType::Int64)
}

fn text(name: &str) -> Field {
    field(name, DataType::Utf8)
}

fn float(name: &str) -> Field {
    field(name, DataType::Float64)
}

/// A list; its elements are called `element`, as Delta calls them.
fn list(name: &str, element: DataType) -> Field {
    field(name, DataType::List(Arc::new(field("element", element))))
}

fn record(fields: Vec<Field>) -> DataType {
    DataType::Struct(Fields::from(fields))
}

fn id_name() -> DataType {
    record(vec![int("id"), text("name")])
}

fn cast(series: bool) -> DataType {
    let mut fields = vec![
        int("cast_id"),
        text("character"),
        text("credit_id"),
        int("person_id"),
        text("name"),
        int("order"),
        int("gender"),
        text("known_for_department"),
    ];
    if series {
        fields.push(int("episode_count"));
    }
    record(fields)
}

fn crew(series: bool) -> DataType {
    let mut fields = vec![
        text("credit_id"),
        text("department"),
        text("job"),
        int("person_id"),
        text("name"),
        int("gender"),
        text("known_for_department"),
    ];
    if series {
        fields.push(int("episode_count"));
    }
    record(fields)
}

fn movie_detail() -> DataType {
    record(vec![
        int("id"),
        text("title"),
        text("original_title"),
        text("original_language"),
        text("overview"),
        text("tagline"),
        float("popularity"),
        text("release_date"),
        int("runtime"),
        int("budget"),
        int("revenue"),
        text("status"),
        float("vote_average"),
        int("vote_count"),
        text("homepage"),
        list("genres", id_name()),
        list("keywords", id_name()),
        list("production_countries", record(vec![text("iso_3166_1"), text("name")])),
        list("production_companies", id_name()),
        list("spoken_languages", record(vec![text("iso_639_1"), text("name")])),
    ])
}

fn person_detail() -> DataType {
    record(vec![
        int("id"),
        text("name"),
        int("gender"),
        text("biography"),
        text("birthday"),
        text("deathday"),
        text("place_of_birth"),
        text("known_for_department"),
        float("popularity"),
        list("also_known_as", DataType::Utf8),
    ])
}

fn series_detail() -> DataType {
    record(vec![
        int("id"),
        text("name"),
        text("original_name"),
        text("original_language"),
        text("overview"),
        text("tagline"),
        float("popularity"),
        text("first_air_date"),
        text("last_air_date"),
        int("number_of_seasons"),
        int("number_of_episodes"),
        list("episode_run_time", DataType::Int64),
        text("status"),
        text("type"),
        field("in_production", DataType::Boolean),
        float("vote_average"),
        int("vote_count"),
        text("homepage"),
        list("languages", DataType::Utf8),
        list("origin_country", DataType::Utf8),
        list("genres", id_name()),
        list("networks", record(vec![int("id"), text("name"), text("origin_country")])),
        list("production_companies", id_name()),
        list("created_by", record(vec![int("id"), text("credit_id"), text("name"), int("gender")])),
        list("keywords", id_name()),
        list("seasons", season()),
    ])
}

fn season() -> DataType {
    record(vec![int("id"), int("season_number"), text("name"), text("overview"), text("air_date"), int("episode_count")])
}
