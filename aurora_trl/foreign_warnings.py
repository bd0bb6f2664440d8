"""Warnings of other libraries that nobody can act on; commands and recipes leave them out, an import does not."""

import logging
import warnings


def leave_out_foreign_warnings() -> None:
    """Leave out, in this process, what other libraries say at every start about their own affairs."""
    # TRL 1.16 sets it by default, and transformers 5.24 has given it another name: until TRL uses that one.
    warnings.filterwarnings("ignore", "`gradient_checkpointing` is deprecated", FutureWarning)
    # DeepSpeed 0.18 and 0.19, wherever there is no GPU, also where it is not used.
    logging.getLogger("DeepSpeed").addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return "Setting accelerator to CPU" not in record.getMessage()
