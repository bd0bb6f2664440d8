"""From a clip and a reference to reasoning and masks."""

import difflib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from ..data.schema import Row, clip_key
from ..models.modeling_aurora import AuroraModel
from ..models.objects import along_rows, union_logits
from ..models.processing_aurora import AuroraProcessor
from .clip_loader import ClipLoader, pad_ids, stack_clips
from .engines import choose_engine, gather_seg_states, read_states, recorded_generation

logger = logging.getLogger(__name__)

# From this share of cut answers on a line says so.
MUCH_CUT = 0.03
MODALITIES = ("audio", "video", "reference")


@dataclass
class Answer:
    """
    What the model said and drew for one row.

    Attributes:
        row (`dict`): the dataset row that was asked about.
        completion (`str`): the generated text, without special tokens.
        mask_logits (`torch.Tensor` of shape `(T, H', W')` or `None`): logits with the frame's aspect ratio, on the
            CPU; None where the answer holds no `[SEG]`, their union where it holds several that count.
        num_tokens (`int`): length of the completion, the end-of-turn token included.
        cut (`bool`, *optional*, defaults to `False`): whether it ended at the limit, in the middle of something.
        object_logits (`torch.Tensor` of shape `(N, T, H', W')`, *optional*): where several `[SEG]` count, each one's;
            where the decoder finds several instances of what one `[SEG]` names, each instance's.
        seg_features (`torch.Tensor` of shape `(N, E)`, *optional*): the projected states at the `[SEG]` that count, on
            the CPU: what prompts the mask decoder, in other frames too. None where there is none.
        decoded_logits (`torch.Tensor` of shape `(T, h, w)`, *optional*): what `mask_logits` were made of, as they came
            from the decoder; on the CPU.
    """

    row: Row
    completion: str
    mask_logits: torch.Tensor | None
    num_tokens: int
    cut: bool = False
    object_logits: torch.Tensor | None = None
    seg_features: torch.Tensor | None = None
    decoded_logits: torch.Tensor | None = None


def load(
    model_dir: str | Path, device: str | torch.device | None = None, *, engine: str = "auto"
) -> tuple[AuroraModel, AuroraProcessor]:
    """
    Load a checkpoint for inference.

    Args:
        model_dir (`str` or `Path`): a phase's output folder, or a Hub repository.
        device (`str`, *optional*): where to put it; a GPU where there is one by default.
        engine (`str`, *optional*, defaults to `"auto"`): what samples, see [`choose_engine`].

    Returns:
        `tuple`: the model in eval mode, and its processor.
    """
    torch_device = find_device(device)
    processor = AuroraProcessor.from_pretrained(model_dir)  # first: what is wrong with it is known in a moment
    model = AuroraModel.from_pretrained(str(model_dir)).to(torch_device).eval()
    processor.require_fit(model)
    choose_engine(engine, model)  # what can not be is known before anything is asked
    model.generation_engine = engine
    return model, processor


def find_device(name: str | torch.device | None = None) -> torch.device:
    """
    A device by its name; a GPU where there is one by default.

    Raises:
        `ValueError`: where it is none, or not in this machine.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch's without CUDA is an assertion
        raise ValueError(f"device {str(name)!r} can not be used: {str(error).splitlines()[0]}; try cpu") from None
    return device


def warn_of_cut_answers(cut: Sequence[bool], what_follows: str = "") -> float:
    """
    Say so where more than a few answers ended at the limit.

    Args:
        cut (`Sequence[bool]`): of each answer.
        what_follows (`str`, *optional*): what becomes of them, for the line.

    Returns:
        `float`: their share.
    """
    share = sum(cut) / len(cut) if cut else 0.0
    if share > MUCH_CUT:
        logger.warning(
            f"{sum(cut)} of {len(cut)} answers ({share:.0%}) were cut at the limit{what_follows}; raise it with "
            "`--max-new-tokens`, or train the model to end its answers"
        )
    return share


def swap_modality(rows: Sequence[Row], modality: str) -> list[dict[str, Any]]:
    """
    The rows with one modality taken from another row's clip: what a model does not use, it does not miss.

    Args:
        rows (`list[dict]`): dataset rows of at least two clips.
        modality (`str`): `"audio"`, `"video"` or `"reference"`.

    Returns:
        `list[dict]`: new rows; row i has the modality of the next row, half the list further on, with another clip.

    Raises:
        `ValueError`: for an unknown modality, or where all rows show one clip.
    """
    if modality not in MODALITIES:
        raise ValueError(f"unknown modality {modality!r}; use one of {', '.join(MODALITIES)}")
    keys = [clip_key(row) for row in rows]
    if len(set(keys)) < 2:
        raise ValueError(f"{modality} can not be swapped: all {len(rows)} rows show one clip")
    columns = {"audio": ("audio",), "video": ("frames", "video", "masks"), "reference": ("reference",)}[modality]
    swapped = []
    for i, row in enumerate(rows):
        candidates = (rows[(i + len(rows) // 2 + j) % len(rows)] for j in range(len(rows)))
        other = next(
            candidate
            for candidate in candidates
            if clip_key(candidate) != keys[i]
            and (modality != "reference" or candidate["reference"] != row["reference"])
        )
        swapped.append({**row, **{column: other[column] for column in columns}})
    return swapped


_REFUSED = {
    "num_return_sequences": "a row has one answer; ask about the row several times",
    "return_dict_in_generate": "answers come as `Answer`",
    "output_hidden_states": "the states at [SEG] are kept in any case",
    "output_scores": "answers come as `Answer`",
    "output_logits": "answers come as `Answer`",
    "output_attentions": "answers come as `Answer`",
    "assistant_model": "the states at [SEG] would be another model's",
    "prompt_lookup_num_tokens": "tokens that are guessed leave no states at [SEG]",
    "assistant_early_exit": "tokens that are guessed leave no states at [SEG]",
    "max_length": "it counts the prompt; use `max_new_tokens`",
    "generation_config": "name its settings one by one",
}
_TAKEN = ("max_new_tokens", "logits_processor", "stopping_criteria", "streamer", "tokenizer")


def check_generate_kwargs(settings: Mapping[str, Any]) -> None:
    """
    Raise `ValueError` for a setting of `generate` that does not exist, or that would part an answer from its mask.

    Args:
        settings (`Mapping[str, Any]`): keywords; everything about sampling is right, beams too.
    """
    for name, value in settings.items():
        harmless = value is None or value is False or (name == "num_return_sequences" and value == 1)
        if name in _REFUSED and not harmless:
            raise ValueError(f"`{name}` is not taken by `generate` here: {_REFUSED[name]}")
        if name not in _TAKEN and not hasattr(GenerationConfig(), name):
            close = difflib.get_close_matches(name, vars(GenerationConfig()), n=1)
            raise ValueError(f"`generate` has no `{name}`" + (f"; did you mean `{close[0]}`?" if close else ""))


def _num_beams(model: AuroraModel, settings: Mapping[str, Any]) -> int:
    return settings.get("num_beams") or getattr(model.generation_config, "num_beams", None) or 1


@torch.no_grad()
def answer_batch(
    model: AuroraModel,
    processor: AuroraProcessor,
    rows: Sequence[Row],
    loader: ClipLoader,
    engine: str = "auto",
    **generate_kwargs: Any,
) -> list[Answer]:
    """
    Answer a batch of rows; each distinct clip passes the towers and the mask encoder once.

    Args:
        model, processor: from `load`.
        rows (`list[dict]`): dataset rows.
        loader (`ClipLoader`): reads the media.
        engine (`str`, *optional*, defaults to `"auto"`): what samples, see [`choose_engine`].
        **generate_kwargs: for `generate`, such as `max_new_tokens`, `do_sample`.

    Returns:
        `list[Answer]`: one per row.
    """
    device = next(model.parameters()).device
    clips, order = loader.distinct_clips(rows)
    clip_index = torch.tensor(order, device=device)
    media = stack_clips(clips)
    mask_embeddings = model.encode_masks(media.pop("mask_frames"))
    media = {name: value.to(device) for name, value in media.items()}
    embeds = model.base_model.encode_media(**media).as_inputs()
    prompts = [processor.prompt_ids(row, clips[i]) for row, i in zip(rows, order, strict=True)]
    input_ids = pad_ids(prompts, processor.tokenizer.pad_token_id, side="left").to(device)
    attention_mask = pad_ids([[1] * len(ids) for ids in prompts], 0, side="left").to(device)

    repeated = {name: value[clip_index] for name, value in embeds.items()}
    settings = {"do_sample": False, **generate_kwargs}
    searches = _num_beams(model, settings) > 1
    with recorded_generation(model, "eager" if searches and engine == "auto" else engine) as states:
        sequences = model.generate(
            input_ids=input_ids,
            attention_mask=attention_mask,
            eos_token_id=processor.tokenizer.eos_token_id,
            pad_token_id=processor.tokenizer.pad_token_id,
            **repeated,
            **settings,
        )
    if searches:
        states.clear()  # they are those of the beams, which change places: the answers' own are read again below
    completion_ids = sequences[:, input_ids.size(1) :]
    is_eos = completion_ids == processor.tokenizer.eos_token_id
    completion_mask = (is_eos.cumsum(1) - is_eos.long()) == 0  # up to the first end of turn
    positions = processor.find_seg_positions(completion_ids, completion_mask)
    seg_states, has_seg, known = gather_seg_states(states, positions)
    if not states or not bool((known | ~has_seg).all()):
        written = [p + c[m].tolist() for p, c, m in zip(prompts, completion_ids, completion_mask, strict=True)]
        positions = positions + along_rows(torch.tensor([len(ids) for ids in prompts], device=device), positions)
        late = read_states(model, written, positions, processor.tokenizer.pad_token_id, **repeated)
        seg_states = torch.where(known[..., None], seg_states, late)

    named = model.decode_objects(seg_states, mask_embeddings, clip_index) if seg_states.dim() == 2 else None
    mask_logits = model.decode_masks(seg_states, mask_embeddings, clip_index) if named is None else named[0].amax(1)
    there = has_seg if model.seg_existence is None else has_seg & (model.seg_existence(seg_states) >= 0)
    features = _features_of_answers(model.project(seg_states), there)
    sizes = [tuple(clips[i]["frame_size"].tolist()) for i in order]
    drawn = _restore_answers(processor, mask_logits, has_seg, sizes)
    if named is not None:
        drawn = _with_named_objects(processor, drawn, *named, sizes)
    texts = processor.batch_decode(
        [ids[mask].tolist() for ids, mask in zip(completion_ids, completion_mask, strict=True)],
        skip_special_tokens=True,
    )
    lengths, cut = completion_mask.sum(dim=1).tolist(), (~is_eos.any(dim=1)).tolist()
    return [
        Answer(row, text.strip(), union, length, is_cut, each, prompts, decoded)
        for row, text, length, is_cut, (union, each, decoded), prompts in zip(
            rows, texts, lengths, cut, drawn, features, strict=True
        )
    ]


def _features_of_answers(seg_features: torch.Tensor, there: torch.Tensor) -> list[torch.Tensor | None]:
    """Of features `(B, E)` or `(B, K, E)`, those of the objects that are there, `(N, E)`; None for none."""
    each = seg_features.unsqueeze(1) if seg_features.dim() == 2 else seg_features
    kept = there.reshape(len(there), -1)
    return [features[own].cpu() if bool(own.any()) else None for features, own in zip(each, kept, strict=True)]


_Drawn = tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]


def _restore_answers(
    processor: AuroraProcessor, mask_logits: torch.Tensor, has_seg: torch.Tensor, sizes: Sequence[tuple[int, ...]]
) -> list[_Drawn]:
    """
    `mask_logits`, `object_logits` and `decoded_logits` of each [`Answer`]; decoded were `(B, T, h, w)` or
    `(B, K, T, h, w)`.
    """
    object_logits = mask_logits if mask_logits.dim() == 5 else None
    counts = has_seg.long()
    if object_logits is not None:
        mask_logits, counts = union_logits(object_logits, has_seg), has_seg.sum(dim=1)
    # Resized on the CPU, wherever the model is: what is kept of an answer then gives the same bits again.
    decoded = mask_logits.cpu()
    drawn: list[_Drawn] = []
    for i, (count, size) in enumerate(zip(counts.tolist(), sizes, strict=True)):
        frame_size, each = (size[0], size[1]), None
        if object_logits is not None and count > 1:
            each = torch.stack([processor.restore_masks(one.cpu(), frame_size) for one in object_logits[i, :count]])
        union = processor.restore_masks(decoded[i], frame_size) if count else None
        drawn.append((union, each, decoded[i] if count else None))
    return drawn


def _with_named_objects(
    processor: AuroraProcessor,
    drawn: Sequence[_Drawn],
    object_logits: torch.Tensor,
    there: torch.Tensor,
    sizes: Sequence[tuple[int, ...]],
) -> list[_Drawn]:
    """What was drawn, with the instances `(B, K, T, h, w)` of what one `[SEG]` names, where there are several."""
    found: list[_Drawn] = []
    for (union, each, decoded), logits, kept, size in zip(drawn, object_logits, there, sizes, strict=True):
        if union is not None and kept.sum() > 1:
            each = torch.stack([processor.restore_masks(one.cpu(), (size[0], size[1])) for one in logits[kept]])
        found.append((union, each, decoded))
    return found


def answer_rows(
    model: AuroraModel,
    processor: AuroraProcessor,
    rows: Sequence[Row],
    *,
    batch_size: int = 8,
    max_new_tokens: int | None = None,
    swap: str | None = None,
    loader: ClipLoader | None = None,
    engine: str = "auto",
    **generate_kwargs: Any,
) -> Iterator[Answer]:
    """
    Answer rows in order, batch by batch.

    Args:
        model, processor: from `load`.
        rows (`list[dict]` or `Dataset`): dataset rows.
        batch_size (`int`, *optional*, defaults to 8): rows per forward.
        max_new_tokens (`int`, *optional*): longest answer, in tokens; see [`AuroraProcessor.answer_limit`].
        swap (`str`, *optional*): replace one modality by another clip's, see `swap_modality`; the answers keep the
            original rows.
        loader (`ClipLoader`, *optional*): shared between calls where clips repeat.
        engine (`str`, *optional*, defaults to `"auto"`): what samples, see [`choose_engine`].
        **generate_kwargs: for `generate`.

    Yields:
        `Answer`: one per row.
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}")
    rows = [dict(row) for row in rows]
    asked = rows if swap is None else swap_modality(rows, swap)
    loader = loader or ClipLoader(processor)
    limit = processor.answer_limit(max_new_tokens)
    check_generate_kwargs(generate_kwargs)
    choose_engine(engine, model)
    was_training = model.training
    model.eval()
    try:
        for start in range(0, len(rows), batch_size):
            batch = slice(start, start + batch_size)
            settings = {"max_new_tokens": limit, "engine": engine, **generate_kwargs}
            answers = answer_batch(model, processor, asked[batch], loader, **settings)
            for row, answer in zip(rows[batch], answers, strict=True):
                answer.row = row
                yield answer
    finally:
        model.train(was_training)
