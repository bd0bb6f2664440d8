"""`aurora run --dry-run`: whether a chain could run, and what its phases need, before anything does."""

import argparse
import contextlib
import io
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Any

from ..data.schema import Row
from ..data.validation import describe_short_clips
from ..errors import DataError
from ..models.checkpoints.own_files import REPOSITORY_ID, require_repository
from ..training.arguments import LoraArguments, RecipeArguments, load_rows, parse_recipe
from ..training.dataset_entries import DatasetEntry
from .child_process import search_path
from .costs import Costs, Counter, command_costs, kept_checkpoints, published_rows, training_costs
from .definition import Pipeline, Step
from .launch import LaunchConfig
from .launchers import Launched, read_launcher
from .memory_estimate import MemoryEstimate, TrainingSetup, estimate_memory
from .plan_lines import count_text, memory_line, parameter_lines, rollout_lines
from .planned_model import CHARACTERS_PER_TOKEN, ModelPlan, learnt_tokens, plan_model
from .readiness import annotator_problem, checkpoint_problem, media_problems
from .rollout_estimate import RolloutSetup
from .seen_rows import rows_that_are_seen
from .set_keys import CONFIGS
from .step_files import option
from .workload import TrainingFacts

# The arguments of a data step that name what it reads.
_READ_BY_COMMANDS = (
    "data",
    "model",
    "policy",
    "mask_decoder",
    "adapter",
    "plain",
    "annotator",
    "answers",
    "folder",
    "path",
)
# Models of ours, and not the published parts that one is built from, which a plan is made without.
_OWN_MODEL_KEYS = ("`model_name_or_path`", "`teacher_model_name_or_path`", "`model`")
_DATA_KEYS = ("`dataset_path`", "`eval_dataset_path`")
_MODEL_ARGUMENTS = ("model", "policy", "mask_decoder", "adapter")
_INSTRUCTION_TOKENS = 48  # the chat's own, the reference and the instruction
_MEASURED_VIDEOS = 20
_MEASURED_ROWS = 256


@dataclass
class StepPlan:
    """
    What there is to say about a step.

    Attributes:
        step (`Step`): of the chain.
        lines (`list[str]`): facts.
        problems (`list[str]`): what would make it fail, each with the file or key.
        memory (`MemoryEstimate` or `None`): of a training step whose model's sizes are known.
        costs (`Costs` or `None`): work, disk and money, where they can be known.
    """

    step: Step
    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    memory: MemoryEstimate | None = None
    costs: Costs | None = None


def check_pipeline(pipeline: Pipeline, parser: argparse.ArgumentParser) -> list[StepPlan]:
    """
    Check every step: files, configs, datasets, and what training needs of memory.

    Args:
        pipeline (`Pipeline`): from `load_pipeline`.
        parser (`argparse.ArgumentParser`): of the `aurora` command, which reads the arguments of the data steps.

    Returns:
        `list[StepPlan]`: in the chain's order; nothing has been run or written.
    """
    shared = _Shared()
    return [_Checker(pipeline, step, parser, shared).check() for step in pipeline.steps]


@dataclass
class _Shared:
    """What several steps read is looked at once."""

    counter: Counter = field(default_factory=Counter)
    seen: set[tuple[str, ...]] = field(default_factory=set)

    def is_new(self, *key: str | None) -> bool:
        words = tuple(map(str, key))
        new = words not in self.seen
        self.seen.add(words)
        return new


class _Checker:
    """Collects what is wrong with one step."""

    def __init__(self, pipeline: Pipeline, step: Step, parser: argparse.ArgumentParser, shared: _Shared):
        self.pipeline, self.step, self.parser, self.shared = pipeline, step, parser, shared
        self.plan = StepPlan(step)

    def check(self) -> StepPlan:
        words = self.step.command
        if shutil.which(words[0], path=search_path()) is None:
            self.plan.problems.append(f"{words[0]}: no such command")
            return self.plan
        try:
            launched = read_launcher(words)
        except DataError as error:
            self.plan.problems.append(str(error))
            return self.plan
        if launched is None:
            self._check_command(words)
        elif launched.words[0] == "aurora":
            self._check_command(launched.words)
        elif self.step.config is not None or "--config" in launched.words[:-1]:
            self._check_training(launched)
        else:
            self.plan.lines.append(f"{launched.words[0]} is not one of our recipes: its arguments are not checked")
        return self.plan

    def _check_command(self, words: list[str]) -> None:
        if words[0] != "aurora":
            return
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said):
                arguments = self.parser.parse_args(words[1:])
        except SystemExit:
            self.plan.problems.append(said.getvalue().strip().splitlines()[-1])
            return
        for name in _READ_BY_COMMANDS:
            value = getattr(arguments, name, None)
            if isinstance(value, str) and (name != "annotator" or value.startswith("synthetic:")):
                self._check_exists(f"`{name}`", value.removeprefix("synthetic:"), is_model=name in _MODEL_ARGUMENTS)

        limit = getattr(arguments, "max_new_tokens", None)
        self._check_limit("`--max-new-tokens`", limit, str(getattr(arguments, "model", "")))
        if hasattr(arguments, "annotator") and self.pipeline.state(self.step) != "done":
            problem = annotator_problem(arguments)
            self.plan.problems += [] if problem is None else [problem]
        if hasattr(arguments, "format") and isinstance(getattr(arguments, "data", None), str):
            self._check_media(arguments.data, arguments.format, arguments.subset)
        shared = self.step.command[0] != "aurora"
        self.plan.costs = command_costs(self.pipeline, arguments, self.shared.counter, shared=shared)
        self.plan.lines += self.plan.costs.lines

    def _check_media(self, path: str, dataset_format: str | None, subset: str | None) -> None:
        """Some rows of every split of a dataset that is there."""
        makers = self._makers(path)
        if not makers and Path(path).exists() and self.shared.is_new("data", path, dataset_format, subset):
            self.plan.problems += media_problems(path, dataset_format, subset)

    def _check_exists(self, key: str, path: str, *, is_model: bool) -> None:
        """A path is on disk, or an earlier step makes it, or it is a model's name on the Hub."""
        if self._makers(path):
            return
        if not Path(path).exists():
            if not (is_model and self._is_hub_name(path)):
                self.plan.problems.append(f"{key} {path}: no such file or folder, and no earlier step makes it")
            elif key in _OWN_MODEL_KEYS and self.shared.is_new("repository", path):
                try:
                    require_repository(path)  # or a folder whose name is mistyped
                except DataError as error:
                    self.plan.problems.append(f"{key} {error}")
        elif is_model and key not in _DATA_KEYS and self.shared.is_new("checkpoint", path):
            problem = checkpoint_problem(path)
            self.plan.problems += [] if problem is None else [problem]

    def _makers(self, path: str) -> list[Step]:
        """Earlier steps that make a path, or the folder that it lies in."""
        earlier = self.pipeline.steps[: self.pipeline.steps.index(self.step)]
        place = Path(path)
        return [step for step in earlier if {step.makes, *step.writes} & {place, *place.parents}]

    def _is_hub_name(self, path: str) -> bool:
        inside = Path(path).is_relative_to(self.pipeline.output_dir)
        return not inside and "/" in path and REPOSITORY_ID.fullmatch(path) is not None

    def _check_training(self, launched: Launched) -> None:
        words = launched.words
        script, config_file = Path(words[0]), Path(option(words, "--config") or "")
        config_class = CONFIGS.get(script.stem)
        if config_class is None:
            self.plan.lines.append(f"{script} is not one of our recipes: its YAML is not checked")
            return
        parsed = self._parse(config_class, config_file, words)
        if parsed is None:
            return
        recipe, lora, config = parsed
        self.plan.lines.append(f"config: {config_file}, parsed")
        try:
            self.pipeline.require_own_place(self.step)
        except DataError as error:
            self.plan.problems.append(str(error))
        self._check_exists("`model_name_or_path`", recipe.model_name_or_path, is_model=True)
        teacher = getattr(config, "teacher_model_name_or_path", None)
        if teacher is not None:
            self._check_exists("`teacher_model_name_or_path`", teacher, is_model=True)
        rows: list[Row] = []
        for number, entry in enumerate(recipe.entries(), 1):
            key = "`dataset_path`" if recipe.datasets is None else f"`datasets`, entry {number}: `path`"
            self._check_exists(key, entry.path, is_model=entry.format == "parquet")  # may name a repository on the Hub
            self._check_media(entry.path, entry.format, entry.subset)
            rows += self._check_rows(entry)
        if recipe.eval_dataset_path is not None:
            remote = recipe.dataset_format == "parquet"
            self._check_exists("`eval_dataset_path`", recipe.eval_dataset_path, is_model=remote)
        seen = rows_that_are_seen(self.pipeline, recipe, config, launched.launch)
        self.plan.lines += [] if seen is None else [seen]
        limit = getattr(config, "max_completion_length", None)
        self._check_limit(f"{config_file}: `max_completion_length`", limit, recipe.model_name_or_path)
        self._estimate(recipe, lora, config, rows, launched.launch)

    def _check_limit(self, key: str, limit: int | None, name: str) -> None:
        """A limit of one's own does not cut what the model has learnt to write."""
        model = None if limit is None else plan_model(self.pipeline, name)
        if model is None or limit is None:
            return
        if model.answer_tokens is not None and limit < model.answer_tokens:
            self.plan.problems.append(
                f"{key} is {limit}, and {name} learns answers of up to {model.answer_tokens} tokens: raise it, or "
                "leave it out, and it follows the checkpoint"
            )
        elif model.answer_tokens is None:
            self.plan.lines.append(f"answers: cut at {limit} tokens; what {name} learns to write is not there yet")

    def _parse(self, config_class: type, config_file: Path, words: list[str]) -> tuple[Any, ...] | None:
        """The recipe's configs, as the script would read them; None where they do not parse."""
        said = io.StringIO()
        at = words.index("--config")
        flags = [*words[1:at], *words[at + 2 :]]
        try:
            with _written(self.pipeline, config_file) as file, contextlib.redirect_stderr(said):
                # This machine need not have the GPUs that the phase will run on.
                arguments = ["--config", str(file), "--use_cpu", "true", *flags]
                return parse_recipe((RecipeArguments, LoraArguments, config_class), arguments)
        except SystemExit:
            message = said.getvalue().strip().splitlines()[-1].removeprefix("error: ")
            self.plan.problems.append(message if str(config_file) in message else f"{config_file}: {message}")
        return None

    def _check_rows(self, entry: DatasetEntry) -> list[Row]:
        """Some of the training rows of a dataset where they are there already."""
        if self._makers(entry.path) or not Path(entry.path).exists():
            return []
        try:
            dataset = load_rows(
                entry.path,
                entry.train_split,
                dataset_format=entry.format,
                subset=entry.subset,
                objects=entry.objects,
            )
        except DataError as error:
            self.plan.problems.append(str(error))
            return []
        self.plan.lines.append(f"data: {entry.path}, {len(dataset)} rows")
        return dataset.select(range(min(len(dataset), _MEASURED_ROWS))).to_list()

    def _estimate(self, recipe: Any, lora: LoraArguments, config: Any, rows: list[Row], launch: LaunchConfig) -> None:
        model = plan_model(self.pipeline, recipe.model_name_or_path)
        if model is None:
            known = "the first step has made it" if self._makers(recipe.model_name_or_path) else "it is loaded"
            self.plan.lines.append(f"model: its sizes are known once {known}")
            return
        model = model.with_num_frames(config.num_frames).with_seg_source(getattr(config, "seg_source", None))
        short = describe_short_clips(rows, model.num_frames, max_videos=_MEASURED_VIDEOS)
        self.plan.lines += [] if short is None else [f"data: {short}"]
        prompt, answer = _prompt_tokens(model, rows), _answer_tokens(config, recipe, model)
        too_long = model.positions_problem(prompt + answer)
        if too_long is not None:
            self.plan.problems.append(f"{config.output_dir}: {too_long}")
            return
        setup = TrainingSetup(
            groups=config.trainable_groups(),
            lora=lora,
            zero_stage=launch.zero_stage,
            num_processes=launch.num_processes,
            offload_optimizer=launch.offload_optimizer,
            batch_size=config.per_device_train_batch_size,
            tokens=prompt + answer,
            num_frames=model.num_frames,
            num_generations=getattr(config, "num_generations", 1) or 1,
            gradient_checkpointing=bool(config.gradient_checkpointing),
            bf16=bool(config.bf16),
            # With its features on disk it is gone before the first step.
            teacher=getattr(config, "teacher_model_name_or_path", None) is not None and config.feature_cache is None,
            max_objects=config.max_objects or model.max_objects,
            rollout=_rollout_setup(config, model, prompt, answer),
        )
        try:
            memory = estimate_memory(model.config, setup)
        except ValueError as error:
            self.plan.problems.append(f"{config.output_dir}: {error}")
            return
        self.plan.memory = memory
        self.plan.lines += [
            f"model: {model.what}, {count_text(sum(memory.parameters.values()))} parameters",
            *parameter_lines(memory, lora, model.config),
            f"tokens per sample: {model.media_tokens} of the clip, about {prompt - model.media_tokens} of the "
            f"question, up to {answer} of the answer",
            memory_line(memory, setup),
            *rollout_lines(memory, setup),
        ]
        self._add_costs(recipe, lora, config, model, launch, memory, prompt, answer)

    def _add_costs(
        self,
        recipe: Any,
        lora: LoraArguments,
        config: Any,
        model: ModelPlan,
        launch: LaunchConfig,
        memory: MemoryEstimate,
        prompt: int,
        answer: int,
    ) -> None:
        """Steps, epochs and disk of a phase, and its work."""
        rows = self.shared.counter.rows(
            recipe.dataset_path, recipe.train_split, recipe.dataset_format, recipe.dataset_subset
        )
        micro_batches = launch.num_processes * config.gradient_accumulation_steps
        facts = TrainingFacts(
            steps=config.max_steps,
            micro_batches=micro_batches,
            batch_size=config.per_device_train_batch_size,
            num_generations=getattr(config, "num_generations", 1) or 1,
            prompt=prompt,
            answer=answer,
            checkpointing=bool(config.gradient_checkpointing),
            trains_all="language_model" in config.trainable_groups() and not lora.use_lora,
        )
        if facts.steps <= 0:
            path, subset = recipe.dataset_path, recipe.dataset_subset
            known = None if rows or self._makers(path) else published_rows(path, recipe.train_split, subset)
            rows = rows or (known[0] if known else None)
            self.plan.lines += [known[1]] if known else []
            if not rows:
                self.plan.lines.append(f"{config.num_train_epochs:g} epochs of rows that are not there yet")
                return
            facts = replace(facts, steps=-(-int(config.num_train_epochs * rows) // round(facts.questions)))
        kept = kept_checkpoints(config, facts.steps)
        costs = training_costs(facts, model, memory, kept, rows, adapter=lora.use_lora)
        self.plan.costs = costs
        self.plan.lines += costs.lines


def _rollout_setup(config: Any, model: ModelPlan, prompt: int, answer: int) -> RolloutSetup | None:
    """Of a GRPO phase: what a process samples at once."""
    if not hasattr(config, "num_generations"):
        return None
    target = None if model.processor is None else model.processor.mask_target_size
    return RolloutSetup(
        completions=config.per_device_train_batch_size * config.steps_per_generation,
        num_generations=config.num_generations,
        prompt_tokens=prompt,
        media_tokens=model.media_tokens,
        new_tokens=answer,
        num_frames=model.num_frames,
        max_objects=config.max_objects or model.max_objects,
        prefill_tokens=config.prefill_tokens,
        mask_frames_at_once=config.mask_frames_at_once,
        mask_target_size=target or model.config.mask_decoder_config.image_size,
        width=2 if config.bf16 else 4,
    )


def _prompt_tokens(model: ModelPlan, rows: list[Row]) -> int:
    references = [len(row["reference"]) for row in rows] or [4 * CHARACTERS_PER_TOKEN]
    return model.media_tokens + _INSTRUCTION_TOKENS + round(mean(references) / CHARACTERS_PER_TOKEN)


def _answer_tokens(config: Any, recipe: Any, model: ModelPlan) -> int:
    """The longest answer: the rollout's limit in GRPO; in SFT that of the rows, or of what they may hold."""
    if hasattr(config, "max_completion_length"):
        return model.answer_limit(config.max_completion_length)
    learnt = learnt_tokens({**vars(recipe), "targets": config.targets}, model.processor)
    return learnt if learnt is not None else replace(model, answer_tokens=None).answer_limit(None)


@contextlib.contextmanager
def _written(pipeline: Pipeline, config_file: Path) -> Any:
    """A training step's YAML on disk: a chain for another folder holds it in memory until it is run."""
    text = pipeline.configs.get(config_file)
    if text is None:
        yield config_file
        return
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / config_file.name
        file.write_text(text)
        yield file
