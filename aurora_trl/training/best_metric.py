"""Whether an evaluation will hold the number by which a run keeps its best checkpoint."""

import difflib
from typing import Any

from transformers import TrainerCallback

from ..errors import DataError

# What transformers, TRL and this package log of an evaluation. A name with a slash is one of TRL's groups.
_COMMON = ("loss", "runtime", "samples_per_second", "steps_per_second", "entropy", "num_tokens", "iou")
_SFT = (
    *("mean_token_accuracy", "mask_bce_loss", "mask_dice_loss", "mask_quality_loss", "box_loss", "point_loss"),
    *("existence_loss", "existence_accuracy", "alignment_loss", "distillation_loss"),
)
_GRPO = (
    *("reward", "reward_std", "reward_std_in_group", "frac_reward_zero_std", "equal_reward_share"),
    *("seg_share", "reflective_share", "kl", "policy_loss", "entropy_coef", "cispo_clip_ratio"),
)
_PACKAGES = ("aurora_trl", "transformers", "trl")


def require_known_metric(trainer: Any) -> None:
    """
    Raise before a step is taken for a `metric_for_best_model` that no evaluation will hold.

    Args:
        trainer (`Trainer`): one of ours. Of a class, a callback or a reward of one's own, which may add numbers, only
            the names of several evaluation sets are compared.

    Raises:
        `DataError`: names the metric and what there is.
    """
    args, datasets = trainer.args, trainer.eval_dataset
    if args.metric_for_best_model is None or args.eval_strategy == "no":
        return
    metric = args.metric_for_best_model.removeprefix("eval_")
    usual = "reward" if hasattr(trainer, "reward_funcs") else "loss"
    if isinstance(datasets, dict):
        own = [metric.removeprefix(f"{name}_") for name in datasets if metric.startswith(f"{name}_")]
        if not own:
            raise DataError(
                f"`metric_for_best_model: {args.metric_for_best_model}` is none of an evaluation of "
                f"{', '.join(datasets)}, each of which has its own: name one, such as "
                f"`eval_{next(iter(datasets))}_{usual}`"
            )
    else:
        own = [metric]
    known = _known_metrics(trainer)
    if known is None or any(name in known or _in_group(name) for name in own):
        return
    close = difflib.get_close_matches(own[0], known, n=1)
    hint = f"did you mean `{close[0]}`?" if close else f"it has {', '.join(known)}"
    raise DataError(f"`metric_for_best_model: {args.metric_for_best_model}` is no metric of an evaluation; {hint}")


def _known_metrics(trainer: Any) -> list[str] | None:
    """The names of all numbers of an evaluation; None where code of one's own may add some."""
    rewards = getattr(trainer, "reward_funcs", [])
    watchers = [
        type(callback)
        for callback in trainer.callback_handler.callbacks
        if type(callback).on_evaluate is not TrainerCallback.on_evaluate
    ]
    makers = [
        type(trainer),
        *watchers,
        *(reward if hasattr(reward, "__name__") else type(reward) for reward in rewards),
    ]
    if any(maker.__module__.partition(".")[0] not in _PACKAGES for maker in makers):
        return None
    if not rewards:
        return [*_COMMON, *_SFT]
    parts = [f"rewards/{name}/{part}" for name in trainer.reward_func_names for part in ("mean", "std")]
    return [*_COMMON, *_GRPO, *parts]


def _in_group(name: str) -> bool:
    return "/" in name and not name.startswith("rewards/")
