"""A small collection with stored features that carry what captions say, a model on it, and files that judge it."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crossalign.data.collection import CaptionRecord, Collection, ImageRecord
from crossalign.data.features import FeatureWriter
from crossalign.encoders.words import WordTokenizer
from crossalign.model import ModelConfig, RetrievalModel

WORDS = ["red", "green", "blue", "round", "square", "big", "small", "old"]
IMAGES = 12


@dataclass(frozen=True)
class Judged:
    """Where everything is."""

    collection: Path
    model: Path


def file_of(number: int) -> str:
    return f"COCO_val2014_{number + 100:012d}.jpg"


def write_judged(folder: Path, *, scorer: bool = False, features: bool = True) -> Judged:
    """Images 100 to 111 of a COCO that does not exist, two captions each with the numbers 900 to 923."""
    random = np.random.default_rng(0)
    records, captions = [], []
    for number in range(IMAGES):
        records.append(ImageRecord(str(number + 100), f"val2014/{file_of(number)}", 8, 8))
        split = "train" if number < 4 else "test"
        for which in range(2):
            # No two alike: equal words would tie, and last digits break a tie either way.
            order = [WORDS[number % 8], WORDS[(number // 8 + which * 3 + 1) % 8], *random.choice(WORDS, 2)]
            words = " ".join(order)
            captions.append(CaptionRecord(str(900 + 2 * number + which), str(number + 100), words, split))
    collection = Collection.write(
        folder / "collection",
        name="judged",
        image_root=folder,
        images=records,
        captions=captions,
        provenance={},
    )
    if features:
        with FeatureWriter(
            collection.folder / "features" / "toy",
            ids=[record.id for record in records],
            dim=6,
            units=3,
            dtype="float32",
            manifest={"kind": "image", "source": "toy"},
            boxes=False,
        ) as writer:
            writer.append(list(random.normal(size=(IMAGES, 3, 6)).astype(np.float32)))
            writer.finish()
    settings: dict[str, Any] = {
        "dim": 8,
        "image": {"feature_dim": 6, "encoder": {"projection": "linear", "pooling": "mean"}},
        "text": {"encoder": {"kind": "gru", "word_dim": 8, "min_count": 1}},
    }
    if scorer:
        settings["scorer"] = {"kind": "scan"}
    model = RetrievalModel(
        ModelConfig.model_validate(settings), tokenizer=WordTokenizer.build([" ".join(WORDS)], min_count=1)
    )
    model.save_pretrained(folder / "model")
    return Judged(collection.folder, folder / "model")


def write_judgements(folder: Path) -> Path:
    """Experts on the captions of other images and on one's own; the crowd on all."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(1)
    expert, crowd = [], []
    for number in range(4, IMAGES):
        for other in (number, 4 + (number + 1) % 8, 4 + (number + 3) % 8):
            rates = "\t".join(str(rate) for rate in random.integers(1, 5, 3))
            expert.append(f"{file_of(number)}\t{file_of(other)}#1\t{rates}")
            yes = int(random.integers(0, 4))
            crowd.append(f"{file_of(number)}\t{file_of(other)}#1\t{yes / 3}\t{yes}\t{3 - yes}")
    (folder / "ExpertAnnotations.txt").write_text("\n".join(expert) + "\n")
    with gzip.open(folder / "CrowdFlowerAnnotations.txt.gz", "wt") as file:
        file.write("\n".join(crowd) + "\n")
    return folder


def write_cxc(folder: Path) -> Path:
    """CSVs for the images and captions of the test split; SITS is not gzipped."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(2)
    images = [file_of(number) for number in range(4, IMAGES)]
    captions = [f"COCO_val2014:sentid:{number}" for number in range(908, 924)]

    def lines(head: str, first: list[str], second: list[str]) -> str:
        rows = [head]
        for one in first:
            for two in random.choice([other for other in second if other != one], 3, replace=False):
                rows.append(f"{one},{two},{random.uniform(0, 5):.2f},some_way")
        return "\n".join(rows) + "\n"

    with gzip.open(folder / "sis_test.csv.gz", "wt") as file:
        file.write(lines("image1,image2,agg_score,sampling_method", images, images))
    with gzip.open(folder / "sts_test.csv.gz", "wt") as file:
        file.write(lines("caption1,caption2,agg_score,sampling_method", captions, captions))
    (folder / "sits_test.csv").write_text(lines("caption,image,agg_score,sampling_method", captions, images))
    return folder
