"""What both trainers add to a checkpoint's folder."""

from typing import Any

import torch
from peft import PeftModel
from transformers import Trainer

from ..models.adapters import AdapterRecord, describe_base, save_adapter
from .mask_training import unwrap_aurora


class AuroraCheckpoints(Trainer):
    """Stands before TRL's class among a trainer's bases: an adapter's folder says what base it belongs to."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._adapter_record: AdapterRecord | None = None
        if isinstance(self.model, PeftModel):
            # Now, not at the first save: a base that can not be found again is known before training.
            self._adapter_record = describe_base(str(unwrap_aurora(self.model).name_or_path))

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        """PEFT saves the adapter; the rest of what makes the folder loadable comes here."""
        super()._save(output_dir, state_dict)
        if self._adapter_record is not None and self.args.should_save:
            save_adapter(self.model, output_dir or self.args.output_dir, self._adapter_record, state_dict)
