"""`aurora check-data` in parallel."""

import tempfile
from pathlib import Path

from datasets import Dataset
from setting import Ratio, compare

from aurora_trl.data import load_refavs
from aurora_trl.data.synthetic import write_world
from aurora_trl.data.validation import find_problems


def run(rows: Dataset, *, repeats: int = 3) -> list[Ratio]:
    """Read a dataset with frames as large as those of Ref-AVS; `rows` are too few and small to tell."""
    with tempfile.TemporaryDirectory() as folder:
        world = write_world(Path(folder) / "world", clips=12, seed=1, image_size=960)  # as many pixels as 1280x720
        large = load_refavs(world, "train")

        def check(workers: int) -> None:
            if problems := find_problems(large, workers=workers):
                raise RuntimeError(f"the benchmark's own world is wrong: {problems[0].text}")

        return [
            compare(
                "check-data, two workers / one worker",
                lambda: check(1),
                lambda: check(2),
                repeats=repeats,
                bound=0.75,  # two cores at most halve it; the rest is Python's own work on the rows
            )
        ]
