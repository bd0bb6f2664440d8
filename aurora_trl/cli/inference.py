"""The sub-commands that let a checkpoint answer: `aurora evaluate`, `aurora segment`."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .common import (
    LIMIT_HELP,
    AddCommand,
    add_choosing,
    add_engine,
    add_format,
    add_generation,
    claim,
    number,
    read_choosing,
    say,
    whole,
)

_PROTOCOLS = (
    "refavs (default), aurora, avsbench, simtoken, per_frame, davis, rvos, revos, omniavs, refcoco, reasonseg, avss"
)


def add_inference_commands(add: AddCommand) -> None:
    """
    Add the sub-commands to the parser.

    Args:
        add (`Callable`): adds a sub-command by name, function and text.
    """
    command = add(
        "evaluate",
        _evaluate,
        "Score a checkpoint by one protocol or more; torchrun or accelerate launch share the work out to processes.",
    )
    command.add_argument("model", metavar="CHECKPOINT", help="a phase's output folder, or a Hub repository")
    command.add_argument("--data", required=True, help="a dataset's folder or file")
    add_format(command)
    command.add_argument("--splits", nargs="+", help="(default: those whose name starts with test)")
    command.add_argument("--protocol", nargs="+", default=["refavs"], help=f"one or more of {_PROTOCOLS}")
    command.add_argument(
        "--swaps", nargs="*", default=[], help="of audio, video, reference: take it from another clip (first split)"
    )
    command.add_argument("--output", required=True, help="new folder for metrics.json, answers.jsonl, report.html")
    command.add_argument("--max-rows", type=whole(1), help="rows per split, the first ones")
    command.add_argument(
        "--num-frames",
        type=_frames,
        help="how many frames of each clip get a mask and a score, or `all`; the model looks at as many as it was "
        "trained on (default: those alone)",
    )
    command.add_argument(
        "--no-logits", action="store_true", help="keep no mask logits: `aurora score` can then not score the answers"
    )
    add_generation(command)
    add_choosing(command)

    command = add("score", _score, "Score the answers of `aurora evaluate` by other protocols, without the model.")
    command.add_argument("folder", metavar="DIR", help="what `aurora evaluate` wrote")
    command.add_argument("--protocol", nargs="+", required=True, help=f"one or more of {_PROTOCOLS}")
    command.add_argument("--data", help="the dataset that was evaluated on (default: where it was then)")
    add_format(command)

    command = add("segment", _segment, "Reason about one clip and segment it.")
    command.add_argument("--model", required=True, help="a phase's output folder, or a Hub repository")
    command.add_argument("--video", help="video file")
    command.add_argument("--frames", nargs="+", help="image files in order, in place of a video")
    command.add_argument("--audio", help="sound file (default: the video's own track)")
    command.add_argument("--reference", required=True, help="the sentence that describes the object")
    command.add_argument("--output", required=True, metavar="DIR", help="new folder for text, masks and overlay")
    command.add_argument(
        "--every-frame", action="store_true", help="draw in all frames (default: in those that the model reads)"
    )
    command.add_argument("--fps", type=number(0, above=True), help="with --every-frame: so many frames per second")
    command.add_argument("--start", type=number(0), help="with --every-frame: from this second of the clip on")
    command.add_argument("--end", type=number(0, above=True), help="with --every-frame: up to this second")
    command.add_argument("--max-new-tokens", type=whole(1), help=LIMIT_HELP)
    command.add_argument("--device", help="(default: a GPU where there is one)")
    add_engine(command)
    add_choosing(command)


def _frames(text: str) -> int:
    """A number of frames, or `all` of them."""
    return sys.maxsize if text == "all" else whole(1)(text)


def _evaluate(arguments: argparse.Namespace) -> None:
    from ..data import find_source
    from ..data.media.loading import count_frames
    from ..data.validation import require_valid
    from ..evaluation.evaluate import evaluate_model, process_state
    from ..evaluation.metrics import get_protocol
    from ..evaluation.report import write_report
    from ..generation.answers import load
    from ..generation.swaps import MODALITIES

    unknown = sorted(set(arguments.swaps) - set(MODALITIES))
    if unknown:
        raise ValueError(f"--swaps: unknown modality {unknown[0]!r}; use {', '.join(MODALITIES)}")
    for protocol in arguments.protocol:
        get_protocol(protocol)  # an unknown one is an error before the model is loaded
    choosing = read_choosing(arguments)
    output = Path(arguments.output)
    if process_state().is_main_process:
        claim(output)
    source = find_source(arguments.data, arguments.format, arguments.subset, arguments.objects)
    wanted = arguments.splits or [split for split in source.splits() if split.startswith("test")]
    if not wanted:
        raise ValueError(f"{arguments.data}: no test split; name one of {', '.join(source.splits())} with --splits")
    splits = {split: source.load(split) for split in wanted}
    if arguments.max_rows is not None:
        splits = {k: rows.select(range(min(arguments.max_rows, len(rows)))) for k, rows in splits.items()}
    for rows in splits.values():
        require_valid(rows)
    state = process_state()
    state.wait_for_everyone()  # all have seen that the output is new
    model, processor = load(arguments.model, state.device, engine=arguments.engine)
    if arguments.num_frames is not None:
        longest = max(count_frames(row) for rows in splits.values() for row in rows)
        processor = processor.with_num_frames(min(longest, arguments.num_frames), for_masks_alone=True)
    evaluate_model(
        model,
        processor,
        splits,
        output,
        swaps=arguments.swaps,
        protocol=arguments.protocol,
        batch_size=arguments.batch_size,
        max_new_tokens=arguments.max_new_tokens,
        kind_of=_kind_of(arguments.data),
        checkpoint=arguments.model,
        keep_logits=not arguments.no_logits,
        data={"path": _lasting(source.path), "format": source.format, "subset": source.subset},
        choosing=choosing,
    )
    if not state.is_main_process:
        return
    first = {row["id"]: row for row in next(iter(splits.values()))}
    name = Path(arguments.model).name
    report = write_report(output, {name: output}, {}, first)
    for protocol in dict.fromkeys(arguments.protocol):
        _say_scores(name, output, protocol)
    say(f"{report}")


def _lasting(path: str) -> str:
    """A path that means the same from another folder; a Hub repository's name as it is."""
    return str(Path(path).absolute()) if Path(path).exists() else path


def _say_scores(name: str, folder: Path, protocol: str) -> None:
    """A line for each split and swap."""
    from ..evaluation.metrics import get_protocol
    from ..evaluation.score_files import metrics_file
    from ..evaluation.tables import shown_scores
    from ..text_files import read_json

    metrics = read_json(metrics_file(folder, protocol))
    for split, scores in metrics["splits"].items():
        shown = ", ".join(f"{key} {scores[key]:.3f}" for key in shown_scores(protocol, split))
        say(f"{name} {split}: {shown} (protocol {protocol})")
        if "mean_answers" in scores:
            took = f"{scores['mean_answers']:.2f} answers, {scores['mean_written_tokens']:.0f} tokens written"
            say(f"{name} {split}: a row took {took}, {scores['mean_checks']:.2f} checks")
    headline = get_protocol(protocol).headline
    for swap, scores in metrics["swaps"].items():
        say(f"{name} {scores['split']} with {swap} swapped: {headline} {scores[headline]:.3f}")


def _score(arguments: argparse.Namespace) -> None:
    from ..data import find_source
    from ..evaluation.report import read_metrics
    from ..evaluation.rescoring import score_again

    folder = Path(arguments.folder)
    metrics = read_metrics(folder)
    data = metrics.get("data") or {}
    path = arguments.data or data.get("path")
    if path is None:
        raise ValueError(f"{folder}: does not say what was evaluated on; name it with --data")
    source = find_source(path, arguments.format or data.get("format"), arguments.subset or data.get("subset"))
    # Rows are found by their number: the whole split, also where its first rows alone were evaluated on.
    score_again(folder, {split: source.load(split) for split in metrics["splits"]}, arguments.protocol)
    for protocol in dict.fromkeys(arguments.protocol):
        _say_scores(folder.name, folder, protocol)


def _kind_of(root: str) -> Callable[[dict[str, Any]], str] | None:
    """Kinds of references are known in a synthetic world only."""
    if not (Path(root) / "world.json").is_file():
        return None
    from ..data.synthetic import SyntheticAnnotator

    return SyntheticAnnotator(root).kind


def _segment(arguments: argparse.Namespace) -> None:
    from ..data.media.streaming import choose_frames
    from ..generation.engines import choose_engine
    from ..generation.every_frame import require_streamable
    from ..generation.pipeline import AuroraPipeline, require_own_masks
    from ..generation.segment import write_segmentation
    from ..progress import Progress

    output, choosing = Path(arguments.output), read_choosing(arguments)
    claim(output)
    for path in (arguments.video, arguments.audio, *(arguments.frames or ())):
        if path is not None and not Path(path).is_file():
            raise ValueError(f"{path}: no such file")
    if (arguments.video is None) == (arguments.frames is None):
        raise ValueError("give the clip as --video or as --frames, and not both")
    clip = {"video": arguments.video, "frames": arguments.frames, "audio": arguments.audio}
    chosen = {name: getattr(arguments, name) for name in ("fps", "start", "end")}
    unused = next((name for name, value in chosen.items() if value is not None and not arguments.every_frame), None)
    if unused is not None:
        raise ValueError(f"--{unused} chooses among all frames: add --every-frame")
    chosen["start"] = chosen["start"] or 0.0
    drawn, span = None, (0.0, None)
    if arguments.every_frame:
        numbers, _ = choose_frames({"id": arguments.video, **clip}, **chosen)  # what is wrong is known at once
        progress, span = Progress(len(numbers), unit="frames"), (chosen["start"], arguments.end)
    pipeline = AuroraPipeline.from_pretrained(arguments.model, device=arguments.device)
    choose_engine(arguments.engine, pipeline.model)
    pipeline.model.generation_engine = arguments.engine
    if arguments.every_frame:
        require_streamable(pipeline.model)
        require_own_masks(choosing is not None and choosing.votes)
    result = pipeline(arguments.reference, max_new_tokens=arguments.max_new_tokens, choosing=choosing, **clip)
    say(result.reasoning)
    if arguments.every_frame:
        drawn = progress.over(pipeline.every_frame(result, **chosen), "drawing")
    record = write_segmentation(result, clip, output, drawn, span)
    say(f"{output}: {record['note']}")
