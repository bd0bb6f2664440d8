"""SAM 3's tracker from transformers, which is prompted as SAM 2 is, behind the same interface.

It is SAM 2's prompt encoder, mask decoder and memory on SAM 3's image encoder: a plain ViT with windows and rotary
positions, whose last layer gives the features of all resolutions. The grid is 72 by 72 patches of 14 pixels; masks are
drawn at 288 by 288. What this departs in from transformers (5.24):

* The published image encoder has a fourth, coarsest level, which nothing of the tracker looks at. It is left out.
* `Sam3TrackerModel` marks its last level as that of a frame without memory, and that is the level that it drops: its
  masks are of features that lack the mark. Here the mark is where the authors' code and `Sam3TrackerVideoModel` have
  it. With three levels in its config `Sam3TrackerModel` draws the same masks as this.

With its memory across frames: as `sam2_video.py` says of SAM 2's.
"""

from typing import Any, ClassVar

from transformers import (
    AutoConfig,
    PretrainedConfig,
    PreTrainedModel,
    Sam3TrackerConfig,
    Sam3TrackerModel,
    Sam3TrackerVideoConfig,
    Sam3TrackerVideoModel,
)

from .sam2 import Sam2MaskConfig, Sam2MaskDecoder
from .sam2_video import Sam2VideoMaskConfig, Sam2VideoMaskDecoder

# Of the image encoder's levels those that are read: strides of a quarter, a half and one patch.
USED_LEVELS = 3
# SAM 3 was trained on pixels in [-1, 1]; these are for pixels in [0, 255].
PIXEL_MEAN = PIXEL_STD = [127.5] * 3


def keep_used_levels(sam_config: Any) -> None:
    """
    Take the levels out of a config that neither the tracker's decoder nor the detector reads.

    Args:
        sam_config (`Sam3TrackerConfig`, `Sam3TrackerVideoConfig` or `Sam3Config`): changed in place.

    Raises:
        `ValueError`: where the levels are not SAM 3's.
    """
    vision = sam_config.vision_config
    if list(vision.scale_factors[:USED_LEVELS]) != [4.0, 2.0, 1.0]:
        raise ValueError(f"SAM 3's `scale_factors` are 4, 2, 1 and coarser ones, got {vision.scale_factors}")
    vision.scale_factors = [4.0, 2.0, 1.0]


class Sam3MaskConfig(Sam2MaskConfig):
    r"""
    SAM 3's tracker as a mask decoder.

    Args:
        sam3_config (`Sam3TrackerConfig` or `dict`, *optional*): sizes, as transformers holds them; the level of its
            image encoder that is not used is taken out.
        **kwargs: see [`Sam2MaskConfig`]. SAM 3 was trained on pixels in [-1, 1].

    Raises:
        `ValueError`: where the image encoder's levels are not SAM 3's.
    """

    model_type = "aurora_sam3"
    sub_configs: ClassVar[dict[str, type[PretrainedConfig]]] = {"sam3_config": Sam3TrackerConfig}
    published_mean = PIXEL_MEAN
    published_std = PIXEL_STD

    def __init__(self, sam3_config: Sam3TrackerConfig | dict[str, Any] | None = None, **kwargs: Any):
        super().__init__(sam3_config, **kwargs)
        keep_used_levels(self.sam_config)


class Sam3MaskDecoder(Sam2MaskDecoder):
    """
    SAM 3's tracker prompted by embeddings; each frame is segmented on its own, as an image.

    Args:
        config (`Sam3MaskConfig`): sizes.
        sam (`Sam3TrackerModel`, *optional*): a model to take in, with the levels of the config; a new one by default.
    """

    sam_class: type[PreTrainedModel] = Sam3TrackerModel


class Sam3VideoMaskConfig(Sam2VideoMaskConfig):
    r"""
    SAM 3's tracker with its memory as a mask decoder.

    Args:
        sam3_config (`Sam3TrackerVideoConfig` or `dict`, *optional*): as for [`Sam3MaskConfig`].
        **kwargs: see [`Sam2VideoMaskConfig`].

    Raises:
        `ValueError`: as of [`Sam3MaskConfig`] and [`Sam2VideoMaskConfig`].
    """

    model_type = "aurora_sam3_video"
    sub_configs: ClassVar[dict[str, type[PretrainedConfig]]] = {"sam3_config": Sam3TrackerVideoConfig}
    published_mean = PIXEL_MEAN
    published_std = PIXEL_STD
    sam_name = "SAM 3"

    def __init__(self, sam3_config: Sam3TrackerVideoConfig | dict[str, Any] | None = None, **kwargs: Any):
        super().__init__(sam3_config, **kwargs)
        keep_used_levels(self.sam_config)


class Sam3VideoMaskDecoder(Sam2VideoMaskDecoder):
    """
    SAM 3's tracker prompted by embeddings, whose frames look back; see [`Sam2VideoMaskDecoder`].

    Args:
        config (`Sam3VideoMaskConfig`): sizes and settings.
        sam (`Sam3TrackerVideoModel`, *optional*): a model to take in, with the levels of the config; a new one by
            default.
    """

    sam_class: type[PreTrainedModel] = Sam3TrackerVideoModel


AutoConfig.register(Sam3MaskConfig.model_type, Sam3MaskConfig)
AutoConfig.register(Sam3VideoMaskConfig.model_type, Sam3VideoMaskConfig)
