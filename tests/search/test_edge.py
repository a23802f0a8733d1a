"""The store against plain loops, with one and several views."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from crossalign.errors import CrossAlignError
from crossalign.search.edge import EdgeStore


def _oracle(vectors: np.ndarray, queries: np.ndarray, k: int) -> list[tuple[str, float]]:
    """Every score in plain loops; equal scores by id."""
    scores = {}
    for item, views in enumerate(vectors):
        scores[f"{item:05d}"] = max(float(np.dot(view, query)) for view in views for query in queries)
    return sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))[:k]


@pytest.fixture(params=[1, 3])
def filled(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[EdgeStore, np.ndarray]]:
    views = request.param
    # Norms differ widely: a cosine in place of the inner product would order otherwise.
    random = np.random.default_rng(7)
    vectors = random.standard_normal((200, views, 16)) * random.uniform(0.2, 3.0, (200, 1, 1))
    vectors = vectors.astype(np.float32)
    store = EdgeStore.create(tmp_path / "store", 16, views)
    ids = [f"{item:05d}" for item in range(200)]
    store.upsert(ids, vectors, [{"size": item} for item in range(200)])
    yield store, vectors
    store.close()


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("count", [1, 2])
def test_search_agrees_with_plain_loops(
    filled: tuple[EdgeStore, np.ndarray], exact: bool, count: int
) -> None:
    store, vectors = filled
    for seed in range(5):
        queries = np.random.default_rng(seed).standard_normal((count, 16)).astype(np.float32)
        hits = store.search(queries, 12, exact=exact)
        expected = _oracle(vectors, queries, 12)
        assert [hit.id for hit in hits] == [item for item, _ in expected]
        np.testing.assert_allclose([hit.score for hit in hits], [score for _, score in expected], rtol=1e-5)
        assert all(hit.payload == {"size": int(hit.id)} for hit in hits)


def test_several_views_count_as_one_item(tmp_path: Path) -> None:
    store = EdgeStore.create(tmp_path / "store", 2, 4)
    near = np.array([[1.0, 0.0], [0.99, 0.0], [0.98, 0.0], [0.97, 0.0]])
    far = np.array([[0.0, 1.0], [0.0, 1.0], [0.5, 0.0], [0.0, 1.0]])
    store.upsert(["near", "far"], np.stack([near, far]), [{}, {}])
    assert store.count() == 2
    hits = store.search(np.array([[1.0, 0.0]]), 2)
    assert [(hit.id, round(hit.score, 5)) for hit in hits] == [("near", 1.0), ("far", 0.5)]
    store.close()


def test_approximate_search_on_a_graph_finds_what_exact_search_finds(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    centres = random.standard_normal((30, 64))
    vectors = centres[random.integers(0, 30, 4000)] + 0.8 * random.standard_normal((4000, 64))
    vectors = vectors.astype(np.float32)
    store = EdgeStore.create(tmp_path / "store", 64, exact_kilobytes=200)
    for start in range(0, 4000, 1000):
        ids = [f"{item:05d}" for item in range(start, start + 1000)]
        store.upsert(ids, vectors[start : start + 1000], [{}] * 1000)
    store.optimize()
    assert store._shard.info().indexed_vectors_count == 4000
    found = 0
    for query in vectors[:50] + 0.5 * random.standard_normal((50, 64)).astype(np.float32):
        approximate = {hit.id for hit in store.search(query[None], 10)}
        truth = np.argsort(-(vectors @ query))[:10]
        assert {hit.id for hit in store.search(query[None], 10, exact=True)} == {
            f"{item:05d}" for item in truth
        }
        found += len(approximate & {f"{item:05d}" for item in truth})
    assert found >= 0.99 * 500
    # Changes after the graph was made are found at once.
    store.delete(["00000"])
    store.upsert(["new"], vectors[:1], [{}])
    assert store.search(vectors[:1], 1)[0].id == "new"
    store.verify(4000)
    store.close()


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("views", [1, 3])
def test_equal_scores_come_by_id(tmp_path: Path, views: int, exact: bool) -> None:
    # Far more equal items than are asked for, some better and some worse ones, in an order that is not theirs.
    store = EdgeStore.create(tmp_path / "store", 4, views)
    ids = [f"{item:03d}" for item in range(300)]
    order = np.random.default_rng(3).permutation(300)
    scores = np.where(np.arange(300) % 10 == 0, 5.0, 1.0) - (np.arange(300) % 7 == 0)
    vectors = np.repeat(scores[:, None, None], views, axis=1) * np.eye(4)[0]
    store.upsert([ids[item] for item in order], vectors[order], [{}] * 300)
    queries = np.stack([np.eye(4)[0], 0.5 * np.eye(4)[0]])
    for k in (1, 2, 5, 40, 100, 290):
        for prefix in ("", "1"):
            found = store.search(queries, k, exact=exact, prefix=prefix)
            of_prefix = [item for item in range(300) if ids[item].startswith(prefix)]
            expected = sorted(of_prefix, key=lambda item: (-scores[item], item))[:k]
            assert [hit.id for hit in found] == [ids[item] for item in expected]
    store.close()


def test_more_hits_asked_for_than_there_are(filled: tuple[EdgeStore, np.ndarray]) -> None:
    store, _ = filled
    assert len(store.search(np.ones((1, 16)), 10**9)) == 200


def test_prefix_keeps_to_a_folder(tmp_path: Path) -> None:
    store = EdgeStore.create(tmp_path / "store", 2)
    ids = ["sub/a.jpg", "sub/deep/b.jpg", "subway/c.jpg", "d.jpg"]
    store.upsert(ids, np.array([[1, 0], [2, 0], [3, 0], [4, 0]]), [{}] * 4)
    hits = store.search(np.array([[1.0, 0.0]]), 10, prefix="sub/")
    assert [hit.id for hit in hits] == ["sub/deep/b.jpg", "sub/a.jpg"]
    store.close()


def test_replacing_fetching_deleting_and_payloads(filled: tuple[EdgeStore, np.ndarray]) -> None:
    store, vectors = filled
    store.upsert(["00003"], vectors[5:6] * 2, [{"size": 33}])
    store.update_payloads({"00004": {"mtime_ns": 2**62}})
    store.delete(["00000", "never there"])
    assert store.count() == 199
    records = store.fetch(["00003", "00004", "00000"])
    assert sorted(records) == ["00003", "00004"]
    np.testing.assert_array_equal(records["00003"].vectors, vectors[5] * 2)
    np.testing.assert_array_equal(records["00004"].vectors, vectors[4])
    assert records["00004"].payload == {"size": 4, "mtime_ns": 2**62}
    assert {record.id: record.payload["size"] for record in store.scroll()} == {
        f"{item:05d}": 33 if item == 3 else item for item in range(1, 200)
    }


def test_reopened_store_is_the_same(tmp_path: Path) -> None:
    store = EdgeStore.create(tmp_path / "store", 4)
    store.upsert(["a"], np.array([[1, 2, 3, 4]]), [{"name": "日本"}])
    store.close()
    store = EdgeStore.open(tmp_path / "store", 4)
    assert [(hit.id, hit.score, hit.payload) for hit in store.search(np.ones((1, 4)), 1)] == [
        ("a", 10.0, {"name": "日本"})
    ]
    store.close()


def test_a_write_that_returned_outlives_kill_9(tmp_path: Path) -> None:
    program = (
        "import os, sys, numpy as np\n"
        "from crossalign.search.edge import EdgeStore\n"
        "store = EdgeStore.create(sys.argv[1], 4, 2)\n"
        "store.upsert(['a', 'b'], np.ones((2, 2, 4)), [{'size': 1}, {'size': 2}])\n"
        "store.delete(['a'])\n"
        "os.kill(os.getpid(), 9)\n"
    )
    run = subprocess.run([sys.executable, "-c", program, str(tmp_path / "store")], check=False)
    assert run.returncode == -9
    store = EdgeStore.open(tmp_path / "store", 4, 2)
    assert [record.id for record in store.scroll()] == ["b"]
    store.verify(1)
    store.close()


def test_missing_vectors_are_noticed(tmp_path: Path) -> None:
    store = EdgeStore.create(tmp_path / "store", 32, exact_kilobytes=100)
    vectors = np.random.default_rng(0).standard_normal((2000, 32)).astype(np.float32)
    store.upsert([str(item) for item in range(2000)], vectors, [{}] * 2000)
    store.optimize()
    store.verify(2000)
    store.close()
    EdgeStore.open(tmp_path / "store", 32, count=2000).close()
    for count in (1999, 2001):
        with pytest.raises(CrossAlignError, match=rf"damaged, 2000 of {count} embeddings.*--rebuild"):
            EdgeStore.open(tmp_path / "store", 32, count=count)
    for matrix in (tmp_path / "store").rglob("matrix.dat"):
        with matrix.open("r+b") as file:
            file.truncate(matrix.stat().st_size // 2)
    with pytest.raises(CrossAlignError, match=r"damaged, 10\d\d of 2000 embeddings.*--rebuild"):
        EdgeStore.open(tmp_path / "store", 32, count=2000)
    with pytest.raises(CrossAlignError, match=r"store.*--rebuild"):
        EdgeStore.open(tmp_path / "store", 32).verify(2000)


def test_damaged_and_missing_stores_end_with_one_line(tmp_path: Path) -> None:
    with pytest.raises(CrossAlignError, match="--rebuild"):
        EdgeStore.open(tmp_path / "nothing", 4)
    store = EdgeStore.create(tmp_path / "store", 4)
    store.upsert(["a"], np.ones((1, 4)), [{}])
    store.close()
    for state in (tmp_path / "store" / "segments").glob("*/segment.json"):
        state.write_text("{")
    with pytest.raises(CrossAlignError, match="--rebuild") as caught:
        EdgeStore.open(tmp_path / "store", 4)
    assert "\n" not in str(caught.value)
