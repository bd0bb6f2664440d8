"""The `aurora` command. Heavy imports stand inside the sub-commands, so that `aurora --help` answers at once."""

import argparse
import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cli_annotation import add_annotation_commands
from .cli_common import say
from .cli_data import add_data_commands

if TYPE_CHECKING:
    from .chain.definition import Pipeline

_PACKAGES = [
    "aurora-trl",
    "torch",
    "torchvision",
    "trl",
    "transformers",
    "accelerate",
    "peft",
    "deepspeed",
    "datasets",
    "segment-anything",
    "decord",
    "av",
    "soundfile",
    "soxr",
    "pycocotools",
    "numpy",
]


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run a sub-command.

    Args:
        argv (`Sequence[str]`, *optional*): arguments; those of the process by default.

    Returns:
        `int`: the exit code: 0, or 1 after one line on stderr that says what is wrong.
    """
    arguments = build_parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except (ValueError, OSError) as error:  # `DataError` is a `ValueError`
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("stopped; the same command continues\n")
        return 130
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The parser with all sub-commands."""
    parser = argparse.ArgumentParser(prog="aurora", description="Train models to reason about a clip and segment it.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        return command

    add("env", _env, "Print the versions that a bug report needs.")

    command = add("tiny-model", _tiny_model, "Write a checkpoint of the published classes with small random weights.")
    command.add_argument("output", metavar="DIR", help="new folder")
    command.add_argument("--seed", type=int, default=0, help="of the weights (default: 0)")
    command.add_argument("--world", metavar="DIR", help="a synthetic world that teaches the towers to see and hear")
    command.add_argument("--tower-steps", type=int, help="steps of that (default: 2000)")

    command = add("init", _init, "Build a model from a published policy and a published SAM, to start training from.")
    command.add_argument("policy", metavar="POLICY", help="folder or Hub repository: DAMO-NLP-SG/VideoLLaMA2.1-7B-AV")
    command.add_argument(
        "--mask-decoder", required=True, help="sam_vit_h_4b8939.pth, or a folder or repository of SAM 2"
    )
    command.add_argument("--output", required=True, metavar="DIR", help="new folder")
    command.add_argument("--mask-image-size", type=int, help="side of SAM's input in pixels (default: as published)")
    command.add_argument(
        "--mask-memory", type=int, metavar="N", help="let each frame look back at N in SAM 2's memory, published: 7"
    )
    command.add_argument(
        "--mask-prompt-frames",
        default="all",
        help="with a memory, the frames that [SEG] prompts: all (default), first",
    )
    command.add_argument(
        "--mask-memory-gradients", action="store_true", help="let the loss of a frame reach the ones before it"
    )
    command.add_argument("--num-frames", type=int, default=10, help="frames of a clip (default: 10)")
    command.add_argument("--audio-seconds", type=float, help="cut and pad sound to this (default: as published)")
    command.add_argument("--no-pad-audio", action="store_true", help="give no places to silence past a sound's end")
    command.add_argument("--video-max-pixels", type=int, help="of a frame, for Qwen (default: as published)")
    command.add_argument("--dtype", default="auto", help="bfloat16 or float32 (default: the policy's own)")
    command.add_argument("--seed", type=int, default=0, help="of the projector's weights (default: 0)")

    command = add("run", _run, "Run a chain of phases; run again, it skips what is done and continues what was cut.")
    command.add_argument("pipeline", metavar="PIPELINE.yaml", help="the chain, such as recipes/tiny/pipeline.yaml")
    command.add_argument("--output_dir", "--output-dir", help="in place of the YAML's")
    command.add_argument("--seed", type=int, help="in place of the YAML's")
    command.add_argument("--num_processes", "--num-processes", type=int, help="GPUs of each training step")
    command.add_argument("--only", metavar="STEP", help="run this step alone")
    command.add_argument("--before", metavar="STEP", help="run what this step needs, not the step itself")
    command.add_argument("--dry-run", action="store_true", help="check files, configs and memory; run nothing")

    command = add(
        "evaluate",
        _evaluate,
        "Score a checkpoint by a protocol; torchrun or accelerate launch share the work out to several processes.",
    )
    command.add_argument("model", metavar="CHECKPOINT", help="a phase's output folder, or a Hub repository")
    command.add_argument("--data", required=True, help="a dataset's folder or file")
    _add_format(command)
    command.add_argument("--splits", nargs="+", help="(default: those whose name starts with test)")
    command.add_argument(
        "--protocol",
        default="refavs",
        help="refavs (default), aurora, avsbench, simtoken, per_frame, davis, avss, reasonseg",
    )
    command.add_argument(
        "--swaps", nargs="*", default=[], help="of audio, video, reference: take it from another clip (first split)"
    )
    command.add_argument("--output", required=True, help="new folder for metrics.json, answers.jsonl, report.md")
    command.add_argument("--max-rows", type=int, help="rows per split, the first ones")
    _add_generation(command)

    command = add("report", _report, "Write the report of a chain from its evaluations and training logs.")
    command.add_argument("root", metavar="DIR", help="the chain's output folder, with eval/PHASE and PHASE in it")
    command.add_argument("--phases", nargs="+", required=True, help="the phases to show, in order")
    command.add_argument("--data", required=True, help="the dataset that was evaluated on")
    _add_format(command)

    command = add("segment", _segment, "Reason about one clip and segment it.")
    command.add_argument("--model", required=True, help="a phase's output folder, or a Hub repository")
    command.add_argument("--video", help="video file")
    command.add_argument("--frames", nargs="+", help="image files in order, in place of a video")
    command.add_argument("--audio", help="sound file (default: the video's own track)")
    command.add_argument("--reference", required=True, help="the sentence that describes the object")
    command.add_argument("--output", required=True, metavar="DIR", help="new folder for text, masks and overlay")
    command.add_argument("--max-new-tokens", type=int, default=256, help="longest answer in tokens (default: 256)")
    command.add_argument("--device", help="(default: a GPU where there is one)")

    command = add("merge", _merge, "Merge the adapter of a LoRA phase into its base.")
    command.add_argument("adapter", metavar="ADAPTER", help="a LoRA phase's output folder, or a Hub repository")
    command.add_argument("--output", required=True, metavar="DIR", help="new folder for the whole model")
    command.add_argument("--base", help="where the base is, if not where it was in training")
    command.add_argument(
        "--dtype", choices=["float32", "bfloat16"], help="of the merged weights (default: the base's)"
    )
    command.add_argument("--max-shard-size", default="5GB", help="(default: 5GB)")

    command = add("push", _push, "Push a checkpoint with its processor and a model card to the Hub.")
    command.add_argument("folder", metavar="DIR", help="a phase's output folder")
    command.add_argument("repo_id", metavar="REPO_ID", help="namespace/name; made where it does not exist")
    command.add_argument("--evaluation", metavar="DIR", help="what `aurora evaluate` wrote, for the card's scores")
    command.add_argument("--private", action="store_true", default=None, help="make a new repository private")
    command.add_argument("--revision", help="branch to push to (default: main)")

    add_data_commands(add, _add_format)
    add_annotation_commands(add, _add_format, _add_generation)
    return parser


def _add_format(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--format",
        help="refavs, avsbench, reasonseg, json, or parquet, which is also for a Hub repository (default: what the "
        "files show)",
    )
    command.add_argument("--subset", help="of AVSBench: s4, ms3, avss")


def _add_generation(command: argparse.ArgumentParser) -> None:
    command.add_argument("--batch-size", type=int, default=16, help="(default: 16)")
    command.add_argument("--max-new-tokens", type=int, default=256, help="longest answer in tokens (default: 256)")


def _env(arguments: argparse.Namespace) -> None:
    say(f"python {platform.python_version()} on {platform.platform()}, {os.cpu_count()} cores")
    for name in _PACKAGES:
        try:
            say(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            say(f"{name} is not installed")
    import torch

    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    say(f"GPUs: {', '.join(devices) or 'none'}")


def _tiny_model(arguments: argparse.Namespace) -> None:
    from .tiny.videollama2 import create_tiny_checkpoint

    _require_new(Path(arguments.output))
    settings = {}
    if arguments.tower_steps is not None:
        if arguments.world is None or arguments.tower_steps < 1:
            raise ValueError(f"`--tower-steps` {arguments.tower_steps}: use at least 1, with `--world`")
        settings["tower_steps"] = arguments.tower_steps
    create_tiny_checkpoint(arguments.output, seed=arguments.seed, world=arguments.world, **settings)
    say(f"{arguments.output}: a tiny checkpoint")


def _init(arguments: argparse.Namespace) -> None:
    from transformers import set_seed

    from .models import ClipMemory, load_published

    output = Path(arguments.output)
    _require_new(output)
    names = ("audio_seconds", "video_max_pixels")
    settings = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    settings |= {"pad_audio": False} if arguments.no_pad_audio else {}
    memory = None
    if arguments.mask_memory is not None:
        memory = ClipMemory(arguments.mask_memory, arguments.mask_prompt_frames, arguments.mask_memory_gradients)
    elif arguments.mask_prompt_frames != "all" or arguments.mask_memory_gradients:
        raise ValueError("`--mask-prompt-frames` and `--mask-memory-gradients` need a memory; add `--mask-memory 7`")
    set_seed(arguments.seed)
    model, processor = load_published(
        arguments.policy,
        arguments.mask_decoder,
        mask_image_size=arguments.mask_image_size,
        mask_memory=memory,
        dtype=arguments.dtype,
        num_frames=arguments.num_frames,
        **settings,
    )
    model.save_pretrained(output, max_shard_size="5GB")
    processor.save_pretrained(output)
    say(f"{output}: {model.num_parameters():,} parameters in {model.dtype}, ready for a recipe's model_name_or_path")


def _run(arguments: argparse.Namespace) -> None:
    from .chain.definition import load_pipeline
    from .chain.runner import run_pipeline

    pipeline = load_pipeline(arguments.pipeline, arguments.output_dir, arguments.seed, arguments.num_processes)
    run_pipeline(pipeline, only=arguments.only, before=arguments.before, dry_run=arguments.dry_run)
    if arguments.dry_run:
        _check_plan(pipeline)


def _check_plan(pipeline: "Pipeline") -> None:
    from .chain.dry_run import check_pipeline

    problems: list[str] = []
    for plan in check_pipeline(pipeline, build_parser()):
        for line in [*plan.lines, *(f"problem: {problem}" for problem in plan.problems)]:
            say(f"{plan.step.name}: {line}")
        problems += plan.problems
    if problems:
        count = len(set(problems))
        raise ValueError(f"{pipeline.file}: {count} problem{'s' * (count > 1)}, see above; the first: {problems[0]}")
    say(f"{pipeline.file}: {len(pipeline.steps)} steps checked, all is well")


def _evaluate(arguments: argparse.Namespace) -> None:
    from .data import find_source
    from .data.validation import require_valid
    from .evaluation.evaluate import evaluate_model, process_state
    from .evaluation.metrics import get_protocol
    from .evaluation.report import shown_scores, write_report
    from .generation.answers import MODALITIES, load

    unknown = sorted(set(arguments.swaps) - set(MODALITIES))
    if unknown:
        raise ValueError(f"--swaps: unknown modality {unknown[0]!r}; use {', '.join(MODALITIES)}")
    get_protocol(arguments.protocol)  # an unknown one is an error before the model is loaded
    output = Path(arguments.output)
    _require_new(output)
    source = find_source(arguments.data, arguments.format, arguments.subset)
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
    model, processor = load(arguments.model, state.device)
    metrics = evaluate_model(
        model,
        processor,
        splits,
        output,
        swaps=arguments.swaps,
        protocol=arguments.protocol,
        batch_size=arguments.batch_size,
        max_new_tokens=arguments.max_new_tokens,
        kind_of=_kind_of(arguments.data),
    )
    if not state.is_main_process:
        return
    first = {row["id"]: row for row in next(iter(splits.values()))}
    name = Path(arguments.model).name
    report = write_report(output, {name: output}, {}, first)
    for split, scores in metrics["splits"].items():
        shown = ", ".join(f"{key} {scores[key]:.3f}" for key in shown_scores(arguments.protocol, split))
        say(f"{name} {split}: {shown} (protocol {arguments.protocol})")
    headline = get_protocol(arguments.protocol).headline
    for swap, scores in metrics["swaps"].items():
        say(f"{name} {scores['split']} with {swap} swapped: {headline} {scores[headline]:.3f}")
    say(f"{report}")


def _kind_of(root: str) -> Callable[[dict[str, Any]], str] | None:
    """Kinds of references are known in a synthetic world only."""
    if not (Path(root) / "world.json").is_file():
        return None
    from .data.synthetic import SyntheticAnnotator

    return SyntheticAnnotator(root).kind


def _report(arguments: argparse.Namespace) -> None:
    from .data import find_source
    from .evaluation.report import write_report

    root = Path(arguments.root)
    evaluations = {phase: root / "eval" / phase for phase in arguments.phases}
    trainings = {phase: root / phase for phase in arguments.phases if (root / phase / "trainer_state.json").is_file()}
    for folder in evaluations.values():
        if not (folder / "metrics.json").is_file():
            raise ValueError(f"{folder}/metrics.json: no such file; run `aurora evaluate` for that phase first")
    import json

    first = next(iter(json.loads((next(iter(evaluations.values())) / "metrics.json").read_text())["splits"]))
    source = find_source(arguments.data, arguments.format, arguments.subset)
    rows = {row["id"]: row for row in source.load(first)}
    records = sorted((root / ".pipeline").glob("*.json"), key=lambda path: path.stat().st_mtime)
    times = [(path.stem, json.loads(path.read_text())["seconds"]) for path in records]
    durations = [(name, seconds) for name, seconds in times if seconds is not None]
    say(f"{write_report(root, evaluations, trainings, rows, durations=durations)}")


def _segment(arguments: argparse.Namespace) -> None:
    from .generation.pipeline import AuroraPipeline
    from .generation.segment import write_segmentation

    output = Path(arguments.output)
    _require_new(output)
    for path in (arguments.video, arguments.audio, *(arguments.frames or ())):
        if path is not None and not Path(path).is_file():
            raise ValueError(f"{path}: no such file")
    clip = {"video": arguments.video, "frames": arguments.frames, "audio": arguments.audio}
    pipeline = AuroraPipeline.from_pretrained(arguments.model, device=arguments.device)
    result = pipeline(arguments.reference, max_new_tokens=arguments.max_new_tokens, **clip)
    record = write_segmentation(result, clip, output)
    say(result.reasoning)
    say(f"{output}: {record['note']}")


def _merge(arguments: argparse.Namespace) -> None:
    from .models import AuroraProcessor
    from .models.checkpoints.adapters import find_adapter, load_merged

    output = Path(arguments.output)
    _require_new(output)
    if find_adapter(arguments.adapter) is None:
        raise ValueError(f"{arguments.adapter}: holds no adapter; `aurora merge` is for the folder of a LoRA phase")
    model = load_merged(arguments.adapter, base_model_name_or_path=arguments.base, dtype=arguments.dtype or "auto")
    model.save_pretrained(output, max_shard_size=arguments.max_shard_size)
    AuroraProcessor.from_pretrained(arguments.adapter).save_pretrained(output)
    say(f"{output}: {arguments.adapter} merged into its base")


def _push(arguments: argparse.Namespace) -> None:
    from .models.checkpoints.hub import push

    say(
        push(
            arguments.folder,
            arguments.repo_id,
            private=arguments.private,
            evaluation=arguments.evaluation,
            revision=arguments.revision,
        )
    )


def _require_new(folder: Path) -> None:
    """Nothing is written over."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: exists already; name a new folder or remove it")


if __name__ == "__main__":
    sys.exit(main())
