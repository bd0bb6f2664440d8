"""Where reasoning text comes from."""

from typing import Any, Protocol

from ..data.schema import DataError


class Annotator(Protocol):
    """
    Something that knows, or finds out, what is true of a clip: the synthetic world, a stronger model, a person.

    A project with its own implements these two methods and hands an instance to `annotate_rows` and `correct_rows`.
    """

    def reasoning(self, row: dict[str, Any], *, style: str = "flexible", seed: int = 0) -> str:
        """Reasoning about the row's reference that ends with the class sentence, without `It is [SEG].`."""
        ...

    def correct(self, row: dict[str, Any], text: str) -> str:
        """A wrong reasoning text with as little changed as makes it right (AURORA, section 3.2)."""
        ...


def get_annotator(spec: str) -> Annotator:
    """
    An annotator by name.

    Args:
        spec (`str`): `synthetic:DIR` for the world in a folder that `aurora synth` wrote.

    Raises:
        `DataError`: for anything else.
    """
    kind, _, argument = spec.partition(":")
    if kind == "synthetic" and argument:
        from ..data.synthetic import SyntheticAnnotator

        return SyntheticAnnotator(argument)
    raise DataError(f"unknown annotator {spec!r}; use `synthetic:DIR` with a folder that `aurora synth` wrote")
