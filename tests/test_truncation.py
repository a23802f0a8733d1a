"""Cut embeddings: by plain loops, their norms, their gradients, and which widths there are."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from crossalign.errors import CrossAlignError
from crossalign.truncation import check_width, truncate, width_of_share


def plain(vector: list[float], width: int, parts: int) -> list[float]:
    size, kept = len(vector) // parts, width // parts
    cut: list[float] = []
    for part in range(parts):
        whole = vector[part * size : (part + 1) * size]
        left = whole[:kept]
        norm = math.sqrt(sum(value * value for value in left))
        scale = math.sqrt(sum(value * value for value in whole)) / norm if norm else 0.0
        cut += [value * scale for value in left]
    return cut


@pytest.mark.parametrize("shape", [(5, 12), (3, 4, 12)])
@pytest.mark.parametrize(("width", "parts"), [(1, 1), (7, 1), (3, 3), (6, 3), (9, 3)])
def test_it_is_what_plain_loops_say(shape: tuple[int, ...], width: int, parts: int) -> None:
    vectors = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    vectors[0, ..., :1] = 0.0
    cut = truncate(vectors, width, parts)
    assert cut.shape == (*shape[:-1], width)
    expected = [plain(row, width, parts) for row in vectors.double().reshape(-1, 12).tolist()]
    np.testing.assert_allclose(cut.reshape(-1, width).numpy(), expected, atol=1e-5)


def test_worked_out_by_hand() -> None:
    vectors = torch.tensor([[3.0, 4.0, 0.0, 12.0], [0.0, 0.0, 1.0, 0.0]])
    # Norms: 13 of the whole of the first row, 5 of its first half.
    torch.testing.assert_close(truncate(vectors, 2), torch.tensor([[7.8, 10.4], [0.0, 0.0]]))
    # In two parts: (3, 4) has norm 5, (0, 12) and (0, 0) have nothing in the first number.
    torch.testing.assert_close(truncate(vectors, 2, parts=2), torch.tensor([[5.0, 0.0], [0.0, 1.0]]))


def test_unit_vectors_are_unit_vectors_again_and_whole_ones_stay_as_they_are() -> None:
    vectors = F.normalize(torch.randn(6, 10), dim=1)
    torch.testing.assert_close(truncate(vectors, 4), F.normalize(vectors[:, :4], dim=1))
    assert torch.equal(truncate(vectors, 10), vectors)
    assert torch.equal(truncate(vectors, 10, parts=2), vectors)


@pytest.mark.parametrize("parts", [1, 3])
def test_cut_twice_is_cut_once(parts: int) -> None:
    vectors = torch.randn(4, 24)
    torch.testing.assert_close(truncate(truncate(vectors, 12, parts), 6, parts), truncate(vectors, 6, parts))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_cut_in_float32(dtype: torch.dtype) -> None:
    # The squares of these numbers have no place in float16.
    vectors = (300 * torch.randn(3, 8)).to(dtype)
    cut = truncate(vectors, 4)
    assert cut.dtype == torch.float32
    torch.testing.assert_close(cut, truncate(vectors.float(), 4))


def test_gradients_are_right_and_finite_where_nothing_is_left() -> None:
    vectors = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda given: truncate(given, 4, 2), vectors)
    empty = torch.tensor([[0.0, 0.0, 2.0, 1.0], [0.0, 0.0, 0.0, 0.0]], requires_grad=True)
    truncate(empty, 2).sum().backward()
    assert empty.grad is not None
    assert empty.grad.abs().max() <= 1


@pytest.mark.parametrize(
    ("width", "parts", "said"),
    [
        (0, 1, "width 0: the embedding has 12 numbers; give 1 to 12"),
        (13, 1, "width 13: the embedding has 12 numbers; give 1 to 12"),
        (8, 3, "width 8: the embedding has 12 numbers in 3 parts, which are cut alike; give a multiple of 3 up to 12"),
        (15, 3, "width 15: the embedding has 12 numbers in 3 parts"),
        (-3, 3, "width -3: "),
    ],
)  # fmt: skip
def test_widths_that_are_none_are_refused(width: int, parts: int, said: str) -> None:
    for refusing in (
        lambda: truncate(torch.ones(2, 12), width, parts),
        lambda: check_width(width, 12, parts),
    ):
        with pytest.raises(CrossAlignError) as caught:
            refusing()
        assert str(caught.value).startswith(said)


def test_shares_of_a_width() -> None:
    assert [width_of_share(share, 256) for share in (1 / 2, 1 / 4, 1 / 8, 1 / 3)] == [128, 64, 32, 85]
    assert [width_of_share(share, 768, 3) for share in (1 / 2, 1 / 4, 1 / 8, 1 / 3)] == [384, 192, 96, 255]
    assert (width_of_share(0.001, 30), width_of_share(0.001, 30, 3)) == (1, 3)
