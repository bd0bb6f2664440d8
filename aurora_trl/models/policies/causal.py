"""What a policy needs around its backbone to write text."""

from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import CausalLMOutputWithPast


class CausalPolicy:
    """
    Mixed into a causal language model, before transformers' own class, whose `model` has a `language_model` of the
    usual names and whose head is `lm_head`.

    The model's own `forward` stays: `generate` takes no keyword that its signature does not name.
    """

    media_inputs: tuple[str, ...]
    media_embeds: tuple[str, ...]
    # LoRA goes on the language model's attention only; towers have layers of these names too.
    lora_target_modules = r".*language_model\.layers\.\d+\.self_attn\.(q_proj|v_proj)"
    supports_shared_prefix = True
    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}

    config: Any
    model: Any
    lm_head: nn.Linear
    loss_function: Any

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, value: nn.Linear) -> None:
        self.lm_head = value

    def score_tokens(
        self, outputs: Any, labels: torch.Tensor | None, logits_to_keep: int | torch.Tensor
    ) -> CausalLMOutputWithPast:
        """
        The end of `forward`.

        Args:
            outputs (`ModelOutput`): the backbone's.
            labels (`torch.Tensor` of shape `(B, L)`, *optional*): tokens to predict.
            logits_to_keep (`int` or `torch.Tensor`): that many of the last positions, 0 for all; or the positions.

        Returns:
            `CausalLMOutputWithPast`: with logits, and the loss where `labels` are given.
        """
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.text_config.vocab_size)
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, cache=outputs.cache, hidden_states=outputs.hidden_states
        )

    def prepare_inputs_for_generation(
        self, input_ids: torch.Tensor, cache: Any | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Media go in with the prompt; later steps find them in the cache."""
        media = {name: kwargs.pop(name, None) for name in (*self.media_inputs, *self.media_embeds)}
        inputs = super().prepare_inputs_for_generation(input_ids, cache=cache, **kwargs)  # type: ignore[misc]
        if cache is None or cache.get_seq_length() == 0:
            inputs.update({name: value for name, value in media.items() if value is not None})
        return inputs
