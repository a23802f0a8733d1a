"""Dual encoders on the command line: index, search, evaluate, and BLIP as a re-ranker, nothing downloaded."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from crossalign.cli.main import main
from crossalign.encoders.dual import DualEncoderSettings
from crossalign.encoders.dual.open_clip_library import from_open_clip
from crossalign.errors import CrossAlignError
from crossalign.evaluation.of_model import SecondStage as Second
from crossalign.evaluation.of_model import evaluate_model
from crossalign.model import RetrievalModel
from crossalign.objective import Objective
from crossalign.recipe import Recipe
from crossalign.scorers.settings import CrossEncoderSettings
from crossalign.search import PhotoReranker, SearchEngine, update_index
from crossalign.sources import Sources
from crossalign.towers import ModelConfig
from crossalign.training.trainer import train
from tiny_dual import WIDTH, write_open_clip, write_transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from photo_collection import write_collection

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Call:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments), "--device", "cpu"])
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


def blip_score(folder: Path, model: RetrievalModel, photo: Path, text: str) -> float:
    """One pair through BLIP itself: the logit of a match minus that of a mismatch."""
    import transformers

    blip = transformers.BlipForImageTextRetrieval.from_pretrained(folder).eval()
    tokens = transformers.AutoTokenizer.from_pretrained(folder)([text], return_tensors="pt")
    pixels = model.image_inputs([photo]).pixels
    with torch.inference_mode():
        logits = blip(tokens["input_ids"], pixels, attention_mask=tokens["attention_mask"]).itm_score
    return float(logits[0, 1] - logits[0, 0])


@pytest.mark.parametrize("kind", ["open_clip", "clip", "siglip"])
def test_a_published_model_indexes_and_searches_photos(
    call: Call, tmp_path: Path, tiny_photos: Callable[..., Any], kind: str
) -> None:
    photos = tiny_photos(9)
    if kind == "open_clip":
        pytest.importorskip("open_clip")
        write_open_clip(tmp_path / "clip")
    else:
        write_transformers(tmp_path / "clip", kind)
    code, _, err = call("index", "clip", photos.folder, "--out", "photos.index")
    assert code == 0, err
    code, out, err = call("search", "photos.index", "a red square", "-k", 9, "--exact", "--json")
    assert code == 0, err
    hits = json.loads(out)["hits"]
    model = RetrievalModel.from_pretrained(tmp_path / "clip")
    names = sorted(photos.names)
    scores = model.similarity(
        model.encode_images([photos.folder / name for name in names]), model.encode_texts(["a red square"])
    )[:, 0]
    found = {hit["file"]: hit["score"] for hit in hits}
    assert [found[name] for name in names] == pytest.approx(scores.tolist(), abs=1e-5)
    code, out, _ = call("search", "photos.index", "--image", photos.folder / names[4], "-k", 1, "--json")
    assert json.loads(out)["hits"][0]["file"] == names[4]


def test_blip_reranks_a_search(call: Call, tmp_path: Path, tiny_photos: Callable[..., Any]) -> None:
    photos = tiny_photos(8)
    write_transformers(tmp_path / "clip", "clip")
    blip = write_transformers(tmp_path / "blip", "blip")
    assert call("index", "clip", photos.folder, "--out", "photos.index")[0] == 0
    text = "a red square on dark ground ."
    code, out, err = call(
        "search", "photos.index", text, "-k", 8, "--rerank", "blip", "--rerank-top", 6, "--json"
    )
    assert code == 0, err
    hits = json.loads(out)["hits"]
    model = RetrievalModel.from_pretrained(blip)
    assert len(hits) == 8
    for hit in hits:
        expected = blip_score(blip, model, photos.folder / hit["file"], text)
        assert hit["score"] == pytest.approx(expected, abs=1e-4)
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
    # Its words and regions lie in no common space.
    code, out, err = call("explain", "blip", photos.folder / hits[0]["file"], text)
    assert (code, out) == (1, "")
    assert "this model is a cross-encoder (BLIP)" in err
    # A saved copy needs nothing of the original.
    model.save_pretrained(tmp_path / "copy")
    (tmp_path / "blip").rename(tmp_path / "gone")
    again = PhotoReranker.open(tmp_path / "copy", "cpu").scores(text, [photos.folder / hits[0]["file"]])
    assert again[0] == pytest.approx(hits[0]["score"], abs=1e-5)
    code, _, err = call("index", "copy", photos.folder, "--out", "other.index")
    assert code == 1
    assert "this model scores every pair of a photo and a text (cross_encoder)" in err
    code, _, err = call("search", "photos.index", text, "--rerank", "clip")
    assert code == 1
    assert "re-ranking needs a model with a scorer" in err


def test_blip_reranks_an_evaluation(call: Call, tmp_path: Path, tiny_photos: Callable[..., Any]) -> None:
    collection = write_collection(tmp_path / "collection", tiny_photos(24))
    clip, blip = (write_transformers(tmp_path / kind, kind) for kind in ("clip", "blip"))
    sources = Sources.open(collection.folder)
    fast, slow = RetrievalModel.from_pretrained(clip), RetrievalModel.from_pretrained(blip)
    # A shortlist of everything is BLIP's own order.
    alone = evaluate_model(slow, sources, "train")
    both = evaluate_model(fast, sources, "train", reranker=Second(slow, sources, 1000))
    assert both.metrics == alone.metrics
    assert both.metrics != evaluate_model(fast, sources, "train").metrics
    code, out, err = call(
        "evaluate", "clip", "--collection", collection.folder, "--split", "train",
        "--rerank", "blip", "--rerank-top", 100, "--json", "--out", "result",
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(out)["metrics"]["rsum"] == pytest.approx(alone.metrics["rsum"])


def test_the_cross_encoder_scores_pairs_as_blip_does(tmp_path: Path) -> None:
    blip = write_transformers(tmp_path / "blip", "blip")
    model = RetrievalModel.from_pretrained(blip)
    photos = []
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 255, (40, 57, 3), dtype=np.uint8)
        photos.append(tmp_path / f"{seed}.png")
        Image.fromarray(pixels).save(photos[-1])
    texts = ["a red square", "blue", "a yellow view on dark ground . a sentence", ""]
    image = model.image_tower(model.image_inputs(photos))
    text = model.text_tower(model.text_inputs(texts))
    with torch.inference_mode():
        scores = model.scores(image, text)
    expected = torch.tensor([[blip_score(blip, model, photo, told) for told in texts] for photo in photos])
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-5)
    assert float(expected.std()) > 0.05
    assert isinstance(model.config.scorer, CrossEncoderSettings)
    # In small pieces the same.
    assert model.scorer is not None
    model.scorer.pairs_at_once = 2  # type: ignore[assignment]
    with torch.inference_mode():
        torch.testing.assert_close(model.scores(image, text), expected, atol=1e-5, rtol=1e-5)


def test_the_cross_encoder_can_be_fine_tuned(tmp_path: Path, tiny_photos: Callable[..., Any]) -> None:
    collection = write_collection(tmp_path / "collection", tiny_photos(24))
    blip = write_transformers(tmp_path / "blip", "blip")
    recipe = Recipe.model_validate(
        {
            "name": "itm",
            "data": {"collection": str(collection.folder)},
            "model": {
                "dim": 16,
                "dual_encoder": {"library": "transformers", "name": str(blip)},
                "scorer": {"kind": "cross_encoder"},
            },
            "objective": {"base": {"kind": "contrastive", "temperature": 1.0}},
            "optimizer": {"learning_rate": 0.001, "backbone_learning_rate": 0.001, "layer_decay": 0.9},
            "training": {"epochs": 2, "batch_size": 8, "tensorboard": False, "accelerator": "cpu"},
        }
    )
    train(recipe, tmp_path / "run", progress=False)
    tuned, before = RetrievalModel.from_pretrained(tmp_path / "run"), RetrievalModel.from_pretrained(blip)
    moved = {
        name.split(".")[0]
        for name, value in tuned.state_dict().items()
        if not torch.equal(value, before.state_dict()[name])
    }
    assert moved == {"image_tower", "text_tower", "scorer"}
    with pytest.raises(CrossAlignError, match=r"objective.lca compares units of one width"):
        Objective(recipe.objective.model_validate({"lca": {"concepts": 4}}), tuned.config)


def test_only_blip_has_a_cross_encoder(tmp_path: Path) -> None:
    clip = write_transformers(tmp_path / "clip", "clip")
    config = ModelConfig(
        dim=WIDTH,
        dual_encoder=DualEncoderSettings(library="transformers", name=str(clip)),
        scorer=CrossEncoderSettings(),
    )
    with pytest.raises(CrossAlignError, match="is of the kind 'clip'; name a BLIP model"):
        RetrievalModel(config)
    config = config.model_copy(update={"dual_encoder": DualEncoderSettings(name="ViT-B-32")})
    with pytest.raises(CrossAlignError, match=r"set model.dual_encoder.library: transformers"):
        RetrievalModel(config)


def test_a_fine_tuned_clip_indexes_and_finds(tmp_path: Path, tiny_photos: Callable[..., Any]) -> None:
    photos = tiny_photos(24)
    collection = write_collection(tmp_path / "collection", photos)
    clip = write_transformers(tmp_path / "clip", "clip")
    recipe = Recipe.model_validate(
        {
            "name": "clip",
            "data": {"collection": str(collection.folder)},
            "model": {"dim": WIDTH, "dual_encoder": {"library": "transformers", "name": str(clip)}},
            "objective": {"base": {"kind": "contrastive"}, "lca": {"concepts": 8}},
            "optimizer": {"learning_rate": 0.001},
            "training": {"epochs": 1, "batch_size": 8, "tensorboard": False, "accelerator": "cpu"},
        }
    )
    train(recipe, tmp_path / "run", progress=False)
    update_index(tmp_path / "run", photos.folder, tmp_path / "index", device="cpu")
    with SearchEngine.open(tmp_path / "index", device="cpu") as engine:
        hits = engine.search_image(photos.folder / photos.names[5], 1)
        assert hits[0].file == photos.names[5]
        assert hits[0].score == pytest.approx(1.0, abs=1e-5)
        assert len(engine.search_text("a red square", 5)) == 5


def test_weights_that_cannot_be_fetched_name_what_can_be_given(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_photos: Callable[..., Any]
) -> None:
    open_clip = pytest.importorskip("open_clip")

    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no way to the hub")

    monkeypatch.setattr(open_clip.pretrained, "download_pretrained", offline)
    photos = tiny_photos(2).folder
    code, _, told = call("index", "open_clip:ViT-B-32/laion2b_s34b_b79k", photos)
    told = " ".join(told.split())
    assert code == 1
    assert "the weights laion2b_s34b_b79k of ViT-B-32 were not to be had (no way to the hub)" in told
    assert "in a recipe (model.dual_encoder.weights=FILE)" in told
    assert "a folder with open_clip_config.json and the weights" in told
    # The folder it speaks of needs no way to the hub.
    code, _, told = call("index", write_open_clip(tmp_path / "clip"), photos, "--out", tmp_path / "i")
    assert code == 0, told

    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(CrossAlignError, match="fetch its folder where there is a network") as error:
        from_open_clip(DualEncoderSettings(name="hf-hub:owner/name"))
    assert "weights=FILE" not in str(error.value)
