"""Fine-tune audio-visual language models to reason about a clip and to segment what they reasoned about."""

import importlib
from typing import TYPE_CHECKING, Any

from .version import __version__ as __version__

# Loaded when first asked for: `aurora --help` and the data modules need neither TRL nor a model.
_LAZY = {
    "AuroraConfig": "models",
    "AuroraModel": "models",
    "AuroraProcessor": "models",
    "AuroraSFTConfig": "training.sft_config",
    "AuroraSFTTrainer": "training.sft_trainer",
    "AuroraGRPOConfig": "training.grpo_config",
    "AuroraGRPOTrainer": "training.grpo_trainer",
    "AuroraPipeline": "generation.pipeline",
}

if TYPE_CHECKING:
    from .generation.pipeline import AuroraPipeline
    from .models import AuroraConfig, AuroraModel, AuroraProcessor
    from .training.grpo_config import AuroraGRPOConfig
    from .training.grpo_trainer import AuroraGRPOTrainer
    from .training.sft_config import AuroraSFTConfig
    from .training.sft_trainer import AuroraSFTTrainer

__all__ = [
    "AuroraConfig",
    "AuroraGRPOConfig",
    "AuroraGRPOTrainer",
    "AuroraModel",
    "AuroraPipeline",
    "AuroraProcessor",
    "AuroraSFTConfig",
    "AuroraSFTTrainer",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Whoever takes a trainer also wants the Auto classes to know the models.
    importlib.import_module(".models", __name__)
    return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
