"""What a step takes: work, disk and money, from its settings or its command line."""

import argparse
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..annotation.annotators import CORRECTION_FRAMES, REASONING_FRAMES
from ..annotation.clients.gemini_client import GeminiClient
from ..annotation.clients.openai_client import OpenAIClient
from ..annotation.correction import PAPER_CORRECTIONS
from ..data import find_source
from ..errors import DataError
from .definition import Pipeline
from .experts import idle_weights
from .machines import Work
from .memory_estimate import MemoryEstimate, count_parameters
from .planned_model import ModelPlan, plan_model
from .workload import (
    LISTED_PRICES,
    PUBLISHED_ROWS,
    TrainingFacts,
    answering_work,
    local_annotation_work,
    logits_bytes,
    phase_bytes,
    row_passes,
    training_work,
)

_INSTRUCTION_TOKENS = 600  # of an annotator's request
_CLIP_SECONDS = 10
_WRITTEN = {"annotate": 200, "correct": 450}  # tokens of an answer
_PROMPT_TOKENS = 64
_LOCAL_BATCH, _REMOTE_REQUESTS = 32, 4  # what `aurora annotate` asks at a time, unless it is told
_CLIENTS: dict[str, Any] = {"gemini": GeminiClient, "openai": OpenAIClient}


@dataclass
class Costs:
    """
    What a step takes.

    Attributes:
        work (`Work` or `None`): None where it can not be known yet, or is little.
        disk (`int`): bytes that it leaves.
        money (`float`): in the currency of the prices.
        lines (`list[str]`): what was counted with.
    """

    work: Work | None = None
    disk: int = 0
    money: float = 0.0
    lines: list[str] = field(default_factory=list)


class Counter:
    """Counts of models and datasets, each taken once for a whole chain."""

    def __init__(self) -> None:
        self._parameters: dict[str, dict[str, int]] = {}
        self._rows: dict[tuple[str, str, str, str], int | None] = {}

    def parameters(self, model: ModelPlan) -> dict[str, int]:
        """Of a model, by group."""
        if model.what not in self._parameters:
            self._parameters[model.what] = count_parameters(model.config)
        return self._parameters[model.what]

    def rows(self, path: str, split: str, dataset_format: str | None = None, subset: str | None = None) -> int | None:
        """Of a split; None where the dataset is not there, or can not be loaded."""
        key = (path, split, str(dataset_format), str(subset))
        if key not in self._rows:
            try:
                source = find_source(path, dataset_format, subset) if Path(path).exists() else None
                self._rows[key] = None if source is None else len(source.load(split))
            except DataError:
                self._rows[key] = None
        return self._rows[key]


def training_costs(
    facts: TrainingFacts, model: ModelPlan, memory: MemoryEstimate, kept: int, rows: int | None, *, adapter: bool
) -> Costs:
    """
    What a phase takes.

    Args:
        facts (`TrainingFacts`): from its settings.
        model (`ModelPlan`): that it starts from.
        memory (`MemoryEstimate`): with the weights by group.
        kept (`int`): checkpoints beside the result.
        rows (`int` or `None`): of its dataset, where it is there.
        adapter (`bool`): it trains a LoRA.
    """
    parameters = memory.parameters
    passes = row_passes(model.config, parameters, model.num_frames, model.media_tokens)
    disk = phase_bytes(sum(memory.trainable.values()), sum(parameters.values()), kept, adapter=adapter)
    seen = facts.steps * facts.questions
    epochs = "rows that are not there yet" if not rows else f"{rows} rows: {seen / rows:.2f} epochs"
    line = f"{facts.steps} steps of {facts.questions:g} rows, of {epochs}; {disk / 1e9:.1f} GB on disk"
    weights = _read_weights(model, parameters, facts.batch_size)
    return Costs(training_work(facts, passes, weights), disk, lines=[line])


def kept_checkpoints(config: Any, steps: int) -> int:
    """
    How many checkpoints a phase leaves beside its result, at most.

    Args:
        config (`TrainingArguments`): of the phase.
        steps (`int`): that it takes.
    """
    strategy = getattr(config.save_strategy, "value", config.save_strategy)
    if strategy == "no":
        return 0
    every: float = steps / config.num_train_epochs if config.max_steps <= 0 else steps  # epochs are not known here
    if strategy in ("steps", "best"):
        every = config.save_steps if config.save_steps >= 1 else steps * config.save_steps
    saved = max(1, math.ceil(steps / max(every, 1)))  # the last step is saved, too
    limit = config.save_total_limit
    # The best one is kept beside the newest.
    return saved if not limit or limit < 1 else min(saved, max(limit, 2 if config.load_best_model_at_end else 1))


def command_costs(
    pipeline: Pipeline, arguments: argparse.Namespace, counter: Counter, *, shared: bool = False
) -> Costs:
    """
    What a data step takes.

    Args:
        pipeline (`Pipeline`): the chain.
        arguments (`argparse.Namespace`): of the step's command.
        counter (`Counter`): of the chain.
        shared (`bool`, *optional*, defaults to `False`): all GPUs share its rows.
    """
    command = arguments.command
    if command in ("annotate", "correct") and (arguments.annotator or arguments.serve):
        costs = _annotation_costs(pipeline, arguments, counter)
    elif command in ("evaluate", "mine"):
        costs = _answering_costs(pipeline, arguments, counter)
    else:
        costs = None
    if costs is not None:
        costs.work = None if costs.work is None else replace(costs.work, spread=shared)
        return costs
    if command == "init":
        model = plan_model(pipeline, str(arguments.output))
        disk = 0 if model is None else 2 * sum(counter.parameters(model).values())
        return Costs(Work(), disk, lines=[f"{disk / 1e9:.1f} GB on disk"] if disk else [])
    return Costs(Work())


def published_rows(path: str, split: str, subset: str | None) -> tuple[int, str] | None:
    """
    Rows of a published dataset that is not there yet, and the note that says so.

    Args:
        path (`str`): where it will be.
        split (`str`), subset (`str` or `None`): which rows.

    Returns:
        `tuple` or `None`: None where no published dataset has such a split.
    """
    name = "AVSBench S4" if subset == "s4" else "Ref-AVS"
    rows = PUBLISHED_ROWS[name].get(split)
    return None if rows is None or subset not in (None, "s4") else (rows, f"{path} is not there yet: rows of {name}")


def _rows_of(
    pipeline: Pipeline, arguments: argparse.Namespace, counter: Counter, splits: list[str], limit: int | None
) -> tuple[int | None, str | None]:
    """Rows of some splits, with a note where they are a published dataset's; None where they can not be known."""
    total, note = 0, None
    made = any(step.makes == Path(arguments.data) for step in pipeline.steps)
    for split in splits:
        rows = counter.rows(arguments.data, split, arguments.format, arguments.subset)
        if rows is None:
            known = None if made else published_rows(arguments.data, split, arguments.subset)
            if known is None:
                return None, None
            rows, note = known
        total += rows if limit is None else min(rows, limit)
    return total, note


def _read_weights(model: ModelPlan, parameters: dict[str, int], rows: int) -> int:
    """Weights of the language model that a step of generation reads for so many rows."""
    return parameters.get("language_model", 0) - idle_weights(model.config.get_text_config(), rows)


def _annotated(pipeline: Pipeline, path: str) -> str:
    """The dataset whose rows a file of chains of thought will hold; the path itself where no step writes it."""
    maker = next((step.command for step in pipeline.steps if step.makes == Path(path)), [])
    return maker[maker.index("annotate") + 1] if "annotate" in maker[:-1] and not Path(path).exists() else path


def _answering_costs(pipeline: Pipeline, arguments: argparse.Namespace, counter: Counter) -> Costs:
    model = plan_model(pipeline, arguments.model)
    if model is None:
        return Costs()
    evaluates = arguments.command == "evaluate"
    splits = (arguments.splits or ["test_s", "test_u", "test_n"]) if evaluates else [arguments.split or "train"]
    arguments = argparse.Namespace(**{**vars(arguments), "data": _annotated(pipeline, arguments.data)})
    rows, note = _rows_of(pipeline, arguments, counter, splits, arguments.max_rows)
    if rows is None:
        return Costs()
    asked = rows * (1 + len(arguments.swaps)) if evaluates else rows
    parameters = counter.parameters(model)
    passes = row_passes(model.config, parameters, model.num_frames, model.media_tokens)
    answer = model.answer_limit(arguments.max_new_tokens)
    prompt = model.media_tokens + _PROMPT_TOKENS
    weights = _read_weights(model, parameters, arguments.batch_size)
    keeps = evaluates and not arguments.no_logits
    disk = logits_bytes(asked, model.num_frames, model.config) if keeps else 0
    lines = [f"{asked} answers" + (f", {disk / 1e9:.1f} GB of logits on disk" if disk else "")]
    work = answering_work(asked, arguments.batch_size, prompt, answer, passes, weights)
    return Costs(work, disk, lines=[*lines, *([note] if note else [])])


def _annotation_costs(pipeline: Pipeline, arguments: argparse.Namespace, counter: Counter) -> Costs:
    corrects = arguments.command == "correct"
    rows: int | None = None
    note: str | None = None
    if corrects:
        rows = arguments.max_rows or PAPER_CORRECTIONS
    else:
        rows, note = _rows_of(pipeline, arguments, counter, [arguments.split or "train"], arguments.max_rows)
    if rows is None:
        return Costs()
    lines = [note] if note else []
    kind, _, _ = (arguments.annotator or "").partition(":")
    if kind == "qwen-omni" or arguments.serve is not None:
        at_once = arguments.concurrency or _LOCAL_BATCH
        return Costs(local_annotation_work(rows, at_once), lines=[f"{rows} texts of a local model", *lines])
    client = _CLIENTS.get(kind)
    if client is None:
        return Costs(Work(), lines=lines)
    frames = CORRECTION_FRAMES if corrects else REASONING_FRAMES
    read = rows * (
        frames * client.picture_tokens + client.sound_tokens_per_second * _CLIP_SECONDS + _INSTRUCTION_TOKENS
    )
    written = rows * _WRITTEN[arguments.command]
    prices = (arguments.input_price, arguments.output_price)
    listed = LISTED_PRICES.get(arguments.annotator)
    told = f"up to {rows} requests, about {read / 1e6:.1f} M tokens in and {written / 1e6:.1f} M out"
    if prices[0] is not None and prices[1] is not None:
        money, whose = (read * prices[0] + written * prices[1]) / 1e6, "the prices given"
    elif listed is not None:
        money = (read * listed[0] + written * listed[1]) / 1e6
        whose = f"{listed[0]:g} and {listed[1]:g} a million, as listed in 2025"
    else:
        money, whose = 0.0, ""
        told += "; give --input-price and --output-price to know what they cost"
    if whose:
        told += f": about {money:.2f} by {whose}; thoughts and answers asked again come on top"
    seconds = rows * client.seconds_per_request / (arguments.concurrency or _REMOTE_REQUESTS)
    return Costs(Work(seconds=seconds), money=money, lines=[told, *lines])
