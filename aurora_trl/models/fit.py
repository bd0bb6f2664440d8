"""Whether a processor and a model belong together."""

from typing import Any

from ..errors import DataError

_LEAST_DIFFERENCE = 1e-6


def require_fit(processor: Any, model: Any) -> None:
    """
    See to it that a processor is a model's, and not another's: what differs would be drawn elsewhere, or read at
    another token, without a word.

    Args:
        processor (`AuroraProcessor`): that writes inputs.
        model (`AuroraModel`): that will read them.

    Raises:
        `DataError`: names the setting, and both values.
    """
    config, decoder = model.config, model.config.mask_decoder_config
    pairs: dict[str, tuple[Any, Any]] = {
        "mask_image_size": (processor.mask_image_size, getattr(decoder, "image_size", None)),
        "keep_aspect_ratio": (processor.keep_aspect_ratio, getattr(decoder, "keep_aspect_ratio", None)),
        "pixel_mean": (processor.pixel_mean, getattr(decoder, "pixel_mean", None)),
        "pixel_std": (processor.pixel_std, getattr(decoder, "pixel_std", None)),
        "mask_source": (processor.mask_source, config.mask_source),
        "seg_source": (processor.seg_source, config.seg_source),
        "num_queries": (processor.num_queries, config.num_queries if config.seg_source == "queries" else None),
        "seg_token_id": (processor.seg_token_id, config.seg_token_id),
    }
    where = model.name_or_path or "the model"
    for name, (own, models) in pairs.items():
        if models is not None and not _same(own, models):
            raise DataError(
                f"{where}: a processor of another model: its `{name}` is {own}, the model's is {models}; load "
                "both from the same folder"
            )
    size, rows = len(processor.tokenizer), getattr(config.get_text_config(), "vocab_size", None)
    if rows is not None and size > rows:
        raise DataError(f"{where}: the tokenizer has {size} tokens, the model {rows}; load both from one folder")


def _same(own: Any, models: Any) -> bool:
    if not isinstance(own, list | tuple):
        return bool(own == models)
    return len(own) == len(models) and all(abs(a - b) <= _LEAST_DIFFERENCE for a, b in zip(own, models, strict=True))
