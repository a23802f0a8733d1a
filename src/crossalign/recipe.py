"""Recipes: everything a training run depends on, as strict, typed settings in one YAML file."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from importlib import resources
from importlib.resources.abc import Traversable
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from crossalign.errors import CrossAlignError
from crossalign.model import ModelConfig
from crossalign.objective import ObjectiveSettings
from crossalign.settings import Settings, parse_settings, read_yaml

__all__ = [
    "DataSettings",
    "EMASettings",
    "OptimizerSettings",
    "Recipe",
    "TeacherSettings",
    "TrainingSettings",
    "available_recipes",
    "described_recipes",
    "load_recipe",
]


Frozen = int | Literal["all"] | None


class TeacherSettings(Settings):
    """Stores of uni-modal teachers, made by `crossalign teach`, by path or by name in the `features` folder."""

    images: str = Field(description="FeatureStore of one vector an image")
    texts: str = Field(description="FeatureStore of one vector a caption")


class DataSettings(Settings):
    """What is trained on and how an epoch is drawn from it."""

    collection: str = Field(description="folder of the collection")
    image_features: tuple[str, ...] = Field(
        default=(),
        description="FeatureStores, by path or by name in the collection's `features` folder; empty: pixels",
    )
    text_features: str | None = Field(
        default=None, description="FeatureStore of token states of a frozen encoder"
    )
    teachers: TeacherSettings | None = Field(
        default=None,
        description="what uni-modal teachers make of images and captions, for `objective.csa` and `objective.usa`; "
        "null: none",
    )
    train: str = Field(default="train", description="split to train on")
    validation: str = Field(
        default="val", description="split on which the best epoch is chosen; never the test split"
    )
    epoch: Literal["captions", "images"] = Field(
        default="captions",
        description="an epoch shows every caption once, or every image once with random captions",
    )
    captions_per_image: int = Field(
        default=1, ge=1, description="captions drawn for an image, where epoch is images"
    )
    flip: float = Field(default=0.0, ge=0, le=1, description="probability of mirroring a photo; pixels only")
    crop: float = Field(
        default=1.0, gt=0, le=1, description="smallest side kept by a random crop; pixels only"
    )
    workers: int = Field(default=0, ge=0, description="processes that load batches ahead")

    @model_validator(mode="after")
    def _captions_per_image_belongs_to_images(self) -> DataSettings:
        if self.epoch == "captions" and self.captions_per_image != 1:
            raise ValueError(
                "captions_per_image needs epoch: images; an epoch of captions shows every caption once"
            )
        return self


class OptimizerSettings(Settings):
    """The optimiser and its learning-rate schedule."""

    name: Literal["adamw", "adam"] = Field(default="adamw", description="which optimiser")
    learning_rate: float = Field(default=5e-4, gt=0, description="of everything but fine-tuned backbones")
    backbone_learning_rate: float | None = Field(
        default=None, gt=0, description="of fine-tuned backbones; default a tenth of learning_rate"
    )
    layer_decay: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="factor of the learning rate from one block of a fine-tuned network to the one before it; "
        "1: all alike",
    )
    frozen_image_blocks: Frozen = Field(
        default=None,
        description="first blocks of the fine-tuned image network that stay as they are, with all that comes before "
        "them; 0: the embeddings alone; `all`: the whole network; null: everything trains",
    )
    frozen_text_blocks: Frozen = Field(default=None, description="the same of the fine-tuned text network")
    weight_decay: float = Field(
        default=1e-4, ge=0, description="of matrices; biases, norms, temperatures and the codebook have none"
    )
    clip_norm: float | None = Field(
        default=2.0, gt=0, description="largest norm of the whole gradient; null: any"
    )
    schedule: Literal["constant", "step", "cosine"] = Field(
        default="cosine", description="of the learning rate, after the warm-up"
    )
    warmup_steps: int = Field(default=0, ge=0, description="steps of linear warm-up")
    milestones: tuple[int, ...] = Field(
        default=(), description="epochs after which the rate is multiplied by gamma"
    )
    gamma: float = Field(default=0.1, gt=0, le=1, description="factor at each milestone")
    final_fraction: float = Field(
        default=0.0, ge=0, le=1, description="share of the rate left at the cosine's end"
    )

    @field_validator("frozen_image_blocks", "frozen_text_blocks")
    @classmethod
    def _blocks_are_counted(cls, value: Frozen) -> Frozen:
        if isinstance(value, int) and value < 0:
            raise ValueError(f"{value} blocks cannot be frozen; give a number from 0 on, or all")
        return value

    @model_validator(mode="after")
    def _settings_belong_to_the_schedule(self) -> OptimizerSettings:
        if self.schedule == "step" and not self.milestones:
            raise ValueError("schedule: step needs milestones, the epochs after which the rate falls")
        if self.schedule != "step" and self.milestones:
            raise ValueError("milestones need schedule: step; leave them out (milestones: [])")
        default = type(self).model_fields["gamma"].default
        if self.schedule != "step" and self.gamma != default:
            raise ValueError(f"gamma needs schedule: step; leave it out (gamma: {default})")
        if self.schedule != "cosine" and self.final_fraction:
            raise ValueError("final_fraction needs schedule: cosine; leave it out (final_fraction: 0)")
        return self


class EMASettings(Settings):
    """An exponential moving average of the model's weights."""

    decay: float = Field(
        default=0.999,
        gt=0,
        lt=1,
        description="share of the average that a step leaves as it is: it looks back over about 1 / (1 - decay) steps, "
        "which should be fewer than those of the last few epochs",
    )
    start_epoch: int = Field(
        default=0, ge=0, description="epochs before the average begins, with the weights of that time"
    )


class TrainingSettings(Settings):
    """The loop."""

    epochs: int = Field(default=10, ge=1, description="passes over the training split, see `data.epoch`")
    batch_size: int = Field(
        default=128, ge=2, description="pairs a step; the last, smaller batch of an epoch is left out"
    )
    mini_batch_size: int | None = Field(
        default=None,
        gt=0,
        description="pairs that go through the towers at once, so that a large batch fits into memory; every loss "
        "still sees the whole batch, at the price of a second forward pass. null: all at once",
    )
    precision: Literal["auto", "32", "bf16", "fp16"] = Field(
        default="auto", description="auto: bf16 autocast on a GPU that has it, else 32"
    )
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = Field(
        default="auto", description="where it runs; auto: a GPU where there is one"
    )
    gradient_checkpointing: bool = Field(
        default=False,
        description="compute the blocks of fine-tuned networks again in the backward pass: less memory, more time",
    )
    log_every: int = Field(
        default=20,
        ge=1,
        description="steps between two lines of metrics.jsonl; a shorter run has one, of its last step",
    )
    checkpoint_every: int | None = Field(
        default=500, gt=0, description="steps between two checkpoints; one is written after each epoch, too"
    )
    validate_every: int = Field(default=1, ge=1, description="epochs between two validations")
    patience: int | None = Field(
        default=None, gt=0, description="stop after so many validations without a new best"
    )
    ema: EMASettings | None = Field(
        default=None,
        description="validate and keep an exponential moving average of the weights instead of the last ones; null: "
        "the last ones",
    )
    keep_epochs: int | None = Field(
        default=None,
        gt=0,
        description="keep the models of so many of the last validations, for `crossalign average`; null: the best one "
        "alone",
    )
    tensorboard: bool = Field(
        default=True, description="also write event files for TensorBoard (extra `tensorboard`)"
    )

    @field_validator("precision", mode="before")
    @classmethod
    def _bits_are_a_name(cls, value: Any) -> Any:
        # YAML reads an unquoted 32 as a number.
        return "32" if value == 32 else value


class Recipe(Settings):
    """One training run."""

    name: str = Field(description="names the run; the run folder is `runs/NAME` unless `--out` is given")
    seed: int = Field(
        default=0,
        ge=0,
        lt=2**63,
        description="of initial weights, of the order of batches, of dropout and of augmentation",
    )
    data: DataSettings
    model: ModelConfig = ModelConfig()
    objective: ObjectiveSettings = ObjectiveSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    training: TrainingSettings = TrainingSettings()

    @model_validator(mode="after")
    def _a_backbone_rate_needs_a_trained_backbone(self) -> Recipe:
        whole = self.model.dual_encoder is not None
        image, text = whole or self.model.image.train_backbone, whole or self.model.text.train_backbone
        optimizer = self.optimizer
        if optimizer.backbone_learning_rate is not None and not (image or text):
            raise ValueError(
                "optimizer.backbone_learning_rate is that of fine-tuned backbones, and train_backbone is false in "
                "model.image and in model.text; leave it out (null)"
            )
        for name, given, trained in (
            ("optimizer.layer_decay", optimizer.layer_decay < 1, image or text),
            ("optimizer.frozen_image_blocks", optimizer.frozen_image_blocks is not None, image),
            ("optimizer.frozen_text_blocks", optimizer.frozen_text_blocks is not None, text),
            ("training.gradient_checkpointing", self.training.gradient_checkpointing, image or text),
        ):
            if given and not trained:
                raise ValueError(
                    f"{name} is for networks that are fine-tuned, and here none is; leave it out, or set "
                    "train_backbone of model.image or model.text, or model.dual_encoder"
                )
        if self.model.dual_encoder is not None and self.model.dual_encoder.lora is not None:
            frozen = (optimizer.frozen_image_blocks, optimizer.frozen_text_blocks)
            if frozen != (None, None):
                raise ValueError(
                    "optimizer.frozen_image_blocks and frozen_text_blocks: with model.dual_encoder.lora every weight "
                    "stays as it is; leave them out"
                )
        return self

    @model_validator(mode="after")
    def _known_regions_stay_where_they_are(self) -> Recipe:
        lca = self.objective.lca
        if lca is not None and lca.correspondence == "true" and (self.data.flip > 0 or self.data.crop < 1):
            raise ValueError(
                "objective.lca.correspondence: true knows where things are in the whole photo; leave out data.flip "
                "(0) and data.crop (1)"
            )
        return self

    @model_validator(mode="after")
    def _a_warm_start_comes_before_the_end(self) -> Recipe:
        lca = self.objective.lca
        if lca is not None and lca.warm_start and lca.frozen_codebook_epochs >= self.training.epochs:
            raise ValueError(
                f"objective.lca.warm_start comes after the {lca.frozen_codebook_epochs} epochs of "
                f"objective.lca.frozen_codebook_epochs, and training.epochs is {self.training.epochs}; lower the former"
            )
        return self

    @model_validator(mode="after")
    def _an_average_begins_before_the_end(self) -> Recipe:
        ema = self.training.ema
        if ema is not None and ema.start_epoch >= self.training.epochs:
            raise ValueError(
                f"training.ema.start_epoch is {ema.start_epoch}, and training.epochs is {self.training.epochs}: the "
                "average would never begin; lower the former"
            )
        return self

    @model_validator(mode="after")
    def _soft_labels_need_teachers(self) -> Recipe:
        for name in ("csa", "usa"):
            if getattr(self.objective, name) is not None and self.data.teachers is None:
                raise ValueError(
                    f"objective.{name} needs teachers: make their stores with 'crossalign teach {self.data.collection} "
                    "--images MODEL --out STORE' and the same with --texts, and name both in data.teachers"
                )
        return self

    @model_validator(mode="after")
    def _caption_pairs_need_two_captions(self) -> Recipe:
        lca, data = self.objective.lca, self.data
        alone = data.epoch == "images" and data.captions_per_image == 1
        if lca is not None and lca.caption_pairs > 0 and alone:
            raise ValueError(
                "objective.lca.caption_pairs needs two captions of an image; set data.captions_per_image to 2 or more"
            )
        return self

    def to_yaml(self) -> str:
        """The whole recipe, defaults included."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def available_recipes() -> tuple[str, ...]:
    """Names of the recipes that come with the package."""
    folder = resources.files("crossalign.recipes")
    return tuple(sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".yaml")))


def described_recipes() -> dict[str, str]:
    """The first sentence of each recipe that comes with the package, by name."""
    told = {}
    for name in available_recipes():
        text = (resources.files("crossalign.recipes") / f"{name}.yaml").read_text(encoding="utf-8")
        comment = takewhile(lambda line: line.startswith("#"), text.splitlines())
        told[name] = " ".join(line.lstrip("# ") for line in comment).split(". ")[0].rstrip(".")
    return told


def load_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe by path or by the name of one that comes with the package.

    A recipe may begin with ``extends: NAME_OR_PATH``: it is then merged, key by key, over that one; ``key: null``
    removes an optional part.

    Args:
        overrides: ``"section.key=value"``; the value is read as YAML.

    Raises:
        CrossAlignError: no such recipe, not YAML, an unknown key or a wrong value; the key is named.
    """
    change: dict[str, Any] = {}
    for override in overrides:
        change = _merge(change, _nested(override))
    own, told = _read(source, seen=()), f"recipe {source}"
    if overrides and _is_recipe(own):
        told += ", as changed"
    return parse_settings(Recipe, _merge(own, change), told)


def _is_recipe(values: dict[str, Any]) -> bool:
    """Whether a recipe's file is in order, so that only what changes it can be wrong."""
    try:
        Recipe.model_validate(values)
    except ValidationError:
        return False
    return True


def _nested(override: str) -> dict[str, Any]:
    """``"section.key=value"`` as ``{"section": {"key": value}}``."""
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise CrossAlignError(f"--set {override}: not of the form section.key=value")
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):  # ValueError: a date that no calendar has
        raise CrossAlignError(f"--set {override}: the value is not valid YAML") from None
    for section in reversed(key.split(".")):
        value = {section: value}
    return value


def _read(source: str | Path, seen: tuple[str, ...]) -> dict[str, Any]:
    path = Path(source)
    by = f"recipe {seen[-2]}, extends: " if seen else ""
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise CrossAlignError(f"{by}{path}: no such recipe file")
        file: Path | Traversable = path
    else:
        if str(source) not in available_recipes():
            if close := get_close_matches(str(source), available_recipes(), 1):
                raise CrossAlignError(
                    f"{by}no recipe '{source}', did you mean {close[0]}? crossalign train --list names all, and a "
                    "file of your own ends in .yaml"
                )
            raise CrossAlignError(
                f"{by}no recipe '{source}'; there are {', '.join(available_recipes())}, or give a .yaml"
            )
        file = resources.files("crossalign.recipes") / f"{source}.yaml"
    values = read_yaml(file, f"recipe {source}")
    if not isinstance(values, dict):
        raise CrossAlignError(f"recipe {source}: not a mapping of settings")
    parent = values.pop("extends", None)
    if parent is None:
        return _merge(_default_kinds(Recipe), values)
    if str(parent) in seen:
        raise CrossAlignError(f"recipe {source}: 'extends' goes in a circle through {parent}")
    beside = path.parent / str(parent)
    place = beside if path.suffix and beside.is_file() else str(parent)
    return _merge(_read(place, (*seen, str(source), str(parent))), values)


def _default_kinds(settings: type[BaseModel]) -> dict[str, Any]:
    """The ``kind`` of every part that has one, where a recipe leaves it out."""
    kinds: dict[str, Any] = {}
    for name, field in settings.model_fields.items():
        if name == "kind":
            kinds[name] = field.default
        elif isinstance(field.default, BaseModel) and (inner := _default_kinds(type(field.default))):
            kinds[name] = inner
    return kinds


def _merge(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in change.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict) and not _other_kind(old, value):
            merged[key] = _merge(old, value)
        else:
            merged[key] = value
    return merged


def _other_kind(old: dict[str, Any], value: dict[str, Any]) -> bool:
    """Whether one part replaces another whole: another loss, another encoder."""
    return "kind" in old and value.get("kind", old["kind"]) != old["kind"]
