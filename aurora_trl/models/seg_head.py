"""From what the language model knows at `[SEG]` to masks: the part of the composite model between its two others."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from transformers import initialization as init

from .box_prompts import embed_boxes
from .checkpoints.zero3 import split_the_rest
from .configuration_aurora import AuroraConfig
from .mask_decoders import MaskDecoderBase
from .objects import along_rows
from .seg_parts import Existence, LayerMix, SpatialPrompt, empty_absent
from .seg_queries import SegQueries, query_places, require_queries_possible

# What language models draw their embeddings with, where a config does not say.
_EMBEDDING_STD = 0.02


class SegHead:
    """
    Mixed into [`AuroraModel`]: the paper's projector, and the parts that its config may ask for beside it.

    What is read at `[SEG]` is up to `seg_state` alone. Whoever runs the backbone, for training or token by token,
    hands it the last `config.seg_layers` layers' states.
    """

    config: AuroraConfig
    training: bool
    mask_decoder: MaskDecoderBase
    seg_projector: nn.Sequential | None
    seg_layer_mix: LayerMix | None
    seg_spatial: SpatialPrompt | None
    seg_existence: Existence | None
    seg_queries: SegQueries | None

    def _build_seg_head(self) -> None:
        """
        The projector, and after it the parts: a reference model that lacks them has its weights in this order.

        Nothing of it for a policy that writes boxes.

        Raises:
            `ValueError`: where the mask decoder could not draw from these.
        """
        self.seg_projector = self.seg_layer_mix = self.seg_spatial = self.seg_existence = self.seg_queries = None
        if self.config.mask_source != "seg":
            self._require_prompt_encoder()
        if self.config.mask_source == "box":
            return
        hidden_size = self.config.get_text_config().hidden_size
        self.seg_projector = nn.Sequential(
            nn.Linear(hidden_size, hidden_size), nn.ReLU(), nn.Linear(hidden_size, self.mask_decoder.prompt_dim)
        )
        self._build_missing_parts()

    def _require_prompt_encoder(self) -> None:
        if self.mask_decoder.prompt_tables() is None:
            raise ValueError(
                f"`mask_source: {self.config.mask_source}` needs a mask decoder with a prompt encoder, and "
                f"{type(self.mask_decoder).__name__} has none; use SAM or SAM 2"
            )

    def set_mask_source(self, mask_source: str) -> None:
        """
        Let the policy's boxes and points prompt the mask decoder, beside `[SEG]` or in its place: then the projector
        is let go.

        Args:
            mask_source (`str`): see [`AuroraConfig`].

        Raises:
            `ValueError`: where it is none, the model has no projector to go back to or parts that strengthen `[SEG]`,
                or the mask decoder has no prompt encoder.
        """
        before = self.config.mask_source
        if mask_source == before:
            return
        if before == "box":
            raise ValueError(
                f"`mask_source: {mask_source}` needs a projector, and this model writes boxes and has none: start "
                "from a checkpoint that has one"
            )
        self.config.mask_source = mask_source
        try:
            self.config.check_mask_source()
            self.config.check_seg_source()
            if mask_source != "seg":
                self._require_prompt_encoder()
        except ValueError:
            self.config.mask_source = before
            raise
        if mask_source == "box":
            self.seg_projector = None

    def set_seg_source(self, seg_source: str | None = None, num_queries: int | None = None) -> bool:
        """
        Let learned embeddings behind an answer prompt the mask decoder, in place of a `[SEG]` that is written.

        Args:
            seg_source (`str`, *optional*), num_queries (`int`, *optional*): see [`AuroraConfig`]; the model's own by
                default.

        Returns:
            `bool`: whether they were not there before.

        Raises:
            `ValueError`: where these are none, the model has learned something else, which would be thrown away, or
                its parts do not go with them.
        """
        config = self.config
        before = config.seg_source, config.num_queries
        source = before[0] if seg_source is None else seg_source
        count = before[1] if num_queries is None else num_queries
        if (source, count) == before or source == before[0] == "token":
            return False
        if before[0] == "queries":
            raise ValueError(
                f"`seg_source: {source}` with `num_queries: {count}` is asked for, and the model was trained with "
                f"{before[1]} queries: leave it out, or start from a checkpoint without"
            )
        config.seg_source, config.num_queries = source, count
        try:
            config.check_seg_source()
            require_queries_possible(self)
        except ValueError:
            config.seg_source, config.num_queries = before
            raise
        self._add_missing_parts()
        return True

    def _build_missing_parts(self) -> None:
        hidden_size, config = self.config.get_text_config().hidden_size, self.config
        if config.seg_source == "queries" and self.seg_queries is None:
            require_queries_possible(self)
            std = getattr(config.get_text_config(), "initializer_range", _EMBEDDING_STD)
            self.seg_queries = SegQueries(config.num_queries, hidden_size, std)
        if config.seg_layers > 1 and self.seg_layer_mix is None:
            self.seg_layer_mix = LayerMix(config.seg_layers, hidden_size)
        if config.spatial_prompt and self.seg_spatial is None:
            self.seg_spatial = SpatialPrompt(self.mask_decoder.prompt_dim)
        if config.existence_output and self.seg_existence is None:
            self.seg_existence = Existence(hidden_size)

    def _init_projector(self, module: nn.Module) -> None:
        if self.seg_projector is None:
            return
        if module in tuple(self.seg_projector) and isinstance(module, nn.Linear):
            # Prompts of about unit size, as the decoder's own tokens: with torch's default it learns to do without.
            gain = 2.0 if module is self.seg_projector[0] else 1.0  # the first is halved by its ReLU
            init.normal_(module.weight, std=math.sqrt(gain / module.in_features))
            init.zeros_(module.bias)

    @property
    def seg_modules(self) -> list[nn.Module]:
        """The projector and the parts that there are: they train together."""
        parts = (self.seg_projector, self.seg_queries, self.seg_layer_mix, self.seg_spatial, self.seg_existence)
        return [part for part in parts if part is not None]

    def add_seg_parts(
        self,
        seg_layers: int | None = None,
        spatial_prompt: bool | None = None,
        existence_output: bool | None = None,
    ) -> bool:
        """
        Give a model the parts that a phase asks for, see [`AuroraConfig`]. None of them changes a mask before it is
        trained.

        Args:
            seg_layers (`int`, *optional*), spatial_prompt (`bool`, *optional*), existence_output (`bool`, *optional*):
                the model's own by default.

        Returns:
            `bool`: whether there is a part that was not there before.

        Raises:
            `ValueError`: where the model has learned something else, which would be thrown away.
        """
        asked: dict[str, tuple[Any, Any]] = {
            "seg_layers": (seg_layers, 1),
            "spatial_prompt": (spatial_prompt, False),
            "existence_output": (existence_output, False),
        }
        changed = False
        if self.seg_projector is None and any(value not in (None, none) for value, none in asked.values()):
            raise ValueError(
                f"`mask_source: box` reads no state at [SEG], which {', '.join(f'`{name}`' for name in asked)} would "
                "strengthen: leave them out"
            )
        if self.seg_queries is not None and (spatial_prompt or existence_output):
            raise ValueError(
                "`spatial_prompt` and `existence_output` look at the one state at [SEG], and `seg_source: queries` "
                f"gives {self.config.num_queries}: leave them out"
            )
        for name, (value, none) in asked.items():
            own = getattr(self.config, name)
            if value is None or value == own:
                continue
            if own != none:
                raise ValueError(
                    f"`{name}` is {value}, and the model was trained with {own}: leave it out, or start from a "
                    "checkpoint without"
                )
            setattr(self.config, name, value)
            changed = True
        if not changed:
            return False
        self.config.check_seg_layers()
        self.config.check_mask_source()
        self._add_missing_parts()
        return True

    def _add_missing_parts(self) -> None:
        """Build them in a model that runs already: in its dtype, where it is."""
        weight = next(self.seg_modules[0].parameters())
        had = {id(module) for module in self.seg_modules}
        self._build_missing_parts()
        for module in self.seg_modules:
            if id(module) not in had:
                module.to(weight.device, weight.dtype).train(self.training)
        model: Any = self
        split_the_rest(model)  # as the others are under ZeRO-3

    def seg_state(self, layers: Sequence[torch.Tensor]) -> torch.Tensor:
        """
        The state that the head reads, out of those of several layers.

        Args:
            layers (`list[torch.Tensor]` of shape `(..., H)`): states at the same places, the last layer's first,
                `config.seg_layers` of them.

        Returns:
            `torch.Tensor` of shape `(..., H)`.
        """
        return layers[0] if self.seg_layer_mix is None else self.seg_layer_mix(layers)

    def seg_states_at(
        self, layers: Sequence[torch.Tensor], rows: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        """
        The states at places of a forward.

        Args:
            layers (`list[torch.Tensor]` of shape `(B, L, H)`): as in `seg_state`.
            rows (`torch.Tensor` of shape `(N,)`), positions (`torch.Tensor` of shape `(N,)` or `(N, K)`): the places,
                of a model's queries `(N,)` the first one's; a negative position gives a dummy.

        Returns:
            `torch.Tensor` of shape `(N, H)` or `(N, K, H)`.
        """
        positions = positions.clamp(min=0)
        if self.seg_queries is not None:
            positions = query_places(positions, self.config.num_queries)
        rows = along_rows(rows, positions)
        return self.seg_state([layer[rows, positions] for layer in layers])

    def encode_masks(self, mask_frames: torch.Tensor) -> torch.Tensor:
        """
        Run the mask decoder's image encoder on clips.

        Args:
            mask_frames (`torch.Tensor` of shape `(C, T, 3, S, S)`): frames of distinct clips, normalised; on any
                device, from which they come as they are needed.

        Returns:
            `torch.Tensor` of shape `(C, T, E, h, w)`: on the model's device.
        """
        # Any, not the first: a PEFT wrapper keeps a frozen original beside the copy that trains.
        trains = any(parameter.requires_grad for parameter in self.mask_decoder.image_encoder.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and trains):
            return self.mask_decoder.encode_clips(mask_frames)

    def project(self, seg_states: torch.Tensor) -> torch.Tensor:
        """
        States at `[SEG]` `(N, H)` to the features that prompt the decoder `(N, E)`; those at queries `(N, K, H)` to
        `(N, K, E)`.

        Raises:
            `ValueError`: for a model that writes boxes, which has no projector.
        """
        if self.seg_projector is None:
            raise ValueError("this model writes boxes (`mask_source: box`), and has no projector of [SEG]")
        return self.seg_projector(seg_states.to(next(self.seg_projector.parameters()).dtype))

    def with_boxes(self, seg_features: torch.Tensor, boxes: torch.Tensor | None) -> torch.Tensor:
        """
        Features as prompts for `decode_features`, with the boxes and points that answers write beside their `[SEG]`.

        Args:
            seg_features (`torch.Tensor` of shape `(B, E)`): projected states.
            boxes (`torch.Tensor` of shape `(B, T, 6)`, *optional*): see
                [`~aurora_trl.models.box_prompts.place_boxes`]; None: the model takes none.

        Returns:
            `torch.Tensor` of shape `(B, T, P, E)`, or the features as they are.
        """
        if boxes is None:
            return seg_features
        beside = embed_boxes(self.mask_decoder, boxes).to(seg_features.dtype)
        return torch.cat([seg_features[:, None, None].expand(-1, beside.size(1), -1, -1), beside], dim=2)

    def decode_masks(
        self,
        seg_states: torch.Tensor,
        mask_embeddings: torch.Tensor,
        clip_index: torch.Tensor | None = None,
        boxes: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Project the states at `[SEG]` and decode all frames of all rows in one call; a mask of what is not there is
        empty.

        Args:
            seg_states (`torch.Tensor` of shape `(B, H)`, or `(B, K, H)` for several `[SEG]`, or for a model's K
                queries, which draw one mask): from `seg_state`.
            mask_embeddings (`torch.Tensor` of shape `(C, T, E, h, w)`): from `encode_masks`.
            clip_index (`torch.Tensor` of shape `(B,)`, *optional*): the clip of each row; None: row i is clip i.
            boxes (`torch.Tensor` of shape `(B, T, 6)`, *optional*): see `with_boxes`.

        Returns:
            `torch.Tensor` of shape `(B, T, 4h, 4w)`, or `(B, K, T, 4h, 4w)` for several `[SEG]`: mask logits.
        """
        features = self.with_boxes(self.project(seg_states), boxes)
        mask_logits = self.decode_features(features, mask_embeddings, clip_index)
        return empty_absent(mask_logits, self._existence_of(seg_states))

    def decode_masks_with_quality(
        self,
        seg_states: torch.Tensor,
        mask_embeddings: torch.Tensor,
        clip_index: torch.Tensor | None = None,
        boxes: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        As `decode_masks`, with the mask decoder's own score of each mask, see
        [`~aurora_trl.models.mask_decoders.MaskDecoderBase.decode_with_quality`]. That of a mask which was emptied is
        the probability that there is nothing to draw.

        Returns:
            `tuple`: mask logits, and scores `(B, T)` or `(B, K, T)`.

        Raises:
            `ValueError`: where the mask decoder does not score its masks.
        """
        features = self.with_boxes(self.project(seg_states), boxes)
        mask_logits, quality = self.decode_features_with_quality(features, mask_embeddings, clip_index)
        existence = self._existence_of(seg_states)
        if existence is not None:
            absent = (-existence.float()).sigmoid()[..., None].to(quality.dtype)
            quality = torch.where((existence < 0)[..., None], absent, quality)
        return empty_absent(mask_logits, existence), quality

    def _existence_of(self, seg_states: torch.Tensor) -> torch.Tensor | None:
        return None if self.seg_existence is None else self.seg_existence(seg_states)

    def decode_objects(
        self, seg_states: torch.Tensor, mask_embeddings: torch.Tensor, clip_index: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """
        The objects that one `[SEG]` names, each apart, where the decoder finds several; None where it draws one.

        Args:
            seg_states (`torch.Tensor` of shape `(B, H)`), mask_embeddings, clip_index: as for `decode_masks`.

        Returns:
            `tuple` or `None`: mask logits `(B, K, T, 4h, 4w)`, whose union is what `decode_masks` gives, and which of
            the K objects there are `(B, K)`.
        """
        if not self.mask_decoder.finds_objects:
            return None
        prompts = self.project(seg_states).to(mask_embeddings.dtype)[:, None]
        found = []
        for row, clip in enumerate(range(len(prompts)) if clip_index is None else clip_index.tolist()):
            shown, prompt = mask_embeddings[clip : clip + 1], prompts[row : row + 1]
            marked = shown if self.seg_spatial is None else self.seg_spatial(shown, prompt)
            found.append(self.mask_decoder.decode_objects(marked, prompt))
        mask_logits, there = (torch.cat(parts) for parts in zip(*found, strict=True))
        if self.seg_existence is None:
            return mask_logits, there
        existence = self.seg_existence(seg_states)
        return empty_absent(mask_logits, existence[:, None].expand_as(there)), there & (existence >= 0)[:, None]

    def decode_features(
        self, seg_features: torch.Tensor, mask_embeddings: torch.Tensor, clip_index: torch.Tensor | None = None
    ) -> torch.Tensor:
        """
        As `decode_masks`, of projected states `(B, E)` or `(B, K, E)`, or of prompts from `with_boxes`, and whether or
        not the object is there.
        """
        prompts, rows, unflatten = self._rows_of_objects(seg_features, clip_index)
        prompts = prompts.to(mask_embeddings.dtype)
        return unflatten(self.mask_decoder.decode_rows(mask_embeddings, prompts, rows, self.seg_spatial))

    def decode_features_with_quality(
        self, seg_features: torch.Tensor, mask_embeddings: torch.Tensor, clip_index: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `decode_features`, with the mask decoder's score of each mask `(B, T)` or `(B, K, T)`."""
        prompts, rows, unflatten = self._rows_of_objects(seg_features, clip_index)
        prompts = prompts.to(mask_embeddings.dtype)
        drawn = self.mask_decoder.decode_rows_with_quality(mask_embeddings, prompts, rows, self.seg_spatial)
        return unflatten(drawn[0]), unflatten(drawn[1])

    def prompts_of_objects(self, seg_features: torch.Tensor) -> torch.Tensor:
        """Features of an answer `(N, E)`, one for each object or all for one, as prompts of objects `(M, P, E)`."""
        return seg_features[:, None] if self.seg_queries is None else seg_features[None]

    def _rows_of_objects(
        self, seg_features: torch.Tensor, clip_index: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None, Callable[[torch.Tensor], torch.Tensor]]:
        """
        One row per object.

        Args:
            seg_features (`torch.Tensor` of shape `(B, E)` or `(B, K, E)`): projected states; or `(B, T, P, E)`,
                prompts of each frame.
            clip_index (`torch.Tensor` of shape `(B,)`, *optional*): the clip of each row.

        Returns:
            `tuple`: prompts `(N, P, E)` or `(N, T, P, E)`, the clip of each of these, and what brings their results
                back into rows.
        """
        if self.seg_queries is not None or seg_features.dim() == 4:
            return seg_features, clip_index, lambda drawn: drawn
        if seg_features.dim() == 2:
            return seg_features[:, None], clip_index, lambda drawn: drawn
        shape = seg_features.shape[:2]
        rows = torch.arange(shape[0], device=seg_features.device) if clip_index is None else clip_index
        return (
            seg_features.flatten(0, 1)[:, None],
            rows.repeat_interleave(shape[1]),
            lambda drawn: drawn.unflatten(0, shape),
        )
