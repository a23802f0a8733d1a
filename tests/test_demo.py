"""The demo: everything is made once, nothing that no demo made is ever deleted."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from crossalign.cli.main import main
from crossalign.data.collection import Collection
from crossalign.demo import DemoOutcome, run_demo
from crossalign.errors import CrossAlignError
from crossalign.evaluation import RetrievalResult
from crossalign.model import RetrievalModel
from crossalign.recipe import load_recipe
from crossalign.search import SearchEngine

# A name that YAML, shells and regular expressions would all read otherwise.
NAME = "my #1 démo: ünï (x)"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoOutcome:
    """A demo of the fewest scenes that the command takes."""
    return run_demo(tmp_path_factory.mktemp("demo") / NAME, scenes=60, epochs=1, seed=5, progress=False)


def test_the_folder_holds_all_that_was_promised(demo: DemoOutcome) -> None:
    folder = demo.folder
    names = {"scenes", "run", "photos", "index", "searches", "report.html", "demo.json"}
    assert {path.name for path in folder.iterdir()} == names
    collection = Collection.load(folder / "scenes")
    assert [len(collection.split(name).image_ids) for name in ("train", "val", "test")] == [60, 40, 40]
    assert load_recipe(folder / "run" / "recipe.yaml").data.collection == str(folder / "scenes")
    assert demo.training.epochs == 1
    assert demo.training.steps == 2
    saved = RetrievalResult.load(folder / "run" / "results" / "test")
    assert saved.metrics == demo.result.metrics
    assert saved.model == RetrievalModel.from_pretrained(folder / "run").fingerprint
    grounding = json.loads((folder / "run" / "results" / "test" / "grounding.json").read_text())
    assert grounding == json.loads(json.dumps(demo.grounding.to_json()))
    assert 0 < demo.grounding.accuracy <= 100
    told = json.loads((folder / "demo.json").read_text())
    assert told == json.loads(json.dumps(demo.to_json()))
    assert set(told["seconds"]) == {"draw", "train", "evaluate", "index", "search", "report", "all"}
    assert len(list((folder / "photos").iterdir())) == 40
    assert len(list((folder / "searches").glob("query-*.png"))) == 6


def test_the_report_tells_all_of_it(demo: DemoOutcome) -> None:
    page = (demo.folder / "report.html").read_text(encoding="utf-8")
    assert page.rstrip().endswith("</html>")
    for part in ("R@sum", "Word to region", "Loss terms", "Validation", "contrastive", "recipe.yaml"):
        assert part in page, part
    assert f"{demo.result.metrics['rsum']:.1f}" in page
    assert f"{demo.grounding.accuracy:.1f}" in page
    # Pictures are in the file itself.
    assert page.count("data:image/") > 30
    assert 'src="http' not in page
    query = Collection.load(demo.folder / "scenes").split("test").texts[0]
    assert query in page


def test_the_index_can_be_searched(demo: DemoOutcome) -> None:
    with SearchEngine.open(demo.folder / "index") as engine:
        assert engine.count == 40
        hits = engine.search_text("a red star above a small blue circle", 7)
        assert len(hits) == 7
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        assert all(hit.path.is_file() for hit in hits)
        picture = demo.folder / "photos" / hits[3].file
        assert {hit.file for hit in engine.search_image(picture, 40)} == {
            path.name for path in (demo.folder / "photos").iterdir()
        }


def test_the_next_commands_are_right_as_they_stand(
    demo: DemoOutcome, capsys: pytest.CaptureFixture[str]
) -> None:
    demo.print()
    out = capsys.readouterr().out
    assert "R@sum" in out
    assert "word-to-region accuracy" in out
    lines = [line.strip() for line in out.splitlines() if line.startswith("  crossalign ")]
    calls = [shlex.split(line)[1:] for line in lines]
    assert [call[0] for call in calls] == ["search", "index", "train", "evaluate", "compare"]
    assert Path(calls[0][1]) == demo.folder / "index"
    assert (Path(calls[1][1]) / "recipe.yaml").is_file()
    assert Path(calls[4][2]) == demo.folder / "run" / "results" / "test"
    recipe = load_recipe(calls[2][1], [calls[2][3]])
    assert recipe.data.collection == str(demo.folder / "scenes")
    assert calls[2][-1] == calls[3][1] == str(demo.folder) + "-base"
    with pytest.raises(SystemExit) as ended:
        main(calls[0])
    assert not ended.value.code
    assert len(capsys.readouterr().out.splitlines()) == 10


def test_a_second_run_is_refused_and_changes_nothing(demo: DemoOutcome, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in demo.folder.rglob("*")}
    with pytest.raises(CrossAlignError, match=r"holds an earlier demo; replace it with --overwrite"):
        run_demo(demo.folder, scenes=60, epochs=1, progress=False)
    (tmp_path / "text.yaml").write_text("extends: scenes-vse\nname: text\ndata: {text_features: minilm}\n")
    (tmp_path / "blind.yaml").write_text(
        "extends: scenes-vse\nname: blind\nmodel: {image: {backbones: [], train_backbone: false}}\n"
        "optimizer: {backbone_learning_rate: null}\n"
    )
    for recipe, message in (
        ("nonsense", "no recipe 'nonsense'"),
        ("flickr8k-vse", r"flickr8k-vse: data\.image_features names stored features"),
        (str(tmp_path / "text.yaml"), r"text: data\.text_features names stored features"),
        (str(tmp_path / "blind.yaml"), r"or model\.image\.backbones"),
    ):
        with pytest.raises(CrossAlignError, match=message) as caught:
            run_demo(demo.folder, scenes=60, recipe=recipe, overwrite=True, progress=False)
        assert "\n" not in str(caught.value)
    assert {path: path.stat().st_mtime_ns for path in demo.folder.rglob("*")} == before


class Room:
    """Stops a demo as soon as it has made room."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("crossalign.demo.run.make_scenes", self.draw)

    def draw(self, folder: Path, **settings: object) -> None:
        raise InterruptedError

    def make(self, folder: Path, *, overwrite: bool) -> None:
        with pytest.raises(InterruptedError):
            run_demo(folder, scenes=60, overwrite=overwrite, progress=False)


def test_overwriting_takes_a_demo_away_finished_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = Room(monkeypatch)
    folder = tmp_path / "demo"
    room.make(folder, overwrite=False)  # a place that is not there
    assert folder.is_dir()
    for name in ("scenes", "run", ".scenes.ab12.tmp", ".index.old"):
        (folder / name).mkdir()
        (folder / name / "something").write_text("x")
    (folder / "report.html").write_text("old")
    (folder / ".report.html.ab12.tmp").write_text("cut")
    with pytest.raises(CrossAlignError, match="--overwrite"):
        run_demo(folder, scenes=60, progress=False)
    room.make(folder, overwrite=True)
    assert [path.name for path in folder.iterdir()] == ["demo.json"]
    # In a folder that one stands in, too, which cannot itself be removed.
    monkeypatch.chdir(folder)
    room.make(Path("."), overwrite=True)
    (tmp_path / "empty").mkdir()
    room.make(tmp_path / "empty", overwrite=False)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("marked", [False, True])
def test_what_no_demo_made_is_never_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool, marked: bool
) -> None:
    Room(monkeypatch)
    folder = tmp_path / "pictures"
    # Names that a demo uses as well, of somebody who never ran one; or a stranger among a demo's.
    names = ["photos/holiday.jpg", "notes.txt"] if marked else ["photos/holiday.jpg", "index/card.txt"]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")
    if marked:
        (folder / "demo.json").write_text("{}")
    with pytest.raises(CrossAlignError, match=r"holds '(notes\.txt|index)', which no demo made"):
        run_demo(folder, scenes=60, overwrite=overwrite, progress=False)
    assert all((folder / name).read_text() == "mine" for name in names)


def test_a_file_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CrossAlignError, match="not a folder"):
        run_demo(tmp_path / "file", overwrite=True, progress=False)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.long
def test_the_command_of_another_recipe_prints_one_document(tmp_path: Path) -> None:
    arguments = [
        "demo",
        "--scenes",
        "60",
        "--epochs",
        "1",
        "--recipe",
        "scenes-vse",
        "--json",
        "--out",
        "there",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "from crossalign.cli.main import main; main()", *arguments],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document == json.loads((tmp_path / "there" / "demo.json").read_text())
    assert document["folder"] == "there"
    assert (
        yaml.safe_load((tmp_path / "there" / "run" / "recipe.yaml").read_text())["objective"]["lca"] is None
    )
    assert "Traceback" not in done.stderr
