"""Whether the keys of `set` and `--set` are those of the recipes."""

import difflib
from dataclasses import fields
from pathlib import Path

from ..errors import DataError
from ..training.arguments import LoraArguments, RecipeArguments
from ..training.grpo_config import AuroraGRPOConfig
from ..training.sft_config import AuroraSFTConfig
from .definition import Pipeline

CONFIGS: dict[str, type] = {"sft": AuroraSFTConfig, "grpo": AuroraGRPOConfig}


def require_known_keys(pipeline: Pipeline) -> None:
    """
    Raise `DataError` for a key of `set` or `--set` that the step's recipe does not have.

    Args:
        pipeline (`Pipeline`): from `load_pipeline`.
    """
    for step in pipeline.steps:
        script = Path(step.command[step.command.index("--config") - 1]) if step.changes else Path()
        if script.stem not in CONFIGS:
            continue
        known = {
            entry.name for group in (RecipeArguments, LoraArguments, CONFIGS[script.stem]) for entry in fields(group)
        }
        for key in step.changes:
            if key not in known:
                close = difflib.get_close_matches(key, known, n=1)
                hint = f"; did you mean `{close[0]}`?" if close else ""
                raise DataError(
                    f"{pipeline.file}: step `{step.name}` sets `{key}`, which {script} does not have{hint}"
                )
