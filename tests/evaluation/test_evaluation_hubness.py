"""``crossalign evaluate --hubness``: what is measured, how it is told, where it goes, what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from crossalign.cli.main import app
from crossalign.encode import encode_split
from crossalign.errors import CrossAlignError
from crossalign.evaluation import RetrievalResult, compare
from crossalign.evaluation.gallery import EmbeddingGallery, gallery_table
from crossalign.evaluation.hubness import METHODS, CorrectedGallery
from crossalign.evaluation.of_model import Hubness
from crossalign.evaluation.of_run import evaluate_run
from crossalign.evaluation.tables import comparison_table, result_table
from crossalign.model import RetrievalModel
from crossalign.recipe import load_recipe
from crossalign.sources import Sources
from crossalign.training.assemble import assemble_model
from toy_collection import RECIPE, write_toy

KINDS = {
    "enriched": [],
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


@pytest.mark.parametrize("method", METHODS)
def test_the_numbers_are_those_of_the_corrected_embeddings(runs: Path, method: str) -> None:
    hubness = Hubness(method, 0.02, "val")
    result = evaluate_run(runs / "enriched", hubness=hubness, width=24).result
    model = RetrievalModel.from_pretrained(runs / "enriched")
    recipe = load_recipe(runs / "enriched" / "recipe.yaml")
    sources = Sources.open(recipe.data.collection, recipe.data.image_features)
    galleries = {}
    for name in ("test", "val"):
        split, images, texts = sources.split(model, name)
        galleries[name] = EmbeddingGallery(*encode_split(model, images, texts)).truncated(24, 3)
        owner = split.image_of_text if name == "test" else owner  # noqa: F821
    bank = galleries["val"] if hubness.has_bank else None
    table = gallery_table(CorrectedGallery(galleries["test"], method, 0.02, bank), owner)
    assert np.array_equal(result.table.t2i, table.t2i)
    assert np.array_equal(result.table.i2t, table.i2t)
    assert result.hubness is not None
    assert result.hubness.transductive == (method in ("dual-softmax", "inverted-softmax"))
    assert (result.hubness.bank, result.hubness.bank_captions) == (
        ("val", galleries["val"].size[1]) if hubness.has_bank else (None, 0)
    )


def test_a_scorer_is_corrected_too(runs: Path) -> None:
    for method in METHODS:
        result = evaluate_run(runs / "scorer", hubness=Hubness(method, 0.02, "val")).result
        assert result.hubness is not None


def test_the_command_tells_it_and_saves_it_under_a_name_of_its_own(runs: Path) -> None:
    documents = {}
    for name, options in {
        "test": [],
        "test-dual-softmax": ["--hubness", "dual-softmax"],
        "test-query-bank-of-val": [
            *("--hubness", "query-bank", "--hubness-bank", "val", "--hubness-temperature", "0.2")
        ],
    }.items():
        answer = CliRunner().invoke(app, ["evaluate", str(runs / "enriched"), "--json", *options])
        assert answer.exit_code == 0, answer.output
        documents[name] = json.loads(answer.stdout)
    results = {name: RetrievalResult.load(runs / "enriched" / "results" / name) for name in documents}
    assert "hubness" not in documents["test"]
    assert documents["test-dual-softmax"]["hubness"] == {
        "method": "dual-softmax",
        "temperature": 0.1,
        "transductive": True,
        "bank_captions": 0,
        "bank_images": 0,
    }
    told = documents["test-query-bank-of-val"]["hubness"]
    assert (told["transductive"], told["bank"], told["temperature"]) == (False, "val", 0.2)
    assert told["bank_captions"] > told["bank_images"] > 0
    dual, bank = results["test-dual-softmax"], results["test-query-bank-of-val"]
    words = "hubness corrected by dual-softmax (temperature 0.1), transductive: with all test queries at once"
    assert result_table(dual).title == f"toy, test, full, {words}"
    counts = f"{told['bank_captions']} captions and {told['bank_images']} images of 'val'"
    assert bank.corrected == f"hubness corrected by query-bank (temperature 0.2), bank: {counts}"
    comparison = compare(results["test"], dual, resamples=50)
    assert comparison_table(comparison).title == f"toy, test, full, candidate: {words}"
    assert comparison.candidate_reranked == words


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--hubness", "softmax"], "hubness 'softmax': no such correction; give one of dual-softmax"),
        (["--hubness", "dual-softmax", "--hubness-temperature", "0"], "temperature is 0.0; give a positive"),
        (
            ["--hubness-temperature", "0.1"],
            "--hubness-temperature 0.1: nothing is corrected; give --hubness too",
        ),
        (["--hubness-bank", "val"], "--hubness-bank val: nothing is corrected; give --hubness too"),
        (["--hubness", "dual-softmax", "--hubness-bank", "val"], "looks at the queries of the split itself"),
        (["--hubness", "query-bank", "--hubness-bank", "test"], "'test' is what is measured"),
        (["--hubness", "query-bank", "--hubness-bank", "none"], "no split 'none'"),
        (["--hubness", "dual-softmax", "--rerank", "scorer"], "leave --rerank out"),
    ],
)
def test_refused_in_one_line(runs: Path, options: list[str], said: str) -> None:
    options = [str(runs / word) if word == "scorer" else word for word in options]
    answer = CliRunner().invoke(app, ["evaluate", str(runs / "enriched"), *options])
    assert answer.exit_code != 0
    assert isinstance(answer.exception, CrossAlignError)
    assert said in str(answer.exception)
    assert "\n" not in str(answer.exception)
