"""From a recipe to its model."""

from __future__ import annotations

from typing import Any

import torch

from crossalign.encoders.words import WordTokenizer
from crossalign.errors import CrossAlignError
from crossalign.model import ModelConfig, RetrievalModel
from crossalign.recipe import Recipe
from crossalign.settings import parse_settings
from crossalign.sources import Sources
from crossalign.towers import HuggingFaceSettings, WordSettings

__all__ = ["assemble_model", "complete_config"]


def complete_config(config: ModelConfig, sources: Sources) -> ModelConfig:
    """Fill in what the stores know: the backbones that made them, or the width of imported features.

    So a model trained on stored features encodes raw photos by itself.

    Raises:
        CrossAlignError: the recipe and the stores contradict each other.
    """
    values: dict[str, Any] = config.model_dump()
    image = values["image"]
    if sources.image_stores:
        if config.image.backbones or config.image.train_backbone:
            raise CrossAlignError(
                "data.image_features and model.image.backbones exclude each other: stored features come from their "
                "own backbone and cannot be fine-tuned; leave one of both out"
            )
        backbones = [store.manifest.get("backbone") for store in sources.image_stores]
        if all(backbones):
            image["backbones"] = backbones
            if sources.has_boxes:
                image["regions"] = "boxes"
                detector = dict(sources.image_stores[0].manifest["detector"])
                if detector.pop("kind") == "onnx" and config.image.detector is None:
                    image["detector"] = detector
        else:
            image["feature_dim"] = sum(store.dim for store in sources.image_stores)
    elif not config.image.backbones:
        raise CrossAlignError(
            "give the recipe data.image_features (stored features) or model.image.backbones (pixels)"
        )
    encoder = config.text.encoder
    if sources.text_store is not None:
        if not isinstance(encoder, HuggingFaceSettings) or encoder.train_backbone:
            raise CrossAlignError(
                "data.text_features holds states of a frozen encoder: it needs model.text.encoder.kind: huggingface "
                "with train_backbone: false"
            )
        if encoder.backbone is None:
            values["text"]["encoder"]["backbone"] = sources.text_store.manifest["backbone"]
    return parse_settings(ModelConfig, values, "model settings")


def assemble_model(recipe: Recipe, sources: Sources) -> RetrievalModel:
    """Build the model of a recipe, weights drawn from its seed, vocabulary learnt from its training captions."""
    config = complete_config(recipe.model, sources)
    tokenizer = None
    if isinstance(config.text.encoder, WordSettings):
        split = sources.collection.split(recipe.data.train)
        tokenizer = WordTokenizer.build(
            split.texts, min_count=config.text.encoder.min_count, max_length=config.text.encoder.max_length
        )
    torch.manual_seed(recipe.seed)
    return RetrievalModel(config, tokenizer=tokenizer)
