"""A Silver lake that Spark writes: INT for BIGINT, other orders of columns and fields, a column that nobody reads, and what Spark does to tables.

Run by `spark.sh`, which names in the environment:

    SPARK_JARS      the directory of Delta's jars
    LAKE_PROGRAM    the program under test
"""

import os
import tempfile
from pathlib import Path

from pyspark.sql import SparkSession
from pyspark.sql import functions as f
from pyspark.sql.types import ArrayType, LongType, StructType

from program import Program, check, operations, say, strategies

KEYS = {"movies": "movie_id", "people": "person_id", "tv_series": "tv_series_id"}
PROPERTIES = {
    "movies": {"delta.enableDeletionVectors": "true"},
    "people": {"delta.checkpointPolicy": "v2", "delta.checkpointInterval": "5"},
    "tv_series": {"delta.enableRowTracking": "true"},
}


def start():
    jars = ",".join(str(path) for path in sorted(Path(os.environ["SPARK_JARS"]).glob("*.jar")))
    options = {
        "spark.jars": jars,
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.databricks.delta.retentionDurationCheck.enabled": "false",
        # As small as the tables are.
        "spark.driver.memory": "1500m", "spark.sql.shuffle.partitions": "2", "spark.databricks.delta.snapshotPartitions": "2",
        "spark.ui.enabled": "false", "spark.ui.showConsoleProgress": "false",
    }
    builder = SparkSession.builder.master("local[2]")
    for name, value in options.items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("FATAL")
    return spark


def as_spark_has_it(rows):
    """The rows of a table of the sample as a Spark job would keep them."""

    def converted(column, kind):
        if isinstance(kind, StructType):
            fields = [converted(column[field.name], field.dataType).alias(field.name) for field in reversed(kind.fields)]
            return f.when(column.isNotNull(), f.struct(*fields))
        if isinstance(kind, ArrayType):
            return f.transform(column, lambda element: converted(element, kind.elementType))
        return column.cast("int") if isinstance(kind, LongType) else column

    columns = [converted(f.col(field.name), field.dataType).alias(field.name) for field in reversed(rows.schema.fields)]
    return rows.select(f.current_timestamp().alias("_ingested"), *columns)


class Lake:
    """The lake, and what is done to it."""

    def __init__(self, spark, root, sample):
        self.spark, self.root, self.sample = spark, root, sample

    def sampled(self, table):
        return as_spark_has_it(self.spark.read.format("delta").load(str(self.sample / table)))

    def create(self, table):
        writer = self.sampled(table).write.format("delta").option("delta.enableChangeDataFeed", "true")
        writer.options(**PROPERTIES[table]).save(str(self.root / table))

    def sql(self, statement):
        """Runs a statement, in which `movies` in braces stands for that table."""
        return self.spark.sql(statement.format(**{table: f"delta.`{self.root / table}`" for table in KEYS}))

    def merge(self, table):
        """Makes the table what the sample is now, by one MERGE."""
        key = KEYS[table]
        # Of two records of one key MERGE takes none.
        source = self.sampled(table).dropDuplicates([key])
        source.createOrReplaceTempView("source")
        differs = " OR ".join(f"NOT (t.{name} <=> s.{name})" for name in source.columns if name not in ("_ingested", key))
        self.sql(
            f"MERGE INTO {{{table}}} t USING source s ON t.{key} = s.{key} WHEN MATCHED AND ({differs}) THEN UPDATE SET * "
            "WHEN NOT MATCHED THEN INSERT * WHEN NOT MATCHED BY SOURCE THEN DELETE"
        )

    def count(self, where):
        return self.sql(f"SELECT count(*) FROM {{movies}} WHERE {where}").first()[0]


def sent(report):
    """What was sent to each target that was sent something."""
    targets = {f"{t['sink']}/{t['target']}": (t["upserts"], t["deletes"]) for table in report["tables"] for t in table["targets"]}
    return {name: counts for name, counts in targets.items() if any(counts)}


def strategy(report, table):
    return next(entry["strategy"] for entry in report["tables"] if entry["table"] == table)


def delivered(program):
    """Syncs and compares every target with the lake. What the sync reported."""
    report = program.sync()
    program.verify()
    return report


def a_lake_is_synced_and_crawled(program, lake):
    first = delivered(program)
    check(set(strategies(first).values()) == {"snapshot"}, f"the first sync read by {strategies(first)}")
    check(operations(program.sync()) == 0, "the second sync sent something")
    program.run("sample", lake.sample, "--crawl")
    for table in KEYS:
        lake.merge(table)
    crawl = delivered(program)
    check(strategies(crawl) == {"movies": "feed", "people": "feed"}, f"the crawl was read by {strategies(crawl)}")
    check(operations(program.sync()) == 0, "the third sync sent something")
    say(f"a first sync of {operations(first)} operations, a crawl by MERGE of {operations(crawl)}; the third sync sends nothing")


def what_changes_no_content_sends_nothing(program, lake):
    for what, statement in {
        "OPTIMIZE": "OPTIMIZE {movies}",
        "OPTIMIZE … ZORDER": "OPTIMIZE {people} ZORDER BY (person_id)",
        "an UPDATE of a column that no target reads": "UPDATE {movies} SET _ingested = current_timestamp()",
        "REORG … PURGE": "REORG TABLE {movies} APPLY (PURGE)",
    }.items():
        lake.sql(statement)
        report = delivered(program)
        check(operations(report) == 0, f"after {what} the sync sent {sent(report)}")
    rows = lake.spark.read.format("delta").load(str(lake.root / "movies")).localCheckpoint()
    rows.write.format("delta").mode("overwrite").save(str(lake.root / "movies"))
    report = delivered(program)
    check(operations(report) == 0, f"after an overwrite with equal rows the sync sent {sent(report)}")
    say("OPTIMIZE, REORG, an unread column and an overwrite with equal rows send nothing")


def changes_are_sent_alone(program, lake):
    some, few = lake.count("movie_id % 3 = 0"), lake.count("movie_id % 20 = 1")
    check(some > few > 0, f"the sample has {some} and {few} of such films")
    lake.sql("UPDATE {movies} SET movie_detail.popularity = movie_detail.popularity + 1 WHERE movie_id % 3 = 0")
    report = delivered(program)
    check(sent(report) == {"clickhouse/movie": (some, 0)}, f"{some} popularities were sent as {sent(report)}")
    lake.sql("DELETE FROM {movies} WHERE movie_id % 20 = 1")
    gone = delivered(program)
    check(sent(gone)["graph/Movie"] == (0, few), f"{few} deletes were sent as {sent(gone)}")
    version = lake.sql("DESCRIBE HISTORY {movies}").first()["version"]
    lake.sql(f"RESTORE {{movies}} TO VERSION AS OF {version - 1}")
    back = delivered(program)
    mirrored = {name: (deletes, upserts) for name, (upserts, deletes) in sent(gone).items()}
    check(sent(back) == mirrored, f"what RESTORE brought back was sent as {sent(back)}, not {mirrored}")
    lake.sql("ALTER TABLE {movies} ADD COLUMNS (batch STRING)")
    lake.sql("UPDATE {movies} SET batch = 'x', movie_detail.tagline = 'New' WHERE movie_id % 3 = 0")
    report = delivered(program)
    check(sent(report).get("clickhouse/movie") == (some, 0), f"{some} taglines were sent as {sent(report)}")
    say("an update, deletes by deletion vectors, RESTORE and an added column send what changed alone")


def many_versions_and_a_gap(program, lake):
    for part in range(7):
        lake.sql(f"UPDATE {{people}} SET person_detail.popularity = 1.5 WHERE person_id % 7 = {part}")
    log = lake.root / "people" / "_delta_log"
    check(list((log / "_sidecars").iterdir()), "Spark wrote no checkpoint of version 2")
    report = delivered(program)
    check(strategy(report, "people") == "feed", f"seven versions were read by {strategy(report, 'people')}")
    lake.sql("UPDATE {people} SET person_detail.popularity = 2.5 WHERE person_id % 7 = 1")
    lake.sql("VACUUM {people} RETAIN 0 HOURS")
    report = program.sync(code=3, DISTRIBUTARY_SOURCE_ON_GAP="stop")
    errors = {target["error"] for table in report["tables"] for target in table["targets"] if target.get("error")}
    check(errors and all("VACUUM" in error for error in errors), f"the gap was told as {errors}")
    changed = lake.spark.read.format("delta").load(str(lake.root / "people")).where("person_id % 7 = 1").count()
    report = delivered(program)
    check(strategy(report, "people") == "snapshot", f"what VACUUM left was read by {strategy(report, 'people')}")
    check(sent(report) == {"clickhouse/person": (changed, 0)}, f"{changed} popularities were sent as {sent(report)}")
    say("versions over a checkpoint with sidecars are read by the feed, what VACUUM took is told and read around")


def column_mapping_is_read(program, lake):
    # The feed of such a table cannot be read by delta-rs: two snapshots are compared.
    lake.sql("ALTER TABLE {movies} SET TBLPROPERTIES ('delta.columnMapping.mode' = 'name')")
    changed = lake.count("movie_id % 5 = 1")
    lake.sql("UPDATE {movies} SET movie_detail.tagline = 'Mapped' WHERE movie_id % 5 = 1")
    report = delivered(program)
    check(strategy(report, "movies") == "diff", f"a table with column mapping was read by {strategy(report, 'movies')}")
    check(sent(report).get("clickhouse/movie") == (changed, 0), f"{changed} taglines were sent as {sent(report)}")
    lake.sql("ALTER TABLE {movies} RENAME COLUMN crews_info TO crew")
    _, err = program.run("sync", code=2)
    check("movie_crew" in err and "crews_info" in err, f"a column that was renamed: {err}")
    lake.sql("ALTER TABLE {movies} RENAME COLUMN crew TO crews_info")
    check(operations(delivered(program)) == 0, "a column that was renamed and is back sent something")
    say("a table with column mapping is compared by snapshots; a renamed column is named")


def main():
    spark = start()
    with tempfile.TemporaryDirectory(prefix="distributary-spark-") as home:
        home = Path(home)
        lake = Lake(spark, home / "lake", home / "sample")
        program = Program(home / "program", lake.root)
        program.run("sample", lake.sample)
        for table in KEYS:
            lake.create(table)
        print(f"a lake that Spark {spark.version} wrote")
        a_lake_is_synced_and_crawled(program, lake)
        what_changes_no_content_sends_nothing(program, lake)
        changes_are_sent_alone(program, lake)
        many_versions_and_a_gap(program, lake)
        column_mapping_is_read(program, lake)
    spark.stop()
    print("spark: passed")


if __name__ == "__main__":
    main()
