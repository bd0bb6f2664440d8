"""vLLM as the sampler of rollouts: a prompt goes to it as embeddings, its clip encoded by our towers."""

import importlib.util
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from trl.trainer.utils import ensure_master_addr_port

from ...models.language_model import language_model_weights, require_language_model, save_language_model_config
from ...models.modeling_aurora import AuroraModel
from .vllm_server import VLLM, Sampled, VLLMServer

# What both `GRPOConfig.generation_kwargs` and vLLM call by these names.
SAMPLING_OPTIONS = frozenset({"frequency_penalty", "presence_penalty", "min_tokens"})
# Takes a token out of what is sampled; the least that vLLM allows.
_NEVER = -100.0


def check_vllm_options(config: Any, generation_kwargs: Mapping[str, Any]) -> None:
    """
    See to it that a config's rollouts can come from vLLM, before anything is loaded.

    Args:
        config (`GRPOConfig`): with `use_vllm`.
        generation_kwargs (`Mapping[str, Any]`): its own, read.

    Raises:
        `ValueError`: names the package that is missing, or the options that do not go together.
    """
    if config.vllm_mode not in ("colocate", "server"):
        raise ValueError(f"`vllm_mode` must be colocate or server, got {config.vllm_mode!r}")
    if config.vllm_mode == "colocate" and importlib.util.find_spec("vllm") is None:
        raise ValueError(
            f"`vllm_mode: colocate` needs vLLM in this environment: see docs/vllm.md for how to install {VLLM}; with "
            "`vllm_mode: server` it has one of its own"
        )
    unknown = sorted(set(generation_kwargs) - SAMPLING_OPTIONS)
    if unknown:
        raise ValueError(
            f"`generation_kwargs: {unknown[0]}` is refused with `use_vllm`; it takes "
            f"{', '.join(sorted(SAMPLING_OPTIONS))}"
        )
    if (config.repetition_penalty or 1.0) != 1.0:
        raise ValueError("`repetition_penalty` is refused with `use_vllm`: it does not see the prompt's tokens")
    whole_sequences = config.vllm_importance_sampling_mode.startswith("sequence")
    if config.loss_type == "vespo" and config.vllm_importance_sampling_correction and whole_sequences:
        raise ValueError("`loss_type: vespo` needs `vllm_importance_sampling_mode: token_truncate` or token_mask")
    logprobs_mode(config)


def logprobs_mode(config: Any) -> str:
    """
    Which of vLLM's log-probs are those that the trainer computes: of all tokens, at the temperature.

    Args:
        config (`GRPOConfig`): with `use_vllm`.

    Raises:
        `ValueError`: where vLLM has none such.
    """
    if config.temperature == 1.0:
        return "raw_logprobs"
    cut = config.top_p < 1.0 or (config.top_k or 0) > 0 or (config.min_p or 0.0) > 0
    if cut and config.vllm_importance_sampling_correction:
        raise ValueError(
            f"`temperature: {config.temperature}` and `top_p`, `top_k` or `min_p` do not go together with `use_vllm`: "
            "its log-probs are before the temperature or after the cut; leave one of the two out, or set "
            "`vllm_importance_sampling_correction: false`"
        )
    return "processed_logprobs"


def connect(config: Any) -> VLLMServer | None:
    """
    The server of a config, or None where vLLM runs in the trainer's processes.

    Raises:
        `ValueError`: where none answers, or it was started without a flag that is needed.
    """
    if config.vllm_mode != "server":
        return None
    url = config.vllm_server_base_url or f"http://{config.vllm_server_host}:{config.vllm_server_port}"
    server = VLLMServer(url, config.vllm_server_timeout)
    if config.vllm_importance_sampling_correction:
        server.require_logprobs(logprobs_mode(config))
    return server


class VLLMEngine:
    """
    Stands where TRL's trainer has its `VLLMGeneration`, which sends token ids and images and the weights of the whole
    model. A process sends its own prompts, each once.

    Args:
        model (`AuroraModel`): the policy; may be inside a PEFT model.
        accelerator (`Accelerator`): the trainer's.
        config (`GRPOConfig`): its settings.
        server (`VLLMServer`, *optional*): from `connect`; without, vLLM is started in this process.
        eos_token_ids (`list[int]`): end a completion.
        embed_prompts (`Callable`): returns the embeddings `(L, D)` of the rollout's distinct prompts, and which of
            them each completion has `(B,)`.
    """

    def __init__(
        self,
        model: AuroraModel,
        accelerator: Accelerator,
        config: Any,
        server: VLLMServer | None,
        *,
        eos_token_ids: Sequence[int],
        embed_prompts: Callable[[], tuple[list[torch.Tensor], torch.Tensor]],
    ):
        require_language_model(model)
        self.model = model
        self.accelerator = accelerator
        self.config = config
        self.embed_prompts = embed_prompts
        self.vllm = server or ColocatedVLLM(model, accelerator, config)
        self.settings = {
            "temperature": config.temperature,
            "top_p": config.top_p,
            "top_k": config.top_k or 0,
            "min_p": config.min_p or 0.0,
            "max_tokens": config.max_completion_length,
            "logprobs": 0,
            "stop_token_ids": list(eos_token_ids),
            "logit_bias": dict.fromkeys(model.policy.media_token_ids, _NEVER),
            **(config.generation_kwargs or {}),
        }

    def sync_weights(self) -> None:
        """Send what trains, adapters merged; the first time, and to a server that was started again, everything."""
        sends = self.accelerator.is_main_process or not self.vllm.serves_all
        known = torch.tensor([self.vllm.holds_own_weights() if sends else True], device=self.accelerator.device)
        weights = language_model_weights(self.model, trained=bool(self.accelerator.gather(known).all()))
        if sends:
            self.vllm.load(weights, Path(self.config.output_dir) / ".vllm_weights")
        for _ in weights:  # other processes help to bring together what ZeRO-3 has split
            pass
        self.accelerator.wait_for_everyone()

    def generate(
        self,
        prompts: list[list[int]],
        images: None,
        num_generations: int,
        profiler: AbstractContextManager[Any] | None = None,
    ) -> tuple[list[list[int]], list[list[int]], list[list[list[float]]], None]:
        """
        Sample the rollout's completions.

        Args:
            prompts (`list[list[int]]`): of each completion, as the model sees it.
            images, num_generations: TRL's; a prompt gets as many as there are of it.
            profiler (`AbstractContextManager`, *optional*): measures the time.

        Returns:
            `tuple`: prompts, completions, the log-prob of each of their tokens in a list of its own, None.

        Raises:
            `ValueError`: where a prompt with its completion is longer than vLLM's limit.
        """
        longest = max(map(len, prompts)) + self.config.max_completion_length
        limit = self.vllm.max_model_length
        if longest > limit:
            flag = "the server's `--max-model-len`" if self.vllm.serves_all else "`vllm_max_model_length`"
            raise ValueError(f"a prompt and its completion take {longest} tokens, and {flag} is {limit}: raise it")
        with profiler or nullcontext():
            embeds, prompt_of_each = self.embed_prompts()
            counts = prompt_of_each.bincount(minlength=len(embeds)).tolist()
            sampled = self.vllm.sample(list(zip(embeds, counts, strict=True)), self.settings)
        rest = [iter(answers) for answers in sampled]
        chosen = [next(rest[prompt]) for prompt in prompt_of_each.tolist()]
        return prompts, [ids for ids, _ in chosen], [[[each] for each in values] for _, values in chosen], None


class ColocatedVLLM:
    """
    vLLM in the trainer's process: each has the whole language model on its own device.

    Args:
        model (`AuroraModel`), accelerator (`Accelerator`), config (`GRPOConfig`): as in [`VLLMEngine`].
    """

    serves_all = False

    def __init__(self, model: AuroraModel, accelerator: Accelerator, config: Any):
        from vllm import LLM

        # vLLM joins the processes of the trainer, which may be one that nobody launched.
        os.environ["RANK"] = str(accelerator.process_index)
        os.environ["LOCAL_RANK"] = str(accelerator.local_process_index)
        os.environ["WORLD_SIZE"] = str(accelerator.num_processes)
        ensure_master_addr_port()
        on_cpu = accelerator.device.type == "cpu"
        self.dtype = torch.bfloat16 if accelerator.mixed_precision == "bf16" else model.dtype
        with tempfile.TemporaryDirectory() as folder:
            save_language_model_config(model, Path(folder))
            self._llm = LLM(
                model=folder,
                load_format="dummy",  # the trainer sends its own
                skip_tokenizer_init=True,
                enable_prompt_embeds=True,
                enable_prefix_caching=True,
                generation_config="vllm",
                dtype=str(self.dtype).removeprefix("torch."),
                logprobs_mode=logprobs_mode(config),
                max_model_len=config.vllm_max_model_length,
                max_num_seqs=config.per_device_train_batch_size * config.steps_per_generation,
                gpu_memory_utilization=config.vllm_gpu_memory_utilization,
                seed=config.seed + accelerator.process_index,
                distributed_executor_backend="external_launcher",
                enforce_eager=on_cpu,  # compiled, the first call takes minutes there
                disable_log_stats=True,
            )
        self.max_model_length: int = self._llm.llm_engine.model_config.max_model_len
        self._loaded = False

    def holds_own_weights(self) -> bool:
        """As [`VLLMServer.holds_own_weights`]."""
        return self._loaded

    def load(self, weights: Iterable[tuple[str, torch.Tensor]], folder: Path) -> None:
        """As [`VLLMServer.load`], in memory: the folder is not used."""
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        self._llm.reset_prefix_cache()
        self._loaded = True

    def sample(self, prompts: Sequence[tuple[torch.Tensor, int]], settings: dict[str, Any]) -> list[list[Sampled]]:
        """As [`VLLMServer.sample`]."""
        from vllm import SamplingParams

        replies = self._llm.generate(
            [{"prompt_embeds": embeds.to(self.dtype)} for embeds, _ in prompts],
            [SamplingParams(n=count, detokenize=False, **settings) for _, count in prompts],
            use_tqdm=False,
        )
        return [[_sampled(answer) for answer in reply.outputs] for reply in replies]


def _sampled(answer: Any) -> Sampled:
    ids = list(answer.token_ids)
    return ids, [step[token_id].logprob for token_id, step in zip(ids, answer.logprobs, strict=True)]
