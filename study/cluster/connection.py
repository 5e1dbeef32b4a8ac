"""The Ray that a study runs on: one of its own on this machine, or a cluster at an address; and what fits on it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import ray
from ray.exceptions import AuthenticationError

from study.cluster.capacity import Capacity, GroupsUnknown, held_at_most, worker_need
from study.spec import Size
from trainables.data.source import DATA_ROOT_VARIABLE, data_root
from trainables.resources import Resources

# Stages go through the store, so Ray's shared memory carries configs and progress only.
OBJECT_STORE_BYTES = 256 * 2**20

WORKER_ENVIRONMENT = {
    # glibc returns freed memory to the system and asks for it again at every step; keeping it instead took a tenth off a
    # training step and half of its system time.
    "MALLOC_MMAP_THRESHOLD_": str(64 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20),
    # oneDNN keeps what it made for the last 1,024 shapes, and batches have many: a worker that pre-trained 3x192 for 230 steps
    # held 5.7 GB. With 128, 150 steps of 3x160 held 1.4 GB instead of 1.9, in the same CPU time but for noise.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128",
    "LRU_CACHE_CAPACITY": "128",
}

_DEFAULTS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune's newer output prints a box for every sweep, silenced or not
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # With a searcher Tune lets one trial wait for its actor, so that they would start one after the other, and nodes too. How
    # many run is for `study.search.slots` to say.
    "TUNE_MAX_PENDING_TRIALS_PG": "1024",
    "TUNE_GLOBAL_CHECKPOINT_S": "600",  # what Tune would restore from is never read
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that diverged reports that and no score
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


# A node that an autoscaler starts takes minutes to come, a spot machine may take longer; Ray Train gives up after one minute.
_START_TIMEOUT = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "900"}


class CannotRun(RuntimeError):
    """The study cannot start here; said before any work, with the way out."""


@contextmanager
def connected(address: str | None, *, cpus: int = 1) -> Iterator[None]:
    """The cluster at the address (or in RAY_ADDRESS, which a submitted job has), else a Ray of our own with `cpus` or more.

    Raises:
        CannotRun: no cluster answers at the address.
    """
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    root = data_root()
    # On a cluster the data root is a folder that all nodes see.
    environment = WORKER_ENVIRONMENT if root is None else {**WORKER_ENVIRONMENT, DATA_ROOT_VARIABLE: str(root)}
    if external := _external(address):
        _join(external, environment)
    else:
        _start(max(len(os.sched_getaffinity(0)), cpus), environment)
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise  # searches in their threads are in the middle of calls to Ray, which would abort; it ends with this process
    except BaseException:
        ray.shutdown()
        raise
    ray.shutdown()


def _external(address: str | None) -> str | None:
    """The address of a cluster that is there, if one is meant."""
    return address or os.environ.get("RAY_ADDRESS") or None


def _join(address: str, environment: dict[str, str]) -> None:
    patience = {name: os.environ.setdefault(name, value) for name, value in _START_TIMEOUT.items()}
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level="ERROR",
            runtime_env={"env_vars": {**environment, **patience}},
        )
    except (ConnectionError, RuntimeError, ValueError, AuthenticationError) as error:
        raise CannotRun(f"--address {address}: no Ray cluster answers there ({error})") from error


def _start(cpus: int, environment: dict[str, str]) -> None:
    # Nobody preempts this machine; the watcher would be one more process for every group.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    # The process that frees the cores of a stopped group asks the State API, which finds its cluster through a file that the
    # last `ray start` on the machine left: of another cluster, or of none that still runs. So it is told.
    port = _free_port()
    ray.init(
        address="local",
        num_cpus=cpus,
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=True,
        dashboard_port=port,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={"env_vars": {**environment, "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{port}"}},
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def cores_of(resources: Resources) -> int:
    """CPUs that one trial of a size holds."""
    return resources.workers * resources.cpus


def capacity(sizes: Sequence[Size]) -> dict[str, float]:
    """What the connected cluster can have at most, nodes counted that its autoscaler can still start: CPU, GPU, and GPU:<type>
    of every accelerator type.

    Raises:
        CannotRun: it can never hold one trial of some size; names all of them with what they ask for, and the node groups.
    """
    held = known_capacity()
    errors = []
    for size in sizes:
        places, workers = held.holds(worker_need(size.resources)), size.resources.workers
        if places < workers:
            where = "no node group can ever hold it" if held.autoscales else "the nodes that are there do not hold it"
            errors.append(f"size {size.name} needs {_asked(size.resources)} for one trial, and {where}: {held}")
    if errors:
        hint = "" if held.autoscales else "; an autoscaler is seen only from the head: submit the study as a job"
        raise CannotRun("\nerror: ".join(errors) + hint)
    return held.amounts()


def room_on(sizes: Sequence[Size], address: str | None, say: Callable[[str], object]) -> dict[str, float]:
    """What searches may deal out to their trials: `capacity`, but of a machine of our own no more cores than it really has.

    Ray is started there with as many as the largest size asks for, so that two workers run on one core too; other sizes are not
    to think that there are so many. Raises as `capacity` does.
    """
    amounts = capacity(sizes)
    if _external(address) is not None:
        return amounts
    cores = len(os.sched_getaffinity(0))
    for size in sizes:
        if cores_of(size.resources) > cores:
            say(
                f"{size.name} asks for {cores_of(size.resources)} cores, and this machine has {cores}: its workers share them"
            )
    return {**amounts, "CPU": min(amounts["CPU"], float(cores))}


def trials_at_once(sizes: Sequence[Size]) -> dict[str, int]:
    """How many trials of each size alone the nodes of the connected cluster can hold: no worker is cut over two of them."""
    held = known_capacity()
    return {size.name: held.trials(size.resources) for size in sizes}


def known_capacity() -> Capacity:
    """The node groups of the connected cluster.

    Raises:
        CannotRun: they cannot be read.
    """
    try:
        return held_at_most()
    except GroupsUnknown as error:
        raise CannotRun(str(error)) from error


def _asked(resources: Resources) -> str:
    need = ", ".join(
        f"{amount:g} {name}" if amount >= 1 else name.partition(":")[2]
        for name, amount in worker_need(resources).items()
    )
    return f"{resources.workers} x ({need})"
