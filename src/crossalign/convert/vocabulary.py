"""Vocabulary files of published code, and the tokenizer that gives every word the id it had there."""

from __future__ import annotations

from pathlib import Path

from crossalign.convert.admitted import Attributes
from crossalign.convert.unpickle import read_pickled
from crossalign.encoders.words import WordTokenizer
from crossalign.errors import CrossAlignError
from crossalign.files import read_json

__all__ = ["published_tokenizer", "read_vocabulary"]

# The published code cuts no caption.
LONGEST = 512


def read_vocabulary(path: str | Path) -> dict[str, int]:
    """Words and their ids from a ``*_vocab.json`` or a ``*_vocab.pkl``: the map ``word2idx`` in it.

    Raises:
        CrossAlignError: the file cannot be read or has no such map.
    """
    path = Path(path)
    content = read_json(path) if path.suffix == ".json" else read_pickled(path)
    if isinstance(content, Attributes):
        content = content.values
    words = content.get("word2idx") if isinstance(content, dict) else None
    if not isinstance(words, dict) or not all(
        isinstance(word, str) and type(index) is int for word, index in words.items()
    ):
        raise CrossAlignError(
            f"{path}: no vocabulary: there is no map 'word2idx' from words to numbers; "
            "give the *_vocab.json or *_vocab.pkl of the published code"
        )
    return dict(words)


def published_tokenizer(path: str | Path, rows: int, *, mask_word: bool = False) -> WordTokenizer:
    """The tokenizer of the code that descends from VSE++: Treebank words between ``<start>`` and ``<end>``.

    Args:
        path: the vocabulary file.
        rows: of the checkpoint's word embeddings.
        mask_word: the code adds ``<mask>`` to the vocabulary after it was read.

    Raises:
        CrossAlignError: the vocabulary is not that of the checkpoint, or is none.
    """
    words = read_vocabulary(path)
    if mask_word and "<mask>" not in words:
        words["<mask>"] = len(words)
    if len(words) != rows:
        raise CrossAlignError(
            f"{path}: {len(words)} words, but the checkpoint has embeddings of {rows}; give the vocabulary that it "
            "was trained with"
        )
    try:
        return WordTokenizer.of(words, max_length=LONGEST, splitting="treebank", borders=True)
    except CrossAlignError as error:
        raise CrossAlignError(f"{path}: {error}; give the vocabulary file as it was published") from None
