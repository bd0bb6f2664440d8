"""The tiny recipe with smaller numbers."""

import yaml
from conftest import REPOSITORY

SMALL_STEPS = {"pretrain": 26, "teacher": 4, "sft": 6, "reflective": 2, "grpo": 2}
# Enough to write `It is [SEG].` and end: an answer that is cut at the limit is not mined.
_ANSWER = {"targets": "answer", "learning_rate": 1e-2}
SMALL_SETTINGS = {"pretrain": _ANSWER, "sft": _ANSWER, "grpo": {"max_completion_length": 12}}
SMALL_FLAGS = {"--clips": "20", "--max-rows": "8", "--max-new-tokens": "16", "--batch-size": "8"}


def write_small_recipe(folder):
    """The tiny recipe with smaller numbers: the same steps, commands and YAMLs. Returns the chain."""
    source = REPOSITORY / "recipes" / "tiny"
    for name, steps in SMALL_STEPS.items():
        content = yaml.safe_load((source / f"{name}.yaml").read_text())
        content.update(max_steps=steps, save_steps=2, per_device_train_batch_size=4, logging_steps=1, warmup_steps=0)
        content.update(SMALL_SETTINGS.get(name, {}))
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    chain = yaml.safe_load((source / "pipeline.yaml").read_text())
    for step in chain["steps"]:
        if "run" in step:
            words = step["run"].split()
            for flag, value in SMALL_FLAGS.items():
                if flag in words:
                    words[words.index(flag) + 1] = value
            if words[1] == "evaluate":
                words += ["--max-rows", "6"]
            if words[1] == "tiny-model":
                words += ["--tower-steps", "2"]
            step["run"] = " ".join(words)
    return chain
