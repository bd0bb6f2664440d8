"""Why a launch with FSDP is refused (see `test_options.py`): the whole forward runs, and no part of it by itself."""

import json
from pathlib import Path

import pytest

from aurora_trl.data import save_json


@pytest.mark.slow
@pytest.mark.distributed
def test_a_whole_forward_is_ddp_and_a_part_is_an_error(forked, checkpoint, cot_rows, tmp_path):
    script = str(Path(__file__).with_name("fsdp_step.py"))
    rows = save_json(cot_rows.select(range(4)), tmp_path / "rows.jsonl")
    command = forked.script(script, checkpoint, rows, tmp_path / "found.json")
    result = forked.run(forked.two(command))
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["losses"][0] == pytest.approx(found["losses"][1], abs=1e-5)
    assert len(found["distances"]) > 20
    assert max(found["distances"]) < 1e-5
    # The day that one of them runs, the refusal may go.
    assert set(found["errors"]) == {"encode_masks", "decode_masks", "generate", "head"}
    assert all("got mixed torch.Tensor and DTensor" in error for error in found["errors"].values())
