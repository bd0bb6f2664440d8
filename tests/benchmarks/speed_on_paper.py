"""
The hours of the published chain on 1, 2, 8 and 64 H100, counted and not measured: docs/speed-on-paper.md.

    python tests/benchmarks/speed_on_paper.py            # the tables of that page

Every number below is either counted elsewhere (named), a size of the recipe, or worked out here. No clock has seen it.
"""

from collections.abc import Callable
from dataclasses import dataclass

GPUS = (1, 2, 8, 64)
ROWS, CLIPS, NULL_ROWS = 14_113, 2_767, 608  # Ref-AVS, training split
TEST_ROWS = 2_288 + 1_656 + 1_028  # of each of four evaluations
SAMPLES_PER_STEP = 8
STEPS = {"teacher": 1440, "sft": 720, "reflective": 300}
ROWS_AT_A_TIME = {"teacher": 4, "sft": 2, "reflective": 2}
GRPO_STEPS, COMPLETIONS_PER_STEP = 500, 24
# A prompt, of which the clip can be shared by its references, and an answer, in tokens.
PROMPT, CLIP, ANSWER = 1440, 1341, 150

# Counted for an H100 before this work: on one GPU, and training on two.
ANNOTATION_HOURS, MINING_HOURS, EVALUATION_HOURS, TRAINING_HOURS = 7.5, 1.2, 2.0, 1.2
# Seconds of a GRPO step of 8 questions, G = 3, on one GPU and on eight: eager decoding, and a CUDA graph a token.
GRPO_SECONDS = {"eager": (4.9, 3.1), "graph": (2.7, 1.2)}
EAGER_TOKEN, GRAPH_TOKEN = 0.018, 0.0053  # seconds a token; the weights alone take 0.0042
BATCH = 16  # rows that are answered together in mining and evaluation
START_HOURS = 1 / 60  # of a step that loads a model of 16 GB

# `aurora correct` asks an endpoint: 1,505 requests of 6 s, 4 at a time and 32 at a time.
CORRECTIONS, REQUEST_SECONDS = 1505, 6.0


@dataclass(frozen=True)
class PaperStep:
    """
    A step of the chain.

    Attributes:
        name (`str`): as in `recipes/videollama2/pipeline.yaml`.
        before, after (`Callable`): hours on so many GPUs.
    """

    name: str
    before: Callable[[int], float]
    after: Callable[[int], float]


def sharing(gpus: int, samples: int) -> int:
    """The most of so many GPUs that can share a step's samples evenly."""
    return max(count for count in range(1, gpus + 1) if samples % count == 0)


def grpo_hours(kind: str, gpus: int) -> float:
    """What is the same on every number of GPUs, and what they share: a line through the two counts."""
    one, eight = GRPO_SECONDS[kind]
    shared = (one - eight) * 8 / 7
    return GRPO_STEPS * (one - shared + shared / sharing(gpus, COMPLETIONS_PER_STEP)) / 3600


def supervised_seconds() -> float:
    """Of a step of 8 samples on one GPU: what the training of the chain takes on two, without GRPO."""
    both = TRAINING_HOURS - grpo_hours("eager", 2)
    return both * 3600 * 2 / sum(STEPS.values())


def shared_tokens(rows: float) -> float:
    """Tokens that are read where so many rows show one clip, to those without sharing."""
    return (CLIP + rows * (PROMPT - CLIP + ANSWER)) / (rows * (PROMPT + ANSWER))


def supervised_hours(phase: str, gpus: int, *, after: bool) -> float:
    """A supervised phase; afterwards layers are not run again in the backward pass, and references share a clip."""
    used = sharing(gpus, SAMPLES_PER_STEP)
    seconds = supervised_seconds() / used
    if after:
        # Forward, again, backward; the weights are frozen, so that each is as long. References of a clip: of all rows,
        # of the 5,760 that a phase of 720 steps sees, of the 5,005 of the reflective phase.
        rows = {"teacher": ROWS, "sft": STEPS["sft"] * SAMPLES_PER_STEP, "reflective": 5005}[phase] / CLIPS
        seconds *= 2 / 3 * shared_tokens(min(rows, ROWS_AT_A_TIME[phase], SAMPLES_PER_STEP / used))
    return STEPS[phase] * seconds / 3600


def answering_hours(hours: float, rows: int, gpus: int) -> float:
    """Mining or evaluation afterwards: decoded by graphs, shared by all GPUs; reading beside it is not counted."""
    saved = rows * ANSWER * (EAGER_TOKEN - GRAPH_TOKEN) / BATCH / 3600
    return (hours - saved) / gpus


def annotation_hours(gpus: int) -> float:
    """Of the rows that SFT sees, by the local model on every GPU."""
    return ANNOTATION_HOURS * STEPS["sft"] * SAMPLES_PER_STEP / ROWS / gpus


def served_annotation_hours(gpus: int) -> float:
    """
    The same by a vLLM server: 2,850 tokens in at 40 % of 989 TFLOP/s, 200 out, 64 at a time, at 1.5 times what weights
    (15.2 GB) and cache (57 kB a token) take at 3.35 TB/s; 5 minutes until it answers.
    """
    prompt = 2 * 7.6e9 * 2850 / (0.4 * 989e12)
    token = 1.5 * (15.2e9 + 64 * 3050 * 57_344) / 3.35e12 / 64
    return STEPS["sft"] * SAMPLES_PER_STEP * (prompt + 200 * token) / gpus / 3600 + 5 / 60


def paper_steps() -> list[PaperStep]:
    """The chain; the steps that load a model take a minute for it."""
    supervised = [
        PaperStep(
            name,
            lambda gpus, name=name: supervised_hours(name, gpus, after=False) + START_HOURS,  # type: ignore[misc]
            lambda gpus, name=name: supervised_hours(name, gpus, after=True) + START_HOURS,  # type: ignore[misc]
        )
        for name in STEPS
    ]
    requests = CORRECTIONS * REQUEST_SECONDS / 3600
    answered = ROWS - NULL_ROWS
    return [
        PaperStep("base", lambda _: 0.1, lambda _: 0.1),
        PaperStep("cot", lambda _: ANNOTATION_HOURS + START_HOURS, lambda gpus: annotation_hours(gpus) + START_HOURS),
        *supervised[:2],
        PaperStep(
            "mine",
            lambda _: MINING_HOURS + START_HOURS,
            lambda gpus: answering_hours(MINING_HOURS, answered, gpus) + START_HOURS,
        ),
        PaperStep("correct", lambda _: requests / 4, lambda _: requests / 32),
        supervised[2],
        PaperStep(
            "grpo",
            lambda gpus: grpo_hours("eager", gpus) + START_HOURS,
            lambda gpus: grpo_hours("graph", gpus) + START_HOURS,
        ),
        PaperStep(
            "four evaluations",
            lambda _: EVALUATION_HOURS + 4 * START_HOURS,
            lambda gpus: answering_hours(EVALUATION_HOURS, 4 * TEST_ROWS, gpus) + 4 * START_HOURS,
        ),
    ]


def table() -> list[str]:
    """The page's table, in Markdown."""
    lines = [
        "| hours, counted | " + " | ".join(f"{gpus} GPU{'s' * (gpus > 1)}, before → after" for gpus in GPUS) + " |",
        "| --- |" + " ---: |" * len(GPUS),
    ]
    steps = paper_steps()
    for step in steps:
        cells = [f"{step.before(gpus):.2f} → {step.after(gpus):.2f}" for gpus in GPUS]
        lines.append(f"| {step.name} | {' | '.join(cells)} |")
    totals = [(sum(step.before(gpus) for step in steps), sum(step.after(gpus) for step in steps)) for gpus in GPUS]
    lines.append("| **the whole chain** | " + " | ".join(f"**{b:.1f} → {a:.1f}**" for b, a in totals) + " |")
    served = " | ".join(f"{served_annotation_hours(gpus):.2f}" for gpus in GPUS)
    lines.append(f"| `cot` with `--serve`, in place of the above | {served} |")
    return lines


if __name__ == "__main__":
    print("\n".join(table()))
