"""Words choose the regions that hand-made vectors say they must."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from hand_made import encoded, grid, said

from crossalign.errors import CrossAlignError
from crossalign.explain.correspondence import WordRegion, correspond
from crossalign.explain.words import caption_words


def test_words_of_a_caption() -> None:
    words = caption_words("It's a mid-sized dog’s house, naïve 写真 (2 of 3)!")
    assert [word.text for word in words] == [
        "It's", "a", "mid", "sized", "dog’s", "house", "naïve", "写真", "2", "of", "3",
    ]  # fmt: skip
    assert all(
        word.text == "It's a mid-sized dog’s house, naïve 写真 (2 of 3)!"[word.start : word.end]
        for word in words
    )
    assert [word.text for word in words if not word.names] == ["a", "of"]
    assert caption_words(" .,!_ ") == []


def test_each_word_takes_its_region_and_the_best_pairs_are_ranked() -> None:
    found = correspond(said("a dog chases the ball", [(0, 0.9), (1, 0.3), (2, 0.6), (3, 0.8), (2, 0.5)]))
    assert [(choice.region, round(choice.similarity, 4)) for choice in found.choices] == [
        (0, 0.9), (1, 0.3), (2, 0.6), (3, 0.8), (2, 0.5),
    ]  # fmt: skip
    assert [found.words[pair.word].text for pair in found.pairs] == ["chases", "ball", "dog"]
    every = correspond(
        said("a dog chases the ball", [(0, 0.9), (1, 0.3), (2, 0.6), (3, 0.8), (2, 0.5)]),
        top=2,
        all_words=True,
    )
    assert [every.words[pair.word].text for pair in every.pairs] == ["a", "the"]


def test_a_caption_of_small_words_alone_has_pairs_all_the_same() -> None:
    found = correspond(said("up and down", [(0, 0.2), (1, 0.4), (2, 0.3)]))
    assert [found.words[pair.word].text for pair in found.pairs] == ["and", "down", "up"]


def test_sub_words_and_special_tokens_are_merged() -> None:
    #        "doghouse red": [CLS] dog ##house red [SEP]
    regions = torch.eye(4)
    words = torch.tensor([[0.0, 0, 0, 9], [1.0, 0, 0, 0], [0.2, 0.8, 0, 0], [0, 0, 0.5, 0], [0.0, 0, 0, 9]])
    found = correspond(encoded("doghouse red", [(0, 0), (0, 3), (3, 8), (9, 12), (0, 0)], words, regions))
    assert [word.text for word in found.words] == ["doghouse", "red"]
    assert torch.allclose(found.similarity, torch.tensor([[0.6, 0.4, 0, 0], [0, 0, 0.5, 0]]))
    assert found.choices == (WordRegion(0, 0, pytest.approx(0.6)), WordRegion(1, 2, pytest.approx(0.5)))


def test_words_that_were_cut_off_are_left_out() -> None:
    pair = encoded("dog ball cat", [(0, 3), (4, 8)], torch.eye(4)[:2], torch.eye(4))
    assert [word.text for word in correspond(pair).words] == ["dog", "ball"]


def test_a_repeated_word_counts_once_unless_it_chooses_another_region() -> None:
    found = correspond(said("Red dog red ball red", [(1, 0.5), (0, 0.9), (1, 0.5), (2, 0.7), (3, 0.4)]))
    assert [(pair.word, pair.region) for pair in found.pairs] == [(1, 0), (3, 2), (0, 1), (4, 3)]


def test_the_whole_picture_is_chosen_only_where_there_is_nothing_else() -> None:
    whole = (0.0, 0.0, 1.0, 1.0)
    words = torch.tensor([[1.0, 0.5, 0.1]])
    found = correspond(encoded("dog", [(0, 3)], words, torch.eye(3), [whole, *grid(2)[:2]]))
    assert found.candidates.tolist() == [False, True, True]
    assert found.choices[0].region == 1
    alone = correspond(encoded("dog", [(0, 3)], words[:, :1], torch.eye(1), [whole]))
    assert alone.choices[0] == WordRegion(0, 0, 1.0)


def test_units_are_those_asked_for() -> None:
    pair = said("dog ball", [(0, 0.9), (1, 0.3)])
    assert torch.equal(correspond(pair, units="context").similarity, -correspond(pair).similarity)


def test_json_is_plain_and_complete() -> None:
    found = correspond(
        said("a dog chases the ball", [(0, 0.9), (1, 0.25), (2, 0.5), (3, 0.8), (2, 0.5)]), top=2
    )
    document = json.loads(json.dumps(found.to_json()))
    assert document["caption"] == "a dog chases the ball"
    assert (document["score"], document["units"]) == (0.5, "locals")
    assert [region["box"] for region in document["regions"]] == [list(box) for box in grid(2)]
    assert [word["rank"] for word in document["words"]] == [None, None, 1, None, 2]
    assert document["words"][1] == {
        "word": "dog", "start": 2, "end": 5, "region": 1, "similarity": 0.25,
        "similarities": [0.0, 0.25, 0.0, 0.0], "rank": None,
    }  # fmt: skip
    assert document["pairs"][1] == {
        "rank": 2, "word": "ball", "start": 17, "end": 21, "region": 2, "box": [0.0, 0.5, 0.5, 1.0], "similarity": 0.5,
    }  # fmt: skip


def test_what_cannot_be_explained_is_told() -> None:
    with pytest.raises(CrossAlignError, match=r"caption '\?!': no word that the model reads"):
        correspond(encoded("?!", [(0, 2)], torch.eye(4)[:1], torch.eye(4)))
    with pytest.raises(CrossAlignError, match="photo: the image has no region"):
        correspond(encoded("dog", [(0, 3)], torch.ones(1, 4), torch.zeros(0, 4), []))
