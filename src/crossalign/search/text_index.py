"""An index of texts: a folder that holds the embeddings of a file's lines or of a collection's captions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from crossalign.errors import CrossAlignError
from crossalign.progress import track
from crossalign.search.lock import IndexLock
from crossalign.search.manifest import MANIFEST_FILE, Manifest, write_manifest
from crossalign.search.models import EmbeddingModel, load_model, model_name
from crossalign.search.opening import Embedder, Wanted, fitting, new_store, open_store, present
from crossalign.search.place import REBUILD_FILE, check_place, remove_leftovers
from crossalign.search.store import VectorStore
from crossalign.search.texts import TextEntry, default_text_index, read_texts

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
    wanted = Wanted(texts=str(source), split=split, width=width)
    name = model_name(model)
    embedder: EmbeddingModel | None = None
    if not place.exists() or not any(place.iterdir()):
        embedder = load_model(model, device, width)
        place.mkdir(parents=True, exist_ok=True)
    with IndexLock(place, "crossalign index"):
        path = place / (REBUILD_FILE if rebuild else MANIFEST_FILE)
        manifest = present(path, wanted, rebuild)
        embedder = embedder or load_model(model, device, width)
        fingerprint = embedder.fingerprint
        manifest = fitting(manifest, fingerprint, wanted, place, rebuild)
        opened = None if manifest is None else open_store(place, manifest, embedder, rebuild, _known)
        manifest, store, stored, known = opened or new_store(
            path, name, embedder, fingerprint, wanted, _known
        )
        try:
            manifest = manifest.model_copy(update={"model": name, "texts": str(source)})
            if known != found or not manifest.complete:
                write_manifest(path, manifest.model_copy(update={"complete": False}))
                _follow(store, stored, known, found, batch_size, progress)
            count = store.count()
        finally:
            store.close()
        manifest = manifest.model_copy(update={"complete": True, "count": count})
        write_manifest(path, manifest)
        if rebuild:
            path.replace(place / MANIFEST_FILE)
        remove_leftovers(place)
    return _summary(place, manifest, known, found)


def _known(store: VectorStore) -> dict[str, TextEntry]:
    return {record.id: TextEntry.from_payload(record.payload) for record in store.scroll()}


def _follow(
    store: VectorStore,
    model: Embedder,
    known: Mapping[str, TextEntry],
    found: Mapping[str, TextEntry],
    batch_size: int,
    progress: bool,
) -> None:
    """Bring a store in line with texts; after each step every stored text is whole."""
    store.delete([text for text in known if text not in found])
    new = [text for text in found if text not in known]
    # Longest ones together: little is spent on padding.
    new.sort(key=len, reverse=True)
    for start in track(range(0, len(new), batch_size), "index texts", enabled=progress and bool(new)):
        part = new[start : start + batch_size]
        embedded = model.texts(part)
        if embedded.cross.shape[1:] != (store.views, store.dim):
            raise CrossAlignError(
                f"the model gave embeddings of width {embedded.cross.shape[2]} a text, the index holds {store.dim}; "
                "build it again with 'crossalign index --rebuild'"
            )
        store.upsert(part, embedded.cross, [found[text].payload() for text in part], embedded.uni)
    moved = [text for text in found if text in known and known[text] != found[text]]
    store.update_payloads({text: found[text].payload() for text in moved})
    store.optimize()
    store.flush()


def _summary(
    place: Path, manifest: Manifest, known: Mapping[str, TextEntry], found: Mapping[str, TextEntry]
) -> TextIndexSummary:
    both = known.keys() & found.keys()
    moved = sum(known[text] != found[text] for text in both)
    return TextIndexSummary(
        index=str(place),
        source=manifest.source,
        split=manifest.split,
        model=manifest.model,
        fingerprint=manifest.fingerprint,
        texts=manifest.count,
        added=len(found) - len(both),
        moved=moved,
        removed=len(known) - len(both),
        unchanged=len(both) - moved,
        width=manifest.width,
        uni=manifest.uni,
        vector_bytes=manifest.vector_bytes,
    )
