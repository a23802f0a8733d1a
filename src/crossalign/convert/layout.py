"""What a layout of published checkpoints is, and how one of two towers, and maybe a scorer, becomes a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn, Protocol

from torch import nn

from crossalign.convert.bert import PREFIX, published_bert
from crossalign.convert.checkpoint import PARTS, Checkpoint, LayoutMismatchError
from crossalign.convert.translate import Differences, translate, without
from crossalign.convert.vocabulary import published_tokenizer
from crossalign.encoders.words import WordTokenizer
from crossalign.model import RetrievalModel
from crossalign.settings import parse_settings
from crossalign.towers import ImageTower, ModelConfig

__all__ = ["CONTEXT_HEAD", "Converted", "Layout", "Model", "Plan", "TowerLayout"]

# SelfAlign's Contextual Relation Alignment has the same names in every encoder of its code.
CONTEXT_HEAD = {
    "context_head.guide": "ctx_fc",
    "context_head.guide_norm": "ctx_fc_bn1",
    "context_head.key_norm": "ctx_fc_bn2",
    "context_head.gate": "fusion_fn",
}


class Model(Protocol):
    """What conversion makes: it can be saved as a folder."""

    def save_pretrained(self, folder: str | Path) -> None: ...


@dataclass(frozen=True)
class Converted:
    """A model, and what it was made of.

    Attributes:
        feature_dim: width of the regions that it takes.
        settings: the model's, as they are written.
        left_out: keys of the checkpoint that only training needs, or nothing at all, each after its part.
        notes: what the user should know.
    """

    model: Model
    feature_dim: int
    settings: dict[str, Any]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]


class Layout(Protocol):
    """The checkpoints of one code base.

    Attributes:
        name: of the layout.
        source: the repository and what it trains.
        vocabulary: what ``--vocab`` has to be: a vocabulary file, or the folder of a BERT.
    """

    @property
    def name(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def vocabulary(self) -> Literal["words", "bert"]: ...

    def recognises(self, checkpoint: Checkpoint) -> bool:
        """Whether the keys are those of this layout and of no other."""
        ...

    def convert(self, checkpoint: Checkpoint, vocabulary: Path) -> Converted:
        """The model.

        Raises:
            LayoutMismatchError: keys are missing, unknown, or of another shape.
            CrossAlignError: an option of its training that no setting stands for, or a vocabulary that does not fit.
        """
        ...


@dataclass(frozen=True)
class Plan:
    """What becomes of a checkpoint.

    Attributes:
        settings: of the model.
        image, text: published module of each module of the towers.
        checkpoint: with what had to be computed.
        left_out: modules and single keys of each part that are not needed.
        scorer: published module, in the third part, of each module of the scorer.
        mask_word: see :func:`~crossalign.convert.vocabulary.published_tokenizer`.
        max_length: tokens a caption of a BERT; ``None``: as many as it has positions.
        notes: what the user should know.
    """

    settings: dict[str, Any]
    image: Mapping[str, str]
    text: Mapping[str, str]
    checkpoint: Checkpoint
    left_out: Mapping[str, tuple[str, ...]]
    scorer: Mapping[str, str] = field(default_factory=dict)
    mask_word: bool = False
    max_length: int | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class TowerLayout:
    """A layout whose checkpoints are an image encoder, a text encoder and, in some, what scores a pair of both.

    Attributes:
        image_keys, text_keys, extra_keys: keys by which it is recognised.
        without_keys: keys of any part that another layout has besides.
        plan: reads a checkpoint of this layout.
    """

    name: str
    source: str
    vocabulary: Literal["words", "bert"]
    image_keys: tuple[str, ...]
    text_keys: tuple[str, ...]
    plan: Callable[[Checkpoint], Plan]
    extra_keys: tuple[str, ...] = ()
    without_keys: tuple[str, ...] = ()

    def recognises(self, checkpoint: Checkpoint) -> bool:
        """Whether the keys are those of this layout and of no other."""
        return (
            checkpoint.has("image", *self.image_keys)
            and checkpoint.has("text", *self.text_keys)
            and checkpoint.has("extra", *self.extra_keys)
            and not any(checkpoint.has(part, key) for part in PARTS for key in self.without_keys)
        )

    def convert(self, checkpoint: Checkpoint, vocabulary: Path) -> Converted:
        """The model; see :meth:`Layout.convert`."""
        plan = self.plan(checkpoint)
        states, left_out = {}, []
        for part in PARTS:
            states[part], unused = without(plan.checkpoint.state(part), plan.left_out.get(part, ()))
            left_out += [f"{part} {key}" for key in unused]
        differences = Differences()
        if not plan.scorer:
            differences.unknown += [f"extra {key}" for key in states["extra"]]
        settings = dict(plan.settings)
        tokenizer: WordTokenizer | None = None
        backbone = None
        if self.vocabulary == "words":
            rows = checkpoint.tensor(self.name, "text", f"{plan.text['encoder.embedding']}.weight", 2)
            tokenizer = published_tokenizer(vocabulary, len(rows), mask_word=plan.mask_word)
        else:
            backbone, unused = published_bert(states["text"], vocabulary, plan.max_length, differences)
            left_out += unused
            states["text"] = {
                key: tensor for key, tensor in states["text"].items() if not key.startswith(PREFIX)
            }
            if backbone is None:
                self._refuse(checkpoint, differences)
            settings["text"] = {**settings["text"], "backbone": backbone.config.model_dump()}
        config = parse_settings(ModelConfig, settings, checkpoint.source)
        model = RetrievalModel(config, tokenizer=tokenizer, text_backbone=backbone).eval()
        modules: list[tuple[str, nn.Module, Mapping[str, str]]] = [
            ("image", model.image_tower, plan.image),
            ("text", model.text_tower, plan.text),
        ]
        if model.scorer is not None and plan.scorer:
            modules.append(("extra", model.scorer, plan.scorer))
        for part, module, names in modules:
            own = {
                key: tensor for key, tensor in module.state_dict().items() if not key.startswith("backbone.")
            }
            module.load_state_dict(translate(own, states[part], names, part, differences), strict=False)
        if differences:
            self._refuse(checkpoint, differences)
        image = model.image_tower
        assert isinstance(image, ImageTower)
        return Converted(
            model=model,
            feature_dim=image.feature_dim,
            settings=model.config.model_dump(mode="json"),
            left_out=tuple(left_out),
            notes=plan.notes,
        )

    def _refuse(self, checkpoint: Checkpoint, differences: Differences) -> NoReturn:
        raise LayoutMismatchError(
            checkpoint.source,
            self.name,
            missing=differences.missing,
            unknown=differences.unknown,
            shapes=differences.shapes,
        )
