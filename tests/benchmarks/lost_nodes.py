"""What does the loss of a node cost a ZeRO group, where every node has an address of its own?

    python -m tests.benchmarks.lost_nodes [--quick]        # as root: it makes network namespaces

Each node is a raylet in a network namespace of its own, behind a bridge; the head takes no tasks. One target training on two
workers, one a node, is run by `run_group` in each of these cases, from the same encoder:

1. undisturbed, ZeRO-2 and ZeRO-3;
2. replaced: a node is killed once the training has a checkpoint of 100 steps, and another, at another address, comes;
3. halved: none comes, and the size may go on with one worker (`fewest_workers=1`), after 10 s of waiting.

What must hold, or the run fails: losses within 0.1% of the undisturbed training's; a replaced one went on from a checkpoint; a
halved one ended on one worker. What is measured: seconds of the whole launch, and the step that it went on from.

--quick is ZeRO-2, undisturbed and replaced. The last line is one JSON document.
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

from tests.conftest import ROOT
from tests.support import recipes
from tests.support.scaled_cluster import end_on_termination
from trainables.benchmark.probes.hardware import hardware
from trainables.resources import Resources
from trainables.stages.base import Workplace, ensure
from trainables.store.stage_store import StageStore
from trainables.store.versions import versions

BRIDGE, NETWORK = "xstilts", "10.83.0"
START_TIMEOUT_S = 10
STEPS, STEPS_BEFORE = 600, 100  # in all; done and kept before a node is lost
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
            "GLOO_SOCKET_IFNAME": "eth0",  # of a namespace, whose host name leads to the machine's own address
        }
        self._folder, self._processes, self._count = folder, dict[int, subprocess.Popen[bytes]](), 0

    def start_head(self) -> None:
        _ip("link", "add", BRIDGE, "type", "bridge")
        _ip("addr", "add", f"{NETWORK}.1/24", "dev", BRIDGE)
        _ip("link", "set", BRIDGE, "up")
        port = self.address.partition(":")[2]
        options = ["--head", f"--node-ip-address={NETWORK}.1", f"--port={port}", "--num-cpus=0"]
        # This side is the machine's own network, where other Rays may be.
        options += ["--dashboard-port=26380", "--dashboard-agent-listen-port=26381", "--min-worker-port=0"]
        self._start(0, [*options, "--max-worker-port=0"])
        deadline = time.monotonic() + 60
        while True:
            with suppress(OSError):
                socket.create_connection((f"{NETWORK}.1", int(port)), 1).close()
                return
            if self._processes[0].poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the head did not come up: {(self._folder / 'node-0.log').read_text()[-2000:]}")
            time.sleep(0.3)

    def add(self) -> int:
        """A new node at a new address."""
        self._count += 1
        number, space = self._count, f"{BRIDGE}-{self._count}"
        _ip("netns", "add", space)
        _ip("link", "add", f"xs-{number}", "type", "veth", "peer", "name", "eth0", "netns", space)
        _ip("link", "set", f"xs-{number}", "master", BRIDGE, "up")
        for command in (["addr", "add", f"{NETWORK}.{number + 1}/24", "dev", "eth0"], ["link", "set", "eth0", "up"]):
            _ip("-n", space, *command)
        _ip("-n", space, "link", "set", "lo", "up")
        options = [f"--address={self.address}", f"--node-ip-address={NETWORK}.{number + 1}", "--num-cpus=1"]
        # A temporary folder of its own too, as on another machine; there Ray notes the address of the node that it is on.
        apart = 'mount -t tmpfs none /tmp/ray && exec "$@"'
        self._start(number, options, "ip", "netns", "exec", space, "unshare", "--mount", "sh", "-c", apart, "sh")
        return number

    def kill(self, number: int) -> None:
        """Every process of the node at once, as when its machine is taken away."""
        listed = subprocess.run(
            ["ip", "netns", "pids", f"{BRIDGE}-{number}"], capture_output=True, text=True, check=True
        )
        for pid in listed.stdout.split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        self._processes.pop(number).wait()

    def end(self) -> None:
        for number in [one for one in self._processes if one]:
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
        raise SystemExit("network namespaces want root")
    end_on_termination()
    cases = [(2, "undisturbed"), (2, "replaced"), (3, "undisturbed"), (3, "replaced"), (3, "halved")]
    with tempfile.TemporaryDirectory() as name, _nodes(Path(name)) as nodes:
        output = Path(name) / "out"
        ensure(recipes.interruptible(STEPS).base, Workplace(StageStore(output)))  # one encoder for all cases
        here = [nodes.add(), nodes.add()]
        found = {
            f"zero_{stage}_{case}": _case(nodes, here, output, stage=stage, case=case)
            for stage, case in cases[: 2 if quick else 5]
        }
    _compare(found)
    table = Table("", "s", "final loss", "went on from step", "workers", "addresses")
    for name, one in found.items():
        table.add_row(
            name,
            f"{one['seconds']:.1f}",
            f"{one['final_loss']:.5f}",
            str(one["resumed_at"]),
            str(one["workers"]),
            one["addresses"],
        )
    console.print(table)
    document = {
        **found,
        "steps": STEPS,
        "start_timeout_s": START_TIMEOUT_S,
        "load_average": os.getloadavg(),
        "hardware": hardware().as_dict(),
        "versions": versions(),
        "command": " ".join(["python", "-m", "tests.benchmarks.lost_nodes", *sys.argv[1:]]),
    }
    print(json.dumps(document))


def _compare(found: dict[str, dict[str, Any]]) -> None:
    """The losses of a disturbed training against the undisturbed one's."""
    expected = found["zero_2_undisturbed"]["final_loss"]
    for name, one in found.items():
        if abs(one["final_loss"] / expected - 1) > LOSS_TOLERANCE:
            raise SystemExit(f"{name}: final loss {one['final_loss']}, undisturbed {expected}")


def _case(nodes: Nodes, here: list[int], encoder: Path, *, stage: int, case: str) -> dict[str, Any]:
    """One training in a store of its own that has the encoder already."""
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
        while not _kept(store.checkpoints(tuned)):
            if training.poll() is not None:
                raise SystemExit(f"{case}, ZeRO-{stage}: ended before it was interrupted")
            time.sleep(0.1)
        nodes.kill(here.pop(0))
        if case == "replaced":
            here.append(nodes.add())
    out, _ = training.communicate(timeout=300)
    if training.returncode:
        raise SystemExit(f"{case}, ZeRO-{stage}: the launch failed")
    result: dict[str, Any] = json.loads(out.splitlines()[-1])
    result["seconds"] = round(time.perf_counter() - started, 1)
    if case == "replaced" and not result["resumed_at"]:
        raise SystemExit(f"replaced, ZeRO-{stage}: it began anew")
    if result["workers"] != (1 if case == "halved" else 2):
        raise SystemExit(f"{case}, ZeRO-{stage}: ended on {result['workers']} workers")
    console.print(f"ZeRO-{stage} {case}: {result}")
    return result


def _kept(folder: Path) -> bool:
    """Whether there is a whole checkpoint of enough steps."""
    whole = [path.parent.name for path in folder.glob("step-*/manifest.json")]
    return any(int(name.removeprefix("step-")) >= STEPS_BEFORE for name in whole)


def drive(address: str, output: str, resources: str) -> None:
    """The driver of one case, in a process of its own: launch, and print what came of it."""
    import ray

    from study.cluster.connection import connected
    from study.cluster.progress_actor import ON_HEAD, Board, Poster
    from trainables.launch.job import Job, run_task

    tuned = recipes.interruptible(STEPS)
    with connected(address):
        board = Board.remote()  # type: ignore[attr-defined]
        job = Job(output, Resources(**json.loads(resources)), stages=(tuned,), size="across")
        ray.get(run_task.options(num_cpus=0, resources=ON_HEAD).remote(job, "across", Poster(board)))
        addresses = sorted(
            node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")
        )
    found = StageStore(Path(output)).find(tuned)
    assert found is not None
    result = {
        "final_loss": found.metrics["final_loss"],
        "resumed_at": found.metrics.get("resumed_at", 0),
        "workers": found.manifest["context"]["workers"],
        "addresses": " ".join(addresses),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    typer.run(main)
