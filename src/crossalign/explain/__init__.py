"""Which word chose which region, what a codebook learned, and how often words find what they mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crossalign.lazy import loaded_on_first_use

if TYPE_CHECKING:
    from crossalign.explain.concepts import Codebook, ConceptUse, load_codebook
    from crossalign.explain.correspondence import Correspondence, WordRegion, correspond
    from crossalign.explain.gallery import GallerySettings, write_gallery
    from crossalign.explain.known_words import EntityWords, LabelWords, SceneWords
    from crossalign.explain.of_model import encode_photo_and_caption
    from crossalign.explain.overlay import draw_correspondence
    from crossalign.explain.scores import WordScores, score_words

__all__ = [
    "Codebook",
    "ConceptUse",
    "Correspondence",
    "EntityWords",
    "GallerySettings",
    "LabelWords",
    "SceneWords",
    "WordRegion",
    "WordScores",
    "correspond",
    "draw_correspondence",
    "encode_photo_and_caption",
    "load_codebook",
    "score_words",
    "write_gallery",
]

_HOMES = {
    "Codebook": "concepts",
    "ConceptUse": "concepts",
    "Correspondence": "correspondence",
    "EntityWords": "known_words",
    "GallerySettings": "gallery",
    "LabelWords": "known_words",
    "SceneWords": "known_words",
    "WordRegion": "correspondence",
    "WordScores": "scores",
    "correspond": "correspondence",
    "draw_correspondence": "overlay",
    "encode_photo_and_caption": "of_model",
    "load_codebook": "concepts",
    "score_words": "scores",
    "write_gallery": "gallery",
}


__getattr__ = loaded_on_first_use(__name__, _HOMES)
