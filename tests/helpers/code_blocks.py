"""The code blocks of Markdown pages, and the commands in them."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(
    r"(?:<!-- parsed only: (?P<reason>.+?) -->\n\n)?"
    r"^(?P<indent> *)```(?P<language>[^\n]*)\n(?P<text>.*?)^ *```$",
    re.S | re.M,
)


@dataclass(frozen=True)
class Block:
    """
    A code block.

    Attributes:
        page (`Path`): the file.
        number (`int`): of the block in its page, from 1.
        language (`str`): what stands after the opening fence.
        text (`str`): the code.
        reason (`str` or `None`): why it is parsed and not run, from a comment `<!-- parsed only: ... -->` before it.
    """

    page: Path
    number: int
    language: str
    text: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page.parent.name}/{self.page.name}-{self.number}-{self.language}"


def read_blocks(page: Path) -> list[Block]:
    """All code blocks of a page, in order."""
    text = page.read_text()
    found = []
    for number, match in enumerate(_BLOCK.finditer(text), 1):
        code = re.sub(f"^{match['indent']}", "", match["text"], flags=re.M)
        found.append(Block(page, number, match["language"], code, match["reason"]))
    fences = len(re.findall(r"^ *```", text, re.M))
    assert fences == 2 * len(found), f"{page}: {fences} fences, {len(found)} blocks"
    return found


def commands(text: str) -> list[list[str]]:
    """The commands of a shell block as words: comments gone, continued lines joined, `a && b` as two."""
    lines = text.replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    found: list[list[str]] = []
    for line in words:
        current: list[str] = []
        for word in [*line, "&&"]:
            if word != "&&":
                current.append(word)
            elif current:
                found.append(current)
                current = []
    return found
