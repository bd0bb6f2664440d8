"""Published numbers, in per cent, each with its source. This is the one place where they stand."""

from dataclasses import dataclass

SEEN, UNSEEN, S4 = "test_s", "test_u", "test"
PAPER = "the paper of AURORA, Tables 1 to 8"
# J, F, J&F.
Scores = tuple[float, ...]


@dataclass(frozen=True)
class PublishedRow:
    """
    A line of a published table.

    Attributes:
        label (`str`): as the table has it.
        scores (`dict[str, tuple]`): by split, J, F and J&F; of S4 J and F.
        evaluation (`str`, *optional*): what the study calls our evaluation of the same thing, `eval/NAME`; None for
            other people's systems.
        mix (`tuple`, *optional*): the printed mean of seen and unseen.
    """

    label: str
    scores: dict[str, Scores]
    evaluation: str | None = None
    mix: Scores | None = None


@dataclass(frozen=True)
class PublishedTable:
    """
    A published table.

    Attributes:
        number (`int`): in the paper.
        title (`str`): what it compares.
        rows (`tuple[PublishedRow, ...]`): in its order.
        baseline (`str`, *optional*): the evaluation that the other rows are compared with.
        protocol (`str`, *optional*): by which its numbers can be compared; None: by that of the report.
    """

    number: int
    title: str
    rows: tuple[PublishedRow, ...]
    baseline: str | None = None
    protocol: str | None = None


def _row(label: str, evaluation: str | None, seen: Scores, unseen: Scores, mix: Scores | None = None) -> PublishedRow:
    return PublishedRow(label, {SEEN: seen, UNSEEN: unseen}, evaluation, mix)


TABLES: tuple[PublishedTable, ...] = (
    PublishedTable(
        1,
        "Methods on Ref-AVS; Mix is the mean of seen and unseen",
        (
            _row("AVSBench", None, (23.2, 51.1, 37.2), (32.4, 54.7, 43.5), (27.8, 52.9, 40.3)),
            _row("AVSegFormer", None, (33.5, 47.0, 40.2), (36.1, 50.1, 43.1), (34.8, 48.6, 41.7)),
            _row("GAVS", None, (28.9, 49.8, 39.4), (29.8, 49.7, 39.8), (29.4, 49.8, 39.6)),
            _row("ReferFormer", None, (31.3, 50.1, 40.7), (30.4, 48.8, 39.6), (30.9, 49.5, 40.2)),
            _row("R2VOS", None, (25.0, 41.0, 33.0), (27.9, 49.8, 38.9), (26.5, 45.4, 35.9)),
            _row("EEMC", None, (34.2, 51.3, 42.8), (49.5, 64.8, 57.2), (41.9, 58.1, 50.0)),
            _row("SAM2-LOVE", None, (43.5, 51.9, 47.7), (66.5, 72.3, 69.4), (55.0, 62.1, 58.5)),
            _row("TSAM", None, (43.4, 56.8, 50.1), (54.6, 66.4, 60.5), (49.0, 61.6, 55.3)),
            _row("Crab", None, (40.5, 58.0, 49.3), (45.6, 63.0, 54.3), (43.1, 60.5, 46.2)),
            _row("AURORA", "grpo", (63.2, 72.8, 68.0), (69.7, 76.4, 73.0), (66.5, 74.6, 70.1)),
        ),
    ),
    PublishedTable(
        2,
        "SFT with and without chains of thought",
        (
            _row("without the language model", "no-language-model", (39.2, 48.7, 44.0), (34.0, 46.3, 40.2)),
            _row("without chains of thought", "sft-no-cot", (54.1, 64.0, 59.1), (64.2, 71.9, 68.1)),
            _row("chains of thought", "sft", (61.4, 70.6, 66.0), (67.1, 73.4, 70.3)),
        ),
        baseline="sft",
    ),
    PublishedTable(
        3,
        "Distillation from the teacher",
        (
            _row("without distillation", "sft-no-distillation", (60.2, 70.2, 65.2), (65.7, 72.4, 69.1)),
            _row("with distillation", "sft", (61.4, 70.6, 66.0), (67.1, 73.4, 70.3)),
        ),
        baseline="sft",
    ),
    PublishedTable(
        4,
        "Training on corrected mistakes before GRPO",
        (
            _row("SFT+GRPO", "grpo-no-reflective", (62.0, 71.5, 66.8), (69.1, 76.1, 72.6)),
            _row("SFT+CT+GRPO", "grpo-corrected", (62.7, 72.3, 67.5), (67.7, 74.4, 71.1)),
            _row("SFT+CRT+GRPO", "grpo", (63.2, 72.8, 68.0), (69.7, 76.4, 73.0)),
        ),
        baseline="grpo",
    ),
    PublishedTable(
        5,
        "Rewards of GRPO",
        (
            _row("reflective phase alone", "reflective", (61.8, 71.1, 66.5), (67.2, 73.9, 70.6)),
            _row("format + IoU", "grpo-format-iou", (62.4, 72.2, 67.3), (68.3, 75.4, 71.9)),
            _row("format + IoU + class", "grpo", (63.2, 72.8, 68.0), (69.7, 76.4, 73.0)),
        ),
        baseline="grpo",
    ),
    PublishedTable(
        6,
        "Transfer to AVSBench S4",
        (
            PublishedRow("Crab", {S4: (73.3, 86.8)}),
            PublishedRow("AURORA", {S4: (77.3, 86.7)}, "s4"),
        ),
        protocol="avsbench",
    ),
    PublishedTable(
        7,
        "Learnable tokens and the token [SEG]",
        (
            _row("seg+MLLM", "queries-seg-first", (46.5, 55.9, 51.2), (52.3, 59.4, 55.9)),
            _row("MLLM+seg", "queries-seg-last", (15.0, 19.1, 17.1), (33.9, 41.9, 37.9)),
            _row("[SEG]", "sft-no-cot", (54.1, 64.0, 59.1), (64.2, 71.9, 68.1)),
        ),
        baseline="sft-no-cot",
    ),
    PublishedTable(
        8,
        "Fixed and flexible format of the chains of thought",
        (
            _row("fixed", "sft-fixed", (61.0, 70.1, 65.6), (66.4, 72.7, 69.6)),
            _row("flexible", "sft", (61.4, 70.6, 66.0), (67.1, 73.4, 70.3)),
        ),
        baseline="sft",
    ),
)


@dataclass(frozen=True)
class LaterSystem:
    """
    What has been published beside the paper or after it.

    Attributes:
        name (`str`): of the system.
        scores (`str`): what its authors report, in per cent.
        protocol (`str`): by which rules, as far as it is known.
        source (`str`): where it stands.
        checked (`bool`): whether the number was read at that source. What was not is hearsay.
    """

    name: str
    scores: str
    protocol: str
    source: str
    checked: bool = False


_NOT_SAID = "not known"
LATER: tuple[LaterSystem, ...] = (
    LaterSystem(
        "ALS3P",
        "J&F 80.0 seen, 81.7 unseen",
        "its authors' script has SimToken's measures: frame size, J at 0.4, the highest F of a batch",
        "github.com/Fangyulu0207/ALS3P, README",
        checked=True,
    ),
    LaterSystem(
        "SimToken",
        "J&F 76.7 seen, 74.5 unseen; S 0.012",
        "`simtoken`: its authors' script weights by frames, in the frame's size",
        "arXiv 2509.17537",
    ),
    LaterSystem("Omni-R1", "J&F 47.2 seen, 74.2 unseen", _NOT_SAID, "arXiv 2505.20256"),
    LaterSystem("TGS-Agent", "J 73.2 unseen", _NOT_SAID, "arXiv 2508.04418"),
    LaterSystem("MAR3", "J&F 69.2, split not said there", _NOT_SAID, "arXiv 2603.27706, abstract", checked=True),
)

# Section 7.1: failures of the annotated analysis set by kind, as `aurora correct` names them.
FAILURE_COUNTS = {
    "general_knowledge": 428,
    "visual_misidentification": 285,
    "audio_perception": 251,
    "entity_attribute": 103,
    "temporal": 166,
    "contradiction": 148,
    "spatial_referential": 124,
}

# Half a unit of the last digit, as far as the parts were rounded before their mean was taken.
_ROUNDING = 0.051


def mix_of(seen: Scores, unseen: Scores) -> Scores:
    """The mean of seen and unseen, as the caption of Table 1 defines Mix."""
    return tuple((first + second) / 2 for first, second in zip(seen, unseen, strict=True))


def find_misprints() -> list[tuple[PublishedRow, int, float]]:
    """
    The printed numbers of Mix that are not the mean of the printed parts.

    Returns:
        `list[tuple]`: the row, which of J, F and J&F, and what the mean is.
    """
    found = []
    for row in (row for table in TABLES for row in table.rows if row.mix is not None):
        means = mix_of(row.scores[SEEN], row.scores[UNSEEN])
        found += [
            (row, place, mean)
            for place, (mean, printed) in enumerate(zip(means, row.mix or (), strict=True))
            if abs(mean - printed) > _ROUNDING
        ]
    return found
