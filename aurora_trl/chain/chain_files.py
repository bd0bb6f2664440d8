"""Reading a chain's YAML with those that it includes, and what `--set` changes of its steps."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import DataError
from ..shell_paths import expand_paths
from ..text_files import parse_yaml_value, read_yaml

_KEYS = {"output_dir", "seed", "feature_cache", "include", "steps"}


class Place(NamedTuple):
    """
    Where a step is written.

    Attributes:
        file (`Path`): the YAML.
        own (`dict`): that file's `output_dir` and `seed`.
    """

    file: Path
    own: dict[str, Any]


@dataclass(frozen=True)
class ChainFile:
    """
    A chain as it is written.

    Attributes:
        file (`Path`): the YAML.
        own (`dict`): its `output_dir` and `seed`.
        entries (`list[tuple[Place, Any]]`): its steps, those of included chains first.
        feature_cache (`Any`): the folder for features that it names, or the first chain that it includes.
        folders (`tuple[str, ...]`): its `output_dir` and those of all that it includes.
    """

    file: Path
    own: dict[str, Any]
    entries: list[tuple[Place, Any]]
    feature_cache: Any = None
    folders: tuple[str, ...] = ()


def read_chain(file: Path, including: tuple[Path, ...] = ()) -> ChainFile:
    """
    Read a chain's YAML with those that it includes.

    Args:
        file (`Path`): the YAML.
        including (`tuple[Path, ...]`, *optional*): the files that include it.

    Raises:
        `DataError`: names the file and the key that is wrong.
    """
    if file.resolve() in including:
        raise DataError(f"{file}: includes itself, through {' and '.join(path.name for path in including)}")
    content = read_yaml(file)
    places = ("output_dir", "feature_cache", "include")
    content |= {key: expand_paths(content[key], file) for key in places if key in content}
    unknown = sorted(map(str, set(content) - _KEYS))
    included = _included(file, content.get("include"))
    if unknown or not isinstance(content.get("steps"), list) or ("output_dir" not in content and not included):
        raise DataError(
            f"{file}: a chain has `output_dir`, `seed`, `include` and a list of `steps`, not {unknown or 'this'}"
        )
    inner = [read_chain(path, (*including, file.resolve())) for path in included]
    # A chain that includes another goes on where that one writes, unless it says otherwise.
    first = inner[0].own if inner else {"seed": 0}
    own = {key: content.get(key, first.get(key)) for key in ("output_dir", "seed")}
    if not isinstance(own["output_dir"], str) or not own["output_dir"]:
        raise DataError(f"{file}: `output_dir` must be the path of a folder, got {own['output_dir']!r}")
    own["output_dir"] = str(Path(own["output_dir"]))
    if isinstance(own["seed"], bool) or not isinstance(own["seed"], int) or not 0 <= own["seed"] < 2**32:
        raise DataError(f"{file}: `seed` must be a whole number from 0 to {2**32 - 1}, got {own['seed']!r}")
    entries: list[tuple[Place, Any]] = []
    for chain in inner:
        entries += [entry for entry in chain.entries if entry not in entries]  # two may include the same third
    entries += [(Place(file, own), entry) for entry in content["steps"]]
    cache = content.get("feature_cache", inner[0].feature_cache if inner else None)
    folders = (own["output_dir"], *(folder for chain in inner for folder in chain.folders))
    return ChainFile(file, own, entries, cache, folders)


def _included(file: Path, names: Any) -> list[Path]:
    names = [names] if isinstance(names, str) else names or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{file}: `include` must name another chain's YAML, or a list of them, got {names!r}")
    paths = [file.parent / name for name in names]
    missing = next((path for path in paths if not path.is_file()), None)
    if missing is not None:
        raise DataError(f"{file}: `include` names {missing}, which is no file")
    return paths


def read_settings(texts: list[str]) -> dict[str, dict[str, Any]]:
    """
    What `--set` says, by step.

    Args:
        texts (`list[str]`): such as `sft.feature_cache=features`; a value is read as YAML.

    Raises:
        `DataError`: names the one that can not be read.
    """
    settings: dict[str, dict[str, Any]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        step, _, key = name.rpartition(".")
        if not step or not key or not equals:
            raise DataError(f"--set {text}: write STEP.KEY=VALUE, such as sft.max_steps=100")
        try:
            settings.setdefault(step, {})[key] = parse_yaml_value(value)
        except ValueError as error:
            raise DataError(f"--set {text}: {value!r} can not be read as a YAML value ({error}); quote it") from None
    return settings
