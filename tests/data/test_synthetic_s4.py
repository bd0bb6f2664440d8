"""The synthetic world in the layout of S4, which the official loader reads."""

import numpy as np
import pytest
import soundfile

from aurora_trl.cli import main
from aurora_trl.data import DataError, load_avsbench
from aurora_trl.data.masks import load_masks
from aurora_trl.data.synthetic import write_s4_world
from aurora_trl.data.synthetic.scene import SEEN_CLASSES
from aurora_trl.data.validation import find_problems


@pytest.fixture(scope="module")
def s4(tmp_path_factory):
    return write_s4_world(tmp_path_factory.mktemp("s4") / "world", clips=20, seed=4, image_size=48)


def test_the_loader_reads_it_and_one_object_sounds(s4):
    sizes = {}
    for split in ("train", "val", "test"):
        rows = load_avsbench(s4, "s4", split).to_list()
        sizes[split] = len(rows)
        assert find_problems(rows, thorough=True) == []
        for row in rows:
            assert row["reference"] == "The sounding object"
            assert row["class_name"].replace(" ", "-") in SEEN_CLASSES
            assert [mask is not None for mask in row["masks"]] == [True] + [split != "train"] * 4
            assert load_masks(row, indices=[0]).any()
            sound, rate = soundfile.read(row["audio"])
            assert (len(sound), rate) == (80_000, 16_000)
            assert np.abs(sound).max() > 0.02  # above the noise
    assert sizes == {"train": 14, "val": 2, "test": 4}


def test_the_same_seed_gives_the_same_files(s4, tmp_path):
    again = write_s4_world(tmp_path / "again", clips=20, seed=4, image_size=48)
    first, second = (sorted(path.relative_to(root) for path in root.rglob("*")) for root in (s4, again))
    assert first == second
    assert all((s4 / path).read_bytes() == (again / path).read_bytes() for path in first if (s4 / path).is_file())


def test_what_is_there_is_not_written_over(s4, tmp_path, capsys):
    with pytest.raises(DataError, match="exists already and is not empty"):
        write_s4_world(s4, clips=20)
    assert main(["synth", str(tmp_path / "few"), "--layout", "s4", "--clips", "3"]) == 1
    assert "give at least 10" in capsys.readouterr().err
    assert not (tmp_path / "few").exists()
