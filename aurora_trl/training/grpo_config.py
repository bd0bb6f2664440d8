"""Configuration of [`AuroraGRPOTrainer`]."""

import json
import math
from dataclasses import dataclass, field
from typing import Any

from trl import GRPOConfig

from ..generation.answers import check_generate_kwargs
from ..generation.engines import ENGINES
from ..generation.engines.vllm import check_vllm_options
from .mask_config import MaskTrainingArguments
from .option_values import check_building, check_ranges, check_values
from .options import check_options
from .rewards import get_reward

# What decides how completions are sampled and compared: of `generation_kwargs`, `generate` alone would hear.
_OWN_OPTIONS = {"temperature": "temperature", "max_new_tokens": "max_completion_length"}
# Of `generation_kwargs`, what gives every answer of a group the same, or ends answers where TRL does not see an end.
_NO_SAMPLES = "every answer of a group would be the same: there is nothing to compare"
_REFUSED = {"stop_strings": "an answer ends with the tokenizer's token, behind which nothing is learnt"}
_EVAL_ROWS = 6


@dataclass
class AuroraGRPOConfig(MaskTrainingArguments, GRPOConfig):
    r"""
    Configuration of the GRPO phase: TRL's [`~trl.GRPOConfig`] with the values of AURORA (section 3.3, equations 4, 5
    and 8) as defaults.

    Args:
        reward_functions (`list[str]`, *optional*, defaults to `["format_reward", "iou_reward", "class_reward"]`):
            names from `aurora_trl.training.rewards`, or `package.module:function`.
        num_generations (`int`, *optional*, defaults to 3), temperature (`float`, *optional*, defaults to 1.0),
        top_p (`float`, *optional*, defaults to 0.9), beta (`float`, *optional*, defaults to 0.0), loss_type
        (`str`, *optional*, defaults to `"grpo"`): the paper's.
        max_completion_length (`int`, *optional*): longest completion, in tokens; a quarter more than the longest
            answer that the checkpoint was trained to write by default. (The authors' code has 150, which cuts what
            their own annotators were asked to write.)
        generation_engine (`str`, *optional*, defaults to `"auto"`): what samples completions, see
            [`~aurora_trl.generation.engines.choose_engine`].
        prefill_tokens (`int`, *optional*, defaults to 8192): how many tokens of a rollout's distinct prompts are read
            at once; one prompt at the least.
        resample_equal_groups (`int`, *optional*, defaults to 0): how many times completions are sampled again for the
            prompts whose completions all earned the same, from which nothing is learnt. DAPO (Yu et al., 2025,
            section 3.2) draws other prompts in their place; here a prompt gets another chance, so that an epoch holds
            each of them. Each time costs a rollout of these prompts, on all processes or on none.
    """

    reward_functions: list[str] = field(
        default_factory=lambda: ["format_reward", "iou_reward", "class_reward"],
        metadata={"help": "Names of reward functions, or `package.module:function`."},
    )
    # TRL's 8 does not hold whole groups of 3.
    per_device_train_batch_size: int = field(default=6, metadata={"help": "Completions per device and step."})
    num_generations: int | None = field(default=3, metadata={"help": "Completions per prompt, G."})
    top_p: float = field(default=0.9, metadata={"help": "Nucleus sampling."})
    max_completion_length: int | None = field(
        default=None, metadata={"help": "Longest completion, in tokens; by default what the checkpoint was taught."}
    )
    generation_engine: str = field(default="auto", metadata={"help": "auto, eager or compiled.", "choices": ENGINES})
    prefill_tokens: int = field(default=8192, metadata={"help": "Tokens of distinct prompts that are read at once."})
    beta: float = field(default=0.0, metadata={"help": "Weight of the KL term; 0 needs no reference model."})
    loss_type: str = field(default="grpo", metadata={"help": "Mean of per-sequence means (equation 5)."})
    # TRL's 8 does not hold whole groups of 3, either.
    per_device_eval_batch_size: int = field(
        default=_EVAL_ROWS, metadata={"help": "Completions per device in evaluation."}
    )
    resample_equal_groups: int = field(
        default=0, metadata={"help": "How often prompts are sampled again whose completions all earned the same."}
    )
    remove_unused_columns: bool | None = field(
        default=False, metadata={"help": "Media columns must reach the trainer."}
    )

    def __post_init__(self) -> None:
        check_values(self, "grpo")
        check_options(self, "grpo")
        # As a flag it is text until TRL reads it.
        given = self.generation_kwargs or {}
        given = json.loads(given) if isinstance(given, str) else given
        check_ranges(given, "generation_kwargs")
        if self.use_vllm:
            check_vllm_options(self, given)
        else:
            check_generate_kwargs(given)
        for name, option in _OWN_OPTIONS.items():
            if given.get(name) is not None:
                raise ValueError(f"`generation_kwargs: {name}` is refused: the loss would not know; set `{option}`")
        for name, reason in _REFUSED.items():
            if given.get(name) is not None:
                raise ValueError(f"`generation_kwargs: {name}` is refused: {reason}")
        if given.get("do_sample", True) is not True:
            raise ValueError(f"`generation_kwargs: do_sample: {given['do_sample']}` is refused: {_NO_SAMPLES}")
        for name, value in {"top_k": self.top_k, "min_p": self.min_p}.items():
            if (given.get(name) if given.get(name) is not None else value) == 1:
                raise ValueError(f"`{name}: 1` is refused: {_NO_SAMPLES}")
        if (given.get("num_beams") or 1) > 1:
            raise ValueError("`generation_kwargs: num_beams` is refused: completions are sampled, not searched")
        # TRL evaluates in whole groups, which the default does not hold for every number of generations.
        group = self.num_generations_eval or self.num_generations or 1
        if self.per_device_eval_batch_size == _EVAL_ROWS and _EVAL_ROWS % group:
            self.per_device_eval_batch_size = group
        if self.generation_engine not in ENGINES:
            raise ValueError(f"`generation_engine` is {self.generation_engine!r}; use one of {', '.join(ENGINES)}")
        if self.prefill_tokens < 1:
            raise ValueError(f"`prefill_tokens` must be at least 1, got {self.prefill_tokens}")
        super().__post_init__()
        check_building(self)
        self.check_mask_arguments()
        if self.resample_equal_groups < 0:
            raise ValueError(f"`resample_equal_groups` must not be negative, got {self.resample_equal_groups}")
        usual = self.scale_rewards != "batch" and self.multi_objective_aggregation == "sum_then_normalize"
        if self.resample_equal_groups and not usual:
            raise ValueError(
                "`resample_equal_groups` draws some groups apart from the others, and `scale_rewards: batch` and "
                "`multi_objective_aggregation: normalize_then_sum` compare all of them: leave it out, or these"
            )
        if not self.reward_functions:
            raise ValueError("`reward_functions` is empty: GRPO needs at least one")
        weights = self.reward_weights or [1.0]
        if not all(map(math.isfinite, weights)) or not any(weights):
            raise ValueError(f"`reward_weights` must be numbers of which one is not 0, got {weights}")
        for name in self.reward_functions:
            if ":" not in name:  # a module of one's own is looked for where it is used
                get_reward(name)

    def check_reference(self, *, given: bool, asked: bool) -> None:
        """
        Raise for a reference model that can not be had with an adapter.

        Args:
            given (`bool`): whether the model comes with one.
            asked (`bool`): whether it gets one.

        Raises:
            `ValueError`: names the setting.
        """
        if self.sync_ref_model and (given or asked):
            raise ValueError(
                "`sync_ref_model: true` has nothing to move with LoRA: the reference is the model without its adapter"
            )
        if self.beta and given:
            raise ValueError(
                f"`beta: {self.beta}` compares with the model without its adapter, and `model` has one that is "
                "trained: give the name of the adapter's folder as `model`, which merges it, and a `peft_config`"
            )

    def choose_mask_source(self, model: Any, processor: Any, teacher: Any = None, rows: Any = None) -> Any:
        """As for every phase; a model with queries is refused."""
        if model.seg_queries is not None:
            raise ValueError(
                "GRPO needs a model that writes [SEG], and this one has `seg_source: queries`, which supervised "
                "phases alone train: start from a checkpoint without"
            )
        return super().choose_mask_source(model, processor, teacher, rows)
