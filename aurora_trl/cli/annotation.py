"""The sub-commands that make training text: `aurora annotate`, `aurora mine`, `aurora correct`."""

import argparse
import hashlib
import os
from pathlib import Path
from typing import Any

from ..journal import beside
from .annotator import add_annotator, get_limits, open_annotator, require_nobody_asked, require_own_flags
from .common import AddCommand, add_format, add_generation, number, require_file_place, say, seed, whole

# The column of corrected rows that tells by a digest which text they correct.
_CORRECTS = "corrects"


def add_annotation_commands(add: AddCommand) -> None:
    """
    Add the sub-commands to the parser.

    Args:
        add (`Callable`): adds a sub-command by name, function and text.
    """
    command = add("annotate", _annotate, "Write chains of thought for a dataset.")
    _add_data_step(command, "the rows: a dataset's folder or a JSONL file")
    command.add_argument("--split", help="(default: train; of a file whose rows all name one split, that one)")
    add_format(command)
    command.add_argument(
        "--max-rows",
        type=whole(1),
        help="annotate this many rows of a seeded shuffle: no more than training will take (default: all)",
    )
    command.add_argument(
        "--style",
        default="flexible",
        choices=["flexible", "fixed"],
        help="free order and wording, or five parts in a set order (default: flexible)",
    )
    command.add_argument(
        "--null-answers",
        action="store_true",
        help="where the reference matches nothing, say why and end with `Nothing fits.`, without [SEG]",
    )
    add_annotator(command)

    command = add("mine", _mine, "Find the training rows that a model gets wrong.")
    command.add_argument("model", metavar="CHECKPOINT", help="a phase's output folder, or a Hub repository")
    _add_data_step(command, "the rows: a dataset's folder or a JSONL file")
    command.add_argument("--split", help="(default: train; of a file whose rows all name one split, that one)")
    add_format(command)
    command.add_argument("--max-rows", type=whole(1), help="ask about this many rows of a seeded shuffle")
    command.add_argument("--max-iou", type=number(0, 1), default=0.6, help="a row is hard below this (default: 0.6)")
    command.add_argument(
        "--null-rows",
        action="store_true",
        help="ask about references that match nothing, too: an answer that names an object and draws it is hard",
    )
    command.add_argument(
        "--temperature",
        type=number(0),
        default=0.0,
        help="sample the answers with it: mistakes that the model can notice (default: 0, the likeliest answers)",
    )
    add_generation(command)

    command = add("correct", _correct, "Correct mined rows, and mix reflective paths with plain ones.")
    _add_data_step(command, "the hard rows that `aurora mine` wrote")
    command.add_argument("--plain", required=True, help="JSONL of rows with a chain of thought")
    command.add_argument(
        "--max-rows",
        type=whole(1),
        help="correct this many of a seeded shuffle (default: the paper's 1505)",
    )
    command.add_argument(
        "--plain-per-reflective",
        type=number(0),
        default=3500 / 1505,
        help="plain rows to a corrected one (default: the paper's 3,500 to 1,505)",
    )
    command.add_argument(
        "--read-mistakes",
        action="store_true",
        help="let the wrong path be read only: what is learnt begins at the trigger (the paper learns it, too)",
    )
    command.add_argument("--corrected", help="also write the corrected paths alone to this file")
    command.add_argument(
        "--paths",
        default="reflective",
        choices=["reflective", "corrected"],
        help="mistake, trigger, correction; or the correction alone, among the same plain rows (default: reflective)",
    )
    command.add_argument(
        "--answers", help="corrected paths that --corrected wrote earlier; the annotator is then not asked"
    )
    add_annotator(command)


def _add_data_step(command: argparse.ArgumentParser, what: str) -> None:
    command.add_argument("data", metavar="DATA", help=what)
    command.add_argument(
        "--output", required=True, help="JSONL file to write; a run that was cut short is continued, never overwritten"
    )
    command.add_argument("--seed", type=seed, default=0, help="(default: 0)")


def _load_rows(arguments: argparse.Namespace) -> Any:
    """The rows that a command is about."""
    from ..data import find_source
    from ..training.arguments import load_rows

    split = arguments.split
    if split is None:
        split = find_source(arguments.data, arguments.format, arguments.subset, arguments.objects).usual_split()
    named = {"dataset_format": arguments.format, "subset": arguments.subset, "objects": arguments.objects}
    return load_rows(arguments.data, split, arguments.max_rows, arguments.seed, **named)


def _annotate(arguments: argparse.Namespace) -> None:
    from ..annotation import annotate_file
    from ..evaluation.evaluate import process_state
    from ..journal import require_own_output

    require_own_flags(arguments)
    limits = get_limits(arguments)
    require_own_output(arguments.output)
    rows = _load_rows(arguments)
    with open_annotator(arguments, arguments.null_answers) as annotator:
        summary = annotate_file(
            rows.to_list(),
            annotator,
            arguments.output,
            style=arguments.style,
            seed=arguments.seed,
            null_answers=arguments.null_answers,
            limits=limits,
            only_estimate=arguments.estimate,
        )
    if summary is None or not process_state().is_main_process:
        return
    say(f"{summary.output}: {summary.written} chains of thought")
    if summary.failed_path:
        say(f"{summary.failed_path}: {summary.failed} rows without a usable answer")


def _mine(arguments: argparse.Namespace) -> None:
    from ..annotation import mine_file
    from ..evaluation.evaluate import process_state
    from ..generation.answers import load
    from ..journal import require_own_output

    require_own_output(arguments.output)
    rows = _load_rows(arguments)
    if not arguments.null_rows:
        rows = rows.filter(lambda row: not row["is_null"])
    rows = rows.to_list()
    state = process_state()
    model, processor = load(arguments.model, state.device, engine=arguments.engine)
    hard = mine_file(
        model,
        processor,
        rows,
        arguments.output,
        checkpoint=arguments.model,
        max_iou=arguments.max_iou,
        batch_size=arguments.batch_size,
        max_new_tokens=arguments.max_new_tokens,
        temperature=arguments.temperature,
        seed=arguments.seed,
    )
    if not state.is_main_process:
        return
    if not hard:
        raise ValueError(f"{arguments.data}: no hard row among {len(rows)}; ask about more rows or raise --max-iou")
    say(f"{arguments.output}: {hard} hard rows of {len(rows)}")


def _correct(arguments: argparse.Namespace) -> None:
    from ..annotation import correct_file
    from ..annotation.correction import PAPER_CORRECTIONS
    from ..annotation.run_files import save_keeping_previous
    from ..data import load_json
    from ..prompts import is_null_answer

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("`aurora correct` is for one process, whose --concurrency asks more at a time")
    asked = arguments.annotator or arguments.serve
    if (asked is None) == (arguments.answers is None):
        raise ValueError("name who corrects with --annotator, or the file of earlier corrections with --answers")
    if arguments.read_mistakes and arguments.paths == "corrected":
        raise ValueError("--read-mistakes is of reflective paths, and --paths corrected has no mistakes: leave it out")
    if arguments.answers:
        require_nobody_asked(arguments)
    else:
        require_own_flags(arguments)
    limits = get_limits(arguments)
    _require_places(arguments)
    plain = load_json(arguments.plain).to_list()
    hard = load_json(arguments.data)
    for path, rows in ((arguments.plain, plain), (arguments.data, hard)):
        untold = next((row["id"] for row in rows if not (row["target"] or "").strip()), None)
        if untold is not None:
            raise ValueError(f"{path}: row {untold!r} has no `target`, the reasoning that `aurora correct` works on")
    if arguments.answers:
        pairs = _earlier_pairs(hard.to_list(), arguments.answers)
        rows = _mix(arguments, pairs, plain)
        save_keeping_previous(rows, arguments.output)
        say(f"{arguments.output}: {len(pairs)} {arguments.paths} paths among {len(rows)}")
        return
    max_rows = arguments.max_rows or PAPER_CORRECTIONS
    if max_rows < len(hard):
        say(f"{arguments.data}: {max_rows} of {len(hard)} rows, drawn by seed; --max-rows takes more")
        hard = hard.shuffle(seed=arguments.seed).select(range(max_rows))
    with open_annotator(arguments) as annotator:
        result = correct_file(
            hard.to_list(),
            annotator,
            arguments.output,
            seed=arguments.seed,
            limits=limits,
            only_estimate=arguments.estimate,
            # As the rows among which they will be learnt.
            null_answers=any(row["is_null"] and is_null_answer(row["target"]) for row in plain),
        )
    if result is None:
        return
    rows = _mix(arguments, result.pairs, plain)
    files = [(rows, arguments.output)]
    if arguments.corrected:
        files.append(([_with_mistake(*pair) for pair in result.pairs], arguments.corrected))
    for content, path in files:
        save_keeping_previous(content, path)
    say(f"{arguments.output}: {len(result.pairs)} {arguments.paths} paths among {len(rows)}")
    if len(rows) - len(result.pairs) < round(arguments.plain_per_reflective * len(result.pairs)):
        say(f"{arguments.plain}: it holds {len(plain)} rows, fewer than the mix asks for")
    say(f"{result.report_path}: {_kinds_line(result.report)}")
    if result.failed_path:
        say(f"{result.failed_path}: {result.failed} rows without a usable answer")


def _mix(arguments: argparse.Namespace, pairs: list[Any], plain: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that the phase learns."""
    from ..annotation import build_reflective_rows

    return build_reflective_rows(
        pairs,
        plain,
        plain_per_reflective=arguments.plain_per_reflective,
        learn_mistakes=not arguments.read_mistakes,
        paths=arguments.paths,
        seed=arguments.seed,
    )


def _earlier_pairs(hard: list[dict[str, Any]], answers: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Hard rows with the corrected paths that another run of the command has written."""
    from ..annotation.run_files import require_distinct_ids
    from ..data import load_json

    require_distinct_ids(hard)
    by_id = {row["id"]: row for row in hard}
    corrected = load_json(answers).to_list()
    for row in corrected:
        own, mistake = by_id.get(row["id"]), row.pop(_CORRECTS, None)
        problem = None
        if own is None:
            problem = "is none of the hard rows"
        elif any(row[name] != own[name] for name in ("reference", "class_name", "is_null")):
            problem = "has another reference or class than the hard row of this id"
        elif mistake not in (None, _text_digest(own["target"])):
            problem = "corrects another text than that of the hard row of this id"
        if problem is not None:
            raise ValueError(f"{answers}: row {row['id']!r} {problem}; name the file that belongs to them")
    return [(by_id[row["id"]], row) for row in corrected]


def _with_mistake(hard: dict[str, Any], corrected: dict[str, Any]) -> dict[str, Any]:
    """A corrected row that says which text it corrects: ids alone may be those of another dataset, or model."""
    return {**corrected, _CORRECTS: _text_digest(hard["target"])}


def _text_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _require_places(arguments: argparse.Namespace) -> None:
    """The files to write can be written, and are not those to read: an annotator's answers cost money."""
    from ..journal import require_own_output

    output, corrected = Path(arguments.output), Path(arguments.corrected or arguments.output)
    for path in (output, corrected):
        require_file_place(path)
        if path.resolve() in (Path(arguments.data).resolve(), Path(arguments.plain).resolve()):
            raise ValueError(f"{path}: is read by this command; name another file to write")
    if arguments.corrected and corrected.resolve() == output.resolve():
        raise ValueError(f"{corrected}: --output and --corrected are the same file; name two")
    require_own_output(output)
    if corrected.exists() and not beside(output, "journal").exists():
        raise ValueError(f"{corrected}: exists already, and not from a run of this command; name another file")


def _kinds_line(report: dict[str, Any]) -> str:
    """How often each kind of failure occurred, in one line."""
    kinds = ", ".join(f"{kind} {entry['share']:.0%}" for kind, entry in report["kinds"].items() if entry["count"])
    return f"{report['right']} were right after all; failures by kind: {kinds}"
