"""
What the test of FSDP2 runs on each process: a supervised forward and backward of a sharded model beside a whole one,
then parts of the sharded model by themselves. Process 0 writes what came of it.

    torchrun --nproc_per_node 2 fsdp_step.py CHECKPOINT ROWS OUTPUT
"""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from aurora_trl import AuroraModel, AuroraProcessor
from aurora_trl.data import load_json
from aurora_trl.generation.clip_loader import ClipLoader
from aurora_trl.generation.collators import SFTCollator


def loss_and_gradients(model, batch):
    output = model(**{name: value for name, value in batch.items() if name != "masks"})
    labels = batch["labels"][:, 1:].flatten()
    loss = F.cross_entropy(output.logits[:, :-1].flatten(0, 1), labels) + output.mask_logits.square().mean()
    loss.backward()
    return float(loss)


def whole(gradient):
    return gradient.full_tensor() if isinstance(gradient, DTensor) else gradient


def main() -> None:
    checkpoint, rows_file, output = sys.argv[1:]
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    processor = AuroraProcessor.from_pretrained(checkpoint)
    rows = load_json(rows_file).to_list()[2 * rank : 2 * rank + 2]
    batch = SFTCollator(ClipLoader(processor))(rows)
    batch = {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}

    models = [AuroraModel.from_pretrained(checkpoint) for _ in range(2)]
    for model in models:
        model.set_trainable({"language_model", "seg_projector", "mask_decoder"})
    plain, sharded = models
    mesh = init_device_mesh("cpu", (2,))
    for layer in sharded.policy.get_decoder().layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    losses = [loss_and_gradients(model, batch) for model in models]
    distances = []
    for one, other in zip(plain.parameters(), sharded.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        if one.grad is not None:
            dist.all_reduce(one.grad)  # as DDP has it: the mean
            distances.append(float((one.grad / 2 - whole(other.grad)).abs().max()))

    errors = {}
    states = torch.zeros(1, sharded.config.get_text_config().hidden_size)
    embeddings = plain.encode_masks(batch["mask_frames"])
    parts = {
        "encode_masks": lambda: sharded.encode_masks(batch["mask_frames"]),
        "decode_masks": lambda: sharded.decode_masks(states, embeddings),
        "generate": lambda: sharded.generate(input_ids=batch["input_ids"], max_new_tokens=1),
        "head": lambda: states @ sharded.get_output_embeddings().weight.T,
    }
    for name, part in parts.items():
        try:
            part()
        except RuntimeError as error:
            errors[name] = str(error)
    if rank == 0:
        Path(output).write_text(json.dumps({"losses": losses, "distances": distances, "errors": errors}))
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
