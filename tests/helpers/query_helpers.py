"""A model with queries, none of them where it began, and its processor."""

from pathlib import Path

import torch

from aurora_trl import AuroraModel, AuroraProcessor

NUM_QUERIES = 3


def model_with_queries(folder: Path) -> tuple[AuroraModel, AuroraProcessor]:
    """The checkpoint's model with three queries of a size at which masks hang on them."""
    model, processor = AuroraModel.from_pretrained(folder), AuroraProcessor.from_pretrained(folder)
    model.set_seg_source("queries", NUM_QUERIES)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        model.seg_queries.embeddings.copy_(
            torch.randn(NUM_QUERIES, model.seg_projector[0].in_features, generator=generator)
        )
    return model, processor.with_seg_source("queries", NUM_QUERIES)
