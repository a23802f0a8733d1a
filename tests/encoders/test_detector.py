"""The detector decodes the YOLOX layout, and agrees with published detections of real photos."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from crossalign.data.photos import open_photo
from crossalign.encoders.detector import Detector, DetectorConfig
from crossalign.errors import CrossAlignError

SIZE, CELLS, CLASSES = 32, 16 + 4 + 1, 2


def save_toy(path: Path, rows: dict[int, list[float]], cells: int = CELLS, size: int = SIZE) -> Path:
    """An ONNX detector that always finds the same: rows of (dx, dy, log w, log h, object, classes)."""
    output = np.zeros((1, cells, 5 + CLASSES), np.float32)
    for cell, row in rows.items():
        output[0, cell] = row
    graph = helper.make_graph(
        [helper.make_node("Constant", [], ["output"], value=numpy_helper.from_array(output))],
        "toy",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, size, size])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, list(output.shape))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def detector(path: Path, **options: object) -> Detector:
    return Detector(DetectorConfig.model_validate({"model": str(path)} | options))


def test_boxes_are_decoded_by_stride_and_scaled_to_the_photo(tmp_path: Path) -> None:
    rows = {
        5: [0.5, 0.5, 0, 0, 0.9, 0.1, 1.0],  # stride 8, cell (1, 1): 8 x 8 pixels around (12, 12)
        18: [0, 1, np.log(0.5), np.log(2), 1.0, 0.5, 0.2],  # stride 16, cell (0, 1): 8 x 32 around (0, 32)
        20: [0.5, 0.5, 0, 0, 0.6, 0.5, 0.5],  # stride 32: everything, first of two equal classes
        3: [0.5, 0.5, 0, 0, 0.3, 0.3, 0.2],  # 0.09 is below the threshold
    }
    found = detector(save_toy(tmp_path / "toy.onnx", rows)).detect(
        detector(tmp_path / "toy.onnx").letterbox(Image.new("RGB", (64, 32))), 64, 32
    )
    pixels = found.boxes * [64, 32, 64, 32]
    np.testing.assert_allclose(pixels, [[16, 16, 32, 32], [-8, 32, 8, 96], [0, 0, 64, 64]], atol=1e-4)
    np.testing.assert_allclose(found.scores, [0.9, 0.5, 0.3], atol=1e-6)
    assert found.classes.tolist() == [1, 0, 0]


def test_of_overlapping_boxes_of_a_class_the_best_is_kept(tmp_path: Path) -> None:
    rows = {
        5: [0.5, 0.5, 0, 0, 0.8, 0, 1],
        6: [-0.5, 0.5, 0.1, 0.1, 0.9, 0, 1],  # nearly the same place, surer
        4: [1.5, 0.5, 0, 0, 0.7, 1, 0],  # the same place, another class
        10: [0.5, 0.5, 0, 0, 0.6, 0, 1],  # another place
    }
    path = save_toy(tmp_path / "toy.onnx", rows)
    photo = Image.new("RGB", (SIZE, SIZE))
    np.testing.assert_allclose(detector(path)(photo).scores, [0.9, 0.7, 0.6], atol=1e-6)
    np.testing.assert_allclose(detector(path, max_boxes=2)(photo).scores, [0.9, 0.7], atol=1e-6)
    np.testing.assert_allclose(detector(path, min_score=0.65)(photo).scores, [0.9, 0.7], atol=1e-6)
    assert len(detector(path, overlap=1.0)(photo).scores) == 4
    assert detector(path, min_score=0.95)(photo).boxes.shape == (0, 4)


def test_letterbox_keeps_the_shape_and_puts_blue_first(tmp_path: Path) -> None:
    model = detector(save_toy(tmp_path / "toy.onnx", {}))
    values = model.letterbox(Image.new("RGB", (40, 20), (10, 20, 30))).numpy()
    assert values.shape == (3, SIZE, SIZE)
    assert values.dtype == np.uint8
    assert (values[:, :16] == np.array([30, 20, 10])[:, None, None]).all()
    assert (values[:, 16:] == 114).all()
    assert (model.letterbox(Image.new("RGB", (1000, 1), (9, 9, 9)))[:, 0] == 9).all()


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CrossAlignError, match="no such detector file"):
        detector(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(CrossAlignError, match=r"text\.onnx: not a readable ONNX file"):
        detector(tmp_path / "text.onnx")
    with pytest.raises(CrossAlignError, match=r"output \(1, 20, 7\) is not of the YOLOX layout"):
        detector(save_toy(tmp_path / "short.onnx", {}, cells=20))
    with pytest.raises(CrossAlignError, match="input size 40 is not a multiple of 32"):
        detector(save_toy(tmp_path / "odd.onnx", {}, size=40))
    path = save_toy(tmp_path / "toy.onnx", {})
    config = detector(path).config
    assert Detector(config).config == config
    save_toy(path, {0: [1, 1, 1, 1, 1, 1, 1]})
    with pytest.raises(CrossAlignError, match="not the detector that was used before"):
        Detector(config)


@pytest.mark.parametrize("name", ["flickr8k", "coco-train600"])
def test_boxes_agree_with_published_ones(shared_data: Path, shared_weights: Path, name: str) -> None:
    model = detector(shared_weights / "yolox_nano.onnx")
    lines = (shared_data / name / "detections_yolox_nano.jsonl").read_text().splitlines()[:12]
    for line in map(json.loads, lines):
        photo = open_photo(shared_data / name / "images" / line["filename"])
        found = model(photo)
        # The published numbers are rounded: boxes to pixels, scores to hundredths.
        order = np.lexsort((*np.array(line["boxes"]).T, line["classes"]))
        pixels = found.boxes * ([photo.width, photo.height] * 2)
        mine = np.lexsort((*np.rint(pixels).T, found.classes))
        assert found.classes[mine].tolist() == np.array(line["classes"])[order].tolist()
        np.testing.assert_allclose(pixels[mine], np.array(line["boxes"])[order], atol=0.51)
        np.testing.assert_allclose(found.scores[mine], np.array(line["scores"])[order], atol=0.0051)
