"""What to try after a demo, as lines for a shell."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import yaml

from crossalign.evaluation.report import Command

__all__ = ["next_commands", "path_setting"]


def next_commands(folder: Path) -> list[Command]:
    def quote(text: Path | str) -> str:
        return shlex.quote(str(text))

    base = folder.with_name(f"{folder.name}-base")
    return [
        Command(
            "Search the scenes",
            f'crossalign search {quote(folder / "index")} "a large red crescent above a small purple triangle"',
        ),
        Command(
            "Index your own photos with this model",
            f"crossalign index {quote(folder / 'run')} ~/Pictures/some-folder",
        ),
        Command(
            "Train the same model without SelfAlign",
            f"crossalign train scenes-vse --set {quote(path_setting('data.collection', folder / 'scenes'))} "
            f"--out {quote(base)}",
        ),
        Command("Evaluate it", f"crossalign evaluate {quote(base)}"),
        Command(
            "Compare the two",
            f"crossalign compare {quote(base / 'results/test')} {quote(folder / 'run/results/test')}",
        ),
    ]


def path_setting(key: str, path: Path) -> str:
    """A change of a recipe; its value is read as YAML, so that a name like ``my #1`` needs quotes."""
    text = str(path)
    try:
        plain = yaml.safe_load(text) == text
    except yaml.YAMLError:
        plain = False
    return f"{key}={text if plain else json.dumps(text, ensure_ascii=False)}"
