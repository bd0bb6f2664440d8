"""Clips to try, out of a synthetic world."""

from dataclasses import dataclass
from pathlib import Path

from ..data import load_refavs
from ..data.schema import Row, clip_key
from ..data.synthetic import SyntheticAnnotator

_SPLITS = ("test_s", "test_u", "test_n")


@dataclass(frozen=True)
class Example:
    """A clip and a sentence about it: `files` are its frames in order, `picture` is one from the middle."""

    reference: str
    files: list[str]
    sound: str | None

    @property
    def picture(self) -> str:
        return self.files[len(self.files) // 2]


def find_world(model: str | Path) -> Path | None:
    """The synthetic world of a chain, which lies beside its checkpoints as `data`; None where there is none."""
    folder = Path(model).absolute().parent / "data"
    return folder if (folder / "world.json").is_file() else None


def load_examples(world: str | Path, count: int = 6) -> list[Example]:
    """
    Choose references about distinct clips which take different things to resolve.

    Args:
        world (`str` or `Path`): folder that `aurora synth` wrote.
        count (`int`, *optional*, defaults to 6): how many.

    Raises:
        `DataError`: where the folder holds no synthetic world.
    """
    annotator = SyntheticAnnotator(world)
    rows: list[Row] = [row for split in _SPLITS for row in load_refavs(world, split)]
    chosen: list[Row] = []
    # First what is resolved by different rules in each split, then whatever shows another clip.
    for distinct in (True, False):
        for row in rows:
            clips = {clip_key(other) for other in chosen}
            rules = {(other["split"], annotator.facts(other).reference.rule) for other in chosen}
            new = not distinct or (row["split"], annotator.facts(row).reference.rule) not in rules
            if len(chosen) < count and clip_key(row) not in clips and new:
                chosen.append(row)
    return [Example(row["reference"], list(row["frames"] or ()), row["audio"]) for row in chosen]
