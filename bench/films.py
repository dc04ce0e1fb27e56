"""What `mappings/tmdb.yaml` makes of a film, said once more in Python: rows by key for each target.

Written from the mapping's meaning and apart from the engine, so that the number of operations that a crawl needs can be counted without
asking the engine. Two tables of rows differ in exactly the rows that have to be sent.
"""

import datetime


def _date(text):
    """`try_cast(text AS DATE)`."""
    try:
        return datetime.date.fromisoformat(text.strip()[:10]) if text else None
    except ValueError:
        return None


def _pick(item, *names):
    return tuple(item.get(name) for name in names)


def _elements(record, name, identity):
    """The elements of a list of the record's detail that have their identity."""
    return [e for e in record["movie_detail"].get(name) or [] if e is not None and e.get(identity) is not None]


def _bridge(name, identity):
    """A table with a row for each element of a list."""
    def rows(record):
        return {(record["movie_id"], e[identity]): (e.get("name"),) for e in _elements(record, name, identity)}
    return rows


def _movie(record):
    detail = record["movie_detail"]
    released = _date(detail["release_date"])
    columns = _pick(detail, "title", "original_title", "original_language", "overview", "tagline", "runtime", "budget", "revenue", "status",
                    "homepage", "popularity", "vote_average", "vote_count")
    dates = (released if released and released.year >= 1900 else None, released.year if released else None)
    return {(record["movie_id"],): columns + dates}


def _movie_node(record):
    detail = record["movie_detail"]
    columns = _pick(detail, "title", "original_title", "original_language", "tagline", "runtime", "status")
    return {(record["movie_id"],): (*columns, _date(detail["release_date"]))}


CAST = ("person_id", "cast_id", "character", "name", "order", "gender", "known_for_department")
CREW = ("person_id", "department", "job", "name", "gender", "known_for_department")


def _credits(name, columns):
    """A table with a row for each credit."""
    def rows(record):
        return {(record["movie_id"], e["credit_id"]): _pick(e, *columns) for e in record[name] or [] if e is not None}
    return rows


def _credit_relationships(name, columns):
    """A relationship for each credit: its identity is both ends and the credit."""
    def rows(record):
        credits = [e for e in record[name] or [] if e is not None and e["person_id"] is not None]
        return {(e["person_id"], record["movie_id"], e["credit_id"]): _pick(e, *columns) for e in credits}
    return rows


def text(record):
    """The text of a film's point: title, tagline, overview and genres, one a line, empty parts left out."""
    detail = record["movie_detail"]
    parts = [p for p in _pick(detail, "title", "tagline", "overview") if p and p.strip(" ")]
    genres = ", ".join(g["name"] for g in detail.get("genres") or [] if g and g["name"] is not None)
    return "\n".join(parts + ([genres] if genres else []))


def _titles(record):
    detail, words = record["movie_detail"], text(record)
    if not words.strip():
        return {}
    released = _date(detail["release_date"])
    directors = [c["name"] for c in record["crews_info"] or [] if c and c["job"] == "Director"]
    genres = [g["name"] if g else None for g in detail["genres"]] if detail.get("genres") is not None else None
    payload = (detail["title"], released.year if released else None, genres, detail["original_language"], directors)
    return {(record["movie_id"],): (words, payload)}


# Every target of the films' block of the mapping, by (sink, target).
TARGETS = {
    ("clickhouse", "movie"): _movie,
    ("clickhouse", "movie_cast"): _credits("casts_info", CAST),
    ("clickhouse", "movie_crew"): _credits("crews_info", CREW),
    ("clickhouse", "movie_genre"): _bridge("genres", "id"),
    ("clickhouse", "movie_keyword"): _bridge("keywords", "id"),
    ("clickhouse", "movie_company"): _bridge("production_companies", "id"),
    ("clickhouse", "movie_country"): _bridge("production_countries", "iso_3166_1"),
    ("clickhouse", "movie_language"): _bridge("spoken_languages", "iso_639_1"),
    ("graph", "Movie"): _movie_node,
    ("graph", "ACTED_IN"): _credit_relationships("casts_info", ("name", "character", "order")),
    ("graph", "WORKED_ON"): _credit_relationships("crews_info", ("name", "department", "job")),
    ("graph", "HAS_GENRE"): _bridge("genres", "id"),
    ("graph", "HAS_KEYWORD"): _bridge("keywords", "id"),
    ("graph", "PRODUCED_BY"): _bridge("production_companies", "id"),
    ("vectors", "titles"): _titles,
}


def needed(before, after):
    """How many rows of each target differ between two states of the films (records by key), by (sink, target)."""
    counts = {}
    for target, rows in TARGETS.items():
        old = {key: row for record in before.values() for key, row in rows(record).items()}
        new = {key: row for record in after.values() for key, row in rows(record).items()}
        counts[target] = sum(old.get(key) != new.get(key) for key in old.keys() | new.keys())
    return counts


def texts(films):
    """The distinct texts of these films' points."""
    return {row[0] for record in films.values() for row in _titles(record).values()}
