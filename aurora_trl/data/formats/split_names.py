"""Names of splits: a row of `Train` or `validation` belongs to the split that is asked for as `train` or `val`."""

from collections.abc import Iterable
from pathlib import Path

from ...errors import DataError

_OTHER_NAMES = {"training": "train", "valid": "val", "validation": "val", "dev": "val", "testing": "test"}


def plain_split(name: str) -> str:
    """The usual spelling of a split's name."""
    plain = "_".join(name.lower().replace("-", " ").replace("_", " ").split())
    return _OTHER_NAMES.get(plain, plain)


def require_plain_split(where: str, split: str, splits: Iterable[str]) -> None:
    """Raise `DataError` for `Train` and its like, or none: such a row would belong to no split, and be left out."""
    if split not in splits and (plain_split(split) in splits or not split.strip()):
        raise DataError(f"{where}: its split is {split!r}; write `{plain_split(split) or 'train'}`")


def require_one_spelling(path: Path, split: str, named: Iterable[str]) -> None:
    """Raise `DataError` where rows would be left out of a split since they name it in another spelling."""
    other = next((name for name in named if name != split and plain_split(name) == plain_split(split)), None)
    if other is not None:
        raise DataError(f"{path}: its rows name the splits {split!r} and {other!r}; call both `{split}`")
