"""Each format of photos with captions is read as its field writes it, damage included."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crossalign.data.importers import (
    Columns,
    Source,
    SplitChoice,
    import_source,
    read_cusa,
    read_folder,
    read_karpathy,
    read_table,
)
from crossalign.data.importers.cusa import split_in_name
from crossalign.errors import CrossAlignError


def texts(source: Source) -> list[tuple[str, str, str, str]]:
    return [(c.id, c.image_id, c.text, c.split) for c in source.captions]


def problems(source: Source) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for problem in source.problems:
        groups.setdefault(problem.kind, []).append(problem.name)
    return groups


# --- Karpathy JSON --------------------------------------------------------------------------------


def karpathy_file(folder: Path, images: Any) -> Path:
    path = folder / "dataset.json"
    path.write_text(json.dumps({"dataset": "x", "images": images}))
    return path


def coco(name: str, cocoid: int, split: str, *sentences: tuple[int, str], **more: Any) -> dict[str, Any]:
    return {
        "filename": name,
        "cocoid": cocoid,
        "split": split,
        "imgid": cocoid % 10,
        "sentences": [{"raw": raw, "sentid": sentid, "tokens": []} for sentid, raw in sentences],
        **more,
    }


def test_karpathy_keeps_ids_and_folds_restval(tmp_path: Path) -> None:
    path = karpathy_file(
        tmp_path,
        [
            coco("a.jpg", 391895, "restval", (770337, " A man. "), (771687, "A bike.")),
            coco("b.jpg", 17, "test", (9, "B")),
        ],
    )
    source = read_karpathy(path, tmp_path)
    assert [(i.id, i.file) for i in source.images] == [("391895", "a.jpg"), ("17", "b.jpg")]
    assert texts(source) == [
        ("770337", "391895", "A man.", "train"),
        ("771687", "391895", "A bike.", "train"),
        ("9", "17", "B", "test"),
    ]
    kept = read_karpathy(path, tmp_path, fold_restval=False, image_ids="filename")
    assert (kept.captions[0].image_id, kept.captions[0].split) == ("a.jpg", "restval")
    assert [i.id for i in read_karpathy(path, tmp_path, image_ids="imgid").images] == ["5", "7"]


def test_karpathy_without_coco_ids_takes_file_names(tmp_path: Path) -> None:
    entry = {"filename": "1.jpg", "split": "val", "sentences": [{"raw": "x"}, {"raw": "y"}]}
    source = read_karpathy(karpathy_file(tmp_path, [entry]), tmp_path)
    assert texts(source) == [("1.jpg#0", "1.jpg", "x", "val"), ("1.jpg#1", "1.jpg", "y", "val")]


def test_karpathy_filepath_is_used_unless_photos_lie_together(tmp_path: Path) -> None:
    (tmp_path / "val2014").mkdir()
    (tmp_path / "val2014" / "nested.jpg").touch()
    (tmp_path / "flat.jpg").touch()
    names = ("nested.jpg", "flat.jpg", "nowhere.jpg")
    path = karpathy_file(
        tmp_path, [coco(n, i, "val", (i, "x"), filepath="val2014") for i, n in enumerate(names)]
    )
    files = [image.file for image in read_karpathy(path, tmp_path).images]
    assert files == ["val2014/nested.jpg", "flat.jpg", "val2014/nowhere.jpg"]


def test_karpathy_damage_is_named(tmp_path: Path) -> None:
    path = karpathy_file(
        tmp_path,
        [
            "text",
            {"filename": 3},
            coco("a.jpg", 1, "train", (1, "")),
            {"filename": "b.jpg", "split": "train", "sentences": ["x", {"raw": None}]},
            {"filename": "c.jpg", "split": 4},
            {"filename": "d.jpg", "split": "train", "sentences": {}},
        ],
    )
    source = read_karpathy(path, tmp_path)
    assert problems(source) == {
        "malformed entries": [
            "images[0] (no 'filename')",
            "images[1] (no 'filename')",
            "images[3].sentences[0] (no 'raw')",
            "images[3].sentences[1] (no 'raw')",
            "images[4] ('split' is not a name)",
            "images[5] ('sentences' is not a list)",
        ]
    }
    assert problems(read_karpathy(path, tmp_path, image_ids="cocoid"))["malformed entries"][2] == (
        "images[3] (no 'cocoid')"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[]", "no list 'images'"),
        (b'{"images": 3}', "no list 'images'"),
        (b'{"images": [\n}', "not valid JSON .line 2"),
        (b"[" * 100_000, "nested too deeply|not valid JSON"),
    ],
)
def test_karpathy_wrong_file(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(CrossAlignError, match=message):
        read_karpathy(path, tmp_path)
    with pytest.raises(CrossAlignError, match="no such file"):
        read_karpathy(tmp_path / "none.json", tmp_path)


def test_karpathy_with_latin_1_bytes_names_the_caption(tmp_path: Path, tiny_photos: Callable) -> None:
    photos = tiny_photos(2)
    content = json.dumps(
        {"images": [coco(n, i, "train", (10 + i, "a cafe")) for i, n in enumerate(photos.names)]}
    )
    path = tmp_path / "x.json"
    path.write_bytes(content.encode().replace(b"cafe", b"caf\xe9", 1))
    with pytest.raises(CrossAlignError, match=r"captions that are not UTF-8 \(1\): 10 of 0\n"):
        import_source(read_karpathy(path, photos.folder), tmp_path / "c", called="x.json")


# --- Tables ---------------------------------------------------------------------------------------


def test_csv_with_all_columns(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(
        b"\xef\xbb\xbfcaption_id,image,caption,split,label,image_id\r\n"
        b'c1,./birds/1.jpg,"A red, small bird says ""hi""",train,cardinal,bird-1\r\n'
        b"c2,birds/1.jpg, Second caption ,train,cardinal,bird-1\r\n"
        b'c3,birds/2.jpg,"two\nlines",test,,bird-2\r\n'
    )
    source = read_table(path)
    assert source.image_root == tmp_path
    assert {(i.id, i.file, i.label) for i in source.images} == {
        ("bird-1", "birds/1.jpg", "cardinal"),
        ("bird-2", "birds/2.jpg", None),
    }
    assert texts(source) == [
        ("c1", "bird-1", 'A red, small bird says "hi"', "train"),
        ("c2", "bird-1", "Second caption", "train"),
        ("c3", "bird-2", "two\nlines", "test"),
    ]
    assert source.problems == []


def test_tsv_keeps_quotation_marks_and_other_names(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    path.write_text('url\ttext\n1.jpg\t"Hello" he said, twice\n\n1.jpg\tsecond\n2.jpg\tthird\n')
    source = read_table(path, columns=Columns(image="url", caption="text"))
    assert texts(source) == [
        ("1.jpg#0", "1.jpg", '"Hello" he said, twice', ""),
        ("1.jpg#1", "1.jpg", "second", ""),
        ("2.jpg#0", "2.jpg", "third", ""),
    ]
    quoted = tmp_path / "q.tsv"
    quoted.write_text('image\tcaption\n1.jpg\t"a\tb"\n')
    assert read_table(quoted, quotes=True).captions[0].text == "a\tb"


def test_other_delimiters(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_text("image|caption\n1.jpg|a, b\n")
    assert read_table(path, delimiter="|").captions[0].text == "a, b"
    with pytest.raises(CrossAlignError, match="not a single character"):
        read_table(path, delimiter="||")


def test_table_damage_is_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(
        b"image,caption,split\n1.jpg,caf\xe9,train\n1.jpg,good,train\n2.jpg,unquoted, comma,train\n"
        b"3.jpg\n,x,train\n4.jpg,no split, \n"
    )
    source = read_table(path)
    assert problems(source) == {
        "captions that are not UTF-8": ["t.csv line 2"],
        "malformed entries": [
            "t.csv line 4 (4 columns instead of 3)",
            "t.csv line 5 (1 columns instead of 3)",
            "t.csv line 6 (no image)",
            "t.csv line 7 (no split)",
        ],
    }
    assert [c.text for c in source.captions] == ["good"]


def test_table_wrong_file(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("file,caption\n1.jpg,x\n")
    with pytest.raises(CrossAlignError, match="no column 'image'; it has file, caption"):
        read_table(path)
    path.write_text('image,caption\n1.jpg,"never closed\n2.jpg,x\n')
    with pytest.raises(CrossAlignError, match="unexpected end of data"):
        read_table(path)
    path.write_bytes(b"")
    with pytest.raises(CrossAlignError, match="it has none"):
        read_table(path)
    path.write_bytes("image,caption\n1.jpg,x\n".encode("utf-16"))
    with pytest.raises(CrossAlignError, match="no column 'image'"):
        read_table(path)
    with pytest.raises(CrossAlignError, match="no such file"):
        read_table(tmp_path / "none.csv")


@pytest.mark.parametrize("column", ["split", "label", "image_id", "caption_id"])
def test_a_column_that_was_named_must_be_there(tmp_path: Path, column: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text("image,caption\n1.jpg,x\n")
    option = f"--{column.replace('_', '-')}-column"
    with pytest.raises(CrossAlignError, match=rf"no column 'kind'; it has image, caption .*{option}"):
        read_table(path, columns=Columns(**{column: "kind"}))
    path.write_text("image,caption,kind\n1.jpg,x,y\n")
    source = read_table(path, columns=Columns(**{column: "kind"}))
    (image,), (caption,) = source.images, source.captions
    found = {
        "split": caption.split, "label": image.label, "image_id": image.id, "caption_id": caption.id,
    }  # fmt: skip
    assert found[column] == "y"


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("image,caption,split, caption\n1.jpg,x,train,y\n")
    with pytest.raises(CrossAlignError, match=r"t\.csv: 2 columns are named 'caption'; rename"):
        read_table(path)
    path.write_text("image,caption,,\n1.jpg,x,,\n")
    assert [caption.text for caption in read_table(path).captions] == ["x"]


# --- Folders --------------------------------------------------------------------------------------


def test_folder_with_flickr_captions(tmp_path: Path, tiny_photos: Callable) -> None:
    photos = tiny_photos(2)
    captions = tmp_path / "Flickr8k.token.txt"
    captions.write_text("photo001.png#1\tsecond\nphoto000.jpg#0\tfirst , really\nphoto001.png#0\tthird\n")
    source = read_folder(photos.folder, captions)
    assert [i.id for i in source.images] == ["photo000.jpg", "photo001.png"]
    assert texts(source) == [
        ("photo001.png#1", "photo001.png", "second", ""),
        ("photo000.jpg#0", "photo000.jpg", "first , really", ""),
        ("photo001.png#0", "photo001.png", "third", ""),
    ]


def test_folder_with_commas_a_header_and_subfolders(tiny_photos: Callable) -> None:
    folder = tiny_photos(1).folder
    tiny_photos(1, folder / "a, b")
    (folder / "captions.txt").write_text(
        'image,caption\nphoto000.jpg,one, two\na, b/photo000.jpg,"quoted ""x"", too"\n'
        'photo000.jpg,"A" and "B"\n\n./a, b/photo000.jpg,again\n'
    )
    source = read_folder(folder)
    assert texts(source) == [
        ("photo000.jpg#0", "photo000.jpg", "one, two", ""),
        ("a, b/photo000.jpg#0", "a, b/photo000.jpg", 'quoted "x", too', ""),
        ("photo000.jpg#1", "photo000.jpg", '"A" and "B"', ""),
        ("a, b/photo000.jpg#1", "a, b/photo000.jpg", "again", ""),
    ]
    assert [i.id for i in source.images] == ["a, b/photo000.jpg", "photo000.jpg"]


def test_folder_with_a_text_beside_every_photo(tiny_photos: Callable) -> None:
    folder = tiny_photos(3).folder
    tiny_photos(1, folder / ".hidden")
    (folder / "photo000.txt").write_text("first\n\nsecond\n")
    (folder / "photo001.txt").write_bytes(b"good\ncaf\xe9\n")
    (folder / "README.txt").write_text("about")
    source = read_folder(folder)
    assert texts(source) == [
        ("photo000.jpg#0", "photo000.jpg", "first", ""),
        ("photo000.jpg#1", "photo000.jpg", "second", ""),
        ("photo001.png#0", "photo001.png", "good", ""),
    ]
    assert problems(source) == {
        "captions for unknown images": ["README.txt"],
        "captions that are not UTF-8": ["photo001.txt line 2"],
    }
    assert len(source.images) == 3  # the third has no caption: the checks say so


def test_folder_damage_is_named_by_line(tmp_path: Path, tiny_photos: Callable) -> None:
    folder = tiny_photos(1).folder
    path = tmp_path / "captions"
    path.write_bytes(b"photo000.jpg\tgood\nno separator\nphoto000.jpg\tcaf\xe9\nlost.jpg\tx\nlost.jpg\ty\n")
    source = read_folder(folder, path)
    assert problems(source) == {
        "malformed entries": ["captions line 2 (not 'name<TAB>caption' or 'name.jpg,caption')"],
        "captions that are not UTF-8": ["captions line 3"],
    }
    with pytest.raises(CrossAlignError, match=r"missing image files \(1\): lost.jpg"):
        import_source(source, tmp_path / "c", called="captions", splits=SplitChoice("train"))


def test_folder_with_links_in_a_circle(tmp_path: Path, tiny_photos: Callable) -> None:
    photos = tmp_path / "photos"
    tiny_photos(2, photos / "z")
    tiny_photos(1, tmp_path / "elsewhere")
    (photos / "z" / "up").symlink_to(photos)
    (photos / "a").symlink_to(photos / "z")  # comes first by its name, but is not the real one
    (photos / "itself").symlink_to("itself")
    (photos / "b").symlink_to(tmp_path / "elsewhere")
    (photos / "c").symlink_to(tmp_path / "elsewhere")
    names = [image.id for image in read_folder(photos).images]
    assert names == ["b/photo000.jpg", "z/photo000.jpg", "z/photo001.png"]


def test_folder_that_cannot_be_listed(tiny_photos: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_photos(1).folder
    (folder / "locked").mkdir()
    listed = os.scandir

    def refusing(path: Any) -> Any:
        if Path(path).name == "locked":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(CrossAlignError, match=r"locked: folder cannot be listed \(Permission denied\); mend"):
        read_folder(folder)


def test_folder_wrong_place(tmp_path: Path, tiny_photos: Callable) -> None:
    with pytest.raises(CrossAlignError, match="no photos"):
        read_folder(tmp_path)
    with pytest.raises(CrossAlignError, match="no such folder"):
        read_folder(tmp_path / "none")
    with pytest.raises(CrossAlignError, match="no such file of captions"):
        read_folder(tiny_photos(1).folder, tmp_path / "none.txt")


# --- Lists of image-caption pairs -----------------------------------------------------------------


def test_cusa_one_file_a_split_and_lists_of_captions(tmp_path: Path) -> None:
    train, test = tmp_path / "new_train.json", tmp_path / "new_test.json"
    train.write_text(
        json.dumps(
            [
                {"image_path": "./images/a.jpg", "caption": "one", "image_id": "a.jpg"},
                {"image_path": "./images/b.jpg", "caption": "two", "image_id": 7},
                {"image_path": "./images/a.jpg", "caption": " three ", "image_id": "a.jpg"},
            ]
        )
    )
    test.write_text(json.dumps([{"image": "images/c.jpg", "caption": ["x", "y"]}]))
    source = read_cusa([train, test])
    assert source.image_root == tmp_path
    assert texts(source) == [
        ("a.jpg#0", "a.jpg", "one", "train"),
        ("7#0", "7", "two", "train"),
        ("a.jpg#1", "a.jpg", "three", "train"),
        ("images/c.jpg#0", "images/c.jpg", "x", "test"),
        ("images/c.jpg#1", "images/c.jpg", "y", "test"),
    ]
    assert {i.file for i in source.images} == {"images/a.jpg", "images/b.jpg", "images/c.jpg"}
    named = read_cusa([train, test], splits=["dev", "extra"])
    assert [c.split for c in named.captions] == ["dev", "dev", "dev", "extra", "extra"]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("new_train.json", "train"),
        ("coco-VAL.json", "val"),
        ("trains.json", ""),
        ("train_test.json", ""),
        ("dev2.json", "dev"),
    ],
)
def test_splits_in_file_names(name: str, split: str) -> None:
    assert split_in_name(Path(name)) == split


def test_cusa_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "new_train.json"
    good = {"image_path": "a.jpg", "caption": "x", "image_id": "a"}
    path.write_text(
        json.dumps([3, {"caption": "x"}, {**good, "caption": 4}, {**good, "caption": ["x", None]}, good])
    )
    source = read_cusa([path])
    assert problems(source) == {
        "malformed entries": [
            "new_train.json[0] (not an object)",
            "new_train.json[1] (no 'image_path')",
            "new_train.json[2] ('caption' is neither text nor a list of texts)",
            "new_train.json[3] ('caption' is neither text nor a list of texts)",
        ]
    }
    assert len(source.captions) == 1


def test_cusa_wrong_files(tmp_path: Path) -> None:
    path = tmp_path / "new_train.json"
    path.write_text("{}")
    with pytest.raises(CrossAlignError, match="not a list"):
        read_cusa([path])
    with pytest.raises(CrossAlignError, match="2 splits for 1 files"):
        read_cusa([path], splits=["a", "b"])
    with pytest.raises(CrossAlignError, match="no such file"):
        read_cusa([tmp_path / "none.json"])
    with pytest.raises(CrossAlignError, match="no JSON file given"):
        read_cusa([])


# --- Real data ------------------------------------------------------------------------------------


def test_the_same_real_photos_through_two_formats(tmp_path: Path, shared_data: Path) -> None:
    folder = shared_data / "coco-train600"
    karpathy = import_source(
        read_karpathy(folder / "dataset_coco.json", folder / "images"), tmp_path / "k", called="karpathy"
    )
    cusa = import_source(read_cusa([folder / "new_train.json"]), tmp_path / "c", called="cusa")
    document = json.loads((folder / "dataset_coco.json").read_text())["images"]
    first, second = karpathy.split("train"), cusa.split("train")
    assert first.image_ids == tuple(str(entry["cocoid"]) for entry in document)
    assert second.image_ids == tuple(entry["filename"] for entry in document)
    assert first.texts == second.texts == tuple(s["raw"].strip() for e in document for s in e["sentences"])
    assert first.image_of_text.tolist() == second.image_of_text.tolist()
    sizes = [(entry["width"], entry["height"]) for entry in document]
    assert [(i.width, i.height) for i in karpathy.images] == sizes
    assert karpathy.image_path(first.image_ids[0]).samefile(cusa.image_path(second.image_ids[0]))
    assert karpathy.summary()["splits"]["train"]["captions_per_image"]["max"] == 6
