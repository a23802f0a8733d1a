"""Killed at any moment, an index is never wrong, and the next run makes it what it would have been."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import time
from pathlib import Path

import killed_updates
import numpy as np
import pytest
from colour_model import ColourModel
from PIL import Image

from crossalign.errors import CrossAlignError
from crossalign.search import SearchEngine, update_index
from crossalign.search.edge import EdgeStore
from crossalign.search.manifest import read_manifest

HERE = Path(__file__).parent
MOMENTS = [
    "first:create:before:1",
    "first:create:after:1",
    "first:write_manifest:after:1",
    "first:upsert:before:2",
    "first:upsert:after:2",
    "first:write_manifest:before:3",
    "update:write_manifest:after:1",
    "update:upsert:after:1",
    "update:delete:after:3",
    "update:update_payloads:before:2",
    "update:delete:before:4",
    "update:optimize:after:1",
    "update:close:after:1",
    "rebuild:create:after:1",
    "rebuild:upsert:after:3",
    "rebuild:write_manifest:before:3",
    "rebuild:write_manifest:after:3",
    "rebuild:replace:before:4",
    "rebuild:replace:after:4",
    "update:time:at:300",
    "update:time:at:700",
    "rebuild:time:at:900",
]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("killed")
    script = str(HERE / "killed_updates.py")
    subprocess.run([sys.executable, script, str(place), *MOMENTS], check=True, timeout=200)
    return place


def _contents(place: Path) -> dict[str, tuple[str, np.ndarray]]:
    """Digest and vectors of each file in the index."""
    manifest = read_manifest(place / "index" / "index.json")
    store = EdgeStore.open(place / "index" / manifest.store, manifest.dim, manifest.views)
    records = list(store.scroll())
    assert len({record.id for record in records}) == len(records) == store.count()
    fetched = store.fetch([record.id for record in records])
    store.close()
    return {item: (record.payload["sha256"], record.vectors) for item, record in fetched.items()}  # type: ignore[misc]


def _painted(*folders: Path) -> dict[str, np.ndarray]:
    """What the model makes of every photo that ever was, by digest."""
    model = ColourModel()
    expected = {}
    for folder in folders:
        for path in folder.rglob("*.png"):
            data = path.read_bytes()
            embedding = model.encode_images([Image.open(io.BytesIO(data)).convert("RGB")]).numpy()
            expected[hashlib.sha256(data).hexdigest()] = embedding
    return expected


@pytest.mark.parametrize("position", range(len(MOMENTS)), ids=MOMENTS)
def test_killed_update(killed: Path, position: int, tmp_path: Path) -> None:
    place = killed / str(position)
    kind = MOMENTS[position].split(":")[0]
    killed_updates.paint_first(tmp_path / "first")
    killed_updates.paint_first(tmp_path / "second")
    killed_updates.paint_second(tmp_path / "second")
    of_digest = _painted(tmp_path / "first", tmp_path / "second")

    # What is there is right, whatever is missing.
    if (place / "index" / "index.json").exists():
        before = _contents(place)
        for digest, vectors in before.values():
            np.testing.assert_array_equal(vectors, of_digest[digest])
        digests = [digest for digest, _ in before.values()]
        assert len(set(digests)) == len(digests)
        manifest = read_manifest(place / "index" / "index.json")
        if kind == "rebuild":
            # The old index until the swap, the new one after it; never something in between.
            assert manifest.complete
            assert len(before) == manifest.count
            swapped = MOMENTS[position] == "rebuild:replace:after:4"
            assert (manifest.fingerprint == killed_updates.model("rebuild").fingerprint) == swapped
            assert (sorted(before) == sorted(killed_updates.NAMES)) != swapped
    else:
        assert kind == "first"
        with pytest.raises(CrossAlignError, match="no index here"):
            SearchEngine.open(place / "index", ColourModel())

    # The next run finishes.
    killed_updates.update(place, kind)
    after = _contents(place)
    photos = place / "photos"
    assert {file: digest for file, (digest, _) in after.items()} == {
        path.relative_to(photos).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in photos.rglob("*.png")
    }
    for digest, vectors in after.values():
        np.testing.assert_array_equal(vectors, of_digest[digest])
    manifest = read_manifest(place / "index" / "index.json")
    assert manifest.complete
    assert manifest.fingerprint == killed_updates.model(kind).fingerprint
    left = sorted(path.name for path in (place / "index").iterdir() if not path.name.startswith("."))
    assert left == ["index.json", "lock", manifest.store]


def test_a_killed_holder_lets_go(tmp_path: Path) -> None:
    killed_updates.paint_first(tmp_path / "photos")
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "import killed_updates\n"
        "killed_updates.update(Path(sys.argv[1]), 'first', seconds=60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], cwd=HERE)
    try:
        lock = tmp_path / "index" / "lock"
        deadline = time.monotonic() + 60
        while not (lock.exists() and lock.read_text()):
            assert holder.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        with pytest.raises(
            CrossAlignError, match=rf"in use by process {holder.pid} \(crossalign index\) since 2"
        ):
            update_index(ColourModel(), tmp_path / "photos", tmp_path / "index")
    finally:
        holder.kill()
        holder.wait()
    assert killed_updates.update(tmp_path, "first").added == 10
