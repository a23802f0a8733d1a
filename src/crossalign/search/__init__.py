"""Indexing a folder of photos, or texts, and searching it with words or pictures."""

from __future__ import annotations

from crossalign.search.engine import SearchEngine
from crossalign.search.hit import Hit, TextHit
from crossalign.search.index import IndexSummary, update_index
from crossalign.search.open_index import Comparison
from crossalign.search.place import default_index
from crossalign.search.rerank import PhotoReranker, reranked
from crossalign.search.scan import Failure
from crossalign.search.sheet import contact_sheet, save_contact_sheet, text_sheet
from crossalign.search.text_engine import TextSearchEngine
from crossalign.search.text_index import TextIndexSummary, update_text_index
from crossalign.search.texts import default_text_index

__all__ = [
    "Comparison",
    "Failure",
    "Hit",
    "IndexSummary",
    "PhotoReranker",
    "SearchEngine",
    "TextHit",
    "TextIndexSummary",
    "TextSearchEngine",
    "contact_sheet",
    "default_index",
    "default_text_index",
    "reranked",
    "save_contact_sheet",
    "text_sheet",
    "update_index",
    "update_text_index",
]
