"""The vendor's own client against the front of the tests: that the front speaks the protocol, and not only what our client asks of it.

Usage: pinecone_client.py FRONTS, the program that serves them. Ends with a non-zero status at the first thing that is not as it should be.
"""

import math
import subprocess
import sys
import time

from pinecone import Pinecone, ServerlessSpec
from pinecone.exceptions import ForbiddenException, NotFoundException, PineconeApiException, UnauthorizedException

KEY = "pcsk_front"


def eventually(look, expected):
    """Asks again until a write is seen."""
    for _ in range(100):
        found = look()
        if found == expected:
            return
        time.sleep(0.02)
    raise AssertionError(f"{found} is not {expected}")


def refused(kind, call, says=""):
    try:
        call()
    except kind as error:
        assert says in str(error), error
        return
    raise AssertionError(f"nothing was refused: {says}")


def control(pc):
    assert pc.list_indexes().names() == []
    spec = ServerlessSpec(cloud="aws", region="us-east-1")
    refused(NotFoundException, lambda: pc.create_index("a", dimension=3, spec=ServerlessSpec(cloud="aws", region="mars-1")), "mars-1")
    refused(PineconeApiException, lambda: pc.create_index("Wrong_Name", dimension=3, spec=spec))
    # The client asks again until the index is ready.
    pc.create_index("films", dimension=3, metric="cosine", spec=spec, deletion_protection="enabled", tags={"made": "here"})
    refused(PineconeApiException, lambda: pc.create_index("films", dimension=3, spec=spec), "ALREADY_EXISTS")
    found = pc.describe_index("films")
    assert (found.name, found.dimension, found.metric, found.status.ready) == ("films", 3, "cosine", True), found
    assert found.spec.serverless.region == "us-east-1" and found.tags["made"] == "here"
    assert pc.has_index("films") and not pc.has_index("other")
    refused(ForbiddenException, lambda: pc.delete_index("films"))
    pc.configure_index("films", deletion_protection="disabled")
    return found.host


def data(index):
    vectors = [(f"a#{n}", [1.0, n + 1.0, 0.5], {"n": n, "even": n % 2 == 0, "tags": ["all", f"t{n % 3}"]}) for n in range(250)]
    answer = index.upsert(vectors=vectors, namespace="one", batch_size=100, show_progress=False)
    assert answer.upserted_count == 250, answer
    index.upsert(vectors=[{"id": "b#1", "values": [0.0, 0.0, 1.0], "metadata": {"n": 1000}}], namespace="one")
    eventually(lambda: index.describe_index_stats().namespaces["one"].vector_count, 251)
    assert index.describe_index_stats().dimension == 3

    fetched = index.fetch(ids=["a#0", "a#249", "nobody"], namespace="one")
    assert set(fetched.vectors) == {"a#0", "a#249"}, fetched
    assert fetched.vectors["a#249"].values == [1.0, 250.0, 0.5] and fetched.vectors["a#0"].metadata["tags"] == ["all", "t0"]

    pages = [page for page in index.list(prefix="a#", namespace="one", limit=100)]
    assert [len(page) for page in pages] == [100, 100, 50]
    ids = [str(id) if isinstance(id, str) else id.id for page in pages for id in page]
    assert ids == sorted(f"a#{n}" for n in range(250))

    def nearest(filter=None, top_k=5, **more):
        found = index.query(vector=[0.0, 0.0, 2.0], top_k=top_k, filter=filter, include_metadata=True, namespace="one", **more)
        return [match.id for match in found.matches]

    assert nearest(top_k=1) == ["b#1"]
    best = index.query(vector=[0.0, 0.0, 2.0], top_k=1, include_values=True, namespace="one").matches[0]
    assert math.isclose(best.score, 1.0, abs_tol=1e-5) and best.values == [0.0, 0.0, 1.0]
    assert index.query(id="a#7", top_k=1, namespace="one").matches[0].id == "a#7"
    for filter, expected in [
        ({"n": {"$eq": 7}}, {"a#7"}),
        ({"n": 7}, {"a#7"}),
        ({"tags": "t1", "n": {"$lt": 5}}, {"a#1", "a#4"}),
        ({"n": {"$gte": 2, "$lte": 4, "$ne": 3}}, {"a#2", "a#4"}),
        ({"n": {"$in": [1, 1000]}}, {"a#1", "b#1"}),
        ({"$and": [{"even": True}, {"n": {"$lt": 3}}]}, {"a#0", "a#2"}),
        ({"$or": [{"n": 1}, {"tags": {"$in": ["nothing"]}}]}, {"a#1"}),
        ({"tags": {"$nin": ["all"]}}, {"b#1"}),
        ({"even": {"$exists": False}}, {"b#1"}),
    ]:
        assert set(nearest(filter, 10)) == expected, (filter, nearest(filter, 10))
        by_metadata = index.fetch_by_metadata(filter=filter, namespace="one", limit=100)
        assert set(by_metadata.vectors) == expected, (filter, by_metadata)
    first = index.fetch_by_metadata(filter={"tags": "all"}, namespace="one", limit=200)
    second = index.fetch_by_metadata(filter={"tags": "all"}, namespace="one", limit=200, pagination_token=first.pagination.next)
    assert len(first.vectors) == 200 and len(second.vectors) == 50 and second.pagination is None

    index.update(id="a#7", values=[3.0, 2.0, 1.0], set_metadata={"even": True, "new": "yes"}, namespace="one")
    eventually(lambda: index.fetch(ids=["a#7"], namespace="one").vectors["a#7"].values, [3.0, 2.0, 1.0])
    metadata = index.fetch(ids=["a#7"], namespace="one").vectors["a#7"].metadata
    assert metadata["n"] == 7 and metadata["new"] == "yes", metadata

    index.delete(ids=["a#0", "nobody"], namespace="one")
    index.delete(filter={"n": {"$gt": 240}}, namespace="one")
    eventually(lambda: index.describe_index_stats().total_vector_count, 251 - 1 - 10)
    index.delete(delete_all=True, namespace="one")
    eventually(lambda: index.describe_index_stats().total_vector_count, 0)

    index.create_namespace(name="two")
    refused(PineconeApiException, lambda: index.create_namespace(name="two"))
    assert sorted(one.name for one in index.list_namespaces()) == ["one", "two"]
    assert index.describe_namespace(namespace="two").name == "two"
    index.delete_namespace(namespace="two")
    refused(NotFoundException, lambda: index.describe_namespace(namespace="two"))


def limits(index):
    def upsert(vector):
        return lambda: index.upsert(vectors=[vector])

    values = [1.0, 2.0, 3.0]
    refused(PineconeApiException, upsert(("a", [1.0, 2.0])), "dimension")
    refused(PineconeApiException, upsert(("a", [0.0, 0.0, 0.0])), "non-zero")
    refused(PineconeApiException, upsert(("é", values)), "ASCII")
    refused(PineconeApiException, upsert(("a", values, {"nested": {"a": 1}})), "nested")
    refused(PineconeApiException, upsert(("a", values, {"numbers": [1, 2]})), "numbers")
    refused(PineconeApiException, upsert(("a", values, {"long": "x" * 41_000})), "40960")
    refused(PineconeApiException, lambda: index.upsert(vectors=[(str(n), values) for n in range(1_001)]), "1000")
    refused(PineconeApiException, lambda: index.upsert(vectors=[(str(n), values, {"x": "x" * 30_000}) for n in range(80)]), "too large")
    refused(PineconeApiException, lambda: index.delete(ids=[str(n) for n in range(1_001)], namespace="one"))
    refused(PineconeApiException, lambda: index.query(vector=values, top_k=10, filter={"a": {"$like": "x"}}), "$like")


def main():
    front = subprocess.Popen([sys.argv[1], "pinecone"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        address = front.stdout.readline().strip()
        pc = Pinecone(api_key=KEY, host=address)
        refused(UnauthorizedException, lambda: Pinecone(api_key="wrong", host=address).list_indexes())
        host = control(pc)
        index = pc.Index(host=f"http://{host}")
        data(index)
        limits(index)
        pc.delete_index("films", timeout=-1)
        assert pc.list_indexes().names() == []
    finally:
        front.stdin.close()
        status = front.wait(timeout=30)
    assert status == 0, f"the front ended with {status}: the client's requests or its answers are not as the specification says"
    print("pinecone: the vendor's client and the front agree")


main()
