"""Word classes of captions, by a tagger that needs no download."""

from __future__ import annotations

import sys

import pytest

from crossalign.data.word_classes import classified_words
from crossalign.errors import CrossAlignError


def found(text: str) -> dict[str, list[str]]:
    """The words of each class."""
    classes: dict[str, list[str]] = {}
    for word in next(classified_words([text])):
        classes.setdefault(word.word_class or "others", []).append(text[word.start : word.end])
    return classes


@pytest.mark.parametrize(
    ("text", "nouns", "adjectives", "verbs", "numerals"),
    [
        (
            "Two young boys are running through the shallow water .",
            "boys water", "young shallow", "are running", "Two",
        ),
        ("a black dog jumps over the 2nd hurdle.", "dog hurdle", "black", "jumps", "2nd"),
        ("Three people stand on top of a snowy mountain!", "people top mountain", "snowy", "stand", "Three"),
        ("the man’s t-shirt is red", "man t-shirt", "red", "is", ""),
    ],
)  # fmt: skip
def test_words_have_their_classes(text: str, nouns: str, adjectives: str, verbs: str, numerals: str) -> None:
    pytest.importorskip("HanTa")
    expected = {"nouns": nouns, "adjectives": adjectives, "verbs": verbs, "numerals": numerals}
    classes = found(text)
    assert {name: classes.get(name, []) for name in expected} == {
        name: words.split() for name, words in expected.items()
    }


def test_every_mark_and_letter_belongs_to_one_word_and_empty_texts_have_none() -> None:
    pytest.importorskip("HanTa")
    text = 'a "red" ball; 3.5 cats\' tails'
    whole, empty, blank = classified_words([text, "", "  "])
    covered = [place for word in whole for place in range(word.start, word.end)]
    assert covered == [place for place, letter in enumerate(text) if not letter.isspace()]
    assert empty == blank == []


def test_without_the_package_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "HanTa", None)
    with pytest.raises(
        CrossAlignError, match=r"objective\.lca\.words\) needs .*pip install .crossalign\[tagger\]"
    ):
        next(classified_words(["a dog"]))
