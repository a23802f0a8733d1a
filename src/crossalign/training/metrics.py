"""The run's log: one JSON line an event, and TensorBoard where it is installed."""

from __future__ import annotations

import json
import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = ["MetricsLog", "read_metrics"]


class MetricsLog:
    """Append events to ``metrics.jsonl``.

    On resume, lines of steps after the checkpoint are cut off, so that no step stands twice.

    Args:
        folder: the run's folder.
        resume_step: last step that counts; 0 starts anew.
        tensorboard: write event files to ``tensorboard/``, too, where the package is installed.
    """

    def __init__(self, folder: Path, *, resume_step: int, tensorboard: bool) -> None:
        path = folder / "metrics.jsonl"
        kept = [event for event in read_metrics(path) if event["step"] <= resume_step] if resume_step else []
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(event) + "\n" for event in kept), encoding="utf-8")
        os.replace(temporary, path)
        self._file = path.open("a", encoding="utf-8")
        self._board: Any = None
        if tensorboard and find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            if not resume_step:
                # Events of a run that was killed before its first checkpoint; they would stand beside the new ones.
                shutil.rmtree(folder / "tensorboard", ignore_errors=True)
            self._board = SummaryWriter(
                folder / "tensorboard", purge_step=resume_step + 1 if resume_step else None
            )

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """One event: ``kind`` is ``"train"`` or ``"validation"``."""
        self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Flush and close."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The events of a ``metrics.jsonl``; a last line cut short by a kill is left out."""
    path = Path(path)
    if not path.is_file():
        return []
    events = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return events
