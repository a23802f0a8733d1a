"""What Local Concept Alignment is given of a batch: the controls of its correspondence."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from crossalign.alignment import lca_loss
from crossalign.data.batch import WordNotes
from crossalign.encoding import Encoding
from crossalign.errors import CrossAlignError
from crossalign.model import ModelConfig
from crossalign.objective import Objective, ObjectiveSettings
from crossalign.objective.settings import LCASettings
from crossalign.settings import parse_settings
from crossalign.training.diagnostics import Diagnostics

DIM, REGIONS, WORDS = 8, 4, 5
# Texts 1 and 3 describe the same image.
ROWS = torch.tensor([2, 1, 0, 1, 3])


def encoding(count: int, length: int, seed: int, **aux: Tensor) -> Encoding:
    generator = torch.Generator().manual_seed(seed)
    units = F.normalize(torch.randn(count, length, DIM, generator=generator), dim=-1).requires_grad_()
    mask = torch.arange(length) < torch.arange(2, 2 + count).unsqueeze(1)
    return Encoding(units.mean(dim=1), units, units * 2, mask, aux=aux)


def objective(**lca: Any) -> Objective:
    torch.manual_seed(1)
    settings = {"base": {"kind": "contrastive"}, "lca": {"concepts": 6, **lca}}
    return Objective(ObjectiveSettings.model_validate(settings), ModelConfig(dim=DIM)).eval()


def term(
    found: Objective, image: Encoding, text: Encoding, rows: Tensor, notes: WordNotes | None = None
) -> Tensor:
    return found(image.embedding @ text.embedding.T, image, text, rows, None, notes)["lca"]


def expected(found: Objective, image: Encoding, text: Encoding, rows: Tensor, **settings: Any) -> Tensor:
    assert found.lca is not None
    return lca_loss(
        image.locals, text.locals, found.lca.codebook, image.mask, text.mask, image_rows=rows, **settings
    )


def test_shuffled_words_take_regions_of_another_image() -> None:
    image, text = encoding(4, REGIONS, 2), encoding(5, WORDS, 3)
    found = objective(correspondence="shuffled")
    # In the order of the batch the images are 2, 1, 0, 3.
    others = torch.tensor([1, 0, 3, 0, 2])
    assert torch.equal(term(found, image, text, ROWS), expected(found, image, text, others))
    assert not torch.isclose(term(found, image, text, ROWS), expected(found, image, text, ROWS))


def test_a_batch_of_one_image_has_nothing_to_shuffle() -> None:
    image, text = encoding(1, REGIONS, 2), encoding(5, WORDS, 3)
    rows = torch.zeros(5, dtype=torch.long)
    assert term(objective(correspondence="shuffled"), image, text, rows) == 0
    assert term(objective(), image, text, rows) > 0


def test_a_random_codebook_is_never_trained() -> None:
    found = objective(correspondence="random_codebook", frozen_codebook_epochs=0)
    assert found.lca is not None
    for epoch in (0, 1, 50):
        found.begin_epoch(epoch)
        assert not found.lca.codebook.requires_grad
    image, text = encoding(4, REGIONS, 2), encoding(5, WORDS, 3)
    assert torch.equal(term(found, image, text, ROWS), expected(found, image, text, ROWS))


def centred(side: Encoding) -> Encoding:
    """A plain loop: what an item's real units lack of the mean of all, and nonsense in the place of padding."""
    real = [unit for item, mask in zip(side.locals, side.mask, strict=True) for unit in item[mask]]
    mean = sum(unit.detach() for unit in real) / len(real)
    units = torch.full_like(side.locals, 7.0)
    for item, mask in enumerate(side.mask):
        for place in mask.nonzero():
            rest = side.locals[item, place] - mean
            units[item, place] = rest / rest.norm()
    return replace(side, locals=units)


def test_centred_units_are_what_is_left_without_their_mean() -> None:
    image, text = encoding(4, REGIONS, 2), encoding(5, WORDS, 3)
    found = objective(centred=True, queue=9)
    result = term(found, image, text, ROWS)
    torch.testing.assert_close(
        result, expected(found, centred(image), centred(text), ROWS), atol=1e-6, rtol=1e-5
    )
    assert not torch.isclose(result, expected(found, image, text, ROWS))
    (gradient,) = torch.autograd.grad(result, text.locals)
    assert gradient[text.mask].abs().sum() > 0
    assert not gradient[~text.mask].any()
    # Padding takes no part in the mean.
    with torch.no_grad():
        image.locals[~image.mask] = 3.0
        text.locals[~text.mask] = torch.nan
    assert torch.equal(term(found, image, text, ROWS), result)
    # Those that are remembered are those that were compared.
    found.end_step(image)
    assert found.lca is not None
    past = found.lca.past
    assert past is not None
    own = centred(image).locals[image.mask]
    torch.testing.assert_close((past @ own.T).max(dim=1).values, torch.ones(len(past)))


def known(width: int = WORDS) -> Tensor:
    return torch.rand(5, width, REGIONS, generator=torch.Generator().manual_seed(4)) < 0.4


def test_true_words_take_regions_that_show_them() -> None:
    image, text = encoding(4, REGIONS, 2), encoding(5, WORDS, 3)
    found = objective(correspondence="true")
    result = term(found, image, text, ROWS, WordNotes(regions=known()))
    assert torch.equal(result, expected(found, image, text, ROWS, allowed=known()))
    assert not torch.isclose(result, expected(found, image, text, ROWS))


def test_notes_follow_words_that_have_moved_and_end_where_padding_begins() -> None:
    image, places = (
        encoding(4, REGIONS, 2),
        torch.tensor([[1, 3, 0], [0, 1, 2], [4, 0, 1], [2, 3, 4], [0, 2, 4]]),
    )
    found = objective(correspondence="true")
    moved = encoding(5, 3, 3, places=places)
    result = term(found, image, moved, ROWS, WordNotes(regions=known()))
    allowed = torch.stack([known()[text, places[text]] for text in range(5)])
    assert torch.equal(result, expected(found, image, moved, ROWS, allowed=allowed))
    padded = encoding(5, WORDS + 2, 3)
    result = term(found, image, padded, ROWS, WordNotes(regions=known()))
    assert torch.equal(result, expected(found, image, padded, ROWS, allowed=F.pad(known(), (0, 0, 0, 2))))


@pytest.mark.parametrize("correspondence", ["learnt", "shuffled", "true"])
def test_the_entropy_that_is_logged_is_that_of_the_words_pairs(correspondence: str) -> None:
    """With targets of one concept each, the loss of words that are their regions is next to their entropy."""
    image, text = encoding(4, REGIONS, 2), encoding(5, WORDS, 3)
    found = objective(correspondence=correspondence, epsilon=0.3, word_temperature=1e-3)
    notes = WordNotes(regions=known())
    terms = found(image.embedding @ text.embedding.T, image, text, ROWS, None, notes)
    entropy = Diagnostics(found)(found, terms, image, text, ROWS, notes)["lca_target_entropy"]
    assert found.lca is not None
    units = found.lca_units(image, text, ROWS, notes)
    # Cross-entropy with the target itself, whatever the words predict: that of uniform words is ln K.
    uniform = lca_loss(
        units.regions, torch.zeros_like(units.words), found.lca.codebook, units.region_mask, units.word_mask,
        image_rows=units.image_rows, allowed=units.allowed,
    )  # fmt: skip
    torch.testing.assert_close(uniform, torch.tensor(6.0).log())
    assert 0 < entropy < uniform


def test_the_queue_holds_the_regions_that_are_compared() -> None:
    first, image, text = encoding(4, REGIONS, 7), encoding(4, REGIONS, 2), encoding(5, WORDS, 3)
    for units in ("locals", "context"):
        found = objective(queue=30, units=units)
        found.end_step(first)
        past = F.normalize(getattr(first, units), dim=-1)[first.mask].detach()
        assert found.lca is not None
        torch.testing.assert_close(found.lca.past, past)
        sides = [F.normalize(getattr(side, units), dim=-1) for side in (image, text)]
        loss = lca_loss(
            *sides, found.lca.codebook, image.mask, text.mask, image_rows=ROWS, past=found.lca.past
        )
        torch.testing.assert_close(term(found, image, text, ROWS), loss)
    objective().end_step(first)


def test_words_of_other_classes_are_neither_aligned_nor_counted() -> None:
    image, text = encoding(4, REGIONS, 2), encoding(5, WORDS, 3)
    chosen = known()[..., 0]
    found = objective(words="nouns", caption_pairs=1.0)
    assert found.lca is not None
    notes = WordNotes(chosen=chosen)
    terms = found(image.embedding @ text.embedding.T, image, text, ROWS, None, notes)
    told = text.mask & chosen
    assert told.any()
    assert not torch.equal(told, text.mask)
    loss = lca_loss(image.locals, text.locals, found.lca.codebook, image.mask, told, image_rows=ROWS)
    assert torch.equal(terms["lca"], loss)
    assert torch.equal(terms["lca_captions"], found.lca.between_captions(text.locals, told, ROWS))
    diagnostics = Diagnostics(found)
    diagnostics(found, terms, image, text, ROWS, notes)
    assert diagnostics.words.sum() == told.sum()


@pytest.mark.parametrize(
    ("words", "kept"),
    [("nouns", ("nouns",)), (["verbs", "numerals"], ("verbs", "numerals")), ("all", ("all",))],
)
def test_a_class_or_a_list_of_them_is_a_setting(words: object, kept: tuple[str, ...]) -> None:
    assert parse_settings(LCASettings, {"words": words}, "x").words == kept


@pytest.mark.parametrize("words", [[], ["all", "nouns"], ["nouns", "nouns"], "pronouns", True])
def test_other_classes_are_refused(words: object) -> None:
    with pytest.raises(CrossAlignError, match="words"):
        parse_settings(LCASettings, {"words": words}, "x")


@pytest.mark.parametrize("correspondence", ["learnt", "shuffled"])
def test_caption_pairs_are_a_term_of_their_own(correspondence: str) -> None:
    image, text = encoding(4, REGIONS, 2), encoding(5, WORDS, 3)
    found = objective(caption_pairs=0.25, weight=0.5, correspondence=correspondence)
    terms = found(image.embedding @ text.embedding.T, image, text, ROWS)
    assert list(terms) == ["contrastive", "lca", "lca_captions"]
    assert found.lca is not None
    # Texts 1 and 3 take words of each other, whatever the regions are.
    loss = lca_loss(
        text.locals, text.locals[[1, 3]], found.lca.codebook, text.mask, text.mask[[1, 3]],
        image_rows=torch.tensor([3, 1]),
    )  # fmt: skip
    assert torch.equal(terms["lca_captions"], loss)
    assert found.weights == {"contrastive": 1.0, "lca": 0.5, "lca_captions": 0.25}
    assert "lca_captions" not in objective()(image.embedding @ text.embedding.T, image, text, ROWS)


def test_the_plain_word_true_is_meant_and_no_other_switch() -> None:
    for value in (True, "true"):
        assert parse_settings(LCASettings, {"correspondence": value}, "x").correspondence == "true"
    with pytest.raises(CrossAlignError, match="correspondence"):
        parse_settings(LCASettings, {"correspondence": False}, "x")
