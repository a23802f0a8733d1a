"""Fine-grained alignment of images and texts: each a function and a thin module."""

from __future__ import annotations

from crossalign.alignment.centring import centred_units
from crossalign.alignment.clustering import sinkhorn
from crossalign.alignment.context_head import Context, ContextHead
from crossalign.alignment.cra import ContextualRelationAlignment, global_to_local_nce
from crossalign.alignment.lca import LocalConceptAlignment, lca_loss
from crossalign.alignment.soft_labels import (
    CrossModalSoftLabels,
    UniModalSoftLabels,
    cosine_scores,
    soft_label_loss,
)

__all__ = [
    "Context",
    "ContextHead",
    "ContextualRelationAlignment",
    "CrossModalSoftLabels",
    "LocalConceptAlignment",
    "UniModalSoftLabels",
    "centred_units",
    "cosine_scores",
    "global_to_local_nce",
    "lca_loss",
    "sinkhorn",
    "soft_label_loss",
]
