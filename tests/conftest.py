"""Real files, real classes, small numbers. The world and the checkpoint are made once per run."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ:
    # A core for each of those that test beside each other: a recipe takes as many threads as there are cores that it
    # may use, and threads that share a core wait for each other most of the time.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(os.environ["PYTEST_XDIST_WORKER"][2:]) % len(cores)]})

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from datasets import Dataset

from aurora_trl import AuroraSFTConfig, AuroraSFTTrainer
from aurora_trl.annotation import annotate_rows
from aurora_trl.data import load_refavs
from aurora_trl.data.schema import FEATURES
from aurora_trl.data.synthetic import SyntheticAnnotator, world_corpus, write_world
from aurora_trl.models.modeling_aurora import AuroraModel
from aurora_trl.models.processing_aurora import AuroraProcessor
from aurora_trl.tiny.qwen import create_tiny_qwen_checkpoint
from aurora_trl.tiny.videollama2 import create_tiny_checkpoint
from aurora_trl.tiny.videollama3 import create_tiny_videollama3_checkpoint

if TYPE_CHECKING:
    from launching import ForkedCommands

REPOSITORY = Path(__file__).resolve().parents[1]
# They take longest. Of several workers each takes a file at a time, whose tests share fixtures: what is left for the
# end is short.
FIRST = (
    "test_distributed",
    "test_runner",
    "test_zero3",
    "test_study",
    "test_benchmarks",
    "test_kill",
    "test_object_training",
    "test_stock_options",
    "test_qwen_training",
    "test_blocks",
    "test_from_sam3",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: FIRST.index(item.path.stem) if item.path.stem in FIRST else len(FIRST))


@pytest.fixture(scope="session")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Iterator["ForkedCommands"]:
    """The project's commands and the launchers, in forks of one process: it imports everything once."""
    from launching import forked_commands

    with forked_commands(tmp_path_factory.mktemp("commands")) as commands:
        yield commands


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic world of 16 clips at 48 px."""
    return write_world(tmp_path_factory.mktemp("data") / "world", clips=16, seed=3, image_size=48)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint for frames of 32 px: 4 video places, 30 audio places."""
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    return create_tiny_checkpoint(folder, image_size=32, hidden_size=64, num_layers=2)


@pytest.fixture(scope="session")
def qwen_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[bool | str, Path]:
    """
    Qwen2.5-VL (False: it does not hear), Qwen2.5-Omni (True), Qwen3-VL ("qwen3") and Qwen3-Omni ("omni3"), for frames
    of 32 px.
    """
    folder = tmp_path_factory.mktemp("qwen")
    checkpoints: dict[bool | str, Path] = {
        sound: create_tiny_qwen_checkpoint(folder / ("omni" if sound else "vl"), world_corpus(), sound=sound)
        for sound in (False, True)
    }
    for name, sound in (("qwen3", False), ("omni3", True)):
        checkpoints[name] = create_tiny_qwen_checkpoint(folder / name, world_corpus(), sound=sound, qwen3=True)
    return checkpoints


@pytest.fixture(scope="session")
def videollama3_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VideoLLaMA3, which does not hear, for frames of 32 px: 16 video places."""
    return create_tiny_videollama3_checkpoint(tmp_path_factory.mktemp("videollama3") / "tiny", world_corpus())


@pytest.fixture(scope="session")
def annotator(world: Path) -> SyntheticAnnotator:
    return SyntheticAnnotator(world)


@pytest.fixture(scope="session")
def rows(world: Path) -> Dataset:
    """The training split, without targets."""
    return load_refavs(world, "train")


@pytest.fixture(scope="session")
def cot_rows(rows: Dataset, annotator: SyntheticAnnotator) -> Dataset:
    """The training split with chains of thought."""
    return Dataset.from_list(list(annotate_rows(rows, annotator)), features=FEATURES)


@pytest.fixture
def model(checkpoint: Path) -> AuroraModel:
    return AuroraModel.from_pretrained(checkpoint)


@pytest.fixture(scope="session")
def processor(checkpoint: Path) -> AuroraProcessor:
    return AuroraProcessor.from_pretrained(checkpoint)


@pytest.fixture(scope="session")
def drawing_checkpoint(checkpoint, cot_rows, processor, tmp_path_factory) -> Path:
    """A checkpoint that has learned to write `It is [SEG].`, though not where to draw."""
    folder = tmp_path_factory.mktemp("checkpoints") / "drawing"
    args = AuroraSFTConfig(
        output_dir=str(folder),
        targets="answer",
        per_device_train_batch_size=4,
        max_steps=25,
        learning_rate=1e-2,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
    )
    trainer = AuroraSFTTrainer(
        AuroraModel.from_pretrained(checkpoint), args, train_dataset=cot_rows, processing_class=processor
    )
    trainer.train()
    trainer.save_model()
    return folder
