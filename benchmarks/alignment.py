"""Time of the alignments and of generalized pooling against their matrix products and against plain forms.

Every figure is a ratio of two forward and backward passes measured in turn in one run. "floor" is what no
form can do without: the matrix products over real words and regions, and for CRA one top-k. "plain" is the
formula as it reads: a loop over the images of the batch with whole-matrix Sinkhorn (LCA), negatives expanded
to (B, N, B * N) (CRA), a sort along the units' own axis (pooling). Plain forms are checked to give the same
loss.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from _common import add_timing_options, chosen_clock, interleaved, limits, machine, ratio, write_result
from crossalign.alignment import ContextualRelationAlignment, LocalConceptAlignment
from crossalign.encoders.pooling import GeneralizedPooling

LIMITS = {"lca": 1.5, "cra": 1.3}


def plain_lca(module: LocalConceptAlignment, regions: Tensor, words: Tensor, mask: Tensor) -> Tensor:
    """Whole-matrix Sinkhorn, every padded word, a loop over the images."""
    module.renormalize()
    codebook = module.codebook
    region_logits, word_logits = regions @ codebook.T, words @ codebook.T / module.word_temperature
    with torch.no_grad():
        mass = torch.exp(region_logits.flatten(0, 1) / module.epsilon)
        for _ in range(module.sinkhorn_iterations):
            mass = mass / mass.sum(dim=0, keepdim=True) / mass.shape[1]
            mass = mass / mass.sum(dim=1, keepdim=True) / mass.shape[0]
        targets = (mass * mass.shape[0]).unflatten(0, regions.shape[:2])
    total = regions.new_zeros(())
    for i, length in enumerate(mask.sum(dim=1).tolist()):
        taken = (words[i, :length] @ regions[i].T).argmax(dim=1)
        predicted = word_logits[i, :length].log_softmax(dim=1)
        total = total - (targets[i][taken] * predicted).sum(dim=1).mean()
    return total / len(regions)


def plain_nce(queries: Tensor, keys: Tensor, mask: Tensor, temperature: float, hard: int) -> Tensor:
    """Negatives of each query expanded over its locals and searched anew for every one."""
    batch, length = keys.shape[:2]
    scores = (queries @ keys.flatten(0, 1).T / temperature).view(batch, batch, length)
    positives = scores.diagonal(dim1=0, dim2=1).T
    excluded = torch.eye(batch, dtype=torch.bool).unsqueeze(2) | ~mask.unsqueeze(0)
    negatives = scores.masked_fill(excluded, -1e9).flatten(1).unsqueeze(1).expand(-1, length, -1)
    against = negatives.topk(min(hard, negatives.shape[2]), dim=2).values
    terms = torch.cat([positives.unsqueeze(2), against], dim=2).log_softmax(dim=2)[:, :, 0]
    return -terms[mask].mean()


def plain_pooling(module: GeneralizedPooling, units: Tensor, mask: Tensor) -> Tensor:
    """Weights of every item, a sort along the units' axis."""
    weights = module.weights(mask.sum(dim=1), units.shape[1]).unsqueeze(2)
    ordered = units.masked_fill(~mask.unsqueeze(2), -1e4).sort(dim=1, descending=True).values
    return (ordered * weights).sum(dim=1)


def both_ways(loss: Callable[[], Tensor], leaves: list[Tensor]) -> Callable[[], Tensor]:
    """A forward and backward pass that starts without gradients."""

    def run() -> Tensor:
        for leaf in leaves:
            leaf.grad = None
        value = loss()
        value.backward()
        return value.detach()

    return run


def measure(
    batch: int,
    regions: int,
    words: int,
    dim: int,
    concepts: int,
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """All ratios at one size; captions have between a third of ``words`` and ``words`` words."""
    generator = torch.Generator().manual_seed(0)

    def made(*shape: int) -> Tensor:
        return F.normalize(torch.randn(shape, generator=generator), dim=-1)

    lengths = torch.randint(max(words // 3, 1), words + 1, (batch, 1), generator=generator)
    mask = torch.arange(words) < lengths
    everything = torch.ones(batch, regions, dtype=torch.bool)
    count = int(mask.sum())

    region_units, word_units = made(batch, regions, dim), made(batch, words, dim).requires_grad_()
    lca = LocalConceptAlignment(dim, concepts)
    codebook, packed = lca.codebook.detach(), word_units.detach()[mask]
    word_gradient = torch.randn(count, concepts, generator=generator)

    def lca_floor() -> None:
        torch.bmm(word_units.detach(), region_units.transpose(1, 2))
        region_units.flatten(0, 1) @ codebook.T
        packed @ codebook.T
        word_gradient @ codebook
        word_gradient.T @ packed

    guides = [made(batch, dim).relu().requires_grad_() for _ in range(2)]
    image_keys = made(batch, regions, dim).relu().requires_grad_()
    text_keys = made(batch, words, dim).relu().requires_grad_()
    cra = ContextualRelationAlignment()
    hard = cra.hard_negatives
    assert hard is not None
    flat_keys = [image_keys.detach().flatten(0, 1), text_keys.detach()[mask]]
    score_gradients = [torch.randn(batch, len(keys), generator=generator) for keys in flat_keys]

    def cra_floor() -> None:
        for guide, keys, gradient in zip(guides, flat_keys, score_gradients, strict=True):
            scores = guide.detach() @ keys.T
            scores.topk(min(hard, scores.shape[1]), dim=1, sorted=False)
            gradient @ keys
            gradient.T @ guide.detach()

    def cra_ours() -> Tensor:
        return cra(guides[0], image_keys, guides[1], text_keys, everything, mask)

    def cra_plain() -> Tensor:
        return (
            plain_nce(guides[1], image_keys, everything, cra.temperature, hard)
            + plain_nce(guides[0], text_keys, mask, cra.temperature, hard)
        ) / 2

    pooling = GeneralizedPooling()
    pooled_units = torch.randn(batch, regions, dim, generator=generator).requires_grad_()
    region_mask = torch.arange(regions) < torch.randint(1, regions + 1, (batch, 1), generator=generator)

    lca_leaves, cra_leaves = [word_units, lca.codebook], [*guides, image_keys, text_keys]
    pooling_leaves = [pooled_units, *pooling.parameters()]
    ours = {
        "lca": both_ways(lambda: lca(region_units, word_units, None, mask), lca_leaves),
        "cra": both_ways(cra_ours, cra_leaves),
        "pooling": both_ways(lambda: pooling(pooled_units, region_mask).sum(), pooling_leaves),
    }
    plain = {
        "lca": both_ways(lambda: plain_lca(lca, region_units, word_units, mask), lca_leaves),
        "cra": both_ways(cra_plain, cra_leaves),
        "pooling": both_ways(lambda: plain_pooling(pooling, pooled_units, region_mask).sum(), pooling_leaves),
    }
    floors: dict[str, Callable[[], object]] = {"lca": lca_floor, "cra": cra_floor}
    for name, run in ours.items():
        torch.testing.assert_close(run(), plain[name](), rtol=1e-4, atol=1e-4)

    tight: dict[str, Callable[[], object]] = {}
    for name, floor in floors.items():
        tight |= {name: ours[name], f"{name} floor": floor}
    times = interleaved(tight, repeats, clock=clock)
    loose: dict[str, Callable[[], object]] = {}
    for name in plain:
        loose |= {f"{name} again": ours[name], f"{name} plain": plain[name]}
    times |= interleaved(loose, max(repeats // 4, 3), warmup=1, clock=clock)

    return {
        "sizes": {
            "batch": batch,
            "regions": regions,
            "words": words,
            "real_words": count,
            "dim": dim,
            "concepts": concepts,
        },
        "to_floor": {
            name: ratio(times, name, f"{name} floor") | {"at_most": LIMITS[name]} for name in floors
        },
        "plain_to_ours": {name: ratio(times, f"{name} plain", f"{name} again") for name in plain},
        "times": times,
    }


def main() -> None:
    """Measure, print one line a ratio, write ``results/alignment.json``; exit code 1 if a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=25, help="measurements of each function")
    add_timing_options(parser)
    arguments = parser.parse_args()
    clock = chosen_clock(arguments)
    torch.manual_seed(0)
    before = machine().get("load")
    size = (8, 9, 6, 32, 16) if arguments.small else (128, 36, 24, 1024, 1024)
    result = measure(*size, repeats=arguments.repeats, clock=clock)
    for title in ("to_floor", "plain_to_ours"):
        for name, value in result[title].items():
            print(f"{title:14} {name:8} {value['median']:6.2f}  ({value['min']:.2f} to {value['max']:.2f})")
    judged = limits({name: (value["median"], LIMITS[name]) for name, value in result["to_floor"].items()})
    # Of a tiny size the fixed costs are measured.
    if arguments.small:
        judged = {"met": None}
    name = "alignment" + ("-small" if arguments.small else "") + ("-busy" if arguments.busy else "")
    measured = "CPU time of one thread" if arguments.busy else "wall time"
    print(write_result(name, {"clock": measured, "load_before": before, "limits": judged, **result}).name)
    raise SystemExit(1 if judged["met"] is False else 0)


if __name__ == "__main__":
    main()
