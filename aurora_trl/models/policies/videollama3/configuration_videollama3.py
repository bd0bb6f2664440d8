"""Configuration of VideoLLaMA3 as a policy: that of transformers, under a name of our own."""

from transformers import AutoConfig, VideoLlama3Config


class VideoLlama3PolicyConfig(VideoLlama3Config):
    """Configuration of [`VideoLlama3Policy`]; the fields are those of `VideoLlama3Config`."""

    model_type = "aurora_video_llama_3"


AutoConfig.register(VideoLlama3PolicyConfig.model_type, VideoLlama3PolicyConfig)
