"""What TRL hands to rewards as a completion."""

from collections.abc import Sequence
from typing import Any


def completion_text(completion: Any) -> str:
    """The text of a completion, a string or a list of chat messages; empty for anything else."""
    if isinstance(completion, str):
        return completion
    if isinstance(completion, Sequence):
        parts = [message.get("content") for message in completion if isinstance(message, dict)]
        return "".join(part for part in parts if isinstance(part, str))
    return ""
