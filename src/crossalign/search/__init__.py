"""Indexing a folder of photos and searching it with words or pictures."""

from __future__ import annotations

from crossalign.search.engine import SearchEngine
from crossalign.search.hit import Hit
from crossalign.search.index import IndexSummary, update_index
from crossalign.search.place import default_index
from crossalign.search.rerank import PhotoReranker, reranked
from crossalign.search.scan import Failure
from crossalign.search.sheet import contact_sheet, save_contact_sheet

__all__ = [
    "Failure",
    "Hit",
    "IndexSummary",
    "PhotoReranker",
    "SearchEngine",
    "contact_sheet",
    "default_index",
    "reranked",
    "save_contact_sheet",
    "update_index",
]
