"""Machines that a plan knows, and how long work takes on them, by the rates that `ASSUMPTIONS` states."""

from dataclasses import dataclass

ASSUMPTIONS = (
    "35 % of the peak in bf16 in training and in reading prompts; for each token that is written 60 % of the memory's "
    "bandwidth, and at least 30 ms; answers as long as their limit; nothing waits for the disk"
)
_SHARE_OF_PEAK, _SHARE_OF_BANDWIDTH, _LEAST_TOKEN_SECONDS = 0.35, 0.60, 0.030
_TERA, _GIGA = 1e12, 1e9


@dataclass(frozen=True)
class Machine:
    """
    A kind of machine, by its data sheet.

    Attributes:
        name (`str`): as people call it.
        gpus (`int`): how many.
        memory (`int`): of one, in GB.
        teraflops (`float`): dense bf16, of one.
        bandwidth (`float`): of one's memory, in GB/s.
    """

    name: str
    gpus: int
    memory: int
    teraflops: float
    bandwidth: float


# The first is the authors'.
MACHINES = (
    Machine("2 x A40", 2, 48, 149.7, 696.0),
    Machine("8 x A100-80", 8, 80, 312.0, 2039.0),
    Machine("8 x H100", 8, 80, 989.0, 3350.0),
)


@dataclass(frozen=True)
class Work:
    """
    What a step has to do.

    Attributes:
        flops (`float`): of all forwards and backwards, over all GPUs.
        token_steps (`float`): tokens that each GPU writes one after the other; a batch of answers counts once.
        weight_bytes (`float`): that each of them reads.
        shares (`int`): into how many equal parts it can be split: micro-batches of a step, 1 for a data step.
        spread (`bool`): all GPUs of a machine share the rows of a data step, and its tokens with them.
        seconds (`float`): besides, on any machine, such as a service's answers.
    """

    flops: float = 0.0
    token_steps: float = 0.0
    weight_bytes: float = 0.0
    shares: int = 1
    spread: bool = False
    seconds: float = 0.0

    def gpus(self, machine: Machine) -> int:
        """How many GPUs of a machine share the work evenly."""
        if self.spread:
            return machine.gpus
        return max(count for count in range(1, machine.gpus + 1) if self.shares % count == 0)

    def hours(self, machine: Machine) -> float:
        """How long it takes on a machine."""
        computing = self.flops / (machine.teraflops * _TERA * _SHARE_OF_PEAK)
        token = max(_LEAST_TOKEN_SECONDS, self.weight_bytes / (machine.bandwidth * _GIGA * _SHARE_OF_BANDWIDTH))
        writing = self.token_steps * token / (machine.gpus if self.spread else 1)
        return (computing / self.gpus(machine) + writing + self.seconds) / 3600
