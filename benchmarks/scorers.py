"""Time of the interactive scorers against their matrix products alone and against the published form.

Every image is scored with every caption, in parts of the images: each part is measured in turn for all forms,
and a form's time is the sum over parts. "products" are the matrix products of the scorer's own algorithm with
operands of the same shapes that lie ready, in blocks that suit them; of every fourth caption in the order of length,
scaled by the words, which is their share of the time. "published" is the loop that the papers' code has: one
caption after the other, repeated for a shard of 100 images, every vector attended to written out; it takes
some captions of every length, and its time is scaled by their words. Its scores are checked to be ours.

For SCAN "passes" are the sums, products and exponentials between the matrix products, once for every inner product, in
blocks that stay in the second-level cache and in memory that lies ready. No order of these operations saves them, so
products and passes together are a floor under SCAN's ratio.

Also measured: memory above the inputs, and a training step of 128 pairs with hardest negatives.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from _common import (
    add_timing_options,
    chosen_clock,
    interleaved,
    limits,
    machine,
    peak_above,
    ratio,
    write_result,
)
from crossalign.losses import HingeRankingLoss
from crossalign.scorers import (
    PackedUnits,
    SAFScorer,
    SCANScorer,
    Scorer,
    SGRScorer,
    score_blocks,
)

AT_MOST = 1.5
SHARD = 100
IMAGES, WORDS = 8, 512
"""Images, and about as many words, of a block of the products alone."""
CACHED = 2**17
"""Inner products of a block of the passes alone."""

KINDS: dict[str, Callable[[int, int, int], Scorer[Any]]] = {
    "scan t2i": lambda dim, width, regions: SCANScorer("t2i"),
    "scan i2t": lambda dim, width, regions: SCANScorer("i2t", lambda_softmax=4.0, lambda_lse=5.0),
    "sgr": lambda dim, width, regions: SGRScorer(dim, width, regions=regions),
    "saf": lambda dim, width, regions: SAFScorer(dim, width, regions=regions),
}


def made_up(count: int, least: int, most: int, dim: int, seed: int) -> tuple[Tensor, Tensor]:
    """Unit vectors ``(count, most, dim)`` that share a direction within an item, and a mask of their lengths."""
    generator = torch.Generator().manual_seed(seed)
    units = torch.randn(count, most, dim, generator=generator) + torch.randn(
        count, 1, dim, generator=generator
    )
    # Captions are about 12 words long, few of them much longer.
    lengths = (least + (most - least) * torch.rand(count, 3, generator=generator).amin(dim=1) * 1.6).long()
    return F.normalize(units, dim=-1), torch.arange(most) < lengths.clamp(max=most).unsqueeze(1)


class Products:
    """The matrix products of a scorer and nothing else: operands lie ready, texts of equal length together.

    Blocks have the size at which a product, written to fresh memory, is fastest here; smaller and larger ones take
    up to a third longer.
    """

    def __init__(self, kind: str, scorer: Scorer[Any], regions: int, texts: PackedUnits) -> None:
        self.kind = kind
        self.width = scorer.similarity_dim if isinstance(scorer, SGRScorer | SAFScorer) else 0
        self.real_words = len(texts.units)
        self.words: list[tuple[int, Tensor]] = []
        """For each block its texts and their words ``(m * L, D)``."""
        for length in texts.lengths.unique().tolist():
            same = (texts.lengths == length).nonzero().squeeze(1)
            for part in same.split(max(1, WORDS // length)):
                self.words.append((len(part), texts.padded(part)[0].flatten(0, 1)))
        dim, width = texts.units.shape[1], self.width
        longest, most = int(texts.lengths.max()), max(count for count, _ in self.words)
        here = IMAGES * (max(WORDS, longest) + most)
        # Blocks take what they need from the front.
        self.weights = torch.rand(here * regions)
        self.grams = torch.rand(max(IMAGES * regions**2, most * longest**2))
        self.whole, self.nodes = torch.rand(IMAGES * most, dim), torch.rand(here * width)
        self.edges = torch.rand(here * (longest + 1))
        self.vectors, self.maps = torch.rand(dim, width), torch.rand(width, 2 * width)

    def __call__(self, regions: Tensor) -> None:
        """With images ``(n, R, D)``."""
        for count, words in self.words:
            for images in regions.split(IMAGES):
                self._block(images, count, words)

    def _block(self, images: Tensor, count: int, words: Tensor) -> None:
        here, regions, _ = images.shape
        length, width = len(words) // count, self.width
        images.flatten(0, 1) @ words.T
        if self.kind == "scan i2t":
            torch.bmm(
                _front(self.grams, count, length, length), _front(self.weights, count, length, here * regions)
            )
            return
        weights = _front(self.weights, here, regions, len(words))
        torch.bmm(_front(self.grams, here, regions, regions), weights)
        if not width:
            return
        attended = torch.bmm(weights.view(here, len(words), regions), images)
        attended.flatten(0, 1) @ self.vectors
        pairs = here * count
        self.whole[:pairs] @ self.vectors
        nodes = _front(self.nodes, pairs, length + 1, width)
        edges = _front(self.edges, pairs, length + 1, length + 1)
        if self.kind == "sgr":
            for _ in range(2):
                asking, told = (
                    (nodes.flatten(0, 1) @ self.maps).view(pairs, length + 1, 2 * width).chunk(2, dim=2)
                )
                torch.bmm(asking, nodes.transpose(1, 2))
                torch.bmm(edges, told)
            first = nodes[:, 0] @ self.maps[:, :width]
            torch.bmm(first.unsqueeze(1), nodes.transpose(1, 2))
            nodes[:, 0] @ self.maps[:, :width]
        torch.bmm(edges[:, :1], nodes)


class Passes:
    """What SCAN does with every inner product between its matrix products, at its cheapest.

    A block's tensors are small enough for the second-level cache, nothing is allocated, and each value is read and
    written as often as these operations have to: bytes and calls, not arithmetic, are the bulk.
    """

    def __init__(self, kind: str, regions: int, texts: PackedUnits) -> None:
        self.real_words = len(texts.units)
        length = max(1, round(self.real_words / len(texts)))
        seen, asked = (regions, length) if kind == "scan t2i" else (length, regions)
        items = max(1, round(CACHED / (seen * asked)) // 4)
        self.inner = torch.rand(4, seen, asked, items) - 0.5
        self.weights, self.other = torch.empty_like(self.inner), torch.empty_like(self.inner)
        self.norms = torch.empty(4, seen, 1, items)
        self.pooled = torch.empty(4, asked, items)

    def __call__(self, regions: Tensor) -> None:
        """As often as images ``(n, R, D)`` have inner products with the words."""
        blocks = regions.shape[0] * regions.shape[1] * self.real_words / self.inner.numel()
        for _ in range(round(blocks)):
            torch.ops.aten.leaky_relu.out(self.inner, 0.1, out=self.weights)
            torch.mul(self.weights, self.weights, out=self.other)
            torch.sum(self.other, dim=2, keepdim=True, out=self.norms)
            self.norms.sqrt_().add_(1e-8).reciprocal_()
            self.weights.mul_(self.norms).exp_()
            # Here the weights' quadratic form, a matrix product, is written to the other tensor.
            torch.sum(self.other.mul_(self.weights), dim=1, out=self.pooled)
            torch.sum(self.weights.mul_(self.inner), dim=1, out=self.pooled)


def _front(values: Tensor, *shape: int) -> Tensor:
    """A tensor of this shape from the first of many values."""
    return values[: math.prod(shape)].view(shape)


def attend(queries: Tensor, context: Tensor, sharpness: float) -> Tensor:
    """What ``(n, Q, D)`` see in ``(n, C, D)``, as published."""
    raw = F.leaky_relu(torch.bmm(context, queries.transpose(1, 2)), 0.1)
    raw = raw / (raw.pow(2).sum(dim=2, keepdim=True).sqrt() + 1e-8)
    weights = (raw.transpose(1, 2).contiguous() * sharpness).softmax(dim=2)
    return torch.bmm(weights, context)


@torch.no_grad()
def published(kind: str, scorer: Scorer[Any], regions: Tensor, texts: PackedUnits) -> Tensor:
    """Scores ``(n, m)`` caption after caption, a shard of images at a time, everything written out."""
    shards = []
    for images in regions.split(SHARD):
        columns = []
        if isinstance(scorer, SGRScorer | SAFScorer):
            summary = scorer.image_summary(images)
        for index in range(len(texts)):
            words = texts.padded(torch.tensor([index]))[0]
            repeated = words.repeat(len(images), 1, 1)
            if isinstance(scorer, SCANScorer):
                queries, context = (repeated, images) if kind == "scan t2i" else (images, repeated)
                seen = attend(queries, context, scorer.lambda_softmax)
                cosines = F.cosine_similarity(queries, seen, dim=2)
                columns.append((cosines * scorer.lambda_lse).logsumexp(dim=1) / scorer.lambda_lse)
                continue
            assert isinstance(scorer, SGRScorer | SAFScorer)
            seen = F.normalize(attend(repeated, images, 9.0), dim=-1)
            local = F.normalize(scorer.local_projection((seen - repeated).pow(2)), dim=-1)
            whole = (summary - scorer.text_summary(words)).pow(2)
            whole = F.normalize(scorer.global_projection(whole), dim=-1)
            nodes = torch.cat([whole.unsqueeze(1), local], dim=1)
            if isinstance(scorer, SGRScorer):
                for step in scorer.steps:
                    edges = torch.bmm(step.query(nodes), step.key(nodes).transpose(1, 2)).softmax(dim=2)
                    nodes = step.output(torch.bmm(edges, nodes)).relu()
                vectors = nodes[:, 0]
            else:
                gates = scorer.gate_norm(scorer.gate(nodes).transpose(1, 2)).sigmoid()
                vectors = F.normalize(torch.bmm(gates, nodes).squeeze(1), dim=-1)
            columns.append(scorer.score_head(vectors).sigmoid().squeeze(1))
        shards.append(torch.stack(columns, dim=1))
    return torch.cat(shards)


def measure(
    kind: str,
    sizes: dict[str, int],
    parts: int,
    sample: int,
    every: int,
    clock: Callable[[], float],
) -> dict[str, Any]:
    """One scorer: times over all parts, ratios of the parts, memory."""
    torch.manual_seed(0)
    scorer = KINDS[kind](sizes["dim"], sizes["similarity_dim"], sizes["regions"]).eval()
    regions = made_up(sizes["images"], sizes["regions"], sizes["regions"], sizes["dim"], 1)[0]
    words, mask = made_up(sizes["texts"], 6, 20, sizes["dim"], 2)
    texts = PackedUnits.of(words, mask)
    del words
    # First of all: later, what others have left with the process would be used again.
    memory = peak_above(lambda: score_blocks(scorer, PackedUnits.of(regions[:SHARD]), texts))
    # Every so many-th caption in the order of length.
    chosen = texts.lengths.argsort()[torch.linspace(0, len(texts) - 1, sample).round().long()]
    few, few_mask = texts.padded(chosen)
    some = PackedUnits.of(few, few_mask)
    scale = len(texts.units) / len(some.units)

    torch.testing.assert_close(
        score_blocks(scorer, PackedUnits.of(regions[:SHARD]), some),
        published(kind, scorer, regions[:SHARD], some),
        rtol=0,
        atol=1e-4,
    )
    share = texts.reordered(texts.lengths.argsort(stable=True)[::every])
    alone = Products(kind, scorer, sizes["regions"], share)
    alone(regions[:IMAGES])
    passes = Passes(kind, sizes["regions"], share) if isinstance(scorer, SCANScorer) else None
    part_of_words = len(texts.units) / alone.real_words
    scales = {"ours": 1.0, "products": part_of_words, "published": scale}
    if passes is not None:
        scales["passes"] = part_of_words
    found: dict[str, list[float]] = {name: [] for name in scales}
    for part in regions.chunk(parts):
        images = PackedUnits.of(part)
        forms: dict[str, Callable[[], object]] = {
            "products": lambda part=part: alone(part),  # type: ignore[misc]
            "ours": lambda images=images: score_blocks(scorer, images, texts),  # type: ignore[misc]
            "published": lambda part=part: published(kind, scorer, part, some),  # type: ignore[misc]
        }
        if passes is not None:
            forms["passes"] = lambda part=part, passes=passes: passes(part)  # type: ignore[misc]
        times = interleaved(forms, 1, warmup=0, clock=clock)
        for name, value in times.items():
            found[name].append(value["median_s"] * scales[name])
    times = {name: {"all": values} for name, values in found.items()}
    floor = {}
    if passes is not None:
        sums = [sum(pair) for pair in zip(found["products"], found["passes"], strict=True)]
        floor = {"floor_to_products": ratio({**times, "floor": {"all": sums}}, "floor", "products")}
    return {
        **floor,
        "seconds": {name: sum(values) for name, values in found.items()},
        "seconds_of_parts": found,
        "ours_to_products": {**ratio(times, "ours", "products"), "at_most": AT_MOST},
        "published_to_ours": ratio(times, "published", "ours"),
        "memory_above_inputs_mb": memory,
        "real_words": len(texts.units),
    }


def floor_told(result: dict[str, Any]) -> str:
    """The floor under the ratio, where one is measured."""
    if "floor_to_products" not in result:
        return ""
    return f"at least {result['floor_to_products']['median']:.2f} with its passes, "


def training_step(kind: str, batch: int, sizes: dict[str, int], clock: Callable[[], float]) -> dict[str, Any]:
    """Forward and backward pass of a batch with hardest negatives: seconds, and memory above the inputs."""
    torch.manual_seed(0)
    scorer = KINDS[kind](sizes["dim"], sizes["similarity_dim"], sizes["regions"])
    regions = made_up(batch, sizes["regions"], sizes["regions"], sizes["dim"], 1)[0].requires_grad_()
    words, mask = made_up(batch, 6, 20, sizes["dim"], 2)
    words.requires_grad_()
    loss = HingeRankingLoss(0.2)

    def step() -> None:
        regions.grad = words.grad = None
        scorer.zero_grad()
        loss(scorer(regions, words, None, mask)).backward()

    times = interleaved({"step": step}, 3, warmup=1, clock=clock)["step"]
    return {**times, "memory_above_inputs_mb": peak_above(step)}


def main() -> None:
    """Measure, print a line for each scorer, write ``results/scorers-<dim>.json``."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dim", type=int, default=256, help="width of regions and words; published 1024")
    parser.add_argument("--similarity-dim", type=int, default=256, help="width of similarity vectors")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--texts", type=int, default=5000)
    parser.add_argument("--regions", type=int, default=36)
    parser.add_argument("--scorer", choices=KINDS, action="append", help="by default all")
    parser.add_argument("--parts", type=int, default=8, help="parts of the images, each measured in turn")
    parser.add_argument(
        "--every", type=int, default=4, help="products alone are those of each so many-th caption"
    )
    parser.add_argument("--sample", type=int, default=40, help="captions of the published form")
    parser.add_argument("--batch", type=int, default=128, help="pairs of a training step")
    add_timing_options(parser)
    arguments = parser.parse_args()
    clock = chosen_clock(arguments)
    before = machine().get("load")
    names = ("dim", "similarity_dim", "images", "texts", "regions")
    sizes = {name: getattr(arguments, name) for name in names}
    parts, sample, every, batch = arguments.parts, arguments.sample, arguments.every, arguments.batch
    if arguments.small:
        sizes = {"dim": 32, "similarity_dim": 16, "images": 20, "texts": 60, "regions": 9}
        parts, sample, every, batch = 2, 10, 2, 8
    scorers, training = {}, {}
    for kind in arguments.scorer or KINDS:
        scorers[kind] = result = measure(kind, sizes, parts, sample, every, clock)
        training[kind] = step = training_step(kind, batch, sizes, clock)
        seconds = result["seconds"]
        memory = result["memory_above_inputs_mb"]
        print(
            f"{kind:9} {seconds['ours']:8.1f} s, {seconds['ours'] / seconds['products']:.2f} times its products, "
            f"{floor_told(result)}"
            f"published {seconds['published']:.0f} s ({seconds['published'] / seconds['ours']:.1f} times), "
            f"memory {'unknown' if memory is None else f'{memory:.0f} MB'}; "
            f"training step {step['median_s']:.2f} s",
            flush=True,
        )
    name = f"scorers-{'small' if arguments.small else sizes['dim']}" + ("-busy" if arguments.busy else "")
    payload = {
        "clock": "CPU time of one thread" if arguments.busy else "wall time",
        "load_before": before,
        "sizes": {**sizes, "parts": parts, "sample": sample, "every": every, "batch": batch},
        "scorers": scorers,
        "training_step": training,
    }
    payload["limits"] = limits(
        {}
        if arguments.small
        else {kind: (of["ours_to_products"]["median"], AT_MOST) for kind, of in scorers.items()}
    )
    if arguments.small:
        payload["limits"]["met"] = None
    print(write_result(name, payload).name)
    raise SystemExit(1 if payload["limits"]["missed"] else 0)


if __name__ == "__main__":
    main()
