"""The retrieval model: two towers and the similarity of what they give."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from crossalign.data.batch import ImageInputs, TextInputs
from crossalign.data.photos import Photo
from crossalign.devices import check_device
from crossalign.encoders.dual import DualEncoder, build_dual_encoder
from crossalign.encoders.dual.lora import merge_lora
from crossalign.encoders.hf import TextBackbone
from crossalign.encoders.words import WordTokenizer
from crossalign.encoding import Encoding, Space
from crossalign.errors import CrossAlignError
from crossalign.masking import at_least_float32
from crossalign.model_folder import portable_settings, read_model, write_model
from crossalign.normalization import unit_norm
from crossalign.progress import tracked
from crossalign.scorers.base import Scorer
from crossalign.scorers.build import build_scorer
from crossalign.scorers.settings import CrossEncoderSettings
from crossalign.towers import DualImageTower, DualTextTower, ImageTower, ModelConfig, TextTower
from crossalign.towers.photos import Boxes, PhotoReader

__all__ = ["ModelConfig", "RetrievalModel", "embedding_in", "evaluation_mode", "scored_units"]


class RetrievalModel(nn.Module):
    """Two towers that never see each other, and how what they give is compared.

    Most models compare embeddings by their inner product; one with a ``scorer`` scores every pair from its regions and
    words, and has no embeddings to store.

    Args:
        config: settings of the towers.
        tokenizer: vocabulary of a word-level text tower.
        text_backbone: Hugging Face encoder of a text tower that has one; read from the place the configuration
            names if left out.
        dual: the dual encoder of a model that has one; read from the place the configuration names if left out.
        load_weights: read the weights files of image backbones and dual encoders; false where a state dict follows.

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
        dual: DualEncoder | None = None,
        load_weights: bool = True,
    ) -> None:
        super().__init__()
        self.image_tower: ImageTower | DualImageTower
        self.text_tower: TextTower | DualTextTower
        self.dual: DualEncoder | None = None
        if config.dual_encoder is not None:
            self.dual = _dual(config, dual, load_weights)
            config = config.model_copy(update={"dual_encoder": self.dual.settings})
            self.image_tower = DualImageTower(config, self.dual)
            self.text_tower = DualTextTower(config, self.dual)
        else:
            self.image_tower, self.text_tower = _towers(config, tokenizer, text_backbone, load_weights)
        matcher = None if self.dual is None else self.dual.matcher
        self.scorer: Scorer[Any] | None = (
            None if config.scorer is None else build_scorer(config.scorer, config.dim, matcher)
        )
        self.config = config.model_copy(update={"image": self.image_tower.config})
        self.photos = PhotoReader(self.config.image, self.image_tower.input)

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        return self.config.embedding_width

    @property
    def embedding_parts(self) -> int:
        """Vectors that stand one after the other in an embedding; see :func:`crossalign.truncation.truncate`."""
        return self.config.embedding_parts

    @property
    def uni_modal_width(self) -> int | None:
        """Width of the uni-modal embeddings; None without heads for them."""
        return self.config.uni_modal_width

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the settings, the tokenizer and every weight: it changes whenever an embedding could."""
        settings = portable_settings(self.config)
        if self.dual is not None:
            # What they name is told by the networks themselves.
            kept = self.dual.settings.model_dump(mode="json", include={"units", "lora"})
            settings["dual_encoder"] = kept | {"networks": self.dual.described}
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        digest.update(self.tokenizer_json().encode())
        if self.dual is not None:
            digest.update(json.dumps(self.photos.described(), sort_keys=True).encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def tokenizer_json(self) -> str:
        """What makes texts into tokens, as JSON; empty for a model that is given token features."""
        tower = self.text_tower
        if isinstance(tower, DualTextTower):
            return tower.dual_tokenizer.described()
        if tower.backbone is not None:
            return tower.backbone.tokenizer_json()
        return "" if tower.tokenizer is None else tower.tokenizer.to_json()

    def scores(self, image: Encoding, text: Encoding, *, keep_graph: bool = False) -> Tensor:
        """Scores ``(n, m)`` of n encoded images with m encoded texts, in float32 also under autocast.

        Args:
            keep_graph: for a scorer, where most pairs will have a gradient; see
                :class:`~crossalign.scorers.base.AttentionScorer`.
        """
        with torch.autocast(image.mask.device.type, enabled=False):
            if self.scorer is None:
                return self.similarity(at_least_float32(image.embedding), at_least_float32(text.embedding))
            self.scorer.keep_graph = keep_graph
            scores: Tensor = self.scorer(scored_units(image), scored_units(text), image.mask, text.mask)
            return scores

    def pair_scores(self, image: Encoding, text: Encoding, image_of_text: Tensor) -> Tensor:
        """Scores ``(m,)`` of m encoded texts, each with one of the encoded images alone: ``image_of_text (m,)``.

        Raises:
            CrossAlignError: a SAF scorer in training mode, where a text's statistics need all images.
        """
        with torch.autocast(image.mask.device.type, enabled=False):
            if self.scorer is None:
                seen = at_least_float32(image.embedding)[image_of_text]
                return self.pair_similarity(seen, at_least_float32(text.embedding))
            return self.scorer.score_pairs(
                self.scorer.prepare_images(scored_units(image), image.mask),
                self.scorer.prepare_texts(scored_units(text), text.mask),
                image_of_text,
                torch.arange(len(image_of_text), device=image_of_text.device),
            )

    def require_embeddings(self, space: Space = "cross") -> None:
        """Refuse what compares embeddings that the model does not have.

        Raises:
            CrossAlignError: the model scores pairs, or has no uni-modal heads where those are asked for.
        """
        if space == "uni":
            if self.config.uni_modal_head is None:
                raise CrossAlignError(
                    "this model has no uni-modal heads, which compare images with images and texts with texts; train "
                    "one with model.uni_modal_head: {} and objective.usa"
                )
        elif self.config.scorer is not None:
            raise CrossAlignError(
                f"this model scores every pair of a photo and a text ({self.config.scorer.kind}) and has no "
                "embeddings; evaluate it, or re-rank the best of another model with it (--rerank)"
            )

    @staticmethod
    def similarity(image: Tensor, text: Tensor) -> Tensor:
        """Inner products, the maximum over an image's views.

        Of uni-modal embeddings, images with images or texts with texts, they are cosines.

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

    @staticmethod
    def pair_similarity(image: Tensor, text: Tensor) -> Tensor:
        """The same ``(p,)`` of pairs alone: image i, ``(p, D)`` or ``(p, V, D)``, with text i, ``(p, D)``."""
        views = image.unsqueeze(1) if image.dim() == 2 else image
        best: Tensor = torch.einsum("pvd,pd->pv", views, text).amax(dim=1)
        return best

    def image_inputs(self, images: Sequence[Photo], boxes: Sequence[Boxes] | None = None) -> ImageInputs:
        """Decode and pre-process photos.

        Args:
            boxes: for each photo ``(n_i, 4)`` corners relative to it, for a model of box regions; None: found by the
                model's detector.

        Raises:
            CrossAlignError: a file that is missing or no readable picture, a model without a backbone, or one of
                box regions without boxes and detector.
        """
        return self.photos(images, boxes).to(self.device)

    def text_inputs(self, texts: Sequence[str]) -> TextInputs:
        """Tokenize texts."""
        tokens, mask = self.text_tower.tokenize(list(texts))
        return TextInputs(tokens=tokens.to(self.device), mask=mask.to(self.device))

    def unknown_words(self, text: str) -> tuple[str, ...]:
        """The words of a text that the model's vocabulary has not, in order; none for a Hugging Face text encoder.

        Such a word is read as ``<unk>``, like every other one: it tells nothing about a photo.
        """
        words = self.text_tower.tokenizer
        return () if words is None else words.unknown_words(text)

    @torch.inference_mode()
    def encode_images(
        self,
        images: Sequence[Photo],
        batch_size: int = 32,
        progress: bool = False,
        boxes: Sequence[Boxes] | None = None,
        space: Space = "cross",
    ) -> Tensor:
        """Embed photos given as paths, PIL images or ``(H, W, 3)`` uint8 arrays.

        Args:
            boxes: as for :meth:`image_inputs`.
            space: ``"cross"`` to be compared with texts, ``"uni"`` with other photos.

        Returns:
            ``(n, D)`` or ``(n, V, D)`` float32 on the CPU; ``(n, E)`` of unit norm for ``"uni"``.

        Raises:
            CrossAlignError: a file that is missing or no readable picture, or a model without such embeddings.
        """
        self.require_embeddings(space)
        if isinstance(images, str | Path | Image.Image) or (
            isinstance(images, np.ndarray) and images.ndim == 3
        ):
            raise TypeError("encode_images takes a list of photos, not one photo")
        starts = range(0, len(images), batch_size)
        with evaluation_mode(self), tracked(starts, "encode photos", enabled=progress) as steps:
            return self._gather(
                (
                    self.image_tower(
                        self.image_inputs(
                            images[start : start + batch_size],
                            None if boxes is None else boxes[start : start + batch_size],
                        )
                    )
                    for start in steps
                ),
                space,
            )

    @torch.inference_mode()
    def encode_texts(
        self,
        texts: Sequence[str],
        batch_size: int = 256,
        progress: bool = False,
        space: Space = "cross",
    ) -> Tensor:
        """Embed texts, longest ones together so that little is spent on padding.

        Args:
            space: ``"cross"`` to be compared with photos, ``"uni"`` with other texts.

        Returns:
            ``(n, D)`` float32 on the CPU, in the order of ``texts``; ``(n, E)`` of unit norm for ``"uni"``.

        Raises:
            CrossAlignError: a model without such embeddings.
        """
        self.require_embeddings(space)
        if isinstance(texts, str):
            raise TypeError("encode_texts takes a list of texts, not one string")
        order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
        starts = range(0, len(texts), batch_size)
        with evaluation_mode(self), tracked(starts, "encode texts", enabled=progress) as steps:
            embeddings = self._gather(
                (
                    self.text_tower(
                        self.text_inputs([texts[index] for index in order[start : start + batch_size]])
                    )
                    for start in steps
                ),
                space,
            )
        result = torch.empty_like(embeddings)
        result[torch.tensor(order, dtype=torch.long)] = embeddings
        return result

    def encode_images_in(self, spaces: Sequence[Space], images: Sequence[Photo]) -> tuple[Tensor, ...]:
        """Embeddings of one batch of photos in each of the spaces, by one pass; see :meth:`encode_images`."""
        return self._in(spaces, lambda: self.image_tower(self.image_inputs(images)))

    def encode_texts_in(self, spaces: Sequence[Space], texts: Sequence[str]) -> tuple[Tensor, ...]:
        """Embeddings of one batch of texts in each of the spaces, by one pass; see :meth:`encode_texts`."""
        return self._in(spaces, lambda: self.text_tower(self.text_inputs(texts)))

    @torch.inference_mode()
    def _in(self, spaces: Sequence[Space], encode: Callable[[], Encoding]) -> tuple[Tensor, ...]:
        for space in spaces:
            self.require_embeddings(space)
        with evaluation_mode(self):
            encoding = encode()
        return tuple(embedding_in(encoding, space).float().cpu() for space in spaces)

    def _gather(self, encodings: Iterator[Encoding], space: Space) -> Tensor:
        parts = [embedding_in(encoding, space).float().cpu() for encoding in encodings]
        width = self.dim if space == "cross" else self.uni_modal_width
        return torch.cat(parts) if parts else torch.empty(0, width or 0)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model folder: settings, weights and tokenizer; whole or not at all, replacing an old one.

        Raises:
            CrossAlignError: the folder holds anything that is not of a crossalign model.
        """
        write_model(
            folder,
            self.config,
            self.state_dict(),
            self.text_tower.tokenizer,
            self.text_tower.backbone,
            self.dual,
        )

    @classmethod
    def from_pretrained(cls, name: str | Path, device: str | torch.device = "cpu") -> RetrievalModel:
        """Load a model folder, a training run's folder, or a model of the Hugging Face Hub.

        A published CLIP, SigLIP or BLIP is a model as it is: a folder that transformers or open_clip wrote, its name on
        the hub, or ``open_clip:NAME/TAG``. BLIP scores pairs, to re-rank what another model has found.

        Raises:
            CrossAlignError: nothing is there, what is there is damaged or of another version, or there is no such
                device.
        """
        check_device(device)
        stored = read_model(name)
        model = cls(
            stored.config,
            tokenizer=stored.tokenizer,
            text_backbone=stored.text_backbone,
            dual=stored.dual,
            load_weights=stored.published,
        )
        if not stored.published:
            stored.load_into(model)
        return model.to(device).eval()

    def merge_lora(self) -> None:
        """Add what low-rank adaptation learnt to the weights, in place: the model then needs no `peft`.

        Embeddings stay the same up to rounding; the fingerprint changes.

        Raises:
            CrossAlignError: the model has no low-rank adaptation.
        """
        if self.dual is None or self.dual.settings.lora is None:
            raise CrossAlignError("this model has no low-rank adaptation (model.dual_encoder.lora) to merge")
        for half in (self.dual.image, self.dual.text):
            merge_lora(half)
        settings = self.dual.settings.model_copy(update={"lora": None})
        self.dual = replace(self.dual, settings=settings)
        self.config = self.config.model_copy(update={"dual_encoder": settings})

    def push_to_hub(self, repository: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload the model folder to the Hugging Face Hub; returns its address."""
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        address = str(api.create_repo(repository, private=private, exist_ok=True))
        with tempfile.TemporaryDirectory() as place:
            self.save_pretrained(Path(place) / "model")
            api.upload_folder(repo_id=repository, folder_path=Path(place) / "model")
        return address


def _dual(config: ModelConfig, dual: DualEncoder | None, load_weights: bool) -> DualEncoder:
    """The dual encoder of a configuration, which its width has to fit."""
    assert config.dual_encoder is not None
    if dual is None:
        matched = isinstance(config.scorer, CrossEncoderSettings)
        dual = build_dual_encoder(config.dual_encoder, matcher=matched, load_weights=load_weights)
    if dual.width != config.dim:
        raise CrossAlignError(
            f"model.dim is {config.dim}, the embeddings of {config.dual_encoder.name} are {dual.width} wide; set "
            f"model.dim={dual.width}"
        )
    return dual


def _towers(
    config: ModelConfig,
    tokenizer: WordTokenizer | None,
    text_backbone: TextBackbone | None,
    load_weights: bool,
) -> tuple[ImageTower, TextTower]:
    """The towers of ``config.image`` and ``config.text``."""
    if text_backbone is None and not config.text.reads_words:
        if config.text.backbone is None:
            raise CrossAlignError("model.text.backbone.name is missing: give a path or a hub name")
        text_backbone = TextBackbone(config.text.backbone)
    image = ImageTower(
        config.image,
        config.dim,
        config.context_head,
        context_weight=config.context_weight,
        embedding_size=config.embedding_size,
        uni_modal_size=config.uni_modal_width,
        context_units=config.context_units,
        load_weights=load_weights,
    )
    text = TextTower(
        config.text,
        config.dim,
        config.context_head,
        context_weight=config.context_weight,
        embedding_size=config.embedding_size,
        uni_modal_size=config.uni_modal_width,
        context_units=config.context_units,
        tokenizer=tokenizer,
        backbone=text_backbone,
    )
    return image, text


def scored_units(encoding: Encoding) -> Tensor:
    """The units ``(B, N, D)`` that a scorer sees: those in context, of unit norm, or what a cross-encoder reads."""
    if "scored" in encoding.aux:
        return at_least_float32(encoding.aux["scored"])
    return unit_norm(at_least_float32(encoding.context))


def embedding_in(encoding: Encoding, space: Space) -> Tensor:
    """The embedding that is compared in a space; the model has one, see :meth:`RetrievalModel.require_embeddings`."""
    if space == "cross":
        return encoding.embedding
    assert encoding.unimodal is not None
    return encoding.unimodal


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, the mode before it afterwards."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
