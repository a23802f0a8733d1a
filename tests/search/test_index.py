"""An index follows its folder: what is new, changed, touched, renamed, gone or unreadable."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from colour_model import ColourModel, paint
from PIL import Image

from crossalign.errors import CrossAlignError
from crossalign.search import IndexSummary, SearchEngine, default_index, update_index
from crossalign.search.edge import EdgeStore
from crossalign.search.lock import IndexLock
from crossalign.search.manifest import Manifest, read_manifest, write_manifest

OLD = 1_500_000_000_000_000_000


class Folder:
    """Six photos, their index and the model, with everything older than the moment of indexing."""

    def __init__(self, place: Path) -> None:
        self.photos = place / "photos"
        self.index = place / "index"
        self.model = ColourModel()
        for seed, (name, colour) in enumerate(
            [
                ("red.jpg", "red"),
                ("green.png", "green"),
                ("sub/blue.webp", "blue"),
                ("sub/yellow.bmp", "yellow"),
                ("sub/deep/white.gif", "white"),
                ("black.tiff", "black"),
            ]
        ):
            self.paint(name, colour, seed)

    def paint(self, name: str, colour: str, seed: int = 0) -> None:
        path = paint(self.photos / name, colour, seed)
        os.utime(path, ns=(OLD + seed, OLD + seed))

    def update(self, **options: object) -> IndexSummary:
        self.model.encoded = 0
        return update_index(self.model, self.photos, self.index, **options)  # type: ignore[arg-type]

    def files(self) -> list[str]:
        """Files of the index as a search sees them; one hit a file or this fails."""
        with SearchEngine.open(self.index, self.model) as engine:
            hits = engine.search(np.zeros((1, 48), np.float32), 1000, exact=True)
            assert len({hit.file for hit in hits}) == len(hits) == engine.count
            return sorted(hit.file for hit in hits)

    def best(self, text: str) -> str:
        with SearchEngine.open(self.index, self.model) as engine:
            return engine.search_text(text, 1)[0].file


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def _counts(summary: IndexSummary) -> dict[str, int]:
    names = ("added", "changed", "renamed", "removed", "unchanged", "failed")
    return {name: getattr(summary, name) for name in names if getattr(summary, name)}


def test_first_run_indexes_everything_and_the_second_nothing(folder: Folder) -> None:
    summary = folder.update()
    assert _counts(summary) == {"added": 6}
    assert summary.photos == folder.model.encoded == 6
    assert folder.best("red") == "red.jpg"
    assert folder.best("white") == "sub/deep/white.gif"
    before = (folder.index / "index.json").read_bytes()
    assert _counts(folder.update()) == {"unchanged": 6}
    assert folder.model.encoded == 0
    assert (folder.index / "index.json").read_bytes() == before


def test_added_changed_and_deleted_photos_alone_are_touched(folder: Folder) -> None:
    folder.update()
    folder.paint("new/red again.jpg", "red", 50)
    folder.paint("green.png", "yellow", 51)
    (folder.photos / "black.tiff").unlink()
    summary = folder.update()
    assert _counts(summary) == {"added": 1, "changed": 1, "removed": 1, "unchanged": 4}
    assert folder.model.encoded == 2
    assert folder.files() == [
        "green.png",
        "new/red again.jpg",
        "red.jpg",
        "sub/blue.webp",
        "sub/deep/white.gif",
        "sub/yellow.bmp",
    ]
    assert folder.best("green") != "green.png"


def test_touched_photo_is_read_but_not_embedded_and_then_not_even_read(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.update()
    os.utime(folder.photos / "red.jpg", ns=(OLD + 999, OLD + 999))
    assert _counts(folder.update()) == {"unchanged": 6}
    assert folder.model.encoded == 0
    # Now the photo could be garbage of the same size and time: nobody looks.
    size = (folder.photos / "red.jpg").stat().st_size
    (folder.photos / "red.jpg").write_bytes(b"x" * size)
    os.utime(folder.photos / "red.jpg", ns=(OLD + 999, OLD + 999))
    assert _counts(folder.update()) == {"unchanged": 6}


def test_photo_changed_right_after_it_was_read_is_noticed_at_the_same_time_and_size(folder: Folder) -> None:
    path = folder.photos / "now.bmp"
    paint(path, "red")
    folder.update()
    state = path.stat()
    paint(path, "blue")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert path.stat().st_size == state.st_size
    assert _counts(folder.update()) == {"changed": 1, "unchanged": 6}


def test_renamed_moved_and_copied_photos_keep_their_embedding(folder: Folder) -> None:
    folder.update()
    (folder.photos / "red.jpg").rename(folder.photos / "sub" / "rot.jpg")
    (folder.photos / "sub" / "deep").rename(folder.photos / "flat")
    shutil.copy2(folder.photos / "green.png", folder.photos / "copy.png")
    summary = folder.update(batch_size=1)
    assert _counts(summary) == {"renamed": 2, "added": 1, "unchanged": 4}
    assert folder.model.encoded == 0
    assert folder.files() == [
        "black.tiff",
        "copy.png",
        "flat/white.gif",
        "green.png",
        "sub/blue.webp",
        "sub/rot.jpg",
        "sub/yellow.bmp",
    ]
    assert folder.best("red") == "sub/rot.jpg"


@pytest.mark.parametrize("batch_size", [1, 32])
def test_two_photos_that_change_places(folder: Folder, batch_size: int) -> None:
    folder.paint("pair a.bmp", "red", 70)
    folder.paint("pair b.bmp", "blue", 71)
    folder.update()
    first, second = (folder.photos / f"pair {letter}.bmp" for letter in "ab")
    aside = first.rename(folder.photos / "aside")
    second.rename(first)
    aside.rename(second)
    assert _counts(folder.update(batch_size=batch_size)) == {"changed": 2, "unchanged": 6}
    with SearchEngine.open(folder.index, folder.model) as engine:
        for name in ("pair a.bmp", "pair b.bmp"):
            hit = engine.search_image(folder.photos / name, 1)[0]
            assert hit.file == name
            assert hit.score == pytest.approx(1.0, abs=1e-5)


def test_photo_moved_over_another_one(folder: Folder) -> None:
    folder.update()
    (folder.photos / "red.jpg").replace(folder.photos / "green.png")
    assert _counts(folder.update()) == {"changed": 1, "removed": 1, "unchanged": 4}
    assert folder.best("red") == "green.png"
    assert len(folder.files()) == 5


def test_unreadable_photos_are_listed_and_never_found(folder: Folder) -> None:
    folder.update()
    (folder.photos / "empty.jpg").write_bytes(b"")
    (folder.photos / "text.png").write_text("not a picture")
    whole = (folder.photos / "green.png").read_bytes()
    (folder.photos / "green.png").write_bytes(whole[: len(whole) // 2])
    (folder.photos / "gone.jpg").symlink_to("nowhere.jpg")
    summary = folder.update()
    assert _counts(summary) == {"failed": 4, "unchanged": 5}
    assert sorted(failure.file for failure in summary.failures) == [
        "empty.jpg",
        "gone.jpg",
        "green.png",
        "text.png",
    ]
    assert all(failure.reason and "\n" not in failure.reason for failure in summary.failures)
    assert "green.png" not in folder.files()
    (folder.photos / "green.png").write_bytes(whole)
    assert _counts(folder.update()) == {"added": 1, "failed": 3, "unchanged": 5}


@pytest.mark.timeout(60)
def test_a_pipe_with_a_photos_name_is_not_waited_for(folder: Folder) -> None:
    os.mkfifo(folder.photos / "pipe.jpg")
    summary = folder.update()
    assert _counts(summary) == {"added": 6, "failed": 1}
    assert [failure.file for failure in summary.failures] == ["pipe.jpg"]


def test_rotated_photo_is_indexed_the_right_way_up(folder: Folder) -> None:
    picture = Image.new("RGB", (40, 20), (200, 0, 0))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(folder.photos / "turned.jpg", exif=exif)
    folder.update()
    with SearchEngine.open(folder.index, folder.model) as engine:
        hit = engine.search_image(folder.photos / "turned.jpg", 1)[0]
    assert (hit.file, hit.width, hit.height) == ("turned.jpg", 20, 40)


def test_another_model_is_refused_until_a_rebuild(folder: Folder) -> None:
    folder.update()
    first = folder.model
    folder.model = ColourModel("other", scale=2.0)
    with pytest.raises(CrossAlignError, match=r"another model.*--rebuild"):
        folder.update()
    with pytest.raises(CrossAlignError, match="another model"):
        SearchEngine.open(folder.index, folder.model)
    summary = folder.update(rebuild=True)
    assert _counts(summary) == {"added": 6}
    assert summary.fingerprint == folder.model.fingerprint
    assert len(folder.files()) == 6
    with pytest.raises(CrossAlignError, match="another model"):
        SearchEngine.open(folder.index, first)
    assert sorted(path.name.partition("-")[0] for path in folder.index.iterdir()) == [
        "index.json",
        "lock",
        "store",
    ]


def test_the_old_index_serves_while_a_rebuild_has_not_finished(folder: Folder) -> None:
    folder.update()
    other = ColourModel("other")

    def refuse() -> None:
        if other.encoded >= 2:
            raise CrossAlignError("stop here")

    other.before_batch = refuse
    with pytest.raises(CrossAlignError, match="stop here"):
        update_index(other, folder.photos, folder.index, rebuild=True, batch_size=1)
    assert folder.best("red") == "red.jpg"
    assert _counts(folder.update()) == {"unchanged": 6}
    other.before_batch = lambda: None
    other.encoded = 0
    assert _counts(update_index(other, folder.photos, folder.index, rebuild=True)) == {
        "added": 4,
        "unchanged": 2,
    }
    assert other.encoded == 4


def test_an_interrupted_update_is_told_and_finished(folder: Folder) -> None:
    def stop() -> None:
        if folder.model.encoded >= 3:
            raise KeyboardInterrupt

    folder.model.before_batch = stop
    with pytest.raises(KeyboardInterrupt):
        folder.update(batch_size=1)
    folder.model.before_batch = lambda: None
    with SearchEngine.open(folder.index, folder.model) as engine:
        assert not engine.complete
        assert engine.count == 3
    assert _counts(folder.update()) == {"added": 3, "unchanged": 3}
    with SearchEngine.open(folder.index, folder.model) as engine:
        assert engine.complete


def test_folder_without_photos_leaves_the_index_alone(folder: Folder, tmp_path: Path) -> None:
    folder.update()
    shutil.move(folder.photos, tmp_path / "moved")
    with pytest.raises(CrossAlignError, match="no such folder"):
        folder.update()
    folder.photos.mkdir()
    with pytest.raises(CrossAlignError, match="no photos found"):
        folder.update()
    assert len(folder.files()) == 6


def test_moved_folder_is_followed_and_another_folder_is_refused(folder: Folder, tmp_path: Path) -> None:
    folder.update()
    other = paint(tmp_path / "other" / "a.jpg", "red").parent
    with pytest.raises(CrossAlignError, match=r"holds the photos of .*photos;"):
        update_index(folder.model, other, folder.index)
    folder.photos = folder.photos.rename(tmp_path / "moved")
    assert _counts(folder.update()) == {"unchanged": 6}
    with SearchEngine.open(folder.index, folder.model) as engine:
        assert not engine.search_text("red", 1)[0].missing
    assert _counts(update_index(folder.model, other, folder.index, rebuild=True)) == {"added": 1}


@pytest.mark.parametrize(
    "damage",
    [
        lambda index: (index / "index.json").write_text("{"),
        lambda index: shutil.rmtree(next(index.glob("store-*"))),
        lambda index: [path.unlink() for path in index.rglob("segment.json")],
        lambda index: _edit(index / "index.json", count=7),
    ],
    ids=["description", "no store", "segments", "count"],
)
def test_damaged_index_is_refused_in_one_line_and_a_rebuild_mends_it(
    folder: Folder, damage: Callable[[Path], object]
) -> None:
    folder.update()
    damage(folder.index)
    for attempt in (folder.files, folder.update):
        with pytest.raises(CrossAlignError, match=r"\A[^\n]*--rebuild[^\n]*\Z"):
            attempt()
    assert _counts(folder.update(rebuild=True)) == {"added": 6}
    assert len(folder.files()) == 6
    assert len(list(folder.index.glob("store-*"))) == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda store: shutil.rmtree(store),
        lambda store: [path.unlink() for path in store.rglob("segment.json")],
        lambda store: [os.truncate(path, 0) for path in store.rglob("status.dat")],
        lambda store: [_overwrite(path) for path in store.glob("segments/*/payload_storage/page_0.dat")],
    ],
    ids=["no store", "segments", "vectors", "payloads"],
)
def test_a_damaged_unfinished_rebuild_is_begun_anew(folder: Folder, damage: Callable[[Path], object]) -> None:
    folder.update()

    def stop() -> None:
        if folder.model.encoded >= 3:
            raise KeyboardInterrupt

    folder.model.before_batch = stop
    with pytest.raises(KeyboardInterrupt):
        folder.update(rebuild=True, batch_size=1)
    folder.model.before_batch = lambda: None
    damage(folder.index / read_manifest(folder.index / "rebuild.json").store)
    assert len(folder.files()) == 6
    assert _counts(folder.update(rebuild=True)) == {"added": 6}
    assert len(folder.files()) == 6
    assert len(list(folder.index.glob("store-*"))) == 1


def _overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"\xff" * 4096)


def test_opening_reads_no_vectors_and_notices_lost_ones(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.update()
    with monkeypatch.context() as patch:

        def scan(store: EdgeStore, count: int) -> None:
            raise AssertionError("every vector was read")

        patch.setattr(EdgeStore, "verify", scan)
        assert len(folder.files()) == 6
        with pytest.raises(AssertionError):
            folder.update()
    for path in folder.index.rglob("chunk_*.mmap"):
        path.unlink()
    with pytest.raises(CrossAlignError, match=r"damaged, 0 of 6 embeddings are there.*--rebuild"):
        folder.files()


def test_store_that_lost_files_is_whole_from_its_log_or_refused(folder: Folder) -> None:
    folder.update()
    shutil.rmtree(next(folder.index.glob("store-*")) / "segments")
    try:
        found = len(folder.files())
    except CrossAlignError as error:
        found = 6 if "--rebuild" in str(error) else 0
    assert found == 6


def _edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_damaged_descriptions(tmp_path: Path) -> None:
    path = tmp_path / "index.json"
    whole = Manifest(
        model="m", fingerprint="f", dim=4, views=1, photos="/p", store="store-0123abcd", created="2020-01-01"
    )
    write_manifest(path, whole)
    assert read_manifest(path) == whole
    for name, value in [
        ("format_version", 99),
        ("kind", "recipe"),
        ("dim", 0),
        ("dim", "wide"),
        ("store", "../photos"),
        ("store", "store-photos"),
        ("store", "store-0123abcde"),
        ("surprise", 1),
    ]:
        write_manifest(path, whole)
        _edit(path, **{name: value})
        with pytest.raises(CrossAlignError, match=r"index\.json.*--rebuild"):
            read_manifest(path)
    for content in (b"", b"[]", b"\xff"):
        path.write_bytes(content)
        with pytest.raises(CrossAlignError, match=r"index\.json.*--rebuild"):
            read_manifest(path)


def test_places_that_cannot_hold_an_index(folder: Folder, tmp_path: Path) -> None:
    with pytest.raises(CrossAlignError, match="photo folder itself"):
        update_index(folder.model, folder.photos, folder.photos)
    paint(tmp_path / "other" / "a.jpg", "red")
    with pytest.raises(CrossAlignError, match=r"holds other things \('a.jpg'\)"):
        update_index(folder.model, folder.photos, tmp_path / "other")
    (tmp_path / "file").write_text("")
    with pytest.raises(CrossAlignError, match="in the way"):
        update_index(folder.model, folder.photos, tmp_path / "file")


def _mine(place: Path, name: str) -> None:
    """A file or a folder of the user's."""
    if "." in name or name == "lock":
        (place / name).write_text('{"name": "my project"}')
    else:
        (place / name).mkdir()
        (place / name / "mine.txt").write_text("mine")


@pytest.mark.parametrize("rebuild", [False, True])
@pytest.mark.parametrize(
    "names",
    [
        ["store-photos"],
        ["store-2024", "store-0123abcd"],
        ["store-0123abcd"],
        ["store-0123ABCD"],
        ["index.json"],
        ["store-0123abcd", "lock"],
        [".hidden"],
    ],
    ids="+".join,
)
def test_a_folder_that_is_no_index_is_left_as_it_is(
    folder: Folder, tmp_path: Path, names: list[str], rebuild: bool
) -> None:
    place = tmp_path / "mine"
    place.mkdir()
    for name in names:
        _mine(place, name)
    before = sorted(place.rglob("*"))
    # Told before the model is loaded: there is none here.
    with pytest.raises(CrossAlignError, match=r"holds other things \('.*'\); give another --out"):
        update_index(tmp_path / "no model", folder.photos, place, rebuild=rebuild)
    assert sorted(place.rglob("*")) == before


def test_things_beside_an_index_are_kept(folder: Folder, tmp_path: Path) -> None:
    folder.update()
    _mine(folder.index, "store-photos")
    with pytest.raises(CrossAlignError, match="store-photos"):
        folder.update()
    assert (folder.index / "store-photos" / "mine.txt").is_file()
    (folder.index / "store-photos").rename(tmp_path / "elsewhere")
    (folder.index / "store-0123abcd").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CrossAlignError, match="store-0123abcd"):
        folder.update()
    assert (tmp_path / "elsewhere" / "mine.txt").is_file()


def test_nothing_is_removed_before_everything_is_checked(folder: Folder, tmp_path: Path) -> None:
    folder.update()
    left = folder.index / "store-0123abcd"
    left.mkdir()
    other = paint(tmp_path / "other" / "a.jpg", "red").parent
    for attempt, message in (
        (lambda: update_index(tmp_path / "none", folder.photos, folder.index), "no such model"),
        (lambda: update_index(ColourModel("other"), folder.photos, folder.index), "another model"),
        (lambda: update_index(folder.model, other, folder.index), "holds the photos of"),
    ):
        with pytest.raises(CrossAlignError, match=message):
            attempt()
        assert left.is_dir()
    assert _counts(folder.update()) == {"unchanged": 6}
    assert not left.exists()


def test_index_within_the_photo_folder_is_not_indexed(folder: Folder) -> None:
    folder.index = folder.photos / "index"
    folder.update()
    paint(next(folder.index.glob("store-*")) / "a.jpg", "red")
    assert _counts(folder.update()) == {"unchanged": 6}


def test_default_place_is_beside_the_photos(folder: Folder) -> None:
    update_index(folder.model, folder.photos)
    assert default_index(folder.photos) == folder.photos.resolve().with_name("photos.index")
    assert (default_index(folder.photos) / "index.json").is_file()


def test_index_in_use_is_refused_by_name(folder: Folder) -> None:
    folder.update()
    with (
        SearchEngine.open(folder.index, folder.model),
        pytest.raises(CrossAlignError, match=rf"process {os.getpid()} \(crossalign search\) since \d"),
    ):
        folder.update()
    with IndexLock(folder.index, "a test"), pytest.raises(CrossAlignError, match="a test"):
        SearchEngine.open(folder.index, folder.model, wait=0.1)
    assert _counts(folder.update()) == {"unchanged": 6}


def test_embeddings_that_are_not_finite_or_of_another_shape_are_refused(folder: Folder) -> None:
    folder.update()
    folder.paint("new.jpg", "red", 90)
    folder.model.scale = float("nan")
    with pytest.raises(CrossAlignError, match="not finite"):
        folder.update()
    folder.model.scale = 1.0
    folder.model.views = 3
    with pytest.raises(CrossAlignError, match="3 embeddings of width 48"):
        folder.update()
    folder.model.views = None
    assert _counts(folder.update()) == {"added": 1, "unchanged": 6}
