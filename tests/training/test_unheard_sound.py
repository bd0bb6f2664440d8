"""What a trainer says of clips of which the model takes less than there is."""

import logging

import pytest
from datasets import Dataset

from aurora_trl import AuroraProcessor
from aurora_trl.training.short_clips import warn_of_unheard_sound


@pytest.mark.parametrize(("hears", "count"), [(False, 2), (False, 0), (True, 2)])
def test_sound_that_nobody_hears_is_one_line(hears, count, processor, videollama3_checkpoint, caplog):
    if not hears:
        processor = AuroraProcessor.from_pretrained(videollama3_checkpoint)
    rows = Dataset.from_dict({"audio": ["a.wav"] * count + [None]})
    with caplog.at_level(logging.WARNING):
        warn_of_unheard_sound(rows, processor.policy_processor)
    said = [record.getMessage() for record in caplog.records]
    if hears or not count:
        assert not said
    else:
        (line,) = said
        assert line.endswith("VideoLlama3Policy does not hear: the sound of 2 of 3 rows is not read")
