"""Hubness correction: items that come close to every query are put back, by what other queries make of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from numpy.typing import ArrayLike

from crossalign.errors import CrossAlignError
from crossalign.evaluation.gallery import EmbeddingGallery, Gallery, Positions, ScoredGallery
from crossalign.evaluation.inputs import check_inputs, numpy_embeddings, pieces
from crossalign.evaluation.metrics import check_owner
from crossalign.evaluation.ranks import Ranks, retrieval_ranks
from crossalign.evaluation.score_ranks import ranks_of_scores
from crossalign.scorers.blocks import score_blocks

__all__ = [
    "BANK_METHODS",
    "METHODS",
    "TEMPERATURE",
    "CorrectedGallery",
    "HubnessMethod",
    "check_correction",
    "image_normalisers",
]

HubnessMethod = Literal["dual-softmax", "inverted-softmax", "query-bank", "dynamic-query-bank"]
METHODS: tuple[str, ...] = get_args(HubnessMethod)
BANK_METHODS = ("query-bank", "dynamic-query-bank")
"""Those that look at a bank of other queries; the rest look at all test queries at once."""

TEMPERATURE = 0.1
"""The best of 1, 0.3, 0.1, 0.05 and 0.02 on a validation split; QB-Norm takes 0.05."""

_BLOCK = 2048
Block = tuple[slice, slice, npt.NDArray[np.float64]]
Blocks = Callable[[], Iterator[Block]]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CorrectedGallery:
    """A gallery whose scores are corrected for hubs before they are ranked; ties still count against the query.

    With s(g, q) the score of item g for query q and T the temperature, an item's score becomes

    - ``dual-softmax``: s(g, q) exp(s(g, q) / T) / sum over queries p of exp(s(g, p) / T), as CAMoE (Cheng et al., 2021)
      and CLIP4Clip's followers do at test time;
    - ``inverted-softmax``: exp(s(g, q) / T) / sum over queries p of exp(s(g, p) / T) (Smith et al., ICLR 2017);
    - ``query-bank``: the same with p from a bank of other queries (QB-Norm, Bogolin et al., CVPR 2022);
    - ``dynamic-query-bank``: the same for a query whose best item is the best of some query of the bank, the plain
      score for the others (QB-Norm's dynamic inverted softmax).

    Both directions are corrected, each by queries of its own kind. The first two see all test queries together, so
    they are transductive: a query's rank depends on the other queries.

    Attributes:
        gallery: images and texts, as embeddings or as scored pairs.
        method: one of the above.
        temperature: T.
        bank: texts and images of the bank, of the same kind as the gallery, for the two methods that take one.

    Raises:
        CrossAlignError: an unknown method, a temperature that is not positive, a bank that is missing, empty or not
            asked for, another kind of gallery.
    """

    gallery: Gallery
    method: str
    temperature: float = TEMPERATURE
    bank: Gallery | None = None

    def __post_init__(self) -> None:
        check_correction(self.method, self.temperature)
        if (self.bank is not None) != (self.method in BANK_METHODS):
            raise CrossAlignError(
                f"hubness {self.method}: "
                + ("needs a bank of queries" if self.bank is None else "takes no bank of queries")
            )
        for given in (self.gallery, self.bank):
            if given is not None and not isinstance(given, EmbeddingGallery | ScoredGallery):
                raise CrossAlignError(
                    "hubness is corrected where all scores come from one model; leave --rerank out"
                )
        if self.bank is not None and 0 in self.bank.size:
            raise CrossAlignError("hubness: the bank of queries is empty")

    @property
    def size(self) -> tuple[int, int]:
        return self.gallery.size

    def part(self, images: Positions, texts: Positions) -> CorrectedGallery:
        """Of some images and texts; the bank stays whole."""
        return CorrectedGallery(self.gallery.part(images, texts), self.method, self.temperature, self.bank)

    def ranks(self, image_of_text: ArrayLike) -> Ranks:
        owner = check_owner(image_of_text, *self.size)
        if isinstance(self.gallery, EmbeddingGallery):
            # Refuses what is no number; the bound on rounding is that of exact ranks.
            images, texts, _, of_images, of_texts = check_inputs(self.gallery.image, self.gallery.text, owner)
            slack = 4 * texts.shape[1] * 2.0**-53 * float(of_images.max() * of_texts.max())
        else:
            slack = 0.0
        blocks = _blocks(self.gallery, self.gallery)
        if self.method == "dual-softmax":
            return _dual_ranks(blocks, owner, self.size, self.temperature, slack)
        bank = self.gallery if self.bank is None else self.bank
        of_image, of_text = blocks, blocks
        if self.bank is not None:
            of_image, of_text = _blocks(self.gallery, bank), _blocks(bank, self.gallery)
        hub_image = _normalisers(of_image, self.size[0], "images", self.temperature)
        hub_text = _normalisers(of_text, self.size[1], "texts", self.temperature)
        image_asks, text_asks = np.ones(self.size[0]), np.ones(self.size[1])
        if self.method == "dynamic-query-bank":
            hubs = np.unique(_best(of_image, bank.size[1], "images"))
            text_asks = np.isin(_best(blocks, self.size[1], "images"), hubs).astype(np.float64)
            hubs = np.unique(_best(of_text, bank.size[0], "texts"))
            image_asks = np.isin(_best(blocks, self.size[0], "texts"), hubs).astype(np.float64)
        if isinstance(self.gallery, EmbeddingGallery):
            t2i = retrieval_ranks(_with(images, -hub_image), _with(texts, text_asks), owner).t2i
            return Ranks(
                i2t=retrieval_ranks(_with(images, image_asks), _with(texts, -hub_text), owner).i2t, t2i=t2i
            )
        matrix = np.concatenate([scores for _, _, scores in _whole_rows(blocks)])
        t2i = ranks_of_scores(matrix - hub_image[:, None] * text_asks, owner).t2i
        return Ranks(i2t=ranks_of_scores(matrix - image_asks[:, None] * hub_text, owner).i2t, t2i=t2i)


def check_correction(method: str, temperature: float) -> None:
    """Refuse a correction that there is not.

    Raises:
        CrossAlignError: an unknown method, a temperature that is not positive.
    """
    if method not in METHODS:
        raise CrossAlignError(f"hubness '{method}': no such correction; give one of {', '.join(METHODS)}")
    if not 0 < temperature < math.inf:
        raise CrossAlignError(f"hubness: the temperature is {temperature}; give a positive number")


def image_normalisers(image: np.ndarray, bank: np.ndarray, temperature: float) -> Floats:
    """What is subtracted from the scores of each image: T log mean exp(score with a text of the bank / T).

    Ordering images by score minus this is the inverted softmax over the bank.

    Args:
        image: ``(n, V, D)``; of V views, the one that fits a text best counts.
        bank: ``(m, D)`` texts.
        temperature: T.

    Returns:
        ``(n,)``, each a float32 number.
    """
    if not len(image):
        return np.zeros(0)
    blocks = _blocks(EmbeddingGallery(image, bank), EmbeddingGallery(image, bank))
    return _normalisers(blocks, len(image), "images", temperature)


def _blocks(of_images: Gallery, of_texts: Gallery) -> Blocks:
    """The float64 scores of one gallery's images with another's texts, a block at a time, rows of blocks in order."""
    if isinstance(of_images, EmbeddingGallery) and isinstance(of_texts, EmbeddingGallery):
        seen, told = numpy_embeddings(of_images.image), numpy_embeddings(of_texts.text)
        if seen.shape[-1] != told.shape[-1]:
            raise CrossAlignError(
                f"hubness: images of width {seen.shape[-1]} and texts of width {told.shape[-1]} are of two models"
            )
        views = torch.from_numpy(np.require(seen.reshape(len(seen), -1, seen.shape[-1]), None, ["W"]))
        texts = torch.from_numpy(np.require(told, None, ["W"]))
        rows = max(1, _BLOCK // views.shape[1])

        def multiplied() -> Iterator[Block]:
            with torch.autocast("cpu", enabled=False):
                for i in pieces(len(views), rows):
                    left = views[i].double().flatten(0, 1)
                    for c in pieces(len(texts), _BLOCK):
                        scores = (left @ texts[c].double().T).view(-1, views.shape[1], c.stop - c.start)
                        yield i, c, scores.amax(dim=1).numpy()

        return multiplied
    if not (isinstance(of_images, ScoredGallery) and isinstance(of_texts, ScoredGallery)):
        raise CrossAlignError("hubness: gallery and bank must come from one model")
    # These scores cost far more than the memory they take, and are ranked as a whole.
    matrix = score_blocks(
        of_images.scorer, of_images.images, of_texts.texts, progress=of_images.progress
    ).numpy()
    if np.isnan(matrix).any():
        raise CrossAlignError("scores: some are NaN; check the model and its inputs")

    def cut() -> Iterator[Block]:
        for i in pieces(len(matrix), _BLOCK):
            for c in pieces(matrix.shape[1], _BLOCK):
                yield i, c, matrix[i, c].astype(np.float64)

    return cut


def _whole_rows(blocks: Blocks) -> Iterator[Block]:
    """The blocks of each run of rows side by side."""
    parts: list[Block] = []
    for block in blocks():
        if parts and parts[-1][0] != block[0]:
            yield parts[0][0], slice(0, None), np.concatenate([part[2] for part in parts], axis=1)
            parts = []
        parts.append(block)
    yield parts[0][0], slice(0, None), np.concatenate([part[2] for part in parts], axis=1)


def _normalisers(blocks: Blocks, count: int, items: Literal["images", "texts"], temperature: float) -> Floats:
    """T log mean over queries of exp(s / T), of each item: ``(count,)``.

    Rounded to float32, so that what differs in the order of summation alone stays a tie.
    """
    sums, asked = _log_sums(blocks, count, items, temperature)
    return (temperature * (sums - math.log(asked))).astype(np.float32).astype(np.float64)


def _log_sums(
    blocks: Blocks, count: int, items: Literal["images", "texts"], temperature: float
) -> tuple[Floats, int]:
    """log sum over queries of exp(s / T) of each item, and the number of queries."""
    axis = 1 if items == "images" else 0
    top, total, asked = np.full(count, -np.inf), np.zeros(count), 0
    for i, c, scores in blocks():
        mine, other = (i, c) if axis else (c, i)
        asked = max(asked, other.stop)
        scaled = scores / temperature
        largest = np.maximum(top[mine], scaled.max(axis=axis))
        scaled -= np.expand_dims(largest, axis)
        total[mine] = total[mine] * np.exp(top[mine] - largest) + np.exp(scaled).sum(axis=axis)
        top[mine] = largest
    return top + np.log(total), asked


def _best(blocks: Blocks, queries: int, items: Literal["images", "texts"]) -> Positions:
    """The item of largest score for each query, the first of equal ones: ``(queries,)``."""
    axis = 0 if items == "images" else 1
    top, best = np.full(queries, -np.inf), np.zeros(queries, np.int64)
    for i, c, scores in blocks():
        mine, other = (c, i) if items == "images" else (i, c)
        place = scores.argmax(axis=axis)
        value = np.take_along_axis(scores, np.expand_dims(place, axis), axis).squeeze(axis)
        better = value > top[mine]
        top[mine] = np.where(better, value, top[mine])
        best[mine] = np.where(better, place + other.start, best[mine])
    return best


def _with(embedding: np.ndarray, number: Floats) -> np.ndarray:
    """Embeddings with one more number each, the same for all views: a product then adds what two such numbers give."""
    wide = embedding.astype(np.promote_types(embedding.dtype, np.float32), copy=False)
    shape = (len(wide), *[1] * (wide.ndim - 1))
    column = np.broadcast_to(number.astype(wide.dtype).reshape(shape), (*wide.shape[:-1], 1))
    return np.concatenate([wide, column], axis=-1)


def _dual_ranks(
    blocks: Blocks, owner: Positions, size: tuple[int, int], temperature: float, slack: float
) -> Ranks:
    """Ranks by s(g, q) times the softmax over queries; compared by sign and logarithm, since the factors may be tiny.

    ``slack`` bounds the rounding of a score: what it could make equal is a tie.
    """
    images, texts = size
    of_image, _ = _log_sums(blocks, images, "images", temperature)
    of_text, _ = _log_sums(blocks, texts, "texts", temperature)
    own, largest = np.empty(texts), 0.0
    for i, c, scores in blocks():
        largest = max(largest, float(np.abs(scores).max()))
        mine = np.flatnonzero((owner[c] >= i.start) & (owner[c] < i.stop))
        own[c.start + mine] = scores[owner[c][mine] - i.start, mine]
    # Larger than any logarithm below, so that a key has the sign of the score.
    shift = 800 + 2 * largest / temperature + math.log(max(size))
    rounding = 2.0**-50 * shift

    def keys(scores: Floats, log_sums: Floats) -> Floats:
        magnitude = np.log(np.maximum(np.abs(scores), 1e-300)) + scores / temperature - log_sums + shift
        return np.sign(scores) * magnitude

    tolerance = slack * (4 / temperature + 4 / np.maximum(np.abs(own), slack + 1e-300)) + rounding
    own_of_text = keys(own, of_image[owner]) - tolerance
    own_of_image = np.full(images, -np.inf)
    np.maximum.at(own_of_image, owner, keys(own, of_text) - tolerance)
    t2i, i2t = np.ones(texts, np.int64), np.ones(images, np.int64)
    for i, c, scores in blocks():
        mine = np.flatnonzero((owner[c] >= i.start) & (owner[c] < i.stop))
        place = owner[c][mine] - i.start, mine
        ahead = keys(scores, of_image[i, None]) >= own_of_text[c]
        ahead[place] = False
        t2i[c] += np.count_nonzero(ahead, axis=0)
        ahead = keys(scores, of_text[c]) >= own_of_image[i, None]
        ahead[place] = False
        i2t[i] += np.count_nonzero(ahead, axis=1)
    return Ranks(i2t=i2t, t2i=t2i)
