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
folders under the chain's own `output_dir`; where the chain has another output folder or seed, a copy of the YAML with
these replaced is written to `<output_dir>/configs` and used instead; see `moved_paths.py`.

A step that trains from the same YAML with other values names them, and a chain that needs another's steps includes
it. Both then have one output folder: a phase that one has trained is done for the other.

    include: ../tiny/pipeline.yaml
    steps:
      - name: sft-without-distillation
        train: recipes/sft.py
        config: ../tiny/sft.yaml
        set: {distillation_loss_weight: 0, teacher_model_name_or_path: null}
        makes: sft-without-distillation
        needs: [cot, pretrain]

`set` takes `{output_dir}` in its texts; null takes a key out, so that its default holds; `output_dir` is what the step
makes, and `seed` is the chain's.
"""

import hashlib
import json
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..errors import DataError
from ..shell_paths import expand_paths, in_texts
from ..text_files import parse_yaml, read_json, read_text, read_yaml
from .chain_files import Place, read_chain
from .moved_paths import MovedPaths
from .outside_files import changed_since, digest_outside, digests_of_made, made_by_others, script_digest, words_of
from .sharing import feature_folder, share_command, share_samples, step_processes
from .step_entries import check_entry, require_no_shell
from .step_files import further_files, own_files, require_apart

# A variable of the environment, whose braces are no place of a chain's.
_BRACED = re.compile(r"\$\{([A-Za-z_]\w*)\}")


@dataclass
class Step:
    """
    One step of a chain.

    Attributes:
        name (`str`): unique in the chain.
        command (`list[str]`): what is run.
        makes (`Path`): the file or folder that the step leaves.
        needs (`list[str]`): earlier steps that it uses.
        minutes (`float` or `None`): how long it takes on the machine that the recipe was written on; None where that
            was not measured.
        config (`Path` or `None`): a training step's YAML, as it is used.
        inputs (`str`): all that decides the result, besides the steps it needs.
        changes (`dict`): a training step's values in place of those of the YAML that it starts from.
        reads (`list[str]`): words of its command or YAML, which may name what it reads.
        outside (`dict[str, str]`): digests of what it reads that no step makes, by path, and of what it trains with.
        inside (`dict[str, str]`): the same of what lies in the chain's own folder.
        writes (`list[Path]`): what else its command writes.
    """

    name: str
    command: list[str]
    makes: Path
    needs: list[str] = field(default_factory=list)
    minutes: float | None = None
    config: Path | None = None
    inputs: str = ""
    changes: dict[str, Any] = field(default_factory=dict)
    reads: list[str] = field(default_factory=list)
    outside: dict[str, str] = field(default_factory=dict)
    inside: dict[str, str] = field(default_factory=dict)
    writes: list[Path] = field(default_factory=list)


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
        settings (`dict[str, dict]`): by training step, values in place of its YAML's, beyond those of its `set`.
    """

    file: Path
    output_dir: Path
    seed: int
    steps: list[Step]
    configs: dict[Path, str]
    num_processes: int | None = None
    feature_cache: str | None = None
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)

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

    def made(self, step: Step) -> dict[str, str]:
        """Digests of what the steps have made that a step needs, as it is now: it may have been edited by hand."""
        needed = [self.step(name) for name in step.needs]
        return digests_of_made(path for other in needed for path in (other.makes, *other.writes))

    def outside(self, step: Step) -> dict[str, str]:
        """What the step and those that it needs read, as it is now."""
        found = {**step.outside, **step.inside, **self.made(step)}
        for name in step.needs:
            found.update(self.outside(self.step(name)))
        return found

    def changed_files(self, step: Step) -> list[str]:
        """Which of the files that the step's last run has read, itself or through others, are others now."""
        record = self.record(step)
        return changed_since(read_json(record).get("outside", {}), self.outside(step)) if record.exists() else []

    def record(self, step: Step) -> Path:
        """Where the step's state is kept."""
        return self.output_dir / ".pipeline" / f"{step.name}.json"

    def state(self, step: Step) -> str:
        """`"done"`, `"started"` (cut short, with the present settings) or `"new"`."""
        record = self.record(step)
        if not record.exists():
            return "new"
        content = read_json(record)
        if content.get("fingerprint") != self.fingerprint(step) or self.changed_files(step):
            return "new"
        return "done" if content.get("finished") and step.makes.exists() else "started"

    def was_cut(self, step: Step) -> bool:
        """Whether the step's last run, with whatever settings, began and did not end."""
        record = self.record(step)
        return record.exists() and not read_json(record).get("finished")

    def require_own_place(self, step: Step) -> None:
        """Raise `DataError` where the YAML of a training step writes elsewhere than the step `makes`."""
        if step.config is not None:
            settings = parse_yaml(self.configs.get(step.config) or read_text(step.config), step.config)
            place = expand_paths(settings.get("output_dir"), step.config)
            if isinstance(place, str) and os.path.abspath(place) != os.path.abspath(step.makes):
                raise DataError(f"{step.config}: `output_dir` {place}, but `makes` {step.makes}")

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
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> Pipeline:
    """
    Read and check a chain.

    Args:
        file (`str` or `Path`): its YAML.
        output_dir (`str` or `Path`, *optional*), seed (`int`, *optional*): in place of those of the YAML.
        num_processes (`int`, *optional*): GPUs of each step with an accelerate config, in place of the config's. In
            training gradients are accumulated over more or fewer micro-steps, so that a step sees as many samples.
        settings (`Mapping[str, Mapping]`, *optional*): by training step, values in place of its YAML's; see
            `read_settings`.

    Returns:
        `Pipeline`: nothing has been run or written.

    Raises:
        `DataError`: names the file and the key that is wrong.
    """
    chain = read_chain(Path(file))
    used: dict[str, Any] = {
        "output_dir": chain.own["output_dir"]
        if output_dir is None
        else str(Path(expand_paths(str(output_dir), "--output_dir"))),
        "seed": chain.own["seed"] if seed is None else seed,
    }
    pipeline = Pipeline(chain.file, Path(used["output_dir"]), used["seed"], [], {}, num_processes)
    made = [str(entry["makes"]) for _, entry in chain.entries if isinstance(entry, dict) and entry.get("makes")]
    paths = MovedPaths(chain.folders, used["output_dir"], made)
    cache = paths.move(chain.feature_cache, f"{chain.file}: `feature_cache`", "{output_dir}")
    pipeline.feature_cache = feature_folder(chain.file, {"feature_cache": cache}, used)
    pipeline.settings = {name: dict(values) for name, values in (settings or {}).items()}
    for place, entry in chain.entries:
        step = _build_step(pipeline, place, entry, used, paths)
        unknown = next((name for name in step.needs if all(name != other.name for other in pipeline.steps)), None)
        if unknown is not None:
            raise DataError(f"{place.file}: step `{step.name}` needs `{unknown}`, and no step before it is called so")
        if any(step.name == other.name for other in pipeline.steps):
            raise DataError(f"{place.file}: two steps are called `{step.name}`")
        pipeline.steps.append(step)
    require_apart(pipeline.file, pipeline.steps)
    _add_needs(pipeline)
    _look_at_what_is_read(pipeline)
    for name, values in pipeline.settings.items():
        outer, _, inner = name.rpartition(".")
        if any(step.name == outer for step in pipeline.steps) and all(step.name != name for step in pipeline.steps):
            key, value = next(iter(values.items()))
            whole = f"{outer}.{inner}={{{key}: {value}}}"
            raise DataError(f"--set {name}.{key}: a key inside another is set with it: --set '{whole}'")
        if pipeline.step(name).config is None:
            raise DataError(f"{pipeline.file}: step `{name}` does not train: --set has no key to set there")
    return pipeline


def _add_needs(pipeline: Pipeline) -> None:
    """A step needs the earlier ones that make what it names, whether or not it says so."""
    makers: dict[Path, str] = {}
    for step in pipeline.steps:
        read = made_by_others(step.reads, makers)
        step.needs += [name for name in read if name not in pipeline.needed(step)]
        makers |= {Path(os.path.realpath(path)): step.name for path in (step.makes, *step.writes)}


def _look_at_what_is_read(pipeline: Pipeline) -> None:
    """Digests of what each step reads and none makes."""
    made = [path for step in pipeline.steps for path in own_files(step, ())]
    for step in pipeline.steps:
        for path, digest in digest_outside(step.reads, pipeline.output_dir, made).items():
            is_inside = Path(path).resolve().is_relative_to(pipeline.output_dir.resolve())
            (step.inside if is_inside else step.outside)[path] = digest


def _build_step(pipeline: Pipeline, place: Place, entry: Any, used: dict[str, Any], paths: MovedPaths) -> Step:
    """One entry of `steps`, with `{output_dir}` and `{seed}` filled in."""
    file = place.file
    name = check_entry(file, entry)
    where = f"{file}: step `{name}`"
    step = Step(
        name=name,
        command=[],
        makes=pipeline.output_dir / entry["makes"],
        needs=list(entry.get("needs") or []),
        minutes=float(entry["minutes"]) if "minutes" in entry else None,
    )
    if "run" in entry:
        try:
            words = expand_paths(shlex.split(entry["run"]), where)
            step.inputs = _BRACED.sub(r"${{\1}}", entry["run"]).format(output_dir="", seed=used["seed"])
            first = 2 if words[:1] == ["aurora"] else 1  # names of commands are no paths
            words[first:] = paths.move(words[first:], where, "{output_dir}")
            step.command = [word.format(**used) for word in words]
        except DataError:  # a path that can not be moved, a variable that is not set
            raise
        except (ValueError, LookupError) as error:  # quotes that do not close, places that are not known
            raise DataError(
                f"{file}: step `{name}`: `run` can not be read ({type(error).__name__}: {error}); it may "
                "name {output_dir} and {seed}"
            ) from None
        if not step.command:
            raise DataError(f"{file}: step `{name}`: `run` is empty; write a command")
        require_no_shell(where, entry["run"])
        step.writes = further_files(step.command, step.makes)
        if entry.get("accelerate"):
            count = step_processes(where, entry, pipeline.num_processes)
            step.command = share_command(where, step.command, entry["accelerate"], count)
        step.reads = step.command[1:]
        return step
    _add_training(pipeline, place, entry, used, step, paths)
    return step


def _add_training(
    pipeline: Pipeline, place: Place, entry: Any, used: dict[str, Any], step: Step, paths: MovedPaths
) -> None:
    """The command of a training step, its YAML, and what of both decides the result."""
    file, name = place.file, step.name
    where = f"{file}: step `{name}`"
    source = file.parent / str(entry.get("config"))
    if not source.is_file():
        raise DataError(f"{where}: its `config` is no file: {source}")
    changes = {**(entry.get("set") or {}), **pipeline.settings.get(name, {})}
    _check_changes(file, name, changes)
    settings = read_yaml(source)
    # The settings decide the result; where they are written and what they are called does not.
    deciding = _changed(settings, _filled(changes, ""))
    settings, changes = expand_paths(settings, source), expand_paths(changes, where)
    step.changes = changes
    step.inputs = json.dumps({**deciding, "seed": used["seed"]}, sort_keys=True, default=str)
    step.config = source
    here = paths.move(settings, f"{where}: {source}")
    other_seed = settings.get("seed", used["seed"]) != used["seed"]
    if changes or here != settings or other_seed or used != place.own:
        # Several steps may start from one YAML.
        step.config = pipeline.output_dir / "configs" / (f"{name}.yaml" if changes else source.name)
        moved = _changed(here, _filled(paths.move(changes, where, "{output_dir}"), used["output_dir"]))
        if changes:
            moved["output_dir"] = str(step.makes)
        text = yaml.safe_dump({**moved, "seed": used["seed"]}, sort_keys=False)
        if pipeline.configs.setdefault(step.config, text) != text:
            raise DataError(
                f"{file}: step `{name}`: its `config` {source} and another step's have one name; rename it"
            )
        settings = moved
    step.reads = list(words_of(settings))
    step.outside = {f"`train` of step `{name}`": script_digest(entry["train"])}
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


def _check_changes(file: Path, name: str, changes: dict[str, Any]) -> None:
    """Raise `DataError` for a key that a step can not set."""
    for key, decided_by in (("output_dir", "`makes` says where a step writes"), ("seed", "the chain has one seed")):
        if key in changes:
            raise DataError(f"{file}: step `{name}`: `{key}` can not be set there: {decided_by}")


def _changed(settings: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Settings with other values; null takes a key out."""
    return {key: value for key, value in {**settings, **changes}.items() if key not in changes or value is not None}


def _filled(changes: dict[str, Any], output_dir: str) -> dict[str, Any]:
    """Values with `{output_dir}` in their texts filled in."""
    filled: dict[str, Any] = in_texts(changes, lambda text: text.replace("{output_dir}", output_dir))
    return filled
