"""Models that score pairs: trained, resumed, validated, evaluated and used to re-rank like any other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from crossalign.cli.main import app
from crossalign.errors import CrossAlignError
from crossalign.evaluation.of_run import evaluate_run
from crossalign.evaluation.run_sources import run_sources
from crossalign.model import RetrievalModel, evaluation_mode, scored_units
from crossalign.recipe import load_recipe
from crossalign.sources import Sources
from crossalign.training.assemble import assemble_model
from crossalign.training.checkpoint import load_checkpoint
from crossalign.training.metrics import read_metrics
from crossalign.training.trainer import train
from interrupted_training import interrupted

KINDS = {
    "scan": "{kind: scan}",
    "sgr": "{kind: sgr, similarity_dim: 8, regions: 5, dropout: 0}",
    "saf": "{kind: saf, similarity_dim: 8, regions: 5, dropout: 0}",
    "sgraf": "{kind: sgraf, similarity_dim: 8, regions: 5, dropout: 0, steps: 2}",
}


PLAIN = [
    "data.validation=train",
    "model.image.region_dropout=0",
    "model.text.word_dropout=0",
    "model.text.word_masking=0",
]


def changes(kind: str, *more: str) -> list[str]:
    return [
        f"model.scorer={KINDS[kind]}",
        "model.context_head=false",
        "objective.cra=null",
        "objective.lca=null",
        "model.image.encoder.pooling=mean",
        "model.text.encoder.pooling=mean",
        *more,
    ]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_scorer_is_trained_and_its_score_decides_the_best_epoch(
    toy: Path, tmp_path: Path, kind: str
) -> None:
    # That it learns at all shows on what it is trained on: so few captions tell little about others.
    recipe = load_recipe(
        toy,
        changes(
            kind,
            *PLAIN,
            "training.epochs=20",
            "optimizer.learning_rate=1e-2",
            "objective.base={kind: hinge, summed_epochs: 20}",
        ),
    )
    result = train(recipe, tmp_path / "run", progress=False)
    events = [e for e in read_metrics(tmp_path / "run" / "metrics.jsonl") if e["kind"] == "validation"]
    assert result.best_rsum == max(event["rsum"] for event in events)
    # 40 images and about 80 captions: chance is near 90, and what stands still stays there.
    assert result.best_rsum > 180
    # What is kept is what was validated, and the whole scorer is in the folder.
    measured = evaluate_run(tmp_path / "run", split="train")
    assert measured.result.metrics["rsum"] == pytest.approx(result.best_rsum)
    assert measured.model.scorer is not None
    trained = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["weights"]
    assert any("scorer" in name for name in trained) == (kind != "scan")


@pytest.mark.parametrize("kind", ["sgr", "saf", "sgraf"])
def test_a_scorer_with_too_few_places_for_regions_leaves_no_run(toy: Path, tmp_path: Path, kind: str) -> None:
    recipe = load_recipe(toy, changes(kind, "model.scorer.regions=2"))
    with pytest.raises(CrossAlignError, match=r"^model\.scorer\.regions is 2, .*/toy has up to 5 regions"):
        train(recipe, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_places_are_checked_against_the_cells_of_photos(toy: Path) -> None:
    network = "{name: test_byobnet, layer: 3, grid: 3, global_cell: true}"
    size = "{size: 64, mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25]}"
    pixels = ["data.image_features=[]", f"model.image.backbones=[{network[:-1]}, input: {size}}}]"]
    for places in (9, 10):
        recipe = load_recipe(toy, changes("saf", *pixels, f"model.scorer.regions={places}"))
        sources = Sources.open(recipe.data.collection)
        if places == 10:
            assert assemble_model(recipe, sources).scorer is not None
        else:
            with pytest.raises(
                CrossAlignError, match=r"model\.image\.backbones has up to 10 regions an image"
            ):
                assemble_model(recipe, sources)


def test_an_interrupted_scorer_run_ends_with_the_same_weights(toy: Path, tmp_path: Path) -> None:
    recipe = load_recipe(toy, changes("saf", "training.epochs=3", "training.checkpoint_every=1"))
    train(recipe, tmp_path / "whole", progress=False)
    with interrupted(8, "check_finite"):
        train(recipe, tmp_path / "part", progress=False)
    train(recipe, tmp_path / "part", resume="auto", progress=False)
    whole, part = (
        load_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt")["weights"]
        for name in ("whole", "part")
    )
    assert all(torch.equal(whole[name], part[name]) for name in whole)


@pytest.fixture
def runs(toy: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A model of embeddings and one that scores pairs, both trained a little."""
    few = ["training.epochs=3", "optimizer.learning_rate=5e-3"]
    train(load_recipe(toy, few), tmp_path / "fast", progress=False)
    train(load_recipe(toy, changes("sgr", *few)), tmp_path / "slow", progress=False)
    return tmp_path / "fast", tmp_path / "slow"


def split_scores(run: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """All scores of a split from one padded batch, and the image of each caption."""
    model, sources = RetrievalModel.from_pretrained(run), run_sources(run)
    part, images, texts = sources.split(model, split)
    with evaluation_mode(model), torch.no_grad():
        image = model.image_tower(images(np.arange(len(part.image_ids))))
        text = model.text_tower(texts(np.arange(len(part.texts))))
        if model.scorer is not None:
            direct = model.scorer(scored_units(image), scored_units(text), image.mask, text.mask)
            torch.testing.assert_close(model.scores(image, text), direct)
        return model.scores(image, text).double().numpy(), part.image_of_text


def test_re_ranking_puts_the_best_into_the_order_of_the_scorer(runs: tuple[Path, Path]) -> None:
    fast, slow = runs
    (quick, owner), (careful, _) = split_scores(fast, "train"), split_scores(slow, "train")
    for top in (1, 4, 1000):
        result = evaluate_run(fast, split="train", rerank=slow, rerank_top=top).result
        assert result.reranking is not None
        assert result.reranking.top == top
        for image, row in enumerate(quick):
            first = np.argsort(-row)[:top]
            ahead = [text for text in first if owner[text] == image]
            if ahead:
                best = max(careful[image, text] for text in ahead)
                expected = 1 + sum(careful[image, text] >= best for text in first if owner[text] != image)
            else:
                best = max(row[owner == image])
                expected = 1 + sum(row[owner != image] >= best)
            assert result.table.i2t[image] == expected, (top, image)
        for text, column in enumerate(quick.T):
            first = np.argsort(-column)[:top]
            own = owner[text]
            if own in first:
                expected = 1 + sum(
                    careful[image, text] >= careful[own, text] for image in first if image != own
                )
            else:
                expected = 1 + sum(
                    column[image] >= column[own] for image in range(len(column)) if image != own
                )
            assert result.table.t2i[text] == expected, (top, text)
    everything = evaluate_run(slow, split="train").result
    assert np.array_equal(everything.table.i2t, result.table.i2t)
    assert np.array_equal(everything.table.t2i, result.table.t2i)


def test_the_command_saves_a_re_ranked_result_under_a_name_of_its_own(runs: tuple[Path, Path]) -> None:
    fast, slow = runs
    arguments = [
        "evaluate",
        str(fast),
        "--split",
        "val",
        "--rerank",
        str(slow),
        "--rerank-top",
        "3",
        "--json",
    ]
    answer = CliRunner().invoke(app, arguments)
    assert answer.exit_code == 0, answer.output
    told = json.loads(answer.stdout)
    by = RetrievalModel.from_pretrained(slow).fingerprint
    assert told["reranking"] == {"model": by, "top": 3, "name": f"{slow.parent.name}/slow"}
    saved = json.loads((fast / "results" / "val-3-by-slow" / "results.json").read_text())
    assert saved["metrics"] == told["metrics"]
    assert not (fast / "results" / "val").exists()
    # The model folder of a run goes by the run's name; the table says what it shows.
    answer = CliRunner().invoke(
        app, ["evaluate", str(fast), "--split", "val", "--rerank", str(slow / "model")]
    )
    assert answer.exit_code == 0, answer.output
    assert f"saved: {fast / 'results' / 'val-50-by-slow'}" in answer.stdout.replace("\n", "")
    assert f"re-ranked by {slow.parent.name}/slow" in " ".join(answer.stdout.split())
    answer = CliRunner().invoke(app, ["evaluate", str(fast), "--rerank-top", "3"])
    assert isinstance(answer.exception, CrossAlignError)
    assert str(answer.exception) == "--rerank-top 3: nothing re-ranks; give a model with --rerank too"


def test_what_does_not_fit_is_refused_in_one_line(runs: tuple[Path, Path], toy: Path, tmp_path: Path) -> None:
    fast, slow = runs
    with pytest.raises(
        CrossAlignError, match=f"^{slow}: scores every pair already; --rerank needs a first model"
    ):
        evaluate_run(slow, split="val", rerank=slow)
    with pytest.raises(CrossAlignError, match=f"^{fast}: --rerank needs a model with a scorer"):
        evaluate_run(fast, split="val", rerank=fast)
    with pytest.raises(CrossAlignError, match=r"scores every pair of a photo and a text \(sgr\)"):
        RetrievalModel.from_pretrained(slow).encode_texts(["red"])
    with pytest.raises(CrossAlignError, match="kind is missing"):
        load_recipe(toy, ["model.scorer={similarity_dim: 8}"])
    with pytest.raises(CrossAlignError, match="context_weight"):
        load_recipe(toy, ["model.scorer={kind: scan}"])
