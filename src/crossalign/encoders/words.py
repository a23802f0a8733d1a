"""Words: a word-level tokenizer and a bidirectional GRU."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from crossalign.encoders.pooling import build_pooling
from crossalign.encoding import Encoding
from crossalign.errors import CrossAlignError

__all__ = ["GRUEncoder", "WordTokenizer"]

PADDING, UNKNOWN = "<pad>", "<unk>"


class WordTokenizer:
    """Lower-cased words and punctuation marks to ids; words outside the vocabulary become ``<unk>``."""

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
    def build(cls, texts: Iterable[str], *, min_count: int = 4, max_length: int = 64) -> WordTokenizer:
        """Learn the vocabulary: every word that stands at least ``min_count`` times in ``texts``."""
        tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer = trainers.WordLevelTrainer(
            min_frequency=min_count,
            special_tokens=[PADDING, UNKNOWN],
            show_progress=False,
            vocab_size=1_000_000,
        )
        tokenizer.train_from_iterator(texts, trainer)
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
        """Character span ``(start, end)`` of each token of one text."""
        return [(int(start), int(end)) for start, end in self.tokenizer.encode(text).offsets]


class GRUEncoder(nn.Module):
    """Word embeddings, one projection, a bidirectional GRU whose directions are averaged, pooling.

    The text encoder of VSE-infinity (``pooling="gpo"``) and, with ``pooling="last"`` and one direction, of VSE++.

    Args:
        vocabulary: number of token ids; id 0 is padding.
        dim: D, joint width.
        word_dim: width of the word embeddings.
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
        self.projection = nn.Linear(word_dim, dim)
        self.gru = nn.GRU(dim, dim, batch_first=True, bidirectional=bidirectional)
        self.pooling = None if pooling == "last" else build_pooling(pooling, dim)

    def forward(self, tokens: Tensor, mask: Tensor) -> Encoding:
        """Encode token ids ``(B, W)`` whose real tokens, ``mask`` ``(B, W)``, stand in front."""
        projected = self.projection(self.dropout(self.embedding(tokens)))
        lengths = mask.sum(dim=1)
        packed = pack_padded_sequence(projected, lengths.cpu(), batch_first=True, enforce_sorted=False)
        states, last = self.gru(packed)
        context, _ = pad_packed_sequence(states, batch_first=True, total_length=tokens.shape[1])
        if self.gru.bidirectional:
            context = (context[..., : context.shape[-1] // 2] + context[..., context.shape[-1] // 2 :]) / 2
        pooled = last.mean(dim=0) if self.pooling is None else self.pooling(context, mask)
        return Encoding(
            embedding=F.normalize(pooled, dim=-1),
            locals=F.normalize(projected, dim=-1),
            context=context,
            mask=mask,
        )
