"""ECCV Caption and Crisscrossed Captions: retrieval on COCO's test images with the matches that COCO itself lacks.

The judged matches come with the package ``eccv_caption`` (Chun et al., ECCV Caption, ECCV 2022).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from crossalign.errors import CrossAlignError, missing_extra
from crossalign.evaluation.relevance import RelevanceTable, Scores, relevance_table

__all__ = ["Matches", "coco_test_ids", "eccv_metrics", "known_matches"]

Relevant = Mapping[int, Sequence[int]]


@dataclass(frozen=True)
class Matches:
    """What belongs together: captions of each query image, images of each query caption, by COCO's numbers."""

    i2t: Relevant
    t2i: Relevant


@cache
def known_matches() -> dict[str, Matches]:
    """The matches of ``coco``, ``cxc`` and ``eccv``.

    Raises:
        CrossAlignError: the package is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it misses packages that it can do without
            from eccv_caption import Metrics

            package: Any = Metrics()
    except ImportError:
        raise missing_extra("eccv_caption", "suite", "ECCV Caption") from None
    given = {"coco": package.coco_gts, "cxc": package.cxc_gts, "eccv": package.eccv_gts}
    return {name: Matches(both["i2t"], both["t2i"]) for name, both in given.items()}


def coco_test_ids() -> tuple[frozenset[int], frozenset[int]]:
    """Images and captions of the gallery: COCO's test split of Karpathy, 5,000 and 25,000.

    Raises:
        CrossAlignError: the package is not installed.
    """
    coco = known_matches()["coco"]
    return frozenset(coco.i2t), frozenset(coco.t2i)


def eccv_metrics(
    i2t: Scores,
    t2i: Scores,
    image_ids: Sequence[int],
    caption_ids: Sequence[int],
    *,
    progress: bool = False,
) -> dict[str, float]:
    """mAP@R, R-Precision and R@1 on ECCV Caption, and R@1/5/10 on CxC, in both directions, in percent.

    Names are ``eccv_i2t_map_at_r``, ``eccv_t2i_r1``, ``cxc_i2t_r5`` and so on. They are the package's own numbers for
    the ranking by these scores, but that every tie counts against the model.

    Args:
        i2t: scores of a run of images with all captions.
        t2i: scores of a run of captions with all images.
        image_ids, caption_ids: COCO's numbers, in the order of the scores.

    Raises:
        CrossAlignError: the package is not installed; the ids are not all those of COCO's test split.
    """
    images, captions = coco_test_ids()
    for name, given, wanted in (("images", image_ids, images), ("captions", caption_ids, captions)):
        if len(given) != len(set(given)) or set(given) != wanted:
            raise CrossAlignError(
                f"ECCV Caption needs the {len(wanted):,} {name} of COCO's test split, no others; "
                f"found {len(wanted.intersection(given)):,} of them among {len(given):,}"
            )
    result: dict[str, float] = {}
    for way, scores, asked, there in (
        ("i2t", i2t, image_ids, caption_ids),
        ("t2i", t2i, caption_ids, image_ids),
    ):
        for name, kept in (("eccv", ("map_at_r", "r_precision", "r1")), ("cxc", ("r1", "r5", "r10"))):
            matches: Relevant = getattr(known_matches()[name], way)
            metrics = _table(scores, matches, asked, there, progress).metrics()
            result |= {f"{name}_{way}_{metric}": metrics[metric] for metric in kept}
    return result


def _table(
    scores: Scores, matches: Relevant, asked: Sequence[int], there: Sequence[int], progress: bool
) -> RelevanceTable:
    position = {item: number for number, item in enumerate(there)}
    known = [set(matches.get(query, ())) for query in asked]
    relevant = [
        np.array(sorted(position[item] for item in items if item in position), np.int64) for items in known
    ]
    # Two captions of ECCV Caption are not in COCO's test split: nobody finds them, but they count in R.
    sizes = np.array([len(items) for items in known], np.int64)
    return relevance_table(scores, relevant, len(there), sizes=sizes, progress=progress)
