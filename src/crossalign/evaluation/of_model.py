"""Evaluating a model on a split of a collection."""

from __future__ import annotations

from typing import Any

from crossalign.encode import encode_split
from crossalign.errors import CrossAlignError
from crossalign.evaluation.results import RetrievalResult
from crossalign.evaluation.retrieval import evaluate_retrieval
from crossalign.model import RetrievalModel
from crossalign.sources import Sources

__all__ = ["evaluate_model"]


def evaluate_model(
    model: RetrievalModel,
    sources: Sources,
    split: str,
    *,
    folds: int = 1,
    command: str = "",
    progress: bool = False,
) -> RetrievalResult:
    """Embed a split and measure retrieval in both directions.

    Args:
        folds: galleries that the split is cut into; 5 for the COCO 1K protocol.

    Raises:
        CrossAlignError: no such split, stores that other backbones made than the model's, unreadable photos.
    """
    check_stores(model, sources)
    part, images, texts = sources.split(model, split)
    image, text = encode_split(model, images, texts, progress=progress)
    return evaluate_retrieval(
        image,
        text,
        part.image_of_text,
        folds=folds,
        collection=sources.collection.name,
        split=split,
        model=model.fingerprint,
        command=command,
        image_ids=part.image_ids,
        caption_ids=part.caption_ids,
    )


def check_stores(model: RetrievalModel, sources: Sources) -> None:
    """Features that other backbones made would give plausible, wrong numbers.

    Raises:
        CrossAlignError: a store's backbone is not the model's, or its regions are of another kind.
    """
    backbones = model.config.image.backbones
    made_by = [store.manifest.get("backbone") for store in sources.image_stores]
    if sources.image_stores and model.config.image.train_backbone:
        raise CrossAlignError(
            "image features: the model has fine-tuned its own backbones; let it encode the photos, without features"
        )
    if sources.image_stores and backbones:
        asked = [_identity(backbone.model_dump(mode="json")) for backbone in backbones]
        if [_identity(found) for found in made_by] != asked:
            wanted = ", ".join(backbone.name for backbone in backbones)
            given = ", ".join((found or {}).get("name", "imported features") for found in made_by)
            raise CrossAlignError(
                f"image features: the model takes those of {wanted}, made with the same settings; given are {given}"
            )
        if sources.has_boxes != (model.config.image.regions == "boxes"):
            takes, holds = ("grid cells", "boxes") if sources.has_boxes else ("boxes", "grid cells")
            raise CrossAlignError(
                f"image features: the model takes {takes}, the stores hold {holds}; name features of {takes}"
            )
    width = sum(store.dim for store in sources.image_stores)
    if sources.image_stores and width != model.image_tower.feature_dim:
        raise CrossAlignError(
            f"image features: {width} wide, but the model takes {model.image_tower.feature_dim}"
        )
    if sources.text_store is not None:
        backbone = model.text_tower.backbone
        found = sources.text_store.manifest.get("backbone")
        if backbone is None or _identity(found) != _identity(backbone.config.model_dump(mode="json")):
            raise CrossAlignError(
                "text features: made by another encoder than the model's; leave --text-features out"
            )


def _identity(backbone: dict[str, Any] | None) -> dict[str, Any] | None:
    """A backbone's settings without the place of its weights, which may have moved; a checksum tells them."""
    if backbone is None:
        return None
    place = "weights" if "weights" in backbone else "name"
    return {key: value for key, value in backbone.items() if key != place}
