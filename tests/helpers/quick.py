"""Settings of a trainer that takes a few steps on a CPU and keeps nothing."""

from typing import Any

QUICK: dict[str, Any] = {
    "learning_rate": 1e-2,
    "logging_steps": 1,
    "report_to": "none",
    "save_strategy": "no",
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "seed": 5,
}
