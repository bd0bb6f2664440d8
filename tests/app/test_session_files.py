"""Files of those who have the page open: they go when nobody uses them any more."""

import pytest

from aurora_trl.app.session_files import SessionFiles


@pytest.fixture
def files(tmp_path):
    (tmp_path / "root").mkdir()
    return SessionFiles(tmp_path / "root")


def upload(files, digest, name="clip.mp4"):
    path = files.root / digest / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(digest)
    return path


def test_an_upload_goes_when_another_takes_its_place(files):
    first, second = upload(files, "a"), upload(files, "b")
    files.hold("me", [first])
    files.hold("me", [second])
    assert not first.parent.exists()
    assert second.is_file()


def test_what_two_have_uploaded_goes_with_the_last(files):
    shared = upload(files, "a")
    files.hold("me", [shared])
    files.hold("you", [shared])
    files.close("me")
    assert shared.is_file()
    files.close("you")
    assert not shared.parent.exists()


def test_one_content_under_two_names(files):
    first, second = upload(files, "a"), upload(files, "a", "other.mp4")
    files.hold("me", [first])
    files.hold("you", [second])
    files.close("me")
    assert not first.exists()
    assert second.is_file()


def test_a_result_takes_the_place_of_the_one_before(files):
    first = files.new_folder("me", "result")
    other = files.new_folder("you", "result")
    (first / "strip.png").write_text("x")
    second = files.new_folder("me", "result")
    assert not first.exists()
    assert second.is_dir()
    assert other.is_dir()
    files.close("me")
    files.close("you")
    files.close("nobody")
    assert list(files.root.iterdir()) == []


def test_nothing_outside_is_touched(files, tmp_path):
    mine = tmp_path / "precious" / "clip.mp4"
    mine.parent.mkdir()
    mine.write_text("precious")
    deep = files.root / "a" / "b" / "clip.mp4"
    deep.parent.mkdir(parents=True)
    deep.write_text("x")
    files.hold("me", [mine, deep])
    files.close("me")
    assert mine.read_text() == "precious"
    assert deep.is_file()


def test_idle_sessions_end_and_empty_leftovers_go(tmp_path):
    files = SessionFiles(tmp_path, idle_seconds=-1)  # every session is idle at once
    left, full = tmp_path / "tmpabc", tmp_path / "tmpdef"
    left.touch()
    full.write_text("x")
    held, forgotten = upload(files, "a"), upload(files, "b")
    files.hold("me", [held])
    assert not held.exists()
    assert not forgotten.exists()
    assert not left.exists()
    assert full.is_file()
