"""A tiny random BERT with its tokenizer, as a folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def write_bert(
    folder: Path, texts: Iterable[str], *, layers: int = 1, length: int = 64, **tokenizer: bool
) -> Path:
    """An encoder of width 8 whose tokenizer knows the words of ``texts``."""
    words = [*SPECIAL, *sorted({word for text in texts for word in text.split()})]
    torch.manual_seed(0)
    settings = BertConfig(
        vocab_size=len(words),
        hidden_size=8,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=length,
    )
    BertModel(settings).save_pretrained(folder)
    vocabulary = {word: index for index, word in enumerate(words)}
    BertTokenizerFast(vocab=vocabulary, **tokenizer).save_pretrained(folder)
    return folder
