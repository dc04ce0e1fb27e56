"""The official Python client against the front of tests/fronts/clickhouse.rs.

That the front speaks ClickHouse's protocol, and not our reading of it, is shown by a client that was written for the server: tables made,
rows inserted one by one and as Arrow, read in its native format and as Arrow, with parameters, external data, settings, a session, and
errors with their numbers.

    python clickhouse.py http://127.0.0.1:PORT
"""

import datetime
import sys
from urllib.parse import urlsplit

import clickhouse_connect
import pyarrow as pa
from clickhouse_connect.driver.exceptions import DatabaseError
from clickhouse_connect.driver.external import ExternalData

USER, PASSWORD = "writer", "p&ss=w/rd+%41"


def connected(address, **more):
    at = urlsplit(address)
    return clickhouse_connect.get_client(host=at.hostname, port=at.port, compress=False, **more)


def refused(code, work):
    """Runs what has to fail with this number of an error."""
    try:
        work()
    except DatabaseError as error:
        assert f"{code}" in str(error), error
        return
    raise AssertionError(f"nothing failed, code {code} was to come")


def tables_and_rows(client):
    client.command("CREATE DATABASE IF NOT EXISTS scenario")
    client.command(
        "CREATE TABLE scenario.film (id Int64, title String, year Nullable(UInt16), tags Array(String), day Date32, at DateTime64(6, 'UTC')) "
        "ENGINE = ReplacingMergeTree ORDER BY id"
    )
    day, at = datetime.date(1915, 2, 8), datetime.datetime(1999, 12, 31, 23, 59, 59, 123456)
    rows = [[1, "A 'quoted' \\ title\0", 1927, ["a", ""], day, at], [2, "שלום 🎬", None, [], day, at]]
    client.insert("film", rows, column_names=["id", "title", "year", "tags", "day", "at"], database="scenario")
    found = client.query("SELECT * FROM scenario.film ORDER BY id")
    assert [list(row[:5]) for row in found.result_rows] == [row[:5] for row in rows], found.result_rows
    assert found.column_names == ("id", "title", "year", "tags", "day", "at")
    assert client.query("SELECT count() FROM scenario.film").first_item["count()"] == 2


def arrow(client):
    client.command("CREATE TABLE scenario.number (id Int64, text String) ENGINE = MergeTree ORDER BY id")
    table = pa.table({"id": pa.array(range(100_000), pa.int64()), "text": [f"text {n}" for n in range(100_000)]})
    client.insert_arrow("scenario.number", table)
    back = client.query_arrow("SELECT id, text FROM scenario.number ORDER BY id", use_strings=True)
    assert back.column("id").to_pylist() == table.column("id").to_pylist()
    assert back.column("text").to_pylist()[-1] == "text 99999"


def parameters_settings_and_sessions(client):
    found = client.query("SELECT title FROM scenario.film WHERE id = {id:Int64}", parameters={"id": 2})
    assert found.result_rows == [("שלום 🎬",)]
    text = "it's {a} \\ `hostile`"
    assert client.query("SELECT {text:String}", parameters={"text": text}).result_rows == [(text,)]
    assert client.command("SELECT getSetting('max_threads')", settings={"max_threads": 3}) == 3
    refused(115, lambda: client.command("SELECT 1", settings={"allow_nothing_at_all": 1}))
    client.command("CREATE TEMPORARY TABLE mine (a Int8)")
    client.command("INSERT INTO mine VALUES (1), (2)")
    assert client.command("SELECT sum(a) FROM mine") == 3
    keys = ExternalData(file_name="keys.csv", data=b"2\n3\n", fmt="CSV", structure=["id Int64"])
    found = client.query("SELECT id FROM scenario.film WHERE id IN (SELECT id FROM keys)", external_data=keys)
    assert found.result_rows == [(2,)], found.result_rows


def errors(address, client):
    refused(60, lambda: client.command("SELECT * FROM scenario.nowhere"))
    refused(62, lambda: client.command("SELEC 1"))
    refused(81, lambda: connected(address, database="nowhere"))
    refused(516, lambda: connected(address, username=USER, password="wrong"))
    refused(164, lambda: connected(address, username="reader", autogenerate_session_id=False).command("CREATE DATABASE x"))
    # What failed leaves the client as it was.
    assert connected(address, username=USER, password=PASSWORD).command("SELECT 1") == 1
    assert client.command("SELECT 1") == 1


def main():
    address = sys.argv[1]
    client = connected(address)
    assert client.ping()
    print("server version", client.server_version)
    tables_and_rows(client)
    arrow(client)
    parameters_settings_and_sessions(client)
    errors(address, client)
    client.command("DROP DATABASE scenario")
    print("clickhouse-connect: all as with a server")


if __name__ == "__main__":
    main()
