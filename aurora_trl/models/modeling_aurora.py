"""The composite model: an audio-visual policy whose state at `[SEG]` prompts a mask decoder."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import ModelOutput

from .checkpoints.adapters import adapter_asked_for, load_merged
from .checkpoints.own_files import HUB_ARGUMENTS, check_checkpoint, own_folder, require_finite, require_keys
from .checkpoints.quantization import with_whole_mask_parts
from .configuration_aurora import AuroraConfig
from .mask_decoders import MaskDecoderBase, build_mask_decoder
from .mask_head import AuroraOutput, capture_layers
from .objects import along_rows
from .policies.base import require_policy
from .positions import require_positions
from .prefill import read_prompts_once
from .seg_head import SegHead
from .shared_prefix import rows_of_clips

# The inputs of the mask head, which no policy knows.
SEG_INPUTS = (
    "seg_positions",
    "seg_rows",
    "states_from",
    "prefix_lengths",
    "mask_frames",
    "mask_embeddings",
    "clip_index",
    "seg_boxes",
)


class AuroraModel(SegHead, PreTrainedModel, GenerationMixin):
    r"""
    A policy, a projector and a mask decoder (AURORA, figure 2).

    One forward gives the policy's output and, where asked, the masks: the hidden state at `[SEG]` is projected and
    prompts the decoder for every frame of the clip, with gradients: see [`~aurora_trl.models.seg_head.SegHead`].

    Args:
        config (`AuroraConfig`): configs of the parts.
        policy (`PreTrainedModel`, *optional*), mask_decoder (`MaskDecoderBase`, *optional*): parts to take in as they
            are, in place of new ones.
    """

    config_class = AuroraConfig
    base_model_prefix = "policy"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    main_input_name = "input_ids"

    def __init__(self, config: AuroraConfig, *, policy: Any = None, mask_decoder: MaskDecoderBase | None = None):
        super().__init__(config)
        for part in (policy, mask_decoder):
            for module in () if part is None else part.modules():
                module._is_hf_initialized = True  # `post_init` leaves its weights alone
        self.policy = AutoModelForCausalLM.from_config(config.policy_config) if policy is None else policy
        require_policy(self.policy)
        self.mask_decoder = build_mask_decoder(config.mask_decoder_config) if mask_decoder is None else mask_decoder
        self._build_seg_head()
        # Names of weights that were taken from another model and are not those of the checkpoint any more.
        self.replaced_weights: set[str] = set()
        # The dtype of the checkpoint, where training has given some weights another.
        self.stored_dtype: torch.dtype | None = None
        # Takes the place of transformers' loop in `generate`; see `aurora_trl.generation.engines`.
        self.decoding_method: Callable[..., torch.Tensor] | None = None
        # What samples where a caller leaves it open.
        self.generation_engine = "auto"
        self._quality_trains = False
        # How much of a rollout's prompts is read at once.
        self.prefill_tokens = 8192
        self._no_split_modules = self.policy._no_split_modules
        self.generation_config = self.policy.generation_config
        # Our checkpoints hold the names of the code, whatever the parts' own are called: else transformers would save
        # SAM 3's weights under the published names, which only a SAM 3 is loaded from (5.24).
        self._weight_conversions: list[Any] = []
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """The mask decoder keeps what its constructors drew, the policy initialises itself; here is the projector."""
        self._init_projector(module)

    @classmethod
    def from_policy(cls, policy: Any, mask_decoder: Any, **kwargs: Any) -> "AuroraModel":
        """
        Build the model from a published policy and a published SAM.

        Args:
            policy (`str` or `Path`): folder or Hub repository, such as `DAMO-NLP-SG/VideoLLaMA2.1-7B-AV`.
            mask_decoder (`str` or `Path`): such as `sam_vit_h_4b8939.pth` or `facebook/sam2.1-hiera-large`.
            **kwargs: see [`~aurora_trl.models.checkpoints.from_parts.load_published`], which also gives the processor.
        """
        from .checkpoints.from_parts import load_published

        return load_published(policy, mask_decoder, **kwargs)[0]

    @classmethod
    def from_pretrained(cls, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        """As in transformers, except that a weight that is missing, unexpected or of another shape is an error.

        The folder of a LoRA phase is loaded merged into its base, which `base_model_name_or_path` names where it is
        no longer where it was; [`~aurora_trl.models.checkpoints.adapters.load_adapter`] leaves it unmerged.

        Raises:
            `ValueError`: names the checkpoint and the first of the keys, or the base that is missing or another one.
        """
        adapter = adapter_asked_for(args, kwargs)
        if adapter is not None:
            # The Auto classes look up the base's revision and config, which are not the adapter's.
            revision = (kwargs.pop("adapter_kwargs", None) or {}).get("revision", kwargs.pop("revision", None))
            for key in ("config", "trust_remote_code", "_from_auto", "pretrained_model_name_or_path"):
                kwargs.pop(key, None)
            merged = load_merged(adapter, revision=revision, **kwargs)
            merged._name_as(adapter, {**kwargs, "revision": revision})
            return (merged, {}) if output_loading_info else merged
        name = args[0] if args else kwargs.get("pretrained_model_name_or_path")
        # Weights under other names, or stored in another form, are for those to judge who asked for them.
        if name is not None and not {"state_dict", "key_mapping", "gguf_file", "quantization_config"} & set(kwargs):
            hub_kwargs = {key: kwargs[key] for key in HUB_ARGUMENTS if key in kwargs}
            config = kwargs.get("config") if isinstance(kwargs.get("config"), AuroraConfig) else None
            check_checkpoint(cls, str(name), *args[1:], config=config, **hub_kwargs)
        if kwargs.get("quantization_config") is not None:
            kwargs["quantization_config"] = with_whole_mask_parts(kwargs["quantization_config"])
        model, info = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        # Under ZeRO-3 transformers notes conversions for the parts' own checkpoints, needed or not (5.23).
        model._weight_conversions = []
        kinds = ("missing_keys", "unexpected_keys", "mismatched_keys")
        require_keys(str(name), **{kind: info.get(kind) or () for kind in kinds})
        require_finite(str(name), model)
        if name is not None:
            model._name_as(str(name), kwargs)
        return (model, info) if output_loading_info else model

    def _name_as(self, name: str, kwargs: dict[str, Any]) -> None:
        """The name that a reference model, an adapter's record and a processor are found by."""
        folder = own_folder(name, **{key: kwargs[key] for key in HUB_ARGUMENTS if key in kwargs})
        if folder != name:
            self.name_or_path = self.config.name_or_path = folder

    @property
    def base_model(self) -> Any:
        """The policy's backbone, which returns `last_hidden_state`; TRL's fused head runs it."""
        return self.policy.model

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights as they are stored: what trains may be float32 beside it."""
        return self.stored_dtype or super().dtype

    def get_input_embeddings(self) -> nn.Module:
        return self.policy.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.policy.get_output_embeddings()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> ModelOutput:
        """
        The policy's forward, and the mask head's where `seg_positions` is given.

        Args:
            input_ids, attention_mask, labels (`torch.Tensor` of shape `(B, L)`): as in any causal language model.
            seg_positions (`torch.Tensor` of shape `(N,)`, long): where `[SEG]` stands; -1 where there is none. Its
                state is then a dummy: the same modules run on every rank, and the loss gives the mask no weight.
                `(N, K)` where answers may have several; the outputs then have that dimension, too. Of a model's
                queries, where the first one stands.
            seg_rows (`torch.Tensor` of shape `(N,)`): the row of each of them, where `clip_index` is given; None: one
                per row, in order.
            states_from (`int`): the head and `seg_positions` know the places from this one on; what stands before,
                such as a prompt of which nothing is learned, leaves no outputs.
            prefix_lengths (`torch.Tensor` of shape `(C,)`): how many tokens the rows of each clip begin with in
                common, which are then read once. The rows are padded on the right, and none of these tokens is
                learned, nor is the next. What the output has per token is laid out in the rows of the clips.
            mask_frames (`torch.Tensor` of shape `(C, T, 3, S, S)`): frames of the clips for the mask decoder, or
            mask_embeddings (`torch.Tensor` of shape `(C, T, E, h, w)`): the same, encoded; where there are neither,
                there are no masks.
            seg_boxes (`torch.Tensor` of shape `(N, T, 6)`): with `mask_source: both`, where the answers say that their
                object is, see [`~aurora_trl.models.box_prompts.place_boxes`].
            clip_index (`torch.Tensor` of shape `(B,)`): the clip of each row; None: row i is clip i. Where it is
                given, the policy's media inputs, too, are per clip: rows that share a clip pay for it once.
            **kwargs: the policy's own inputs.

        Returns:
            `ModelOutput`: the policy's, with `seg_states` `(N, H)`, `seg_features` `(N, E)`, of K queries
            `(N, K, ...)`, and `mask_logits` `(N, T, 4h, 4w)` where masks were asked for; `existence_logits` `(N,)`
            where the model has such an output, which the masks do not know of; `mask_quality` `(N, T)` where the head
            that scores masks trains.
        """
        return self._forward_with_masks(
            self.policy, (), {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels, **kwargs}
        )

    def _forward_with_masks(
        self, inner: Callable[..., ModelOutput], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> ModelOutput:
        """Run `inner`, which runs the backbone once, and add the mask head's outputs to its output."""
        # Some backbones swallow unknown keywords without a word: ours are taken out first.
        seg_inputs = {name: kwargs.pop(name, None) for name in SEG_INPUTS}
        clip_index = seg_inputs["clip_index"]
        if seg_inputs["prefix_lengths"] is not None:
            kwargs = self._rows_of_clips(kwargs, seg_inputs)
        elif clip_index is not None:
            kwargs = self.media_of_rows(kwargs, clip_index)
        if kwargs.get("position_ids") is None:
            require_positions(self.policy, kwargs)
        positions = seg_inputs["seg_positions"]
        with capture_layers(self, seg_inputs["states_from"] or 0) as layers:
            output = inner(*args, **kwargs)
        if positions is None:
            return output
        output = AuroraOutput(**output)
        rows = seg_inputs["seg_rows"]
        if rows is None:
            rows = torch.arange(positions.size(0), device=positions.device)
        elif clip_index is not None and seg_inputs["prefix_lengths"] is None:
            clip_index = clip_index[rows]
        output["seg_states"] = self.seg_states_at(layers[-1], rows, positions)  # (N, H) or (N, K, H)
        output["seg_features"] = self.project(output["seg_states"])
        if self.seg_existence is not None:
            output["existence_logits"] = self.seg_existence(output["seg_states"])
        embeddings = seg_inputs["mask_embeddings"]
        if embeddings is None and seg_inputs["mask_frames"] is not None:
            embeddings = self.encode_masks(seg_inputs["mask_frames"])
        if embeddings is not None:
            features = self.with_boxes(output["seg_features"], seg_inputs["seg_boxes"])
            if self._quality_trains:
                drawn = self.decode_features_with_quality(features, embeddings, clip_index)
                output["mask_logits"], output["mask_quality"] = drawn
            else:
                output["mask_logits"] = self.decode_features(features, embeddings, clip_index)
        return output

    def _rows_of_clips(self, kwargs: dict[str, Any], seg_inputs: dict[str, Any]) -> dict[str, Any]:
        """The policy's inputs as rows of clips, with the places of `[SEG]` in them."""
        clip_index, lengths = seg_inputs["clip_index"], seg_inputs["prefix_lengths"]
        names = (*self.policy.media_inputs, *self.policy.media_embeds)
        media = {name: kwargs[name] for name in names if kwargs.get(name) is not None}
        tokens: dict[str, torch.Tensor] = {
            name: kwargs.pop(name) for name in ("input_ids", "attention_mask", "labels") if name in kwargs
        }
        media_of_rows = {name: value[clip_index] for name, value in media.items()}
        require_positions(self.policy, {**tokens, **media_of_rows})
        position_ids = self.policy.position_ids(tokens["input_ids"], tokens["attention_mask"], **media_of_rows)
        rows, shared = rows_of_clips(tokens, position_ids, clip_index, lengths)
        seg_inputs["states_from"] = rows.layout.prefix_length
        positions = seg_inputs["seg_positions"]
        if positions is not None:
            after = torch.where(positions >= 0, positions - along_rows(lengths[clip_index], positions), positions)
            seg_inputs.update(seg_positions=rows.place(after), seg_rows=rows.row)
        clips = torch.arange(len(lengths), device=lengths.device)
        return {**self.media_of_rows(kwargs, clips), **shared}

    def media_of_rows(self, kwargs: dict[str, Any], clip_index: torch.Tensor) -> dict[str, Any]:
        """
        Repeat what distinct clips give the policy for the rows that show them; media pass the towers once before.

        Args:
            kwargs (`dict`): inputs, the media or their features among them, one entry per clip.
            clip_index (`torch.Tensor` of shape `(B,)`): the clip of each row.

        Returns:
            `dict`: the inputs, with features per row in place of the media.
        """
        media = {name: kwargs[name] for name in self.policy.media_inputs if kwargs.get(name) is not None}
        embeds = {name: kwargs[name] for name in self.policy.media_embeds if kwargs.get(name) is not None}
        if media:
            embeds.update(self.base_model.encode_media(**media).as_inputs())
        others = {name: value for name, value in kwargs.items() if name not in media and name not in embeds}
        return {**others, **{name: value[clip_index] for name, value in embeds.items()}}

    def generate(
        self,
        *args: Any,
        clip_index: torch.Tensor | None = None,
        prompt_index: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """
        As the policy's, which never says a place of sound or video, or of queries: nothing would belong to it.

        Args:
            clip_index (`torch.Tensor` of shape `(B,)`, *optional*): the clip of each row, where the media are those
                of distinct clips.
            prompt_index (`torch.Tensor` of shape `(B,)`, *optional*): rows with the same number have the same prompt,
                which is then read once, and its cache repeated.
            *args, **kwargs: as for the policy.
        """
        settings = kwargs.get("generation_config")
        given = kwargs.pop("suppress_tokens", None) or getattr(settings, "suppress_tokens", None) or ()
        places = {self.config.seg_token_id} if self.seg_queries is not None else set()
        suppressed = sorted({*given, *self.policy.media_token_ids, *places})
        if settings is None:
            kwargs["suppress_tokens"] = suppressed
        else:
            kwargs["generation_config"] = copy.deepcopy(settings)
            kwargs["generation_config"].suppress_tokens = suppressed
        if prompt_index is not None:
            kwargs = read_prompts_once(self, kwargs, clip_index, prompt_index, _new_tokens(kwargs))
        else:
            kwargs = kwargs if clip_index is None else self.media_of_rows(kwargs, clip_index)
            require_positions(self.policy, kwargs, _new_tokens(kwargs))
        if self.decoding_method is not None:
            # `generate` keeps the streamer from a method that is not its own (transformers 5.24).
            kwargs["custom_generate"] = partial(self.decoding_method, streamer=kwargs.get("streamer"))
        return self.policy.generate(*args, **kwargs)

    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return self.policy.prepare_inputs_for_generation(*args, **kwargs)

    def trainable_modules(self) -> dict[str, nn.Module]:
        """The named groups of parameters that a recipe trains or freezes, each as a whole."""
        return {
            **self.policy.trainable_modules(),
            "seg_projector": nn.ModuleList(self.seg_modules),
            **self.mask_decoder.trainable_modules(),
        }

    def set_trainable(self, groups: set[str] | frozenset[str]) -> None:
        """
        Train these groups and freeze everything else; frozen towers are kept in eval mode (layer drop off).

        Args:
            groups (`set[str]`): keys of `trainable_modules()`.

        Raises:
            `ValueError`: for a group that the model does not have.
        """
        modules = self.trainable_modules()
        self._quality_trains = "mask_quality" in groups
        unknown = sorted(set(groups) - set(modules))
        if unknown:
            raise ValueError(f"unknown parameter groups {unknown}; this model has {sorted(modules)}")
        self.requires_grad_(False)
        for name in groups:
            for parameter in modules[name].parameters():
                if parameter.is_floating_point():  # what was loaded in 4 bits stays as it is
                    parameter.requires_grad_(True)
        self._frozen_modules = [module for name, module in modules.items() if name not in groups]
        self.train(self.training)

    def train(self, mode: bool = True) -> "AuroraModel":
        super().train(mode)
        for module in getattr(self, "_frozen_modules", ()):
            module.eval()
        return self


def _new_tokens(settings: dict[str, Any]) -> int:
    """The longest answer that `generate` is asked for."""
    given = settings.get("max_new_tokens") or getattr(settings.get("generation_config"), "max_new_tokens", None)
    return given or 0


AutoModel.register(AuroraConfig, AuroraModel)
AutoModelForCausalLM.register(AuroraConfig, AuroraModel)
