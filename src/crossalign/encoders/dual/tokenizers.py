"""Tokenizers of dual encoders: open_clip's own, and those of Hugging Face."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from crossalign.errors import CrossAlignError

__all__ = ["HuggingFaceTokenizer", "SimpleTokenizer"]


class _Words:
    """What is a word among the tokens."""

    special: frozenset[int]

    def words(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Mask ``(B, L)`` of the tokens that are part of a word; of a text without words, its real ones."""
        special = torch.tensor(sorted(self.special), device=tokens.device)
        found = mask & ~torch.isin(tokens, special)
        return torch.where(found.any(dim=1, keepdim=True), found, mask)


class SimpleTokenizer(_Words):
    """The byte-pair tokenizer that comes with open_clip, with its vocabulary.

    Args:
        tokenizer: an ``open_clip.SimpleTokenizer``.
        context_length: L, tokens of a text at most.
        fixed_length: pad every text to L, for a network that sees padding.
    """

    def __init__(self, tokenizer: Any, context_length: int, fixed_length: bool) -> None:
        self.tokenizer = tokenizer
        self.context_length = context_length
        self.fixed_length = fixed_length
        self.special = frozenset({tokenizer.sot_token_id, tokenizer.eot_token_id})

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        tokens: Tensor = self.tokenizer(list(texts), context_length=self.context_length)
        return _trimmed(tokens, _until(tokens, self.tokenizer.eot_token_id), self.fixed_length)

    def offsets(self, text: str) -> list[tuple[int, int]]:
        cleaned: str = self.tokenizer.clean_fn(text)
        places = _placed(text, cleaned)
        spans: list[tuple[int, int]] = []
        for match in self.tokenizer.pat.finditer(cleaned):
            raw = match.group().encode()
            encoded = "".join(self.tokenizer.byte_encoder[byte] for byte in raw)
            end = 0
            for piece in self.tokenizer.bpe(encoded).split(" "):
                begin, end = end, end + len(piece.removesuffix("</w>"))
                # A piece may end within the bytes of one character.
                first, last = (len(raw[:place].decode(errors="ignore")) for place in (begin, end))
                spans.append(_original(places, match.start() + first, match.start() + last))
        return [(0, 0), *spans[: self.context_length - 2], (0, 0)]

    def described(self) -> str:
        digest = _digest(self.tokenizer.encoder)
        return json.dumps(["open_clip", digest, self.context_length, self.fixed_length])


class HuggingFaceTokenizer(_Words):
    """A tokenizer of transformers, as CLIP's, SigLIP's and BLIP's.

    Args:
        tokenizer: of ``transformers``.
        context_length: L, tokens of a text at most.
        fixed_length: pad every text to L, for a network that sees padding.
        clean: applied to a text first.
        blanked: id that becomes 0, as some weights were trained.
    """

    def __init__(
        self,
        tokenizer: Any,
        context_length: int,
        fixed_length: bool,
        clean: Callable[[str], str] | None = None,
        blanked: int | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.context_length = context_length
        self.fixed_length = fixed_length
        self.clean = clean
        self.blanked = blanked
        names = ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "pad_token_id")
        found = (getattr(tokenizer, name, None) for name in names)
        self.special = frozenset(token for token in found if token is not None)
        self.special |= {0} if blanked is not None else set()

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        cleaned = [self.clean(text) for text in texts] if self.clean is not None else list(texts)
        batch = self.tokenizer(
            cleaned,
            padding="max_length",
            truncation=True,
            max_length=self.context_length,
            return_attention_mask=True,
            return_tensors="pt",
        )
        tokens, mask = batch["input_ids"], batch["attention_mask"].bool()
        if self.tokenizer.padding_side != "right":
            raise CrossAlignError(
                "the dual encoder's tokenizer pads on the left; set its padding_side to right"
            )
        if self.blanked is not None:
            tokens = tokens.masked_fill(tokens == self.blanked, 0)
        return _trimmed(tokens, mask, self.fixed_length)

    def offsets(self, text: str) -> list[tuple[int, int]]:
        cleaned = self.clean(text) if self.clean is not None else text
        if not self.tokenizer.is_fast:
            raise CrossAlignError(
                f"a {type(self.tokenizer).__name__} does not tell where its tokens stand in a text; save the model "
                "with a tokenizer.json"
            )
        batch = self.tokenizer(
            cleaned, truncation=True, max_length=self.context_length, return_offsets_mapping=True
        )
        places = _placed(text, cleaned)
        return [_original(places, int(start), int(end)) for start, end in batch["offset_mapping"]]

    def described(self) -> str:
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        rules: Any = sorted(self.tokenizer.get_vocab().items())
        if backend is not None:
            # Every call leaves its own truncation and padding behind.
            rules = json.loads(backend.to_str()) | {"truncation": None, "padding": None}
        return json.dumps([rules, self.context_length, self.fixed_length, self.blanked], sort_keys=True)


def _digest(vocabulary: dict[str, int]) -> str:
    """SHA-256 over words and their ids."""
    return hashlib.sha256(json.dumps(sorted(vocabulary.items())).encode()).hexdigest()


def _until(tokens: Tensor, end: int) -> Tensor:
    """Mask ``(B, L)``: tokens up to the first ``end``, and that itself."""
    length = (tokens == end).int().argmax(dim=1, keepdim=True)
    return torch.arange(tokens.shape[1]) <= length


def _trimmed(tokens: Tensor, mask: Tensor, fixed_length: bool) -> tuple[Tensor, Tensor]:
    """Without the columns that are padding in every row, unless the length is fixed."""
    width = tokens.shape[1] if fixed_length else max(1, int(mask.sum(dim=1).max()))
    return tokens[:, :width].contiguous(), mask[:, :width].contiguous()


def _placed(text: str, cleaned: str) -> list[int]:
    """Where in ``text`` each character of ``cleaned`` comes from: cleaning lowers and leaves out."""
    if text == cleaned:
        return list(range(len(text)))
    places, cursor = [], 0
    for character in cleaned:
        found = next(
            (place for place in range(cursor, len(text)) if _same(text[place], character)),
            None,
        )
        places.append(min(cursor, max(len(text) - 1, 0)) if found is None else found)
        cursor = cursor if found is None else found + 1
    return places


def _same(left: str, right: str) -> bool:
    return left.lower() == right.lower() or (left.isspace() and right.isspace())


def _original(places: list[int], start: int, end: int) -> tuple[int, int]:
    """A span of the cleaned text in the text itself; an empty one is that of a special token."""
    return (0, 0) if end <= start else (places[start], places[end - 1] + 1)
