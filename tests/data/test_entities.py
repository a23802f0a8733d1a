"""Flickr30k Entities: a made-up sample is read, and damaged or hostile files are refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from crossalign.data.entities import read_annotations, read_entities, read_sentences
from crossalign.errors import CrossAlignError

XML = """<annotation>
  <filename>77.jpg</filename>
  <size><width>200</width><height>100</height><depth>3</depth></size>
  <object><name>5</name><bndbox><xmin>20</xmin><ymin>10</ymin><xmax>60</xmax><ymax>90</ymax></bndbox></object>
  <object><name>5</name><name>6</name>
    <bndbox><xmin>100</xmin><ymin>0</ymin><xmax>260</xmax><ymax>50</ymax></bndbox></object>
  <object><name>9</name><scene>1</scene><nobndbox>0</nobndbox></object>
</annotation>
"""
SENTENCES = (
    "[/EN#5/people Two painters] carry [/EN#6/other/clothing a ladder] in [/EN#9/scene a yard] .\n"
    "\n"
    "It rains on [/EN#5/people them] , [/EN#0/notvisual luckily] .\n"
)


def make(folder: Path, xml: str = XML, sentences: str = SENTENCES, name: str = "77") -> Path:
    for part, file, content in (("Annotations", f"{name}.xml", xml), ("Sentences", f"{name}.txt", sentences)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / part / file).write_text(content, encoding="utf-8")
    return folder


def test_phrases_with_their_boxes(tmp_path: Path) -> None:
    found = read_entities(make(tmp_path), ["77", "78"])
    assert set(found) == {"77"}
    first, second = found["77"]
    assert first.text == "Two painters carry a ladder in a yard ."
    assert [(first.text[p.start : p.end], p.kind, len(p.boxes)) for p in first.phrases] == [
        ("Two painters", "people", 2),
        ("a ladder", "other", 1),
    ]
    assert first.phrases[0].boxes == ((0.1, 0.1, 0.3, 0.9), (0.5, 0.0, 1.0, 0.5))
    assert second.text == "It rains on them , luckily ."
    assert [second.text[p.start : p.end] for p in second.phrases] == ["them"]


def test_text_in_square_brackets_that_is_no_mark_stays(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("A sign [sic] on [/EN#1/other a wall]")
    (found,) = read_sentences(tmp_path / "a.txt", {"1": ((0, 0, 1, 1),)})
    assert found.text == "A sign [sic] on a wall"
    assert (found.phrases[0].start, found.phrases[0].end) == (16, 22)


@pytest.mark.parametrize(
    ("sentences", "message"),
    [
        ("fine\n[/EN#5 Two painters] work", "77.txt line 2: a mark is not of the form"),
        ("[/EN#5/people Two painters work", "77.txt line 1: a mark is not of the form"),
        ("[/EN#5/people Two [/EN#6/other nested] work]", "77.txt line 1: a mark is not of the form"),
        ("[/EN#5/people ] work", "77.txt line 1: a mark is not of the form"),
    ],
)
def test_damaged_sentences(tmp_path: Path, sentences: str, message: str) -> None:
    with pytest.raises(CrossAlignError, match=message):
        read_entities(make(tmp_path, sentences=sentences), ["77"])


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("", "not XML"),
        ("<annotation><size>", "not XML"),
        ("no xml at all", "not XML"),
        ("<annotation/>", "width is None, not a number of pixels"),
        (XML.replace("200", "wide"), "width is 'wide', not a number"),
        (XML.replace("<width>200", "<width>0"), "a photo of 0 x 100 pixels"),
        (XML.replace("<xmin>20</xmin>", ""), "xmin is None, not a number"),
        (XML.replace("<xmin>20", "<xmin>nan"), "xmin is 'nan', not a number"),
        (XML.replace("<xmin>20", "<xmin>60"), "the box of '5' is empty"),
        (XML.replace("<name>5</name><name>6</name>", ""), "an object without a name"),
        ('<?xml version="1.0" encoding="no-such"?>' + XML, "77.xml: not "),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd">' + XML, "document type 'a'"),
        ('<!DOCTYPE a [<!ENTITY b "' + "c" * 99 + '">]>' + XML.replace("77.jpg", "&b;"), "document type 'a'"),
    ],
)
def test_damaged_and_hostile_annotations(tmp_path: Path, xml: str, message: str) -> None:
    with pytest.raises(CrossAlignError, match=message) as caught:
        read_entities(make(tmp_path, xml=xml), ["77"])
    assert str(caught.value).startswith(str(tmp_path / "Annotations" / "77.xml"))
    assert "\n" not in str(caught.value)


def test_entities_are_refused_before_they_grow(tmp_path: Path) -> None:
    """Ten levels of ten copies each would be ten thousand million letters."""
    levels = "".join(
        f'<!ENTITY x{level} "{f"&x{level - 1};" * 10 if level else "lol"}">' for level in range(10)
    )
    bomb = f"<!DOCTYPE a [{levels}]><annotation>&x9;</annotation>"
    path = make(tmp_path, xml=bomb) / "Annotations" / "77.xml"
    with pytest.raises(CrossAlignError, match="document type"):
        read_annotations(path)


def test_files_that_are_too_large_or_not_utf_8(tmp_path: Path) -> None:
    folder = make(tmp_path)
    (folder / "Sentences" / "77.txt").write_bytes(b"caf\xe9")
    with pytest.raises(CrossAlignError, match=r"77\.txt: not UTF-8 \(byte 3\)"):
        read_entities(folder, ["77"])
    (folder / "Annotations" / "77.xml").write_bytes(b" " * 4_000_001)
    with pytest.raises(CrossAlignError, match=r"77\.xml: larger than 4 MB"):
        read_entities(folder, ["77"])


def test_folders_and_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(CrossAlignError, match="no folder 'Sentences' in it"):
        read_entities(tmp_path, ["77"])
    folder = make(tmp_path)
    with pytest.raises(CrossAlignError, match="no sentences of any of these photos"):
        read_entities(folder, ["1", "2"])
    (folder / "Sentences" / "77.txt").unlink()
    with pytest.raises(
        CrossAlignError, match=r"77\.txt: no such file, though the other one of '77' is there"
    ):
        read_entities(folder, ["77"])
