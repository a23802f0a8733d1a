"""Numbers beside the loss terms, measured at log steps only: gradients at the towers, use of concepts, accuracies."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from crossalign.alignment import LocalConceptAlignment
from crossalign.alignment.statistics import concept_counts, guide_accuracy, perplexity, target_entropy
from crossalign.data.batch import WordNotes
from crossalign.encoding import Encoding
from crossalign.objective import Objective
from crossalign.objective.lca_term import AlignedUnits

__all__ = ["Diagnostics", "gradient_norms"]

PLACES = ("embedding", "unimodal", "context", "locals")


class Diagnostics(nn.Module):
    """What a log line says beside the losses.

    Holds how often each concept was the closest one at the log steps of the epoch. That is part of the checkpoint, so
    that a resumed run logs what an uninterrupted one does.
    """

    regions: Tensor
    words: Tensor
    epoch: Tensor

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        concepts = 0 if objective.lca is None else len(objective.lca.codebook)
        self.register_buffer("regions", torch.zeros(concepts, dtype=torch.long))
        self.register_buffer("words", torch.zeros(concepts, dtype=torch.long))
        self.register_buffer("epoch", torch.tensor(-1))

    def begin_epoch(self, epoch: int) -> None:
        """Count anew, unless the epoch goes on where a checkpoint was taken."""
        if self.epoch != epoch:
            self.regions.zero_()
            self.words.zero_()
            self.epoch.fill_(epoch)

    def forward(
        self,
        objective: Objective,
        terms: Mapping[str, Tensor],
        image: Encoding,
        text: Encoding,
        image_rows: Tensor,
        notes: WordNotes | None = None,
    ) -> dict[str, Tensor]:
        """Every number by its name, see ``docs/formats.md``; ``image_rows`` and ``notes`` as for the objective."""
        numbers = gradient_norms(terms, image, text)
        with torch.autocast(image_rows.device.type, enabled=False):
            if objective.lca is not None:
                numbers |= self._concepts(objective.lca, objective.lca_units(image, text, image_rows, notes))
            if objective.cra is not None:
                rows = torch.arange(len(image.mask), device=image_rows.device)
                to_images = guide_accuracy(text.aux["guide"], image.aux["keys"], image.mask, image_rows, rows)
                to_texts = guide_accuracy(image.aux["guide"], text.aux["keys"], text.mask, rows, image_rows)
                numbers["cra_top1"] = (to_images + to_texts) / 2
        if objective.csa is not None:
            numbers["csa_temperature"] = objective.csa.temperature.detach()
        if objective.usa is not None:
            numbers["usa_image_temperature"] = objective.usa.image_temperature.detach()
            numbers["usa_text_temperature"] = objective.usa.text_temperature.detach()
        return numbers

    def _concepts(self, lca: LocalConceptAlignment, units: AlignedUnits) -> dict[str, Tensor]:
        codebook = lca.codebook.detach()
        self.regions += concept_counts(units.regions, codebook, units.region_mask)
        self.words += concept_counts(units.words, codebook, units.word_mask)
        return {
            "lca_target_entropy": target_entropy(
                units.regions,
                units.words,
                codebook,
                units.region_mask,
                units.word_mask,
                units.image_rows,
                epsilon=lca.epsilon,
                sinkhorn_iterations=lca.sinkhorn_iterations,
                allowed=units.allowed,
                past=lca.past,
            ),
            "lca_region_perplexity": perplexity(self.regions),
            "lca_word_perplexity": perplexity(self.words),
            "lca_dead_concepts": ((self.regions == 0) & (self.words == 0)).sum(),
        }


def gradient_norms(terms: Mapping[str, Tensor], image: Encoding, text: Encoding) -> dict[str, Tensor]:
    """Norm of every unweighted term's gradient at what both towers give, ``gradient_TERM_PLACE``.

    A place that a term does not depend on is left out. Gradients are whole: that at ``context`` has come through the
    embedding as well. Where encodings were gathered from processes or encoded in parts, it has not: there, the
    objective sees each of them by itself. The graph is kept for the backward pass, which is not touched.
    """
    numbers: dict[str, Tensor] = {}
    outputs = [(place, getattr(encoding, place)) for place in PLACES for encoding in (image, text)]
    outputs = [(place, output) for place, output in outputs if output is not None and output.requires_grad]
    for name, term in terms.items():
        if not term.requires_grad:
            continue
        gradients = torch.autograd.grad(
            term, [output for _, output in outputs], retain_graph=True, allow_unused=True
        )
        squares: dict[str, Tensor] = {}
        for (place, _), gradient in zip(outputs, gradients, strict=True):
            if gradient is not None:
                square = gradient.detach().float().square().sum()
                squares[place] = squares[place] + square if place in squares else square
        numbers |= {f"gradient_{name}_{place}": square.sqrt() for place, square in squares.items()}
    return numbers
