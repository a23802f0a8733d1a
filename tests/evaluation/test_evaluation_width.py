"""Evaluating cut embeddings: the same numbers as of vectors cut by hand, saved under a name of their own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from crossalign.cli.main import app
from crossalign.encode import encode_split
from crossalign.errors import CrossAlignError
from crossalign.evaluation import RetrievalResult, compare, recall
from crossalign.evaluation.gallery import EmbeddingGallery
from crossalign.evaluation.of_run import evaluate_run
from crossalign.evaluation.tables import result_table
from crossalign.model import RetrievalModel
from crossalign.recipe import load_recipe
from crossalign.sources import Sources
from crossalign.training.assemble import assemble_model
from crossalign.truncation import truncate
from toy_collection import RECIPE, write_toy

KINDS = {
    "plain": ["model.context_head=false", "objective.cra=null"],
    "enriched": [],
    "projected": ["model.embedding_size=20"],
    "scorer": ["model.context_weight=0", "model.scorer={kind: sgr, similarity_dim: 8}"],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs that have not learnt anything: a recipe and a model."""
    folder = tmp_path_factory.mktemp("runs")
    toy = folder / "toy.yaml"
    toy.write_text(RECIPE.format(folder=write_toy(folder / "toy")))
    for name, changes in KINDS.items():
        recipe = load_recipe(toy, changes)
        sources = Sources.open(recipe.data.collection, recipe.data.image_features)
        assemble_model(recipe, sources).save_pretrained(folder / name / "model")
        (folder / name / "recipe.yaml").write_text(recipe.to_yaml())
    return folder


@pytest.mark.parametrize(
    ("kind", "width", "parts"), [("plain", 5, 1), ("enriched", 24, 3), ("projected", 7, 1)]
)
def test_the_numbers_are_those_of_embeddings_cut_by_hand(
    runs: Path, kind: str, width: int, parts: int
) -> None:
    result = evaluate_run(runs / kind, split="train", width=width).result
    model = RetrievalModel.from_pretrained(runs / kind)
    recipe = load_recipe(runs / kind / "recipe.yaml")
    split, images, texts = Sources.open(recipe.data.collection, recipe.data.image_features).split(
        model, "train"
    )
    cut = []
    for whole in encode_split(model, images, texts):
        pieces = [part[:, : width // parts] for part in whole.chunk(parts, dim=1)]
        norms = [part.norm(dim=1, keepdim=True) for part in whole.chunk(parts, dim=1)]
        cut.append(
            torch.cat(
                [
                    piece / piece.norm(dim=1, keepdim=True) * norm
                    for piece, norm in zip(pieces, norms, strict=True)
                ],
                dim=1,
            )
        )
    assert result.metrics == recall(*cut, split.image_of_text)
    assert result.metrics != evaluate_run(runs / kind, split="train").result.metrics
    assert (result.width, result.model) == (width, model.fingerprint)
    whole = evaluate_run(runs / kind, split="train", width=model.dim).result
    assert whole.metrics == evaluate_run(runs / kind, split="train").result.metrics


def test_views_are_cut_one_by_one() -> None:
    image, text = torch.randn(6, 3, 8), torch.randn(12, 8)
    owner = np.arange(12) // 2
    gallery = EmbeddingGallery(image, text).truncated(4)
    views = torch.stack([truncate(image[:, view], 4) for view in range(3)], dim=1)
    expected = EmbeddingGallery(views, truncate(text, 4)).ranks(owner)
    assert np.array_equal(gallery.ranks(owner).t2i, expected.t2i)
    assert np.array_equal(gallery.ranks(owner).i2t, expected.i2t)
    in_arrays = EmbeddingGallery(image.numpy(), text.numpy()).truncated(4)
    assert np.array_equal(in_arrays.ranks(owner).t2i, expected.t2i)


def test_the_command_saves_it_under_a_name_of_its_own_and_compares_it_with_the_whole(runs: Path) -> None:
    for options in ([], ["--width", "24"]):
        answer = CliRunner().invoke(app, ["evaluate", str(runs / "enriched"), "--json", *options])
        assert answer.exit_code == 0, answer.output
    told = json.loads(answer.stdout)
    whole, cut = (
        RetrievalResult.load(runs / "enriched" / "results" / name) for name in ("test", "test-width-24")
    )
    assert (told["width"], cut.width, whole.width) == (24, 24, None)
    assert "width" not in whole.to_dict()
    assert cut.metrics == told["metrics"]
    assert result_table(cut).title == "toy, test, full, width 24"
    assert result_table(whole).title == "toy, test, full"
    difference = compare(whole, cut, resamples=50).differences[-1]
    assert difference.difference == pytest.approx(cut.metrics["rsum"] - whole.metrics["rsum"])


def test_a_scorer_re_ranks_what_cut_embeddings_found(runs: Path) -> None:
    ranks = [
        evaluate_run(runs / "plain", rerank=runs / "scorer", rerank_top=2, width=width).result.table.t2i
        for width in (None, 2)
    ]
    assert not np.array_equal(*ranks)
    everything = evaluate_run(runs / "plain", rerank=runs / "scorer", rerank_top=1000, width=2).result
    assert np.array_equal(everything.table.t2i, evaluate_run(runs / "scorer").result.table.t2i)


@pytest.mark.parametrize(
    ("kind", "width", "said"),
    [
        ("scorer", 4, "--width cuts embeddings, and this model scores every pair (sgr); leave it out"),
        ("plain", 17, "width 17: the embedding has 16 numbers; give 1 to 16"),
        (
            "enriched",
            16,
            "width 16: the embedding has 48 numbers in 3 parts, which are cut alike; give a multiple",
        ),
        ("projected", 21, "width 21: the embedding has 20 numbers; give 1 to 20"),
    ],
)
def test_refused_in_one_line(runs: Path, kind: str, width: int, said: str) -> None:
    with pytest.raises(CrossAlignError) as caught:
        evaluate_run(runs / kind, width=width)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
