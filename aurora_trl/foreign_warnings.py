"""Warnings of other libraries that nobody can act on; commands and recipes leave them out, an import does not."""

import logging
import warnings


def leave_out_foreign_warnings() -> None:
    """Leave out, in this process, what other libraries say at every start about their own affairs."""
    # TRL 1.16 and peft 0.21 say it as transformers did before 5.24, which has another name for it.
    warnings.filterwarnings("ignore", "`(is_)?gradient_checkpointing` is deprecated", FutureWarning)
    # DeepSpeed 0.18 and 0.19, wherever there is no GPU, also where it is not used.
    logging.getLogger("DeepSpeed").addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return "Setting accelerator to CPU" not in record.getMessage()
