"""A chain on several machines: each is told its part, and what they start is one run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from launching import BIN, launch_environment

from aurora_trl.chain.definition import load_pipeline
from aurora_trl.chain.runner import run_pipeline
from aurora_trl.chain.several_machines import on_all_machines, own_part
from aurora_trl.data import DataError

SECOND = {"SLURM_NNODES": "2", "SLURM_NODEID": "1", "MASTER_ADDR": "first"}
# What starts a command on two machines, as Slurm does, here on this one.
SRUN = f"""#!{sys.executable}
import os, subprocess, sys
words = sys.argv[sys.argv.index("--ntasks-per-node=1") + 1:]
tasks = [
    subprocess.Popen(words, env={{**os.environ, "SLURM_NNODES": "2", "SLURM_NODEID": str(node)}}) for node in range(2)
]
sys.exit(max(abs(task.wait()) for task in tasks))
"""
STEP = """import os, pathlib, sys
import torch.distributed as dist
dist.init_process_group("gloo")
ranks = [None] * dist.get_world_size()
dist.all_gather_object(ranks, (dist.get_rank(), os.environ["GROUP_RANK"], os.environ["LOCAL_RANK"]))
if dist.get_rank() == 0:
    pathlib.Path(sys.argv[1]).write_text(repr(ranks))
dist.destroy_process_group()
"""


def test_a_machine_is_told_its_part():
    words = own_part(["torchrun", "--standalone", "--nproc_per_node", "16", "-m", "aurora_trl.cli", "mine"], SECOND)
    assert words[:9] == [
        "torchrun",
        "--nnodes",
        "2",
        "--node_rank",
        "1",
        "--master_addr",
        "first",
        "--master_port",
        "29500",
    ]
    assert words[9:] == ["--nproc_per_node", "8", "-m", "aurora_trl.cli", "mine"]
    assert own_part(["torchrun", "--nproc_per_node", "gpu", "x.py"], SECOND)[9:] == ["--nproc_per_node", "gpu", "x.py"]
    launch = ["accelerate", "launch", "--config_file", "zero2.yaml", "--num_processes", "16", "sft.py"]
    others = {"NNODES": "2", "NODE_RANK": "0", "MASTER_ADDR": "first", "MASTER_PORT": "4000"}
    words = ["--num_machines", "2", "--machine_rank", "0", "--main_process_ip", "first", "--main_process_port", "4000"]
    assert own_part(launch, others) == [*launch[:2], *words, *launch[2:]]
    assert own_part(launch, {"SLURM_NNODES": "1"}) == launch


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "SLURM_NNODES or NNODES must be a number, got None"),
        ({"SLURM_NNODES": "2"}, "SLURM_NODEID or NODE_RANK must be a number"),
        ({"SLURM_NNODES": "2", "SLURM_NODEID": "1"}, "MASTER_ADDR is not set"),
        ({**SECOND, "SLURM_NNODES": "3"}, "3 machines can not share 4 processes evenly"),
    ],
)
def test_what_is_missing_is_named(environment, message):
    for command in (["torchrun", "--nproc_per_node"], ["accelerate", "launch", "--num_processes"]):
        with pytest.raises(DataError, match=message):
            own_part([*command, "4", "x.py"], environment)


def test_a_step_of_one_process_runs_on_one_machine():
    assert on_all_machines(["srun"], ["aurora", "init"]) == ["aurora", "init"]
    assert on_all_machines([], ["torchrun", "x.py"]) == ["torchrun", "x.py"]
    words = on_all_machines(["srun"], ["torchrun", "x.py"])
    assert words == ["srun", sys.executable, "-m", "aurora_trl.chain.several_machines", "torchrun", "x.py"]


def test_no_slurm_is_one_line():
    command = [sys.executable, "-m", "aurora_trl.chain.several_machines", "torchrun", "--nproc_per_node", "2", "x.py"]
    environment = {name: value for name, value in launch_environment().items() if not name.startswith("SLURM")}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith("error: the environment variable SLURM_NNODES or NNODES")


@pytest.mark.slow
@pytest.mark.distributed
def test_a_step_runs_on_two_machines(tmp_path, monkeypatch):
    """Two launchers on this machine stand for two machines; their processes are one group."""
    (tmp_path / "srun").write_text(SRUN)
    (tmp_path / "srun").chmod(0o755)
    (tmp_path / "step.py").write_text(STEP)
    for name, value in launch_environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{BIN}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29513")
    command = f"torchrun --standalone --nproc_per_node 2 {tmp_path}/step.py {{output_dir}}/ranks"
    steps = [{"name": "step", "run": command, "makes": "ranks"}]
    file = tmp_path / "chain.yaml"
    file.write_text(yaml.safe_dump({"output_dir": str(tmp_path / "out"), "steps": steps}))
    run_pipeline(load_pipeline(file), launcher=["srun", "--ntasks-per-node=1"])
    assert Path(tmp_path, "out", "ranks").read_text() == "[(0, '0', '0'), (1, '1', '0')]"
