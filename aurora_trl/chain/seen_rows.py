"""How much of what a chain annotates its training will see."""

from typing import Any

from .definition import Pipeline, Step
from .launch import LaunchConfig
from .step_files import option


def rows_that_are_seen(pipeline: Pipeline, recipe: Any, config: Any, launch: LaunchConfig) -> str | None:
    """
    A line about a phase that learns from rows which a step annotates.

    Args:
        pipeline (`Pipeline`): the chain.
        recipe (`RecipeArguments`): of the phase: its file, how many rows are drawn, how often null rows come.
        config (`TrainingArguments`): of the phase: steps and batch.
        launch (`LaunchConfig`): on how many processes it runs.

    Returns:
        `str` or `None`: None where its rows are not annotated by this chain, or all of them are seen.
    """
    maker = next((step for step in pipeline.steps if str(step.makes) == recipe.dataset_path), None)
    if maker is None or not _annotates(maker) or config.max_steps <= 0:
        return None
    samples = config.max_steps * config.gradient_accumulation_steps * config.per_device_train_batch_size
    samples *= launch.num_processes
    asked = option(maker.command, "--max-rows")
    enough = min(samples, recipe.max_train_samples or samples)
    note = "" if recipe.repeat_null_rows == 1 else f", null rows {recipe.repeat_null_rows} times"
    if asked is not None and int(asked) <= enough:
        return f"data: {asked} rows of step `{maker.name}`, {samples} samples{note}"
    return (
        f"data: step `{maker.name}` annotates {asked or 'all'} rows, of which training takes {enough} at most{note}; "
        f"`--max-rows {enough}` there leaves out the rest"
    )


def _annotates(step: Step) -> bool:
    return "annotate" in step.command
