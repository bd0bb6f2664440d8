"""The sound of a scene."""

import numpy as np

from .scene import CLIP_SECONDS, Scene, SceneObject

SAMPLING_RATE = 16_000

# From the lowest to the highest. The unseen classes lie between the others.
_PITCH_ORDER = (
    "drum",
    "piano",
    "harp",
    "guitar",
    "saxophone",
    "trumpet",
    "violin",
    "tambourine",
    "flute",
    "hand-bell",
    "bell",
)
# Struck or plucked: each pulse dies away. The others hold their tone.
_STRUCK = frozenset(("drum", "piano", "harp", "guitar", "tambourine", "hand-bell", "bell"))
_LOWEST_HZ, _HIGHEST_HZ = 150.0, 5000.0
_NOISE_RMS = 0.001
_RAMP_SECONDS = 0.01


def _mel(hertz: float) -> float:
    return 1127.0 * float(np.log1p(hertz / 700.0))


def _hertz(mel: float) -> float:
    return 700.0 * float(np.expm1(mel / 1127.0))


# Even steps in mel, since the model hears through mel bins: even steps in log hertz crowd the low classes into one.
_STEP = (_mel(_HIGHEST_HZ) - _mel(_LOWEST_HZ)) / (len(_PITCH_ORDER) - 1)
PITCH_HZ: dict[str, float] = {name: _hertz(_mel(_LOWEST_HZ) + i * _STEP) for i, name in enumerate(_PITCH_ORDER)}


def pitch_band(class_name: str) -> tuple[float, float]:
    """The band in hertz that belongs to a class alone: its partials stay inside, its faint overtones do not count."""
    centre = _mel(PITCH_HZ[class_name])
    return _hertz(centre - 0.45 * _STEP), _hertz(centre + 0.45 * _STEP)


def render_sound(scene: Scene) -> np.ndarray:
    """
    Render the sound of a scene.

    Args:
        scene (`Scene`): whose objects sound or are silent.

    Returns:
        `np.ndarray` of shape `(160000,)`, int16: 10 seconds at 16 kHz.
    """
    rng = np.random.default_rng([scene.texture_seed, 1])
    wave = rng.normal(0, _NOISE_RMS, round(CLIP_SECONDS * SAMPLING_RATE))
    for scene_object in scene.objects:
        if scene_object.sound is not None:
            start = round(scene_object.sound.onset_seconds * SAMPLING_RATE)
            note = _note(scene_object)
            wave[start : start + len(note)] += note[: len(wave) - start]
    return np.clip(np.rint(wave * 32767), -32768, 32767).astype(np.int16)


def _note(scene_object: SceneObject) -> np.ndarray:
    """The samples of one object's sound from its start to its end, with the root mean square that it should have."""
    sound = scene_object.sound
    assert sound is not None
    time = np.arange(round(sound.duration_seconds * SAMPLING_RATE)) / SAMPLING_RATE
    pitch = PITCH_HZ[scene_object.class_name]
    low, high = pitch_band(scene_object.class_name)
    spread = min(high - pitch, pitch - low) / 2
    struck = scene_object.class_name in _STRUCK
    if struck:
        # Two partials beside each other beat, as those of a struck body do.
        tone = np.sin(2 * np.pi * pitch * time) + 0.5 * np.sin(2 * np.pi * (pitch + spread) * time)
    else:
        vibrato = spread / 5 * np.sin(2 * np.pi * 5 * time) / 5
        tone = np.sin(2 * np.pi * (pitch * time) + vibrato)
    # An overtone this faint stays below the softest sound in another class's band.
    if 2 * pitch < SAMPLING_RATE / 2:
        tone += 0.03 * np.sin(2 * np.pi * 2 * pitch * time)
    tone *= _pulses(time, sound.pulses_per_second, struck)
    return tone * (sound.rms / np.sqrt(np.mean(tone**2)))


def _pulses(time: np.ndarray, pulses_per_second: float, struck: bool) -> np.ndarray:
    """Loudness over time: pulses with short ramps, which keep the clicks of hard edges out of the other bands."""
    period = 1 / pulses_per_second
    phase = np.mod(time, period)
    if struck:
        envelope = np.exp(-phase / (0.25 * period)) * np.clip((period - phase) / _RAMP_SECONDS, 0, 1)
    else:
        envelope = np.clip((0.6 * period - phase) / _RAMP_SECONDS, 0, 1)
    envelope = envelope * np.clip(phase / _RAMP_SECONDS, 0, 1)
    return envelope * np.clip((time[-1] - time) / _RAMP_SECONDS, 0, 1)
