"""Turning other formats into collections: one reader a format, the same checks for all."""

from __future__ import annotations

from crossalign.data.importers.checks import SourceProblemsError
from crossalign.data.importers.cusa import read_cusa
from crossalign.data.importers.folder import read_folder
from crossalign.data.importers.karpathy import read_karpathy
from crossalign.data.importers.precomputed import read_precomputed
from crossalign.data.importers.precomputed_write import import_precomputed
from crossalign.data.importers.run import import_source
from crossalign.data.importers.source import Problem, Source
from crossalign.data.importers.splits import SplitChoice
from crossalign.data.importers.table import Columns, read_table

__all__ = [
    "Columns",
    "Problem",
    "Source",
    "SourceProblemsError",
    "SplitChoice",
    "import_precomputed",
    "import_source",
    "read_cusa",
    "read_folder",
    "read_karpathy",
    "read_precomputed",
    "read_table",
]
