"""Words: a word-level tokenizer and a bidirectional GRU."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from crossalign.encoders.pooling import build_pooling
from crossalign.encoders.treebank import treebank_normalizer, treebank_words
from crossalign.encoding import Encoding
from crossalign.errors import CrossAlignError

__all__ = ["GRUEncoder", "Splitting", "WordTokenizer"]

PADDING, UNKNOWN = "<pad>", "<unk>"
START, END = "<start>", "<end>"
Splitting = Literal["plain", "treebank"]


class WordTokenizer:
    """Lower-cased words and punctuation marks to ids; words outside the vocabulary become ``<unk>``.

    What a word is, and whether a text stands between ``<start>`` and ``<end>``, is part of the ``tokenizer.json``.
    """

    def __init__(self, tokenizer: Tokenizer, max_length: int = 64) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.tokenizer.enable_truncation(max_length)
        padding, unknown = tokenizer.token_to_id(PADDING), tokenizer.token_to_id(UNKNOWN)
        if padding != 0 or unknown is None:
            raise CrossAlignError(f"the tokenizer has no {PADDING} with id 0 or no {UNKNOWN}; build it anew")
        self.tokenizer.enable_padding(pad_id=padding, pad_token=PADDING)
        self.unknown: int = unknown

    @classmethod
    def build(
        cls,
        texts: Iterable[str],
        *,
        min_count: int = 4,
        max_length: int = 64,
        splitting: Splitting = "plain",
        borders: bool = False,
    ) -> WordTokenizer:
        """Learn the vocabulary: every word that stands at least ``min_count`` times in ``texts``.

        Args:
            splitting: ``"plain"``: letters and digits are words, any other mark stands alone; ``"treebank"``: see
                :func:`~crossalign.encoders.treebank.treebank_words`.
            borders: begin every text with ``<start>`` and end it with ``<end>``.
        """
        tokenizer = _splitter(Tokenizer(models.WordLevel(unk_token=UNKNOWN)), splitting)
        trainer = trainers.WordLevelTrainer(
            min_frequency=min_count,
            special_tokens=[PADDING, UNKNOWN, *([START, END] if borders else [])],
            show_progress=False,
            vocab_size=1_000_000,
        )
        tokenizer.train_from_iterator(texts, trainer)
        if borders:
            _add_borders(tokenizer)
        return cls(tokenizer, max_length)

    @classmethod
    def of(
        cls,
        vocabulary: Mapping[str, int],
        *,
        max_length: int = 64,
        splitting: Splitting = "plain",
        borders: bool = False,
    ) -> WordTokenizer:
        """A tokenizer of a given vocabulary; its ids stay as they are. For the others see :meth:`build`.

        Raises:
            CrossAlignError: the ids are not 0, 1, 2 ..., id 0 is not ``<pad>``, or a special word is missing.
        """
        if sorted(vocabulary.values()) != list(range(len(vocabulary))):
            raise CrossAlignError("the vocabulary's ids are not 0, 1, 2 ... without gap and repetition")
        special = [PADDING, UNKNOWN, *([START, END] if borders else [])]
        missing = [word for word in special if word not in vocabulary]
        if missing:
            raise CrossAlignError(f"the vocabulary has no {', '.join(missing)}")
        model = models.WordLevel(vocab=dict(vocabulary), unk_token=UNKNOWN)
        tokenizer = _splitter(Tokenizer(model), splitting)
        tokenizer.add_special_tokens(special)
        if borders:
            _add_borders(tokenizer)
        return cls(tokenizer, max_length)

    @classmethod
    def load(cls, path: str | Path, max_length: int = 64) -> WordTokenizer:
        """Read a ``tokenizer.json``."""
        try:
            return cls(Tokenizer.from_file(str(path)), max_length)
        except Exception as error:  # the library raises bare Exception
            raise CrossAlignError(
                f"{path}: not a readable tokenizer ({error}); save the model again"
            ) from None

    def to_json(self) -> str:
        """The tokenizer as the text of its ``tokenizer.json``."""
        return self.tokenizer.to_str(pretty=True)

    @property
    def size(self) -> int:
        """Number of ids, padding and unknown included."""
        return int(self.tokenizer.get_vocab_size())

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids ``(B, W)`` and mask ``(B, W)``. A text without any word becomes one unknown word."""
        encodings = self.tokenizer.encode_batch_fast([text if text.strip() else UNKNOWN for text in texts])
        tokens = torch.tensor([encoding.ids for encoding in encodings], dtype=torch.long)
        mask = torch.tensor([encoding.attention_mask for encoding in encodings], dtype=torch.bool)
        return tokens, mask

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Character span ``(start, end)`` of each token of one text; ``(0, 0)`` for its borders."""
        return [(int(start), int(end)) for start, end in self.tokenizer.encode(text).offsets]

    def unknown_words(self, text: str) -> tuple[str, ...]:
        """The words of a text that become ``<unk>``, each once, in order and as they are written.

        Punctuation marks are left out, and so is what a longer text has after ``max_length`` tokens.
        """
        found = self.tokenizer.encode(text)
        named: dict[str, str] = {}
        for token, (start, end) in zip(found.ids, found.offsets, strict=True):
            word = text[start:end]
            if token == self.unknown and any(map(str.isalnum, word)):
                named.setdefault(word.lower(), word)
        return tuple(named.values())


def _splitter(tokenizer: Tokenizer, splitting: Splitting) -> Tokenizer:
    if splitting == "treebank":
        tokenizer.normalizer = treebank_normalizer()
        tokenizer.pre_tokenizer = treebank_words()
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def _add_borders(tokenizer: Tokenizer) -> None:
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}",
        special_tokens=[(word, tokenizer.token_to_id(word)) for word in (START, END)],
    )


class GRUEncoder(nn.Module):
    """Word embeddings, one projection, a bidirectional GRU whose directions are averaged, pooling.

    The text encoder of VSE-infinity (``pooling="gpo"``) and, with ``pooling="last"`` and one direction, of VSE++ and
    VSRN. All of these let the GRU read the word embeddings themselves (``projection=False``); SelfAlign's VSRN has
    the projection.

    Args:
        vocabulary: number of token ids; id 0 is padding.
        dim: D, joint width.
        word_dim: width of the word embeddings.
        projection: map word embeddings linearly into the joint space before the GRU. Without it, words are in the
            joint space after the GRU alone, and ``locals`` are its states.
        pooling: ``"mean"``, ``"max"``, ``"gpo"``, or ``"last"`` for the last state of each direction.
        bidirectional: read the words backwards, too.
        dropout: probability of dropping a feature of a word's embedding.
    """

    def __init__(
        self,
        vocabulary: int,
        dim: int,
        *,
        word_dim: int = 300,
        projection: bool = True,
        pooling: Literal["mean", "max", "gpo", "last"] = "gpo",
        bidirectional: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, word_dim, padding_idx=0)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        with torch.no_grad():
            self.embedding.weight[0].zero_()
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(word_dim, dim) if projection else None
        self.gru = nn.GRU(dim if projection else word_dim, dim, batch_first=True, bidirectional=bidirectional)
        self.pooling = None if pooling == "last" else build_pooling(pooling, dim)

    def forward(self, tokens: Tensor, mask: Tensor) -> Encoding:
        """Encode token ids ``(B, W)`` whose real tokens, ``mask`` ``(B, W)``, stand in front."""
        words = self.dropout(self.embedding(tokens))
        if self.projection is not None:
            words = self.projection(words)
        lengths = mask.sum(dim=1)
        packed = pack_padded_sequence(words, lengths.cpu(), batch_first=True, enforce_sorted=False)
        states, last = self.gru(packed)
        context, _ = pad_packed_sequence(states, batch_first=True, total_length=tokens.shape[1])
        if self.gru.bidirectional:
            context = (context[..., : context.shape[-1] // 2] + context[..., context.shape[-1] // 2 :]) / 2
        pooled = last.mean(dim=0) if self.pooling is None else self.pooling(context, mask)
        return Encoding(
            embedding=F.normalize(pooled, dim=-1),
            locals=F.normalize(words if self.projection is not None else context, dim=-1),
            context=context,
            mask=mask,
        )
