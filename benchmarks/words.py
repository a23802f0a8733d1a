"""Whether captions are split into words as the published vocabularies were made: with NLTK's word tokenizer.

Needs NLTK (pip install nltk), which the project itself does not. Its sentence model is a download of its own and is
not used: every caption counts as one sentence on both sides, so that a period inside a caption may make a difference
that it does not make to the published code.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

import nltk

from _common import write_result
from crossalign.encoders.treebank import treebank_normalizer, treebank_words
from crossalign.encoders.words import WordTokenizer


def captions(data: Path) -> list[str]:
    """Those of Flickr8k, of 600 photos of COCO, and of Flickr30K's validation and test splits."""
    found = []
    for name in ("flickr8k/dataset_flickr8k.json", "coco-train600/dataset_coco.json"):
        images = json.loads((data / name).read_text())["images"]
        found += [sentence["raw"] for image in images for sentence in image["sentences"]]
    for split in ("dev", "test"):
        found += (data / "scan-precomp-captions" / f"{split}_caps.txt").read_text().splitlines()
    return [caption.strip() for caption in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, help="folder of the shared data")
    texts = captions(parser.parse_args().data)
    normalizer, words = treebank_normalizer(), treebank_words()
    plain = WordTokenizer.build(["a"], min_count=1).tokenizer
    counts: Counter[str] = Counter()
    examples = []
    for text in texts:
        expected = nltk.word_tokenize(text.lower(), preserve_line=True)
        ours = [word for word, _ in words.pre_tokenize_str(normalizer.normalize_str(text))]
        counts["treebank"] += ours != expected
        others = plain.pre_tokenizer.pre_tokenize_str(plain.normalizer.normalize_str(text))
        counts["plain"] += [word for word, _ in others] != expected
        if ours != expected:
            examples.append({"caption": text, "ours": ours, "nltk": expected})
    path = write_result(
        "words",
        {
            "nltk": nltk.__version__,
            "captions": len(texts),
            "split_otherwise": dict(counts),
            "examples": examples,
        },
    )
    print(
        f"{path}: of {len(texts)} captions {counts['treebank']} are split otherwise, plainly {counts['plain']}"
    )


if __name__ == "__main__":
    main()
