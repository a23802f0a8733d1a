"""Ensembles in evaluation: mean scores by plain loops, inputs of each member's own, and what is refused."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from crossalign.cli.main import app
from crossalign.data.collection import Collection
from crossalign.data.features import FeatureWriter
from crossalign.ensemble import (
    chosen_scale,
    ensemble_fingerprint,
    is_ensemble,
    open_ensemble,
    read_ensemble,
    side_by_side,
    write_ensemble,
)
from crossalign.errors import CrossAlignError
from crossalign.evaluation import RetrievalResult
from crossalign.evaluation.ensembles import EnsembleGallery
from crossalign.evaluation.gallery import EmbeddingGallery
from crossalign.evaluation.of_run import evaluate_run
from crossalign.evaluation.run_sources import run_sources
from crossalign.evaluation.tables import result_table
from crossalign.model import ModelConfig, RetrievalModel, evaluation_mode
from crossalign.recipe import load_recipe
from crossalign.sources import Sources
from crossalign.training.assemble import assemble_model
from toy_collection import RECIPE, write_toy

KINDS = {
    "plain": ["model.context_head=false", "objective.cra=null"],
    "enriched": ["data.image_features=[other]", "seed=3", "model.text.encoder.min_count=30"],
    "views": [
        "model.context_head=false",
        "objective.cra=null",
        "model.image.encoder={kind: camera, heads: 2, views: 3, channels: 4, positions: false}",
        "seed=5",
    ],
    "sgr": ["model.context_weight=0", "model.scorer={kind: sgr, similarity_dim: 8}", "seed=7"],
    "scan": ["model.context_weight=0", "model.scorer={kind: scan}", "data.image_features=[other]", "seed=8"],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs that have not learnt anything: a recipe and a model."""
    folder = tmp_path_factory.mktemp("runs")
    toy = folder / "toy.yaml"
    place = write_toy(folder / "toy")
    ids = [image.id for image in Collection.load(place).images]
    random = np.random.default_rng(9)
    with FeatureWriter(
        place / "features" / "other",
        ids=ids,
        dim=7,
        units=3,
        dtype="float32",
        manifest={"kind": "image", "source": "toy"},
        boxes=False,
    ) as writer:
        writer.append([random.normal(size=(3, 7)).astype(np.float32) for _ in ids])
        writer.finish()
    toy.write_text(RECIPE.format(folder=place))
    for name, changes in KINDS.items():
        recipe = load_recipe(toy, changes)
        sources = Sources.open(recipe.data.collection, recipe.data.image_features)
        assemble_model(recipe, sources).save_pretrained(folder / name / "model")
        (folder / name / "recipe.yaml").write_text(recipe.to_yaml())
    return folder


def scores(run: Path, split: str = "train") -> tuple[np.ndarray, np.ndarray]:
    """All scores of a split from one padded batch, and the image of each caption."""
    model, sources = RetrievalModel.from_pretrained(run), run_sources(run)
    part, images, texts = sources.split(model, split)
    with evaluation_mode(model), torch.no_grad():
        image = model.image_tower(images(np.arange(len(part.image_ids))))
        text = model.text_tower(texts(np.arange(len(part.texts))))
        return model.scores(image, text).double().numpy(), part.image_of_text


def plain_ranks(values: np.ndarray, owner: np.ndarray) -> tuple[list[int], list[int]]:
    i2t, t2i = [], []
    for image, row in enumerate(values):
        best = max(row[text] for text in range(len(owner)) if owner[text] == image)
        i2t.append(1 + sum(row[text] >= best for text in range(len(owner)) if owner[text] != image))
    for text, own in enumerate(owner):
        t2i.append(
            1 + sum(values[image, text] >= values[own, text] for image in range(len(values)) if image != own)
        )
    return i2t, t2i


@pytest.mark.parametrize("scale", ["raw", "standardised"])
@pytest.mark.parametrize(
    "members",
    [("plain", "enriched"), ("enriched", "views", "plain"), ("plain", "sgr"), ("scan", "sgr", "enriched")],
)
def test_ranks_are_those_of_the_mean_scores(runs: Path, members: tuple[str, ...], scale: Any) -> None:
    first, *others = (runs / name for name in members)
    measured = evaluate_run(first, split="train", ensemble_with=others, scale=scale)
    total, owner = 0.0, np.zeros(0)
    for name in members:
        values, owner = scores(runs / name)
        total += values if scale == "raw" else (values - values.mean()) / values.std()
    i2t, t2i = plain_ranks(total, owner)
    assert measured.result.table.i2t.tolist() == i2t
    assert measured.result.table.t2i.tolist() == t2i
    alone = evaluate_run(first, split="train").result
    assert alone.table.t2i.tolist() != t2i


def test_each_fold_is_standardised_by_itself(runs: Path) -> None:
    found = evaluate_run(
        runs / "plain", split="train", folds=2, ensemble_with=[runs / "sgr"], scale="standardised"
    ).result
    (one, owner), (two, _) = scores(runs / "plain"), scores(runs / "sgr")
    for start in (0, 20):
        mine = np.flatnonzero((owner >= start) & (owner < start + 20))
        parts = [values[start : start + 20][:, mine] for values in (one, two)]
        mean = sum((part - part.mean()) / part.std() for part in parts)
        i2t, t2i = plain_ranks(mean, owner[mine] - start)
        assert found.table.i2t[start : start + 20].tolist() == i2t
        assert found.table.t2i[mine].tolist() == t2i


def test_a_model_beside_itself_is_itself_and_a_silent_one_changes_nothing(runs: Path) -> None:
    alone = evaluate_run(runs / "views", split="train").result
    twice = evaluate_run(runs / "views", split="train", ensemble_with=[runs / "views"]).result
    assert twice.metrics == alone.metrics
    assert twice.model != alone.model
    random = np.random.default_rng(0)
    image, text = random.normal(size=(4, 3)).astype(np.float32), random.normal(size=(6, 3)).astype(np.float32)
    speaking, silent = EmbeddingGallery(image, text), EmbeddingGallery(image * 0, text)
    owner = [0, 1, 2, 3, 3, 0]
    both = EnsembleGallery((speaking, silent), "standardised").ranks(owner)
    assert both.t2i.tolist() == speaking.ranks(owner).t2i.tolist()


def test_inner_products_of_joined_embeddings_are_mean_similarities_also_with_views() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [((5, 4), (6, 4)), ((5, 2, 3), (6, 3)), ((5, 3, 2), (6, 2))]
    images = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape, _ in shapes]
    texts = [torch.randn(shape, generator=generator, dtype=torch.float64) for _, shape in shapes]
    for count in (1, 2, 3):
        image, text = side_by_side(images[:count]), side_by_side(texts[:count])
        assert image.shape[1:] == ((4,), (2, 7), (6, 9))[count - 1]
        for row in range(5):
            for column in range(6):
                expected = 0.0
                for part, words in zip(images[:count], texts[:count], strict=True):
                    views = part[row].reshape(-1, part.shape[-1])
                    expected += max(float(view @ words[column]) for view in views) / count
                found = RetrievalModel.similarity(image[row : row + 1], text[column : column + 1])
                assert float(found) == pytest.approx(expected)


def test_the_record_names_all_members(runs: Path, tmp_path: Path) -> None:
    result = evaluate_run(runs / "plain", split="val", ensemble_with=[runs / "sgr"]).result
    prints = [RetrievalModel.from_pretrained(runs / name).fingerprint for name in ("plain", "sgr")]
    assert result.model == ensemble_fingerprint(prints, "standardised")
    assert result.model != ensemble_fingerprint(prints[::-1], "standardised")
    result.save(tmp_path / "saved")
    loaded = RetrievalResult.load(tmp_path / "saved")
    assert loaded.ensemble == result.ensemble
    assert loaded.ensemble is not None
    assert loaded.ensemble.scale == "standardised"
    assert [member.model for member in loaded.ensemble.members] == prints
    assert [member.name for member in loaded.ensemble.members] == [
        f"{runs.name}/plain",
        f"{runs.name}/sgr",
    ]
    assert loaded.trained_on == "toy"
    assert f"standardised mean of {runs.name}/plain and {runs.name}/sgr" in str(result_table(loaded).title)


@pytest.mark.parametrize(
    ("scorers", "scale"),
    [
        ([None, None], "raw"),
        ([None, "{kind: sgr}"], "standardised"),
        (["{kind: sgr}", "{kind: saf}"], "raw"),
        (["{kind: scan}", "{kind: scan, aggregation: Mean}"], "standardised"),
        (["{kind: scan}", "{kind: scan, lambda_softmax: 4}"], "raw"),
    ],
)
def test_scores_of_one_kind_are_averaged_raw(scorers: list[str | None], scale: str) -> None:
    import yaml

    configs = [
        ModelConfig.model_validate({"scorer": None if text is None else yaml.safe_load(text)})
        for text in scorers
    ]
    assert chosen_scale(configs) == scale
    assert chosen_scale(configs, "raw") == "raw"


def test_the_folder_gives_what_its_members_give(runs: Path, tmp_path: Path) -> None:
    for names in (["plain", "enriched"], ["views", "sgr"]):
        folder = tmp_path / "+".join(names)
        answer = CliRunner().invoke(
            app, ["ensemble", *(str(runs / name) for name in names), "--out", str(folder), "--json"]
        )
        assert answer.exit_code == 0, answer.output
        told = json.loads(answer.stdout)
        assert is_ensemble(folder)
        assert told["scale"] == read_ensemble(folder).scale
        together = evaluate_run(runs / names[0], split="val", ensemble_with=[runs / names[1]]).result
        # Moved, and without what it was made of, it is the same.
        moved = tmp_path / f"moved-{names[0]}"
        shutil.copytree(folder, moved)
        answer = CliRunner().invoke(app, ["evaluate", str(moved), "--split", "val", "--json"])
        assert answer.exit_code == 0, answer.output
        told = json.loads(answer.stdout)
        assert told["metrics"] == together.metrics
        assert told["model"] == together.model
        assert [member["name"] for member in told["ensemble"]["members"]] == names
        assert (
            json.loads((moved / "results" / "val" / "results.json").read_text())["metrics"] == told["metrics"]
        )
        # A member is used like a run.
        member = read_ensemble(moved).members[1]
        assert (
            evaluate_run(member, split="val").result.metrics
            == evaluate_run(runs / names[1], split="val").result.metrics
        )


def test_the_command_saves_under_a_name_of_its_own(runs: Path) -> None:
    both = ["evaluate", str(runs / "plain"), "--split", "val", "--with", str(runs / "sgr")]
    answer = CliRunner().invoke(
        app, [*both, "--with", str(runs / "views" / "model"), "--collection", str(runs / "toy")]
    )
    assert answer.exit_code == 0, answer.output
    answer = CliRunner().invoke(app, [*both, "--scale", "raw"])
    assert answer.exit_code == 0, answer.output
    names = {place.name for place in (runs / "plain" / "results").iterdir()}
    assert {"val-mean-with-sgr+views", "val-mean-with-sgr-raw"} <= names
    assert "val" not in names


def refused(call: Any, *arguments: Any, **settings: Any) -> str:
    with pytest.raises(CrossAlignError) as caught:
        call(*arguments, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_does_not_fit_is_refused_in_one_line(runs: Path, tmp_path: Path) -> None:
    plain, others = runs / "plain", [runs / "enriched"]
    folder = tmp_path / "both"
    write_ensemble([plain, *others], folder)
    assert "--width: is for one model" in refused(evaluate_run, plain, ensemble_with=others, width=4)
    assert "--rerank: is for one model" in refused(evaluate_run, folder, rerank=runs / "sgr")
    assert "--scale: says how several" in refused(evaluate_run, plain, scale="raw")
    assert "two models or more" in refused(write_ensemble, [plain], tmp_path / "one")
    assert "already exists" in refused(write_ensemble, [plain, *others], folder)
    assert "an ensemble of several models, here one is needed" in refused(
        write_ensemble, [folder, plain], tmp_path / "nested"
    )
    assert "an ensemble of several models" in refused(RetrievalModel.from_pretrained, folder)
    assert "no such model folder" in refused(evaluate_run, plain, ensemble_with=[tmp_path / "nothing"])
    # Nothing is left where one could not be made.
    assert [place.name for place in tmp_path.iterdir()] == ["both"]
    # Features that a member does not take, with its name.
    told = refused(evaluate_run, plain, ensemble_with=others, image_features=["other"])
    assert told.startswith(f"{runs.name}/plain: image features: 7 wide, but the model takes 16")
    for content, expected in (
        ("{", "ensemble.json"),
        ("{}", "not an ensemble of format 1"),
        ('{"format": "crossalign-ensemble", "format_version": 1, "scale": "raw", "members": []}', "damaged"),
    ):
        (folder / "ensemble.json").write_text(content)
        assert expected in refused(read_ensemble, folder)


def test_members_lie_within_the_folder(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "both"
    write_ensemble([runs / "plain", runs / "enriched"], folder)
    content = json.loads((folder / "ensemble.json").read_text())
    shutil.copytree(runs / "plain", tmp_path / "elsewhere")
    (folder / "members" / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "members" / "same").symlink_to("1-plain")
    sound = content["members"][0]["folder"]

    def named(name: str) -> None:
        members = [content["members"][0] | {"folder": name}, content["members"][1]]
        (folder / "ensemble.json").write_text(json.dumps(content | {"members": members}))

    outside = (
        str(tmp_path / "elsewhere"),
        # Also where an absolute path leads into it: it would be another place after a move.
        str(folder / sound),
        "../elsewhere",
        "members/../../elsewhere",
        "members/linked",
        "members/linked/model",
        "..",
        ".",
        "",
        "../both",
    )
    for name in outside:
        named(name)
        for call in (read_ensemble, open_ensemble, evaluate_run):
            told = refused(call, folder)
            assert told.startswith(f"{folder / 'ensemble.json'}: member '{name}' is not within {folder}")
    answer = CliRunner().invoke(app, ["evaluate", str(folder), "--split", "val"])
    assert answer.exit_code != 0
    # What is not there is not looked for at other places, where 'both/gone' may be a name.
    named("gone")
    monkeypatch.chdir(tmp_path)
    assert "member 'gone' is missing" in refused(read_ensemble, "both")
    # Within the folder, any way to a member will do, also by a link to the folder.
    (tmp_path / "link").symlink_to(folder)
    for name in (sound, f"./{sound}", f"members/../{sound}", "members/same"):
        named(name)
        for place in (folder, Path("both"), tmp_path / "link"):
            assert read_ensemble(place).members[0].resolve() == (folder / sound).resolve()
    assert len(open_ensemble(tmp_path / "link").models) == 2


def test_an_ensemble_of_ensembles_and_models_has_all_of_them(runs: Path, tmp_path: Path) -> None:
    write_ensemble([runs / "plain", runs / "enriched"], tmp_path / "both")
    found = evaluate_run(tmp_path / "both", split="val", ensemble_with=[runs / "views"]).result
    three = evaluate_run(
        runs / "plain", split="val", ensemble_with=[runs / "enriched", runs / "views"]
    ).result
    assert (found.model, found.metrics) == (three.model, three.metrics)
