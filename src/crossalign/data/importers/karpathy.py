"""Reading the JSON that Karpathy's splits of COCO, Flickr8k and Flickr30k come in."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from crossalign.data.collection import CaptionRecord, ImageRecord
from crossalign.data.importers.source import MALFORMED, Source, as_id, read_document, tidy_path
from crossalign.errors import CrossAlignError
from crossalign.files import file_digest

__all__ = ["read_karpathy"]


def read_karpathy(
    path: str | Path,
    images: str | Path,
    *,
    fold_restval: bool = True,
    image_ids: Literal["auto", "cocoid", "filename", "imgid"] = "auto",
) -> Source:
    """Images and captions of ``{"images": [{"filename", "split", "sentences": [{"raw", "sentid"}]}]}``.

    Args:
        path: the JSON file.
        images: the folder that ``filepath/filename``, or ``filename`` alone, lies in.
        fold_restval: count the split ``restval`` as ``train``, as results in the literature do.
        image_ids: the key that names an image; "auto" takes ``cocoid``, and ``filename`` where there is none.

    Raises:
        CrossAlignError: the file is missing, not JSON, or has no list of images.
    """
    path, root = Path(path), Path(images)
    document = read_document(path)
    entries = document.get("images") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise CrossAlignError(f"{path}: no list 'images'; this is not a Karpathy JSON file")
    options = {"fold_restval": fold_restval, "image_ids": image_ids}
    source = Source(
        root,
        provenance={
            "format": "karpathy",
            "files": {str(path.resolve()): file_digest(path)},
            "options": options,
        },
    )
    for position, entry in enumerate(entries):
        where = f"images[{position}]"
        if not isinstance(entry, dict) or not isinstance(entry.get("filename"), str) or not entry["filename"]:
            source.add_problem(MALFORMED, f"{where} (no 'filename')")
            continue
        image_id = _image_id(entry, image_ids)
        if image_id is None:
            source.add_problem(MALFORMED, f"{where} (no '{image_ids}')")
            continue
        split = entry.get("split", "")
        if not isinstance(split, str):
            source.add_problem(MALFORMED, f"{where} ('split' is not a name)")
            continue
        split = "train" if fold_restval and split == "restval" else split
        source.images.append(ImageRecord(image_id, _file(entry, root), 0, 0))
        _add_sentences(source, entry.get("sentences", []), image_id, split, where)
    return source


def _image_id(entry: dict[str, Any], key: str) -> str | None:
    if key != "auto":
        return as_id(entry.get(key))
    return as_id(entry.get("cocoid")) or as_id(entry["filename"])


def _file(entry: dict[str, Any], root: Path) -> str:
    """``filepath/filename``, unless all photos were put in one folder."""
    name = entry["filename"]
    folder = entry.get("filepath")
    if isinstance(folder, str) and folder:
        nested = tidy_path(f"{folder}/{name}")
        if (root / nested).is_file() or not (root / name).is_file():
            return nested
    return tidy_path(name)


def _add_sentences(source: Source, sentences: Any, image_id: str, split: str, where: str) -> None:
    if not isinstance(sentences, list):
        source.add_problem(MALFORMED, f"{where} ('sentences' is not a list)")
        return
    for number, sentence in enumerate(sentences):
        if not isinstance(sentence, dict) or not isinstance(sentence.get("raw"), str):
            source.add_problem(MALFORMED, f"{where}.sentences[{number}] (no 'raw')")
            continue
        caption_id = as_id(sentence.get("sentid")) or f"{image_id}#{number}"
        source.captions.append(CaptionRecord(caption_id, image_id, sentence["raw"].strip(), split))
