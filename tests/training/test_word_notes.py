"""Notes on words: the true regions of scenes' words, in batches, in training, and where they are refused."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from crossalign.data.loading import PairSampler, TrainingLoader
from crossalign.data.scenes import SceneTruth
from crossalign.data.scenes.make import make_scenes
from crossalign.data.token_table import TokenTable
from crossalign.data.word_classes import ClassifiedWord, WordClass
from crossalign.errors import CrossAlignError
from crossalign.evaluation.region_match import pointing_regions, regions_of_words
from crossalign.recipe import Recipe, load_recipe
from crossalign.sources import Sources
from crossalign.training import word_notes
from crossalign.training.assemble import assemble_model
from crossalign.training.checkpoint import load_checkpoint
from crossalign.training.metrics import read_metrics
from crossalign.training.trainer import train
from crossalign.training.word_notes import token_notes, with_regions

CLASSES: dict[str, WordClass] = {"circle": "nouns", "square": "nouns", "red": "adjectives", "a": "adjectives"}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "scenes"
    make_scenes(folder, train=32, val=8, test=0, seed=1)
    return folder


def recipe_of(scenes: Path, *changes: str) -> Recipe:
    small = [
        "training.batch_size=16",
        "training.epochs=1",
        "training.tensorboard=false",
        "training.log_every=1",
    ]
    known = ["objective.lca.correspondence=true", "objective.lca.concepts=8", "objective.cra=null"]
    place = f"data.collection={scenes}"
    return load_recipe("scenes-vse-selfalign", [place, *small, *known, "training.accelerator=cpu", *changes])


def test_a_table_gives_each_caption_its_rows() -> None:
    table = TokenTable.of([np.array([1, 2]), np.array([3]), np.array([], int), np.array([4, 5, 6])])
    found = table.batch(np.array([3, 0, 2, 1]), 3)
    assert found.tolist() == [[4, 5, 6], [1, 2, 0], [0, 0, 0], [3, 0, 0]]
    assert table.batch(np.array([3]), 2).tolist() == [[4, 5]]


def test_every_token_knows_the_regions_that_show_its_object(scenes: Path) -> None:
    recipe = recipe_of(scenes)
    sources = Sources.open(scenes)
    model = assemble_model(recipe, sources)
    split, images, texts = sources.split(model, "train")
    notes = token_notes(recipe.objective, model, sources, split)
    batch = next(iter(TrainingLoader(split, images, texts, PairSampler(split, 24, 0), note_source=notes)))
    assert batch.notes is not None
    boxes = model.image_tower.region_boxes(batch.image)
    count = boxes.shape[1]
    found = with_regions(batch.notes, boxes, batch.image_rows, "centre", count).regions
    assert found is not None
    truth = SceneTruth.load(sources.collection)
    named = 0
    for pair, caption_id in enumerate(batch.caption_ids):
        text = split.texts[split.caption_ids.index(caption_id)]
        own = boxes[batch.image_rows[pair]]
        expected = torch.zeros(batch.text.mask.shape[1], count, dtype=torch.bool)
        for token, (start, end) in enumerate(model.text_tower.offsets(text)):
            words = [word for word in truth.words(caption_id) if word.start < end and word.end > start]
            if words:
                expected[token] = regions_of_words(own, words[:1], "centre")[0] & pointing_regions(own)
                named += 1
        assert torch.equal(found[pair], expected)
    # The captions are about colours and shapes: most have several words with an object.
    assert named > 2 * len(batch.caption_ids)
    assert 0 < found.float().mean() < 0.2


def test_training_with_true_regions_learns_from_them(scenes: Path, tmp_path: Path) -> None:
    events = []
    for name in ("true", "learnt"):
        recipe = recipe_of(scenes, f"objective.lca.correspondence={name}")
        train(recipe, tmp_path / name, progress=False)
        events.append(read_metrics(tmp_path / name / "metrics.jsonl"))
    true, learnt = ([event["lca"] for event in run if event["kind"] == "train"] for run in events)
    assert all(0 < value < 10 for value in true)
    assert true[0] != learnt[0]
    assert load_checkpoint(tmp_path / "true" / "checkpoints" / "last.ckpt")["state"]["epoch"] == 1


class OneTokenALetter:
    """Stands for a tower whose tokens are parts of words, between special ones."""

    def offsets(self, text: str) -> list[tuple[int, int]]:
        return [(0, 0), *((place, place + 1) for place in range(len(text))), (0, 0)]


@pytest.mark.parametrize("parts", [False, True])
def test_tokens_belong_to_the_class_of_their_word(
    scenes: Path, monkeypatch: pytest.MonkeyPatch, parts: bool
) -> None:
    def classes(texts: Sequence[str]) -> Iterator[list[ClassifiedWord]]:
        for text in texts:
            words = re.finditer(r"\w+", text)
            yield [
                ClassifiedWord(word.start(), word.end(), CLASSES.get(word.group(), "verbs")) for word in words
            ]

    monkeypatch.setattr(word_notes, "classified_words", classes)
    recipe = recipe_of(
        scenes, "objective.lca.correspondence=learnt", "objective.lca.words=[nouns, adjectives]"
    )
    sources = Sources.open(scenes)
    model = assemble_model(recipe, sources)
    split, *_ = sources.split(model, "train")
    if parts:
        monkeypatch.setattr(model.text_tower, "offsets", OneTokenALetter().offsets)
    notes = token_notes(recipe.objective, model, sources, split)
    assert notes is not None
    assert notes.objects is None
    captions, named = np.arange(20), 0
    chosen = notes(captions, 250).chosen
    assert chosen is not None
    for caption in captions:
        text = split.texts[caption]
        offsets = model.text_tower.offsets(text)
        expected = [False] * 250
        for token, (start, end) in enumerate(offsets):
            around = [word for word in re.finditer(r"\w+", text) if word.start() < end and word.end() > start]
            expected[token] = end > start and any(word.group() in CLASSES for word in around)
        assert chosen[caption].tolist() == expected
        named += sum(expected)
    assert named > 20


def test_a_run_may_align_nouns_alone(toy: Path, tmp_path: Path) -> None:
    pytest.importorskip("HanTa")
    losses = []
    for words in ("nouns", "[adjectives, nouns, verbs, numerals]", "all"):
        recipe = load_recipe(toy, [f"objective.lca.words={words}", "training.epochs=1"])
        train(recipe, tmp_path / words, progress=False)
        events = read_metrics(tmp_path / words / "metrics.jsonl")
        losses.append([event["lca"] for event in events if event["kind"] == "train"])
    assert losses[0] != losses[1]
    assert losses[0] != losses[2]
    assert all(value > 0 for value in losses[0])


def test_where_nothing_is_asked_nothing_is_made(scenes: Path) -> None:
    recipe = recipe_of(scenes, "objective.lca.correspondence=learnt")
    sources = Sources.open(scenes)
    model = assemble_model(recipe, sources)
    split, images, texts = sources.split(model, "train")
    assert token_notes(recipe.objective, model, sources, split) is None
    assert next(iter(TrainingLoader(split, images, texts, PairSampler(split, 4, 0)))).notes is None


def test_a_collection_that_does_not_know_is_refused(toy: Path, tmp_path: Path) -> None:
    recipe = load_recipe(toy, ["objective.lca.correspondence=true"])
    with pytest.raises(
        CrossAlignError, match=r"correspondence: true: .*only collections of synthetic scenes"
    ) as error:
        train(recipe, tmp_path / "run", progress=False)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("change", ["data.flip=0.5", "data.crop=0.8"])
def test_photos_that_are_changed_are_refused(scenes: Path, change: str) -> None:
    with pytest.raises(CrossAlignError, match=r"correspondence: true knows where .* leave out data\.flip"):
        recipe_of(scenes, change)


def test_photos_of_which_a_part_is_seen_are_refused(scenes: Path) -> None:
    recipe = recipe_of(scenes)
    sources = Sources.open(scenes)
    model = assemble_model(recipe, sources)
    backbone = model.config.image.backbones[0]
    cut = backbone.model_copy(update={"input": backbone.input.model_copy(update={"resize": "crop"})})
    model.image_tower.config = model.image_tower.config.model_copy(update={"backbones": (cut,)})
    split, *_ = sources.split(model, "train")
    with pytest.raises(CrossAlignError, match=r"set .*resize: squash"):
        token_notes(recipe.objective, model, sources, split)
