"""Explaining one photo and one caption."""

from __future__ import annotations

from crossalign.data.photos import Photo
from crossalign.evaluation.encoded_pairs import EncodedPair, encode_pairs
from crossalign.model import RetrievalModel

__all__ = ["encode_photo_and_caption"]


def encode_photo_and_caption(
    model: RetrievalModel, photo: Photo, caption: str, name: str = "photo"
) -> EncodedPair:
    """Encode a photo with a caption, unit by unit.

    Args:
        name: of the photo, for messages.

    Raises:
        CrossAlignError: the photo cannot be read, or the model takes no photos.
    """
    inputs = model.image_inputs([photo])
    texts = model.text_inputs([caption])
    return encode_pairs(
        model, inputs, texts, [0], texts=[caption], image_ids=[name], caption_ids=[f"{name}#0"]
    )[0]
