"""Warnings of other libraries that nobody can act on; commands and recipes leave them out, an import does not."""

import logging
import warnings


def leave_out_foreign_warnings() -> None:
    """Leave out, in this process, what other libraries say at every start about their own affairs."""
    # TRL 1.16 and peft 0.21 say it as transformers did before 5.24, which has another name for it.
    warnings.filterwarnings("ignore", "`(is_)?gradient_checkpointing` is deprecated", FutureWarning)
    # torch, wherever there is no GPU.
    warnings.filterwarnings("ignore", "'pin_memory' argument is set as true but no accelerator", UserWarning)
    # DeepSpeed 0.18 and 0.19, wherever there is no GPU, also where it is not used.
    logging.getLogger("DeepSpeed").addFilter(_is_news)
    # bitsandbytes 0.49, on a CPU that computes in bfloat16, also where nothing has 4 bits.
    logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    said = record.getMessage()
    return "Setting accelerator to CPU" not in said and "Failed to load CPU gemm_4bit_forward" not in said
