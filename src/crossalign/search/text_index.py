"""An index of texts: a folder that holds the embeddings of a file's lines or of a collection's captions."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from crossalign.search.content import Wanted
from crossalign.search.models import EmbeddingModel
from crossalign.search.place import check_place
from crossalign.search.text_changes import TextContent
from crossalign.search.texts import default_text_index, read_texts
from crossalign.search.update import bring_up_to_date

__all__ = ["TextIndexSummary", "update_text_index"]


@dataclass(frozen=True)
class TextIndexSummary:
    """What one run did, in different texts; ``moved`` ones stand at other lines or captions than before."""

    index: str
    source: str
    split: str | None
    model: str | None
    fingerprint: str
    texts: int
    added: int
    moved: int
    removed: int
    unchanged: int
    width: int | None
    uni: int | None
    vector_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def update_text_index(
    model: EmbeddingModel | str | Path,
    texts: str | Path,
    index: str | Path | None = None,
    *,
    split: str | None = None,
    rebuild: bool = False,
    width: int | None = None,
    batch_size: int = 256,
    device: str = "auto",
    progress: bool = False,
) -> TextIndexSummary:
    """Make the index of a file of texts or of a collection's captions, or bring it up to date.

    A text that stands in several places is one item that names them all. Like
    :func:`~crossalign.search.index.update_index`, it may be killed at any moment.

    Args:
        model: a model, its folder, or its Hub name.
        texts: a file with a text a line, or the folder of a collection.
        index: folder of the index, :func:`~crossalign.search.texts.default_text_index` if left out.
        split: of the collection; None: all of it.
        rebuild, width, device, progress: as for :func:`~crossalign.search.index.update_index`.
        batch_size: texts a step.

    Raises:
        CrossAlignError: no texts, a model, a source or a width other than the index has, an index in use or damaged, a
            place that holds other things. Nothing in the place has been touched then.
    """
    source = Path(texts).resolve()
    found = read_texts(source, split)
    place = default_text_index(source) if index is None else Path(index).resolve()
    # A collection's folder is no place for an index; a file's folder may hold one.
    check_place(source if source.is_dir() else source.parent, place)
    content = TextContent(Wanted(texts=str(source), split=split, width=width), found, batch_size)
    manifest, changes = bring_up_to_date(
        content, place, model, rebuild=rebuild, device=device, progress=progress
    )
    return TextIndexSummary(
        index=str(place),
        source=manifest.source,
        split=manifest.split,
        model=manifest.model,
        fingerprint=manifest.fingerprint,
        texts=manifest.count,
        added=len(changes.added),
        moved=len(changes.moved),
        removed=len(changes.removed),
        unchanged=changes.unchanged,
        width=manifest.width,
        uni=manifest.uni,
        vector_bytes=manifest.vector_bytes,
    )
