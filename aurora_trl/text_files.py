"""Text files as editors and spreadsheets write them."""

from pathlib import Path
from typing import Any

import yaml

from ..errors import DataError


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


class _StrictLoader(yaml.SafeLoader):
    """YAML's own loader takes the last of two equal keys without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key `{key}` stands twice; remove one of them", key_node.start_mark
                )
            seen.add(key) if isinstance(key, str) else None
        return super().construct_mapping(node, deep)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """
    A YAML file that is a mapping of keys to values.

    Raises:
        `DataError`: names the file that is missing, no YAML or no mapping, and the key that stands twice.
    """
    if not Path(path).is_file():
        raise DataError(f"{path}: no such file")
    try:
        content = yaml.load(read_text(path), _StrictLoader)
    except yaml.YAMLError as error:
        raise DataError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: a mapping of keys to values is needed")
    return content
