"""A model together with what an index stores of its embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from PIL.Image import Image

from crossalign.errors import CrossAlignError
from crossalign.search.bank import QueryBank
from crossalign.search.manifest import Manifest
from crossalign.search.models import Embedded, EmbeddingModel, embed_images, embed_texts

__all__ = ["Embedder"]


@dataclass(frozen=True)
class Embedder:
    """Embeds items as an index stores them: in both spaces where it has both, photos extended by its query bank.

    Raises:
        CrossAlignError: from both methods, where embeddings have another shape than those of the index.
    """

    model: EmbeddingModel
    manifest: Manifest
    bank: QueryBank | None = None

    def images(self, images: Sequence[Image]) -> Embedded:
        """Of pictures."""
        found = self._checked(embed_images(self.model, images, uni=self.manifest.uni is not None), "photo")
        return found if self.bank is None else Embedded(self.bank.extended(found.cross), found.uni)

    def texts(self, texts: Sequence[str]) -> Embedded:
        """Of texts."""
        return self._checked(embed_texts(self.model, texts, uni=self.manifest.uni is not None), "text")

    def _checked(self, found: Embedded, item: Literal["photo", "text"]) -> Embedded:
        views, dim = found.cross.shape[1:]
        if (views, dim) != (self.manifest.views, self.manifest.dim):
            raise CrossAlignError(
                f"the model gave {views} embeddings of width {dim} a {item}, the index holds {self.manifest.views} of "
                f"{self.manifest.dim}; build it again with 'crossalign index --rebuild'"
            )
        return found
