"""Settings of PEFT's that a composite model takes otherwise, or that would train nothing: done, or one line."""

import pytest
from peft import LoraConfig, get_peft_model
from sft_helpers import build

from aurora_trl.models.modeling_aurora import AuroraModel
from aurora_trl.training.arguments import LoraArguments
from aurora_trl.training.lora import set_trainable

GROUPS = {"language_model", "seg_projector", "mask_decoder"}
QUERIES = "policy.model.language_model.layers.{}.self_attn.q_proj"


@pytest.mark.parametrize(
    ("settings", "layers"),
    [
        ({"target_modules": ["q_proj"], "layers_to_transform": [1]}, [1]),
        ({"target_modules": ["q_proj"], "layers_to_transform": 0, "layers_pattern": "layers"}, [0]),
        ({"layers_to_transform": [0], "exclude_modules": ["v_proj"]}, [0]),
        ({"target_modules": ["q_proj"], "layers_to_transform": []}, [0, 1]),
    ],
)
def test_blocks_that_are_counted(settings, layers, model):
    """PEFT looks at `layers_to_transform` where names are short, and completed ones are whole."""
    assert set_trainable(model, LoraConfig(**settings), GROUPS).target_modules == {QUERIES.format(i) for i in layers}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers_to_transform": [7]}, r"`layers_to_transform: \[7\]` counts none of the language model's blocks"),
        ({"lora_alpha": 0}, "`lora_alpha: 0` scales all that an adapter learns"),
        ({"alora_invocation_tokens": [4]}, "`alora_invocation_tokens` is refused"),
        ({"target_parameters": ["iou_token.weight"]}, "hits mask_decoder.*which is not the language model's"),
        ({"target_parameters": ["experts.gate"]}, "`target_parameters` names 'experts.gate', which hits nothing"),
        ({"trainable_token_indices": [3]}, r"leaves out \d+, the row of \[SEG\], which would stay as it is"),
        ({"trainable_token_indices": {"lm_head": [3]}}, "the loss reads the whole table of `lm_head`"),
        ({"modules_to_save": ["seg_projektor"]}, "`modules_to_save` names 'seg_projektor', which is no part"),
        ({"modules_to_save": ["vision_tower"]}, "would train policy.model.vision_tower, and `freeze_.*` freezes that"),
        ({"modules_to_save": ["norm"]}, "`modules_to_save` names 'norm', which would train .*vision_tower"),
        ({"modules_to_save": ["mask_decoder"]}, "would train mask_decoder, and `freeze_.*` freezes that"),
    ],
)
def test_what_would_train_otherwise_than_it_says(settings, message, model):
    with pytest.raises(ValueError, match=message) as caught:
        set_trainable(model, LoraConfig(target_modules=["q_proj"], **settings), GROUPS)
    assert "\n" not in str(caught.value)


def test_rows_of_a_table_and_the_config_of_a_saved_adapter(model, cot_rows, processor, tmp_path):
    """`[SEG]`'s row of the embeddings trains alone, and the head, which has its own, in full; both are saved."""
    seg = processor.tokenizer.convert_tokens_to_ids("[SEG]")
    config = LoraConfig(
        target_modules=["q_proj"], trainable_token_indices=[seg], inference_mode=True, modules_to_save=["lm_head"]
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = build(model, cot_rows, processor, tmp_path, peft_config=config, max_steps=1)
    trainer.train()
    trainer.save_model()
    after = AuroraModel.from_pretrained(tmp_path).state_dict()
    moved = {name for name, value in after.items() if not value.equal(before[name])}
    embeddings = "policy.model.language_model.embed_tokens.weight"
    assert {QUERIES.format(0) + ".weight", "policy.lm_head.weight", "seg_projector.0.weight", embeddings} <= moved
    rows = (after[embeddings] != before[embeddings]).any(dim=1).nonzero().flatten().tolist()
    assert rows == [seg]


def test_nothing_that_trains(model):
    with pytest.raises(ValueError, match="all parts of the model are frozen: set one of `freeze_"):
        set_trainable(model, None, set())
    with pytest.raises(ValueError, match="`lora_alpha` must be at least 1, got 0"):
        LoraArguments(use_lora=True, lora_alpha=0)


def test_an_adapter_that_would_not_train(model):
    """PEFT computes with a merged adapter's sum, and leaves a disabled one out; alone, nobody saves it."""
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ValueError, match="holds the layers of an adapter that was put into it before"):
        set_trainable(model, None, GROUPS)
    adapted.base_model.disable_adapter_layers()
    with pytest.raises(ValueError, match="the adapter of `model` is disabled"):
        set_trainable(adapted, None, GROUPS)
    adapted.base_model.enable_adapter_layers()
    adapted.merge_adapter()
    with pytest.raises(ValueError, match="the adapter of `model` is merged"):
        set_trainable(adapted, None, GROUPS)
