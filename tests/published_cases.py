"""A small published checkpoint of every layout, with what its own code makes of photos and captions."""

from __future__ import annotations

import argparse
import collections
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import BertConfig

import published_code as published
import published_scorers as scorers
from crossalign.data.batch import ImageInputs
from published_code import State

DIM, FEATURES, WORD_DIM, HEADS, VIEWS, LENGTH = 12, 10, 6, 3, 4, 14
SPOKEN = "<pad> <start> <end> <unk> a dog t-shirt runs . does n't man 's red , in the"
WORDS = SPOKEN.split()
CAPTIONS = {
    "A dog in a T-shirt runs.": ["a", "dog", "in", "a", "t-shirt", "runs", "."],
    "The man's red dog doesn't run, zebra": [
        "the", "man", "'s", "red", "dog", "does", "n't", "<unk>", ",", "<unk>"
    ],
    "dog": ["dog"],
    "A red dog in the man": ["a", "red", "dog", "in", "the", "man"],
}  # fmt: skip
PIECED_WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a dog t - shirt run ##s . doesn ' man red , in the"
PIECES = PIECED_WORDS.split()
PIECED = {
    "A dog in a T-shirt runs.": ["a", "dog", "in", "a", "t", "-", "shirt", "run", "##s", "."],
    "The man's red dog, zebra": ["the", "man", "'", "[UNK]", "red", "dog", ",", "[UNK]"],
    "dog": ["dog"],
    "A red dog in the man": ["a", "red", "dog", "in", "the", "man"],
}
IMAGES = 5


def bert_config() -> BertConfig:
    return BertConfig(
        vocab_size=len(PIECES), hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=40,
    )  # fmt: skip


@dataclass(frozen=True)
class Photos:
    """Regions ``(B, N, C)`` with boxes in pixels and sizes, and how many of them are real."""

    regions: Tensor
    boxes: Tensor
    sizes: Tensor
    lengths: list[int]

    def inputs(self) -> ImageInputs:
        mask = torch.arange(self.regions.shape[1]) < torch.tensor(self.lengths)[:, None]
        return ImageInputs(
            features=self.regions.masked_fill(~mask[..., None], 77.0),
            mask=mask,
            boxes=self.boxes / self.sizes.repeat(1, 2)[:, None],
            aspect=self.sizes[:, 0] / self.sizes[:, 1],
        )


def photos(*, ragged: bool) -> Photos:
    draw = torch.Generator().manual_seed(8)
    sizes = torch.tensor([[500.0, 375.0], [333.0, 500.0], [64.0, 64.0], [640.0, 480.0], [50.0, 200.0]])
    corners = torch.rand(IMAGES, 6, 2, 2, generator=draw).sort(dim=2).values
    corners[:, :, 1] = (corners[:, :, 1] + 0.05).clamp(max=1)
    boxes = corners.flatten(2) * sizes.repeat(1, 2)[:, None]
    lengths = [6, 3, 1, 4, 6] if ragged else [6] * IMAGES
    return Photos(torch.randn(IMAGES, 6, FEATURES, generator=draw), boxes, sizes, lengths)


@dataclass
class Case:
    """A checkpoint, what its vocabulary is, and what its code gives: embeddings, or units and their scores."""

    layout: str
    states: list[State]
    captions: list[str]
    photos: Photos
    image: Callable[[], Tensor]
    text: Callable[[], Tensor]
    options: dict[str, Any] = field(default_factory=dict)
    # Where each of our blocks of D numbers stands in theirs, on the image side and on the text side.
    blocks: tuple[list[int], list[int]] = ([0], [0])
    # Scores of images ``(B, R, D)`` and texts ``(C, W, D)``, for a model that looks at both together.
    compare: Callable[[Tensor, Tensor], Tensor] | None = None

    @property
    def needs_bert(self) -> bool:
        return self.layout.startswith("camera") or self.layout.endswith("bert")

    def similarity(self) -> Tensor:
        """As the published code compares."""
        image, text = self.image(), self.text()
        if self.compare is not None:
            return self.compare(image, text)
        if image.dim() == 3:
            return torch.stack([(views @ text.T).amax(dim=0) for views in image])
        return image @ text.T

    def save(self, path: Path, kind: str) -> Path:
        """The checkpoint as its training script saves it, in torch's ``zip`` or older ``stream`` format."""
        states = [collections.OrderedDict(state) for state in self.states]
        saved = {
            "epoch": 3,
            "model": states,
            "best_rsum": 400.5,
            "opt": argparse.Namespace(**self.options),
            "Eiters": 7,
        }
        torch.save(saved, path, _use_new_zipfile_serialization=kind == "zip")
        return path

    def save_vocabulary(self, folder: Path, kind: str) -> Path:
        """What ``--vocab`` takes: a vocabulary as ``json`` or ``pkl``, or a BERT's folder."""
        folder.mkdir(parents=True, exist_ok=True)
        if self.needs_bert:
            # No weights: they come from the checkpoint.
            settings = bert_config().to_dict()
            name = "bert_config.json" if kind == "json" else "config.json"
            (folder / name).write_text(json.dumps(settings))
            (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n")
            return folder / "vocab.txt" if kind == "json" else folder
        words = {word: index for index, word in enumerate(WORDS)}
        content = {
            "word2idx": words,
            "idx2word": {index: word for word, index in words.items()},
            "idx": len(words),
        }
        path = folder / f"f30k_precomp_vocab.{kind}"
        if kind == "json":
            path.write_text(json.dumps(content))
        else:
            path.write_bytes(pickle.dumps(content, 2))
        return path


def word_ids() -> list[list[int]]:
    return [
        [WORDS.index("<start>"), *(WORDS.index(word) for word in words), WORDS.index("<end>")]
        for words in CAPTIONS.values()
    ]


def piece_ids() -> list[list[int]]:
    return [
        [PIECES.index("[CLS]"), *(PIECES.index(piece) for piece in pieces), PIECES.index("[SEP]")]
        for pieces in PIECED.values()
    ]


def vse_infinity() -> Case:
    image, text = (
        published.vse_image_state(FEATURES, DIM),
        published.vse_words_state(len(WORDS) + 1, WORD_DIM, DIM),
    )
    shown = photos(ragged=True)
    regions = [rows[:length] for rows, length in zip(shown.regions, shown.lengths, strict=True)]
    return Case(
        "vse-infinity", [image, text], list(CAPTIONS), shown,
        lambda: published.vse_image(image, regions), lambda: published.vse_words(text, word_ids()),
        {"no_imgnorm": False, "no_txtnorm": False, "data_name": "f30k_precomp"},
    )  # fmt: skip


def vse_infinity_bert() -> Case:
    image, text = published.vse_image_state(FEATURES, DIM), published.vse_bert_state(bert_config(), DIM)
    shown = photos(ragged=True)
    regions = [rows[:length] for rows, length in zip(shown.regions, shown.lengths, strict=True)]
    wrapped = [{f"module.{key}": value for key, value in state.items()} for state in (image, text)]
    return Case(
        "vse-infinity-bert", wrapped, list(PIECED), shown,
        lambda: published.vse_image(image, regions),
        lambda: published.vse_bert(text, bert_config(), piece_ids()),
    )  # fmt: skip


def vsrn(*, flickr: bool, selfalign: bool) -> Case:
    image = published.vsrn_image_state(FEATURES, DIM, flickr=flickr, selfalign=selfalign)
    text = published.vsrn_words_state(len(WORDS), WORD_DIM, DIM, selfalign=selfalign)
    shown = photos(ragged=False)
    return Case(
        "vsrn-selfalign" if selfalign else "vsrn",
        [image, text, *([{"v_prototypes.weight": torch.randn(20, DIM)}] if selfalign else [])],
        list(CAPTIONS),
        shown,
        lambda: published.vsrn_image(image, shown.regions, flickr=flickr, selfalign=selfalign),
        lambda: published.vsrn_words(text, word_ids(), selfalign=selfalign),
        {
            "use_abs": False, "no_imgnorm": False, "finetune": False, "measure": "cosine",
            "data_name": "f30k_precomp" if flickr else "coco_precomp", **({"ctx_relu": 1} if selfalign else {}),
        },
        blocks=([0, 2, 1], [0, 2, 1]) if selfalign else ([0], [0]),
    )  # fmt: skip


def camera(*, selfalign: bool) -> Case:
    image = published.camera_image_state(FEATURES, DIM, HEADS, VIEWS, selfalign=selfalign)
    text = published.camera_words_state(bert_config(), DIM, HEADS, selfalign=selfalign)
    shown = photos(ragged=False)
    return Case(
        "camera-selfalign" if selfalign else "camera",
        [image, text, *([{"v_prototypes.weight": torch.randn(20, DIM)}] if selfalign else [])],
        list(PIECED),
        shown,
        lambda: published.camera_image(image, shown.regions, shown.boxes, shown.sizes, selfalign=selfalign),
        lambda: published.camera_words(text, bert_config(), piece_ids(), LENGTH, selfalign=selfalign),
        {"max_words": LENGTH, "drop": 0.0, **({"ctx_fc_relu": 1} if selfalign else {})},
        blocks=([0, 1, 2], [0, 1, 2]) if selfalign else ([0], [0]),
    )


SCAN_OPTIONS: dict[str, Any] = {
    "no_imgnorm": False, "no_txtnorm": False, "num_layers": 1, "data_name": "f30k_precomp", "cross_attn": "t2i",
    "raw_feature_norm": "clipped_l2norm", "agg_func": "LogSumExp", "lambda_softmax": 9.0, "lambda_lse": 6.0,
}  # fmt: skip


def scan(*, both: bool, weight_norm: bool = False, **options: Any) -> Case:
    image = scorers.image_state(FEATURES, DIM, weight_norm=weight_norm)
    text = scorers.words_state("rnn", len(WORDS), WORD_DIM, DIM, both=both)
    shown, ids = photos(ragged=False), word_ids()
    told = {
        **SCAN_OPTIONS, "bi_gru": both, "precomp_enc_type": "weight_norm" if weight_norm else "basic", **options
    }  # fmt: skip
    return Case(
        "scan", [image, text], list(CAPTIONS), shown,
        lambda: scorers.regions(image, shown.regions), lambda: scorers.words(text, "rnn", ids), told,
        compare=lambda seen, read: scorers.scan_scores(seen, read, [len(row) for row in ids], told),
    )  # fmt: skip


SIMILARITY_DIM, STEPS = 7, 2


def sgraf(module: str, *, both: bool, counted: bool) -> Case:
    image = scorers.image_state(FEATURES, DIM)
    text = scorers.words_state("cap_rnn", len(WORDS), WORD_DIM, DIM, both=both)
    shown, ids = photos(ragged=False), word_ids()
    pair = scorers.similarity_state(
        module, DIM, SIMILARITY_DIM, shown.regions.shape[1], STEPS, counted=counted
    )
    return Case(
        "sgraf", [image, text, pair], list(CAPTIONS), shown,
        lambda: scorers.regions(image, shown.regions), lambda: scorers.words(text, "cap_rnn", ids),
        {
            "no_imgnorm": False, "no_txtnorm": False, "num_layers": 1, "bi_gru": both, "module_name": module,
            "sgr_step": STEPS, "sim_dim": SIMILARITY_DIM, "data_name": "f30k_precomp",
        },
        compare=lambda seen, read: scorers.sgraf_scores(pair, seen, read, [len(row) for row in ids]),
    )  # fmt: skip


EMBEDDED: dict[str, Callable[[], Case]] = {
    "vse-infinity": vse_infinity,
    "vse-infinity-bert": vse_infinity_bert,
    "vsrn-coco": lambda: vsrn(flickr=False, selfalign=False),
    "vsrn-f30k": lambda: vsrn(flickr=True, selfalign=False),
    "vsrn-selfalign-coco": lambda: vsrn(flickr=False, selfalign=True),
    "vsrn-selfalign-f30k": lambda: vsrn(flickr=True, selfalign=True),
    "camera": lambda: camera(selfalign=False),
    "camera-selfalign": lambda: camera(selfalign=True),
}
SCORED: dict[str, Callable[[], Case]] = {
    "scan-t2i": lambda: scan(both=True),
    "scan-i2t": lambda: scan(both=True, cross_attn="i2t", lambda_softmax=4, lambda_lse=20.0),
    "scan-t2i-mean": lambda: scan(both=False, raw_feature_norm="softmax", agg_func="Mean"),
    "scan-i2t-max": lambda: scan(
        both=True,
        weight_norm=True,
        cross_attn="i2t",
        raw_feature_norm="no_norm",
        agg_func="Max",
        lambda_softmax=3.5,
    ),
    "sgraf-sgr": lambda: sgraf("SGR", both=True, counted=True),
    "sgraf-saf": lambda: sgraf("SAF", both=True, counted=True),
    "sgraf-saf-one-way": lambda: sgraf("SAF", both=False, counted=False),
}
CASES = EMBEDDED | SCORED
