"""``crossalign convert`` from the command line, and what the other commands make of its model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from crossalign.cli.main import main
from published_cases import CASES, Case


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def files(case: Case, folder: Path) -> tuple[Path, Path]:
    return case.save(folder / "model_best.pth.tar", "stream"), case.save_vocabulary(folder / "words", "pkl")


def test_a_checkpoint_becomes_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint, vocabulary = files(CASES["vsrn-selfalign-f30k"](), tmp_path)
    code, out, err = run(capsys, "convert", checkpoint, "--vocab", vocabulary, "--out", tmp_path / "model")
    assert (code, err) == (0, "")
    assert "layout: vsrn-selfalign; takes regions of 10 numbers" in out
    assert "left out, needed in training at most: extra v_prototypes.weight\n" in out
    assert (
        "note: the published context vectors of a caption depend on the longest caption of its batch" in out
    )
    assert (tmp_path / "model" / "config.json").is_file()
    code, out, _ = run(
        capsys, "convert", checkpoint, "--vocab", vocabulary, "-o", tmp_path / "model", "--json"
    )
    document = json.loads(out)
    assert code == 0
    assert document["layout"] == "vsrn-selfalign"
    assert document["settings"]["image"]["encoder"]["norm_axis"] == "regions"


def test_keys_that_do_not_fit_end_with_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = CASES["vsrn-coco"]()
    del case.states[0]["Rs_GCN_2.g.bias"]
    checkpoint, vocabulary = files(case, tmp_path)
    call = ("convert", checkpoint, "--vocab", vocabulary, "--out", tmp_path / "model")
    code, out, err = run(capsys, *call)
    assert (code, out) == (1, "")
    assert "missing image Rs_GCN_2.g.bias" in err
    assert err.count("\n") == 1
    code, out, err = run(capsys, *call, "--json")
    assert (code, err) == (1, "")
    assert json.loads(out)["missing"] == ["image Rs_GCN_2.g.bias"]
    assert not (tmp_path / "model").exists()


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = CASES["vsrn-coco"]()
    case.states[0]["Rs_GCN_2.g.bias"][1] = torch.nan
    checkpoint, vocabulary = files(case, tmp_path)
    code, out, err = run(capsys, "convert", checkpoint, "--vocab", vocabulary, "--out", tmp_path / "model")
    assert (code, out) == (1, "")
    assert err.endswith("holds weights that are not finite: image Rs_GCN_2.g.bias; fetch or save it again\n")
    assert not (tmp_path / "model").exists()


def test_a_bert_inside_is_converted_without_a_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = CASES["vse-infinity-bert"]()
    checkpoint = case.save(tmp_path / "model_best.pth", "zip")
    words = case.save_vocabulary(tmp_path / "bert", "json")
    code, _, err = run(capsys, "convert", checkpoint, "--vocab", words, "--out", tmp_path / "model")
    assert (code, err) == (0, "")


def test_the_list_and_wrong_calls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "convert", "--list")
    assert code == 0
    assert len(out.splitlines()) == len({make().layout for make in CASES.values()})
    assert "vsrn: KunpengLi1994/VSRN: VSRN; needs --vocab" in out
    code, out, _ = run(capsys, "convert", "--list", "--json")
    assert {row["vocabulary"] for row in json.loads(out)} == {"words", "bert"}
    code, _, err = run(capsys, "convert")
    assert code == 1
    assert "give a checkpoint and a place" in err
    code, _, err = run(capsys, "convert", tmp_path / "nowhere.pth", "--out", tmp_path / "model")
    assert code == 1
    assert "no such file" in err


def imported(case: Case, folder: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A collection of the case's photos, with five captions each."""
    source = folder / "precomp"
    source.mkdir()
    photos = case.photos
    images = len(photos.regions)
    np.save(source / "test_ims.npy", photos.regions.numpy())
    np.save(source / "test_boxes.npy", photos.boxes.numpy())
    np.save(source / "test_img_sizes.npy", photos.sizes.numpy())
    captions = [case.captions[index % len(case.captions)] for index in range(5 * images)]
    (source / "test_caps.txt").write_text("".join(f"{caption}\n" for caption in captions))
    collection = folder / "collection"
    code, _, err = run(capsys, "import", "precomputed", source, "--out", collection)
    assert code == 0, err
    return collection


@pytest.mark.parametrize("name", ["vsrn-f30k", "camera-selfalign", "scan-t2i", "sgraf-sgr", "sgraf-saf"])
def test_a_converted_model_is_evaluated_on_imported_features(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """The way of a published dataset: precomputed features with boxes, then the published model on them."""
    case = CASES[name]()
    images = len(case.photos.regions)
    collection = imported(case, tmp_path, capsys)
    checkpoint, vocabulary = files(case, tmp_path)
    code, _, err = run(capsys, "convert", checkpoint, "--vocab", vocabulary, "--out", tmp_path / "model")
    assert code == 0, err
    code, out, err = run(
        capsys, "evaluate", tmp_path / "model", "--collection", collection, "--image-features", "features",
        "--device", "cpu", "--out", tmp_path / "result", "--json",
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(out)["counts"] == {"images": images, "captions": 5 * images}
    # Ranks by the published similarities; captions stand five times, so that close ones may change places.
    scores = (
        case.similarity().detach().numpy()[:, [index % len(case.captions) for index in range(5 * images)]]
    )
    ranks = np.load(tmp_path / "result" / "ranks.npz")["t2i"]
    for caption, rank in enumerate(ranks):
        others = np.delete(scores[:, caption], caption // 5) - scores[caption // 5, caption]
        assert (others > 1e-5).sum() <= rank - 1 <= (others > -1e-5).sum()


def test_a_converted_scorer_re_ranks_the_best_of_another_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slow, fast = CASES["scan-i2t"](), CASES["vsrn-f30k"]()
    collection = imported(slow, tmp_path, capsys)
    models = []
    for case in (slow, fast):
        (tmp_path / case.layout).mkdir()
        checkpoint, vocabulary = files(case, tmp_path / case.layout)
        models.append(tmp_path / case.layout / "model")
        code, _, err = run(capsys, "convert", checkpoint, "--vocab", vocabulary, "--out", models[-1])
        assert code == 0, err
    options = ("--collection", collection, "--image-features", "features", "--device", "cpu")
    ranks = []
    for name, call in (("alone", [models[0]]), ("re-ranked", [models[1], "--rerank", models[0]])):
        code, _, err = run(capsys, "evaluate", *call, *options, "--out", tmp_path / name)
        assert code == 0, err
        ranks.append(np.load(tmp_path / name / "ranks.npz")["t2i"])
    # The best fifty of so few are all of them.
    assert np.array_equal(*ranks)
