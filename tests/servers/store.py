"""A Silver lake in an object store, through the real program: tables and quarantine, a crawl, a gap, and what goes wrong.

Run by `s3.sh`, `azure.sh` and `gcs.sh`, which start the store and name it in the environment:

    LAKE_STORE      s3, azure or gcs
    LAKE_ENDPOINT   where it listens
    LAKE_PROGRAM    the program under test
"""

import json
import os
import signal
import socket
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import obstore
from deltalake import DeltaTable
from obstore.store import AzureStore, GCSStore, S3Store
from program import SECONDS_MAX, Program, check, fail, operations, say, strategies

BUCKET = "silver"
SHARED = "quarantine-of-two"
# The cast once more, as another target: the crawl's broken record is broken for it, too.
CAST_AGAIN = """
tables:
  movies:
    key: [movie_id]
    clickhouse:
      cast_again:
        key: [movie_id, credit_id]
        sql: |
          SELECT movie_id, e['credit_id'] AS credit_id, e['person_id'] AS person_id, e['name'] AS name
          FROM (SELECT movie_id, unnest(casts_info) AS e FROM movies) WHERE e IS NOT NULL
"""
SECRET = "PLANTEDSECRETPLANTEDSECRETPLANTEDSECRET0="
# Azurite's account, and MinIO's here.
ACCOUNT, ACCOUNT_KEY = "devstoreaccount1", "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
USER, PASSWORD = "distributary", "distributary-password"


@dataclass
class Store:
    """An object store as the program and as this script reach it."""

    scheme: str
    environment: dict
    client: object
    # Environment with credentials that are wrong, by what is wrong with them.
    wrong: dict = field(default_factory=dict)
    # The variable, and a value of it for an endpoint.
    elsewhere: object = None

    def url(self, path):
        return f"{self.scheme}://{BUCKET}/{path}"


def s3(endpoint):
    environment = {
        "AWS_ACCESS_KEY_ID": USER, "AWS_SECRET_ACCESS_KEY": PASSWORD, "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint, "AWS_ALLOW_HTTP": "true", "AWS_EC2_METADATA_DISABLED": "true",
    }
    client = S3Store(
        BUCKET, access_key_id=USER, secret_access_key=PASSWORD, region="us-east-1", endpoint=endpoint, client_options={"allow_http": True}
    )
    wrong = {"secret": {"AWS_SECRET_ACCESS_KEY": SECRET}, "user": {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": SECRET}}
    return Store("s3", environment, client, wrong, lambda url: {"AWS_ENDPOINT_URL": url})


def azure(endpoint):
    endpoint = f"{endpoint}/{ACCOUNT}"
    environment = {
        "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT, "AZURE_STORAGE_ACCOUNT_KEY": ACCOUNT_KEY,
        "AZURE_STORAGE_ENDPOINT": endpoint, "AZURE_ALLOW_HTTP": "true",
    }
    client = AzureStore(BUCKET, account_name=ACCOUNT, account_key=ACCOUNT_KEY, endpoint=endpoint, client_options={"allow_http": True})
    signature = f"sv=2022-11-02&ss=b&srt=sco&sp=rl&se=2099-01-01T00%3A00%3A00Z&sig={SECRET.replace('=', '%3D')}"
    wrong = {
        "key": {"AZURE_STORAGE_ACCOUNT_KEY": SECRET},
        "signature": {"AZURE_STORAGE_ACCOUNT_KEY": None, "AZURE_STORAGE_SAS_KEY": signature},
    }
    return Store("az", environment, client, wrong, lambda url: {"AZURE_STORAGE_ENDPOINT": f"{url}/{ACCOUNT}"})


def gcs(endpoint):
    def account(url, **more):
        return json.dumps({"gcs_base_url": url, "disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": "", **more})

    environment = {"GOOGLE_SERVICE_ACCOUNT_KEY": account(endpoint), "GOOGLE_ALLOW_HTTP": "true"}
    client = GCSStore(BUCKET, service_account_key=account(endpoint), client_options={"allow_http": True})
    key = f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----\n"
    damaged = account(endpoint, disable_oauth=False, client_email="someone@example.com", private_key=key)
    wrong = {"key": {"GOOGLE_SERVICE_ACCOUNT_KEY": damaged}, "file": {"GOOGLE_SERVICE_ACCOUNT_KEY": f'{{"private_key": "{SECRET}"'}}
    return Store("gs", environment, client, wrong, lambda url: {"GOOGLE_SERVICE_ACCOUNT_KEY": account(url)})


def program_over(home, store, **more):
    return Program(home, store.url("lake"), store.environment, **{"quarantine": {"url": store.url("quarantine")}, **more})


def upload(store, lake, done):
    """Copies what is new of a local lake: data first, then the commits in their order."""
    files = {path.relative_to(lake).as_posix(): path for path in sorted(lake.rglob("*")) if path.is_file()}
    new = [name for name in files if name not in done]
    for name in sorted(new, key=lambda name: ("_delta_log" in name, name)):
        obstore.put(store.client, f"lake/{name}", files[name].read_bytes())
        done.add(name)


def quarantined(store, path="quarantine"):
    """The rows of a quarantine table, as another reader sees them."""
    rows = DeltaTable(store.url(path), storage_options=store.environment).to_pyarrow_table().to_pylist()
    return sorted(rows, key=lambda row: row["lane"])


def a_lake_is_synced(store, program, lake, done):
    upload(store, lake, done)
    first = program.sync()
    check(set(strategies(first).values()) == {"snapshot"}, f"the first sync read by {strategies(first)}")
    program.verify()
    check(operations(program.sync()) == 0, "the second sync sent something")
    say(f"a first sync of {operations(first)} operations, verified; the next sends nothing")


def a_crawl_arrives(store, program, lake, done):
    program.run("sample", lake, "--crawl")
    upload(store, lake, done)
    crawl = program.sync()
    check(strategies(crawl) == {"movies": "feed", "people": "feed"}, f"the crawl was read by {strategies(crawl)}")
    program.verify()
    check(operations(program.sync()) == 0, "the third sync sent something")
    rows = quarantined(store)
    check(rows and {row["reason"] for row in rows} == {"conflicting_rows"}, f"quarantine holds {rows}")
    say(f"a crawl of {operations(crawl)} operations through the change feed, {len(rows)} entries in quarantine; the third sync sends nothing")


def a_mended_record_leaves_quarantine(store, program, lake, done):
    program.run("sample", lake, "--mend")
    upload(store, lake, done)
    check(operations(program.sync()) > 0, "the mended record was not delivered")
    check(quarantined(store) == [], f"quarantine holds {quarantined(store)}")
    program.verify()
    say("the mended record is delivered and leaves quarantine")


def two_runs_write_one_quarantine(store, one, two):
    """One run has read the quarantine when another fills it: the entries of both are kept, because a commit is a conditional put."""
    obstore.put(store.client, "probe", b"one", mode="create")
    try:
        obstore.put(store.client, "probe", b"two", mode="create")
        fail("the store has no conditional put")
    except obstore.exceptions.AlreadyExistsError:
        pass
    stopped = two.start("sync", "--json")
    line = stopped.stderr.readline()
    check("reading" in line, f"the run that is to be stopped said {line}")
    stopped.send_signal(signal.SIGSTOP)
    one.sync()
    first = {row["lane"].split("/")[2] for row in quarantined(store, SHARED)}
    stopped.send_signal(signal.SIGCONT)
    out, err = stopped.communicate(timeout=SECONDS_MAX)
    check(stopped.returncode == 0, f"the run that was stopped: exit code {stopped.returncode}\n{out}\n{err}")
    both = {row["lane"].split("/")[2] for row in quarantined(store, SHARED)}
    check("movie_cast" in first and both == {"movie_cast", "cast_again"}, f"quarantine held entries of {first}, then of {both}")
    for program in (one, two):
        program.verify()
        check(operations(program.sync()) == 0, "the sync after it sent something")
    say("two runs that write one quarantine at a time keep each other's entries")


def a_gap_is_handled(store, program):
    """Another writer changes a table twice, and the first change file goes as VACUUM would take it."""
    url = store.url("lake/movies")
    for title in ("One", "Two"):
        before = {entry["path"] for entry in obstore.list(store.client, "lake/movies/_change_data").collect()}
        changed = DeltaTable(url, storage_options=store.environment).update(
            updates={"casts_info": "NULL"}, predicate=f"movie_id = {1 if title == 'One' else 2}"
        )
        check(changed["num_updated_rows"] == 1, f"the update changed {changed}")
        if title == "One":
            new = {entry["path"] for entry in obstore.list(store.client, "lake/movies/_change_data").collect()} - before
            check(new, "the writer wrote no change file")
            obstore.delete(store.client, sorted(new))
    report = program.sync(code=3, DISTRIBUTARY_SOURCE_ON_GAP="stop")
    errors = {target["error"] for table in report["tables"] for target in table["targets"] if target.get("error")}
    check(errors and all("VACUUM" in error for error in errors), f"the gap was told as {errors}")
    report = program.sync()
    check(strategies(report) == {"movies": "diff"}, f"the gap was read by {strategies(report)}")
    program.verify()
    check(operations(program.sync()) == 0, "the sync after the gap sent something")
    say("a change file that is gone stops with on_gap: stop, and is read around without")


def wrong_credentials_are_told(store, program):
    for name, wrong in store.wrong.items():
        for words in (["sync"], ["sync", "--json"], ["status"]):
            out, err = program.run(*words, code=1, DISTRIBUTARY_LOG="debug", **wrong)
            told = out + err
            # `status` reads no table before the quarantine.
            first = "quarantine" if words == ["status"] else "lake/movies"
            check(store.url(first) in told and "credentials" in told, f"wrong {name}, {words}: {told[-2000:]}")
            for secret in (SECRET, SECRET.rstrip("="), PASSWORD, ACCOUNT_KEY):
                check(secret not in told, f"wrong {name}, {words}: a secret is shown: {told[-2000:]}")
        say(f"wrong {name}: {err.strip().splitlines()[-1][:200]}")


def an_endpoint_that_is_not_there_is_given_up(store, program):
    soon = {"DISTRIBUTARY_SOURCE_STORAGE_OPTIONS": json.dumps({"retry_timeout": "2s", "timeout": "2s"})}
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        # It takes connections, and never answers.
        out, err = program.run("sync", code=1, **soon, **store.elsewhere(f"http://127.0.0.1:{port}"))
        check(store.url("lake/movies") in out + err and "cannot open" in out + err, f"a silent endpoint: {out}{err}")
    # Nobody listens there any more.
    out, err = program.run("sync", code=1, **soon, **store.elsewhere(f"http://127.0.0.1:{port}"))
    check(store.url("lake/movies") in out + err and "cannot open" in out + err, f"no endpoint: {out}{err}")
    check(operations(program.sync()) == 0, "the sync after it sent something")
    say("an endpoint that does not answer, or is not there, is given up")


def what_is_not_there_is_named(store, home):
    nowhere = program_over(home / "nowhere", store, source={"root": store.url("no/such/lake")})
    out, err = nowhere.run("sync", code=2)
    check(store.url("no/such/lake/movies") in err, f"a table that is not there: {out}{err}")
    missing = program_over(home / "bucket", store, source={"root": f"{store.scheme}://no-such-bucket/lake"})
    child = missing.start("sync")
    out, err = child.communicate(timeout=SECONDS_MAX)
    check(child.returncode in (1, 2) and "no-such-bucket/lake/movies" in out + err, f"no bucket: exit code {child.returncode}: {out}{err}")
    unwritable = program_over(home / "quarantine", store, quarantine={"url": f"{store.scheme}://no-such-bucket/quarantine"})
    child = unwritable.start("sync")
    out, err = child.communicate(timeout=SECONDS_MAX)
    check(child.returncode == 1 and "no-such-bucket/quarantine" in out + err, f"no quarantine: exit code {child.returncode}: {out}{err}")
    say("a table, a bucket and a quarantine that are not there are named")


def main():
    kind = os.environ["LAKE_STORE"]
    store = {"s3": s3, "azure": azure, "gcs": gcs}[kind](os.environ["LAKE_ENDPOINT"])
    with tempfile.TemporaryDirectory(prefix="distributary-store-") as home:
        home, done = Path(home), set()
        program, lake = program_over(home / "program", store), home / "lake"
        program.run("sample", lake)
        print(f"{kind}: a lake at {store.url('lake')}")
        a_lake_is_synced(store, program, lake, done)
        (home / "again.yaml").write_text(CAST_AGAIN)
        shared = {"engines": ["clickhouse"], "quarantine": {"url": store.url(SHARED)}}
        pair = program_over(home / "one", store, **shared), program_over(home / "two", store, mapping=str(home / "again.yaml"), **shared)
        for one in pair:
            one.sync()
        a_crawl_arrives(store, program, lake, done)
        two_runs_write_one_quarantine(store, *pair)
        a_mended_record_leaves_quarantine(store, program, lake, done)
        a_gap_is_handled(store, program)
        wrong_credentials_are_told(store, program)
        an_endpoint_that_is_not_there_is_given_up(store, program)
        what_is_not_there_is_named(store, home)
    print(f"{kind}: passed")


if __name__ == "__main__":
    main()
