"""What the benchmarks run on: the published classes at the paper's shapes, in proportions like the full model's.

The prompt is the published one: 10 frames of 384 px are 845 places, 10 s of sound padded to 30 s are 1,496. The parts
are narrow enough for a CPU; towers, connector and mask encoder cost about the same share of the language model as in
VideoLLaMA2.1-7B-AV with SAM ViT-H at 224 px. Attention weighs more than there: width shrinks and length does not.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import Qwen2Config, SiglipVisionConfig

from aurora_trl import AuroraConfig, AuroraModel, AuroraProcessor
from aurora_trl.annotation import annotate_rows
from aurora_trl.data import load_refavs
from aurora_trl.data.schema import FEATURES
from aurora_trl.data.synthetic import SyntheticAnnotator, world_corpus, write_world
from aurora_trl.models.configuration_aurora import SamConfig
from aurora_trl.models.policies.videollama2 import BeatsConfig, VideoLlama2Config, VideoLlama2Processor
from aurora_trl.tiny.videollama2 import tiny_tokenizer


@dataclass(frozen=True)
class Ratio:
    """
    Two ways to do the same work, timed in turn.

    Attributes:
        name (`str`): what was compared.
        before, after (`list[float]`): seconds of each repetition.
        bound (`float` or `None`): what the ratio of the medians should not exceed.
    """

    name: str
    before: list[float]
    after: list[float]
    bound: float | None = None

    @property
    def value(self) -> float:
        return statistics.median(self.after) / statistics.median(self.before)

    @property
    def spread(self) -> tuple[float, float]:
        """The lowest and the highest ratio of neighbouring repetitions."""
        ratios = [after / before for before, after in zip(self.before, self.after, strict=True)]
        return min(ratios), max(ratios)


def compare(
    name: str,
    before: Callable[[], object],
    after: Callable[[], object],
    *,
    repeats: int = 3,
    bound: float | None = None,
    warm_up: bool = True,
) -> Ratio:
    """Time both in turn, so that a busy machine slows both."""
    times: tuple[list[float], list[float]] = ([], [])
    if warm_up:
        before(), after()
    for _ in range(repeats):
        for function, record in zip((before, after), times, strict=True):
            started = time.perf_counter()
            function()
            record.append(time.perf_counter() - started)
    ratio = Ratio(name, *times, bound)
    low, high = ratio.spread
    print(f"{name}: {ratio.value:.3f} ({low:.3f} to {high:.3f})", flush=True)
    return ratio


def bench_processor() -> AuroraProcessor:
    """The published processor's geometry, with a small vocabulary."""
    return AuroraProcessor(
        VideoLlama2Processor(tiny_tokenizer(world_corpus())), mask_image_size=224, mask_target_size=224, num_frames=10
    )


def bench_model(processor: AuroraProcessor) -> AuroraModel:
    """The published classes with narrow parts."""
    tokenizer = processor.tokenizer
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    policy_config = VideoLlama2Config(
        vision_config=SiglipVisionConfig(
            hidden_size=160,
            intermediate_size=640,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=384,
            patch_size=14,
            vision_use_head=False,
        ),
        audio_config=BeatsConfig(
            embed_dim=64, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128
        ),
        text_config=Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=512,
            intermediate_size=2048,
            num_hidden_layers=6,
            num_attention_heads=8,
            num_key_value_heads=2,
            max_position_embeddings=8192,
            tie_word_embeddings=False,
            **ids,
        ),
        connector_depth=1,
        video_token_id=processor.policy_processor.video_token_id,
        audio_token_id=processor.policy_processor.audio_token_id,
        **ids,
    )
    mask_decoder_config = SamConfig(
        image_size=224,
        encoder_embed_dim=256,
        encoder_depth=3,
        encoder_num_heads=4,
        encoder_global_attn_indexes=[2],
        prompt_embed_dim=64,
        decoder_num_heads=4,
        decoder_mlp_dim=256,
    )
    torch.manual_seed(0)
    return AuroraModel(AuroraConfig(policy_config, mask_decoder_config, seg_token_id=processor.seg_token_id))


def bench_rows(folder: Path, clips: int = 12) -> Dataset:
    """References with chains of thought about clips of 10 frames and 10 s."""
    world = write_world(folder / "world", clips=clips, seed=1, image_size=384)
    rows = load_refavs(world, "train")
    return Dataset.from_list(list(annotate_rows(rows, SyntheticAnnotator(world))), features=FEATURES)


def one_row_per_clip(rows: Dataset) -> Dataset:
    """Of rows in the order of their clips: no two steps share one, whose media would be cached on the device."""
    return rows.select([i for i, row in enumerate(rows) if i == 0 or row["frames"] != rows[i - 1]["frames"]])


def step_of(trainer: Any) -> Callable[[], object]:
    """One optimizer step of a trainer after another, as its own loop makes them."""
    trainer.create_optimizer()
    trainer.model_wrapped = trainer.model
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()

    def endless() -> Iterator[Any]:
        while True:
            yield from trainer.get_train_dataloader()

    batches = endless()

    def step() -> object:
        loss = trainer.training_step(trainer.model, next(batches), None)
        trainer.optimizer.step()
        trainer.model.zero_grad()
        trainer.state.global_step += 1
        return loss

    return step
