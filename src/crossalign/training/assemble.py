"""From a recipe to its model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from crossalign.data.collection import Split
from crossalign.data.loading import PairSampler
from crossalign.encoders.words import WordTokenizer
from crossalign.errors import CrossAlignError
from crossalign.model import ModelConfig, RetrievalModel
from crossalign.recipe import Recipe
from crossalign.scorers.settings import CrossEncoderSettings, SCANSettings
from crossalign.settings import parse_settings
from crossalign.sources import Sources
from crossalign.towers import GRUSettings, ImageTowerConfig, TextTowerConfig

__all__ = ["assemble_model", "check_pixels", "complete_config", "training_sampler"]


def complete_config(config: ModelConfig, sources: Sources) -> ModelConfig:
    """Fill in what the stores know: the backbones that made them, or the width of imported features.

    So a model trained on stored features encodes raw photos by itself.

    Raises:
        CrossAlignError: the recipe and the stores contradict each other.
    """
    if config.dual_encoder is not None:
        if sources.image_stores or sources.text_store is not None:
            raise CrossAlignError(
                "model.dual_encoder reads photos and captions; leave data.image_features and data.text_features out"
            )
        return config
    values: dict[str, Any] = config.model_dump()
    if sources.image_stores:
        values["image"] |= _stored_images(config.image, sources)
    else:
        check_pixels(config.image)
    if sources.text_store is not None:
        values["text"]["backbone"] = _stored_encoder(config.text, sources.text_store.manifest)
    return parse_settings(ModelConfig, values, "model settings")


def _stored_images(config: ImageTowerConfig, sources: Sources) -> dict[str, Any]:
    """What the image stores say about the image tower."""
    stores = sources.image_stores
    if config.backbones or config.train_backbone:
        raise CrossAlignError(
            "data.image_features and model.image.backbones exclude each other: stored features come from their "
            "own backbone and cannot be fine-tuned; leave one of both out"
        )
    width = sum(store.dim for store in stores)
    if config.feature_dim not in (None, width):
        raise CrossAlignError(
            f"model.image.feature_dim is {config.feature_dim}, but data.image_features is {width} wide; "
            "leave feature_dim out"
        )
    if any(
        store.manifest.get(key) != stores[0].manifest.get(key)
        for store in stores
        for key in ("regions", "detector")
    ):
        raise CrossAlignError(
            "data.image_features: the stores hold different regions of an image; extract them with the same "
            "grid or boxes"
        )
    if config.regions not in ("grid", sources.regions):
        raise CrossAlignError(
            f"model.image.regions: {config.regions}, but data.image_features holds other regions; leave it out"
        )
    if config.detector is not None:
        if sources.regions == "grid":
            raise CrossAlignError(
                "model.image.detector finds boxes, but data.image_features holds none; leave it out"
            )
        if not Path(config.detector.model).is_file():
            raise CrossAlignError(f"model.image.detector: {config.detector.model}: no such detector file")
    backbones = [store.manifest.get("backbone") for store in stores]
    if not all(backbones):
        return {"feature_dim": width}
    found: dict[str, Any] = {"backbones": backbones}
    if sources.regions != "grid":
        found["regions"] = sources.regions
        detector = dict(stores[0].manifest["detector"])
        if detector.pop("kind") == "onnx" and config.detector is None:
            found["detector"] = detector
    return found


def check_pixels(config: ImageTowerConfig) -> None:
    """Refuse image settings that cannot be trained from photos, without stored features.

    Raises:
        CrossAlignError: there is no backbone, or a setting that only stored features give a meaning.
    """
    if not config.backbones:
        raise CrossAlignError(
            "give the recipe data.image_features (stored features) or model.image.backbones (pixels)"
        )
    if config.feature_dim is not None:
        raise CrossAlignError(
            "model.image.feature_dim is the width of imported features, model.image.backbones read pixels; "
            "leave one of both out"
        )
    if config.regions != "grid" or config.detector is not None:
        raise CrossAlignError(
            f"model.image.{'regions' if config.regions != 'grid' else 'detector'}: boxes need stored features: run "
            "'crossalign extract' with --boxes or --detector and name the store in data.image_features"
        )


def _stored_encoder(config: TextTowerConfig, manifest: dict[str, Any]) -> dict[str, Any]:
    """The encoder that made the text store."""
    if config.reads_words or config.train_backbone:
        raise CrossAlignError(
            "data.text_features holds states of a frozen encoder: it needs model.text.train_backbone: false and a "
            "model.text.encoder that reads them, such as kind: pooled"
        )
    if config.word_masking > 0:
        raise CrossAlignError(
            "model.text.word_masking replaces words before they are encoded, data.text_features holds them encoded; "
            "use word_dropout, or leave data.text_features out"
        )
    stored = manifest.get("backbone")
    if stored is None:
        raise CrossAlignError(
            "data.text_features: the store does not say which encoder made it; make it with 'crossalign extract'"
        )
    if config.backbone is not None:
        asked = config.backbone.model_dump(mode="json")
        differing = [key for key in asked if asked[key] != stored.get(key)]
        if config.backbone.weights_sha256 is None:
            differing.remove("weights_sha256")
        if differing:
            raise CrossAlignError(
                f"model.text.backbone is not the encoder that made data.text_features "
                f"({', '.join(differing)}); leave it out"
            )
    return dict(stored)


def assemble_model(recipe: Recipe, sources: Sources) -> RetrievalModel:
    """Build the model of a recipe, weights drawn from its seed, vocabulary learnt from its training captions.

    Raises:
        CrossAlignError: the recipe and the stores contradict each other.
    """
    if sources.image_stores and (recipe.data.flip > 0 or recipe.data.crop < 1):
        setting = "flip" if recipe.data.flip > 0 else "crop"
        raise CrossAlignError(
            f"data.{setting} changes photos, data.image_features holds features of unchanged ones; leave one out"
        )
    config = complete_config(recipe.model, sources)
    tokenizer = None
    words = config.text.encoder
    if config.dual_encoder is None and isinstance(words, GRUSettings):
        tokenizer = WordTokenizer.build(
            sources.collection.split(recipe.data.train).texts,
            min_count=words.min_count,
            max_length=words.max_length,
            splitting=words.splitting,
            borders=words.borders,
        )
    torch.manual_seed(recipe.seed)
    model = RetrievalModel(config, tokenizer=tokenizer)
    _check_places(model, sources)
    return model


def training_sampler(recipe: Recipe, split: Split) -> PairSampler:
    """The batches that a recipe draws from its training split.

    Raises:
        CrossAlignError: the split does not fill one batch.
    """
    return PairSampler(
        split,
        recipe.training.batch_size,
        recipe.seed,
        images_first=recipe.data.epoch == "images",
        captions_per_image=recipe.data.captions_per_image,
    )


def _check_places(model: RetrievalModel, sources: Sources) -> None:
    """Refuse a scorer with fewer places for regions than an image may have."""
    scorer = model.config.scorer
    if scorer is None or isinstance(scorer, SCANSettings | CrossEncoderSettings):
        return
    if sources.image_stores:
        # Stores that stand side by side hold the same regions.
        store = sources.image_stores[0]
        most, where = int(store.unit_counts(np.arange(len(store))).max(initial=0)), str(store.folder)
    else:
        most = model.image_tower.region_count
        where = "model.image.backbones" if model.dual is None else "model.dual_encoder"
    if most > scorer.regions:
        raise CrossAlignError(
            f"model.scorer.regions is {scorer.regions}, but {where} has up to {most} regions an image; "
            f"set model.scorer.regions={most}"
        )
