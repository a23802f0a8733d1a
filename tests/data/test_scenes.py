"""Synthetic scenes: the same for the same seed, true to their words, and hard for a bag of words."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crossalign.data.collection import Collection
from crossalign.data.scenes import Scene, SceneObject, SceneTruth, draw_scene, make_scenes, oracle_recall
from crossalign.data.scenes.claims import Claims, Description, SceneIndex
from crossalign.data.scenes.drawing import PAINT
from crossalign.data.scenes.teller import GROUND, KINDS
from crossalign.data.scenes.words import NOUNS, VALUES
from crossalign.data.scenes.world import COLOURS, SHAPES, SIZES, TEXTURES, TONES, sample_scenes
from crossalign.errors import CrossAlignError

COUNTS = {"train": 120, "val": 30, "test": 200}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    return make_scenes(tmp_path_factory.mktemp("made") / "scenes", **COUNTS, seed=3)


@pytest.fixture(scope="module")
def truth(made: Collection) -> SceneTruth:
    return SceneTruth.load(made)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    arguments = {"train": 12, "val": 0, "test": 5}
    first = make_scenes(tmp_path / "first", **arguments, seed=7).folder
    second = make_scenes(tmp_path / "second", **arguments, seed=7).folder
    other = make_scenes(tmp_path / "other", **arguments, seed=8).folder
    assert bytes_of(first) == bytes_of(second)
    assert len(bytes_of(first)) == 17 + 6
    pictures = [bytes_of(folder / "images") for folder in (first, other)]
    assert all(pictures[0][name] != pictures[1][name] for name in pictures[0])


def test_collection_has_five_different_captions_an_image(made: Collection) -> None:
    assert made.splits == ("train", "val", "test")
    for name, count in COUNTS.items():
        split = made.split(name)
        assert len(split.image_ids) == count
        texts = defaultdict(list)
        for image, text in zip(split.image_of_text.tolist(), split.texts, strict=True):
            texts[image].append(text)
        assert all(len(set(found)) == 5 for found in texts.values())
        with Image.open(made.image_path(split.image_ids[0])) as picture:
            assert picture.size == (96, 96)
            assert picture.mode == "RGB"


def test_captions_are_well_formed(truth: SceneTruth) -> None:
    for caption in truth.captions.values():
        assert caption.text[0].isupper()
        assert "  " not in caption.text
        assert not any(f" {mark}" in caption.text for mark in ",.;")
        assert not any(f" a {vowel}" in f" {caption.text.lower()}" for vowel in "aeiou")
    forms = Counter(caption.text.split()[0] for caption in truth.captions.values())
    assert len(forms) > 30  # sentences begin in many ways


def test_spans_cover_words_of_the_object_they_mean(truth: SceneTruth) -> None:
    seen = Counter()
    for caption_id, caption in truth.captions.items():
        scene = truth.scenes[truth.image_of[caption_id]]
        assert len(caption.spans) == len(caption.kinds) > 0
        ends = 0
        for (start, end, item), kind in zip(caption.spans, caption.kinds, strict=True):
            assert start >= ends, "spans stand in order and do not overlap"
            ends = end
            word = caption.text[start:end].lower()
            if kind == "ground":
                assert item == GROUND
                assert word in (*VALUES[scene.texture], *VALUES[scene.tone], *NOUNS)
            else:
                value = getattr(scene.objects[item], kind)
                assert word in VALUES[value]
            seen[kind] += 1
    assert set(seen) == set(KINDS)


def test_every_vocabulary_word_has_one_meaning() -> None:
    words = [word for row in VALUES.values() for word in row]
    assert len(words) == len(set(words))
    assert set(VALUES) == {*SHAPES, *COLOURS, *SIZES, *TEXTURES, *TONES}


def test_words_carry_the_box_of_their_object(made: Collection, truth: SceneTruth) -> None:
    detections = [json.loads(line) for line in (made.folder / "detections.jsonl").read_text().splitlines()]
    by_image = {row["filename"].removesuffix(".png"): row for row in detections}
    assert [row["filename"] for row in detections] == [image.file for image in made.images]
    for caption_id, caption in truth.captions.items():
        image_id = truth.image_of[caption_id]
        row = by_image[image_id]
        assert [SHAPES[index] for index in row["classes"]] == row["labels"]
        assert row["labels"] == [item.shape for item in truth.scenes[image_id].objects]
        of_objects = [span for span in caption.spans if span[2] != GROUND]
        words = truth.words(caption_id)
        assert [(word.start, word.end) for word in words] == [span[:2] for span in of_objects]
        for word, (_, _, item) in zip(words, of_objects, strict=True):
            assert np.allclose(np.array(word.box) * 96, row["boxes"][item])


def test_boxes_hold_the_pixels_of_their_object_tightly() -> None:
    """Found again in the picture by colour alone: alone on a plain ground, away from its shadow's greys."""
    for shape in SHAPES:
        for size, radius in (("small", 0.08), ("large", 0.18)):
            item = SceneObject(shape, "red", size, 0.43, 0.57, radius, 6.0)
            picture, (box,) = draw_scene(Scene("plain", "grey", (item,), 0, 5), 96)
            pixels = np.asarray(picture).astype(int)
            strong = pixels[:, :, 0] - pixels[:, :, 1] > 60
            rows, columns = np.flatnonzero(strong.any(1)), np.flatnonzero(strong.any(0))
            found = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
            inside = [box[0] <= found[0], box[1] <= found[1], box[2] >= found[2], box[3] >= found[3]]
            assert all(inside)
            assert max(abs(a - b) for a, b in zip(box, found, strict=True)) <= 2
            assert strong.sum() > 20
            assert all(0 <= edge <= 96 for edge in box)


def test_objects_show_their_colour_and_do_not_overlap(made: Collection, truth: SceneTruth) -> None:
    for image_id in made.split("val").image_ids:
        pixels = np.asarray(Image.open(made.image_path(image_id))).astype(int)
        boxes = (np.array(truth.boxes[image_id]) * 96).round().astype(int)
        for item, (left, top, right, bottom) in zip(truth.scenes[image_id].objects, boxes, strict=True):
            distance = np.abs(pixels[top:bottom, left:right] - np.array(PAINT[item.colour])).max(axis=2)
            assert (distance < 45).mean() > 0.2
        for i, (a, b, c, d) in enumerate(boxes.tolist()):
            for e, f, g, h in boxes[i + 1 :].tolist():
                shared = max(0, min(c, g) - max(a, e)) * max(0, min(d, h) - max(b, f))
                assert shared < 0.1 * min((c - a) * (d - b), (g - e) * (h - f))


def test_drawing_scales() -> None:
    (scene,) = sample_scenes(1, "scale")
    small, boxes = draw_scene(scene, 96)
    large, larger = draw_scene(scene, 384)
    assert np.abs(np.array(larger) / 4 - np.array(boxes)).max() <= 1.5
    shrunk = np.asarray(large.reduce(4)).astype(int)
    assert np.abs(shrunk - np.asarray(small).astype(int)).mean() < 4


def test_families_hold_the_same_words_and_differ(made: Collection, truth: SceneTruth) -> None:
    def bag(scene: Scene) -> tuple:
        values = Counter(v for o in scene.objects for v in (o.shape, o.colour, o.size))
        return scene.texture, scene.tone, tuple(sorted(values.items()))

    def layout(scene: Scene) -> tuple:
        return tuple(sorted((o.shape, o.colour, o.size, round(o.x, 1), round(o.y, 1)) for o in scene.objects))

    for split in made.splits:
        families = defaultdict(list)
        for image_id in made.split(split).image_ids:
            families[truth.scenes[image_id].family].append(truth.scenes[image_id])
        assert {len(family) for family in families.values()} <= {2, 3, 4, 5}
        for family in families.values():
            assert len({bag(scene) for scene in family}) == 1
            assert len({layout(scene) for scene in family}) == len(family)
    bindings = 0
    for first, second in zip(truth.scenes.values(), list(truth.scenes.values())[1:], strict=False):
        pairs = [{(o.shape, o.colour) for o in scene.objects} for scene in (first, second)]
        bindings += first.family == second.family and pairs[0] != pairs[1]
    assert bindings > 50  # neighbours that differ in which shape has which colour


def test_information_is_there_but_not_in_the_words_alone(made: Collection, truth: SceneTruth) -> None:
    test = made.split("test").image_ids
    assert oracle_recall(truth, test) > 85
    assert 10 < oracle_recall(truth, test, words_only=True) < 50


def test_captions_are_true_and_tell_a_part(truth: SceneTruth) -> None:
    told: Counter[str] = Counter()
    for caption_id, caption in truth.captions.items():
        scene = truth.scenes[truth.image_of[caption_id]]
        assert caption.claims.hold(scene)
        assert 1 <= len(caption.claims.things) <= 3
        told["captions"] += 1
        told["no colour"] += any(thing.colour is None for thing in caption.claims.things)
        told["no size"] += any(thing.size is None for thing in caption.claims.things)
        told["fewer"] += len(caption.claims.things) < len(scene.objects)
        told["relation"] += bool(caption.claims.relations)
        told["place"] += bool(caption.claims.places)
        told["ground"] += bool(caption.claims.texture or caption.claims.tone)
    for part in ("no colour", "no size", "fewer", "relation", "place", "ground"):
        assert told[part] > 0.1 * told["captions"], part


def two_objects(**first: object) -> Scene:
    circle = SceneObject("circle", "red", "small", 0.2, 0.5, 0.08, 0.0)
    star = SceneObject("star", "blue", "large", 0.7, 0.52, 0.18, 0.0)
    return Scene("striped", "grey", (replace(circle, **first), star), 0, 0)  # type: ignore[arg-type]


def test_claims_by_hand() -> None:
    red_circle, blue_star = Description("circle", "red"), Description("star", "blue")
    left = Claims((red_circle, blue_star), relations=(("left", (0, 1)),))
    assert left.hold(two_objects())
    assert not left.hold(two_objects(x=0.95))
    assert not left.hold(two_objects(colour="blue"))
    assert not left.hold(two_objects(x=0.7, y=0.1))
    assert Claims((red_circle, blue_star), relations=(("above", (0, 1)),)).hold(two_objects(x=0.7, y=0.1))
    assert Claims((blue_star, red_circle), relations=(("larger", (0, 1)),)).hold(two_objects())
    assert not Claims((red_circle, blue_star), relations=(("larger", (0, 1)),)).hold(two_objects())
    assert Claims((red_circle,), places=((0, "left"),), texture="striped", count=2).hold(two_objects())
    assert not Claims((red_circle,), places=((0, "top"),)).hold(two_objects())
    assert not Claims((red_circle,), texture="dotted").hold(two_objects())
    assert not Claims((red_circle,), count=3).hold(two_objects())
    something_red = Description(colour="red")
    assert not Claims((red_circle, something_red)).hold(two_objects())  # one object cannot be two things
    assert Claims((something_red, Description(size="large"))).hold(two_objects())
    middle = SceneObject("heart", "pink", "small", 0.43, 0.5, 0.08, 0.0)
    three = replace(two_objects(), objects=(*two_objects().objects, middle))
    between = Claims((Description("heart"), red_circle, blue_star), relations=(("between", (0, 1, 2)),))
    assert between.hold(three)
    assert not between.hold(replace(three, objects=(*two_objects().objects, replace(middle, y=0.9))))
    assert Claims.from_json(json.loads(json.dumps(between.to_json()))) == between


def test_index_finds_what_a_loop_finds(made: Collection, truth: SceneTruth) -> None:
    scenes = [truth.scenes[image_id] for image_id in made.split("test").image_ids]
    index = SceneIndex(scenes)
    for caption in list(truth.captions.values())[::17]:
        claims = caption.claims
        assert list(index.find(claims)) == [i for i, scene in enumerate(scenes) if claims.hold(scene)]
        said = Counter(v for t in claims.things for v in (t.shape, t.colour, t.size) if v)
        for i, scene in enumerate(scenes):
            there = Counter(v for o in scene.objects for v in (o.shape, o.colour, o.size))
            frame = (scene.texture, scene.tone, len(scene.objects))
            asked = (claims.texture, claims.tone, claims.count)
            fits = said <= there and all(a is None or a == b for a, b in zip(asked, frame, strict=True))
            assert (i in index.find_words(claims)) == fits


def test_plain_text_tells_left_from_right(truth: SceneTruth) -> None:
    """Read from the text itself: in "a circle ... left of a star" the circle really is on the left."""
    checked = 0
    for caption_id, caption in truth.captions.items():
        scene = truth.scenes[truth.image_of[caption_id]]
        for phrase, sign in ((" left of a", 1), (" right of a", -1), (" above a", 2), (" below a", -2)):
            place = caption.text.find(phrase)
            if place < 0 or "and" in caption.text or "which" in caption.text or "one" in caption.text:
                continue
            before = [item for start, _, item in caption.spans if start < place and item != GROUND]
            after = [item for start, _, item in caption.spans if start > place and item != GROUND]
            if before and after and len({*before}) == 1:
                first, second = scene.objects[before[0]], scene.objects[after[0]]
                ahead = second.x - first.x if abs(sign) == 1 else second.y - first.y
                assert ahead * sign > 0, caption.text
                checked += 1
    assert checked > 30


def test_refuses_what_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(CrossAlignError, match="-1 scenes"):
        make_scenes(tmp_path / "a", train=-1)
    with pytest.raises(CrossAlignError, match="no scenes asked for"):
        make_scenes(tmp_path / "a", train=0, val=0, test=0)
    with pytest.raises(CrossAlignError, match="ask for 32 or more"):
        make_scenes(tmp_path / "a", size=16)
    assert not (tmp_path / "a").exists()


def test_overwrites_only_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "scenes"
    few = {"train": 2, "val": 0, "test": 0}
    make_scenes(folder, **few)
    with pytest.raises(CrossAlignError, match="already exists"):
        make_scenes(folder, **few)
    before = bytes_of(folder)
    make_scenes(folder, **few, seed=1, overwrite=True)
    assert bytes_of(folder) != before
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(CrossAlignError, match=r"notes\.txt"):
        make_scenes(folder, **few, overwrite=True)
    assert (folder / "notes.txt").read_text() == "mine"


def test_truth_names_what_is_wrong(tmp_path: Path, made: Collection) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(made.folder, folder)
    whole = (folder / "truth.jsonl").read_text()
    for damaged, message in [
        (whole[: len(whole) // 2], "is not JSON"),
        ("".join(whole.splitlines(keepends=True)[:-1]), "leaves out images or captions"),
        (whole.replace('"spans"', '"spam"', 1), "damaged"),
        (whole.replace("train-00000#0", "nowhere#0", 1), "damaged"),
        ("[1]\n", "damaged"),
    ]:
        (folder / "truth.jsonl").write_text(damaged)
        with pytest.raises(CrossAlignError, match=message):
            SceneTruth.load(Collection.load(folder))
    (folder / "truth.jsonl").unlink()
    with pytest.raises(CrossAlignError, match="only collections of synthetic scenes have a truth"):
        SceneTruth.load(Collection.load(folder))


@pytest.mark.parametrize("moment", [0.0, 0.3, 0.6])
def test_killed_leaves_nothing_half_written(tmp_path: Path, moment: float) -> None:
    folder = tmp_path / "scenes"
    script = f"from crossalign.data.scenes import make_scenes; make_scenes({str(folder)!r}, train=4000)"
    process = subprocess.Popen([sys.executable, "-c", script])
    try:
        deadline = time.monotonic() + 60
        # The folder in the making is hidden beside the target; killed only once drawing has begun.
        while not list(tmp_path.glob(".scenes.*/images/*.png")) and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    assert list(tmp_path.glob(".scenes.*/images/*.png")), "it was killed while drawing"
    assert not folder.exists()
    assert len(make_scenes(folder, train=2, val=0, test=0).images) == 2
