"""From a recipe to the parts of a run: collection, stores, model, sources."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from crossalign.data.collection import Collection, Split
from crossalign.data.features import FeatureStore
from crossalign.data.loading import ImageSource, TextSource, find_store
from crossalign.encode import image_source, text_source
from crossalign.encoders.words import WordTokenizer
from crossalign.errors import CrossAlignError
from crossalign.model import ModelConfig, RetrievalModel
from crossalign.recipe import DataSettings, Recipe
from crossalign.settings import parse_settings
from crossalign.towers import HuggingFaceSettings, WordSettings

__all__ = ["Sources", "assemble_model", "complete_config"]


@dataclass(frozen=True)
class Sources:
    """A collection with the FeatureStores that stand for its photos and captions."""

    collection: Collection
    image_stores: tuple[FeatureStore, ...]
    text_store: FeatureStore | None

    @classmethod
    def open(cls, settings: DataSettings) -> Sources:
        """Open what the recipe names; ids are checked when a split is asked for."""
        collection = Collection.load(settings.collection)
        return cls(
            collection,
            tuple(find_store(collection, name) for name in settings.image_features),
            find_store(collection, settings.text_features) if settings.text_features else None,
        )

    def split(
        self, model: RetrievalModel, name: str, **augmentation: float
    ) -> tuple[Split, ImageSource, TextSource]:
        """A split with the inputs of its images and captions.

        Raises:
            CrossAlignError: no such split, or an id without a row in a store.
        """
        split = self.collection.split(name)
        images = image_source(model, self.collection, split, self.image_stores, **augmentation)
        return split, images, text_source(model, split, self.text_store)


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
        else:
            image["feature_dim"] = sum(store.dim for store in sources.image_stores)
    elif not config.image.backbones:
        raise CrossAlignError("give the recipe data.image_features (stored features) or model.image.backbones (pixels)")
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
