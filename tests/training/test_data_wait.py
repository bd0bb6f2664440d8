"""A run that is bound by reading says so."""

import logging
import re
import time

import pytest
from grpo_helpers import build

from aurora_trl import AuroraModel, AuroraSFTConfig, AuroraSFTTrainer
from aurora_trl.training import data_wait


def slowly(collate, seconds):
    def collator(rows):
        time.sleep(seconds)
        return collate(rows)

    return collator


def shares(trainer):
    return [entry["data_wait"] for entry in trainer.state.log_history if "data_wait" in entry]


@pytest.mark.parametrize("phase", ["sft", "grpo"])
def test_waiting_is_measured_and_said(phase, checkpoint, cot_rows, processor, tmp_path, caplog, monkeypatch):
    model = AuroraModel.from_pretrained(checkpoint)
    if phase == "grpo":
        trainer = build(model, cot_rows, processor, tmp_path, max_steps=2)
    else:
        args = AuroraSFTConfig(
            output_dir=str(tmp_path),
            max_steps=2,
            logging_steps=1,
            per_device_train_batch_size=2,
            report_to="none",
            save_strategy="no",
            use_cpu=True,
            bf16=False,
        )
        trainer = AuroraSFTTrainer(model, args, train_dataset=cot_rows, processing_class=processor)
    trainer.data_collator = slowly(trainer.data_collator, 0.3)
    # What is much depends on the machine, what was slept does not.
    monkeypatch.setattr(data_wait, "MUCH", 0.0)
    monkeypatch.setattr(data_wait, "MANY_SECONDS", 0.3)
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert len(shares(trainer)) == 2
    assert all(0 < share <= 1 for share in shares(trainer))
    assert len(re.findall(r"step 1: training has waited for data for \d+ s", caplog.text)) == 1
    assert caplog.text.count("has waited for data") == 1  # and not at every step
    assert "`dataloader_num_workers` is 0" in caplog.text


def test_a_run_that_does_not_wait_says_nothing(checkpoint, cot_rows, processor, tmp_path, caplog):
    trainer = build(AuroraModel.from_pretrained(checkpoint), cot_rows, processor, tmp_path, max_steps=1)
    trainer.get_batch_samples(iter([[]]), 1, trainer.args.device)
    trainer._first_batch = trainer._last_log = time.perf_counter() - 1e6  # on any machine reading is nothing to it
    trainer.log({"loss": 1.0})
    assert shares(trainer)[0] < 0.01
    assert "waited for data" not in caplog.text


@pytest.mark.parametrize(("waited", "is_much"), [(150.0, False), (300.0, True)])
def test_a_fifth_of_the_time_is_much(waited, is_much, checkpoint, cot_rows, processor, tmp_path, caplog):
    """Of a thousand seconds, beside which the test's own are nothing."""
    trainer = build(AuroraModel.from_pretrained(checkpoint), cot_rows, processor, tmp_path, max_steps=1)
    trainer._waited_seconds = waited
    trainer._first_batch = trainer._last_log = time.perf_counter() - 1000
    with caplog.at_level(logging.WARNING):
        trainer.log({"loss": 1.0})
    assert ("waited for data for 300 s, 30% of its time" in caplog.text) == is_much
