"""Judgements of Flickr8k and CxC: what is read, and the correlations against the model's own scores one by one."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parent))
from judged_collection import Judged, file_of, write_cxc, write_judged, write_judgements

from crossalign.data.collection import CaptionRecord, Collection
from crossalign.data.features import FeatureStore
from crossalign.errors import CrossAlignError
from crossalign.evaluation.correlation import sampled_spearman
from crossalign.model import RetrievalModel
from crossalign.suite import parts
from crossalign.suite.cxc import caption_number, image_number, read_cxc
from crossalign.suite.further import FurtherData
from crossalign.suite.judged import JudgedPairs
from crossalign.suite.judgements import Judgements, read_judgements
from crossalign.suite.lookup import Lookup
from crossalign.suite.needs import LeftOutError, encode_judged
from crossalign.suite.result import Measure
from crossalign.suite.run import evaluate_suite
from crossalign.suite.subject import Subject, open_subject


@pytest.fixture(scope="module", params=[False, True], ids=["embeddings", "scorer"])
def judged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Judged:
    return write_judged(tmp_path_factory.mktemp("judged"), scorer=request.param)


def opened(judged: Judged) -> tuple[Subject, Lookup]:
    subject = open_subject(judged.model, judged.collection, ["toy"])
    assert subject.collection is not None
    return subject, Lookup(subject.collection)


def measure_first(subject: Subject, lookup: Lookup, folder: Path) -> Measure:
    """The first file of a folder of judgements."""
    judgements = read_judgements(folder)
    return JudgedPairs(subject, lookup, judgements).measure(judgements[0])


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


def number_of(file: str) -> int:
    return int(file.partition(".")[0].rpartition("_")[2])


def test_tau_is_of_the_similarities_one_by_one(judged: Judged, tmp_path: Path) -> None:
    subject, lookup = opened(judged)
    plain = OneByOne(judged)
    both = read_judgements(write_judgements(tmp_path))
    pairs = JudgedPairs(subject, lookup, both)
    for judgements in both:
        said: dict[str, list[tuple[float, float]]] = {"tau": [], "photo_tau": [], "caption_tau": []}
        for image, caption, ratings in zip(
            judgements.images, judgements.captions, judgements.ratings, strict=True
        ):
            owner, number = number_of(caption), number_of(image)
            # The second caption of its image; the words of an image's own caption are no question to an expert.
            asked = 900 + 2 * (owner - 100) + 1
            own = [900 + 2 * (number - 100) + which for which in (0, 1)]
            if judgements.name == "expert" and plain.texts[str(asked)] in {plain.texts[str(c)] for c in own}:
                continue
            similar = {"tau": plain.score(number, asked)}
            if owner != number:
                similar["photo_tau"] = plain.cosine("image", number, owner)
                similar["caption_tau"] = float(np.mean([plain.cosine("text", asked, c) for c in own]))
            for key, value in similar.items():
                said[key] += [(value, rating) for rating in ratings]
        measured = pairs.measure(judgements)
        if subject.model is not None and subject.model.scorer is not None:
            del said["photo_tau"], said["caption_tau"]
        assert set(measured.metrics) == set(said)
        for key, told in said.items():
            expected = stats.kendalltau(*zip(*told, strict=True), variant=judgements.variant).statistic
            assert measured.metrics[key] == pytest.approx(100 * expected, abs=1e-3)
            assert measured.details["judgements"][key] == len(told)
        assert len(said["tau"]) == (48 if judgements.name == "expert" else 24)


def test_judged_photos_and_captions_are_encoded_once(
    judged: Judged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject, lookup = opened(judged)
    seen: list[int] = []

    def counted(*arguments: Any) -> Any:
        seen.append(len(arguments[2]))
        return encode_judged(*arguments)

    monkeypatch.setattr("crossalign.suite.judged.encode_judged", counted)
    both = read_judgements(write_judgements(tmp_path))
    pairs = JudgedPairs(subject, lookup, both)
    for judgements in both:
        pairs.measure(judgements)
    assert seen == [8]


def test_one_file_is_measured_where_the_collection_lacks_the_other(judged: Judged, tmp_path: Path) -> None:
    subject, lookup = opened(judged)
    both = read_judgements(write_judgements(tmp_path))
    whole = JudgedPairs(subject, lookup, both).measure(both[1]).metrics
    expert = replace(both[0], images=("absent.jpg", *both[0].images[1:]))
    pairs = JudgedPairs(subject, lookup, [expert, both[1]])
    with pytest.raises(LeftOutError, match="has 8 of the 9 photos that are judged"):
        pairs.measure(expert)
    assert pairs.measure(both[1]).metrics == whole


def changed_collection(judged: Judged, folder: Path, *, silent: str = "", renamed: str = "") -> Lookup:
    """The judged collection without the captions of one image, or with another's file name for one."""
    collection = Collection.load(judged.collection)
    images = [
        replace(image, file=f"again/{file_of(4)}") if image.id == renamed else image
        for image in collection.images
    ]
    splits = [collection.split(name) for name in collection.splits]
    captions = [
        CaptionRecord(caption, split.image_ids[owner], text, split.name)
        for split in splits
        for caption, owner, text in zip(split.caption_ids, split.image_of_text, split.texts, strict=True)
        if split.image_ids[owner] != silent
    ]
    written = Collection.write(
        folder, name="judged", image_root=folder, images=images, captions=captions, provenance={}
    )
    return Lookup(written)


def test_a_judged_photo_without_captions_says_how_alike_photos_are(judged: Judged, tmp_path: Path) -> None:
    subject, _ = opened(judged)
    lookup = changed_collection(judged, tmp_path / "collection", silent="111")
    expert = read_judgements(write_judgements(tmp_path / "files"))[0]

    def of(where: list[int]) -> Judgements:
        return replace(
            expert,
            images=tuple(expert.images[row] for row in where),
            captions=tuple(expert.captions[row] for row in where),
            ratings=expert.ratings[where],
        )

    rows = [row for row, owner in enumerate(expert.owners) if owner != file_of(11)]
    silent = of(rows)
    spoken = of([row for row in rows if expert.images[row] != file_of(11)])
    assert 0 < len(spoken) < len(silent)
    found, of_spoken = (JudgedPairs(subject, lookup, [entry]).measure(entry) for entry in (silent, spoken))
    assert subject.model is not None
    if subject.model.scorer is None:
        assert found.metrics["caption_tau"] == of_spoken.metrics["caption_tau"]
        counts = (entry.details["judgements"]["photo_tau"] for entry in (found, of_spoken))
        assert next(counts) > next(counts)
    # Where every caption is its photo's own, the two photos are one.
    own = of([row for row in rows if expert.images[row] == expert.owners[row]])
    crowd = replace(own, name="crowd", variant="b")
    assert set(JudgedPairs(subject, lookup, [crowd]).measure(crowd).metrics) == {"tau"}


def test_a_file_name_that_stands_twice_names_no_image(judged: Judged, tmp_path: Path) -> None:
    subject, whole = opened(judged)
    judgements = read_judgements(write_judgements(tmp_path / "files"))[0]
    lookup = changed_collection(judged, tmp_path / "unjudged", renamed="101")
    assert file_of(1) in whole.image_of_file
    assert whole.image_of_file.keys() - lookup.image_of_file.keys() == {file_of(1), file_of(4)}
    with pytest.raises(LeftOutError, match="has 7 of the 8 photos that are judged"):
        JudgedPairs(subject, lookup, [judgements]).measure(judgements)


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
        measure_first(subject, lookup, tmp_path)
    judgements.write_text("COCO_val2014_000000000104.jpg\tCOCO_val2014_000000000104.jpg#2\t1\t2\t3\n")
    with pytest.raises(LeftOutError, match="has 0 of the 1 captions that are judged"):
        measure_first(subject, lookup, tmp_path)
    (tmp_path / "sits_test.csv").write_text(
        "c,i,s\nCOCO_val2014:sentid:908,COCO_val2014_000000000999.jpg,1.0,x\n"
    )
    with pytest.raises(LeftOutError, match="has 0 of the 1 images of COCO that are judged"):
        parts.cxc_part(subject, lookup, read_cxc(tmp_path)[0], False)


def test_missing_photos_are_told(tmp_path: Path) -> None:
    judged = write_judged(tmp_path, features=False)
    subject = open_subject(judged.model, judged.collection)
    assert subject.collection is not None
    with pytest.raises(LeftOutError, match="8 of the 8 photos that are judged are not there"):
        measure_first(subject, Lookup(subject.collection), write_judgements(tmp_path / "files"))


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


def test_judgements_of_another_split_are_refused_and_a_missing_file_is_named(
    judged: Judged, tmp_path: Path
) -> None:
    folder = write_cxc(tmp_path / "cxc")
    for name in ("sts", "sis"):
        (folder / f"{name}_test.csv.gz").unlink()
    further = FurtherData.read(cxc=folder)
    subject = open_subject(judged.model, judged.collection, ["toy"])
    left = {part.title: part.reason for part in evaluate_suite(subject, further).skipped}
    assert left["Crisscrossed Captions, STS"] == "there is no sts_test.csv"
    assert left["Crisscrossed Captions, SIS"] == "there is no sis_test.csv"
    assert "Crisscrossed Captions, SITS" not in left
    with pytest.raises(CrossAlignError, match="read of the split test, not of val"):
        evaluate_suite(subject, further, split="val")
