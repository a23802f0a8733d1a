"""Soft labels against plain loops over pairs, and their temperatures."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from crossalign.alignment import CrossModalSoftLabels, UniModalSoftLabels, cosine_scores, soft_label_loss
from crossalign.errors import CrossAlignError

U, B, D = 4, 7, 9
ROWS = torch.tensor([1, 0, 1, 3, 2, 1, 3])
Modes = pytest.mark.parametrize("mode", ["each", "add", "dot"])


def vectors(*counts: int, width: int = D, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(count, width, generator=generator, dtype=torch.float64) for count in counts]


def cosine(one: Tensor, two: Tensor) -> Tensor:
    return (one * two).sum() / (one.norm() * two.norm())


def plain_divergence(
    scores: list[Tensor], targets: list[Tensor], temperature: float, teacher: float
) -> Tensor:
    """KL of one query over its keys."""
    above = sum(torch.exp(target / teacher) for target in targets)
    below = sum(torch.exp(score / temperature) for score in scores)
    total = torch.zeros((), dtype=torch.float64)
    for score, target in zip(scores, targets, strict=True):
        wanted = torch.exp(target / teacher) / above
        total = total + wanted * torch.log(wanted / (torch.exp(score / temperature) / below))
    return total


def plain_csa(
    image: Tensor, text: Tensor, teachers: tuple[Tensor, Tensor], mode: str, tau: float, teacher: float
) -> Tensor:
    """Over B pairs; an image of several texts stands there several times."""
    pairs = range(len(text))

    def target(i: int, j: int, towards: str) -> Tensor:
        seen, told = cosine(teachers[0][i], teachers[0][j]), cosine(teachers[1][i], teachers[1][j])
        if mode == "add":
            return (seen + told) / 2
        if mode == "dot":
            return (max(seen, seen * 0) * max(told, told * 0)).sqrt()
        return seen if towards == "texts" else told

    total = torch.zeros((), dtype=torch.float64)
    for i in pairs:
        scores = [cosine(image[i], text[j]) for j in pairs]
        total = total + plain_divergence(scores, [target(i, j, "texts") for j in pairs], tau, teacher)
        scores = [cosine(image[j], text[i]) for j in pairs]
        total = total + plain_divergence(scores, [target(i, j, "images") for j in pairs], tau, teacher)
    return total / (2 * len(text))


def plain_usa(
    image: Tensor, text: Tensor, teachers: tuple[Tensor, Tensor], taus: tuple[float, float], teacher: float
) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for own, seen, tau in zip((image, text), teachers, taus, strict=True):
        for i in range(len(own)):
            scores = [cosine(own[i], other) for other in own]
            targets = [cosine(seen[i], other) for other in seen]
            total = total + plain_divergence(scores, targets, tau, teacher)
    return total / (2 * len(text))


def assert_same(ours: Callable[..., Tensor], plain: Callable[..., Tensor], *leaves: Tensor) -> None:
    """Equal values and equal gradients."""
    results = []
    for function in (ours, plain):
        fresh = [leaf.clone().requires_grad_() for leaf in leaves]
        loss = function(*fresh)
        results.append((loss, *torch.autograd.grad(loss, fresh)))
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two)


@Modes
@pytest.mark.parametrize(("tau", "teacher"), [(0.45, 1.0), (0.2, 0.3)])
def test_cross_modal_equals_plain_loops(mode: str, tau: float, teacher: float) -> None:
    image, text, *teachers = vectors(B, B, B, B)
    module = CrossModalSoftLabels(mode, tau, teacher).double()  # type: ignore[arg-type]
    with torch.no_grad():
        module.temperature.fill_(tau)
    assert_same(
        lambda i, t: module(i, t, *teachers),
        lambda i, t: plain_csa(i, t, (teachers[0], teachers[1]), mode, tau, teacher),
        image,
        text,
    )


@Modes
def test_images_that_stand_once_count_for_each_of_their_texts(mode: str) -> None:
    image, text, seen, told = vectors(U, B, U, B)
    module = CrossModalSoftLabels(mode).double()  # type: ignore[arg-type]
    with torch.no_grad():
        module.temperature.fill_(0.45)
    assert_same(
        lambda i, t: module(i, t, seen, told, ROWS),
        lambda i, t: plain_csa(i[ROWS], t, (seen[ROWS], told), mode, 0.45, 1.0),
        image,
        text,
    )
    assert_same(
        lambda i, t: module(i, t, seen, told, ROWS),
        lambda i, t: module(i[ROWS], t, seen[ROWS], told),
        image,
        text,
    )


@pytest.mark.parametrize("rows", [None, ROWS])
def test_uni_modal_equals_plain_loops(rows: Tensor | None) -> None:
    image, text, seen, told = vectors(U if rows is not None else B, B, U if rows is not None else B, B)
    module = UniModalSoftLabels().double()
    with torch.no_grad():
        module.image_temperature.fill_(0.3)
        module.text_temperature.fill_(0.8)

    def plain(i: Tensor, t: Tensor) -> Tensor:
        chosen = torch.arange(B) if rows is None else rows
        return plain_usa(i[chosen], t, (seen[chosen], told), (0.3, 0.8), 1.0)

    assert_same(lambda i, t: module(i, t, seen, told, rows), plain, image, text)


def test_modality_widths_of_teachers_and_heads_may_all_differ() -> None:
    image, text = vectors(B, width=5)[0], vectors(B, width=6)[0]
    seen, told = vectors(B, width=11)[0], vectors(B, width=3)[0]
    loss = UniModalSoftLabels().double()(image, text, seen, told)
    scores = [cosine_scores(each) for each in (image, text, seen, told)]
    torch.testing.assert_close(loss, UniModalSoftLabels().double().from_scores(*scores))


def test_a_case_by_hand() -> None:
    # The student sees no difference, the teacher says 1 and 0: softmax (e, 1) / (e + 1) against (1/2, 1/2).
    share = math.e / (math.e + 1)
    expected = share * math.log(2 * share) + (1 - share) * math.log(2 * (1 - share))
    loss = soft_label_loss(torch.zeros(2, 2), torch.eye(2))
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    same = torch.ones(2, 3)
    assert CrossModalSoftLabels()(same, same, torch.eye(2), torch.eye(2)).item() == pytest.approx(expected)
    assert UniModalSoftLabels()(same, same, torch.eye(2), torch.eye(2)).item() == pytest.approx(expected)


def test_the_teachers_own_scores_are_the_minimum() -> None:
    targets = cosine_scores(vectors(B)[0])
    assert soft_label_loss(targets, targets, 1.0, 1.0).abs() < 1e-12
    assert soft_label_loss(targets * 0.45, targets, 0.45, 1.0).abs() < 1e-12
    assert soft_label_loss(-targets, targets, 1.0, 1.0) > 0.01


@Modes
def test_scores_are_taken_as_they_are_and_targets_have_no_gradient(mode: str) -> None:
    scores = (3 * torch.randn(U, B, dtype=torch.float64)).requires_grad_()
    seen, told = (vector.requires_grad_() for vector in vectors(U, B, seed=3))
    module = CrossModalSoftLabels(mode, learnable=False).double()  # type: ignore[arg-type]
    loss = module.from_scores(scores, cosine_scores(seen), cosine_scores(told), ROWS)
    gradients = torch.autograd.grad(loss, (scores, seen, told), allow_unused=True)
    assert gradients[0].abs().sum() > 0
    assert gradients[1] is None
    assert gradients[2] is None


def test_temperatures_return_into_their_range_and_learn_there() -> None:
    image, text, seen, told = (each.float() for each in vectors(B, B, B, B))
    for module, names, bounds in (
        (CrossModalSoftLabels(), ("temperature",), (0.10, 0.99)),
        (UniModalSoftLabels(), ("image_temperature", "text_temperature"), (0.10, 1.00)),
    ):
        assert {name for name, _ in module.named_parameters()} == set(names)
        for name in names:
            temperature = getattr(module, name)
            for outside, bound in ((5.0, bounds[1]), (0.01, bounds[0]), (-1.0, bounds[0])):
                with torch.no_grad():
                    temperature.fill_(outside)
                module.zero_grad()
                (module(image, text, seen, told) + module(text, image, seen, told)).backward()
                assert temperature.item() == pytest.approx(bound)
                assert temperature.grad.abs() > 0


def test_fixed_temperatures_are_neither_learnt_nor_clamped() -> None:
    image, text, seen, told = vectors(B, B, B, B)
    csa = CrossModalSoftLabels(temperature=2.0, learnable=False).double()
    expected = plain_csa(image, text, (seen, told), "each", 2.0, 1.0)
    torch.testing.assert_close(csa(image, text, seen, told), expected)
    usa = UniModalSoftLabels(2.0, learnable=False).double()
    torch.testing.assert_close(
        usa(image, text, seen, told), plain_usa(image, text, (seen, told), (2.0, 2.0), 1.0)
    )
    assert not any(value.requires_grad for value in (*csa.parameters(), *usa.parameters()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@Modes
def test_half_precision_computes_in_float32(dtype: torch.dtype, mode: str) -> None:
    image, text, seen, told = (each.to(dtype) for each in vectors(U, B, U, B))
    for module in (CrossModalSoftLabels(mode), UniModalSoftLabels()):  # type: ignore[arg-type]
        expected = module(image.float(), text.float(), seen.float(), told.float(), ROWS)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result = module(image, text, seen, told, ROWS)
        assert torch.equal(result, expected)
    # Scores over the lowest temperature would not fit into half precision.
    scores = torch.full((3, 3), 5e4, dtype=torch.float16).requires_grad_()
    loss = CrossModalSoftLabels(mode, 0.1).from_scores(scores, torch.eye(3), torch.eye(3))  # type: ignore[arg-type]
    loss.backward()
    assert scores.grad is not None
    assert loss.isfinite()
    assert scores.grad.isfinite().all()


def test_degenerate_batches_are_finite() -> None:
    one = torch.ones(1, 3)
    assert CrossModalSoftLabels()(one, one, one, one).item() == 0.0
    assert UniModalSoftLabels()(one, one, one, one).item() == 0.0
    zero = torch.zeros(B, D, requires_grad=True)
    for module in (CrossModalSoftLabels("dot"), UniModalSoftLabels()):
        loss = module(zero, zero, torch.zeros(B, D), torch.zeros(B, D))
        (gradient,) = torch.autograd.grad(loss, zero)
        assert loss.item() == pytest.approx(0.0, abs=1e-6)
        assert gradient.isfinite().all()


def test_an_image_without_a_text_has_no_part() -> None:
    image, text, seen, told = vectors(U, B, U, B)
    rows = torch.where(ROWS == 2, 0, ROWS)
    for module in (CrossModalSoftLabels().double(), UniModalSoftLabels().double()):
        loss = module(image, text, seen, told, rows)
        changed = [F.normalize(each, dim=1) for each in vectors(U, U, seed=8)]
        other, elsewhere = image.clone(), seen.clone()
        other[2], elsewhere[2] = changed[0][2], changed[1][2]
        assert torch.equal(loss, module(other, text, elsewhere, told, rows))
        assert loss.isfinite()


def test_bad_input_is_refused() -> None:
    for kind, bounds in ((CrossModalSoftLabels, r"0\.1\.\.0\.99"), (UniModalSoftLabels, r"0\.1\.\.1")):
        with pytest.raises(CrossAlignError, match=f"temperature is 1.5; a learnable one lies in {bounds}$"):
            kind(temperature=1.5)
        with pytest.raises(CrossAlignError, match="temperature is 0; give a positive number"):
            kind(temperature=0, learnable=False)
        with pytest.raises(CrossAlignError, match="teacher_temperature is -1; give a positive number"):
            kind(teacher_temperature=-1)
        four, three = torch.ones(4, 2), torch.ones(3, 2)
        with pytest.raises(CrossAlignError, match=r"text teacher's scores are \(3, 3\) for 4 texts"):
            kind()(four, four, four, three)
        with pytest.raises(CrossAlignError, match=r"image teacher's scores are \(4, 4\) for 3 images"):
            kind()(three, four, four, four)
        with pytest.raises(CrossAlignError, match="one row a text"):
            kind()(three, four, three, four, torch.zeros(3, dtype=torch.long))
    with pytest.raises(CrossAlignError, match="3 images and 4 texts; give image_rows"):
        CrossModalSoftLabels()(three, four, three, four)
    with pytest.raises(CrossAlignError, match="mode is 'sum'; choose 'each', 'add' or 'dot'"):
        CrossModalSoftLabels("sum")  # type: ignore[arg-type]
    with pytest.raises(CrossAlignError, match=r"scores are \(2, 3\) and the teacher's \(3, 2\)"):
        soft_label_loss(torch.zeros(2, 3), torch.zeros(3, 2))
