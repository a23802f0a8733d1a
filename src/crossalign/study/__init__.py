"""Studies: tables of training runs that grow over days, with means, spreads and paired comparisons."""

from __future__ import annotations

from crossalign.study.plan import PlannedRun, plan_runs
from crossalign.study.settings import StudySettings, Variant, available_studies, load_study

__all__ = [
    "PlannedRun",
    "StudySettings",
    "Variant",
    "available_studies",
    "load_study",
    "plan_runs",
]
