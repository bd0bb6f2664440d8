"""What the speed-ups are worth, as ratios taken in one run: `make bench`.

Each pair does the same work twice, the plain way and ours, in turn, and prints the ratio of the medians.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from datasets import Dataset

from aurora_trl import AuroraModel
from aurora_trl.annotation import annotate_rows
from aurora_trl.data import load_refavs
from aurora_trl.data.collator import ClipLoader, SFTCollator
from aurora_trl.data.schema import FEATURES
from aurora_trl.data.synthetic import SyntheticAnnotator, world_corpus, write_world
from aurora_trl.evaluation.metrics import f_score
from aurora_trl.models.tiny import tiny_config, tiny_processor


def compare(name: str, plain: Callable[[], object], ours: Callable[[], object], repeats: int = 5) -> None:
    """Time both in turn, so that a busy machine slows both."""
    times: tuple[list[float], list[float]] = ([], [])
    plain(), ours()
    for _ in range(repeats):
        for function, record in zip((plain, ours), times, strict=True):
            started = time.perf_counter()
            function()
            record.append(time.perf_counter() - started)
    before, after = (statistics.median(record) for record in times)
    print(f"{name}: {after / before:.2f} of the time ({before * 1000:.0f} -> {after * 1000:.0f} ms)", flush=True)


def naive_f(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """F by comparing all pixels with every threshold."""
    probabilities = torch.sigmoid(logits)
    curves = []
    for threshold in torch.linspace(0, 1 - 1e-10, 255):
        positive = (probabilities >= threshold).float()
        true_positive = (positive * masks).sum((1, 2))
        precision = true_positive / (positive.sum((1, 2)) + 1e-20)
        recall = true_positive / (masks.sum((1, 2)) + 1e-20)
        curves.append(1.3 * precision * recall / (0.3 * precision + recall))
    return torch.nan_to_num(torch.stack(curves), nan=0.0).mean(1).max()


def main() -> None:
    """Run all pairs."""
    torch.manual_seed(0)
    processor = tiny_processor(world_corpus())
    model = AuroraModel(tiny_config(processor)).train()
    with tempfile.TemporaryDirectory() as folder:
        world = write_world(Path(folder) / "world", clips=24, seed=1)
        rows = load_refavs(world, "train")
        rows = Dataset.from_list(list(annotate_rows(rows, SyntheticAnnotator(world))), features=FEATURES)
        batch = SFTCollator(ClipLoader(processor))(rows.to_list()[:32])
    batch.pop("masks")
    clips = len(batch["pixel_values_videos"])
    repeated = {name: value for name, value in batch.items() if name != "clip_index"}
    for name in ("pixel_values_videos", "audio_values", "mask_frames"):
        repeated[name] = batch[name][batch["clip_index"]]

    def step(inputs: dict[str, torch.Tensor]) -> None:
        output = model(**inputs)
        (output.loss + output["mask_logits"].mean()).backward()

    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    compare(f"media once, 32 references about {clips} clips", lambda: step(repeated), lambda: step(batch))

    decoder = model.mask_decoder
    prompts = torch.randn(32, 1, decoder.prompt_dim)
    with torch.no_grad():
        embeddings = decoder.encode(torch.randn(32, 3, processor.mask_image_size, processor.mask_image_size))
        compare(
            "one decode, 32 masks",
            lambda: [decoder.decode(embeddings[i : i + 1], prompts[i : i + 1]) for i in range(32)],
            lambda: decoder.decode(embeddings, prompts),
        )
    logits, masks = 3 * torch.randn(40, 256, 256), (torch.rand(40, 256, 256) > 0.8).float()
    compare("official F, one batch", lambda: naive_f(logits, masks), lambda: f_score(logits, masks), repeats=3)


if __name__ == "__main__":
    sys.exit(main())
