"""The official Python client uses the front of Qdrant as it would use a server: collections, aliases, points, payloads, filters,
searches, conditional updates, errors, the key and strict mode. Each step asserts what Qdrant documents."""

import uuid
from urllib.parse import urlparse

import grpc
from qdrant_client import QdrantClient, models

from front import front

SIZE = 4


def client(address, key=None):
    url = urlparse(address)
    # The client would ask for the version over REST, which the front does not speak.
    return QdrantClient(host=url.hostname, grpc_port=url.port, prefer_grpc=True, api_key=key, https=False, check_compatibility=False, timeout=30)


def refused(code, call):
    """The call is refused with this status."""
    try:
        call()
    except grpc.RpcError as error:
        assert error.code() == code, (error.code(), error.details())
        return error.details()
    raise AssertionError(f"it was not refused with {code}")


def uid(number):
    return str(uuid.uuid5(uuid.NAMESPACE_URL, str(number)))


def vector(number):
    return [1.0 if i == number % SIZE else 0.1 * (number % 7) for i in range(SIZE)]


def collections(c):
    assert c.get_collections().collections == []
    assert not c.collection_exists("films")
    params = models.VectorParams(size=SIZE, distance=models.Distance.COSINE)
    assert c.create_collection("films", vectors_config=params, metadata={"of": "films"})
    assert c.collection_exists("films") and [one.name for one in c.get_collections().collections] == ["films"]
    refused(grpc.StatusCode.ALREADY_EXISTS, lambda: c.create_collection("films", vectors_config=params))
    info = c.get_collection("films")
    assert info.config.params.vectors.size == SIZE and info.points_count == 0, info
    assert info.config.metadata == {"of": "films"}, info.config.metadata
    refused(grpc.StatusCode.NOT_FOUND, lambda: c.get_collection("nothing"))
    refused(grpc.StatusCode.NOT_FOUND, lambda: c.upsert("nothing", [models.PointStruct(id=1, vector=vector(1))]))
    refused(grpc.StatusCode.NOT_FOUND, lambda: c.scroll("nothing"))


def points(c):
    for field, kind in [("title", "keyword"), ("year", "integer"), ("score", "float"), ("seen", "bool")]:
        done = c.create_payload_index("films", field, models.PayloadSchemaType(kind), wait=True)
        assert done.status == models.UpdateStatus.COMPLETED
    of = lambda n: {"title": f"film {n}", "year": 1900 + n, "score": n / 4, "seen": n % 2 == 0, "tags": ["a", f"t{n % 3}"], "n": None}
    rows = [models.PointStruct(id=uid(n), vector=vector(n), payload=of(n)) for n in range(20)]
    done = c.upsert("films", rows, wait=True)
    assert done.status == models.UpdateStatus.COMPLETED and c.count("films", exact=True).count == 20
    c.upsert("films", rows, wait=False)
    assert c.count("films").count == 20
    found = c.retrieve("films", [uid(3), uid(99)], with_vectors=True)
    assert len(found) == 1 and found[0].payload == of(3) and len(found[0].vector) == SIZE, found
    only = c.retrieve("films", [uid(3)], with_payload=["year"])
    assert only[0].payload == {"year": 1903} and only[0].vector is None
    without = c.retrieve("films", [uid(3)], with_payload=models.PayloadSelectorExclude(exclude=["n", "tags"]))
    assert set(without[0].payload) == {"title", "year", "score", "seen"}
    refused(grpc.StatusCode.INVALID_ARGUMENT, lambda: c.upsert("films", [models.PointStruct(id=1, vector=[1.0])]))
    assert c.get_collection("films").payload_schema["year"].data_type == models.PayloadSchemaType.INTEGER
    c.upload_points("films", [models.PointStruct(id=uid(n), vector=vector(n), payload=of(n)) for n in range(20, 300)], wait=True)
    assert c.count("films").count == 300


def pages(c):
    seen, offset = [], None
    while True:
        page, offset = c.scroll("films", limit=70, offset=offset)
        seen += [one.id for one in page]
        if offset is None:
            break
    assert len(seen) == len(set(seen)) == 300 and seen == sorted(seen), "in order of ids"
    newest, _ = c.scroll("films", limit=2, order_by=models.OrderBy(key="year", direction=models.Direction.DESC))
    assert [one.payload["year"] for one in newest] == [2199, 2198]


def filters(c):
    field = lambda key, **how: models.FieldCondition(key=key, **how)
    value = lambda key, value: field(key, match=models.MatchValue(value=value))
    count = lambda **how: c.count("films", count_filter=models.Filter(**how)).count
    assert count(must=[value("title", "film 7")]) == 1
    assert count(must=[value("year", 1907)]) == 1
    assert count(must=[value("seen", True)]) == 150
    assert count(must=[field("title", match=models.MatchAny(any=["film 1", "film 2", "none"]))]) == 2
    assert count(must=[field("year", match=models.MatchAny(any=[1901, 1902]))]) == 2
    assert count(must=[field("title", match=models.MatchExcept(**{"except": ["film 1"]}))]) == 299
    assert count(must=[field("year", range=models.Range(gte=1910, lt=1920))]) == 10
    assert count(must=[field("tags", values_count=models.ValuesCount(gt=1))]) == 300
    assert count(must=[value("tags", "t1")]) == 100
    assert count(should=[value("year", 1901), value("year", 1902)]) == 2
    assert count(must_not=[value("seen", True)]) == 150
    assert count(must=[models.HasIdCondition(has_id=[uid(1), uid(2), uid(9999)])]) == 2
    assert count(must=[models.IsEmptyCondition(is_empty=models.PayloadField(key="nowhere"))]) == 300
    assert count(must=[models.IsNullCondition(is_null=models.PayloadField(key="n"))]) == 300
    assert count(min_should=models.MinShould(conditions=[value("year", 1901), value("seen", False), value("tags", "a")], min_count=3)) == 1
    nested = models.Filter(must=[models.Filter(should=[value("year", 1901), value("year", 1902)]), value("seen", True)])
    assert c.count("films", count_filter=nested).count == 1


def searches(c):
    found = c.query_points("films", query=vector(0), limit=5, with_payload=True).points
    assert len(found) == 5 and abs(found[0].score - 1) < 1e-5 and [p.score for p in found] == sorted((p.score for p in found), reverse=True)
    only = models.Filter(must=[models.FieldCondition(key="year", match=models.MatchValue(value=1905))])
    near = c.query_points("films", query=vector(0), query_filter=only, limit=5, with_vectors=True).points
    assert [one.payload["year"] for one in near] == [1905] and len(near[0].vector) == SIZE
    assert c.query_points("films", query=vector(0), score_threshold=1.1).points == []
    same = c.query_points("films", query=uid(5), limit=3).points
    assert len(same) == 3
    both = c.query_batch_points("films", [models.QueryRequest(query=vector(0), limit=2), models.QueryRequest(query=vector(1), limit=3)])
    assert [len(one.points) for one in both] == [2, 3]
    refused(grpc.StatusCode.INVALID_ARGUMENT, lambda: c.query_points("films", query=[1.0, 2.0]))


def payloads(c):
    one = uid(1)
    now = lambda: c.retrieve("films", [one])[0].payload
    c.set_payload("films", {"extra": {"deep": [1, 2.5, "x"]}}, points=[one], wait=True)
    assert now()["extra"] == {"deep": [1, 2.5, "x"]} and now()["year"] == 1901
    c.overwrite_payload("films", {"year": 1}, points=[one], wait=True)
    assert now() == {"year": 1}
    c.set_payload("films", {"a": 1, "b": 2}, points=[one], wait=True)
    c.delete_payload("films", ["a"], points=[one], wait=True)
    assert now() == {"year": 1, "b": 2}
    c.clear_payload("films", [one], wait=True)
    assert now() == {}
    before = c.retrieve("films", [one], with_vectors=True)[0].vector
    c.update_vectors("films", [models.PointVectors(id=one, vector=[0.0, 0.0, 0.0, 1.0])], wait=True)
    assert c.retrieve("films", [one], with_vectors=True)[0].vector != before
    done = c.batch_update_points("films", [
        models.UpsertOperation(upsert=models.PointsList(points=[models.PointStruct(id=uid(500), vector=vector(1), payload={"year": 5})])),
        models.OverwritePayloadOperation(overwrite_payload=models.SetPayload(payload={"year": 6}, points=[uid(500)])),
        models.DeleteOperation(delete=models.PointIdsList(points=[uid(2)])),
    ], wait=True)
    assert [one.status for one in done] == [models.UpdateStatus.COMPLETED] * 3
    assert c.retrieve("films", [uid(500)])[0].payload == {"year": 6} and c.retrieve("films", [uid(2)]) == []
    c.delete("films", models.Filter(must=[models.FieldCondition(key="year", match=models.MatchValue(value=6))]), wait=True)
    assert c.retrieve("films", [uid(500)]) == []
    c.delete("films", [uid(3), uid(4)], wait=True)
    assert c.retrieve("films", [uid(3), uid(4)]) == []


def conditional(c):
    at = lambda revision: models.Filter(must=[models.FieldCondition(key="revision", match=models.MatchValue(value=revision))])
    put = lambda to, **how: c.upsert("films", [models.PointStruct(id=1, vector=vector(1), payload={"revision": to})], wait=True, **how)
    now = lambda: c.retrieve("films", [1])[0].payload["revision"]
    put(1, update_filter=at(0))
    assert now() == 1, "a point that is not there is inserted whatever the filter"
    put(3, update_filter=at(2))
    assert now() == 1, "one that does not match stays as it is"
    put(2, update_filter=at(1))
    assert now() == 2
    put(9, update_mode=models.UpdateMode.INSERT_ONLY)
    assert now() == 2
    c.upsert("films", [models.PointStruct(id=2, vector=vector(1))], wait=True, update_mode=models.UpdateMode.UPDATE_ONLY)
    assert c.retrieve("films", [2]) == []


def aliases(c):
    params = models.VectorParams(size=SIZE, distance=models.Distance.DOT)
    c.create_collection("films_2", vectors_config=params)
    create = lambda of, alias: models.CreateAliasOperation(create_alias=models.CreateAlias(collection_name=of, alias_name=alias))
    delete = lambda alias: models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias))
    now = lambda: {one.alias_name: one.collection_name for one in c.get_aliases().aliases}
    c.update_collection_aliases([create("films", "live")])
    assert now() == {"live": "films"} and c.count("live").count == c.count("films").count
    c.update_collection_aliases([delete("live"), create("films_2", "live"), create("films", "kept")])
    assert now() == {"live": "films_2", "kept": "films"} and c.count("live").count == 0
    refused(grpc.StatusCode.NOT_FOUND, lambda: c.update_collection_aliases([delete("live"), create("nothing", "live")]))
    assert now() == {"live": "films_2", "kept": "films"}, "all of a request or nothing"
    refused(grpc.StatusCode.ALREADY_EXISTS, lambda: c.update_collection_aliases([create("films", "films_2")]))
    assert [one.alias_name for one in c.get_collection_aliases("films").aliases] == ["kept"]
    assert c.delete_collection("films_2") and now() == {"kept": "films"}, "aliases go with their collection"


def key(address, right):
    assert client(address, right).get_collections().collections == []
    for wrong in [None, "wrong"]:
        refused(grpc.StatusCode.UNAUTHENTICATED, lambda: client(address, wrong).get_collections())


def strict(c):
    c.create_collection("films", vectors_config=models.VectorParams(size=SIZE, distance=models.Distance.COSINE))
    c.upsert("films", [models.PointStruct(id=n, vector=vector(n), payload={"year": n}) for n in range(1, 30)], wait=True)
    year = lambda value: models.Filter(must=[models.FieldCondition(key="year", match=models.MatchValue(value=value))])
    said = refused(grpc.StatusCode.INVALID_ARGUMENT, lambda: c.count("films", count_filter=year(3)))
    assert "Index required" in said, said
    c.create_payload_index("films", "year", models.PayloadSchemaType.INTEGER, wait=True)
    assert c.count("films", count_filter=year(3)).count == 1
    refused(grpc.StatusCode.INVALID_ARGUMENT, lambda: c.count("films", count_filter=year("3")))
    refused(grpc.StatusCode.INVALID_ARGUMENT, lambda: c.scroll("films", limit=101))
    many = [models.PointStruct(id=n, vector=vector(n)) for n in range(100, 151)]
    refused(grpc.StatusCode.INVALID_ARGUMENT, lambda: c.upsert("films", many))
    assert c.get_collection("films").config.strict_mode_config.enabled


def main():
    with front("qdrant") as address:
        c = client(address)
        for step in [collections, points, pages, filters, searches, payloads, conditional, aliases]:
            step(c)
            print(f"qdrant: {step.__name__}: in order")
    with front("qdrant", "the-key") as address:
        key(address, "the-key")
        print("qdrant: key: in order")
    with front("qdrant", "strict") as address:
        strict(client(address))
        print("qdrant: strict: in order")


if __name__ == "__main__":
    main()
