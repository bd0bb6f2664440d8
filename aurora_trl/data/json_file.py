"""Small JSON files that a person may have edited, or a copy may have cut short."""

import json
from pathlib import Path
from typing import Any

from ..errors import DataError


def read_json(path: str | Path) -> dict[str, Any]:
    """
    A file that holds one JSON object.

    Args:
        path (`str` or `Path`): the file.

    Returns:
        `dict`: what it holds.

    Raises:
        `DataError`: where it is missing, is not JSON in UTF-8, or holds something else than an object.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; restore it, or write it again") from None
    except (ValueError, RecursionError) as error:  # what is no text is a ValueError, too
        raise DataError(f"{path}: not valid JSON ({error}); restore it, or write it again") from None
    if not isinstance(content, dict):
        raise DataError(
            f"{path}: holds a {type(content).__name__} where an object `{{…}}` belongs; restore it, or write it again"
        )
    return content
