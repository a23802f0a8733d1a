"""Words as the Penn Treebank counts them, which is how the vocabularies of most published models were made."""

from __future__ import annotations

from tokenizers import Regex, normalizers, pre_tokenizers
from tokenizers.normalizers import Normalizer
from tokenizers.pre_tokenizers import PreTokenizer

__all__ = ["treebank_normalizer", "treebank_words"]

_CLOSING = r"""['"’”»)\]}>]*"""
# Titles and the like whose period does not end a sentence.
_ABBREVIATIONS = r"\bmr|\bmrs|\bms|\bdr|\bst|\bjr|\bsr|\bvs"
# At the very end a period stands alone whatever it follows; before that, unless it belongs to an abbreviation.
_SENTENCE_END = rf"(?<!\.)\.(?={_CLOSING}\s*$)|(?<!\.|\.\w|\b\w|{_ABBREVIATIONS})\.(?={_CLOSING}\s)"
_MARKS = r"``|''|`+|\.{2,}|--|[;@#$%&?!*()\[\]{}<>«»“”‘’„]|[:,](?!\d)"
_ENDINGS = r"(?<=[^'])(?:n't|'(?:ll|re|ve|s|m|d)?)$"
_BEGINNINGS = (
    r"^can(?=not$)|^gon(?=na$)|^wan(?=na$)|^gim(?=me$)|^lem(?=me$)|^got(?=ta$)"
    r"|^d(?='ye$)|^more(?='n$)|^'t(?=is$|was$)|^'(?=[^\Wmtsd]$)"
)


def treebank_normalizer() -> Normalizer:
    """Lower case, and double quotes as the Treebank writes them: two backticks open, two apostrophes close."""
    return normalizers.Sequence(
        [
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r'(?<![^\s(\[{<])"'), "``"),
            normalizers.Replace('"', "''"),
        ]
    )


def treebank_words() -> PreTokenizer:
    """Splits what :func:`treebank_normalizer` returns into words and marks.

    The rules are those of the Penn Treebank's tokenizer script as NLTK applies them: ``t-shirt``, ``3.5`` and
    ``and/or`` are one word, ``doesn't`` is ``does n't``, ``man's`` is ``man 's``. NLTK finds sentences by a trained
    model first; here a word's last period ends a sentence unless the word is an initial, has periods inside or is
    one of a few titles.
    """
    patterns = (_MARKS, _ENDINGS, _BEGINNINGS)
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SENTENCE_END), "isolated"),
            pre_tokenizers.WhitespaceSplit(),
            *(pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns),
        ]
    )
