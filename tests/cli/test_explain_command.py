"""``crossalign explain`` as a user calls it: one photo, a gallery, scores."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from crossalign.cli.main import main
from crossalign.data.collection import CaptionRecord, Collection, ImageRecord
from crossalign.data.features import FeatureWriter
from crossalign.data.scenes import make_scenes
from crossalign.evaluation.encoded_pairs import encoded_pairs
from crossalign.evaluation.scene_words import ground_scenes
from crossalign.explain.marks import PALETTE
from crossalign.model import RetrievalModel
from crossalign.recipe import load_recipe
from crossalign.sources import Sources
from crossalign.training.trainer import train
from evaluation.test_report import Page

Call = Callable[..., tuple[int, str, str]]
TINY = [
    "model.dim=16",
    "model.text.encoder.word_dim=12",
    "model.image.backbones=[{name: test_byobnet, layer: 3, grid: null, global_cell: true, input: "
    "{size: 32, mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25], interpolation: bilinear, resize: squash}}]",
    "training.batch_size=12",
    "training.epochs=2",
    "training.tensorboard=false",
    "training.accelerator=cpu",
    "optimizer.warmup_steps=1",
]


@dataclass(frozen=True)
class World:
    """Scenes with a model that was trained with a codebook, and its base model without."""

    folder: Path
    scenes: Collection
    run: Path
    base: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    scenes = make_scenes(folder / "scenes", train=24, val=12, test=9, size=32)
    changes = [f"data.collection={scenes.folder}", *TINY]
    train(load_recipe("scenes-vse", changes), folder / "base", progress=False)
    concepts = ["objective.lca.concepts=7"]
    train(load_recipe("scenes-vse-selfalign", [*changes, *concepts]), folder / "run", progress=False)
    return World(folder, scenes, folder / "run", folder / "base")


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Call:
    """Run the command line in an empty folder: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in ("explain", *arguments)])
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


def problem(told: tuple[int, str, str]) -> str:
    """The one line of a refusal."""
    code, out, err = told
    assert (code, out) == (1, "")
    assert err.endswith("\n")
    lines = [line for line in err.splitlines() if line.startswith("crossalign: ")]
    assert err.splitlines()[-1:] == lines
    return lines[0]


def photo(world: World) -> tuple[Path, str]:
    part = world.scenes.split("test")
    return world.scenes.image_path(part.image_ids[0]), part.texts[0]


# ---- one photo


def test_a_photo_and_a_caption_become_a_picture(world: World, call: Call, tmp_path: Path) -> None:
    image, caption = photo(world)
    code, out, err = call(world.run, image, caption)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[-1] == f"picture: {image.stem}-explained.png"
    assert [line.split()[0] for line in lines[:-1]] == [str(rank) for rank in range(1, len(lines))]
    values = [float(line.split()[1]) for line in lines[:-1]]
    assert values == sorted(values, reverse=True)
    pixels = np.asarray(Image.open(tmp_path / f"{image.stem}-explained.png"))
    assert all((pixels == PALETTE[rank]).all(axis=2).any() for rank in range(len(values)))


def test_json_says_what_the_towers_say(world: World, call: Call, tmp_path: Path) -> None:
    image, caption = photo(world)
    code, out, err = call(world.run, image, caption, "--json", "--top", "2", "--units", "context")
    assert (code, err) == (0, "")
    assert list(tmp_path.iterdir()) == []
    document = json.loads(out)
    assert (document["picture"], document["units"], document["caption"]) == (None, "context", caption)
    model = RetrievalModel.from_pretrained(world.run)
    with torch.inference_mode():
        seen = model.image_tower(model.image_inputs([image]))
        read = model.text_tower(model.text_inputs([caption]))
    words = torch.nn.functional.normalize(read.context[0], dim=-1)
    regions = torch.nn.functional.normalize(seen.context[0], dim=-1)
    offsets = model.text_tower.offsets(caption)
    for word in document["words"]:
        mine = [i for i, (a, b) in enumerate(offsets) if a < word["end"] and b > word["start"]]
        expected = (words[mine] @ regions.T).mean(dim=0)
        assert word["similarities"] == pytest.approx(expected.tolist(), abs=1e-5)
        assert word["region"] == 1 + int(expected[1:].argmax())  # the first one is the whole picture
    assert len(document["pairs"]) == 2
    score = model.similarity(seen.embedding, read.embedding).item()
    assert document["score"] == pytest.approx(score, abs=1e-5)
    code, out, _ = call(world.run, image, caption, "--json", "-o", "deep/a.jpg")
    assert json.loads(out)["picture"] == "deep/a.jpg"
    assert Image.open(tmp_path / "deep" / "a.jpg").format == "JPEG"


def test_words_that_the_model_does_not_know_are_told(world: World, call: Call) -> None:
    image, caption = photo(world)
    assert json.loads(call(world.run, image, caption, "--json")[1])["unknown_words"] == []
    code, out, err = call(world.run, image, "a zebra, a star and a giraffe", "--json")
    assert (code, err) == (0, "crossalign: the model does not know: zebra, giraffe\n")
    assert json.loads(out)["unknown_words"] == ["zebra", "giraffe"]


def test_all_words(world: World, call: Call) -> None:
    image, _ = photo(world)
    said = [
        {
            pair["word"]
            for pair in json.loads(call(world.run, image, "there is a star", "--json", *more)[1])["pairs"]
        }
        for more in ([], ["--all-words"])
    ]
    assert said == [{"star"}, {"there", "is", "a", "star"}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["IMAGE"], "give a caption, too"),
        (["IMAGE", " \n"], "the caption is empty"),
        (["IMAGE", "?!"], "no word that the model reads"),
        (["IMAGE", "star", "--top", "8"], "--top is 8; ask for 1 to 7"),
        (["IMAGE", "star", "--top", "0"], "--top is 0"),
        (["none.png", "star"], "none.png: no such photo"),
        (["IMAGE", "star", "-o", "a.txt"], "use .png"),
        (["IMAGE", "star", "--score"], "leave the photo and the caption out"),
        (["IMAGE", "star", "--collection", "c"], "leave the photo and the caption out"),
        (["IMAGE", "star", "--device", "cuda"], "PyTorch finds no CUDA device"),
        ([], "give a photo and a caption"),
        (["--score", "--out", "x"], "--score draws nothing"),
        (["--score", "--boxes", "b", "--entities", "e"], "not both"),
        (["--score", "--min-score", "0.5"], "give --boxes, too"),
        (["--score", "--boxes", "none.jsonl"], "none.jsonl: no such file of detections"),
        (["--score", "--boxes", "DETECTIONS", "--labels", "none.txt"], "none.txt: no such file of labels"),
        (["--score", "--entities", "none"], "none: no folder 'Sentences'"),
        (["--score", "--split", "nope"], "no split 'nope'"),
        (["--score", "--collection", "nowhere"], "nowhere: not a collection"),
        (["--score", "--against", "nowhere"], "nowhere: no such"),
        (["--out", "gallery", "--split", "nope"], "no split 'nope'"),
    ],
)
def test_bad_input_ends_with_one_line(
    world: World, call: Call, tmp_path: Path, arguments: list[str], message: str
) -> None:
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    places = {"IMAGE": photo(world)[0], "DETECTIONS": world.scenes.folder / "detections.jsonl"}
    assert message in problem(call(world.run, *(places.get(word, word) for word in arguments)))
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_backbone_says_so(call: Call, tmp_path: Path, world: World) -> None:
    image, _ = photo(world)
    run = imported_features(tmp_path / "toy", boxes=True)
    assert "cannot encode raw photos" in problem(call(run, image, "red star"))
    assert "has features only, no photo" in problem(
        call(run, "--out", tmp_path / "gallery", "--split", "test")
    )
    assert not (tmp_path / "gallery").exists()


def test_features_without_boxes_say_so(call: Call, tmp_path: Path) -> None:
    run = imported_features(tmp_path / "toy", boxes=False)
    told = problem(call(run, "--out", tmp_path / "gallery"))
    assert "these imported features have no boxes" in told


def imported_features(folder: Path, *, boxes: bool) -> Path:
    """A run on imported features of photos that are not there."""
    random = np.random.default_rng(0)
    splits = ["train"] * 12 + ["val"] * 12 + ["test"] * 4
    collection = Collection.write(
        folder / "collection",
        name="toy",
        image_root=None,
        images=[ImageRecord(f"i{n}", "", 10, 10) for n in range(28)],
        captions=[CaptionRecord(f"c{n}", f"i{n}", "a red star", split) for n, split in enumerate(splits)],
        provenance={},
    )
    places = [np.array([[0, 0, 0.5, 1], [0.5, 0, 1, 1]], np.float32)] * 28
    with FeatureWriter(
        collection.folder / "features" / "toy",
        ids=[f"i{n}" for n in range(28)],
        dim=4,
        units=2,
        dtype="float32",
        manifest={"kind": "image", "source": "toy"},
        boxes=boxes,
    ) as writer:
        features = [random.normal(size=(2, 4)).astype(np.float32) for _ in range(28)]
        writer.append(features, places) if boxes else writer.append(features)
        writer.finish()
    changes = [
        f"data.collection={collection.folder}",
        "data.image_features=[toy]",
        *TINY,
        "training.epochs=1",
    ]
    changes = [change for change in changes if "backbones" not in change]
    changes += ["model.image.backbones=[]", "model.image.train_backbone=false"]
    changes.append("optimizer.backbone_learning_rate=null")
    train(load_recipe("scenes-vse", changes), folder / "run", progress=False)
    return folder / "run"


# ---- the gallery


@pytest.fixture(scope="module")
def gallery(world: World) -> Path:
    """A gallery of everything, made by the command line."""
    out = world.folder / "gallery"
    arguments = ["--pairs", "4", "--concepts", "3", "--seed", "5", "--against", str(world.base)]
    with pytest.raises(SystemExit) as ended:
        main(["explain", str(world.run), "--out", str(out), *arguments])
    assert not ended.value.code
    return out


def test_the_gallery_has_all_its_pieces(world: World, gallery: Path) -> None:
    assert {path.name for path in gallery.iterdir()} == {
        "index.html", "gallery.json", *(f"pair-0{number}.png" for number in range(1, 5)),
    }  # fmt: skip
    page = Page((gallery / "index.html").read_text(encoding="utf-8"))
    text = "\n".join(page.words)
    summary = json.loads((gallery / "gallery.json").read_text(encoding="utf-8"))
    pictures = [values["src"] or "" for tag, values in page.tags if tag == "img"]
    files = [picture for picture in pictures if not picture.startswith("data:")]
    assert files == [f"pair-0{number}.png" for number in range(1, 5)]
    links = [values["href"] for tag, values in page.tags if tag == "a"]
    assert links == files
    use = summary["concepts"]
    assert len(use["shown"]) == 3
    assert len(pictures) - 4 == sum(len(concept["regions"]) for concept in use["shown"])
    for concept in use["shown"]:
        assert f"Concept {concept['index']}" in page.words
        for word, count in concept["words"]:
            assert word in page.words
            assert f"{count:,}" in page.words
    assert use["concepts"] == 7
    assert f"{use['used_by_regions']} of 7" in page.words
    assert "Words and the regions they chose" in text
    assert "and what the concepts of the codebook are about." in text
    # A folder that is just called run tells nothing.
    assert "What scenes-vse-selfalign matches" in page.words
    assert "From word to region" in text
    assert {"run", "base"} <= set(summary["grounding"])
    assert f"{summary['grounding']['base']['accuracy']:.1f}" in text


def test_the_gallery_needs_neither_network_nor_scripts(gallery: Path) -> None:
    page = (gallery / "index.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert not re.search(r"(?:src|href)=\"(?!data:|pair-)|url\(|@import", page)


def test_pairs_are_captions_of_the_split_each_of_another_image(world: World, gallery: Path) -> None:
    summary = json.loads((gallery / "gallery.json").read_text(encoding="utf-8"))
    part = world.scenes.split("test")
    texts = dict(zip(part.caption_ids, part.texts, strict=True))
    assert len({pair["image_id"] for pair in summary["pairs"]}) == 4
    for pair in summary["pairs"]:
        assert pair["caption"] == texts[pair["caption_id"]]
        assert pair["caption_id"].startswith(pair["image_id"])


def test_the_same_seed_draws_the_same_pairs(world: World, gallery: Path, call: Call) -> None:
    drawn = {}
    for seed in (5, 6):
        code, out, err = call(
            world.run, "-o", f"g{seed}", "--pairs", 4, "--concepts", 3, "--seed", seed, "--json"
        )
        assert (code, err) == (0, "")
        drawn[seed] = [pair["caption_id"] for pair in json.loads(out)["pairs"]]
    first = json.loads((gallery / "gallery.json").read_text(encoding="utf-8"))
    assert drawn[5] == [pair["caption_id"] for pair in first["pairs"]]
    assert drawn[6] != drawn[5]


def test_without_a_codebook_the_page_says_why(world: World, call: Call, tmp_path: Path) -> None:
    for model, reason in (
        (world.base, "trained without Local Concept Alignment"),
        (world.run / "model", "no training run with a checkpoint"),
    ):
        title = {"base": "base", "model": "scenes-vse-selfalign"}[model.name]
        code, out, _ = call(
            model, "--collection", world.scenes.folder, "-o", "g", "--pairs", 1, "--overwrite"
        )
        assert code == 0
        assert f"no concepts: {model}: {reason}" in out
        assert out.splitlines()[-1] == "gallery: g/index.html"
        page = (tmp_path / "g" / "index.html").read_text(encoding="utf-8")
        assert reason in "\n".join(Page(page).words)
        assert "concepts of the codebook are about" not in page
        assert f"What {title} matches" in Page(page).words


def test_a_gallery_is_replaced_only_when_asked_for_and_nothing_else_ever(
    world: World, call: Call, tmp_path: Path
) -> None:
    few = ["--pairs", 1, "--concepts", 1]
    assert call(world.run, "-o", "g", *few)[0] == 0
    page = (tmp_path / "g" / "index.html").read_bytes()
    assert "holds an earlier gallery" in problem(call(world.run, "-o", "g", *few))
    assert (tmp_path / "g" / "index.html").read_bytes() == page
    assert call(world.run, "-o", "g", "--pairs", 2, "--concepts", 1, "--overwrite")[0] == 0
    assert (tmp_path / "g" / "pair-02.png").is_file()
    (tmp_path / "mine").mkdir()
    assert "exists and is no gallery" in problem(call(world.run, "-o", "mine", *few, "--overwrite"))
    assert list((tmp_path / "mine").iterdir()) == []


def test_texts_from_outside_are_escaped(world: World, call: Call, tmp_path: Path) -> None:
    evil = 'a <script>alert(1)</script> & "dog" isn\'t here'
    Image.new("RGB", (40, 30), (9, 99, 9)).save(tmp_path / "x.png")
    collection = Collection.write(
        tmp_path / "c",
        name="<b>c</b>",
        image_root=tmp_path,
        images=[ImageRecord("<i>", "x.png", 40, 30)],
        captions=[CaptionRecord("1", "<i>", evil, "test")],
        provenance={},
    )
    assert call(world.run, "--collection", collection.folder, "-o", tmp_path / "g")[0] == 0
    text = (tmp_path / "g" / "index.html").read_text(encoding="utf-8")
    assert "<script" not in text
    assert "<b>c" not in text
    page = Page(text)
    assert any(evil in (values.get("alt") or "") for tag, values in page.tags if tag == "img")


# ---- scores


def test_scores_of_scenes_are_those_of_evaluate(world: World, call: Call) -> None:
    code, out, err = call(world.run, "--score", "--json", "--against", world.base)
    assert (code, err) == (0, "")
    document = json.loads(out)
    expected = ground_scenes(
        RetrievalModel.from_pretrained(world.run), Sources.open(world.scenes.folder), "test"
    )
    mine, base = document["units"], document["against"]["units"]
    assert document["words_from"] == "synthetic scenes"
    found = mine["locals"]["accuracy"]
    less = found.pop("less_base")
    assert found == json.loads(json.dumps(expected.to_json()))
    assert less["difference"] == pytest.approx(found["accuracy"] - base["locals"]["accuracy"]["accuracy"])
    assert less["interval"][0] <= less["difference"] <= less["interval"][1]
    for units in ("locals", "context"):
        assert mine[units]["pointing"]["rule"] == "point"
        assert mine[units]["pointing"]["words"] == found["words"]
        assert mine[units]["pointing"]["answerable"] <= mine[units]["accuracy"]["answerable"]


def test_the_base_model_is_measured_on_the_collection_of_the_other(
    world: World, call: Call, tmp_path: Path
) -> None:
    """Whether it was trained on another collection, or is no run and so names none."""
    there = make_scenes(tmp_path / "there", train=4, val=3, test=5, size=32, seed=9)
    shutil.copytree(world.base, tmp_path / "base")
    recipe = (world.base / "recipe.yaml").read_text()
    assert recipe.count(str(world.scenes.folder)) == 1
    (tmp_path / "base" / "recipe.yaml").write_text(
        recipe.replace(str(world.scenes.folder), str(there.folder))
    )
    expected = call(world.run, "--score", "--json", "--against", world.base)
    for against in (tmp_path / "base", world.base / "model"):
        code, out, err = call(world.run, "--score", "--json", "--against", against)
        assert (code, err) == (0, "")
        assert json.loads(out)["units"] == json.loads(expected[1])["units"]
        code, _, err = call(world.run, "-o", "g", "--pairs", 1, "--against", against, "--overwrite")
        assert code == 0, err


def test_models_that_are_judged_by_different_rules_are_not_subtracted(
    world: World, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crossalign.explain import scores

    # Asked for words and regions before and after context, of one model and then of the other.
    rules = iter(["centre", "centre", "overlap", "overlap"])
    monkeypatch.setattr(scores, "region_rule", lambda *_: next(rules))
    code, out, err = call(world.run, "--score", "--json", "--against", world.base)
    assert (code, err) == (0, "")
    found = json.loads(out)["units"]["locals"]
    assert found["accuracy"]["less_base"] is None
    assert found["pointing"]["less_base"]["words"] == found["pointing"]["words"]
    rules = iter(["centre", "centre", "overlap", "overlap"])
    assert "judged differently" in call(world.run, "--score", "--against", world.base)[1]


def test_scores_as_a_table(world: World, call: Call) -> None:
    code, out, _ = call(world.run, "--score", "--against", world.base)
    assert code == 0
    assert "synthetic scenes" in out
    assert "less base" in out
    rows = [line for line in out.splitlines() if re.search(r"│ +(run|base) +│", line)]
    assert len(rows) == 8
    assert max(map(len, out.splitlines())) <= 120
    assert "less base" not in call(world.run, "--score")[1]


def test_models_of_the_same_name_are_told_apart(world: World, call: Call, tmp_path: Path) -> None:
    shutil.copytree(world.base, tmp_path / "other" / "run")
    code, _, _ = call(world.run, "-o", "g", "--pairs", 1, "--against", tmp_path / "other" / "run")
    assert code == 0
    summary = json.loads((tmp_path / "g" / "gallery.json").read_text(encoding="utf-8"))
    assert list(summary["grounding"]) == [str(world.run), str(tmp_path / "other" / "run")]


def test_scores_on_labelled_boxes(world: World, call: Call, tmp_path: Path) -> None:
    """The shapes' boxes as a detector would report them: words that name a shape that is not there count nowhere."""
    code, out, _ = call(world.run, "--score", "--json", "--boxes", world.scenes.folder / "detections.jsonl")
    assert code == 0
    document = json.loads(out)
    assert document["words_from"] == "labels of detections.jsonl"
    assert document["against"] is None
    result = document["units"]["locals"]["accuracy"]
    assert set(result["by_kind"]) <= {
        "circle", "square", "triangle", "star", "heart", "ring", "cross", "diamond", "crescent",
    }  # fmt: skip
    part = world.scenes.split("test")
    said = sum(
        len(re.findall(rf"\b{label}(?:s|es)?\b", text.lower()))
        for text, image in zip(part.texts, part.image_of_text, strict=True)
        for label in _labels(world, part.image_ids[image])
    )
    assert result["words"] == said > 0
    (tmp_path / "bad.jsonl").write_text('{"filename": 3}\n')
    assert "no line for any of the" in problem(call(world.run, "--score", "--boxes", "bad.jsonl"))


def _labels(world: World, image_id: str) -> set[str]:
    for line in (world.scenes.folder / "detections.jsonl").read_text().splitlines():
        row: dict[str, Any] = json.loads(line)
        if row["filename"] == f"{image_id}.png":
            return set(row["labels"])
    raise AssertionError(image_id)


def test_scores_on_flickr30k_entities(world: World, call: Call, tmp_path: Path) -> None:
    """One photo, one phrase: the model's own choice decides what is right."""
    image, _ = photo(world)
    shutil.copyfile(image, tmp_path / "77.png")
    collection = Collection.write(
        tmp_path / "c",
        name="c",
        image_root=tmp_path,
        images=[ImageRecord("77", "77.png", 32, 32)],
        captions=[CaptionRecord("77#0", "77", "A red star, on paper.", "test")],
        provenance={},
    )
    model = RetrievalModel.from_pretrained(world.run)
    (pair,) = encoded_pairs(model, *Sources.open(collection.folder).split(model, "test"))
    red_star = pair.words["locals"][1:3].mean(dim=0)
    chosen = pair.boxes[1 + int((pair.regions["locals"][1:] @ red_star).argmax())]
    for part in ("Sentences", "Annotations"):
        (tmp_path / "e" / part).mkdir(parents=True)
    (tmp_path / "e" / "Sentences" / "77.txt").write_text("A [/EN#1/other red star] on paper .\n")
    for right in (True, False):
        # The annotation's photo is larger than ours: boxes are relative to its own size.
        left, top, width, height = (
            *(1000 * chosen[:2]).tolist(),
            *(1000 * (chosen[2:] - chosen[:2])).tolist(),
        )
        left = left if right else (left + 500) % 1000
        (tmp_path / "e" / "Annotations" / "77.xml").write_text(
            "<annotation><size><width>1000</width><height>1000</height></size><object><name>1</name><bndbox>"
            f"<xmin>{left}</xmin><ymin>{top}</ymin><xmax>{left + width}</xmax><ymax>{top + height}</ymax>"
            "</bndbox></object></annotation>"
        )
        code, out, _ = call(world.run, "--score", "--json", "--collection", "c", "--entities", "e")
        assert code == 0
        result = json.loads(out)["units"]["locals"]
        for measure in ("accuracy", "pointing"):
            assert result[measure]["accuracy"] == (100 if right else 0)
            assert result[measure]["words"] == 1
            assert list(result[measure]["by_kind"]) == ["other"]
    (tmp_path / "e" / "Sentences" / "77.txt").write_text("Another [/EN#1/other red star] .\n")
    told = problem(call(world.run, "--score", "--collection", "c", "--entities", "e"))
    assert "no word has a box (phrases of Flickr30k Entities)" in told


def test_words_without_known_objects(world: World, call: Call, tmp_path: Path) -> None:
    collection = Collection.write(
        tmp_path / "c",
        name="c",
        image_root=world.scenes.image_root,
        images=[ImageRecord("x", photo(world)[0].name, 32, 32)],
        captions=[CaptionRecord("x#0", "x", "a star", "test")],
        provenance={},
    )
    for mode in (["--score"], ["-o", "g", "--against", world.base]):
        told = problem(call(world.run, "--collection", collection.folder, *mode))
        assert "it is not known what its words mean; give boxes by --boxes or --entities" in told


# ---- what cannot be looked for


def test_a_model_that_covers_no_known_word_is_still_evaluated(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from crossalign.data.scenes import SceneTruth

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(SceneTruth, "words", lambda *_: ())
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", str(world.run), "--out", "result"])
    told = capsys.readouterr()
    assert not ended.value.code
    assert "no word-to-region accuracy: no word with a known object is covered" in told.err
    assert "saved: result" in told.out
    assert (tmp_path / "result" / "results.json").is_file()
    assert not (tmp_path / "result" / "grounding.json").exists()
