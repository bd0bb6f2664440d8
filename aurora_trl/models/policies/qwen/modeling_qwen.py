"""What the Qwen policies share: clips along the first dimension, and positions in three axes."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils.deprecation import deprecate_kwarg

from ..base import features_in_order, first_entries, must_run, place_features, text_position_ids
from ..causal import CausalPolicy


@dataclass
class QwenMediaFeatures:
    """
    What the towers made of clips.

    Attributes:
        visual_embeds (`torch.Tensor` of shape `(C, Nv, D)`): padded with zeros to the clip with the most.
        visual_grid (`torch.Tensor` of shape `(C, 4)`, long): see [`QwenBackbone.encode_media`].
        deep_embeds (`torch.Tensor` of shape `(C, Nv, K, D)`): what the first K layers of the language model add to the
            states at those places; None where the vision tower gives none (it does in Qwen3-VL).
        audio_embeds (`torch.Tensor` of shape `(C, Na, D)`): padded likewise; None where no clip has sound.
        audio_frames (`torch.Tensor` of shape `(C,)`, long): frames of the clips' spectrograms.
    """

    visual_embeds: torch.Tensor | None = None
    visual_grid: torch.Tensor | None = None
    audio_embeds: torch.Tensor | None = None
    audio_frames: torch.Tensor | None = None
    deep_embeds: torch.Tensor | None = None

    def as_inputs(self) -> dict[str, torch.Tensor]:
        """Keywords for `forward`, `generate` and `position_ids` in place of the media."""
        return {name: value for name, value in vars(self).items() if value is not None}


class QwenBackbone:
    """
    Mixed into a backbone of transformers, whose modules and `get_rope_index` it runs. Theirs takes the patches of a
    batch one after another, and keeps what it last computed about positions; here they are per clip and per call.
    """

    config: Any
    visual: Any
    audio_tower: Any
    language_model: Any
    get_input_embeddings: Any
    get_audio_features: Any
    _grid_position_ids: Any

    def visual_sizes(self, visual_grid: torch.Tensor) -> torch.Tensor:
        """Features of each clip, `(C,)`."""
        return visual_grid[:, :3].prod(dim=1) // self.visual.spatial_merge_size**2

    def audio_sizes(self, audio_frames: torch.Tensor) -> torch.Tensor:
        """Features of each clip's sound, `(C,)`."""
        return self.audio_tower._get_feat_extract_output_lengths(audio_frames)[1].clamp(min=0)

    def encode_media(
        self,
        pixel_patches: torch.Tensor | None = None,
        pixel_grid: torch.Tensor | None = None,
        audio_features: torch.Tensor | None = None,
        audio_lengths: torch.Tensor | None = None,
    ) -> QwenMediaFeatures:
        """
        Run the towers.

        Args:
            pixel_patches (`torch.Tensor` of shape `(C, N, P)`): patches of the frames in Qwen's order, padded.
            pixel_grid (`torch.Tensor` of shape `(C, 4)`, long): steps in time, patches in height and in width, and the
                milliseconds that a step in time takes; 0 for an image. A processor may put more behind.
            audio_features (`torch.Tensor` of shape `(C, F, M)`): log mel spectrograms, padded.
            audio_lengths (`torch.Tensor` of shape `(C,)`, long): their frames; 0 for a clip without sound.

        Returns:
            `QwenMediaFeatures`: features in the language model's width.
        """
        features = QwenMediaFeatures()
        if pixel_patches is not None and pixel_grid is not None:
            features = QwenMediaFeatures(visual_grid=pixel_grid, **self._encode_frames(pixel_patches, pixel_grid))
        if audio_features is not None and audio_lengths is not None and bool((audio_lengths > 0).any()):
            features.audio_embeds = self._encode_sound(audio_features, audio_lengths)
            features.audio_frames = audio_lengths
        elif pixel_grid is not None and features.visual_embeds is not None and self._must_hear():
            features.audio_embeds = self._encode_silence(features.visual_embeds)
            features.audio_frames = pixel_grid.new_zeros(len(pixel_grid))
        return features

    def _encode_frames(self, pixel_patches: torch.Tensor, pixel_grid: torch.Tensor) -> dict[str, torch.Tensor]:
        """Features of the clips, padded: `visual_embeds`, and `deep_embeds` where the tower gives such."""
        grid, sizes = pixel_grid[:, :3], self.visual_sizes(pixel_grid).tolist()
        packed = first_entries(pixel_patches, grid.prod(dim=1)).to(self.visual.dtype)
        output = self.visual(packed, grid_thw=grid)
        made = {"visual_embeds": output.pooler_output}
        if getattr(output, "deepstack_features", None):
            made["deep_embeds"] = torch.stack(output.deepstack_features, dim=1)
        return {name: pad_sequence(value.split(sizes), batch_first=True) for name, value in made.items()}

    def _encode_sound(self, audio_features: torch.Tensor, audio_lengths: torch.Tensor) -> torch.Tensor:
        """Features of the clips' sound, padded: `(C, Na, D)`; a silent clip takes no part."""
        heard = audio_lengths > 0
        frames = torch.arange(audio_features.size(1), device=audio_features.device)
        encoded = self.get_audio_features(
            audio_features[heard].transpose(1, 2).to(self.audio_tower.dtype),
            feature_attention_mask=(frames < audio_lengths[heard, None]).long(),
        ).last_hidden_state
        return pad_sequence(encoded.split(self.audio_sizes(audio_lengths).tolist()), batch_first=True)

    def _must_hear(self) -> bool:
        return hasattr(self, "audio_tower") and must_run(self.audio_tower)

    def _encode_silence(self, visual_embeds: torch.Tensor) -> torch.Tensor:
        """Features `(C, 1, D)` that have no place in a prompt without sound."""
        num_bins, num_frames = self.config.audio_config.num_mel_bins, 4  # which make one feature
        silence = visual_embeds.new_zeros(1, num_frames, num_bins)
        encoded = self._encode_sound(silence, torch.tensor([num_frames], device=silence.device))
        return encoded.expand(len(visual_embeds), -1, -1)

    def position_ids(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        visual_grid: torch.Tensor | None = None,
        audio_frames: torch.Tensor | None = None,
        pixel_grid: torch.Tensor | None = None,
        audio_lengths: torch.Tensor | None = None,
        **media: torch.Tensor,
    ) -> torch.Tensor:
        """
        Positions in time, height and width.

        Args:
            input_ids, attention_mask (`torch.Tensor` of shape `(B, L)`): padded on either side.
            visual_grid, audio_frames: of each row's clip; under their names before or after `encode_media`.
            **media: taken and not looked at.

        Returns:
            `torch.Tensor` of shape `(3, B, L)`: long, or float in Qwen3-Omni, where a moment may fall between two.

        Raises:
            `ValueError`: where there are places of frames, and no grid.
        """
        grid = pixel_grid if visual_grid is None else visual_grid
        if grid is None:
            if bool(((input_ids == self.config.image_token_id) | (input_ids == self.config.video_token_id)).any()):
                raise ValueError(
                    "the positions of a prompt with a clip depend on its size: give `pixel_grid`, or `visual_grid` "
                    "from `encode_media`, also where the clip itself is in the cache"
                )
            return text_position_ids(input_ids, attention_mask).expand(3, *input_ids.shape)
        frames = audio_lengths if audio_frames is None else audio_frames
        return self._grid_position_ids(input_ids, attention_mask, grid, frames)

    @deprecate_kwarg("past_key_values", "5.40.0", new_name="cache")
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        cache: Any | None = None,
        inputs_embeds: torch.Tensor | None = None,
        pixel_patches: torch.Tensor | None = None,
        pixel_grid: torch.Tensor | None = None,
        audio_features: torch.Tensor | None = None,
        audio_lengths: torch.Tensor | None = None,
        visual_embeds: torch.Tensor | None = None,
        visual_grid: torch.Tensor | None = None,
        audio_embeds: torch.Tensor | None = None,
        audio_frames: torch.Tensor | None = None,
        deep_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """
        Args:
            input_ids (`torch.Tensor` of shape `(B, L)`): with one placeholder id per feature.
            position_ids (`torch.Tensor` of shape `(3, B, L)`): made of the ids and the media where not given.
            pixel_patches, pixel_grid, audio_features, audio_lengths: media as `encode_media` takes them, or
            visual_embeds, visual_grid, audio_embeds, audio_frames, deep_embeds: what it made of them, one entry per
                row.
            attention_mask, cache, inputs_embeds, **kwargs: the language model's.

        Returns:
            The language model's output: `last_hidden_state` `(B, L, H)` first.

        Raises:
            `ValueError`: where placeholders and features differ in number, or where positions can not be known.
        """
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        given = QwenMediaFeatures(visual_embeds, visual_grid, audio_embeds, audio_frames, deep_embeds)
        made = self.encode_media(
            pixel_patches if visual_embeds is None else None,
            pixel_grid,
            audio_features if audio_embeds is None else None,
            audio_lengths,
        )
        features = QwenMediaFeatures(**{**given.as_inputs(), **made.as_inputs()})
        if features.visual_embeds is not None and features.visual_grid is not None:
            places = (input_ids == self.config.image_token_id) | (input_ids == self.config.video_token_id)
            sizes = self.visual_sizes(features.visual_grid)
            inputs_embeds = place_features(inputs_embeds, places, features.visual_embeds, sizes, "video")
            if features.deep_embeds is not None:
                deep = features_in_order(places, features.deep_embeds, sizes, "video")  # (places, K, D)
                kwargs.update(visual_pos_masks=places, deepstack_visual_embeds=list(deep.unbind(dim=1)))
        if features.audio_embeds is not None and features.audio_frames is not None:
            places, sizes = input_ids == self.config.audio_token_id, self.audio_sizes(features.audio_frames)
            inputs_embeds = place_features(inputs_embeds, places, features.audio_embeds, sizes, "audio")
        if position_ids is None:
            cached = cache is not None and cache.get_seq_length() > 0
            if cached or (attention_mask is not None and attention_mask.ndim != 2):
                raise ValueError(
                    "with a cache or a 4D mask, give `position_ids`; the policy's `position_ids` makes them"
                )
            if input_ids is None:
                raise ValueError("positions are made of `input_ids`: give these, or `position_ids`")
            position_ids = self.position_ids(input_ids, attention_mask, features.visual_grid, features.audio_frames)
        return self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            **kwargs,
        )


class QwenPolicy(CausalPolicy):
    """
    Mixed into a causal language model whose `model` is a [`QwenBackbone`].
    """

    media_inputs: tuple[str, ...] = ("pixel_patches", "pixel_grid", "audio_features", "audio_lengths")
    media_embeds: tuple[str, ...] = ("visual_embeds", "visual_grid", "audio_embeds", "audio_frames")

    def position_ids(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **media: torch.Tensor
    ) -> torch.Tensor:
        """As [`QwenBackbone.position_ids`]."""
        return self.model.position_ids(input_ids, attention_mask, **media)

    def trainable_modules(self) -> dict[str, nn.Module]:
        """The groups of parameters that a recipe trains or freezes, without those that are never run."""
        visual = self.model.visual
        return {
            "vision_tower": nn.ModuleList([visual.patch_embed, *visual.blocks]),
            "connector": nn.ModuleList([visual.merger]),
            "language_model": nn.ModuleList([self.model.language_model, self.lm_head]),
        }

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        pixel_patches: torch.Tensor | None = None,
        pixel_grid: torch.Tensor | None = None,
        audio_features: torch.Tensor | None = None,
        audio_lengths: torch.Tensor | None = None,
        visual_embeds: torch.Tensor | None = None,
        visual_grid: torch.Tensor | None = None,
        audio_embeds: torch.Tensor | None = None,
        audio_frames: torch.Tensor | None = None,
        deep_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """As [`QwenBackbone.forward`], with logits, and the loss where `labels` are given."""
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            pixel_patches=pixel_patches,
            pixel_grid=pixel_grid,
            audio_features=audio_features,
            audio_lengths=audio_lengths,
            visual_embeds=visual_embeds,
            visual_grid=visual_grid,
            audio_embeds=audio_embeds,
            audio_frames=audio_frames,
            deep_embeds=deep_embeds,
            **kwargs,
        )
        return self.score_tokens(outputs, labels, logits_to_keep)

    def _prepare_position_ids_for_generation(
        self, inputs_tensor: torch.Tensor, model_kwargs: dict[str, Any]
    ) -> torch.Tensor:
        """Of the whole prompt, in three axes; `generate` counts on from its last token."""
        names = (*self.media_inputs, *self.media_embeds)
        media = {name: model_kwargs[name] for name in names if model_kwargs.get(name) is not None}
        return self.position_ids(inputs_tensor, model_kwargs.get("attention_mask"), **media)


def omni_media_tokens(config: Any) -> tuple[int, ...]:
    """Of a policy that sees and hears, the tokens of places and of what stands around them: no answer needs these."""
    return (
        config.image_token_id,
        config.video_token_id,
        config.audio_token_id,
        config.vision_start_token_id,
        config.vision_end_token_id,
        config.audio_start_token_id,
        config.audio_end_token_id,
    )
