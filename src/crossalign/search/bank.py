"""The query bank of an index: texts that tell which photos come close to every query."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import Field

from crossalign.data.collection import Collection
from crossalign.errors import CrossAlignError
from crossalign.evaluation.hubness import TEMPERATURE, check_correction, image_normalisers
from crossalign.files import atomic_path
from crossalign.search.models import EmbeddingModel, embed_texts
from crossalign.search.texts import read_texts
from crossalign.settings import Settings

__all__ = ["BANK_FILE", "MOST_TEXTS", "TEMPERATURE", "BankEntry", "QueryBank", "bank_texts"]

BANK_FILE = "bank.npz"
MOST_TEXTS = 5000
"""Texts of a larger source are drawn evenly: more cost room and time and hardly change what is subtracted."""

_AT_ONCE = 256


class BankEntry(Settings):
    """What an index says about its bank."""

    source: str = Field(description="the file or collection that the texts come from")
    texts: int = Field(gt=0, description="how many")
    sha256: str = Field(description="over the texts")
    temperature: float = Field(gt=0, description="of the softmax over them")


@dataclass(frozen=True)
class QueryBank:
    """Embedded texts ``(m, D)`` and the temperature of the inverted softmax over them (QB-Norm, CVPR 2022).

    What is subtracted from a photo's scores stands behind the last number of each of its vectors, with a minus: a query
    with a 1 in that place is corrected, one with a 0 is not, and the store's index finds the best of either.
    """

    vectors: np.ndarray
    temperature: float = TEMPERATURE

    @classmethod
    def of_texts(cls, model: EmbeddingModel, texts: Sequence[str], temperature: float) -> QueryBank:
        """Embed the texts."""
        check_correction("query-bank", temperature)
        parts = [
            embed_texts(model, texts[start : start + _AT_ONCE]).cross[:, 0]
            for start in range(0, len(texts), _AT_ONCE)
        ]
        return cls(np.concatenate(parts), temperature)

    @classmethod
    def load(cls, store: Path) -> QueryBank:
        """Read the bank in a store's folder.

        Raises:
            CrossAlignError: it is missing or damaged.
        """
        path = store / BANK_FILE
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return cls(arrays["vectors"], float(arrays["temperature"]))
        except (OSError, ValueError, KeyError):
            raise CrossAlignError(
                f"{path}: missing or damaged; build the index again with 'crossalign index --rebuild --bank TEXTS'"
            ) from None

    def save(self, store: Path) -> None:
        """Write the bank into a store's folder."""
        with atomic_path(store / BANK_FILE) as temporary, temporary.open("wb") as file:
            np.savez(file, vectors=self.vectors, temperature=np.float64(self.temperature))

    def extended(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors of photos ``(n, V, D)`` with what is to be subtracted: ``(n, V, D + 1)``."""
        hubs = -image_normalisers(vectors, self.vectors, self.temperature).astype(np.float32)
        column = np.broadcast_to(hubs[:, None, None], (*vectors.shape[:2], 1))
        return np.concatenate([vectors, column], axis=2)


def bank_texts(source: str | Path, temperature: float) -> tuple[list[str], BankEntry]:
    """The texts of a bank, 5,000 at most, and what an index says about them.

    Args:
        source: a file with a text a line, or a collection: the captions of its split ``train``, of all where there is
            none of that name.
        temperature: of the softmax.

    Raises:
        CrossAlignError: no texts there, a temperature that is not positive.
    """
    check_correction("query-bank", temperature)
    splits = Collection.load(source).splits if Path(source).is_dir() else ()
    texts = list(read_texts(source, "train" if "train" in splits else None))
    if len(texts) > MOST_TEXTS:
        texts = [texts[place] for place in np.linspace(0, len(texts) - 1, MOST_TEXTS).astype(int)]
    digest = hashlib.sha256(json.dumps(texts).encode()).hexdigest()
    place = str(Path(source).resolve())
    return texts, BankEntry(source=place, texts=len(texts), sha256=digest, temperature=temperature)
