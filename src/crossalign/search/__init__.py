"""Indexing a folder of photos and searching it with words or pictures."""

from __future__ import annotations

from crossalign.search.engine import Hit, SearchEngine
from crossalign.search.index import IndexSummary, default_index, update_index
from crossalign.search.scan import Failure
from crossalign.search.sheet import contact_sheet, save_contact_sheet

__all__ = [
    "Failure",
    "Hit",
    "IndexSummary",
    "SearchEngine",
    "contact_sheet",
    "default_index",
    "save_contact_sheet",
    "update_index",
]
