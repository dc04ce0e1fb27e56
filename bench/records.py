"""What `mappings/tmdb.yaml` makes of series and people, said once more in Python, and of films (`films.py`): rows by key for each target.

Written from the mapping's meaning and apart from the engine, so that the number of operations that a change needs can be counted without
asking the engine.
"""

import films
from films import _date as date, _pick as pick


def elements(record, name, identity):
    """The elements of a list of a series' detail that have their identity."""
    return [e for e in record["tv_series_detail"].get(name) or [] if e is not None and e.get(identity) is not None]


def bridge(name, identity, *columns):
    """A table or relationship with a row for each element of a list."""
    return lambda record: {(record["tv_series_id"], e[identity]): pick(e, *columns) for e in elements(record, name, identity)}


def seasons(record):
    return {
        (record["tv_series_id"], e["id"]): (*pick(e, "season_number", "name", "overview", "episode_count"), date(e["air_date"]))
        for e in elements(record, "seasons", "id")
    }


def credits(name, columns):
    return lambda record: {(record["tv_series_id"], e["credit_id"]): pick(e, *columns) for e in record[name] or [] if e is not None}


def credit_relationships(name, columns):
    def rows(record):
        found = [e for e in record[name] or [] if e is not None and e["person_id"] is not None]
        return {(e["person_id"], record["tv_series_id"], e["credit_id"]): pick(e, *columns) for e in found}
    return rows


def series(record):
    detail = record["tv_series_detail"]
    columns = pick(detail, "name", "original_name", "original_language", "overview", "tagline", "number_of_seasons", "number_of_episodes",
                   "status", "type", "in_production", "homepage", "popularity", "vote_average", "vote_count")
    # A null list is an empty one there.
    lists = tuple(tuple(detail[name] or ()) for name in ("episode_run_time", "languages", "origin_country"))
    return {(record["tv_series_id"],): (*columns, *lists, date(detail["first_air_date"]), date(detail["last_air_date"]))}


def series_node(record):
    detail = record["tv_series_detail"]
    columns = pick(detail, "name", "original_name", "original_language", "tagline", "number_of_seasons", "number_of_episodes", "status", "type")
    return {(record["tv_series_id"],): (*columns, date(detail["first_air_date"]), date(detail["last_air_date"]))}


def series_titles(record):
    detail = record["tv_series_detail"]
    parts = [p for p in pick(detail, "name", "tagline", "overview") if p and p.strip(" ")]
    names = [g["name"] if g else None for g in detail["genres"]] if detail.get("genres") is not None else None
    genres = ", ".join(name for name in names or [] if name is not None)
    words = "\n".join(parts + ([genres] if genres else []))
    if not words.strip():
        return {}
    first = date(detail["first_air_date"])
    directors = [c["name"] for c in record["crews_info"] or [] if c and c["job"] == "Director"]
    directors = directors if record["crews_info"] is not None else None
    return {(record["tv_series_id"],): (words, (detail["name"], first.year if first else None, names, detail["original_language"], directors))}


def person(record):
    detail = record["person_detail"]
    columns = pick(detail, "name", "gender", "biography", "place_of_birth", "known_for_department", "popularity")
    return {(record["person_id"],): (*columns, date(detail["birthday"]), date(detail["deathday"]), tuple(detail["also_known_as"] or ()))}


def person_node(record):
    detail = record["person_detail"]
    columns = pick(detail, "name", "gender", "place_of_birth", "known_for_department")
    return {(record["person_id"],): (*columns, date(detail["birthday"]), date(detail["deathday"]))}


def biographies(record):
    detail = record["person_detail"]
    if not (detail["biography"] or "").strip(" "):
        return {}
    name = [detail["name"]] if (detail["name"] or "").strip(" ") else []
    return {(record["person_id"],): ("\n".join([*name, detail["biography"]]), pick(detail, "name", "known_for_department"))}


# Every target of the mapping, by table and (sink, target).
TARGETS = {
    "movies": films.TARGETS,
    "tv_series": {
        ("clickhouse", "tv_series"): series,
        ("clickhouse", "tv_series_cast"): credits("casts_info", (*films.CAST, "episode_count")),
        ("clickhouse", "tv_series_crew"): credits("crews_info", (*films.CREW, "episode_count")),
        ("clickhouse", "tv_series_genre"): bridge("genres", "id", "name"),
        ("clickhouse", "tv_series_keyword"): bridge("keywords", "id", "name"),
        ("clickhouse", "tv_series_company"): bridge("production_companies", "id", "name"),
        ("clickhouse", "tv_series_network"): bridge("networks", "id", "name", "origin_country"),
        ("clickhouse", "tv_series_season"): seasons,
        ("clickhouse", "tv_series_creator"): bridge("created_by", "id", "credit_id", "name", "gender"),
        ("graph", "TvSeries"): series_node,
        ("graph", "ACTED_IN"): credit_relationships("casts_info", ("name", "character", "order")),
        ("graph", "WORKED_ON"): credit_relationships("crews_info", ("name", "department", "job")),
        ("graph", "HAS_GENRE"): bridge("genres", "id", "name"),
        ("graph", "HAS_KEYWORD"): bridge("keywords", "id", "name"),
        ("graph", "PRODUCED_BY"): bridge("production_companies", "id", "name"),
        ("graph", "AIRED_ON"): bridge("networks", "id", "name"),
        ("graph", "CREATED"): bridge("created_by", "id", "credit_id", "name"),
        ("vectors", "titles"): series_titles,
    },
    "people": {
        ("clickhouse", "person"): person,
        ("graph", "Person"): person_node,
        ("vectors", "people"): biographies,
    },
}


def rows(table, target, records):
    """The rows of one target that these records make, by key."""
    return {key: row for record in records.values() for key, row in TARGETS[table][target](record).items()}


def needed(table, before, after):
    """How many rows of each target differ between two states of a table (records by key), by (sink, target)."""
    counts = {}
    for target in TARGETS[table]:
        old, new = rows(table, target, before), rows(table, target, after)
        counts[target] = sum(old.get(key) != new.get(key) for key in old.keys() | new.keys())
    return counts


def texts(table, records):
    """The distinct texts of the points that these records make."""
    return {row[0] for target in TARGETS[table] if target[0] == "vectors" for row in rows(table, target, records).values()}
