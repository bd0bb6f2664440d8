"""Lets griffe read docstrings in TRL's form, in which the names of one entry may fill several lines."""

import re

from griffe import Extension, Object

_ENTRY = re.compile(r"^    (?=\S)")
_TYPES = re.compile(r"^    [\w*, ]+ \(`.*?\)(?=:| and |, )")


class JoinedEntries(Extension):
    """Puts the head of each entry under `Args:` on one line: griffe looks for its colon there."""

    def on_object(self, *, obj: Object, **kwargs: object) -> None:
        if obj.docstring is not None:
            obj.docstring.value = join_entries(obj.docstring.value)


def join_entries(text: str) -> str:
    """A docstring in which an entry's head is one line, with its types as plain words."""
    lines: list[str] = []
    inside = False
    for line in text.splitlines():
        if not line.startswith(" ") and line.strip():
            inside = line in ("Args:", "Attributes:", "Returns:", "Raises:", "Yields:")
        head = lines[-1] if lines else ""
        if inside and _ENTRY.match(line) and _ENTRY.match(head) and not re.search(r":(\s|$)", head):
            lines[-1] = f"{head} {line.strip()}"
        else:
            lines.append(line)
    return "\n".join(_TYPES.sub(lambda match: re.sub("[`*]", "", match[0]), line) for line in lines)
