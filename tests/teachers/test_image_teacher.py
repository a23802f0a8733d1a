"""Image teachers: the network's own vector of a photo, from timm or open_clip."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from crossalign.encoders.backbone import load_weights_of
from crossalign.errors import CrossAlignError
from crossalign.teachers import image_teacher
from photo_collection import write_weights

CHANGES: dict[str, Any] = {
    "size": 64,
    "mean": (0.5,) * 3,
    "std": (0.25,) * 3,
    "interpolation": None,
    "resize": None,
}


@pytest.fixture
def weights(tmp_path: Path) -> str:
    return str(write_weights(tmp_path / "weights.safetensors", "test_vit"))


def test_it_gives_the_vector_of_the_network_itself(weights: str) -> None:
    teacher = image_teacher("test_vit", weights, {}, CHANGES | {"size": None})
    network = timm.create_model("test_vit", num_classes=0).eval()
    load_weights_of(network, "test_vit", weights)
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 80, 3), dtype=np.uint8))
    pixels = teacher.config.input(photo)[None]
    with torch.no_grad():
        assert torch.equal(teacher(pixels), network(pixels))
    assert teacher.dim == network.num_features
    assert (teacher.config.input.size, teacher.config.input.resize) == (160, "squash")
    assert not any(value.requires_grad for value in teacher.parameters())
    assert not teacher.train().network.training
    assert len(str(teacher.config.weights_sha256)) == 64


def test_the_pooling_is_the_networks_own(tmp_path: Path) -> None:
    path = str(write_weights(tmp_path / "weights.safetensors", "test_byobnet"))
    teacher = image_teacher("test_byobnet", path, {}, CHANGES)
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        pooled = teacher.network.forward_features(pixels).mean(dim=(2, 3))
        torch.testing.assert_close(teacher(pixels), pooled)


def test_what_is_no_teacher_is_refused_in_one_line(weights: str, tmp_path: Path) -> None:
    def told(name: str, path: str = weights, arguments: dict[str, Any] | None = None, **changes: Any) -> str:
        with pytest.raises(CrossAlignError) as error:
            image_teacher(name, path, arguments or {}, CHANGES | changes)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "'test_vitt' is not a model of timm" in told("test_vitt")
    assert "no such weights file" in told("test_vit", str(tmp_path / "nowhere.pth"))
    assert "does not fit the model" in told("test_resnet")
    assert "cannot take photos of 100 x 100 pixels" in told("test_vit", size=100)
    assert "model arguments are timm's" in told("open_clip:ViT-B-32", arguments={"img_size": 64})


def test_open_clip_is_named_where_it_is_missing() -> None:
    try:
        import open_clip  # noqa: F401
    except ImportError:
        with pytest.raises(
            CrossAlignError, match=r"'open_clip_torch'; run: pip install 'crossalign\[clip\]'"
        ):
            image_teacher("open_clip:ViT-B-32", "laion2b_s34b_b79k", {}, {})
    else:
        with pytest.raises(CrossAlignError, match="is not a model of open_clip"):
            image_teacher("open_clip:ViT-B-33", "laion2b_s34b_b79k", {}, {})
        with pytest.raises(CrossAlignError, match="has no weights 'pretrained'"):
            image_teacher("open_clip:ViT-B-32", "pretrained", {}, {})


def test_an_open_clip_file_gives_its_own_image_vector(tmp_path: Path) -> None:
    open_clip = pytest.importorskip("open_clip")
    torch.manual_seed(0)
    tiny = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16, "head_width": 32},
        "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    (tmp_path / "tiny-teacher.json").write_text(json.dumps(tiny))
    open_clip.add_model_config(tmp_path)
    model = open_clip.create_model("tiny-teacher").eval()
    torch.save(model.state_dict(), tmp_path / "tiny.pt")
    teacher = image_teacher("open_clip:tiny-teacher", str(tmp_path / "tiny.pt"), {}, {})
    assert teacher.dim == 16
    stated = open_clip.get_model_preprocess_cfg(model)
    assert teacher.config.input.mean == pytest.approx(stated["mean"])
    assert teacher.config.input.resize == "crop"
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(teacher(pixels), model.encode_image(pixels))
