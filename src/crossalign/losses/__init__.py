"""Base losses: what makes a matched image and text score higher than the others of a batch."""

from __future__ import annotations

from crossalign.losses.contrastive import ContrastiveLoss
from crossalign.losses.diversity import DiversityLoss, diversity_loss
from crossalign.losses.ranking import HingeRankingLoss

__all__ = ["ContrastiveLoss", "DiversityLoss", "HingeRankingLoss", "diversity_loss"]
