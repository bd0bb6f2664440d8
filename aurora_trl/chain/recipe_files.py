"""The recipes as files: where they are, and how `aurora recipes` writes them to a folder of your own."""

import re
from collections.abc import Mapping
from pathlib import Path

from ..disk import written_whole
from ..errors import DataError
from ..text_files import read_text

# What a recipe's YAMLs name, by the flag of `aurora recipes` that puts something else in its place.
_REPLACED: dict[str, dict[str, str]] = {
    "own": {"data": "data/own", "model": "models/own", "annotator": "qwen-omni:Qwen/Qwen2.5-Omni-7B"},
    "qwen3_omni": {"data": "data/refavs"},
    "qwen_omni": {"data": "data/refavs"},
    "videollama2": {"data": "data/refavs"},
    "videollama3": {"data": "data/refavs"},
}
# Anything else would have to be quoted for YAML, for a shell and for the braces of a chain.
_PLAIN_VALUE = re.compile(r"[\w./:@+-]+")


def recipes_folder() -> Path:
    """The folder of the recipes: a wheel holds it inside the package, a checkout beside the package."""
    package = Path(__file__).resolve().parents[1]
    folders = (package / "recipes", package.parent / "recipes")
    return next((folder for folder in folders if (folder / "sft.py").is_file()), folders[0])


def recipe_script(method: str) -> Path:
    """
    The script of a trainer.

    Args:
        method (`str`): `"sft"` or `"grpo"`.
    """
    return recipes_folder() / f"{method}.py"


def recipe_names() -> dict[str, str]:
    """The recipes by name, each with the first line of its chain, which says what it is."""
    chains = {folder.name: find_chains(folder) for folder in sorted(recipes_folder().iterdir())}
    return {name: read_text(files[0]).splitlines()[0].removeprefix("# ") for name, files in chains.items() if files}


def find_chains(folder: Path) -> list[Path]:
    """The YAMLs of a folder that are chains of phases, `pipeline.yaml` first."""
    files = [file for file in folder.glob("*.yaml") if re.search(r"^steps:", read_text(file), re.M)]
    return sorted(files, key=lambda file: (file.name != "pipeline.yaml", file.name))


def write_recipe(name: str, folder: str | Path, values: Mapping[str, str | None] | None = None) -> list[Path]:
    """
    Write a recipe, the two scripts and the accelerate configs to `folder/recipes`, to be changed there.

    The commands that the recipe's files and the documentation name work in `folder` as they are written.

    Args:
        name (`str`): see `recipe_names`.
        folder (`str` or `Path`): may hold other recipes already.
        values (`Mapping`, *optional*): what the YAMLs name in place of their own `data`, `model` and `annotator`; a
            path that exists is written as an absolute one. None leaves a name as it is.

    Returns:
        `list[Path]`: the recipe's files.

    Raises:
        `DataError`: where there is no such recipe, it does not have such a value, or a file is there with other
            content: nothing is written then.
    """
    known = recipe_names()
    if name not in known:
        raise DataError(f"no recipe `{name}`; there are {', '.join(known)}")
    given = {flag: _checked(flag, value) for flag, value in (values or {}).items() if value is not None}
    replaced = _REPLACED.get(name, {})
    for flag in given:
        if flag not in replaced:
            takes = ", ".join(f"--{other}" for other in replaced) or "no such flag"
            raise DataError(f"--{flag}: the recipe `{name}` takes {takes}")
    source, target = recipes_folder(), Path(folder, "recipes")
    in_the_way = next((path for path in (target, *target.parents) if path.exists() and not path.is_dir()), None)
    if in_the_way is not None:
        raise DataError(f"{in_the_way}: is a file; name another folder")
    own = _files(source / name)
    # What all recipes use, and the recipes whose phases this one names.
    others = [path for path in source.iterdir() if path.suffix == ".py" or (path.is_dir() and path.name not in known)]
    named = {other for path in own for other in re.findall(r"\.\./(\w+)/", read_text(path)) if other in known}
    shared = [path for other in (*others, *(source / other for other in named)) for path in _files(other)]
    texts = {target / path.relative_to(source): read_text(path) for path in (*shared, *own)}
    for path, text in texts.items():
        if path.suffix == ".yaml" and path.parent.name == name:
            for flag, value in given.items():
                text = re.sub(rf"(?<![\w/.-]){re.escape(replaced[flag])}(?![\w/.-])", value, text)
            texts[path] = text
        if path.exists() and (not path.is_file() or read_text(path) != text):
            raise DataError(f"{path}: exists already with other content; name another folder")
    for path, text in texts.items():
        if not path.exists():
            with written_whole(path) as opened:
                opened.write(text)
    return [target / path.relative_to(source) for path in own]


def _files(place: Path) -> list[Path]:
    """A file, or the files of a folder, but for what Python leaves there."""
    found = place.rglob("*") if place.is_dir() else [place]
    return sorted(path for path in found if path.is_file() and "__pycache__" not in path.parts)


def _checked(flag: str, value: str) -> str:
    if Path(value).exists():
        value = str(Path(value).resolve())
    if _PLAIN_VALUE.fullmatch(value) is None:
        raise DataError(f"--{flag} {value!r}: has a character that YAML needs quotes for; rename it")
    return value
