"""The word tokenizer and the GRU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from crossalign.encoders.words import GRUEncoder, Splitting, WordTokenizer
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


@pytest.mark.parametrize("splitting", ["plain", "treebank"])
def test_unknown_words_are_named_once_in_order_and_as_written(splitting: Splitting) -> None:
    tokenizer = WordTokenizer.build(TEXTS, min_count=1, max_length=9, splitting=splitting, borders=True)
    found = tokenizer.unknown_words("A Zebra, a giraffe — the zebra!? Étage DOG")
    assert found == ("Zebra", "giraffe")  # the cut is before the last words, the marks are none
    assert tokenizer.unknown_words("Étage of a dog") == ("Étage", "of")
    for known in ("a dog sleeps", "?! …", "", " "):
        assert tokenizer.unknown_words(known) == ()


def test_tokenizer_file_round_trip_and_damage(tmp_path: Path) -> None:
    tokenizer = WordTokenizer.build(TEXTS, min_count=1)
    path = tmp_path / "tokenizer.json"
    path.write_text(tokenizer.to_json())
    assert torch.equal(WordTokenizer.load(path)(TEXTS)[0], tokenizer(TEXTS)[0])
    path.write_text(tokenizer.to_json()[:50])
    with pytest.raises(CrossAlignError, match=r"tokenizer\.json"):
        WordTokenizer.load(path)


def test_borders_stand_around_every_text_and_survive_the_cut(tmp_path: Path) -> None:
    tokenizer = WordTokenizer.build(TEXTS, min_count=1, max_length=4, borders=True)
    start, end = (tokenizer.tokenizer.token_to_id(word) for word in ("<start>", "<end>"))
    tokens, mask = tokenizer(["a dog runs a dog", "", "cat"])
    assert tokens[:, 0].tolist() == [start] * 3
    assert tokens[torch.arange(3), mask.sum(dim=1) - 1].tolist() == [end] * 3
    assert mask.sum(dim=1).tolist() == [4, 3, 3]
    assert tokens[1, 1] == tokenizer.unknown
    assert tokenizer.offsets("a cat") == [(0, 0), (0, 1), (2, 5), (0, 0)]
    path = tmp_path / "tokenizer.json"
    path.write_text(tokenizer.to_json())
    assert torch.equal(WordTokenizer.load(path, 4)(TEXTS)[0], tokenizer(TEXTS)[0])


def test_the_treebank_counts_words_differently(tmp_path: Path) -> None:
    texts = ["The man's t-shirt isn't red."]
    plain, treebank = (
        WordTokenizer.build(texts, min_count=1, splitting=splitting) for splitting in ("plain", "treebank")
    )
    assert [texts[0][start:end] for start, end in treebank.offsets(texts[0])] == [
        "The", "man", "'s", "t-shirt", "is", "n't", "red", "."
    ]  # fmt: skip
    assert len(plain.offsets(texts[0])) == 12
    path = tmp_path / "tokenizer.json"
    path.write_text(treebank.to_json())
    assert WordTokenizer.load(path).offsets(texts[0]) == treebank.offsets(texts[0])


def test_a_given_vocabulary_keeps_its_ids() -> None:
    words = ["<pad>", "<start>", "<end>", "<unk>", "t-shirt", "red", "a"]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = WordTokenizer.of(vocabulary, splitting="treebank", borders=True)
    assert tokenizer.size == 7
    assert tokenizer(["A red T-shirt now"])[0].tolist() == [[1, 6, 5, 4, 3, 2]]
    assert WordTokenizer.of(vocabulary)(["a red"])[0].tolist() == [[6, 5]]
    assert tokenizer(["", "a a"])[0].tolist() == [[1, 3, 2, 0], [1, 6, 6, 2]]


@pytest.mark.parametrize(
    ("vocabulary", "reason"),
    [
        ({"<pad>": 0, "<unk>": 2}, "not 0, 1, 2"),
        ({"<pad>": 0, "<unk>": 1, "a": 1}, "not 0, 1, 2"),
        ({"<pad>": 0, "<unk>": 1, "<start>": 2}, "has no <end>"),
        ({"a": 0, "<unk>": 1, "<start>": 2, "<end>": 3}, "has no <pad>"),
        ({"<pad>": 3, "<unk>": 1, "<start>": 2, "<end>": 0}, "no <pad> with id 0"),
    ],
)
def test_a_vocabulary_that_does_not_fit_is_refused(vocabulary: dict[str, int], reason: str) -> None:
    with pytest.raises(CrossAlignError, match=reason):
        WordTokenizer.of(vocabulary, borders=True)


def test_without_projection_the_gru_reads_the_words_themselves() -> None:
    """The same as a projection that only fills the words up with zeros."""
    torch.manual_seed(0)
    bare = GRUEncoder(20, 8, word_dim=6, projection=False)
    filled = GRUEncoder(20, 8, word_dim=6)
    assert filled.projection is not None
    with torch.no_grad():
        filled.embedding.weight.copy_(bare.embedding.weight)
        filled.projection.weight.copy_(torch.eye(8, 6))
        filled.projection.bias.zero_()
        for name, weight in bare.gru.named_parameters():
            target = getattr(filled.gru, name)
            target.zero_()
            target[..., : weight.shape[-1]] = weight
    assert filled.pooling is not None
    assert bare.pooling is not None
    filled.pooling.load_state_dict(bare.pooling.state_dict())
    tokens = torch.randint(1, 20, (3, 5))
    mask = torch.arange(5) < torch.tensor([5, 2, 4])[:, None]
    one, two = bare(tokens, mask), filled(tokens, mask)
    torch.testing.assert_close(one.embedding, two.embedding)
    torch.testing.assert_close(one.context, two.context)
    # Only the states are in the joint space.
    torch.testing.assert_close(one.locals, torch.nn.functional.normalize(one.context, dim=-1))
    assert "projection.weight" not in bare.state_dict()


@pytest.mark.parametrize("pooling", ["mean", "max", "gpo", "last"])
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("projection", [True, False])
def test_padding_has_no_influence(pooling: str, bidirectional: bool, projection: bool) -> None:
    torch.manual_seed(0)
    encoder = GRUEncoder(
        20,
        8,
        word_dim=6,
        pooling=pooling,
        bidirectional=bidirectional,
        projection=projection,  # type: ignore[arg-type]
    ).eval()
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
