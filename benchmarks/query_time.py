"""Time of one text query by all inner products, for the shapes of embeddings that a study's models have.

What a search takes depends on the width of the embeddings and on the views of an image, not on what the model has
learnt, so embeddings are drawn at random. Galleries are scored as evaluation does; the ten best images are taken. The
query's encoding is left out; scorers and indexes are measured by retrieval_time.py.
"""

from __future__ import annotations

import argparse

import torch

from _common import add_timing_options, chosen_clock, interleaved, machine, ratio, write_result
from crossalign.model import RetrievalModel
from crossalign.study import load_study
from crossalign.study.plan import plan_runs

HITS = 10


def shapes(study: str) -> dict[tuple[int, int], list[str]]:
    """Views and width of every variant's embeddings; models that score pairs have none."""
    found: dict[tuple[int, int], list[str]] = {}
    for run in plan_runs(load_study(study), [0]):
        model = run.recipe.model
        if model.scorer is None:
            views = getattr(model.image.encoder, "views", 1)
            found.setdefault((views, model.embedding_width), []).append(run.variant)
    return found


def main() -> None:
    """Measure, print a line a shape, write ``results/query_time.json``."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--study", default="flickr8k-selfalign", help="whose models' shapes")
    parser.add_argument("--images", type=int, nargs="+", default=[1_000, 30_000], help="sizes of the gallery")
    parser.add_argument("--repeats", type=int, default=30)
    add_timing_options(parser)
    arguments = parser.parse_args()
    clock = chosen_clock(arguments)
    before = machine().get("load")
    sizes = [60, 120] if arguments.small else arguments.images
    found = shapes(arguments.study)
    galleries = []
    for size in sizes:
        forms = {}
        for views, width in found:
            generator = torch.Generator().manual_seed(0)
            shape = (size, width) if views == 1 else (size, views, width)
            images = torch.randn(shape, generator=generator)
            query = torch.randn(1, width, generator=generator)
            forms[f"{views} x {width}"] = lambda images=images, query=query: (  # type: ignore[misc]
                RetrievalModel.similarity(images, query).topk(HITS, dim=0).indices
            )
        times = interleaved(forms, arguments.repeats, clock=clock)
        first = next(iter(forms))
        galleries.append(
            {
                "images": size,
                "seconds": {name: {k: v for k, v in of.items() if k != "all"} for name, of in times.items()},
                "to_first": {name: ratio(times, name, first) for name in forms},
            }
        )
        for name, value in times.items():
            print(f"{size} images, {name}: {1e3 * value['median_s']:.2f} ms", flush=True)
    payload = {
        "clock": "CPU time of one thread" if arguments.busy else "wall time",
        "threads": torch.get_num_threads(),
        "load_before": before,
        "study": arguments.study,
        "shapes": {f"{views} x {width}": names for (views, width), names in found.items()},
        "galleries": galleries,
    }
    print(write_result("query_time-small" if arguments.small else "query_time", payload).name)


if __name__ == "__main__":
    main()
