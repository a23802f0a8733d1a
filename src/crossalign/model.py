"""The retrieval model: two towers, one similarity, one folder on disk."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from crossalign.data.batch import ImageInputs, TextInputs
from crossalign.data.detections import usable_boxes
from crossalign.data.photos import Photo, open_photo
from crossalign.encoders.detector import Detector
from crossalign.encoders.hf import TextBackbone
from crossalign.encoders.words import WordTokenizer
from crossalign.encoding import Encoding
from crossalign.errors import CrossAlignError
from crossalign.files import atomic_folder, read_json, write_json
from crossalign.progress import track
from crossalign.settings import Settings, parse_settings
from crossalign.towers import HuggingFaceSettings, ImageTower, ImageTowerConfig, TextTower, TextTowerConfig

__all__ = ["ModelConfig", "RetrievalModel", "evaluation_mode"]

FORMAT_VERSION = 1
DETECTOR = "detector.onnx"
Boxes = npt.NDArray[np.float32]


class ModelConfig(Settings):
    """Everything needed to build the two towers."""

    dim: int = Field(default=256, gt=0, description="D, joint width")
    context_head: bool = Field(
        default=False, description="append SelfAlign's context vectors: the embedding is then 3 D wide"
    )
    image: ImageTowerConfig = ImageTowerConfig()
    text: TextTowerConfig = TextTowerConfig()


class RetrievalModel(nn.Module):
    """Two towers that never see each other and the inner product between their embeddings.

    Args:
        config: settings of the towers.
        tokenizer: vocabulary of a word-level text tower.
        text_backbone: Hugging Face encoder of a text tower that has one; read from the place the configuration
            names if left out.
        load_weights: read the image backbones' weights files; false where a state dict follows.

    Example:
        >>> model = RetrievalModel.from_pretrained("runs/flickr8k-vse")
        >>> scores = model.similarity(model.encode_images(["dog.jpg"]), model.encode_texts(["a dog on grass"]))
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        tokenizer: WordTokenizer | None = None,
        text_backbone: TextBackbone | None = None,
        load_weights: bool = True,
    ) -> None:
        super().__init__()
        self._detector: Detector | None = None
        settings = config.text.encoder
        if text_backbone is None and isinstance(settings, HuggingFaceSettings):
            if settings.backbone is None:
                raise CrossAlignError(
                    "model.text.encoder.backbone.name is missing: give a path or a hub name"
                )
            text_backbone = TextBackbone(settings.backbone)
        self.image_tower = ImageTower(
            config.image, config.dim, config.context_head, load_weights=load_weights
        )
        self.text_tower = TextTower(
            config.text, config.dim, config.context_head, tokenizer=tokenizer, backbone=text_backbone
        )
        self.config = config.model_copy(update={"image": self.image_tower.config})

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        return self.config.dim * (3 if self.config.context_head else 1)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the settings and every weight: it changes whenever an embedding could."""
        digest = hashlib.sha256(json.dumps(self._portable_config(), sort_keys=True).encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    @staticmethod
    def similarity(image: Tensor, text: Tensor) -> Tensor:
        """Inner products, the maximum over an image's views.

        Args:
            image: ``(n, D)`` or ``(n, V, D)``.
            text: ``(m, D)``.

        Returns:
            ``(n, m)``.
        """
        if image.dim() == 3:
            scores: Tensor = torch.einsum("nvd,md->nvm", image, text).amax(dim=1)
            return scores
        return image @ text.T

    def image_inputs(self, images: Sequence[Photo], boxes: Sequence[Boxes] | None = None) -> ImageInputs:
        """Decode and pre-process photos.

        Args:
            boxes: for each photo ``(n_i, 4)`` corners relative to it, for a model of box regions; None: found by the
                model's detector.

        Raises:
            CrossAlignError: a file that is missing or no readable picture, a model without a backbone, or one of
                box regions without boxes and detector.
        """
        if not self.config.image.backbones:
            raise CrossAlignError(
                "this model was trained on imported features and has no backbone: it cannot encode raw photos; "
                "train on features made by 'crossalign extract'"
            )
        settings = self.config.image.backbones[0].input
        with ThreadPoolExecutor(max_workers=2) as pool:
            photos = list(pool.map(open_photo, images))
            pixels = torch.stack(list(pool.map(settings, photos)))
        visible = [settings.visible(*photo.size) for photo in photos]
        inputs = ImageInputs(pixels=pixels, visible=torch.tensor(visible))
        if self.config.image.regions == "boxes":
            found = self._detect(photos) if boxes is None else list(boxes)
            usable = [
                torch.from_numpy(usable_boxes(np.asarray(rows, np.float32).reshape(-1, 4), part))
                for rows, part in zip(found, visible, strict=True)
            ]
            inputs.boxes = pad_sequence(usable, batch_first=True)
            lengths = torch.tensor([len(rows) for rows in usable])
            inputs.mask = torch.arange(inputs.boxes.shape[1]) < lengths[:, None]
        return inputs.to(self.device)

    def _detect(self, photos: Sequence[Image.Image]) -> list[Boxes]:
        if self.config.image.detector is None:
            raise CrossAlignError(
                "this model was trained on boxes of a file and has no detector: pass boxes=, or train it with "
                "--set model.image.detector.model=DETECTOR.onnx"
            )
        if self._detector is None:
            self._detector = Detector(self.config.image.detector)
        return [self._detector(photo).boxes for photo in photos]

    def text_inputs(self, texts: Sequence[str]) -> TextInputs:
        """Tokenize texts."""
        tokens, mask = self.text_tower.tokenize(list(texts))
        return TextInputs(tokens=tokens.to(self.device), mask=mask.to(self.device))

    @torch.inference_mode()
    def encode_images(
        self,
        images: Sequence[Photo],
        batch_size: int = 32,
        progress: bool = False,
        boxes: Sequence[Boxes] | None = None,
    ) -> Tensor:
        """Embed photos given as paths, PIL images or ``(H, W, 3)`` uint8 arrays.

        Args:
            boxes: as for :meth:`image_inputs`.

        Returns:
            ``(n, D)`` or ``(n, V, D)`` float32 on the CPU.

        Raises:
            CrossAlignError: a file that is missing or no readable picture.
        """
        with evaluation_mode(self):
            return self._gather(
                self.image_tower(
                    self.image_inputs(
                        images[start : start + batch_size],
                        None if boxes is None else boxes[start : start + batch_size],
                    )
                )
                for start in track(range(0, len(images), batch_size), "encode photos", enabled=progress)
            )

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str], batch_size: int = 256, progress: bool = False) -> Tensor:
        """Embed texts, longest ones together so that little is spent on padding.

        Returns:
            ``(n, D)`` float32 on the CPU, in the order of ``texts``.
        """
        if isinstance(texts, str):
            raise TypeError("encode_texts takes a list of texts, not one string")
        order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
        with evaluation_mode(self):
            embeddings = self._gather(
                self.text_tower(
                    self.text_inputs([texts[index] for index in order[start : start + batch_size]])
                )
                for start in track(range(0, len(texts), batch_size), "encode texts", enabled=progress)
            )
        result = torch.empty_like(embeddings)
        result[torch.tensor(order, dtype=torch.long)] = embeddings
        return result

    def _gather(self, encodings: Iterator[Encoding]) -> Tensor:
        parts = [encoding.embedding.float().cpu() for encoding in encodings]
        return torch.cat(parts) if parts else torch.empty(0, self.dim)

    def _portable_config(self) -> dict[str, Any]:
        """The settings without places of this machine: the folder itself holds all weights."""
        values = self.config.model_dump(mode="json")
        for backbone in values["image"]["backbones"]:
            if backbone["weights"] is not None:
                backbone["weights"] = Path(backbone["weights"]).name
        if values["image"]["detector"] is not None:
            values["image"]["detector"]["model"] = DETECTOR
        encoder = values["text"]["encoder"]
        if encoder["kind"] == "huggingface":
            encoder["backbone"]["name"] = Path(encoder["backbone"]["name"]).name
        return values

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model folder: settings, weights and tokenizer; whole or not at all, replacing an old one."""
        tensors = {
            name: tensor.detach().cpu().contiguous()
            for name, tensor in self.state_dict().items()
            if not name.startswith("text_tower.backbone.")
        }
        with atomic_folder(folder, overwrite=True) as temporary:
            write_json(
                temporary / "config.json",
                {"format_version": FORMAT_VERSION, "model": self._portable_config()},
            )
            save_file(tensors, temporary / "model.safetensors")
            if self.text_tower.tokenizer is not None:
                (temporary / "tokenizer.json").write_text(
                    self.text_tower.tokenizer.to_json(), encoding="utf-8"
                )
            if self.config.image.detector is not None:
                shutil.copyfile(self.config.image.detector.model, temporary / DETECTOR)
            if self.text_tower.backbone is not None:
                self.text_tower.backbone.save(temporary / "text_backbone")

    @classmethod
    def from_pretrained(cls, name: str | Path, device: str | torch.device = "cpu") -> RetrievalModel:
        """Load a model folder, a training run's folder, or a model of the Hugging Face Hub.

        Raises:
            CrossAlignError: nothing is there, what is there is damaged or of another version, or there is no such
                device.
        """
        _check_device(device)
        folder = _locate(name)
        content = read_json(folder / "config.json")
        if not isinstance(content, dict) or content.get("format_version") != FORMAT_VERSION:
            raise CrossAlignError(
                f"{folder / 'config.json'}: not a crossalign model of format {FORMAT_VERSION}"
            )
        config = parse_settings(ModelConfig, content.get("model"), str(folder / "config.json"))
        if config.image.detector is not None:
            detector = config.image.detector.model_copy(update={"model": str(folder / DETECTOR)})
            image = config.image.model_copy(update={"detector": detector})
            config = config.model_copy(update={"image": image})
        tokenizer = backbone = None
        if isinstance(config.text.encoder, HuggingFaceSettings):
            backbone = TextBackbone.load(folder / "text_backbone")
        else:
            tokenizer = WordTokenizer.load(folder / "tokenizer.json", config.text.encoder.max_length)
        model = cls(config, tokenizer=tokenizer, text_backbone=backbone, load_weights=False)
        weights = folder / "model.safetensors"
        try:
            missing, unknown = model.load_state_dict(load_file(weights), strict=False)
        except (OSError, SafetensorError, RuntimeError) as error:
            raise CrossAlignError(f"{weights}: cannot be loaded ({' '.join(str(error).split())})") from None
        missing = [key for key in missing if not key.startswith("text_tower.backbone.")]
        if missing or unknown:
            raise CrossAlignError(
                f"{weights}: missing {missing[:3]}, unknown {unknown[:3]}; save the model again"
            )
        return model.to(device).eval()

    def push_to_hub(self, repository: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload the model folder to the Hugging Face Hub; returns its address."""
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        address = str(api.create_repo(repository, private=private, exist_ok=True))
        with tempfile.TemporaryDirectory() as place:
            self.save_pretrained(Path(place) / "model")
            api.upload_folder(repo_id=repository, folder_path=Path(place) / "model")
        return address


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, the mode before it afterwards."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _check_device(device: str | torch.device) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise CrossAlignError(f"device '{device}': cannot be used here ({reason}); use cpu") from None


def _locate(name: str | Path) -> Path:
    folder = Path(name)
    for candidate in (folder, folder / "model"):
        if (candidate / "config.json").is_file():
            return candidate
    if folder.exists():
        raise CrossAlignError(
            f"{folder}: no model in it (config.json is missing); give a model or a training run"
        )
    if str(name).count("/") != 1 or str(name).startswith((".", "/")):
        raise CrossAlignError(f"{name}: no such model folder")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(name)))
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CrossAlignError(
            f"{name}: no such folder, and the Hugging Face Hub did not give it ({reason})"
        ) from None
