"""Steps at full size on one GPU, with random weights: `make bench-gpu`.

    python tests/benchmarks/bench_gpu.py [--groups 3 8 16] [--steps 3] [--tiny] [--output FILE.json]

VideoLLaMA2.1-7B-AV with SAM ViT-H at 224 px in bfloat16, LoRA as in the authors' recipe, 10 frames and 10 s of sound
padded to 30 s. Per phase: seconds per step and the share of its parts, language-model tokens per second, peak memory,
and model FLOP utilisation against the rate that a large matrix product reaches on the card at hand. TRL's own trainer
runs the same shapes beside ours. `--tiny` runs the script itself, on a CPU.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpo
import sft
import torch
from datasets import Dataset
from setting import bench_model, bench_processor, bench_rows, step_of

from aurora_trl import AuroraGRPOConfig, AuroraGRPOTrainer, AuroraModel, AuroraSFTConfig, AuroraSFTTrainer
from aurora_trl.chain.published_sizes import published_config
from aurora_trl.training.arguments import LoraArguments
from aurora_trl.training.lora import lora_config

TIMED = {
    "generation": (AuroraGRPOTrainer, "_generate_single_turn"),
    "media": (AuroraGRPOTrainer, "_build_bank"),
    "rewards": (AuroraGRPOTrainer, "_calculate_rewards"),
    "forward": (AuroraGRPOTrainer, "_get_per_token_logps_and_entropies"),
}


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def build_model(tiny: bool) -> AuroraModel:
    """Random weights; the vocabulary stays the published one, of which the tokenizer knows the first part."""
    processor = bench_processor()
    if tiny:
        return bench_model(processor)
    config = published_config("VideoLLaMA2.1-7B-AV", "sam_vit_h_4b8939.pth", 224)
    assert config is not None
    policy, tokenizer = config.policy_config, processor.tokenizer
    policy.video_token_id = processor.policy_processor.video_token_id
    policy.audio_token_id = processor.policy_processor.audio_token_id
    for part in (policy, policy.text_config):
        part.eos_token_id, part.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    config.seg_token_id = processor.seg_token_id
    with torch.device("cuda"):
        return AuroraModel._from_config(config, dtype=torch.bfloat16)


def matmul_rate(size: int) -> float:
    """FLOP per second of a square matrix product."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16 if device == "cuda" else torch.float32)
    a @ a
    synchronize()
    started = time.perf_counter()
    for _ in range(10):
        a @ a
    synchronize()
    return 10 * 2 * size**3 / (time.perf_counter() - started)


def record_parts(seconds: dict[str, float]) -> Callable[[], None]:
    """Time the trainer's parts until the returned function is called."""
    originals = {name: getattr(owner, method) for name, (owner, method) in TIMED.items()}

    def timed(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            synchronize()
            started = time.perf_counter()
            result = method(*args, **kwargs)
            synchronize()
            seconds[name] += time.perf_counter() - started
            return result

        return wrapper

    for name, (owner, method) in TIMED.items():
        setattr(owner, method, timed(name, originals[name]))

    def restore() -> None:
        for name, (owner, method) in TIMED.items():
            setattr(owner, method, originals[name])

    return restore


def measure(name: str, model: Any, step: Callable[[], object], steps: int, tokens: int, rate: float) -> dict[str, Any]:
    """Run steps after one to warm up; `tokens` are the language model's per step, forward and backward."""
    step()
    parts: dict[str, float] = defaultdict(float)
    restore = record_parts(parts)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(steps):
        synchronize()
        started = time.perf_counter()
        step()
        synchronize()
        times.append(time.perf_counter() - started)
    restore()
    seconds = statistics.median(times)
    language = getattr(model, "policy", model)
    weights = sum(p.numel() for p in language.model.language_model.parameters())
    peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None
    result = {
        "step": name,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        # Forward, and backward through frozen weights: 4 FLOP per weight and token.
        "mfu": 4 * weights * tokens / seconds / rate,
        "peak_gib": peak,
        "parts": {part: value / steps / seconds for part, value in parts.items()},
    }
    print(json.dumps(result), flush=True)
    return result


def run(rows: Dataset, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """All steps, one model after the other."""
    rate = matmul_rate(256 if arguments.tiny else 8192)
    new_tokens = 4 if arguments.tiny else 150
    results = []
    precision = {"bf16": torch.cuda.is_available()}
    with tempfile.TemporaryDirectory() as folder:
        model = build_model(arguments.tiny)
        base = Path(folder, "base")
        model.save_pretrained(base)  # an adapter is trained on a base that can be found again
        model.name_or_path = str(base)
        processor = bench_processor()
        prompt = 2380
        args = AuroraSFTConfig(output_dir=folder, **{**sft.settings(1), **precision})
        adapter = lora_config(model, LoraArguments(use_lora=True), args.trainable_groups())
        trainer = AuroraSFTTrainer(model, args, train_dataset=rows, processing_class=processor, peft_config=adapter)
        results.append(measure("SFT", model, step_of(trainer), arguments.steps, prompt + 60, rate))
        del trainer, model
        for group in arguments.groups:
            settings = {**grpo.settings(group, new_tokens), **precision}
            model = build_model(arguments.tiny)
            model.name_or_path = str(base)
            config = AuroraGRPOConfig(output_dir=folder, media_cache_clips=100, **settings)
            adapter = lora_config(model, LoraArguments(use_lora=True), config.trainable_groups())
            ours = AuroraGRPOTrainer(
                model, [grpo.letter_reward], config, rows, processing_class=processor, peft_config=adapter
            )
            tokens = prompt + group * new_tokens
            results.append(measure(f"GRPO, G = {group}", model, step_of(ours), arguments.steps, tokens, rate))
            del ours, model
        group = arguments.groups[0]
        policy = build_model(arguments.tiny).policy
        stock = grpo.stock_trainer(rows, Path(folder), group, new_tokens, policy=policy, **precision)
        tokens = group * (prompt + new_tokens)
        results.append(measure(f"stock TRL, G = {group}", policy, step_of(stock), arguments.steps, tokens, rate))
    return results


def main() -> None:
    """Measure, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, nargs="+", default=[3, 8, 16], help="values of G (default: 3 8 16)")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each (default: 3)")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to try the script")
    parser.add_argument("--output", type=Path, default=Path("outputs/bench_gpu.json"))
    arguments = parser.parse_args()
    if not arguments.tiny and not torch.cuda.is_available():
        parser.error("needs a GPU; `--tiny` tries the script without one")
    with tempfile.TemporaryDirectory() as folder:
        results = run(bench_rows(Path(folder), clips=6 if arguments.tiny else 12), arguments)
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps({"device": name, "results": results}, indent=2) + "\n")
    print(arguments.output)


if __name__ == "__main__":
    sys.exit(main())
