"""What does the loss of a node cost a ZeRO group, when every node has its own address?

    python -m tests.benchmarks.lost_nodes [--quick]        # as root: it creates network namespaces

Each node is a raylet in its own network namespace behind a bridge; the head takes no tasks. `run_group` runs one target
training on two workers, one a node, from the same encoder in each of these cases:

1. undisturbed, ZeRO-2 and ZeRO-3;
2. replaced: a node is killed once the training has a checkpoint of 100 steps, and another one joins at another address;
3. halved: no other node joins, and after 10 s of waiting the size may continue with one worker (`fewest_workers=1`).

The run fails unless losses are within 0.1% of the undisturbed training's, a replaced training resumed from a checkpoint, and a
halved one ended on one worker. Measured: seconds of the whole launch, and the step it resumed from.

--quick runs ZeRO-2 only, undisturbed and replaced. The last line is one JSON document.
"""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from tests.support import recipes
from tests.support.commands import ROOT
from tests.support.scaled_cluster import end_on_termination
from trainables.benchmark.probes.hardware import hardware
from trainables.resources import Resources
from trainables.stages.base import Workplace, ensure
from trainables.store.stage_store import StageStore
from trainables.store.versions import versions

BRIDGE, NETWORK = "xstilts", "10.83.0"
START_TIMEOUT_S = 10
STEPS, STEPS_BEFORE = 600, 100  # in total; in the checkpoint that must exist before a node is killed
LOSS_TOLERANCE = 1e-3
RAY = [sys.executable, "-m", "ray.scripts.scripts"]

_DRIVE = "import sys; from tests.benchmarks.lost_nodes import drive; drive(*sys.argv[1:])"

console = Console(highlight=False, width=128)

Quick = Annotated[bool, typer.Option("--quick", help="ZeRO-2, undisturbed and replaced")]


class Nodes:
    """Raylets in network namespaces around one head."""

    def __init__(self, folder: Path) -> None:
        self.address = f"{NETWORK}.1:26379"
        self.environment = {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(START_TIMEOUT_S),
            "GLOO_SOCKET_IFNAME": "eth0",  # in a namespace, the host name resolves to the machine's own address
        }
        self._folder, self._processes, self._count = folder, dict[int, subprocess.Popen[bytes]](), 0

    def start_head(self) -> None:
        _ip("link", "add", BRIDGE, "type", "bridge")
        _ip("addr", "add", f"{NETWORK}.1/24", "dev", BRIDGE)
        _ip("link", "set", BRIDGE, "up")
        port = self.address.partition(":")[2]
        options = ["--head", f"--node-ip-address={NETWORK}.1", f"--port={port}", "--num-cpus=0"]
        # The head is on the machine's own network, where other Rays may run.
        options += ["--dashboard-port=26380", "--dashboard-agent-listen-port=26381", "--min-worker-port=0"]
        self._start(0, [*options, "--max-worker-port=0"])
        deadline = time.monotonic() + 60
        while True:
            with suppress(OSError):
                socket.create_connection((f"{NETWORK}.1", int(port)), 1).close()
                return
            if self._processes[0].poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(
                    f"the head did not start within 60 s: {(self._folder / 'node-0.log').read_text()[-2000:]}"
                )
            time.sleep(0.3)

    def add(self) -> int:
        """Start a node at a new address; returns its number."""
        self._count += 1
        number, space = self._count, f"{BRIDGE}-{self._count}"
        _ip("netns", "add", space)
        _ip("link", "add", f"xs-{number}", "type", "veth", "peer", "name", "eth0", "netns", space)
        _ip("link", "set", f"xs-{number}", "master", BRIDGE, "up")
        for command in (["addr", "add", f"{NETWORK}.{number + 1}/24", "dev", "eth0"], ["link", "set", "eth0", "up"]):
            _ip("-n", space, *command)
        _ip("-n", space, "link", "set", "lo", "up")
        options = [f"--address={self.address}", f"--node-ip-address={NETWORK}.{number + 1}", "--num-cpus=1"]
        # Its own temporary folder, as on another machine: Ray records the node's address there.
        isolated = 'mount -t tmpfs none /tmp/ray && exec "$@"'
        self._start(number, options, "ip", "netns", "exec", space, "unshare", "--mount", "sh", "-c", isolated, "sh")
        return number

    def kill(self, number: int) -> None:
        """Kill every process of the node at once, as when its machine is reclaimed."""
        listed = subprocess.run(
            ["ip", "netns", "pids", f"{BRIDGE}-{number}"], capture_output=True, text=True, check=True
        )
        for pid in listed.stdout.split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        self._processes.pop(number).wait()

    def end(self) -> None:
        for number in [node for node in self._processes if node]:  # the head is node 0
            self.kill(number)
        for process in self._processes.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        for number in range(1, self._count + 1):
            _ip("netns", "del", f"{BRIDGE}-{number}", check=False)
        _ip("link", "del", BRIDGE, check=False)

    def _start(self, number: int, options: list[str], *inside: str) -> None:
        with open(self._folder / f"node-{number}.log", "w") as log:
            self._processes[number] = subprocess.Popen(
                [*inside, *RAY, "start", "--block", "--object-store-memory=83886080", *options],
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


def _ip(*arguments: str, check: bool = True) -> None:
    subprocess.run(["ip", *arguments], check=check, capture_output=True)


@contextmanager
def _nodes(folder: Path) -> Iterator[Nodes]:
    nodes = Nodes(folder)
    try:
        nodes.start_head()
        yield nodes
    finally:
        nodes.end()


def main(quick: Quick = False) -> None:
    """Print a table and one JSON line."""
    if os.geteuid() != 0:
        raise SystemExit("network namespaces need root; run this as root")
    end_on_termination()
    cases = [(2, "undisturbed"), (2, "replaced"), (3, "undisturbed"), (3, "replaced"), (3, "halved")]
    with tempfile.TemporaryDirectory() as name, _nodes(Path(name)) as nodes:
        output = Path(name) / "out"
        ensure(recipes.interruptible(STEPS).base, Workplace(StageStore(output)))  # one encoder for all cases
        running = [nodes.add(), nodes.add()]
        results = {
            f"zero_{stage}_{case}": _case(nodes, running, output, stage=stage, case=case)
            for stage, case in cases[: 2 if quick else 5]
        }
    _compare(results)
    table = Table("", "s", "final loss", "resumed from step", "workers", "addresses")
    for name, result in results.items():
        table.add_row(
            name,
            f"{result['seconds']:.1f}",
            f"{result['final_loss']:.5f}",
            str(result["resumed_at"]),
            str(result["workers"]),
            result["addresses"],
        )
    console.print(table)
    document = {
        **results,
        "steps": STEPS,
        "start_timeout_s": START_TIMEOUT_S,
        "load_average": os.getloadavg(),
        "hardware": hardware().as_dict(),
        "versions": versions(),
        "command": " ".join(["python", "-m", "tests.benchmarks.lost_nodes", *sys.argv[1:]]),
    }
    print(json.dumps(document))


def _compare(results: dict[str, dict[str, Any]]) -> None:
    """Compare the final losses with the undisturbed training's."""
    expected = results["zero_2_undisturbed"]["final_loss"]
    for name, result in results.items():
        if abs(result["final_loss"] / expected - 1) > LOSS_TOLERANCE:
            raise SystemExit(f"{name}: final loss {result['final_loss']}, undisturbed {expected}")


def _case(nodes: Nodes, running: list[int], encoder: Path, *, stage: int, case: str) -> dict[str, Any]:
    """One training in its own store, which has the encoder already; `running` are the numbers of the nodes."""
    output = encoder.parent / f"{case}-{stage}"
    subprocess.run(["cp", "-r", str(encoder), str(output)], check=True)
    resources = Resources(
        workers=2, zero_stage=stage, checkpoint_every_s=0.5, fewest_workers=1 if case == "halved" else None
    )
    started = time.perf_counter()
    training = subprocess.Popen(
        [sys.executable, "-c", _DRIVE, nodes.address, str(output), json.dumps(dataclasses.asdict(resources))],
        cwd=ROOT,
        env=nodes.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    if case != "undisturbed":
        tuned, store = recipes.interruptible(STEPS), StageStore(output)
        while not _has_checkpoint(store.checkpoints(tuned)):
            if training.poll() is not None:
                raise SystemExit(f"{case}, ZeRO-{stage}: the training ended before a node could be killed")
            time.sleep(0.1)
        nodes.kill(running.pop(0))
        if case == "replaced":
            running.append(nodes.add())
    out, _ = training.communicate(timeout=300)
    if training.returncode:
        raise SystemExit(f"{case}, ZeRO-{stage}: the launch failed")
    result: dict[str, Any] = json.loads(out.splitlines()[-1])
    result["seconds"] = round(time.perf_counter() - started, 1)
    if case == "replaced" and not result["resumed_at"]:
        raise SystemExit(f"replaced, ZeRO-{stage}: the training restarted from step 0")
    if result["workers"] != (1 if case == "halved" else 2):
        raise SystemExit(f"{case}, ZeRO-{stage}: ended on {result['workers']} workers")
    console.print(f"ZeRO-{stage} {case}: {result}")
    return result


def _has_checkpoint(folder: Path) -> bool:
    """Whether there is a complete checkpoint from step `STEPS_BEFORE` on."""
    complete = [path.parent.name for path in folder.glob("step-*/manifest.json")]
    return any(int(name.removeprefix("step-")) >= STEPS_BEFORE for name in complete)


def drive(address: str, output: str, resources: str) -> None:
    """The driver of one case, in its own process: launch the training and print its result."""
    import ray

    from study.cluster.connection import connected
    from study.cluster.progress_actor import ON_HEAD, ProgressActor, ProgressReporter
    from trainables.launch.job import Job
    from trainables.launch.task import run_task

    tuned = recipes.interruptible(STEPS)
    with connected(address):
        progress_actor = ProgressActor.remote()  # type: ignore[attr-defined]
        job = Job(output, Resources(**json.loads(resources)), stages=(tuned,), size="across")
        ray.get(run_task.options(num_cpus=0, resources=ON_HEAD).remote(job, "across", ProgressReporter(progress_actor)))
        addresses = sorted(
            node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")
        )
    finished = StageStore(Path(output)).find(tuned)
    assert finished is not None
    result = {
        "final_loss": finished.metrics["final_loss"],
        "resumed_at": finished.metrics.get("resumed_at", 0),
        "workers": finished.manifest["context"]["workers"],
        "addresses": " ".join(addresses),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    typer.run(main)
