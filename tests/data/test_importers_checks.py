"""Every kind of problem is found, named and counted before anything is written, and can be left out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from crossalign.data import CaptionRecord, Collection, ImageRecord
from crossalign.data.importers import Source, SourceProblemsError, SplitChoice, import_source
from crossalign.data.importers.checks import problem_report
from crossalign.data.importers.source import Problem, read_lines
from crossalign.data.importers.splits import assign_splits, parse_sizes
from crossalign.errors import CrossAlignError


@pytest.fixture
def source(tiny_photos: Callable) -> Source:
    photos = tiny_photos(6)
    return Source(
        photos.folder,
        [ImageRecord(name, name, 0, 0) for name in photos.names],
        [
            CaptionRecord(f"{name}#{k}", name, text, "train")
            for name in photos.names
            for k, text in enumerate(photos.captions[name])
        ],
        provenance={"format": "test"},
    )


def problems_of(source: Source, out: Path, **settings: object) -> dict[str, list[str]]:
    with pytest.raises(SourceProblemsError) as caught:
        import_source(source, out, called="source", **settings)  # type: ignore[arg-type]
    assert not out.exists()
    groups: dict[str, list[str]] = {}
    for problem in caught.value.problems:
        groups.setdefault(problem.kind, []).append(problem.name)
    return groups


def left_out(source: Source, out: Path) -> tuple[Collection, dict[str, int]]:
    collection = import_source(source, out, called="source", skip_bad=True)
    return collection, collection.provenance["skipped"]


def test_good_source_with_sizes_from_the_files(source: Source, tmp_path: Path, tiny_photos: Callable) -> None:
    collection = import_source(source, tmp_path / "c", called="source")
    sizes = tiny_photos(6).sizes
    assert {image.id: (image.width, image.height) for image in collection.images} == sizes
    counts = [1, 2, 3, 1, 2, 3]
    assert collection.split("train").image_of_text.tolist() == [i for i in range(6) for _ in range(counts[i])]
    assert collection.provenance["skipped"] == {}
    assert collection.name == "c"


def test_turned_photos_have_the_size_they_are_seen_in(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "turned.jpg", exif=exif)
    source = Source(tmp_path, [ImageRecord("t", "turned.jpg", 0, 0)], [CaptionRecord("1", "t", "x", "train")])
    (image,) = import_source(source, tmp_path / "c", called="source").images
    assert (image.width, image.height) == (20, 40)


def test_bad_photos(source: Source, tmp_path: Path) -> None:
    names = [image.file for image in source.images]
    whole = (source.image_root / names[0]).read_bytes()
    (source.image_root / names[0]).write_bytes(
        whole[: len(whole) * 2 // 3]
    )  # a JPEG cut short: its header is good
    whole = (source.image_root / names[1]).read_bytes()
    (source.image_root / names[1]).write_bytes(whole[: len(whole) * 2 // 3])  # a PNG cut short
    (source.image_root / names[2]).unlink()
    (source.image_root / names[3]).write_text("not a picture")
    (tmp_path / "outside.png").write_bytes((source.image_root / names[5]).read_bytes())
    source.images[5] = replace(source.images[5], file="sub/../../outside.png")
    source.images.append(ImageRecord("nul", "a\0b.jpg", 0, 0))
    source.captions.append(CaptionRecord("n", "nul", "text", "train"))
    groups = problems_of(source, tmp_path / "c")
    assert [name.split(" ")[0] for name in groups["broken images"]] == [names[0], names[1], names[3]]
    assert groups["missing image files"][0] == names[2]
    assert groups["missing image files"][1].startswith("a\0b.jpg")
    assert groups["image paths outside the image folder"] == ["sub/../../outside.png"]
    assert set(groups) == {"broken images", "missing image files", "image paths outside the image folder"}
    collection, skipped = left_out(source, tmp_path / "c")
    assert [image.id for image in collection.images] == [names[4]]
    assert collection.split("train").image_ids == (names[4],)
    assert skipped == {
        "broken images": 3,
        "missing image files": 2,
        "image paths outside the image folder": 1,
    }


def test_absolute_paths_and_links_are_followed(source: Source, tmp_path: Path) -> None:
    place = tmp_path / "elsewhere.png"
    (source.image_root / source.images[1].file).rename(place)
    source.images[1] = replace(source.images[1], file=str(place))
    (source.image_root / "link.jpg").symlink_to(source.images[0].file)
    source.images[0] = replace(source.images[0], file="link.jpg")
    collection = import_source(source, tmp_path / "c", called="source")
    assert collection.image_path(source.images[1].id) == place


def test_bad_captions(source: Source, tmp_path: Path) -> None:
    names = [image.id for image in source.images]
    source.captions += [
        CaptionRecord("empty", names[1], "", "train"),
        CaptionRecord("half", names[1], "half a pair \ud800", "train"),
        CaptionRecord("lost", "no such image", "text", "train"),
        CaptionRecord(f"{names[2]}#0", names[2], "the id of another caption", "train"),
        CaptionRecord("leak", names[2], "also in test", "test"),
    ]
    source.images.append(ImageRecord("alone", names[0], 0, 0))
    groups = problems_of(source, tmp_path / "c")
    assert groups == {
        "empty captions": [f"empty of {names[1]}"],
        "captions that are not UTF-8": [f"half of {names[1]}"],
        "captions for unknown images": ["lost of no such image"],
        "duplicate caption ids": [f"{names[2]}#0"],
        "images in more than one split": [f"{names[2]} (train and test)"],
        "images without captions": ["alone"],
    }
    collection, skipped = left_out(source, tmp_path / "c")
    assert set(skipped.values()) == {1}
    assert collection.splits == ("train",)
    assert "alone" not in {image.id for image in collection.images}
    train = collection.split("train")
    assert train.texts[train.caption_ids.index(f"{names[2]}#0")].startswith("A blue square")
    assert len(train.texts) == 12


def test_one_photo_under_two_ids_is_in_one_split(source: Source, tmp_path: Path) -> None:
    names = [image.id for image in source.images]
    assert source.image_root is not None
    (source.image_root / "link.jpg").symlink_to(names[1])
    again = [("same", names[0], "test"), ("linked", "link.jpg", "test"), ("twin", names[2], "train")]
    source.images += [ImageRecord(name, file, 0, 0) for name, file, _ in again]
    source.captions += [CaptionRecord(f"{name}#0", name, "once more", split) for name, _, split in again]
    assert problems_of(source, tmp_path / "c") == {
        "images in more than one split": [
            f"{names[0]} ({names[0]} in train, same in test)",
            f"link.jpg ({names[1]} in train, linked in test)",
        ]
    }
    collection, skipped = left_out(source, tmp_path / "c")
    assert collection.splits == ("train",)
    assert set(collection.split("train").image_ids) == {*names, "twin"}
    assert skipped == {"images in more than one split": 2}


def test_drawn_splits_keep_the_ids_of_one_photo_together(source: Source, tmp_path: Path) -> None:
    twins = [ImageRecord(f"0-{image.id}", image.file, 0, 0) for image in source.images]
    source.images += twins
    source.captions += [CaptionRecord(f"{twin.id}#0", twin.id, "once more", "train") for twin in twins]
    for seed in range(5):
        out = tmp_path / str(seed)
        choice = SplitChoice(sizes={"test": 2}, seed=seed)
        collection = import_source(source, out, called="source", splits=choice)
        test = collection.split("test").image_ids
        assert len(test) == 4
        assert len({collection.image(image_id).file for image_id in test}) == 2
        source.images.reverse()
        again = import_source(source, out, called="source", splits=choice, overwrite=True)
        assert set(again.split("test").image_ids) == set(test)


def test_an_image_whose_captions_are_all_bad_is_left_out(source: Source, tmp_path: Path) -> None:
    source.captions[0] = replace(source.captions[0], text="")
    groups = problems_of(source, tmp_path / "c")
    assert groups["images without captions"] == [source.images[0].id]
    collection, _ = left_out(source, tmp_path / "c")
    assert len(collection.images) == 5


def test_an_id_of_two_files_is_ambiguous_and_a_repeat_is_not(source: Source, tmp_path: Path) -> None:
    first, second = source.images[0], source.images[1]
    source.images.append(first)
    collection = import_source(source, tmp_path / "repeat", called="source")
    assert len(collection.images) == 6
    source.images.append(ImageRecord(first.id, second.file, 0, 0))
    groups = problems_of(source, tmp_path / "c")
    assert groups == {"duplicate image ids": [f"{first.id} ({first.file} and {second.file})"]}
    collection, skipped = left_out(source, tmp_path / "c")
    assert first.id not in {image.id for image in collection.images}
    assert skipped == {"duplicate image ids": 1}


def test_labels_must_agree(source: Source, tmp_path: Path) -> None:
    first = source.images[0]
    source.images += [replace(first, label="bird"), replace(source.images[1], label="cat")]
    collection = import_source(source, tmp_path / "good", called="source")
    assert [image.label for image in collection.images[:3]] == ["bird", "cat", None]
    source.images.append(replace(first, label="dog"))
    assert problems_of(source, tmp_path / "c") == {
        "images with more than one label": [f"{first.id} (bird and dog)"]
    }


def test_names_that_cannot_be_stored(source: Source, tmp_path: Path) -> None:
    source.images += [ImageRecord("bad\udcff", "bad\udcff.jpg", 0, 0), ImageRecord(" ", "blank.jpg", 0, 0)]
    source.captions += [
        CaptionRecord("b", "bad\udcff", "text", "train"),
        CaptionRecord("c", " ", "text", "train"),
    ]
    groups = problems_of(source, tmp_path / "c")
    assert groups == {"names that are not UTF-8": ["bad\udcff.jpg"], "malformed entries": ["blank.jpg"]}
    assert problem_report([Problem("kind", "bad\udcff\x1b[31m")]) == ["  kind (1): bad\\udcff\\x1b[31m"]


def test_the_report_shows_ten_names_of_a_kind() -> None:
    lines = problem_report([Problem("k", str(i)) for i in range(22)] + [Problem("other", "x")])
    assert lines == ["  k (22): 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, and 12 more", "  other (1): x"]


def test_nothing_good_left(source: Source, tmp_path: Path) -> None:
    for image in source.images:
        (source.image_root / image.file).unlink()
    with pytest.raises(CrossAlignError, match="no images with captions, all of them were left out"):
        import_source(source, tmp_path / "c", called="source", skip_bad=True)
    assert not (tmp_path / "c").exists()


def test_the_image_folder_must_be_there(source: Source, tmp_path: Path) -> None:
    source.image_root = tmp_path / "none"
    with pytest.raises(CrossAlignError, match="none: no such folder of images"):
        import_source(source, tmp_path / "c", called="source")


def test_importing_again_gives_the_same_bytes(source: Source, tmp_path: Path) -> None:
    for name in ("one", "two"):
        import_source(source, tmp_path / name, called="source", name="same")
    for file in ("collection.json", "images.parquet", "captions.parquet"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_a_source_without_splits_needs_a_choice(source: Source, tmp_path: Path) -> None:
    source.captions = [replace(caption, split="") for caption in source.captions]
    with pytest.raises(
        CrossAlignError, match=r"source: it does not say which split caption 'photo000.jpg#0'"
    ):
        import_source(source, tmp_path / "c", called="source")
    collection = import_source(source, tmp_path / "c", called="source", splits=SplitChoice("test"))
    assert collection.splits == ("test",)


def test_drawn_splits_keep_an_image_together_and_ignore_its_order(source: Source, tmp_path: Path) -> None:
    choice = SplitChoice(sizes={"val": 1 / 6, "test": 2}, seed=1)
    collection = import_source(source, tmp_path / "c", called="source", splits=choice)
    ids = {name: collection.split(name).image_ids for name in collection.splits}
    assert {name: len(images) for name, images in ids.items()} == {"train": 3, "val": 1, "test": 2}
    assert len({image for images in ids.values() for image in images}) == 6
    source.images.reverse()
    source.captions.reverse()
    again = import_source(source, tmp_path / "d", called="source", splits=choice)
    assert {name: set(again.split(name).image_ids) for name in again.splits} == {
        k: set(v) for k, v in ids.items()
    }
    assert collection.provenance["splits"] == {"name": None, "sizes": {"val": 1 / 6, "test": 2}, "seed": 1}


def test_another_seed_draws_other_splits() -> None:
    ids = [str(i) for i in range(100)]
    captions = [CaptionRecord(f"c{i}", i, "text", "") for i in ids]
    draws = [
        tuple(
            c.split
            for c in assign_splits(captions, {i: i for i in ids}, SplitChoice(sizes={"test": 0.2}, seed=seed))
        )
        for seed in (0, 0, 1)
    ]
    assert draws[0] == draws[1] != draws[2]
    assert all(draw.count("test") == 20 for draw in draws)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"val": 0.01}, "6 images are too few"),
        ({"val": 6}, "6 images are too few"),
        ({"val": 0.5, "test": 0.5}, "the fractions add up to 1, which leaves nothing for train"),
    ],
)
def test_sizes_that_leave_a_split_empty(
    source: Source, tmp_path: Path, sizes: dict[str, float], message: str
) -> None:
    with pytest.raises(CrossAlignError, match=message):
        import_source(source, tmp_path / "c", called="source", splits=SplitChoice(sizes=sizes))


@pytest.mark.parametrize(
    "text", ["", "val", "val=", "val=x", "val=-1", "val=0", "val=1.5", "=1", "val=nan", "a=1,a=2"]
)
def test_bad_sizes(text: str) -> None:
    with pytest.raises(CrossAlignError, match="--split-sizes"):
        parse_sizes(text)


def test_good_sizes() -> None:
    assert parse_sizes("val=0.1, test=1000") == {"val": 0.1, "test": 1000}
    with pytest.raises(CrossAlignError, match="'train' gets"):
        parse_sizes("train=0.5")
    with pytest.raises(CrossAlignError, match="exclude each other"):
        SplitChoice("train", {"val": 0.1})


def test_lines_end_with_line_feeds_only(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\xe2\x80\xa8still two\n\n\xff bad\nlast")
    assert list(read_lines(path)) == [(1, "one"), (2, "two\u2028still two"), (3, ""), (4, None), (5, "last")]


def test_provenance_counts_what_was_skipped(source: Source, tmp_path: Path) -> None:
    source.captions[3] = replace(source.captions[3], text="")
    import_source(source, tmp_path / "c", called="source", skip_bad=True)
    document = json.loads((tmp_path / "c" / "collection.json").read_text())
    assert document["provenance"]["skipped"] == {"empty captions": 1}
    assert document["provenance"]["format"] == "test"
