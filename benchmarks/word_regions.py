"""How often words choose a region that shows what they mean: a model with its base model, against chance.

As ``crossalign explain MODEL --score --against BASE``, with a record of what was measured: where collections know what
their words mean (synthetic scenes), or by a detector's labelled boxes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from _common import write_result
from crossalign.cli.explain_parts import Boxes, score_collection
from crossalign.errors import CrossAlignError
from crossalign.evaluation.run_sources import run_recipe
from crossalign.model import RetrievalModel


def told(run: str) -> dict[str, object]:
    """Which model that is: its recipe, its seed, its fingerprint."""
    recipe = run_recipe(Path(run))
    if recipe is None:
        raise CrossAlignError(f"{run}: is no training run")
    return {
        "recipe": recipe.name,
        "seed": recipe.seed,
        "model": RetrievalModel.from_pretrained(run).fingerprint,
    }


def main() -> None:
    """Measure, print a line a measure, write ``results/word_regions-<name>.json``."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name", help="of the result, such as scenes")
    parser.add_argument("run", help="folder of a run")
    parser.add_argument("base", help="folder of the run of its base model")
    parser.add_argument("--boxes", type=Path, help="detections with labels; default: what the scenes know")
    parser.add_argument("--min-score", type=float, help="of the detections that count")
    parser.add_argument("--split", default="test")
    options = parser.parse_args()
    known = Boxes(options.boxes, min_score=options.min_score)
    scores = score_collection(
        RetrievalModel.from_pretrained(options.run),
        options.run,
        None,
        options.split,
        known,
        options.base,
        {},
        progress=False,
    )
    base = scores["against"]["units"]
    for units, measures in scores["units"].items():
        for measure, value in measures.items():
            # What each kind of word reaches would be most of the file.
            for entry in (value, base[units][measure]):
                entry.pop("by_kind", None)
            print(f"{units}, {measure}: {value['accuracy']:.1f}, base {base[units][measure]['accuracy']:.1f}")
    payload = {
        "collection": Path(scores["collection"]).name,
        "split": options.split,
        "words_from": scores["words_from"],
        "runs": {"model": told(options.run), "base": told(options.base)},
        "units": scores["units"],
        "base": base,
    }
    print(write_result(f"word_regions-{options.name}", payload).name)


if __name__ == "__main__":
    main()
