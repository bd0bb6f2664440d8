"""From a clip and a reference to reasoning and masks."""

import difflib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from ..data.schema import Row
from ..models.box_prompts import FrameView
from ..models.modeling_aurora import AuroraModel
from ..models.objects import along_rows
from ..models.processing_aurora import AuroraProcessor
from ..prompts import is_null_answer
from .answer import Answer
from .answer_masks import draw_from_boxes, draw_from_states, read_boxes_beside
from .checking import check_answers
from .choosing import Choosing, choose_answers, seeded
from .clip_loader import ClipLoader, pad_ids, stack_clips
from .engines import choose_engine, gather_seg_states, read_states, recorded_generation
from .swaps import swap_modality

logger = logging.getLogger(__name__)

# From this share of cut answers on a line says so.
MUCH_CUT = 0.03


@dataclass(frozen=True)
class _Questions:
    """
    A batch of rows, whose distinct clips were encoded once.

    Attributes:
        rows (`list[dict]`): B dataset rows.
        prompts (`list[list[int]]`): of each, as the model sees them.
        clip_index (`torch.Tensor` of shape `(B,)`): the clip of each.
        views (`list[FrameView]`): the size of each one's frames, and how the policy speaks of places in them.
        embeds (`dict[str, torch.Tensor]`): what the towers made of the C clips.
        mask_embeddings (`torch.Tensor` of shape `(C, T, E, h, w)`): and the mask encoder.
    """

    rows: Sequence[Row]
    prompts: list[list[int]]
    clip_index: torch.Tensor
    views: list[FrameView]
    embeds: dict[str, torch.Tensor]
    mask_embeddings: torch.Tensor


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
    "guidance_scale": "it runs the model without the clip in between, whose states would stand at [SEG]",
    "penalty_alpha": "it tries several tokens at each place, whose states would stand at [SEG]",
    "dola_layers": "it compares layers with code of its own",
    "token_healing": "it changes the prompt, in which the clip has its places",
    "is_assistant": "the answers are the model's own",
    "eos_token_id": "the answer ends with the tokenizer's; use `stop_strings` for another end",
    "pad_token_id": "it is the tokenizer's",
    "cache_implementation": "the prompt's cache is given; choose an `engine`",
    "use_cache": "the prompt is read beforehand, into a cache of its own",
}
_HARMLESS: dict[str, tuple[Any, ...]] = {"num_return_sequences": (1,), "use_cache": (True,), "guidance_scale": (1,)}
_TAKEN = ("max_new_tokens", "logits_processor", "stopping_criteria", "streamer", "tokenizer")


def check_generate_kwargs(settings: Mapping[str, Any]) -> None:
    """
    Raise `ValueError` for a setting of `generate` that does not exist, or that would part an answer from its mask.

    Args:
        settings (`Mapping[str, Any]`): keywords; everything about sampling is right, beams too.
    """
    for name, value in settings.items():
        # By identity: 0 is equal to False, and the id of a token.
        harmless = value is None or value in _HARMLESS.get(name, ()) or (value is False and name != "use_cache")
        if name in _REFUSED and not harmless:
            raise ValueError(f"`{name}` is not taken by `generate` here: {_REFUSED[name]}")
        if name not in _TAKEN and name not in vars(GenerationConfig()):
            close = difflib.get_close_matches(name, vars(GenerationConfig()), n=1)
            raise ValueError(f"`generate` has no `{name}`" + (f"; did you mean `{close[0]}`?" if close else ""))


def _stops_early(settings: Mapping[str, Any]) -> bool:
    """Whether an answer may be whole without the token that ends it: at a text, or where its user says so."""
    return bool(settings.get("stop_strings") or settings.get("stopping_criteria")) and not settings.get("max_time")


def _num_beams(model: AuroraModel, settings: Mapping[str, Any]) -> int:
    return settings.get("num_beams") or getattr(model.generation_config, "num_beams", None) or 1


@torch.no_grad()
def answer_batch(
    model: AuroraModel,
    processor: AuroraProcessor,
    rows: Sequence[Row],
    loader: ClipLoader,
    engine: str = "auto",
    choosing: Choosing | None = None,
    **generate_kwargs: Any,
) -> list[Answer]:
    """
    Answer a batch of rows; each distinct clip passes the towers and the mask encoder once.

    Args:
        model, processor: from `load`.
        rows (`list[dict]`): dataset rows.
        loader (`ClipLoader`): reads the media.
        engine (`str`, *optional*, defaults to `"auto"`): what samples, see [`choose_engine`].
        choosing (`Choosing`, *optional*): how an answer is chosen out of several; there is one by default.
        **generate_kwargs: for `generate`, such as `max_new_tokens`, `do_sample`.

    Returns:
        `list[Answer]`: one per row.
    """
    choosing = choosing or Choosing()
    questions = _encode_questions(model, processor, rows, loader)

    def write(numbers: Sequence[int], **settings: Any) -> list[Answer]:
        # Answers to choose from are sampled from all tokens; transformers' own default is the 50 likeliest.
        given = {"top_k": 0, **generate_kwargs} if choosing.is_on else generate_kwargs
        settings = {"do_sample": False, **given, **settings}
        scored = choosing.scored or choosing.needs_quality
        return _write_answers(model, processor, questions, numbers, engine, scored, settings)

    def check(numbers: Sequence[int], answers: Sequence[Answer]) -> list[float]:
        return check_answers(model, processor, loader, [rows[number] for number in numbers], answers)

    if not choosing.is_on:
        return write(range(len(rows)))
    return choose_answers(choosing, rows, write, check, processor.restore_masks)


def _encode_questions(
    model: AuroraModel, processor: AuroraProcessor, rows: Sequence[Row], loader: ClipLoader
) -> _Questions:
    device = next(model.parameters()).device
    clips, order = loader.distinct_clips(rows)
    media = stack_clips(clips)
    mask_embeddings = model.encode_masks(media.pop("mask_frames"))
    media = {name: value.to(device) for name, value in media.items()}
    views = [processor.frame_view(clip) for clip in clips]
    return _Questions(
        rows,
        prompts=[processor.prompt_ids(row, clips[i]) for row, i in zip(rows, order, strict=True)],
        clip_index=torch.tensor(order, device=device),
        views=[views[i] for i in order],
        embeds=model.base_model.encode_media(**media).as_inputs(),
        mask_embeddings=mask_embeddings,
    )


def _write_answers(
    model: AuroraModel,
    processor: AuroraProcessor,
    questions: _Questions,
    numbers: Sequence[int],
    engine: str,
    with_quality: bool,
    settings: Mapping[str, Any],
) -> list[Answer]:
    """An answer to each of these questions, which may repeat: those to one share its prompt, those about a clip it."""
    tokenizer, clip_index = processor.tokenizer, questions.clip_index[list(numbers)]
    prompts = [questions.prompts[number] for number in numbers]
    input_ids = pad_ids(prompts, tokenizer.pad_token_id, side="left").to(clip_index)
    attention_mask = pad_ids([[1] * len(ids) for ids in prompts], 0, side="left").to(clip_index)

    media: dict[str, Any] = {**questions.embeds, "clip_index": clip_index}
    searches = _num_beams(model, settings) > 1
    if model.policy.supports_shared_prefix and not searches and settings.get("use_cache") is not False:
        media["prompt_index"] = torch.tensor(list(numbers), device=clip_index.device)
    with recorded_generation(model, "eager" if searches and engine == "auto" else engine) as states:
        sequences = model.generate(
            input_ids=input_ids,
            attention_mask=attention_mask,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **media,
            **settings,
        )
    if searches:
        states.clear()  # they are those of the beams, which change places: the answers' own are read again below
    completion_ids = sequences[:, input_ids.size(1) :]
    is_eos = completion_ids == tokenizer.eos_token_id
    completion_mask = (is_eos.cumsum(1) - is_eos.long()) == 0  # up to the first end of turn
    if _stops_early(settings):
        # A row that ended before the others of its batch has padding behind it.
        padded = (completion_ids == tokenizer.pad_token_id).flip(1).long().cumprod(dim=1).flip(1).bool()
        completion_mask &= ~padded
    texts = processor.batch_decode(
        [ids[mask].tolist() for ids, mask in zip(completion_ids, completion_mask, strict=True)],
        skip_special_tokens=True,
    )
    lengths = completion_mask.sum(dim=1).tolist()
    cut = [
        not ended and not (_stops_early(settings) and length < settings["max_new_tokens"])
        for ended, length in zip(is_eos.any(dim=1).tolist(), lengths, strict=True)
    ]
    answers = [
        Answer(questions.rows[number], text.strip(), None, length, is_cut)
        for number, text, length, is_cut in zip(numbers, texts, lengths, cut, strict=True)
    ]
    views = [questions.views[number] for number in numbers]
    if model.config.mask_source == "box":
        draw_from_boxes(model, processor, answers, views, questions.mask_embeddings, clip_index)
        return answers
    completions = (prompts, completion_ids, completion_mask)
    repeated = {name: value[clip_index] for name, value in questions.embeds.items()}
    if model.config.seg_source == "queries":
        drawn = [not answer.cut and not is_null_answer(answer.completion) for answer in answers]
        seg_states = _states_at_queries(model, processor, drawn, completions, repeated)
    else:
        seg_states = _states_of_answers(model, processor, states, completions, repeated)
    draw_from_states(
        model,
        processor,
        answers,
        [view.frame_size for view in views],
        questions.mask_embeddings,
        clip_index,
        *seg_states,
        with_quality=with_quality,
        boxes=read_boxes_beside(model, processor, answers, views),
    )
    return answers


def _states_of_answers(
    model: AuroraModel,
    processor: AuroraProcessor,
    states: list[torch.Tensor],
    completions: tuple[list[list[int]], torch.Tensor, torch.Tensor],
    media: dict[str, torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """The states at the `[SEG]` of answers, and which have one: those that were recorded, or read again."""
    prompts, completion_ids, completion_mask = completions
    positions = processor.find_seg_positions(completion_ids, completion_mask)
    seg_states, has_seg, known = gather_seg_states(states, positions)
    if not states or not bool((known | ~has_seg).all()):
        written = [p + c[m].tolist() for p, c, m in zip(prompts, completion_ids, completion_mask, strict=True)]
        lengths = torch.tensor([len(ids) for ids in prompts], device=positions.device)
        positions = positions + along_rows(lengths, positions)
        late = read_states(model, written, positions, processor.tokenizer.pad_token_id, **media)
        seg_states = torch.where(known[..., None], seg_states, late)
    return seg_states, has_seg


def _states_at_queries(
    model: AuroraModel,
    processor: AuroraProcessor,
    drawn: Sequence[bool],
    completions: tuple[list[list[int]], torch.Tensor, torch.Tensor],
    media: dict[str, torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """The states at the queries behind answers, and of which they draw: the answers are read once more with them."""
    written = [ids + own[mask].tolist() for ids, own, mask in zip(*completions, strict=True)]
    has_queries = torch.tensor(drawn, device=completions[1].device)
    positions = torch.tensor([len(ids) for ids in written], device=has_queries.device)
    written = [ids + processor.query_ids for ids in written]
    return read_states(model, written, positions, processor.tokenizer.pad_token_id, **media), has_queries


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
    choosing: Choosing | None = None,
    seed: int | None = None,
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
        choosing (`Choosing`, *optional*): how an answer is chosen out of several; there is one by default.
        seed (`int`, *optional*): where answers are sampled, a batch of rows always gets the same ones.
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
    if choosing is not None:
        choosing.require_possible(model, processor, generate_kwargs)
    was_training = model.training
    model.eval()
    try:
        for start in range(0, len(rows), batch_size):
            batch = slice(start, start + batch_size)
            settings = {"max_new_tokens": limit, "engine": engine, "choosing": choosing, **generate_kwargs}
            with nullcontext() if seed is None else seeded(seed, asked[batch]):
                answers = answer_batch(model, processor, asked[batch], loader, **settings)
            for row, answer in zip(rows[batch], answers, strict=True):
                answer.row = row
                yield answer
    finally:
        model.train(was_training)
