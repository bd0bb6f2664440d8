"""Where a policy sees and hears what a reference is besides its text: behind the clip."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..data.media.reference import REFERENCE_SOUNDS, ReferenceMedia
from ..data.schema import Row
from ..errors import DataError
from .policies.timing import nearest_sound

# Silence before each sound behind a clip.
_PAUSE_SECONDS = 1.0


def require_taken(rows: Iterable[Row], processor: Any) -> None:
    """
    Raise `DataError` for the first row whose reference a policy could not hear or see.

    Args:
        rows (`Iterable[dict]`): dataset rows.
        processor (`AuroraProcessor`): of the model.
    """
    places = processor.policy_frames or processor.num_frames
    for row in rows:
        name = next((name for name in REFERENCE_SOUNDS if row.get(name)), None)
        if name is not None and processor.policy_processor.sampling_rate is None:
            raise DataError(
                f"row {row.get('id')!r}: it has a `{name}`, and the policy does not hear; leave such rows out (of "
                "OmniAVS, the subsets `text` and `text_image` have none)"
            )
        if row.get("reference_image") and places < 3:
            raise DataError(
                f"row {row.get('id')!r}: it has a `reference_image`, which takes a place of a frame, and the policy "
                f"looks at {places}; raise `policy_frames`, or leave such rows out"
            )


def places_of_clip(places: int, reference: ReferenceMedia | None) -> int:
    """
    How many of a policy's frames show the clip.

    A picture of the reference has the last two of an even number, for policies join frames in pairs, and the last one
    of an odd number, which has no partner.
    """
    has_picture = reference is not None and reference.picture is not None
    return places - (2 - places % 2) if has_picture else places


def add_picture(frames: np.ndarray, reference: ReferenceMedia | None, places: int) -> np.ndarray:
    """Frames `(T, H, W, 3)` of a clip, and behind them, in all places that are left, the picture of its reference."""
    if reference is None or reference.picture is None:
        return frames
    return np.concatenate([frames, np.repeat(reference.picture[None], places - len(frames), axis=0)])


def add_sounds(
    policy_processor: Any,
    waveform: np.ndarray | None,
    reference: ReferenceMedia | None,
    frame_seconds: Sequence[float] | None,
    num_frames: int,
) -> np.ndarray | None:
    """
    A clip's sound, and behind it, each after a moment of silence, those of its reference. They are heard whole: where
    all is longer than the policy hears, the clip's own gives way.

    Args:
        policy_processor (`PolicyProcessor`): says what it hears.
        waveform (`np.ndarray` of shape `(samples,)`, *optional*): the clip's.
        reference (`ReferenceMedia`, *optional*): its sounds are at the same rate.
        frame_seconds, num_frames: as for [`~aurora_trl.models.policies.timing.nearest_sound`].

    Raises:
        `DataError`: where the sounds alone are longer than the policy hears.
    """
    if reference is None or not reference.sounds:
        return waveform
    rate, longest = policy_processor.sampling_rate, getattr(policy_processor, "longest_sound", None)
    pause = np.zeros(round(_PAUSE_SECONDS * rate), np.float32)
    behind = np.concatenate([part for sound in reference.sounds for part in (pause, sound)])
    if waveform is None:
        waveform, behind = behind[:0], behind[len(pause) :]
    if longest is not None and len(behind) > longest:
        raise DataError(
            f"row {reference.row_id!r}: the sounds of its reference take {len(behind) / rate:.1f} s, and the policy "
            f"hears {longest / rate:.1f} s; raise `audio_seconds` of the checkpoint's processor, or leave the row out"
        )
    if longest is not None and len(waveform) + len(behind) > longest:
        # The sample too many tells a policy that these are pieces, which it does not set beside its frames.
        waveform = nearest_sound(waveform, longest - len(behind) + 1, rate, frame_seconds, num_frames)
    return np.concatenate([waveform, behind])
