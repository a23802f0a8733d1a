"""Raw photos to the inputs of an image tower: decoding, pre-processing, boxes."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.nn.utils.rnn import pad_sequence

from crossalign.data.batch import ImageInputs
from crossalign.data.detections import usable_boxes
from crossalign.data.photos import Photo, open_photo
from crossalign.encoders.detector import Detector
from crossalign.encoders.inputs import InputSettings
from crossalign.errors import CrossAlignError
from crossalign.towers.settings import ImageTowerConfig

__all__ = ["Boxes", "PhotoReader"]

Boxes = npt.NDArray[np.float32]


class PhotoReader:
    """Makes of photos what a tower of these settings takes; its detector is loaded when first needed.

    Args:
        config: settings of the tower.
        input: how a photo becomes pixels; None: it takes no photos.
    """

    def __init__(self, config: ImageTowerConfig, input: InputSettings | None) -> None:
        self.config = config
        self.input = input
        self._detector: Detector | None = None

    def described(self) -> dict[str, Any]:
        """The pre-processing as plain values; empty without one."""
        return {} if self.input is None else self.input.model_dump(mode="json")

    def __call__(self, images: Sequence[Photo], boxes: Sequence[Boxes] | None = None) -> ImageInputs:
        """Photos with their boxes, ``(n_i, 4)`` corners relative to each; None: found by the detector.

        Raises:
            CrossAlignError: a file that is missing or no readable picture, a tower without a backbone, or one of
                box regions without boxes and detector.
        """
        settings = self.input
        if settings is None:
            raise CrossAlignError(
                "this model was trained on imported features and has no backbone: it cannot encode raw photos; "
                "train on features made by 'crossalign extract'"
            )
        with ThreadPoolExecutor(max_workers=2) as pool:
            photos = list(pool.map(open_photo, images))
            pixels = torch.stack(list(pool.map(settings, photos)))
        visible = [settings.visible(*photo.size) for photo in photos]
        aspect = torch.tensor([photo.width / photo.height for photo in photos])
        inputs = ImageInputs(pixels=pixels, visible=torch.tensor(visible), aspect=aspect)
        if self.config.regions != "grid":
            found = self._detect(photos) if boxes is None else list(boxes)
            usable = [
                torch.from_numpy(usable_boxes(np.asarray(rows, np.float32).reshape(-1, 4), part))
                for rows, part in zip(found, visible, strict=True)
            ]
            inputs.boxes = pad_sequence(usable, batch_first=True)
            lengths = torch.tensor([len(rows) for rows in usable])
            inputs.mask = torch.arange(inputs.boxes.shape[1]) < lengths[:, None]
        return inputs

    def _detect(self, photos: Sequence[Image.Image]) -> list[Boxes]:
        if self.config.detector is None:
            raise CrossAlignError(
                "this model was trained on boxes of a file and has no detector: pass boxes=, or train it with "
                "--set model.image.detector.model=DETECTOR.onnx"
            )
        if self._detector is None:
            self._detector = Detector(self.config.detector)
        return [self._detector(photo).boxes for photo in photos]
