"""How a dry run words what it counted of a phase."""

from collections.abc import Iterable

from ..models.configuration_aurora import AuroraConfig
from ..training.arguments import LoraArguments
from ..training.lora import token_tables
from .memory_estimate import GIGABYTE, MemoryEstimate, TrainingSetup


def parameter_lines(memory: MemoryEstimate, lora: LoraArguments, config: AuroraConfig) -> Iterable[str]:
    """What a phase trains, and what it leaves frozen."""
    trained = {group: count for group, count in memory.trainable.items() if count}
    what = ", ".join(f"{group} {count_text(count)}" for group, count in trained.items())
    tables = ", embeddings and head" if token_tables(config) else ""
    adapter = f" (LoRA of rank {lora.lora_r}{tables})" if lora.use_lora else ""
    yield f"trains {count_text(sum(trained.values()))}{adapter}: {what}"
    frozen = [f"{group} {count_text(memory.parameters[group])}" for group in memory.parameters if group not in trained]
    if frozen:
        yield f"frozen: {', '.join(frozen)}"


def memory_line(memory: MemoryEstimate, setup: TrainingSetup) -> str:
    """What a GPU holds in a step, and of what it is made up."""
    how = "without DeepSpeed" if setup.zero_stage is None else f"ZeRO-{setup.zero_stage}"
    parts = [
        f"{name} {getattr(memory, name) / GIGABYTE:.1f}"
        for name in ("weights", "gradients", "optimizer", "activations")
    ]
    host = f"; {memory.host / GIGABYTE:.1f} GB of optimizer in the host's memory" if memory.host else ""
    notes = ["the teacher's among the weights"] if setup.teacher else []
    if memory.loading > memory.total:
        notes.append(f"{memory.loading / GIGABYTE:.0f} GB while the model is loaded")
    if setup.groups & {"vision_tower", "audio_tower", "connector"}:
        notes.append("what the trained towers keep is not counted")
    note = f" ({'; '.join(notes)})" if notes else ""
    return (
        f"memory per GPU, {how} on {setup.num_processes}: about {memory.total / GIGABYTE:.0f} GB = "
        f"{' + '.join(parts)}{note}{host}"
    )


def count_text(number: int) -> str:
    """A number of parameters for people."""
    for unit, size in (("B", 1_000_000_000), ("M", 1_000_000), ("k", 1000)):
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return str(number)


def rollout_lines(memory: MemoryEstimate, setup: TrainingSetup) -> Iterable[str]:
    """What a rollout of GRPO holds; nothing for another phase."""
    if memory.rollout is None or setup.rollout is None:
        return
    held, encode, generate, draw, peak = (
        f"{getattr(memory.rollout, name) / GIGABYTE:.1f}" for name in ("held", "encode", "generate", "draw", "peak")
    )
    yield (
        f"rollout: {setup.rollout.completions} completions of {setup.rollout.questions} questions on each GPU: about "
        f"{peak} GB = {held} of features + the largest of encoder {encode}, cache {generate}, masks {draw}"
    )
