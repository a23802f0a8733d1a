"""Object detectors of the YOLOX layout (Ge et al., arXiv 2107.08430) as ONNX files: photos in, boxes out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from crossalign.errors import CrossAlignError, missing_extra
from crossalign.files import file_digest
from crossalign.settings import Settings

__all__ = ["Detections", "Detector", "DetectorConfig"]

STRIDES = (8, 16, 32)
GREY = 114


class DetectorConfig(Settings):
    """Which detector, and which of its boxes are kept."""

    model: str = Field(description="an ONNX file of the YOLOX layout")
    sha256: str | None = Field(default=None, description="checksum of the file; filled in when loaded")
    min_score: float = Field(default=0.1, ge=0, le=1, description="objectness times class probability")
    overlap: float = Field(
        default=0.45,
        gt=0,
        le=1,
        description="of two boxes of one class that overlap more, the better is kept",
    )
    max_boxes: int = Field(default=20, ge=1, description="the best ones of a photo")


@dataclass(frozen=True)
class Detections:
    """n objects of one photo, the surest first.

    Attributes:
        boxes: ``(n, 4)`` corners ``x0 y0 x1 y1`` relative to the photo; they may reach beyond it.
        scores: ``(n,)`` in [0, 1].
        classes: ``(n,)`` index of the class.
    """

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int64]


class Detector:
    """An ONNX detector on the CPU.

    Attributes:
        config: with the file's checksum filled in.
        size: side of its square input in pixels.

    Raises:
        CrossAlignError: onnxruntime is not installed, or the file is missing, changed or of another layout.
    """

    def __init__(self, config: DetectorConfig) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise missing_extra("onnxruntime", "detect", "an ONNX detector") from None
        path = Path(config.model)
        if not path.is_file():
            raise CrossAlignError(f"{path}: no such detector file")
        digest = file_digest(path)
        if config.sha256 not in (None, digest):
            raise CrossAlignError(f"{path}: not the detector that was used before (another checksum)")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self._session: Any = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's exceptions have no public base
            raise CrossAlignError(
                f"{path}: not a readable ONNX file ({' '.join(str(error).split())})"
            ) from None
        self.config = config.model_copy(update={"sha256": digest})
        self.size = self._input_size(path)
        self._corners, self._strides = _anchors(self.size)
        found = self._run(torch.zeros(3, self.size, self.size, dtype=torch.uint8)).shape
        if len(found) != 3 or found[1] != len(self._strides) or found[2] < 6:
            raise CrossAlignError(
                f"{path}: its output {found} is not of the YOLOX layout "
                f"(1, {len(self._strides)}, 5 + classes)"
            )

    def letterbox(self, photo: Image.Image) -> Tensor:
        """Channel values ``(3, size, size)`` uint8: the photo scaled to fit, top left on grey, blue first."""
        scale = self._scale(*photo.size)
        width, height = round(photo.width * scale), round(photo.height * scale)
        canvas = np.full((self.size, self.size, 3), GREY, np.uint8)
        resized = photo.convert("RGB").resize((max(width, 1), max(height, 1)), Image.Resampling.BILINEAR)
        canvas[: resized.height, : resized.width] = np.asarray(resized)[:, :, ::-1]
        return torch.from_numpy(canvas).permute(2, 0, 1).contiguous()

    def detect(self, letterboxed: Tensor, width: int, height: int) -> Detections:
        """Objects in a letterboxed photo of ``width`` x ``height`` pixels."""
        from torchvision.ops import batched_nms

        output = self._run(letterboxed)[0]
        centres = (output[:, :2] + self._corners) * self._strides
        halves = np.exp(output[:, 2:4]) * self._strides / 2
        chances = output[:, 4:5] * output[:, 5:]
        classes, scores = chances.argmax(axis=1), chances.max(axis=1)
        sure = np.flatnonzero(scores >= self.config.min_score)
        boxes = np.concatenate([centres - halves, centres + halves], axis=1)[sure]
        kept = batched_nms(
            torch.from_numpy(boxes),
            torch.from_numpy(scores[sure]),
            torch.from_numpy(classes[sure]),
            self.config.overlap,
        )
        best = kept.numpy()[: self.config.max_boxes]
        scale = self._scale(width, height) * np.array([width, height, width, height])
        return Detections((boxes[best] / scale).astype(np.float32), scores[sure][best], classes[sure][best])

    def __call__(self, photo: Image.Image) -> Detections:
        """Objects in a photo."""
        return self.detect(self.letterbox(photo), *photo.size)

    def _scale(self, width: int, height: int) -> float:
        return min(self.size / width, self.size / height)

    def _run(self, letterboxed: Tensor) -> npt.NDArray[np.float32]:
        values = letterboxed.numpy().astype(np.float32)[None]
        output: npt.NDArray[np.float32] = self._session.run(
            None, {self._session.get_inputs()[0].name: values}
        )[0]
        return output

    def _input_size(self, path: Path) -> int:
        shape = self._session.get_inputs()[0].shape
        if len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3] or not isinstance(shape[2], int):
            raise CrossAlignError(f"{path}: its input {shape} is not (1, 3, size, size)")
        if shape[2] % STRIDES[-1]:
            raise CrossAlignError(f"{path}: its input size {shape[2]} is not a multiple of {STRIDES[-1]}")
        return int(shape[2])


def _anchors(size: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Cell corners ``(n, 2)`` in cells and strides ``(n, 1)`` in pixels of the output maps, row by row."""
    corners, strides = [], []
    for stride in STRIDES:
        rows, columns = np.mgrid[: size // stride, : size // stride]
        corners.append(np.stack([columns, rows], axis=-1).reshape(-1, 2))
        strides.append(np.full((len(corners[-1]), 1), stride))
    return np.concatenate(corners).astype(np.float32), np.concatenate(strides).astype(np.float32)
