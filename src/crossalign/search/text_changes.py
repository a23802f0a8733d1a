"""Texts as what an index follows: each different one once, with the places where it stands."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass

from crossalign.search.content import Step, Wanted, embedded_items
from crossalign.search.embedder import Embedder
from crossalign.search.models import Embedded, EmbeddingModel, embed_texts
from crossalign.search.store import VectorStore
from crossalign.search.texts import TextEntry

__all__ = ["TextChanges", "TextContent"]


@dataclass(frozen=True)
class TextContent:
    """The texts of a file or of a collection, and what their index is asked to be."""

    wanted: Wanted
    found: Mapping[str, TextEntry]
    batch_size: int = 256

    def sample(self, model: EmbeddingModel) -> Embedded:
        """A text of one letter, embedded."""
        return embed_texts(model, ["a"])

    def changes(self, store: VectorStore) -> TextChanges:
        """Compare with what a store holds."""
        known = {record.id: TextEntry.from_payload(record.payload) for record in store.scroll()}
        return TextChanges(known, self.found, self.batch_size)


class TextChanges:
    """What differs between the texts of a store and those of their source.

    Attributes:
        added, removed: different texts.
        moved: those that stand at other lines or captions than before.
        unchanged: how many are as they were.
    """

    def __init__(
        self, known: Mapping[str, TextEntry], found: Mapping[str, TextEntry], batch_size: int
    ) -> None:
        self.added = [text for text in found if text not in known]
        self.removed = [text for text in known if text not in found]
        self.moved = [text for text in found if text in known and known[text] != found[text]]
        self.unchanged = len(found) - len(self.added) - len(self.moved)
        self._found = found
        self._batch_size = batch_size

    @property
    def empty(self) -> bool:
        """Whether nothing is to be done."""
        return not (self.added or self.removed or self.moved)

    @property
    def total(self) -> int:
        """Texts to embed."""
        return len(self.added)

    def steps(self, store: VectorStore, model: Embedder) -> Generator[Step, None, None]:
        """Remove what is gone, embed what is new, write down new places."""
        yield Step(gone=self.removed)
        # Longest ones together: little is spent on padding.
        new = sorted(self.added, key=len, reverse=True)
        for start in range(0, len(new), self._batch_size):
            part = new[start : start + self._batch_size]
            items = embedded_items(part, [self._found[text].payload() for text in part], model.texts(part))
            yield Step(items=items, done=len(part))
        yield Step(payloads={text: self._found[text].payload() for text in self.moved})
