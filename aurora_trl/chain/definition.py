"""The chain of a recipe: steps that run one after the other, are skipped when done and resumed when cut short.

    output_dir: outputs/tiny
    seed: 1
    feature_cache: "{output_dir}/features"  # of all phases; may be left out
    steps:
      - name: data
        run: aurora synth {output_dir}/data --clips 1000 --seed {seed}
        makes: data
      - name: teacher
        train: recipes/sft.py
        config: teacher.yaml
        makes: teacher
        needs: [data]

`accelerate` names the config of a step that runs on several processes. `aurora evaluate`, `mine` and `annotate` share
their rows, whatever their number; a phase shares a step's samples, so that `most_processes` says how many it can use.

A training step is `accelerate launch [--config_file …] recipes/X.py --config Y.yaml`, nothing more. Its YAML names
folders under the chain's own `output_dir`; where another output folder or seed is asked for, a copy of the YAML with
these replaced is written to `<output_dir>/configs` and used instead.
"""

import hashlib
import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..errors import DataError
from ..text_files import read_json, read_text, read_yaml
from .sharing import feature_folder, share_command, share_samples, step_processes

STEP_KEYS = {"name", "run", "train", "config", "accelerate", "most_processes", "makes", "needs", "minutes"}


@dataclass
class Step:
    """
    One step of a chain.

    Attributes:
        name (`str`): unique in the chain.
        command (`list[str]`): what is run.
        makes (`Path`): the file or folder that the step leaves.
        needs (`list[str]`): earlier steps that it uses.
        minutes (`float`): how long it takes on the machine that the recipe was written on.
        config (`Path` or `None`): a training step's YAML, as it is used.
        inputs (`str`): all that decides the result, besides the steps it needs.
    """

    name: str
    command: list[str]
    makes: Path
    needs: list[str] = field(default_factory=list)
    minutes: float = 1.0
    config: Path | None = None
    inputs: str = ""


@dataclass
class Pipeline:
    """
    A chain, read from its YAML.

    Attributes:
        file (`Path`): the YAML.
        output_dir (`Path`): where everything goes.
        seed (`int`): of the data, the weights and the training.
        steps (`list[Step]`): in order.
        configs (`dict[Path, str]`): YAML files to write before the first step.
        num_processes (`int` or `None`): GPUs of each step with an accelerate config, in place of the config's.
        feature_cache (`str` or `None`): folder in which all phases keep what frozen models make of clips.
    """

    file: Path
    output_dir: Path
    seed: int
    steps: list[Step]
    configs: dict[Path, str]
    num_processes: int | None = None
    feature_cache: str | None = None

    def step(self, name: str) -> Step:
        """The step of that name; `DataError` where there is none."""
        for step in self.steps:
            if step.name == name:
                return step
        raise DataError(f"{self.file}: no step `{name}`; it has {', '.join(step.name for step in self.steps)}")

    def needed(self, step: Step) -> set[str]:
        """Names of all steps that a step stands on."""
        return set(step.needs).union(*(self.needed(self.step(name)) for name in step.needs))

    def fingerprint(self, step: Step) -> str:
        """Changes when the step's command or YAML does, or those of a step that it needs."""
        parts = [step.inputs, *(self.fingerprint(self.step(name)) for name in step.needs)]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]

    def record(self, step: Step) -> Path:
        """Where the step's state is kept."""
        return self.output_dir / ".pipeline" / f"{step.name}.json"

    def state(self, step: Step) -> str:
        """`"done"`, `"started"` (cut short, with the present settings) or `"new"`."""
        record = self.record(step)
        if not record.exists():
            return "new"
        content = read_json(record)
        if content.get("fingerprint") != self.fingerprint(step):
            return "new"
        return "done" if content.get("finished") and step.makes.exists() else "started"

    def was_cut(self, step: Step) -> bool:
        """Whether the step's last run, with whatever settings, began and did not end."""
        record = self.record(step)
        return record.exists() and not read_json(record).get("finished")

    def train_arguments(self, name: str) -> list[str]:
        """What follows the script on a training step's command line."""
        step = self.step(name)
        if step.config is None:
            raise DataError(f"{self.file}: step `{name}` does not train")
        return ["--config", str(step.config)]


def load_pipeline(
    file: str | Path,
    output_dir: str | Path | None = None,
    seed: int | None = None,
    num_processes: int | None = None,
) -> Pipeline:
    """
    Read and check a chain.

    Args:
        file (`str` or `Path`): its YAML.
        output_dir (`str` or `Path`, *optional*), seed (`int`, *optional*): in place of those of the YAML.
        num_processes (`int`, *optional*): GPUs of each step with an accelerate config, in place of the config's. In
            training gradients are accumulated over more or fewer micro-steps, so that a step sees as many samples.

    Returns:
        `Pipeline`: nothing has been run or written.

    Raises:
        `DataError`: names the file and the key that is wrong.
    """
    file = Path(file)
    content = read_yaml(file)
    unknown = sorted(set(content) - {"output_dir", "seed", "steps", "feature_cache"})
    if unknown or not isinstance(content.get("steps"), list) or "output_dir" not in content:
        raise DataError(f"{file}: a chain has `output_dir`, `seed` and a list of `steps`, not {unknown or 'this'}")
    own: dict[str, Any] = {"output_dir": content["output_dir"], "seed": content.get("seed", 0)}
    if not isinstance(own["output_dir"], str) or not own["output_dir"]:
        raise DataError(f"{file}: `output_dir` must be the path of a folder, got {own['output_dir']!r}")
    if isinstance(own["seed"], bool) or not isinstance(own["seed"], int) or not 0 <= own["seed"] < 2**32:
        raise DataError(f"{file}: `seed` must be a whole number from 0 to {2**32 - 1}, got {own['seed']!r}")
    used: dict[str, Any] = {
        "output_dir": str(output_dir) if output_dir is not None else own["output_dir"],
        "seed": own["seed"] if seed is None else seed,
    }
    pipeline = Pipeline(file, Path(used["output_dir"]), used["seed"], [], {}, num_processes)
    pipeline.feature_cache = feature_folder(file, content, used)
    for entry in content["steps"]:
        step = _build_step(pipeline, entry, own, used)
        for name in step.needs:
            pipeline.step(name)
        if any(step.name == other.name for other in pipeline.steps):
            raise DataError(f"{file}: two steps are called `{step.name}`")
        pipeline.steps.append(step)
    return pipeline


def _build_step(pipeline: Pipeline, entry: Any, own: dict[str, Any], used: dict[str, Any]) -> Step:
    """One entry of `steps`, with `{output_dir}` and `{seed}` filled in."""
    name = _check_entry(pipeline, entry)
    where = f"{pipeline.file}: step `{name}`"
    step = Step(
        name=name,
        command=[],
        makes=pipeline.output_dir / entry["makes"],
        needs=list(entry.get("needs") or []),
        minutes=float(entry.get("minutes", 1)),
    )
    if "run" in entry:
        try:
            step.command = shlex.split(entry["run"].format(**used))
            step.inputs = entry["run"].format(output_dir="", seed=used["seed"])
        except (ValueError, LookupError) as error:  # quotes that do not close, places that are not known
            raise DataError(
                f"{pipeline.file}: step `{name}`: `run` can not be read ({type(error).__name__}: {error}); it may "
                "name {output_dir} and {seed}"
            ) from None
        if not step.command:
            raise DataError(f"{pipeline.file}: step `{name}`: `run` is empty; write a command")
        if entry.get("accelerate"):
            count = step_processes(where, entry, pipeline.num_processes)
            step.command = share_command(where, step.command, entry["accelerate"], count)
        return step
    source = pipeline.file.parent / str(entry.get("config"))
    if not source.is_file():
        raise DataError(f"{pipeline.file}: step `{name}`: its `config` is no file: {source}")
    settings = read_yaml(source)
    # The settings decide the result; where they are written and what they are called does not.
    step.inputs = json.dumps({**settings, "seed": used["seed"]}, sort_keys=True, default=str)
    step.config = source
    if used != own:
        step.config = pipeline.output_dir / "configs" / source.name
        pipeline.configs[step.config] = _resolved(settings, own, used)
    launch = ["accelerate", "launch"]
    if entry.get("accelerate"):
        launch += ["--config_file", entry["accelerate"]]
        if Path(entry["accelerate"]).is_file():  # the dry run says where it is missing
            step.inputs += read_text(entry["accelerate"])
    flags: list[str] = []
    if pipeline.feature_cache is not None and "feature_cache" not in settings:
        flags = ["--feature_cache", pipeline.feature_cache]
    count = step_processes(where, entry, pipeline.num_processes)
    if count is not None:
        launch += ["--num_processes", str(count)]
        if not entry.get("accelerate"):
            raise DataError(f"{where} has no `accelerate` config to start processes with")
        flags += share_samples(f"{where}, {entry['config']},", settings, entry["accelerate"], count)
    step.command = [*launch, entry["train"], "--config", str(step.config), *flags]
    return step


def _check_entry(pipeline: Pipeline, entry: Any) -> str:
    """The name of a step whose keys are known and hold what they should."""
    if not isinstance(entry, dict):
        raise DataError(f"{pipeline.file}: a step is a mapping of keys to values, not {entry!r}")
    name = entry.get("name")
    unknown = sorted(map(str, set(entry) - STEP_KEYS))
    if not name or unknown or "makes" not in entry or ("run" in entry) == ("train" in entry):
        raise DataError(
            f"{pipeline.file}: step {name!r}: needs `name`, `makes` and either `run` or `train` with `config`"
            + (f"; unknown key `{unknown[0]}`" if unknown else "")
        )
    if not isinstance(name, str) or re.fullmatch(r"\w[\w.-]*", name) is None:
        raise DataError(f"{pipeline.file}: step {name!r}: `name` must be a word, which a file is named by")
    for key in ("makes", "run", "train", "config", "accelerate"):
        left_out = entry.get(key) is None and key in ("config", "accelerate")
        if key in entry and not left_out and not (isinstance(entry[key], str) and entry[key]):
            raise DataError(f"{pipeline.file}: step `{name}`: `{key}` must be a text, got {entry[key]!r}")
    makes = Path(entry["makes"])
    if makes.is_absolute() or ".." in makes.parts or not makes.name:
        raise DataError(f"{pipeline.file}: step `{name}`: `makes` must be inside `output_dir`, got {str(makes)!r}")
    needs, minutes = entry.get("needs") or [], entry.get("minutes", 1)
    if not isinstance(needs, list) or not all(isinstance(other, str) for other in needs):
        raise DataError(f"{pipeline.file}: step `{name}`: `needs` must be a list of steps' names, got {needs!r}")
    if isinstance(minutes, bool) or not isinstance(minutes, (int, float)) or not 0 <= minutes < float("inf"):
        raise DataError(f"{pipeline.file}: step `{name}`: `minutes` must be a number, got {minutes!r}")
    return name


def _resolved(settings: dict[str, Any], own: dict[str, Any], used: dict[str, Any]) -> str:
    """A training step's YAML for another output folder and seed."""
    moved = {}
    for key, value in settings.items():
        inside = isinstance(value, str) and (value + "/").startswith(own["output_dir"] + "/")
        moved[key] = used["output_dir"] + value[len(own["output_dir"]) :] if inside else value
    return yaml.safe_dump({**moved, "seed": used["seed"]}, sort_keys=False)
