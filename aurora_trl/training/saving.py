"""What both trainers add to a checkpoint's folder."""

import shutil
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import Trainer
from transformers.utils import CONFIG_NAME

from ..models.checkpoints.adapters import (
    ADAPTER_FILES,
    AdapterRecord,
    describe_base,
    gather_replaced_weights,
    save_adapter,
)
from ..models.checkpoints.hub import CARD_FILE, check_base_is_public, is_foreign_card, write_model_card
from .lora import unwrap_aurora
from .precision import as_stored, keep_master_weights


class AuroraCheckpoints(Trainer):
    """Stands before TRL's class among a trainer's bases: an adapter's folder says what base it belongs to."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._stored_dtypes = keep_master_weights(self.model, bf16=self.args.bf16, deepspeed=self.is_deepspeed_enabled)
        self._adapter_record: AdapterRecord | None = None
        if isinstance(self.model, PeftModel):
            # Now, not at the first save: a base that can not be found again is known before training.
            self._adapter_record = describe_base(str(unwrap_aurora(self.model).name_or_path))
            if self.args.push_to_hub:
                check_base_is_public(
                    f"{self.args.output_dir}: `push_to_hub`", self._adapter_record.base_model_name_or_path
                )

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        """PEFT saves the adapter; the rest of what makes the folder loadable comes here."""
        is_model = output_dir is None or Path(output_dir) == Path(str(self.args.output_dir))
        if is_model and self._stored_dtypes and not isinstance(self.model, PeftModel):
            # The phase's result; a checkpoint to resume from keeps the master weights.
            weights = self.accelerator.unwrap_model(self.model).state_dict() if state_dict is None else state_dict
            state_dict = as_stored(weights, self._stored_dtypes)
        super()._save(output_dir, state_dict)
        if self._adapter_record is None:
            return
        replaced = gather_replaced_weights(self.model, keep=self.args.should_save)  # every process helps
        if self.args.should_save:
            save_adapter(self.model, output_dir or self.args.output_dir, self._adapter_record, replaced)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """What is pushed during training is `output_dir`: the Trainer copies its own files there, here are ours."""
        if not self.is_world_process_zero():
            return
        for name in (CONFIG_NAME, *ADAPTER_FILES):
            file = Path(checkpoint_folder, name)
            if file.is_file():
                shutil.copy(file, Path(self.args.output_dir, name))
        self.create_model_card()
        super()._push_from_checkpoint(checkpoint_folder)

    def create_model_card(
        self, model_name: str | None = None, dataset_name: str | None = None, tags: str | list[str] | None = None
    ) -> None:
        """Ours in place of TRL's: it says what a segmentation model's users ask. The folder says the rest."""
        folder = Path(self.args.output_dir)
        if not self.is_world_process_zero() or not (folder / "config.json").is_file():
            return  # TRL asks for a card before the first checkpoint is written
        card = folder / CARD_FILE
        if not card.is_file() or not is_foreign_card(card):
            write_model_card(folder, repo_id=getattr(self, "hub_model_id", None), method=self._name)
