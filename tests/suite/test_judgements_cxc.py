"""Judgements of Flickr8k and CxC: what is read, and the correlations against the model's own scores one by one."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parent))
from judged_collection import Judged, write_cxc, write_judged, write_judgements

from crossalign.data.collection import Collection
from crossalign.data.features import FeatureStore
from crossalign.errors import CrossAlignError
from crossalign.evaluation.correlation import sampled_spearman
from crossalign.model import RetrievalModel
from crossalign.suite import parts
from crossalign.suite.cxc import caption_number, image_number, read_cxc
from crossalign.suite.judgements import read_judgements
from crossalign.suite.lookup import Lookup
from crossalign.suite.parts import LeftOutError
from crossalign.suite.subject import Subject, open_subject


@pytest.fixture(scope="module", params=[False, True], ids=["embeddings", "scorer"])
def judged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Judged:
    return write_judged(tmp_path_factory.mktemp("judged"), scorer=request.param)


def opened(judged: Judged) -> tuple[Subject, Lookup]:
    subject = open_subject(judged.model, judged.collection, ["toy"])
    assert subject.collection is not None
    return subject, Lookup(subject.collection)


class OneByOne:
    """Images and captions of a collection encoded by themselves."""

    def __init__(self, judged: Judged) -> None:
        self.model = RetrievalModel.from_pretrained(judged.model)
        self.store = FeatureStore.open(judged.collection / "features" / "toy")
        collection = Collection.load(judged.collection)
        self.texts = {
            caption: text
            for name in collection.splits
            for split in [collection.split(name)]
            for caption, text in zip(split.caption_ids, split.texts, strict=True)
        }

    def image(self, number: int) -> object:
        from crossalign.data.batch import ImageInputs

        rows = self.store.batch(self.store.index([str(number)]))
        inputs = ImageInputs(
            features=torch.from_numpy(rows.features), mask=torch.from_numpy(rows.mask), aspect=torch.ones(1)
        )
        return self.model.image_tower(inputs)

    def caption(self, number: int) -> object:
        return self.model.text_tower(self.model.text_inputs([self.texts[str(number)]]))

    def score(self, image: int, caption: int) -> float:
        with torch.no_grad():
            return float(self.model.scores(self.image(image), self.caption(caption)))  # type: ignore[arg-type]

    def cosine(self, kind: str, one: int, two: int) -> float:
        encode = self.image if kind == "image" else self.caption
        with torch.no_grad():
            first, second = encode(one).embedding[0], encode(two).embedding[0]  # type: ignore[attr-defined]
        return float(torch.nn.functional.cosine_similarity(first, second, dim=0))


def test_what_is_read_of_judgements(tmp_path: Path) -> None:
    expert, crowd = read_judgements(write_judgements(tmp_path))
    assert (expert.name, expert.variant, expert.ratings.shape) == ("expert", "c", (24, 3))
    assert (crowd.name, crowd.variant, crowd.ratings.shape) == ("crowd", "b", (24, 1))
    assert expert.images[0] == "COCO_val2014_000000000104.jpg"
    assert set(np.unique(crowd.ratings * 3)) <= {0, 1, 2, 3}


def test_the_shared_judgements_are_as_many_as_the_field_counts(shared_data: Path) -> None:
    expert, crowd = read_judgements(shared_data / "flickr8k")
    assert (len(expert), len(crowd)) == (5822, 47830)
    own = sum(
        image == caption.partition("#")[0]
        for image, caption in zip(expert.images, expert.captions, strict=True)
    )
    assert 3 * (len(expert) - own) == 16992  # CLIPScore, appendix A: 5,664 pairs by three experts


def test_tau_is_of_the_scores_one_by_one(judged: Judged, tmp_path: Path) -> None:
    subject, lookup = opened(judged)
    plain = OneByOne(judged)
    for judgements in read_judgements(write_judgements(tmp_path)):
        scores, rates = [], []
        for image, caption, ratings in zip(
            judgements.images, judgements.captions, judgements.ratings, strict=True
        ):
            owner = int(caption.partition(".")[0].rpartition("_")[2])
            number = int(image.partition(".")[0].rpartition("_")[2])
            # The second caption of its image; the words of an image's own caption are no question to an expert.
            text = plain.texts[str(900 + 2 * (owner - 100) + 1)]
            own = {plain.texts[str(900 + 2 * (number - 100) + which)] for which in (0, 1)}
            if judgements.name == "expert" and text in own:
                continue
            score = plain.score(number, 900 + 2 * (owner - 100) + 1)
            for rating in ratings:
                scores.append(score)
                rates.append(rating)
        assert len(scores) == (48 if judgements.name == "expert" else 24)
        measured = parts.judgement_part(subject, lookup, judgements, False)
        expected = stats.kendalltau(scores, rates, variant=judgements.variant).statistic
        assert measured.metrics["tau"] == pytest.approx(100 * expected, abs=1e-3)
        assert measured.details["judgements"] == len(scores)


def test_cxc_is_of_the_similarities_one_by_one(judged: Judged, tmp_path: Path) -> None:
    subject, lookup = opened(judged)
    plain = OneByOne(judged)
    found = {part.name: part for part in read_cxc(write_cxc(tmp_path))}
    assert set(found) == {"sts", "sis", "sits"}
    for name, part in found.items():
        if name != "sits" and subject.model is not None and subject.model.scorer is not None:
            with pytest.raises(LeftOutError, match="scores pairs and has no uni-modal heads"):
                parts.cxc_part(subject, lookup, part, False)
            continue
        pairs = list(zip(part.first.tolist(), part.second.tolist(), strict=True))
        if name == "sits":
            scores = [plain.score(image, caption) for caption, image in pairs]
        else:
            scores = [plain.cosine(part.kinds[0], one, two) for one, two in pairs]
        expected = sampled_spearman(part.first, scores, part.judgement)
        measured = parts.cxc_part(subject, lookup, part, False)
        assert measured.metrics["spearman"] == pytest.approx(expected.mean, abs=0.5)
        assert measured.metrics["deviation"] == pytest.approx(expected.deviation, abs=0.5)


def test_numbers_of_coco() -> None:
    assert image_number("COCO_val2014_000000391895.jpg") == image_number("391895") == 391895
    assert image_number("val2014/COCO_val2014_000000391895.jpg") == 391895
    assert image_number("1000268201_693b08cb0e.jpg") is None
    assert image_number("2089350172_55.jpg") is None
    assert caption_number("COCO_val2014:sentid:770337") == caption_number("770337") == 770337
    assert caption_number("a.jpg#2") is None


def test_what_the_collection_lacks_is_told(judged: Judged, tmp_path: Path) -> None:
    subject, lookup = opened(judged)
    judgements = tmp_path / "ExpertAnnotations.txt"
    judgements.write_text("absent.jpg\tCOCO_val2014_000000000104.jpg#0\t1\t2\t3\n")
    with pytest.raises(LeftOutError, match="has 0 of the 1 photos that are judged"):
        parts.judgement_part(subject, lookup, read_judgements(tmp_path)[0], False)
    judgements.write_text("COCO_val2014_000000000104.jpg\tCOCO_val2014_000000000104.jpg#2\t1\t2\t3\n")
    with pytest.raises(LeftOutError, match="has 0 of the 1 captions that are judged"):
        parts.judgement_part(subject, lookup, read_judgements(tmp_path)[0], False)
    (tmp_path / "sits_test.csv").write_text(
        "c,i,s\nCOCO_val2014:sentid:908,COCO_val2014_000000000999.jpg,1.0,x\n"
    )
    with pytest.raises(LeftOutError, match="has 0 of the 1 images of COCO that are judged"):
        parts.cxc_part(subject, lookup, read_cxc(tmp_path)[0], False)


def test_missing_photos_are_told(tmp_path: Path) -> None:
    judged = write_judged(tmp_path, features=False)
    subject = open_subject(judged.model, judged.collection)
    assert subject.collection is not None
    entry = read_judgements(write_judgements(tmp_path / "files"))[0]
    with pytest.raises(LeftOutError, match="8 of the 8 photos that are judged are not there"):
        parts.judgement_part(subject, Lookup(subject.collection), entry, False)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("ExpertAnnotations.txt", "a.jpg\tb.jpg#1\t1\t2\n", "line 1 is no photo, caption and judgements"),
        ("ExpertAnnotations.txt", "a.jpg\tb.jpg#1\t1\t2\tx\n", "line 1: 'x' is no judgement"),
        ("ExpertAnnotations.txt", "", "empty"),
        ("CrowdFlowerAnnotations.txt.gz", "not packed", "cannot be read"),
    ],
)
def test_damaged_judgements(file: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text(text)
    with pytest.raises(CrossAlignError, match=message):
        read_judgements(tmp_path)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("sis_test.csv", "a,b,c\nx.jpg,y.jpg,1\n", "line 2 names no pair of COCO"),
        ("sts_test.csv", "a,b,c\nCOCO:sentid:1,COCO:sentid:2,nan\n", "line 2: 'nan' is no judgement"),
        ("sits_test.csv", "a,b,c\n", "empty"),
        ("sits_test.csv.gz", "not packed", "cannot be read"),
    ],
)
def test_damaged_cxc(file: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text(text)
    with pytest.raises(CrossAlignError, match=message):
        read_cxc(tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(CrossAlignError, match="neither ExpertAnnotations"):
        read_judgements(tmp_path)
    with pytest.raises(CrossAlignError, match="no sts_val"):
        read_cxc(tmp_path, "val")


def test_the_shared_cxc_has_the_pairs_of_its_paper(shared_data: Path) -> None:
    sizes = {part.name: len(part.judgement) for part in read_cxc(shared_data / "cxc")}
    assert sizes == {"sts": 44045, "sis": 46719, "sits": 44833}
