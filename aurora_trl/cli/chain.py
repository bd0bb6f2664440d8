"""The sub-commands of phases and their chains: `aurora recipes`, `sft`, `grpo`, `run`, `report`."""

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .common import AddCommand, add_format, number, say, seed, whole

if TYPE_CHECKING:
    from ..chain.definition import Pipeline


def add_chain_commands(add: AddCommand) -> None:
    """
    Add the sub-commands to the parser.

    Args:
        add (`Callable`): adds a sub-command by name, function and text.
    """
    command = add("recipes", _recipes, "List the recipes, or write one with its scripts to a folder of your own.")
    command.add_argument("name", nargs="?", metavar="NAME", help="of a recipe, such as tiny (default: list them)")
    command.add_argument("folder", nargs="?", metavar="DIR", help="gets a folder `recipes`; it may hold other recipes")
    command.add_argument("--data", help="the dataset that the recipe's YAMLs name")
    command.add_argument("--model", help="the model that the recipe `own` starts from")
    command.add_argument("--annotator", help="of the recipe `own`, as `aurora annotate` takes it")

    for method, text in (("sft", "supervised phase"), ("grpo", "GRPO phase")):
        # Its flags are those of TRL's config and of accelerate's launcher, which read them.
        command = add(
            method,
            _phase,
            f"Run a {text}, through `accelerate launch`: --config FILE.yaml, and flags that override it.",
            prefix_chars="\0",
            add_help=False,
        )
        command.add_argument("words", nargs="*", metavar="FLAGS")

    command = add("run", _run, "Run a chain of phases; run again, it skips what is done and continues what was cut.")
    command.add_argument("pipeline", metavar="PIPELINE.yaml", help="the chain, such as recipes/tiny/pipeline.yaml")
    command.add_argument("--output_dir", "--output-dir", help="in place of the YAML's")
    command.add_argument("--seed", type=seed, help="in place of the YAML's")
    command.add_argument(
        "--num_processes",
        "--num-processes",
        type=whole(1),
        help="GPUs (of all machines) of a step with `accelerate`",
    )
    command.add_argument(
        "--launcher",
        default="",
        metavar="WORDS",
        help='what starts a command on every machine, such as "srun --ntasks-per-node=1" (default: one machine)',
    )
    command.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="STEP.KEY=VALUE",
        help="in place of the value of a training step's YAML, such as sft.feature_cache=features",
    )
    command.add_argument("--only", metavar="STEP", help="run this step alone")
    command.add_argument("--before", metavar="STEP", help="run what this step needs, not the step itself")
    command.add_argument("--dry-run", action="store_true", help="check files, configs and memory; run nothing")

    command = add("report", _report, "Write the report of a chain from its evaluations and training logs.")
    command.add_argument(
        "root",
        nargs="+",
        metavar="DIR",
        help="the chain's output folder, with eval/PHASE and PHASE in it; of --tables, --compare one for each seed",
    )
    command.add_argument("--phases", nargs="+", help="the phases to show, in order")
    command.add_argument("--data", help="the dataset that was evaluated on")
    command.add_argument(
        "--price-per-hour", type=number(0), help="of the machine, in any currency: the report says what steps cost"
    )
    add_format(command)
    command.add_argument(
        "--tables", action="store_true", help="the paper's Tables 1 to 8 instead: ours, published, difference"
    )
    command.add_argument(
        "--compare",
        nargs="+",
        metavar="NAME",
        help="these evaluations of eval/ instead, the first with each of the others: differences with their errors",
    )
    command.add_argument("--protocol", help="of --tables and --compare (default: refavs)")


def _recipes(arguments: argparse.Namespace) -> None:
    from ..chain.recipe_files import find_chains, recipe_names, write_recipe

    if arguments.name is None:
        for name, text in recipe_names().items():
            say(f"{name}: {text}")
        return
    if arguments.folder is None:
        raise ValueError(f"name a folder for it, too: `aurora recipes {arguments.name} mine`")
    values = {name: getattr(arguments, name) for name in ("data", "model", "annotator")}
    files = write_recipe(arguments.name, arguments.folder, values)
    folder = Path(arguments.folder, "recipes", arguments.name)
    say(f"{folder}: {', '.join(str(file.relative_to(folder)) for file in files)}")
    say(f"next: cd {arguments.folder} && aurora run recipes/{arguments.name}/{find_chains(folder)[0].name} --dry-run")


def _phase(arguments: argparse.Namespace) -> None:
    from ..chain.launched_phase import launch_phase, print_help

    if {"-h", "--help"} & set(arguments.words):
        print_help(arguments.command)
        return
    code = launch_phase(arguments.command, arguments.words)
    if code:
        sys.exit(code)


def _run(arguments: argparse.Namespace) -> None:
    from ..chain.chain_files import read_settings
    from ..chain.definition import load_pipeline
    from ..chain.runner import run_pipeline

    pipeline = load_pipeline(
        arguments.pipeline,
        arguments.output_dir,
        arguments.seed,
        arguments.num_processes,
        read_settings(arguments.set),
    )
    _check_set_keys(pipeline)
    if not arguments.dry_run:
        _require_annotators(pipeline, arguments)
    launcher = shlex.split(arguments.launcher)
    run_pipeline(pipeline, only=arguments.only, before=arguments.before, dry_run=arguments.dry_run, launcher=launcher)
    if arguments.dry_run:
        _check_plan(pipeline, arguments.parser)


def _check_set_keys(pipeline: "Pipeline") -> None:
    """An unknown key of `set` is an error now, and not when its phase begins, hours later."""
    if not any(step.changes for step in pipeline.steps):
        return
    from ..chain.set_keys import require_known_keys

    require_known_keys(pipeline)


def _require_annotators(pipeline: "Pipeline", arguments: argparse.Namespace) -> None:
    """A key or a package that a later step's annotator lacks is an error now, and not when its turn comes."""
    from ..chain.step_files import option

    wanted = {step.name for step in pipeline.steps}
    if arguments.only is not None:
        wanted = {arguments.only}
    elif arguments.before is not None:
        wanted = pipeline.needed(pipeline.step(arguments.before))
    for step in pipeline.steps:
        annotator = option(step.command, "--annotator") or ""
        asks = step.command[0] == "aurora" and annotator.startswith(("openai:", "gemini:"))
        if not asks or step.name not in wanted or pipeline.state(step) == "done":
            continue
        from ..chain.readiness import annotator_problem

        problem = annotator_problem(arguments.parser.parse_args(step.command[1:]))
        if problem is not None:
            raise ValueError(f"{pipeline.file}: step `{step.name}`: {problem}")


def _check_plan(pipeline: "Pipeline", parser: argparse.ArgumentParser) -> None:
    from ..chain.dry_run import check_pipeline
    from ..chain.plan_summary import summarize

    problems: list[str] = []
    plans = check_pipeline(pipeline, parser)
    for plan in plans:
        for line in [*plan.lines, *(f"problem: {problem}" for problem in plan.problems)]:
            say(f"{plan.step.name}: {line}")
        problems += plan.problems
    lines, more = summarize(pipeline, [(plan.step, plan.costs, plan.memory) for plan in plans])
    for line in [*lines, *(f"problem: {problem}" for problem in more)]:
        say(line)
    problems += more
    if problems:
        count = len(set(problems))
        raise ValueError(f"{pipeline.file}: {count} problem{'s' * (count > 1)}, see above; the first: {problems[0]}")
    say(f"{pipeline.file}: {len(pipeline.steps)} steps checked, all is well")


def _require_flags_that_go_together(arguments: argparse.Namespace) -> None:
    """What a flag asks for is in the report, or the flag is an error."""
    kinds = [flag for flag, given in (("--tables", arguments.tables), ("--compare", arguments.compare)) if given]
    if len(kinds) > 1:
        raise ValueError("--tables and --compare are two reports: ask for one after the other")
    for name in ("phases", "data", "price_per_hour", "format", "subset") if kinds else ():
        if getattr(arguments, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')} does not go with {kinds[0]}: leave it out")


def _report(arguments: argparse.Namespace) -> None:
    _require_flags_that_go_together(arguments)
    protocol = arguments.protocol or "refavs"
    if arguments.tables:
        from ..evaluation.study.tables import write_tables

        say(f"{write_tables(arguments.root, protocol)}")
        return
    if arguments.compare:
        from ..evaluation.study.compare import write_comparison

        say(f"{write_comparison(arguments.root, arguments.compare, protocol)}")
        return
    if not arguments.phases or not arguments.data or len(arguments.root) > 1:
        raise ValueError(
            "a report of phases is of one DIR and needs --phases and --data; or ask for --tables, or --compare"
        )
    from ..chain.runner import CHAIN_COPY
    from ..data import find_source
    from ..evaluation.report import read_metrics, write_report
    from ..text_files import read_json, read_text

    root = Path(arguments.root[0])
    evaluations = {phase: root / "eval" / phase for phase in arguments.phases}
    trainings = {phase: root / phase for phase in arguments.phases if (root / phase / "trainer_state.json").is_file()}
    for folder in evaluations.values():
        if not (folder / "metrics.json").is_file():
            raise ValueError(f"{folder}/metrics.json: no such file; run `aurora evaluate` for that phase first")

    metrics = read_metrics(next(iter(evaluations.values())))
    if arguments.protocol not in (None, metrics["protocol"]):
        raise ValueError(
            f"{root}: --protocol {arguments.protocol} is for --tables and --compare; a report of phases has the "
            f"protocol that they were evaluated by, which is {metrics['protocol']}"
        )
    first = next(iter(metrics["splits"]))
    source = find_source(arguments.data, arguments.format, arguments.subset, arguments.objects)
    rows = {row["id"]: row for row in source.load(first)}
    records = sorted((root / ".pipeline").glob("*.json"), key=lambda path: path.stat().st_mtime)
    durations = []
    for path in records:
        seconds = read_json(path).get("seconds")
        if not isinstance(seconds, int | float | None):
            raise ValueError(
                f"{path}: `seconds` is {seconds!r}, no number; take the file away, and its step runs again"
            )
        durations += [] if seconds is None else [(path.stem, seconds)]
    chain = root / ".pipeline" / CHAIN_COPY
    report = write_report(
        root,
        evaluations,
        trainings,
        rows,
        durations=durations,
        settings={CHAIN_COPY: read_text(chain)} if chain.is_file() else {},
        price_per_hour=arguments.price_per_hour,
    )
    say(f"{report}")
