"""Media that are read ahead are the same, bounded, and a fault comes in its turn."""

import threading

import pytest
import torch

from aurora_trl.data import DataError
from aurora_trl.data.schema import clip_key
from aurora_trl.generation.clip_loader import ClipLoader
from aurora_trl.generation.read_ahead import ReadAheadLoader


@pytest.fixture
def clip_rows(rows):
    """A row of each clip."""
    return list({clip_key(row): row for row in rows}.values())


class Counting(ReadAheadLoader):
    """Says which clips it has read."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.read, self.changed = [], threading.Condition()

    def _load_clip(self, row):
        clip = super()._load_clip(row)
        with self.changed:
            self.read.append(clip_key(row))
            self.changed.notify_all()
        return clip

    def wait_for(self, count):
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.read) >= count, timeout=120)


def test_clips_are_read_ahead_once_and_as_ever(clip_rows, processor):
    plain = ClipLoader(processor)
    asked = [*clip_rows[:2], clip_rows[0], *clip_rows[2:5]]
    with Counting(processor, asked, ahead=2, cache_clips=2) as loader:
        loader.clip(asked[0])
        loader.wait_for(3)  # without being asked for
        for row in asked:
            clip = loader.clip(row)
            for name, value in plain.clip(row).items():
                assert torch.equal(clip[name], value), name
    keys = [clip_key(row) for row in clip_rows[:5]]
    assert set(loader.read) == set(keys)
    assert len(loader.read) <= 7  # the first may have left the cache of two clips before it was asked for again


def test_no_more_than_ahead_is_read(clip_rows, processor):
    with Counting(processor, clip_rows, ahead=1) as loader:
        loader.clip(clip_rows[0])
        loader.wait_for(2)
        assert len(loader._reading) == 1
    assert len(loader.read) == 2


def test_a_clip_that_can_not_be_read_is_an_error_in_its_turn(clip_rows, processor, tmp_path):
    broken = {**clip_rows[1], "frames": [str(tmp_path / "no.jpg")] * len(clip_rows[1]["frames"])}
    with ReadAheadLoader(processor, [clip_rows[0], broken, clip_rows[2]], ahead=4) as loader:
        loader.clip(clip_rows[0])
        loader.clip(clip_rows[2])
        with pytest.raises((DataError, OSError), match=r"no\.jpg"):
            loader.clip(broken)
