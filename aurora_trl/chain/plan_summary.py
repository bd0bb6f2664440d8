"""The end of a dry run: hours by machine, disk and money of the whole chain."""

import shutil
from collections.abc import Sequence

from .costs import Costs
from .definition import Pipeline, Step
from .machines import ASSUMPTIONS, MACHINES, Machine
from .memory_estimate import MemoryEstimate

_LITTLE = 0.05  # hours: not named by itself
PlannedStep = tuple[Step, Costs | None, MemoryEstimate | None]


def summarize(pipeline: Pipeline, planned: Sequence[PlannedStep]) -> tuple[list[str], list[str]]:
    """
    What the steps that are not done take together.

    Args:
        pipeline (`Pipeline`): the chain.
        planned (`Sequence[tuple]`): each step with its costs and its memory, where they are known.

    Returns:
        `tuple[list[str], list[str]]`: lines, and problems.
    """
    todo = [item for item in planned if pipeline.state(item[0]) != "done"]
    lines, problems = [], []
    if any(costs is not None and costs.work is not None for _, costs, _ in todo):
        if any(step.minutes is None for step, _, _ in todo):
            lines += [_machine_line(todo, machine) for machine in MACHINES]
            lines.append(f"hours by these rates: {ASSUMPTIONS}")
        else:
            minutes = sum(step.minutes or 0.0 for step, _, _ in todo)
            lines.append(f"time: about {minutes / 60:.1f} h on the machine that the recipe names")
    disk = sum(costs.disk for _, costs, _ in todo if costs is not None)
    output = pipeline.output_dir
    place = next(folder for folder in (output, *output.absolute().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if disk:
        lines.append(f"disk: about {disk / 1e9:.1f} GB; {free / 1e9:.1f} GB are free in {place}")
    if disk > free:
        problems.append(f"{output}: takes about {disk / 1e9:.0f} GB, and {free / 1e9:.0f} GB are free there")
    money = sum(costs.money for _, costs, _ in todo if costs is not None)
    if money:
        lines.append(f"services: about {money:.2f}, in the currency of the prices")
    return lines, problems


def _machine_line(todo: Sequence[PlannedStep], machine: Machine) -> str:
    """Hours of the steps on a machine, and what does not fit it."""
    hours = {step.name: costs.work.hours(machine) if costs and costs.work else None for step, costs, _ in todo}
    known = {name: value for name, value in hours.items() if value is not None}
    named = ", ".join(f"{name} {value:.1f}" for name, value in known.items() if value >= _LITTLE)
    unknown = [name for name, value in hours.items() if value is None]
    small = [step.name for step, _, memory in todo if memory is not None and memory.total > machine.memory * 1e9]
    line = f"{machine.name}: about {sum(known.values()):.1f} h ({named or 'nothing of length'})"
    if unknown:
        line += f"; not known: {', '.join(unknown)}"
    return line + (f"; too little memory for {', '.join(small)}" if small else "")
