"""Image networks as feature sources: the right map, strict weights, trainable, rebuilt from settings."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from crossalign.encoders.backbone import BackboneConfig, ImageBackbone
from crossalign.encoders.inputs import InputSettings
from crossalign.encoders.timm_models import default_input
from crossalign.errors import CrossAlignError

HALVES = (0.5, 0.5, 0.5)


def config(name: str = "test_resnet", size: int = 96, **changes: object) -> BackboneConfig:
    values = {"name": name, "input": InputSettings(size=size, mean=HALVES, std=HALVES)} | changes
    return BackboneConfig.model_validate(values)


def build(name: str = "test_resnet", size: int = 96, **changes: object) -> ImageBackbone:
    torch.manual_seed(0)
    return ImageBackbone(config(name, size, **changes)).eval()


def pixels(count: int = 2, size: int = 96) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_grid_of_the_last_map() -> None:
    backbone = build(grid=None, global_cell=True)
    feature_map = backbone.network.forward_features(pixels())
    units, mask, boxes = backbone(pixels())
    assert (backbone.dim, backbone.map_size) == (96, (3, 3))
    torch.testing.assert_close(units[:, 0], feature_map.mean(dim=(2, 3)))
    torch.testing.assert_close(units[:, 1:], feature_map.flatten(2).transpose(1, 2))
    assert mask.all()
    assert mask.shape == (2, 10)
    assert torch.equal(boxes[1], backbone.grid_boxes())


@torch.no_grad()
@pytest.mark.parametrize("layer", [1, 3, -1])
def test_inner_layer_is_that_of_timm(layer: int) -> None:
    backbone = build(layer=layer)
    torch.manual_seed(0)
    reference = timm.create_model("test_resnet", num_classes=0)
    listed = timm.models.FeatureListNet(reference, out_indices=(layer % 5,)).eval()
    expected = listed(pixels())[0]
    torch.testing.assert_close(backbone.feature_map(pixels()), expected)
    assert (backbone.dim, *backbone.map_size) == expected.shape[1:]
    if layer == 3:
        assert backbone.map_size == (6, 6)  # stride 16
        assert not any("layer4" in key for key in backbone.state_dict())


@torch.no_grad()
def test_tokens_become_a_map_without_the_class_token() -> None:
    backbone = build("test_vit", 160, grid=None, global_cell=False)
    expected = backbone.network.forward_intermediates(
        pixels(size=160), indices=1, norm=True, intermediates_only=True
    )[0]
    torch.testing.assert_close(backbone.feature_map(pixels(size=160)), expected)
    tokens = backbone.network.forward_features(pixels(size=160))[:, 1:]
    torch.testing.assert_close(backbone(pixels(size=160))[0], tokens)
    assert backbone.map_size == (10, 10)


@torch.no_grad()
def test_channels_last_networks_are_turned() -> None:
    backbone = build("test_mambaout")
    expected = backbone.network.forward_features(pixels())
    torch.testing.assert_close(backbone.feature_map(pixels()).permute(0, 2, 3, 1), expected)
    assert backbone.dim == 64


@torch.no_grad()
def test_batch_composition_does_not_matter() -> None:
    backbone = build()
    together, _, _ = backbone(pixels(5))
    alone = torch.cat([backbone(one[None])[0] for one in pixels(5)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_boxes_of_a_cropped_photo_are_relative_to_the_photo() -> None:
    backbone = build()
    visible = torch.tensor([[0.25, 0.0, 0.75, 1.0]])  # the middle half of a wide photo
    in_photo = torch.tensor([[0.3, 0.2, 0.5, 0.6], [0.0, 0.0, 0.5, 1.0]])
    in_input = torch.tensor([[0.1, 0.2, 0.5, 0.6], [0.0, 0.0, 0.5, 1.0]])
    units, _, boxes = backbone(pixels(1), [in_photo], visible)
    expected, _, _ = backbone(pixels(1), [in_input])
    torch.testing.assert_close(units, expected)
    clipped = [[0.25, 0, 0.75, 1], [0.3, 0.2, 0.5, 0.6], [0.25, 0, 0.5, 1]]
    torch.testing.assert_close(boxes[0], torch.tensor(clipped))
    _, _, cells = backbone(pixels(1), None, visible)
    torch.testing.assert_close(cells[0, 0], visible[0])
    torch.testing.assert_close(cells[0, 1, 2] - cells[0, 1, 0], backbone.grid_boxes()[1, 2] / 2)


def test_trains_from_pixels_and_is_rebuilt_without_weights_files() -> None:
    torch.manual_seed(0)
    backbone = ImageBackbone(config(layer=3))
    assert backbone.training
    optimiser = torch.optim.SGD(backbone.parameters(), lr=0.1)
    backbone(pixels())[0].pow(2).mean().backward()
    gradients = {name: parameter.grad for name, parameter in backbone.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values())
    first = gradients["network.conv1.0.weight"]
    assert first is not None
    assert first.any()
    optimiser.step()
    again = ImageBackbone(backbone.config.model_copy(update={"weights": "elsewhere.pth"}), load_weights=False)
    again.load_state_dict(backbone.state_dict())
    with torch.no_grad():
        assert torch.equal(again.eval()(pixels())[0], backbone.eval()(pixels())[0])


@pytest.fixture
def classified() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return dict(timm.create_model("test_resnet", num_classes=7).state_dict())


@torch.no_grad()
@pytest.mark.parametrize("form", ["safetensors", "pth", "wrapped"])
def test_weights_files_load_without_the_classifier(
    tmp_path: Path, classified: dict[str, torch.Tensor], form: str
) -> None:
    path = tmp_path / ("weights.safetensors" if form == "safetensors" else "weights.pth")
    if form == "safetensors":
        save_file(classified, path)
    else:
        torch.save({"state_dict": classified, "epoch": 3} if form == "wrapped" else classified, path)
    backbone = build(weights=str(path))
    assert backbone.dropped == ("fc.bias", "fc.weight")
    for key, value in backbone.network.state_dict().items():
        assert torch.equal(value, classified[key])
    assert backbone.config.weights_sha256 is not None
    assert len(backbone.config.weights_sha256) == 64
    ImageBackbone(backbone.config)
    changed = classified | {"bn1.bias": classified["bn1.bias"] + 1}
    path.unlink()
    save_file(changed, path) if form == "safetensors" else torch.save(changed, path)
    with pytest.raises(CrossAlignError, match="not the weights that were used before"):
        ImageBackbone(backbone.config)


def test_weights_that_do_not_fit_are_listed(tmp_path: Path, classified: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "weights.safetensors"
    renamed = {("stem.weight" if key == "conv1.0.weight" else key): v for key, v in classified.items()}
    assert renamed.keys() != classified.keys()
    save_file(renamed | {"layer1.0.bn1.weight": torch.ones(3)}, path)
    with pytest.raises(CrossAlignError) as caught:
        build(weights=str(path))
    message = str(caught.value)
    assert "missing conv1.0.weight;" in message
    assert "unknown stem.weight;" in message
    assert "of another shape layer1.0.bn1.weight 3 for" in message
    assert "\n" not in message
    # Only the classifier's own keys may be left over, not whatever merely begins like them.
    save_file(classified | {"fc2.weight": torch.ones(3)}, path)
    with pytest.raises(CrossAlignError, match=r"unknown fc2\.weight"):
        build(weights=str(path))


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("never",))


def test_unreadable_weights_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CrossAlignError, match="no such weights file"):
        build(weights=str(tmp_path / "none.pth"))
    for name, content in (
        ("evil.pth", pickle.dumps(Evil(), protocol=2)),
        ("cut.safetensors", b"\x10"),
        ("cut.pth", b"PK"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CrossAlignError, match=name):
            build(weights=str(tmp_path / name))
    torch.save({"anything": 3}, tmp_path / "number.pth")
    with pytest.raises(CrossAlignError, match="other things than named tensors"):
        build(weights=str(tmp_path / "number.pth"))
    assert "never" not in capsys.readouterr().out


def test_wrong_names_layers_and_sizes_are_refused() -> None:
    with pytest.raises(CrossAlignError, match="did you mean resnet18"):
        build("resnet-18")
    with pytest.raises(CrossAlignError, match="has no layer 9"):
        build(layer=9)
    with pytest.raises(CrossAlignError, match="cannot take photos of 96 x 96"):
        build("vit_tiny_patch16_224", 96, model_args={"depth": 1})
    small = build("vit_tiny_patch16_224", 96, model_args={"depth": 1, "img_size": 96})
    assert small.map_size == (6, 6)
    with pytest.raises(CrossAlignError, match="argument num_classes is set by crossalign"):
        build(model_args={"num_classes": 3})
    with pytest.raises(CrossAlignError, match=r"cannot build it with colour=red"):
        build(model_args={"colour": "red"})


def test_a_failed_download_suggests_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    real = timm.create_model

    def offline(name: str, *, pretrained: bool, **arguments: object) -> object:
        if pretrained:
            raise OSError(
                "No connection to the hub,\nand nothing in the cache. " + "Check your connection. " * 30
            )
        return real(name, pretrained=False, **arguments)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(CrossAlignError) as caught:
        build(weights="pretrained")
    assert str(caught.value) == (
        "test_resnet: timm did not get its pretrained weights (No connection to the hub, and nothing in the cache); "
        "download them where there is a network and give the file: --weights FILE, in a recipe weights: FILE"
    )
    # The network itself is at fault.
    with pytest.raises(CrossAlignError, match="cannot build it with colour=red"):
        build(weights="pretrained", model_args={"colour": "red"})


def test_default_input_is_that_of_timm() -> None:
    stated = default_input("test_vit")
    assert (stated.size, stated.interpolation, stated.resize) == (160, "bicubic", "squash")
    assert stated.mean == tuple(timm.get_pretrained_cfg("test_vit").mean)
    changed = default_input("test_vit", size=64, mean=HALVES, interpolation=None)
    assert (changed.size, changed.mean, changed.std) == (64, HALVES, stated.std)
    with pytest.raises(CrossAlignError, match="interpolation"):
        default_input("test_vit", interpolation="lanczos")
    with pytest.raises(CrossAlignError, match="is not a model of timm"):
        default_input("nothing_at_all")


@torch.no_grad()
def test_real_mobilenet_gives_its_published_map(shared_weights: Path) -> None:
    path = shared_weights / "mobilenetv1_100.safetensors"
    backbone = build("mobilenetv1_100", 224, model_args={"pad_type": "same"}, weights=str(path))
    assert (backbone.dim, backbone.map_size, backbone.dropped) == (1024, (7, 7), ())
    reference = timm.create_model(
        "mobilenetv1_100", pad_type="same", num_classes=0, checkpoint_path=str(path)
    )
    units, _, _ = backbone(pixels(1, 224))
    assert units.shape == (1, 17, 1024)
    torch.testing.assert_close(units[:, 0], reference.eval()(pixels(1, 224)))
