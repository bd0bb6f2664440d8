"""Text, JSON and YAML as editors and spreadsheets write them, or as a copy that was cut short left them."""

import csv
import json
import re
from io import StringIO
from pathlib import Path
from typing import Any

import yaml

from .errors import DataError


def read_text(path: str | Path, limit: int | None = None) -> str:
    """
    The text of a file in UTF-8, with or without a byte-order mark; line ends become `\\n`.

    Args:
        path (`str` or `Path`): the file.
        limit (`int`, *optional*): read this many characters only.

    Raises:
        `DataError`: names a file that is in another encoding, or can not be read.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            return file.read() if limit is None else file.read(limit)
    except UnicodeDecodeError:
        raise DataError(f"{path}: not text in UTF-8; save it again with that encoding") from None
    except OSError as error:
        raise DataError(f"{path}: can not be read: {error.strerror}") from None


def json_lines(path: str | Path) -> list[tuple[int, str]]:
    """
    The lines of a file of JSON lines that hold anything, each with its number, from 1. `str.splitlines` would end one
    at U+2028 and its like, which JSON leaves as they are inside a text.

    Raises:
        `DataError`: as `read_text`.
    """
    return [(number, line) for number, line in enumerate(read_text(path).split("\n"), 1) if line.strip()]


def read_table(path: str | Path) -> list[tuple[int, list[str]]]:
    """
    The lines of a CSV file that hold anything, each with its number, the header first.

    Raises:
        `DataError`: as `read_text`; names the line with a cell that does not end in it, since its quote takes all
            lines up to the next one, and a header that names a column twice, or has no commas between its columns.
    """
    reader = csv.reader(StringIO(read_text(path)), strict=True)
    lines, number = [], 1
    try:
        for cells in reader:
            if any("\n" in cell for cell in cells):
                raise csv.Error("a quote opens there and does not close in its line")
            lines += [(number, cells)] if cells else []
            number = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f'{path}, line {number}: {error}; write a quote inside a cell as `""`') from None
    if lines:
        _require_plain_header(path, lines[0][1])
    return lines


def _require_plain_header(path: str | Path, header: list[str]) -> None:
    separator = strange_separator(header)
    if separator is not None:
        raise DataError(f"{path}: its columns are separated by {separator!r}; save it with commas")
    twice = next((name for place, name in enumerate(header) if name.strip() and name in header[:place]), None)
    if twice is not None:
        raise DataError(f"{path}: the column `{twice}` stands twice; remove one of them")


def strange_separator(header: list[str]) -> str | None:
    """What stands between the columns of a table where no comma does, as a spreadsheet of some countries writes it."""
    return next((mark for mark in ";\t|" if mark in header[0]), None) if len(header) == 1 else None


def parse_json(text: str | bytes, *, unique_keys: bool = True) -> Any:
    """
    `json.loads`, whose every fault is a `ValueError`.

    Args:
        text (`str` or `bytes`): the JSON.
        unique_keys (`bool`, *optional*, defaults to `True`): refuse a key that stands twice in an object, of which
            `json.loads` takes the last without a word.

    Raises:
        `ValueError`: where the text is no JSON, or is nested too deep to be read; names the key that stands twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique if unique_keys else None)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key `{twice}` stands twice; remove one of them")
    return found


def read_json(path: str | Path) -> dict[str, Any]:
    """
    A file that holds one JSON object.

    Raises:
        `DataError`: where it is missing, is not JSON in UTF-8, or holds something else than an object.
    """
    way_out = "restore it, or write it again"
    if not Path(path).exists():
        raise DataError(f"{path}: no such file; {way_out}")
    try:
        content = parse_json(read_text(path), unique_keys=False)  # other programs write these, too, and read them so
    except ValueError as error:
        told = str(error) if isinstance(error, DataError) else f"{path}: not valid JSON ({error})"
        raise DataError(f"{told}; {way_out}") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds a {type(content).__name__} where an object `{{…}}` belongs; {way_out}")
    return content


# YAML 1.1 reads `0100` as 64 and `1:30` as 90, whoever wrote them.
_OTHER_BASE = re.compile(r"[-+]?(?:0[0-7_]+|[1-9][\d_]*(?::[0-5]?\d)+(?:\.[\d_]*)?)")


class _StrictLoader(yaml.SafeLoader):
    """YAML's own loader takes the last of two equal keys, and numbers of other bases than ten, without a word."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:  # as written: what `<<` brings may stand here, too
            if isinstance(key, yaml.ScalarNode) and (key.tag, key.value) in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key `{key.value}` stands twice; remove one of them", key.start_mark
                )
            seen.add((key.tag, str(key.value)))
        return node

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        node = super().compose_scalar_node(anchor)
        is_number = node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
        if is_number and _OTHER_BASE.fullmatch(node.value):
            raise yaml.constructor.ConstructorError(
                None,
                None,
                f"YAML reads `{node.value}` in base {60 if ':' in node.value else 8}; write it without a zero or "
                "colon, or in quotes where it is a text",
                node.start_mark,
            )
        return node


def parse_yaml_value(text: str) -> Any:
    """
    Any YAML, such as a single value.

    Raises:
        `ValueError`: in one line; names the key that stands twice, or the number that is of another base.
    """
    try:
        return yaml.load(text, _StrictLoader)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    except (yaml.YAMLError, ValueError) as error:  # 2026-02-31 is a ValueError
        raise ValueError(" ".join(str(error).split())) from None


def parse_yaml(text: str, where: str | Path) -> dict[str, Any]:
    """
    YAML that is a mapping of keys to values.

    Args:
        text (`str`): the YAML.
        where (`str` or `Path`): the file that it came from, for the error.

    Raises:
        `DataError`: where it is no YAML or no mapping; names the key that stands twice.
    """
    try:
        content = parse_yaml_value(text)
    except ValueError as error:
        raise DataError(f"{where}: not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise DataError(f"{where}: a mapping of keys to values is needed")
    return content


def read_yaml(path: str | Path) -> dict[str, Any]:
    """
    A YAML file that is a mapping of keys to values.

    Raises:
        `DataError`: names the file that is missing, no YAML or no mapping, and the key that stands twice.
    """
    if not Path(path).is_file():
        raise DataError(f"{path}: no such file")
    return parse_yaml(read_text(path), path)
