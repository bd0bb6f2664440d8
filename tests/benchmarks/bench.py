"""What the speed-ups are worth, as ratios taken in one run: `make bench`.

    python tests/benchmarks/bench.py [--only grpo costs sft decode parts checks memory growth] [--repeats 3]

Each pair does the same work twice, the plain way and ours, in turn; a ratio is that of the medians. The table at the
end goes into `docs/speed.md`, and the seconds beside it into a JSON file.
"""

import argparse
import datetime
import json
import os
import platform
import sys
import tempfile
from pathlib import Path

import checks
import costs
import decode
import grpo
import scale
import sft
import single_parts
import torch
from setting import Ratio, bench_rows

SUITES = {
    "grpo": grpo.run,
    "costs": costs.run,
    "sft": sft.run,
    "decode": decode.run,
    "parts": single_parts.run,
    "checks": checks.run,
    "memory": scale.run,
}


def machine() -> str:
    """What the figures were taken on."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        models = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}, {datetime.date.today().isoformat()}"


def table(ratios: list[Ratio]) -> str:
    """Markdown."""
    lines = ["| compared | ratio | spread | at most |", "| --- | ---: | ---: | ---: |"]
    for ratio in ratios:
        low, high = ratio.spread
        bound = "" if ratio.bound is None else f"{ratio.bound:.2f}"
        lines.append(f"| {ratio.name} | {ratio.value:.3f} | {low:.3f} to {high:.3f} | {bound} |")
    return "\n".join(lines)


def main() -> None:
    """Run the suites and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*SUITES, "growth"], default=[*SUITES, "growth"])
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each (default: 3)")
    parser.add_argument("--output", type=Path, default=Path("outputs/bench.json"))
    arguments = parser.parse_args()
    given = os.environ.get("OMP_NUM_THREADS")
    torch.set_num_threads(int(given) if given else len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    ratios: list[Ratio] = []
    with tempfile.TemporaryDirectory() as folder:
        rows = bench_rows(Path(folder))
        for name in SUITES:
            if name in arguments.only:
                ratios += SUITES[name](rows, repeats=arguments.repeats)
    growth = scale.growth() if "growth" in arguments.only else []
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    results = [{**vars(ratio), "ratio": ratio.value, "spread": ratio.spread} for ratio in ratios]
    arguments.output.write_text(
        json.dumps({"machine": machine(), "results": results, "growth": growth}, indent=2) + "\n"
    )
    print(f"\n{machine()}\n\n{table(ratios)}\n\n{arguments.output}")


if __name__ == "__main__":
    sys.exit(main())
