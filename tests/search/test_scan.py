"""Which files count as photos."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from crossalign.search.reading import read_photo
from crossalign.search.scan import Failure, FileState, scan_photos


def _touch(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_finds_photos_in_any_depth_and_passes_over_the_rest(tmp_path: Path) -> None:
    for name in (
        "a.jpg",
        "B.JPEG",
        "sub/c.png",
        "sub/deep/日本 ü.webp",
        "d.txt",
        "e",
        ".hidden.jpg",
        ".git/f.jpg",
    ):
        _touch(tmp_path / name, b"four")
    _touch(tmp_path / "photos.index" / "g.jpg")
    scan = scan_photos(tmp_path, skip=tmp_path / "photos.index")
    assert sorted(scan.files) == ["B.JPEG", "a.jpg", "sub/c.png", "sub/deep/日本 ü.webp"]
    state = (tmp_path / "a.jpg").stat()
    assert scan.files["a.jpg"] == FileState(4, state.st_mtime_ns)
    assert not scan.failures


def test_circles_of_links_end_and_a_folder_keeps_its_real_name(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    _touch(photos / "zoo" / "a.jpg")
    _touch(tmp_path / "elsewhere" / "b.jpg")
    (photos / "aardvark").symlink_to(photos / "zoo")
    (photos / "zoo" / "up").symlink_to(photos)
    (photos / "outside").symlink_to(tmp_path / "elsewhere")
    (photos / "elsewhere again").symlink_to(tmp_path / "elsewhere")
    (photos / "self").symlink_to(photos / "self")
    scan = scan_photos(photos)
    assert sorted(scan.files) == ["elsewhere again/b.jpg", "zoo/a.jpg"]
    assert not scan.failures


def test_reports_dangling_links_and_names_that_are_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    try:
        _touch(Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")))
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    _touch(tmp_path / "good.jpg")
    scan = scan_photos(tmp_path)
    assert list(scan.files) == ["good.jpg"]
    assert sorted(failure.file for failure in scan.failures) == ["caf\ufffd.jpg", "gone.jpg"]


@pytest.mark.timeout(20)
def test_what_is_no_file_is_never_opened_or_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _touch(tmp_path / "good.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "link to a pipe.jpg").symlink_to(tmp_path / "pipe.jpg")
    (tmp_path / "endless.png").symlink_to("/dev/zero")
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.gif")
        scan = scan_photos(tmp_path)
    assert list(scan.files) == ["good.jpg"]
    names = ["endless.png", "link to a pipe.jpg", "pipe.jpg", "socket.gif"]
    assert scan.failures == [Failure(name, "not a file") for name in names]
    # The photo may have been there when the folder was listed.
    for name in ("pipe.jpg", "endless.png"):
        assert read_photo(tmp_path, name).problem == "not a file"


def test_photos_below_a_folder_that_cannot_be_listed_are_not_taken_for_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _touch(tmp_path / "open" / "a.jpg")
    _touch(tmp_path / "closed" / "b.jpg")
    listing = os.scandir

    def refusing(path: Path) -> object:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")
        return listing(path)

    monkeypatch.setattr(os, "scandir", refusing)
    scan = scan_photos(tmp_path)
    assert list(scan.files) == ["open/a.jpg"]
    assert [failure.file for failure in scan.failures] == ["closed/"]
    assert not scan.covers("closed/b.jpg")
    assert scan.covers("open/gone.jpg")
