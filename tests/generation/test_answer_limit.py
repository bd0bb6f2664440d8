"""How long an answer may be: what the model was taught, in one place; and what is cut is said."""

import json
import logging

import pytest
import torch
import yaml
from conftest import REPOSITORY
from grpo_helpers import build as build_grpo
from sft_helpers import build as build_sft

from aurora_trl import AuroraModel, AuroraProcessor
from aurora_trl.annotation import mine_file, mine_rows
from aurora_trl.chain.definition import load_pipeline
from aurora_trl.chain.dry_run import check_pipeline
from aurora_trl.cli import build_parser
from aurora_trl.data import save_json
from aurora_trl.evaluation.evaluate import evaluate_model
from aurora_trl.generation.answers import answer_rows, check_generate_kwargs, warn_of_cut_answers


def longest(rows, processor):
    return max(len(processor.completion_ids(row["target"])) for row in rows)


def test_a_phase_keeps_the_length_of_its_answers(checkpoint, cot_rows, processor, tmp_path):
    trainer = build_sft(AuroraModel.from_pretrained(checkpoint), cot_rows, processor, tmp_path, max_steps=1)
    trainer.save_model()
    kept = AuroraProcessor.from_pretrained(tmp_path)
    assert kept.max_answer_tokens == longest(cot_rows, processor)
    assert kept.answer_limit() == -(-kept.max_answer_tokens * 5 // 4)
    assert kept.answer_limit(7) == 7
    assert processor.max_answer_tokens is None  # the caller's own stays as it is
    with pytest.raises(ValueError, match="at least 1 token, got 0"):
        kept.answer_limit(0)


def test_rollouts_follow_the_checkpoint(checkpoint, cot_rows, processor, tmp_path, caplog):
    taught = processor.with_answer_tokens(12)
    for given, limit in ((None, 15), (20, 20), (8, 8)):
        model = AuroraModel.from_pretrained(checkpoint)
        with caplog.at_level(logging.WARNING):
            caplog.clear()
            trainer = build_grpo(model, cot_rows, taught, tmp_path, max_completion_length=given)
        assert trainer.generation_config.max_new_tokens == limit
        assert trainer.processing_class.max_answer_tokens == 12
        warned = [r.getMessage() for r in caplog.records if "`max_completion_length` is 8" in r.getMessage()]
        assert bool(warned) == (given == 8)


def test_cut_answers_are_counted(model, processor, rows, tmp_path, caplog):
    """A model that was taught nothing never ends: all its answers are cut, and say so."""
    some = rows.to_list()[:4]
    with caplog.at_level(logging.WARNING):
        metrics = evaluate_model(model, processor, {"train": some}, tmp_path, max_new_tokens=3)
    assert metrics["splits"]["train"]["cut_share"] == 1.0
    assert metrics["max_new_tokens"] == 3
    assert all(json.loads(line)["cut"] for line in (tmp_path / "answers.jsonl").read_text().splitlines())
    assert "4 of 4 answers (100%) were cut at the limit, and scored as they stood" in caplog.text


def test_more_than_three_in_a_hundred_are_said(caplog):
    assert warn_of_cut_answers([True] * 3 + [False] * 97) == 0.03
    assert caplog.text == ""
    assert warn_of_cut_answers([True] * 4 + [False] * 96) == 0.04
    assert "4 of 100 answers (4%) were cut at the limit; raise it" in caplog.text


def test_whole_answers_are_not_cut(drawing_checkpoint, rows):
    model, processor = (
        AuroraModel.from_pretrained(drawing_checkpoint),
        AuroraProcessor.from_pretrained(drawing_checkpoint),
    )
    answers = list(answer_rows(model, processor, rows.to_list()[:4]))
    assert not any(answer.cut for answer in answers)
    assert all(answer.completion.endswith("[SEG].") for answer in answers)
    # Its limit is that of "It is [SEG].", and not of what another model may write.
    assert max(answer.num_tokens for answer in answers) <= processor.answer_limit() < 10


def test_a_cut_answer_is_not_mined(model, processor, rows, tmp_path, caplog):
    some = [row for row in rows.to_list() if not row["is_null"]][:4]
    assert all(answer.cut and not answer.is_hard() for answer in mine_rows(model, processor, some, max_new_tokens=2))
    with caplog.at_level(logging.WARNING):
        hard = mine_file(model, processor, some, tmp_path / "hard.jsonl", checkpoint="x", max_new_tokens=2)
    assert hard == 0
    assert "4 of 4 answers (100%) were cut at the limit; they are left out of mining" in caplog.text


@pytest.fixture
def chain(checkpoint, cot_rows, world, tmp_path):
    """SFT on rows that are there, an evaluation and GRPO after it."""

    def write(limit=None, flag=""):
        save_json(cot_rows, tmp_path / "cot.jsonl")
        out = tmp_path / "out"
        common = {"report_to": "none", "max_steps": 2, "bf16": False, "use_cpu": True}
        sft = {"model_name_or_path": str(checkpoint), "dataset_path": str(tmp_path / "cot.jsonl"), **common}
        grpo = {"model_name_or_path": str(out / "sft"), "dataset_path": str(world), **common}
        if limit is not None:
            grpo["max_completion_length"] = limit
        for name, content in (("sft", sft), ("grpo", grpo)):
            (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({**content, "output_dir": str(out / name)}))
        steps = [
            {
                "name": name,
                "train": str(REPOSITORY / "recipes" / f"{name}.py"),
                "config": f"{name}.yaml",
                "makes": name,
            }
            for name in ("sft", "grpo")
        ]
        steps[1]["needs"] = ["sft"]
        command = f"aurora evaluate {{output_dir}}/sft --data {world} --output {{output_dir}}/eval {flag}"
        steps.append({"name": "eval", "run": command, "makes": "eval", "needs": ["sft"]})
        file = tmp_path / "chain.yaml"
        file.write_text(yaml.safe_dump({"output_dir": str(out), "steps": steps}))
        return check_pipeline(load_pipeline(file), build_parser())

    return write


def test_the_dry_run_compares_limits_with_targets(chain, cot_rows, processor):
    learnt = longest(cot_rows, processor)
    assert not [problem for plan in chain() for problem in plan.problems]
    assert f"up to {-(-learnt * 5 // 4)} of the answer" in "\n".join(chain()[1].lines)
    _, grpo, evaluation = chain(limit=learnt - 1, flag=f"--max-new-tokens {learnt - 2}")
    (problem,) = grpo.problems
    assert problem.endswith(
        f"learns answers of up to {learnt} tokens: raise it, or leave it out, and it follows the checkpoint"
    )
    assert f"`max_completion_length` is {learnt - 1}" in problem
    assert f"`--max-new-tokens` is {learnt - 2}" in evaluation.problems[0]


def test_beams_draw_their_own_masks(drawing_checkpoint, rows):
    """Beams change places while they are written: an answer's mask is that of its own states."""
    model, processor = (
        AuroraModel.from_pretrained(drawing_checkpoint),
        AuroraProcessor.from_pretrained(drawing_checkpoint),
    )
    some = rows.to_list()[:6]
    greedy, beams = (list(answer_rows(model, processor, some, num_beams=n)) for n in (1, 3))
    same = [(a, b) for a, b in zip(greedy, beams, strict=True) if a.completion == b.completion]
    assert len(same) > 3
    for one, other in same:
        torch.testing.assert_close(one.mask_logits, other.mask_logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"guidance_scale": 1.5},
            "`guidance_scale` is not taken by `generate` here: it runs the model without the clip",
        ),
        ({"eos_token_id": 0}, "`eos_token_id` is not taken by `generate` here: the answer ends with the tokenizer's"),
        ({"to_dict": True}, "`generate` has no `to_dict`"),
        ({"num_return_sequences": 2}, "`num_return_sequences` is not taken by `generate` here: a row has one answer"),
        ({"return_dict_in_generate": True}, "`return_dict_in_generate` is not taken"),
        ({"output_scores": True}, "`output_scores` is not taken"),
        ({"prompt_lookup_num_tokens": 3}, "tokens that are guessed leave no states"),
        ({"max_length": 30}, "it counts the prompt; use `max_new_tokens`"),
        ({"temprature": 0.5}, "`generate` has no `temprature`; did you mean `temperature`"),
    ],
)
def test_other_settings_of_generate_are_refused(settings, message, model, processor, rows):
    with pytest.raises(ValueError, match=message):
        next(answer_rows(model, processor, rows.to_list()[:1], **settings))
    check_generate_kwargs({"do_sample": True, "temperature": 0.7, "top_p": 0.9, "num_return_sequences": 1})


def test_an_answer_that_was_told_to_stop_is_not_cut(model, processor, rows):
    """It ends where its user wants, beside another that does not: neither is as long as the batch, nor cut."""
    two, tokenizer = [dict(rows[0]), dict(rows[9])], processor.tokenizer
    first, second = answer_rows(model, processor, two, max_new_tokens=8)
    assert (first.cut, second.cut) == (True, True)
    known = set(second.completion)
    stop = next(letter for letter in first.completion[:-2] if letter.isascii() and letter not in known)
    settings = {"max_new_tokens": 8, "stop_strings": [stop], "tokenizer": tokenizer}
    stopped, other = answer_rows(model, processor, two, **settings)
    (alone,) = answer_rows(model, processor, two[:1], **settings)
    assert (stopped.cut, other.cut) == (False, True)
    assert stopped.num_tokens == alone.num_tokens < other.num_tokens == 8
    assert stopped.completion == alone.completion
    assert stop in stopped.completion
