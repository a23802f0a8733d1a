"""The documentation holds: commands, options, examples, error messages, recipes and links are those of the code."""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from crossalign.cli.main import app
from crossalign.recipe import load_recipe

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
ADDED_BY_MAIN = {"--debug"}


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page in these languages."""
    return [text for language, text in BLOCK.findall(page.read_text("utf-8")) if language in languages]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return BLOCK.sub("", page.read_text("utf-8"))


def commands(page: Path) -> Iterator[list[str]]:
    """The arguments of every ``crossalign`` command in the shell blocks of a page."""
    for text in blocks(page, "bash", "console"):
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(re.sub(r"\$\w+", "0", line), comments=True)
            if words and words[0] == "crossalign":
                yield words[1:]


def inline_commands(page: Path) -> Iterator[list[str]]:
    """The words of every ``crossalign ...`` in running text, which may leave arguments out."""
    for code in re.findall(r"`(crossalign [^`]+)`", prose(page)):
        yield shlex.split(code)[1:]


@cache
def program() -> Any:
    """The command line, parsing what it is given and doing nothing."""
    root = typer.main.get_command(app)
    for command in every_command(root):
        command.callback = lambda **_: None
    return root


def every_command(command: Any) -> Iterator[Any]:
    """A command and all below it."""
    yield command
    for inner in getattr(command, "commands", {}).values():
        yield from every_command(inner)


def options_of(*commands_: Any) -> set[str]:
    """Every option of these commands, and those that all have."""
    found = {"-h", "--help", *ADDED_BY_MAIN}
    for command in commands_:
        for parameter in command.params:
            found |= {*parameter.opts, *parameter.secondary_opts}
    return found


def test_there_are_pages_with_commands() -> None:
    assert sum(len(list(commands(page))) for page in PAGES) > 40


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_parses(page: Path) -> None:
    for words in commands(page):
        arguments = [word for word in words if word not in ADDED_BY_MAIN]
        try:
            program().main(arguments, prog_name="crossalign", standalone_mode=False)
        except Exception as error:
            pytest.fail(f"crossalign {shlex.join(words)}: {error}")


@pytest.mark.parametrize(
    "line",
    [
        "crossalign trian",
        "crossalign train --no-such x",
        "crossalign index",
        "crossalign demo --scenes x",
    ],
)
def test_a_wrong_command_would_be_noticed(line: str, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(f"```bash\n{line}\n```\n", "utf-8")
    with pytest.raises(pytest.fail.Exception):
        test_every_command_parses(tmp_path / "page.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_and_option_in_running_text_exists(page: Path) -> None:
    for words in inline_commands(page):
        command = program()
        for word in words:
            if not hasattr(command, "commands") or word.startswith("-"):
                break
            assert word in command.commands, words
            command = command.commands[word]
        named = {word for word in words if word.startswith("-")}
        assert named <= options_of(program(), command), words
    alone = set(re.findall(r"`(--[a-z][\w-]*)[^`]*`", prose(page)))
    assert alone <= options_of(*every_command(program()))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_python_examples_compile_and_import_what_there_is(page: Path) -> None:
    for text in blocks(page, "python"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("crossalign"):
                module = import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"


def test_the_examples_of_the_own_loop_run(capsys: pytest.CaptureFixture[str]) -> None:
    examples = blocks(ROOT / "docs" / "own-loop.md", "python")
    assert len(examples) == 2
    for text in examples:
        exec(compile(text, "docs/own-loop.md", "exec"), {"__name__": "__main__"})
    recalls = [float(value) for value in re.findall(r"R@1 (\d+)", capsys.readouterr().out)]
    assert recalls[-1] > recalls[0] > 2  # one in a hundred by lot


@pytest.mark.parametrize("name", ["README.md", "docs/evaluation.md"])
def test_examples_that_need_no_files_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    examples = [text for text in blocks(ROOT / name, "python") if "import torch" in text]
    assert examples
    for text in examples:
        exec(compile(text, name, "exec"), {"__name__": "__main__"})


def test_every_recipe_in_a_page_is_valid(tmp_path: Path) -> None:
    found = [text for page in PAGES for text in blocks(page, "yaml") if "extends:" in text]
    assert found
    for number, text in enumerate(found):
        path = tmp_path / f"{number}.yaml"
        path.write_text(text, "utf-8")
        assert load_recipe(path).name == yaml.safe_load(text)["name"]


def script(name: str) -> Any:
    """A script that makes pages, as a module."""
    spec = spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_recipes_is_up_to_date() -> None:
    written = (ROOT / "docs" / "recipes.md").read_text("utf-8")
    assert written == script("make_recipes").page(), "run: python docs/make_recipes.py"


@pytest.mark.parametrize(("name", "count"), [("make_results", 2), ("make_speed", 1)])
def test_the_pages_of_results_are_those_of_the_measured_files(name: str, count: int) -> None:
    pages = script(name).pages()
    assert len(pages) == count
    for page, text in pages.items():
        assert page.read_text("utf-8") == text, f"run: python docs/{name}.py"


def test_contributors_are_told_every_script_that_makes_pages() -> None:
    told = set(re.findall(r"docs/(make_\w+\.py)", (ROOT / "CONTRIBUTING.md").read_text("utf-8")))
    told |= set(re.findall(r"docs/(make_\w+\.py)", (ROOT / "docs/images/README.md").read_text("utf-8")))
    assert told == {path.name for path in (ROOT / "docs").glob("make_*.py")}


def test_a_package_that_a_page_takes_an_encoder_from_is_installed_by_it_first() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    brought = " ".join(line for name, lines in extras.items() if name != "dev" for line in lines)
    for page in PAGES:
        text = page.read_text("utf-8")
        for used in re.finditer(r"--text-model package:(\w+)/", text):
            package = used.group(1).replace("_", "-")
            assert package in brought or f"pip install {package}" in text[: used.start()], (page, package)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        place = (page.parent / file).resolve() if file else page
        assert place.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", place.read_text("utf-8"), re.MULTILINE)
            assert anchor in {
                re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles
            }


def test_every_error_message_of_the_tutorial_can_occur() -> None:
    page = prose(ROOT / "docs" / "tutorial-photos.md")
    messages = re.findall(r"^\| `([^`]+)` \|", page.partition("| message |")[2], re.MULTILINE)
    assert len(messages) > 10
    patterns = [re.compile(pattern, re.DOTALL) for pattern in _texts_of_the_code()]
    for message in messages:
        # What is being read is often named in front by whoever called.
        forms = {message, message.partition(": ")[2]}
        assert any(pattern.fullmatch(form) for pattern in patterns for form in forms), message


def _texts_of_the_code() -> set[str]:
    """Every text of the code as a pattern: anything may stand where it inserts a value."""
    found = set()
    for path in (ROOT / "src" / "crossalign").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            pieces: list[Any] = (
                node.values
                if isinstance(node, ast.JoinedStr)
                else [node]
                if isinstance(node, ast.Constant)
                else []
            )
            texts = [piece.value if isinstance(piece, ast.Constant) else None for piece in pieces]
            if sum(len(text) for text in texts if isinstance(text, str)) >= 12:
                found.add("".join(".*" if text is None else re.escape(str(text)) for text in texts))
    return found


def test_the_table_of_extras_is_that_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    table = prose(ROOT / "README.md").partition("| extra |")[2].partition("\n\n")[0]
    told = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert set(told) == project["optional-dependencies"].keys() - {"dev"}


def test_no_page_names_a_place_of_one_machine() -> None:
    for page in PAGES:
        assert not re.search(r"(?<![\w.~])/(root|tmp|work|mnt|Users)/", page.read_text("utf-8")), page
