"""What training minimises: a base loss and any of the alignments, as named terms."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crossalign.alignment import (
    ContextualRelationAlignment,
    CrossModalSoftLabels,
    LocalConceptAlignment,
    UniModalSoftLabels,
)
from crossalign.data.batch import TeacherFeatures, TextInputs, WordNotes
from crossalign.encoders.caption_decoder import CaptionGeneration
from crossalign.encoding import Encoding
from crossalign.errors import CrossAlignError
from crossalign.losses import ContrastiveLoss, DiversityLoss, HingeRankingLoss
from crossalign.objective.lca_term import AlignedUnits, aligned_units, compared_units, compared_words
from crossalign.objective.matryoshka import Matryoshka
from crossalign.objective.settings import HingeSettings, ObjectiveSettings
from crossalign.objective.soft_terms import soft_label_terms
from crossalign.scorers.settings import CrossEncoderSettings
from crossalign.towers import ModelConfig

__all__ = ["Objective"]


class Objective(nn.Module):
    """Named, unweighted loss terms of a batch; ``weights`` says how they add up.

    Holds what only training needs (LCA's codebook, a caption decoder, temperatures); what inference needs lives in
    the towers. A step of training ends with :meth:`end_step`.

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
        if settings.usa is not None and model.uni_modal_head is None:
            raise CrossAlignError("objective.usa needs uni-modal heads: model.uni_modal_head: {}")
        if settings.lca is not None and isinstance(model.scorer, CrossEncoderSettings):
            raise CrossAlignError(
                "objective.lca compares units of one width, model.scorer: cross_encoder reads others; leave one out"
            )
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
                queue=lca.queue,
            )
            self.weights["lca"] = lca.weight
            if lca.caption_pairs > 0:
                self.weights["lca_captions"] = lca.caption_pairs
        self.cra: ContextualRelationAlignment | None = None
        if (cra := settings.cra) is not None:
            self.cra = ContextualRelationAlignment(
                cra.temperature, cra.hard_negatives, multi_positive=cra.multi_positive
            )
            self.weights["cra"] = cra.weight

        self.csa: CrossModalSoftLabels | None = None
        if (csa := settings.csa) is not None:
            self.csa = CrossModalSoftLabels(
                csa.mode, csa.temperature, csa.teacher_temperature, learnable=csa.learnable_temperature
            )
            self.weights["csa"] = csa.weight
        self.usa: UniModalSoftLabels | None = None
        if (usa := settings.usa) is not None:
            self.usa = UniModalSoftLabels(
                usa.temperature, usa.teacher_temperature, learnable=usa.learnable_temperature
            )
            self.weights["usa"] = usa.weight
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
        self.matryoshka: Matryoshka | None = None
        if settings.matryoshka is not None:
            self.matryoshka = Matryoshka(settings.matryoshka, model)
            self.weights["matryoshka"] = settings.matryoshka.weight

    def begin_epoch(self, epoch: int) -> None:
        """Switch what depends on the epoch, counted from 0: the hinge's negatives and the frozen codebook."""
        base = self.settings.base
        if isinstance(base, HingeSettings) and isinstance(self.base, HingeRankingLoss):
            self.base.negatives = "all" if epoch < base.summed_epochs else "hardest"
        if self.lca is not None and self.settings.lca is not None:
            learnt = self.settings.lca.correspondence != "random_codebook"
            self.lca.codebook.requires_grad_(learnt and epoch >= self.settings.lca.frozen_codebook_epochs)

    @property
    def dense(self) -> bool:
        """Whether a loss of the scores gives most pairs of a batch a gradient."""
        hardest = isinstance(self.base, HingeRankingLoss) and self.base.negatives == "hardest"
        return not hardest or self.csa is not None

    def forward(
        self,
        scores: Tensor,
        image: Encoding,
        text: Encoding,
        image_rows: Tensor,
        captions: TextInputs | None = None,
        notes: WordNotes | None = None,
        teachers: TeacherFeatures | None = None,
    ) -> dict[str, Tensor]:
        """Unweighted terms of B texts and their U different images.

        Args:
            scores: ``(U, B)`` of every image with every text, as the model has it.
            image_rows: ``(B,)`` row of each text's image; texts of one image are never each other's negatives.
            captions: the texts as they went into their tower, which caption generation learns to write.
            notes: what is known of the texts' tokens, where ``objective.lca`` asks for it.
            teachers: what teachers make of the images and texts, where ``objective.csa`` or ``objective.usa`` does.
        """
        terms: dict[str, Tensor] = {}
        terms[self.settings.base.kind] = self._base_loss(scores.index_select(0, image_rows), image_rows)
        if self.lca is not None:
            units = self.lca_units(image, text, image_rows, notes)
            terms["lca"] = self.lca(
                units.regions,
                units.words,
                units.region_mask,
                units.word_mask,
                units.image_rows,
                units.allowed,
            )
            if "lca_captions" in self.weights:
                told = compared_words(text, notes)
                terms["lca_captions"] = self.lca.between_captions(units.words, told, image_rows)
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
        if self.csa is not None or self.usa is not None:
            assert teachers is not None
            terms |= soft_label_terms(self.csa, self.usa, scores, image, text, image_rows, teachers)
        if self.diversity is not None:
            terms["diversity"] = self.diversity(image.aux["summary_logits"], image.mask)
        if self.captioning is not None:
            assert captions is not None
            assert captions.tokens is not None
            terms["captioning"] = self.captioning(
                image.context[image_rows], image.mask[image_rows], captions.tokens, captions.mask
            )
        if self.matryoshka is not None:
            terms["matryoshka"] = self.matryoshka(self._base_loss, image, text, image_rows)
        return terms

    def _base_loss(self, scores: Tensor, image_rows: Tensor) -> Tensor:
        """The base loss of scores ``(B, B)`` of every text with every text's image."""
        if isinstance(self.base, HingeRankingLoss):
            return self.base(scores, image_rows)
        return self.base.from_scores(scores, image_rows)

    def end_step(self, image: Encoding) -> None:
        """Keep of a training step's images what later ones need: Local Concept Alignment's queue of regions."""
        if self.lca is not None and self.settings.lca is not None:
            self.lca.remember(compared_units(self.settings.lca, image), image.mask)

    def lca_units(
        self, image: Encoding, text: Encoding, image_rows: Tensor, notes: WordNotes | None
    ) -> AlignedUnits:
        """What Local Concept Alignment compares in a batch; arguments as for :meth:`forward`."""
        assert self.settings.lca is not None
        return aligned_units(self.settings.lca, image, text, image_rows, notes)

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """The weighted sum of the terms."""
        return torch.stack([self.weights[name] * term.float() for name, term in terms.items()]).sum()
