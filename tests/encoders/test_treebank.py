"""Words as the Penn Treebank counts them: the expected splits are what NLTK 3.4.5 gives for the same captions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crossalign.encoders.treebank import treebank_normalizer, treebank_words

CASES = {
    "A man in a T-shirt and jeans .": "a man in a t-shirt and jeans .",
    "Two dogs run, and one doesn't.": "two dogs run , and one does n't .",
    "The man's dogs' bowl can't cost 1,000 or 3.5 dollars": (
        "the man 's dogs ' bowl ca n't cost 1,000 or 3.5 dollars"
    ),
    'A sign reads "Stop here" on a pole.': "a sign reads `` stop here '' on a pole .",
    '"Go!" she said': "`` go ! '' she said",
    "a man (with a hat) and/or a woman": "a man ( with a hat ) and/or a woman",
    "he cannot move... they're gonna wait": "he can not move ... they 're gon na wait",
    "the score is 3:2 at 10:30 : a draw": "the score is 3:2 at 10:30 : a draw",
    "black--and white; red & blue 50%": "black -- and white ; red & blue 50 %",
    "slip 'n' slide, rock 'n roll": "slip ' n ' slide , rock ' n roll",
    "'tis a dog's 'bed'": "'t is a dog 's 'bed '",
    "U.S. flag at 5 p.m. in Washington D.C.": "u.s. flag at 5 p.m. in washington d.c .",
    "A [blurred] {photo} <here>": "a [ blurred ] { photo } < here >",
    "I'm sure you've seen what he'd do and she'll say": (
        "i 'm sure you 've seen what he 'd do and she 'll say"
    ),
    "Mr. Smith and Dr. Who": "mr. smith and dr. who",
    "\tA  dog\nruns ": "a dog runs",
    "": "",
}


@pytest.mark.parametrize(("text", "words"), CASES.items())
def test_words_of_a_caption(text: str, words: str) -> None:
    found = treebank_words().pre_tokenize_str(treebank_normalizer().normalize_str(text))
    assert [word for word, _ in found] == words.split()


def test_a_sentence_may_end_inside_a_caption() -> None:
    found = treebank_words().pre_tokenize_str("a dog by her side. a second one.")
    assert [word for word, _ in found] == ["a", "dog", "by", "her", "side", ".", "a", "second", "one", "."]


def test_spans_point_at_the_characters() -> None:
    text = "the man's dog isn't here."
    found = treebank_words().pre_tokenize_str(text)
    assert [text[start:end] for _, (start, end) in found] == [
        "the",
        "man",
        "'s",
        "dog",
        "is",
        "n't",
        "here",
        ".",
    ]


def test_nothing_of_real_captions_is_lost(shared_data: Path) -> None:
    images = json.loads((shared_data / "flickr8k" / "dataset_flickr8k.json").read_text())["images"]
    normalizer, words = treebank_normalizer(), treebank_words()
    for image in images[:500]:
        for sentence in image["sentences"]:
            text = normalizer.normalize_str(sentence["raw"])
            found = "".join(word for word, _ in words.pre_tokenize_str(text))
            assert found == "".join(text.split())
