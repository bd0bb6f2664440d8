"""A recipe that is started without arguments: the tiny chain makes what the phase needs."""

import os
import subprocess
import sys
from pathlib import Path

from ..training.arguments import fail
from .definition import load_pipeline
from .recipe_files import recipes_folder


def tiny_phase_arguments(step: str) -> list[str]:
    """
    The arguments of a step of the tiny recipe, after making what that step needs and does not find.

    Args:
        step (`str`): name of a training step in `recipes/tiny/pipeline.yaml`.

    Returns:
        `list[str]`: what follows `recipes/X.py` on the command line.
    """
    folders = (Path(sys.argv[0]).parent, recipes_folder())  # those that the script stands among, in the first place
    files = [folder / "tiny" / "pipeline.yaml" for folder in folders]
    pipeline_file = next((file for file in files if file.is_file()), files[-1])
    # Every process of a distributed launch comes here; one makes what is missing, the launcher's others wait for none.
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        fail(f"without --config this recipe runs on one process; run `aurora run {pipeline_file}` first")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("ACCELERATE_", "MASTER_", "LOCAL_"))}
    command = [sys.executable, "-m", "aurora_trl.cli", "run", str(pipeline_file), "--before", step]
    if subprocess.run(command, env=environment).returncode != 0:
        fail(f"{pipeline_file}: what {step} needs could not be made, see above")
    return load_pipeline(pipeline_file).train_arguments(step)
