"""
One machine's part of a step that several machines run: a launcher is told how many there are, and which this is.

    srun --ntasks-per-node=1 python -m aurora_trl.chain.several_machines accelerate launch … recipes/sft.py …

`aurora run --launcher "srun --ntasks-per-node=1"` writes this before its steps. The command counts the processes of
all machines. How many machines there are, and which this is, stands in the environment: `SLURM_NNODES` and
`SLURM_NODEID`, or `NNODES` and `NODE_RANK`; `MASTER_ADDR` is the first one's address, `MASTER_PORT` a free port there.
"""

import os
import sys
from collections.abc import Mapping, Sequence

from ..errors import DataError

_PORT = "29500"
MACHINE_MODULE = "aurora_trl.chain.several_machines"


def on_all_machines(launcher: Sequence[str], command: Sequence[str]) -> list[str]:
    """
    A step's command, started once on every machine where it runs on several processes.

    Args:
        launcher (`Sequence[str]`): words that start a command on every machine; empty where there is one.
        command (`Sequence[str]`): of the step.

    Returns:
        `list[str]`: the command as it is, where one process runs it.
    """
    if not launcher or not (command[0] == "torchrun" or list(command[:2]) == ["accelerate", "launch"]):
        return list(command)
    return [*launcher, sys.executable, "-m", MACHINE_MODULE, *command]


def own_part(command: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """
    What this machine runs.

    Args:
        command (`Sequence[str]`): `torchrun …` or `accelerate launch …`, for all machines.
        environment (`Mapping[str, str]`): says how many there are, and which this is.

    Returns:
        `list[str]`: the command with that, for the launcher.

    Raises:
        `DataError`: names the variable that is missing, or the processes that the machines can not share evenly.
    """
    machines = _number(environment, "SLURM_NNODES", "NNODES")
    if machines == 1:
        return list(command)
    rank = _number(environment, "SLURM_NODEID", "NODE_RANK")
    address, port = environment.get("MASTER_ADDR"), environment.get("MASTER_PORT", _PORT)
    if not address:
        raise DataError("the environment variable MASTER_ADDR is not set; export the first machine's address in it")
    if command[0] != "torchrun":
        _share(command, "--num_processes", machines)  # accelerate would leave the rest out
        words = ["--num_machines", str(machines), "--machine_rank", str(rank)]
        words += ["--main_process_ip", address, "--main_process_port", port]
        return [*command[:2], *words, *command[2:]]
    words = ["--nnodes", str(machines), "--node_rank", str(rank), "--master_addr", address, "--master_port", port]
    rest = _share(command[1:], "--nproc_per_node", machines)
    return ["torchrun", *words, *(word for word in rest if word != "--standalone")]


def _share(words: Sequence[str], flag: str, machines: int) -> list[str]:
    """The words with one machine's processes in place of all, where they are a number: `gpu` is each machine's own."""
    words = list(words)
    at = words.index(flag) + 1 if flag in words[:-1] else None
    if at is not None and words[at].isdecimal():
        if int(words[at]) % machines:
            raise DataError(f"{machines} machines can not share {words[at]} processes evenly: ask for a multiple")
        words[at] = str(int(words[at]) // machines)
    return words


def _number(environment: Mapping[str, str], *names: str) -> int:
    found = next((environment[name] for name in names if name in environment), None)
    if found is None or not found.isdecimal():
        raise DataError(f"the environment variable {' or '.join(names)} must be a number, got {found!r}")
    return int(found)


def main() -> None:
    """Become the launcher of this machine."""
    try:
        command = own_part(sys.argv[1:], os.environ)
    except DataError as error:
        sys.exit(f"error: {error}")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
