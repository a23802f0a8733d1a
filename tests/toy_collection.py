"""A small collection whose stored features carry what its captions say."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from crossalign.data.collection import CaptionRecord, Collection, ImageRecord
from crossalign.data.features import FeatureWriter

WORDS = ["red", "green", "blue", "round", "square", "big", "small", "left", "right", "old", "new", "soft"]


def write_toy(folder: Path, *, images: int = 60, units: int = 5, width: int = 16, seed: int = 0) -> Path:
    """A collection of ``images`` images; an image's units are its words' vectors plus noise."""
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(len(WORDS), width)).astype(np.float32)
    records, captions, features = [], [], []
    for index in range(images):
        chosen = random.choice(len(WORDS), units, replace=False)
        split = "train" if index < images * 2 // 3 else "val" if index < images * 5 // 6 else "test"
        records.append(ImageRecord(id=f"i{index}", file="", width=1, height=1))
        features.append(vectors[chosen] + 0.1 * random.normal(size=(units, width)).astype(np.float32))
        for number in range(1 + index % 3):
            said = " ".join(WORDS[word] for word in random.permutation(chosen)[:4])
            captions.append(
                CaptionRecord(id=f"c{index}-{number}", image_id=f"i{index}", text=said, split=split)
            )
    collection = Collection.write(
        folder, name="toy", image_root=folder.parent, images=records, captions=captions, provenance={}
    )
    with FeatureWriter(
        folder / "features" / "toy",
        ids=[record.id for record in records],
        dim=width,
        units=units,
        dtype="float32",
        manifest={"kind": "image", "source": "toy"},
        boxes=False,
    ) as writer:
        writer.append(features)
        writer.finish()
    return collection.folder


def write_teachers(folder: Path, *, seed: int = 1) -> None:
    """Teachers' stores: an image's vector is the sum of its words' vectors, and so is a caption's in another space."""
    collection = Collection.load(folder)
    random = np.random.default_rng(seed)
    splits = [collection.split(name) for name in collection.splits]
    said = {name: text for part in splits for name, text in zip(part.caption_ids, part.texts, strict=True)}
    seen: dict[str, set[str]] = {image: set() for part in splits for image in part.image_ids}
    for part in splits:
        for owner, text in zip(part.image_of_text, part.texts, strict=True):
            seen[part.image_ids[owner]] |= set(text.split())
    for kind, width, items in (
        ("image", 7, seen),
        ("text", 9, {name: set(t.split()) for name, t in said.items()}),
    ):
        vectors = random.normal(size=(len(WORDS), width)).astype(np.float32)
        rows = [sum(vectors[WORDS.index(word)] for word in sorted(words))[None] for words in items.values()]
        with FeatureWriter(
            folder / "features" / f"teacher-{kind}s",
            ids=list(items),
            dim=width,
            units=1,
            dtype="float32",
            manifest={"kind": kind, "teacher": {"name": "toy"}, "source": "toy"},
            boxes=False,
        ) as writer:
            writer.append(rows)
            writer.finish()


RECIPE = """
name: toy
data: {{collection: {folder}, image_features: [toy]}}
model:
  dim: 16
  context_head: true
  image: {{region_dropout: 0.2, encoder: {{projection: mlp, pooling: gpo, dropout: 0.1}}}}
  text:
    word_dropout: 0.1
    word_masking: 0.1
    encoder: {{kind: gru, word_dim: 12, min_count: 1, pooling: gpo}}
objective:
  base: {{kind: hinge, summed_epochs: 1}}
  lca: {{concepts: 12}}
  cra: {{temperature: 0.7, hard_negatives: 16}}
optimizer: {{learning_rate: 0.005, warmup_steps: 3}}
training: {{epochs: 3, batch_size: 16, log_every: 1, checkpoint_every: 2, tensorboard: false, accelerator: cpu}}
"""
