"""Sets of photos with classes in the layouts of the field; what is damaged is refused with one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from crossalign.errors import CrossAlignError
from crossalign.suite.class_layouts import LabelledPhotos, read_labelled_photos


def put(folder: Path, *files: str) -> None:
    for file in files:
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"photo")


def told(photos: LabelledPhotos, folder: Path) -> list[tuple[str, int]]:
    return [
        (str(path.relative_to(folder)), int(label))
        for path, label in zip(photos.paths, photos.label, strict=True)
    ]


def test_a_folder_a_class(tmp_path: Path) -> None:
    put(tmp_path, "cat/a.jpg", "cat/b.PNG", "dog/a.jpg", "dog/.hidden.jpg", "dog/notes.txt")
    photos = read_labelled_photos(tmp_path)
    assert told(photos, tmp_path) == [("cat/a.jpg", 0), ("cat/b.PNG", 0), ("dog/a.jpg", 1)]
    assert photos.query.tolist() == photos.gallery.tolist() == [0, 1, 2]
    assert photos.classes == 2


def test_nested_folders_are_classes_by_their_whole_place(tmp_path: Path) -> None:
    put(tmp_path, "birds/1/a.jpg", "birds/1/b.jpg", "plants/1/a.jpg")
    assert [label for _, label in told(read_labelled_photos(tmp_path), tmp_path)] == [0, 0, 1]


def test_cub_tests_on_the_later_classes(tmp_path: Path) -> None:
    put(tmp_path, "images/100.x/a.jpg", "images/101.y/a.jpg", "images/101.y/b.jpg", "images/102.z/a.jpg")
    (tmp_path / "images.txt").write_text("1 100.x/a.jpg\n2 101.y/a.jpg\n3 101.y/b.jpg\n4 102.z/a.jpg\n")
    (tmp_path / "image_class_labels.txt").write_text("1 100\n2 101\n3 101\n4 102\n")
    photos = read_labelled_photos(tmp_path)
    assert told(photos, tmp_path / "images") == [("101.y/a.jpg", 0), ("101.y/b.jpg", 0), ("102.z/a.jpg", 1)]


def test_stanford_online_products(tmp_path: Path) -> None:
    put(tmp_path, "chair_final/1.JPG", "chair_final/2.JPG", "sofa_final/3.JPG")
    (tmp_path / "Ebay_test.txt").write_text(
        "image_id class_id super_class_id path\n1 11319 1 chair_final/1.JPG\n2 11319 1 chair_final/2.JPG\n"
        "3 11320 2 sofa_final/3.JPG\n"
    )
    assert told(read_labelled_photos(tmp_path), tmp_path) == [
        ("chair_final/1.JPG", 0),
        ("chair_final/2.JPG", 0),
        ("sofa_final/3.JPG", 1),
    ]


@pytest.mark.parametrize("place", ["", "Eval/", "Anno/"])
def test_in_shop_has_its_own_query_and_gallery(place: str, tmp_path: Path) -> None:
    put(tmp_path, "img/a.jpg", "img/b.jpg", "img/c.jpg")
    (tmp_path / place).mkdir(exist_ok=True)
    (tmp_path / place / "list_eval_partition.txt").write_text(
        "4\nimage_name item_id evaluation_status\nimg/t.jpg id_1 train\nimg/a.jpg id_7 query\n"
        "img/b.jpg id_7 gallery\nimg/c.jpg id_8 gallery\n"
    )
    photos = read_labelled_photos(tmp_path)
    assert (photos.query.tolist(), photos.gallery.tolist()) == ([0], [1, 2])
    assert photos.label.tolist() == [0, 0, 1]


def test_a_list_of_inaturalist(tmp_path: Path) -> None:
    put(tmp_path, "train_val2018/Aves/1/a.jpg", "train_val2018/Aves/1/b.jpg", "train_val2018/Aves/2/a.jpg")
    (tmp_path / "Inat_test_set1.txt").write_text(
        "train_val2018/Aves/1/a.jpg\ntrain_val2018/Aves/1/b.jpg\ntrain_val2018/Aves/2/a.jpg\n"
    )
    assert read_labelled_photos(tmp_path / "Inat_test_set1.txt").label.tolist() == [0, 0, 1]


def test_a_table_and_folders_of_query_and_gallery(tmp_path: Path) -> None:
    put(tmp_path, "x/query/cat/a.jpg", "x/gallery/cat/b.jpg", "x/gallery/dog/c.jpg")
    photos = read_labelled_photos(tmp_path / "x")
    (tmp_path / "t.csv").write_text(
        "file,label,role\nx/query/cat/a.jpg,cat,query\nx/gallery/cat/b.jpg,cat,gallery\nx/gallery/dog/c.jpg,dog,gallery\n"
    )
    table = read_labelled_photos(tmp_path / "t.csv")
    for read in (photos, table):
        assert (read.label.tolist(), read.query.tolist(), read.gallery.tolist()) == ([0, 0, 1], [0], [1, 2])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.jpg": ""}, "a photo in no folder has no class"),
        ({"notes.txt": ""}, "no photo with a class"),
        ({"cat/a.jpg": "", "dog/a.jpg": ""}, "nothing can be found"),
        ({"Ebay_test.txt": "head\n1 2 3\n"}, "line 2 has 3 fields, not 4"),
        ({"Ebay_test.txt": "head\n1 2 3 a.jpg\n"}, r"no such photo \(1 of 1 missing\)"),
        ({"images.txt": "1 a.jpg\n", "image_class_labels.txt": "2 101\n"}, "does not give the images"),
        ({"images.txt": "1 a.jpg\n", "image_class_labels.txt": "1 7\n"}, "no class above 100"),
        ({"list_eval_partition.txt": "1\nhead\na.jpg id_1 other\n", "a.jpg": ""}, "role 'other'"),
    ],
)
def test_damage_is_told(files: dict[str, str], message: str, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(CrossAlignError, match=message):
        read_labelled_photos(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\na.jpg,x\n", "no column 'file'"),
        ("file,label,role\na.jpg,x,train\n", "line 2: role 'train'"),
        ("file,label\na.jpg,\n", "line 2: no file or no label"),
    ],
)
def test_damaged_tables(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(CrossAlignError, match=message):
        read_labelled_photos(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("name", "text", "read_as"),
    [
        ("few.txt", "a close up of a horse\ntwo dogs\n", "a list of paths, one a line"),
        ("few.csv", "file,label\na close up of a horse,x\nb.jpg,x\n", "a table of paths"),
    ],
)
def test_a_file_of_other_things_is_named_with_what_it_is_read_as(
    name: str, text: str, read_as: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(CrossAlignError) as error:
        read_labelled_photos(tmp_path / name)
    assert str(error.value).startswith(f"{tmp_path / name}: read as {read_as}")
    assert "a close up of a horse: no such photo (2 of 2 missing)" in str(error.value)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(CrossAlignError, match="no such file or folder"):
        read_labelled_photos(tmp_path / "absent")
