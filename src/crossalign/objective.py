"""What training minimises: a base loss and any of the alignments, as named terms."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from crossalign.alignment import ContextualRelationAlignment, LocalConceptAlignment
from crossalign.data.batch import TextInputs
from crossalign.encoders.caption_decoder import CaptionGeneration
from crossalign.encoding import Encoding
from crossalign.errors import CrossAlignError
from crossalign.losses import ContrastiveLoss, DiversityLoss, HingeRankingLoss
from crossalign.masking import at_least_float32
from crossalign.model import RetrievalModel
from crossalign.normalization import unit_norm
from crossalign.settings import Settings
from crossalign.towers import ModelConfig

__all__ = ["Objective", "ObjectiveSettings"]

Weight = Annotated[float, Field(ge=0.0)]


class HingeSettings(Settings):
    """Hinge ranking loss, summed over the batch (VSE++)."""

    kind: Literal["hinge"] = Field(
        default="hinge", description="sum over the batch of what a match lacks to win by the margin"
    )
    weight: Weight = Field(default=1.0, description="factor of this term in the total")
    margin: float = Field(
        default=0.2, gt=0, description="by how much a match has to win, in units of the score"
    )
    summed_epochs: int = Field(
        default=1, ge=0, description="warm-up epochs over all negatives before the hardest ones alone"
    )


class ContrastiveSettings(Settings):
    """Multi-positive InfoNCE, averaged over the batch."""

    kind: Literal["contrastive"] = Field(
        default="contrastive",
        description="InfoNCE in both directions; all captions of an image are positives",
    )
    weight: Weight = Field(default=1.0, description="factor of this term in the total")
    temperature: float = Field(
        default=0.05, gt=0, description="what scores are divided by; the first value where it is learnt"
    )
    learnable_temperature: bool = Field(
        default=False, description="train the temperature, kept within 0.01 to 0.1"
    )
    reduction: Literal["standard", "paper"] = Field(
        default="standard", description="`paper` divides by the batch size once more, as CUSA's code does"
    )


class LCASettings(Settings):
    """Local Concept Alignment (SelfAlign)."""

    weight: Weight = Field(default=1.0, description="factor of this term in the total")
    concepts: int = Field(default=1024, gt=1, description="size of the codebook")
    word_temperature: float = Field(default=0.1, gt=0, description="what a word's logits are divided by")
    epsilon: float = Field(
        default=0.05, gt=0, description="sharpness of the regions' assignment; smaller is sharper"
    )
    sinkhorn_iterations: int = Field(default=2, ge=1, description="rounds of balancing the assignment")
    symmetric: bool = Field(default=False, description="also train regions against the words' assignments")
    units: Literal["locals", "context"] = Field(
        default="locals",
        description="what is aligned: units before context, as in the paper, or those the embedding is made of",
    )
    frozen_codebook_epochs: int = Field(
        default=1, ge=0, description="epochs in which the codebook is not updated"
    )


class CRASettings(Settings):
    """Contextual Relation Alignment (SelfAlign); needs model.context_head."""

    weight: Weight = Field(default=1.0, description="factor of this term in the total")
    temperature: float = Field(default=0.7, gt=0, description="what inner products are divided by")
    hard_negatives: int | None = Field(
        default=512, gt=0, description="negatives a query meets, the most similar ones; null: all"
    )


class DiversitySettings(Settings):
    """CAMERA's diversity loss: the views of an image should weigh its regions differently."""

    weight: Weight = Field(default=0.01, description="factor of this term in the total")
    reduction: Literal["sum", "mean"] = Field(
        default="sum", description="over the images of a batch; `mean` beside an averaged base loss"
    )


class CaptioningSettings(Settings):
    """VSRN's caption generation: regions in context should be enough to write the caption."""

    weight: Weight = Field(default=1.0, description="factor of this term in the total")
    hidden: int = Field(default=512, gt=0, description="width of the decoder")
    word_dim: int = Field(default=300, gt=0, description="width of a word's embedding")
    dropout: float = Field(default=0.2, ge=0, lt=1, description="dropout of the decoder")


class ObjectiveSettings(Settings):
    """The base loss and the alignments beside it."""

    base: HingeSettings | ContrastiveSettings = Field(
        default=HingeSettings(),
        discriminator="kind",
        description="the loss of whole images against whole captions; `kind` chooses it",
    )
    lca: LCASettings | None = Field(default=None, description="Local Concept Alignment; null: without")
    diversity: DiversitySettings | None = Field(
        default=None, description="CAMERA's diversity loss; null: without"
    )
    captioning: CaptioningSettings | None = Field(
        default=None, description="VSRN's caption generation; null: without"
    )
    cra: CRASettings | None = Field(default=None, description="Contextual Relation Alignment; null: without")


class Objective(nn.Module):
    """Named, unweighted loss terms of a batch; ``weights`` says how they add up.

    Holds what only training needs (LCA's codebook, a caption decoder, temperatures); what inference needs lives in
    the towers.

    Args:
        settings: which terms and how.
        model: whose encodings it will see.
        vocabulary: number of its word-level token ids; 0 where it has none.

    Raises:
        CrossAlignError: a term needs something that the model does not have.
    """

    def __init__(self, settings: ObjectiveSettings, model: ModelConfig, *, vocabulary: int = 0) -> None:
        super().__init__()
        dim = model.dim
        if settings.cra is not None and not model.context_head:
            raise CrossAlignError("objective.cra needs model.context_head: true")
        if settings.diversity is not None and model.image.encoder.kind != "camera":
            raise CrossAlignError("objective.diversity needs views: model.image.encoder.kind: camera")
        if settings.captioning is not None and not vocabulary:
            raise CrossAlignError("objective.captioning needs a vocabulary: model.text.encoder.kind: gru")
        self.settings = settings
        self.base: HingeRankingLoss | ContrastiveLoss
        base = settings.base
        if isinstance(base, HingeSettings):
            self.base = HingeRankingLoss(base.margin, negatives="all" if base.summed_epochs else "hardest")
        else:
            self.base = ContrastiveLoss(
                base.temperature, reduction=base.reduction, learnable=base.learnable_temperature
            )
        self.weights: dict[str, float] = {base.kind: base.weight}
        self.lca: LocalConceptAlignment | None = None
        if (lca := settings.lca) is not None:
            self.lca = LocalConceptAlignment(
                dim,
                concepts=lca.concepts,
                word_temperature=lca.word_temperature,
                epsilon=lca.epsilon,
                sinkhorn_iterations=lca.sinkhorn_iterations,
                symmetric=lca.symmetric,
            )
            self.weights["lca"] = lca.weight
        self.cra: ContextualRelationAlignment | None = None
        if (cra := settings.cra) is not None:
            self.cra = ContextualRelationAlignment(cra.temperature, cra.hard_negatives)
            self.weights["cra"] = cra.weight

        self.diversity: DiversityLoss | None = None
        if (diversity := settings.diversity) is not None:
            self.diversity = DiversityLoss(diversity.reduction)
            self.weights["diversity"] = diversity.weight
        self.captioning: CaptionGeneration | None = None
        if (captioning := settings.captioning) is not None:
            self.captioning = CaptionGeneration(
                dim,
                vocabulary,
                hidden=captioning.hidden,
                word_dim=captioning.word_dim,
                dropout=captioning.dropout,
            )
            self.weights["captioning"] = captioning.weight

    def begin_epoch(self, epoch: int) -> None:
        """Switch what depends on the epoch, counted from 0: the hinge's negatives and the frozen codebook."""
        base = self.settings.base
        if isinstance(base, HingeSettings) and isinstance(self.base, HingeRankingLoss):
            self.base.negatives = "all" if epoch < base.summed_epochs else "hardest"
        if self.lca is not None and self.settings.lca is not None:
            self.lca.codebook.requires_grad_(epoch >= self.settings.lca.frozen_codebook_epochs)

    def forward(
        self, image: Encoding, text: Encoding, image_rows: Tensor, captions: TextInputs | None = None
    ) -> dict[str, Tensor]:
        """Unweighted terms of B texts and their U different images.

        Args:
            image_rows: ``(B,)`` row of each text's image; texts of one image are never each other's negatives.
            captions: the texts as they went into their tower, which caption generation learns to write.
        """
        with torch.autocast(image_rows.device.type, enabled=False):
            scores = RetrievalModel.similarity(
                at_least_float32(image.embedding), at_least_float32(text.embedding)
            ).index_select(0, image_rows)
        base = self.settings.base
        terms: dict[str, Tensor] = {}
        if isinstance(self.base, HingeRankingLoss):
            terms[base.kind] = self.base(scores, image_rows)
        else:
            terms[base.kind] = self.base.from_scores(scores, image_rows)
        if self.lca is not None:
            regions, words = self.lca_units(image), self.lca_units(text)
            terms["lca"] = self.lca(regions, words, image.mask, text.mask, image_rows)
        if self.cra is not None:
            terms["cra"] = self.cra(
                image.aux["guide"],
                image.aux["keys"],
                text.aux["guide"],
                text.aux["keys"],
                image.mask,
                text.mask,
                image_rows=image_rows,
            )
        if self.diversity is not None:
            terms["diversity"] = self.diversity(image.aux["summary_logits"], image.mask)
        if self.captioning is not None:
            assert captions is not None
            assert captions.tokens is not None
            terms["captioning"] = self.captioning(
                image.context[image_rows], image.mask[image_rows], captions.tokens, captions.mask
            )
        return terms

    def lca_units(self, encoding: Encoding) -> Tensor:
        """The unit-norm units that Local Concept Alignment compares."""
        if self.settings.lca is not None and self.settings.lca.units == "context":
            return unit_norm(encoding.context)
        return encoding.locals

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """The weighted sum of the terms."""
        return torch.stack([self.weights[name] * term.float() for name, term in terms.items()]).sum()
