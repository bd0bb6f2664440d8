"""Versions of the packages that a result depends on."""

import importlib.metadata

PACKAGES = (
    "aurora-trl",
    "torch",
    "torchvision",
    "trl",
    "transformers",
    "accelerate",
    "peft",
    "deepspeed",
    "datasets",
    "segment-anything",
    "av",
    "soundfile",
    "soxr",
    "pycocotools",
    "numpy",
)


def installed_versions() -> dict[str, str | None]:
    """The version of each of `PACKAGES`; None where it is not installed."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found
