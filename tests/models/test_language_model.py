"""The language model by itself is what transformers' own class makes of the same weights."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Qwen2ForCausalLM

from aurora_trl import AuroraModel, AuroraProcessor
from aurora_trl.generation.engines.vllm_server import main
from aurora_trl.models.language_model import language_model_weights, require_language_model
from aurora_trl.training.lora import complete_adapter

GROUPS = {"language_model", "seg_projector"}


@pytest.fixture
def adapted(checkpoint):
    """A model with an adapter that has learnt something, and `[SEG]`'s rows beside it."""
    model = AuroraModel.from_pretrained(checkpoint).eval()
    model.set_trainable(GROUPS)
    adapted = get_peft_model(model, complete_adapter(model, LoraConfig(target_modules=["q_proj", "v_proj"]), GROUPS))
    torch.manual_seed(0)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return adapted.eval()


def logits_of(aurora, ids):
    with torch.no_grad():
        return aurora.policy(input_ids=ids).logits


def test_a_checkpoint_becomes_a_qwen2(checkpoint, tmp_path, capsys):
    main([str(checkpoint), str(tmp_path / "language model")])
    assert capsys.readouterr().out.startswith("VLLM_SERVER_DEV_MODE=1 vllm serve '")
    served = AutoModelForCausalLM.from_pretrained(tmp_path / "language model", dtype=torch.float32).eval()
    assert isinstance(served, Qwen2ForCausalLM)
    model, ids = AuroraModel.from_pretrained(checkpoint).eval(), torch.randint(5, 200, (2, 20))
    embeds = model.base_model.embed_inputs(ids)
    with torch.no_grad():
        torch.testing.assert_close(served(inputs_embeds=embeds).logits, logits_of(model, ids))
    tokenizer = AuroraProcessor.from_pretrained(checkpoint).tokenizer
    assert served.config.vocab_size == model.policy.config.get_text_config().vocab_size >= len(tokenizer)
    with pytest.raises(SystemExit):
        main([str(checkpoint), str(tmp_path / "language model")])
    assert "is there already" in capsys.readouterr().err


def test_adapters_are_merged_and_the_model_stays(adapted, checkpoint):
    aurora, ids = adapted.get_base_model(), torch.randint(5, 200, (2, 20))
    before = {name: value.clone() for name, value in adapted.state_dict().items()}
    expected = logits_of(aurora, ids)
    weights = {name: value.clone() for name, value in language_model_weights(aurora)}
    assert all(torch.equal(value, before[name]) for name, value in adapted.state_dict().items())
    config = aurora.policy.config.get_text_config()
    config.tie_word_embeddings = False
    served = Qwen2ForCausalLM(config).eval()
    served.load_state_dict(weights)
    with torch.no_grad():
        torch.testing.assert_close(served(input_ids=ids).logits, expected, atol=1e-5, rtol=1e-5)


def test_what_trains_comes_with_what_engines_hold_beside_it(adapted):
    layer = {f"self_attn.{name}_proj.{kind}" for name in "qkv" for kind in ("weight", "bias")}
    expected = {f"model.layers.{i}.{name}" for i in range(2) for name in layer}
    names = {name for name, _ in language_model_weights(adapted.get_base_model(), trained=True)}
    assert names == expected | {"model.embed_tokens.weight", "lm_head.weight"}
    everything = {name for name, _ in language_model_weights(adapted.get_base_model())}
    assert names < everything
    aurora = adapted.get_base_model()
    aurora.requires_grad_(False)
    assert not list(language_model_weights(aurora, trained=True))


def test_large_weights_go_to_several_files(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("aurora_trl.models.language_model._SHARD_BYTES", 100_000)
    main([str(checkpoint), str(tmp_path / "served")])
    files = sorted((tmp_path / "served").glob("*.safetensors"))
    assert len(files) > 1
    model = AuroraModel.from_pretrained(checkpoint)
    written = {name: value for file in files for name, value in load_file(file).items()}
    expected = dict(language_model_weights(model))
    assert written.keys() == expected.keys()
    served = Qwen2ForCausalLM.from_pretrained(tmp_path / "served", dtype=torch.float32)
    assert torch.equal(served.lm_head.weight, model.policy.lm_head.weight)
    assert all(torch.equal(value, expected[name]) for name, value in written.items())


@pytest.mark.parametrize("kind", [False, True, "qwen3"])
def test_policies_with_positions_of_their_own(kind, qwen_checkpoints):
    with pytest.raises(ValueError, match=r"^`use_vllm` .* needs positions beside them: leave `use_vllm` out"):
        require_language_model(AuroraModel.from_pretrained(qwen_checkpoints[kind]))
