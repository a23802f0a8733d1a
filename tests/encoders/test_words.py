"""The word tokenizer and the GRU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from crossalign.encoders.words import GRUEncoder, WordTokenizer
from crossalign.errors import CrossAlignError

TEXTS = ["A dog runs.", "a dog sleeps", "The DOG barks!", "a cat"]


def test_vocabulary_counts_lower_cased_words_and_marks() -> None:
    tokenizer = WordTokenizer.build(TEXTS, min_count=3)
    assert tokenizer.size == 4  # <pad> <unk> a dog
    tokens, mask = tokenizer(["A dog!", "Dog", "zebra"])
    assert mask.tolist() == [[True, True, True], [True, False, False], [True, False, False]]
    assert tokens[0, 1] == tokens[1, 0]
    assert tokens[0, 2] == tokens[2, 0] == tokenizer.unknown
    assert tokens[1, 1] == 0


def test_empty_text_is_one_unknown_word_and_long_text_is_cut() -> None:
    tokenizer = WordTokenizer.build(TEXTS, min_count=1, max_length=3)
    tokens, mask = tokenizer(["", "a dog runs a dog runs"])
    assert mask.sum(dim=1).tolist() == [1, 3]
    assert tokens[0, 0] == tokenizer.unknown


def test_offsets_point_at_the_words() -> None:
    tokenizer = WordTokenizer.build(TEXTS, min_count=1)
    text = "The dog barks!"
    assert [text[start:end] for start, end in tokenizer.offsets(text)] == ["The", "dog", "barks", "!"]


def test_tokenizer_file_round_trip_and_damage(tmp_path: Path) -> None:
    tokenizer = WordTokenizer.build(TEXTS, min_count=1)
    path = tmp_path / "tokenizer.json"
    path.write_text(tokenizer.to_json())
    assert torch.equal(WordTokenizer.load(path)(TEXTS)[0], tokenizer(TEXTS)[0])
    path.write_text(tokenizer.to_json()[:50])
    with pytest.raises(CrossAlignError, match=r"tokenizer\.json"):
        WordTokenizer.load(path)


@pytest.mark.parametrize("pooling", ["mean", "max", "gpo", "last"])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_padding_has_no_influence(pooling: str, bidirectional: bool) -> None:
    torch.manual_seed(0)
    encoder = GRUEncoder(20, 8, word_dim=6, pooling=pooling, bidirectional=bidirectional).eval()  # type: ignore[arg-type]
    tokens = torch.randint(2, 20, (3, 7))
    mask = torch.arange(7) < torch.tensor([7, 4, 1])[:, None]
    full = encoder(tokens, mask)
    for row, length in enumerate([7, 4, 1]):
        alone = encoder(tokens[row : row + 1, :length], mask[row : row + 1, :length])
        torch.testing.assert_close(full.embedding[row], alone.embedding[0], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(full.context[row, :length], alone.context[0], atol=1e-6, rtol=1e-5)
    garbage = encoder(torch.where(mask, tokens, 19), mask)
    assert torch.equal(garbage.embedding, full.embedding)


def test_embedding_and_locals_have_unit_norm() -> None:
    torch.manual_seed(0)
    encoder = GRUEncoder(20, 8)
    encoding = encoder(torch.randint(1, 20, (4, 5)), torch.ones(4, 5, dtype=torch.bool))
    torch.testing.assert_close(encoding.embedding.norm(dim=-1), torch.ones(4))
    torch.testing.assert_close(encoding.locals.norm(dim=-1), torch.ones(4, 5))
