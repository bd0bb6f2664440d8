"""Running a chain: what is done is skipped, what was cut is continued."""

import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..disk import naming, remove, written_whole
from ..errors import DataError
from ..locks import CHAIN_VARIABLE, LOCK_FILE, end_leftovers, hold, lock_id, release
from ..text_files import read_json, read_text
from .child_process import run_command, search_path
from .definition import Pipeline, Step
from .outside_files import digests
from .several_machines import on_all_machines
from .step_files import own_files

# Beside the steps' records: the chain as it was run, for its report.
CHAIN_COPY = "pipeline.yaml"


def run_pipeline(
    pipeline: Pipeline,
    *,
    only: str | None = None,
    before: str | None = None,
    dry_run: bool = False,
    launcher: Sequence[str] = (),
) -> None:
    """
    Run what is not done yet.

    Args:
        pipeline (`Pipeline`): the chain.
        only (`str`, *optional*): run this step alone.
        before (`str`, *optional*): stop before this step, and leave out those that it does not need.
        dry_run (`bool`, *optional*, defaults to `False`): say what would be run.
        launcher (`Sequence[str]`, *optional*): words that start a command on every machine, such as `srun
            --ntasks-per-node=1`, for the steps that run on several processes.

    Raises:
        `DataError`: where a step fails, where `only` needs what is not there, where both `only` and `before` are
            named, or another run is at it in the folder.
    """
    if only is not None and before is not None:
        raise DataError("`--only` runs a step alone and `--before` what a step needs: name one of the two")
    for step in pipeline.steps:
        step.command = on_all_machines(launcher, step.command)
    if dry_run:
        _run_steps(pipeline, only, before, dry_run=True)
        return
    lock = pipeline.output_dir / ".pipeline" / "lock"
    with naming(pipeline.output_dir):
        dead = hold(lock, pipeline.output_dir)
    try:
        if dead is not None:
            _end_what_it_left(dead)
        _run_steps(pipeline, only, before, dry_run=False)
    finally:
        release(lock)


def _end_what_it_left(dead: dict[str, Any]) -> None:
    """A chain that was killed may have left its step running, which would write where this one writes."""
    ended = end_leftovers(str(dead.get("id")))
    if ended:
        _say(f"ended what the run of {dead.get('since')}, which is gone, had left running: {ended}")


def _run_steps(pipeline: Pipeline, only: str | None, before: str | None, *, dry_run: bool) -> None:
    steps = pipeline.steps
    if only is not None:
        steps = [pipeline.step(only)]
        missing = [name for name in steps[0].needs if pipeline.state(pipeline.step(name)) != "done"]
        if missing:
            raise DataError(f"step `{only}` needs {', '.join(missing)}, not done yet: run without `--only` first")
    if before is not None:
        wanted = pipeline.needed(pipeline.step(before))
        steps = [step for step in steps if step.name in wanted]
    todo = [step for step in steps if pipeline.state(step) != "done"]
    if not dry_run:
        for step in todo:  # known before it has trained for hours
            pipeline.require_own_place(step)
        copy = pipeline.output_dir / ".pipeline" / CHAIN_COPY
        for path, text in {**pipeline.configs, copy: read_text(pipeline.file)}.items():
            with written_whole(path) as file:
                file.write(text)
    started, expected = time.monotonic(), 0.0
    for number, step in enumerate(steps, 1):
        ahead = [other.minutes for other in todo if other not in steps[: number - 1]]
        left = sum(minutes for minutes in ahead if minutes is not None)
        # The estimate follows this machine: what was done so far took so much longer, or shorter, than expected.
        pace = (time.monotonic() - started) / 60 / expected if expected > 0.5 else 1.0
        _say(
            f"[{number}/{len(steps)}] {step.name}: "
            + ("done" if step not in todo else "to do" if None in ahead else f"about {left * pace:.0f} min left")
        )
        if step not in todo:
            continue
        changed = pipeline.changed_files(step)
        if changed:
            _say(f"    again: {', '.join(changed)} has changed since the last run")
        _say("    " + shlex.join(step.command))
        if not dry_run:
            _run_step(pipeline, step)
            expected += step.minutes or 0.0
    minutes = (time.monotonic() - started) / 60
    _say(f"{pipeline.output_dir}: {'nothing was run' if dry_run else 'done'} in {minutes:.1f} min")
    if steps and steps[-1].makes.suffix == ".html" and not dry_run:
        _say(f"The report: {steps[-1].makes}")


def _run_step(pipeline: Pipeline, step: Step) -> None:
    """Run one step, keep what an earlier run with other settings left, record the outcome."""
    record = pipeline.record(step)
    record.parent.mkdir(parents=True, exist_ok=True)
    if (step.makes / LOCK_FILE).exists():  # of a run outside the chain, which may be writing there
        hold(step.makes / LOCK_FILE)
        release(step.makes / LOCK_FILE)
    _clear_place(pipeline, step)
    # What those have read that it needs, and not what is there now: the step is of what they have made.
    of_needed: dict[str, str] = {}
    for name in step.needs:
        of_needed.update(read_json(pipeline.record(pipeline.step(name))).get("outside", {}))
    made = pipeline.made(step)
    state = {
        "fingerprint": pipeline.fingerprint(step),
        "outside": {**step.outside, **made, **of_needed},
        "finished": False,
        "seconds": None,
    }
    _write_record(record, state)
    read = {**digests(step.inside), **made}
    started = time.monotonic()
    chain = lock_id(pipeline.output_dir / ".pipeline" / "lock")
    try:
        code = run_command(step.command, {**os.environ, "PATH": search_path(), CHAIN_VARIABLE: chain})
    except OSError as error:
        raise DataError(
            f"step `{step.name}`: {step.command[0]} can not be started: {error.strerror}; name a program, or a script "
            "with what runs it"
        ) from None
    if code != 0 or not step.makes.exists():
        reason = _ending(code) if code else f"did not make {step.makes}"
        raise DataError(f"step `{step.name}` {reason}; mend it and run the same command again: it continues here")
    # What has changed in the chain's folder meanwhile is no step's input: its command has written it.
    kept = {path: digest for path, digest in digests(read).items() if read.get(path) == digest}
    outside = {**step.outside, **kept, **of_needed}
    seconds = round(time.monotonic() - started, 1)
    _write_record(record, {**state, "outside": outside, "finished": True, "seconds": seconds})


def _ending(code: int) -> str:
    """How a command ended; a shell writes 128 and the number of a signal, Python its negative."""
    number = -code if code < 0 else code - 128
    names = {one.value: one.name for one in signal.Signals}
    if number not in names:
        return f"ended with exit code {code}"
    hint = ", as where a machine's or a job's memory is full" if number == signal.SIGKILL else ""
    return f"was ended by the signal {names[number]}{hint}"


def _clear_place(pipeline: Pipeline, step: Step) -> None:
    """
    Move away what a step can not continue from: a result of other settings to `<name>.previous`, and what a run that
    was cut short has left to `<name>.cut`. So it never takes the place of a result that was whole.
    """
    what = "cut" if pipeline.was_cut(step) else "previous"
    if pipeline.state(step) == "new":
        # A data step that was cut short continues from what it left beside its output, but not with other settings.
        for path in own_files(step, pipeline.steps):
            _keep(path, what)
    elif step.config is None:
        _keep(step.makes, what)


def _keep(path: Path, what: str) -> None:
    if path.exists():
        kept = path.with_name(f"{path.name}.{what}")
        remove(kept)
        path.rename(kept)


def _write_record(record: Path, content: dict[str, Any]) -> None:
    with written_whole(record) as file:
        json.dump(content, file)


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
