"""The life of an update is the same for photos and for texts: what fails on the way leaves an index that goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from colour_model import COLOURS, ColourModel, paint

from crossalign.errors import CrossAlignError
from crossalign.search import SearchEngine, TextSearchEngine, update_index, update_text_index
from crossalign.search.edge import EdgeStore
from crossalign.search.lock import IndexLock
from crossalign.search.manifest import read_manifest

Kind = Literal["photos", "texts"]
both_kinds = pytest.mark.parametrize("kind", ["photos", "texts"])


def add(place: Path, kind: Kind, numbers: range) -> None:
    """New items: photos, or texts that begin with the name of a colour."""
    if kind == "photos":
        for number in numbers:
            paint(place / "photos" / f"{number:02d}.png", list(COLOURS)[number % 6], number)
    else:
        with (place / "texts.txt").open("a") as file:
            file.writelines(f"{list(COLOURS)[number % 6]} number {number}\n" for number in numbers)


def run(place: Path, kind: Kind, model: ColourModel, **options: Any) -> Any:
    update: Callable[..., Any] = update_index if kind == "photos" else update_text_index
    source = place / ("photos" if kind == "photos" else "texts.txt")
    return update(model, source, place / "index", batch_size=2, **options)


def stored(place: Path) -> dict[str, np.ndarray]:
    manifest = read_manifest(place / "index" / "index.json")
    store = EdgeStore.open(place / "index" / manifest.store, manifest.dim, manifest.views)
    found = store.fetch([record.id for record in store.scroll()])
    store.close()
    return {item: record.vectors for item, record in found.items() if record.vectors is not None}


class TiringModel(ColourModel):
    """Fails at the batch of that number, the first ones being those that tell the shape."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self._left = batches

    def encode_images(self, *given: Any, **options: Any) -> Any:
        self._tire()
        return super().encode_images(*given, **options)

    def encode_texts(self, *given: Any, **options: Any) -> Any:
        self._tire()
        return super().encode_texts(*given, **options)

    def _tire(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise CrossAlignError("out of memory")


@both_kinds
def test_what_a_failed_update_has_written_stays_and_the_next_one_finishes(tmp_path: Path, kind: Kind) -> None:
    add(tmp_path, kind, range(9))
    with pytest.raises(CrossAlignError, match="out of memory"):
        run(tmp_path, kind, TiringModel(3))
    assert not read_manifest(tmp_path / "index" / "index.json").complete
    part = stored(tmp_path)
    # The shape, two steps of two, and nothing of the third.
    assert len(part) == 4
    done = run(tmp_path, kind, ColourModel())
    assert (done.added, done.unchanged) == (5, 4)
    whole = stored(tmp_path)
    assert len(whole) == 9
    for item, vectors in part.items():
        np.testing.assert_array_equal(whole[item], vectors)
    assert read_manifest(tmp_path / "index" / "index.json").complete
    # With nothing to do the model is not asked, not even for the shape.
    assert run(tmp_path, kind, TiringModel(0)).unchanged == 9


@both_kinds
def test_a_failed_rebuild_leaves_the_index_that_there_was(tmp_path: Path, kind: Kind) -> None:
    add(tmp_path, kind, range(5))
    run(tmp_path, kind, ColourModel())
    before = read_manifest(tmp_path / "index" / "index.json")
    add(tmp_path, kind, range(5, 7))
    with pytest.raises(CrossAlignError, match="out of memory"):
        run(tmp_path, kind, TiringModel(2), rebuild=True)
    assert read_manifest(tmp_path / "index" / "index.json") == before
    engine = SearchEngine if kind == "photos" else TextSearchEngine
    with engine.open(tmp_path / "index", ColourModel()) as opened:
        assert opened.count == 5
    # What the failed one has embedded is not embedded again.
    assert run(tmp_path, kind, ColourModel(), rebuild=True).unchanged == 2
    left = {path.name for path in (tmp_path / "index").iterdir()}
    assert left == {"index.json", "lock", read_manifest(tmp_path / "index" / "index.json").store}


@both_kinds
def test_embeddings_of_another_shape_are_refused_in_one_line(tmp_path: Path, kind: Kind) -> None:
    class Narrow(ColourModel):
        def encode_images(self, *given: Any, **options: Any) -> Any:
            return super().encode_images(*given, **options)[:, :40]

        def encode_texts(self, *given: Any, **options: Any) -> Any:
            return super().encode_texts(*given, **options)[:, :40]

    add(tmp_path, kind, range(3))
    run(tmp_path, kind, ColourModel())
    add(tmp_path, kind, range(3, 5))
    with pytest.raises(CrossAlignError) as caught:
        run(tmp_path, kind, Narrow())
    assert str(caught.value) == (
        f"the model gave 1 embeddings of width 40 a {kind[:-1]}, the index holds 1 of 48; build it again with "
        "'crossalign index --rebuild'"
    )
    assert len(stored(tmp_path)) == 3
    assert run(tmp_path, kind, ColourModel()).added == 2


@both_kinds
def test_an_index_in_use_is_refused_and_stays_as_it_is(tmp_path: Path, kind: Kind) -> None:
    add(tmp_path, kind, range(2))
    run(tmp_path, kind, ColourModel())
    add(tmp_path, kind, range(2, 4))
    with IndexLock(tmp_path / "index", "a test"), pytest.raises(CrossAlignError, match=r"in use .*a test"):
        run(tmp_path, kind, ColourModel())
    assert run(tmp_path, kind, ColourModel()).added == 2
