"""Connects to the Ray that a study runs on: a cluster at an address, or one that this process starts on its machine."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import AuthenticationError

from study.cluster.node_watch import end_if_lost, ending_with_node
from study.cluster.ports import free_port
from study.cluster.preflight import OBJECT_STORE_BYTES, ray_folder
from study.errors import CannotRun
from study.redact import redacted
from trainables.data.hub import HUB_VARIABLES
from trainables.data.source import DATA_ROOT_VARIABLE, data_root

WORKER_ENVIRONMENT = {
    # From version 2.56 on Ray leaves a node's GPUs visible to workers that requested none. With this variable, which every
    # worker reads, they get an empty CUDA_VISIBLE_DEVICES before they import anything.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    # By default Ray retries a task whose process was killed for memory without limit or message. The process that starts a task
    # decides, and trials start tasks too.
    "RAY_task_oom_retries": "0",
    # By default glibc returns freed memory to the system and requests it again at every step. Keeping it made a training step
    # 10% shorter and halved its system time.
    "MALLOC_MMAP_THRESHOLD_": str(64 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20),
    # oneDNN caches primitives for the last 1,024 shapes, and batches have many: 230 steps of pre-training 3x192 took a worker
    # to 5.7 GB. A cache of 128 cut 150 steps of 3x160 from 1.9 GB to 1.4 GB, with no measurable change in CPU time.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128",
    "LRU_CACHE_CAPACITY": "128",
}

_DEFAULTS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # as for workers: also for processes that Ray starts before a job
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
    "RAY_task_oom_retries": "0",  # as for workers
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune's newer output prints a box for every sweep, silenced or not
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # With a searcher, Tune lets a single trial wait for its actor: trials, and new nodes, would start one by one.
    # `study.search.slots` limits how many trials run.
    "TUNE_MAX_PENDING_TRIALS_PG": "1024",
    "TUNE_GLOBAL_CHECKPOINT_S": "600",  # Tune's checkpoints are never restored
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a diverged trial reports no score
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}

# A free port can be another process's before Ray takes it. Ray says so in words of its own, or its server does.
PORT_TRIES, PORT_TAKEN = 3, ("already occupied", "address already in use")
# A node that an autoscaler starts takes minutes, a spot machine may take longer; by default Ray Train gives up after a minute.
_START_TIMEOUT = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "900"}


@contextmanager
def connected(address: str | None, *, cpus: int = 1, access: Collection[str] = HUB_VARIABLES) -> Iterator[None]:
    """Connect to the cluster at the address or in RAY_ADDRESS (set in submitted jobs); otherwise start Ray on this machine.

    A Ray started here has `cpus` cores or those of the machine, whichever is more. `access` names variables of this process's
    environment that every worker gets, so that it reaches what this process reaches. If the node of this process is lost in the
    block, the process ends as after SIGTERM.

    Raises:
        CannotRun: no cluster answers at the address, or Ray cannot start here.
    """
    environment = _environment()
    with _own_handler():
        if external := cluster_address(address):
            _join(external, environment, access)
        else:
            _start(max(len(os.sched_getaffinity(0)), cpus), environment)
    try:
        with ending_with_node(ray.get_runtime_context().get_node_id()):
            yield
    except (KeyboardInterrupt, SystemExit):
        raise  # search threads are inside calls to Ray, and a shutdown under them aborts; Ray ends with this process
    except BaseException as error:
        end_if_lost(error)
        ray.shutdown()
        raise
    ray.shutdown()


def try_local_start(timeout_s: float = 60.0) -> None:
    """Start Ray on this machine as a study does, run one task, and stop it.

    Raises:
        CannotRun: it does not start, or runs no task in time.
    """
    _start(1, _environment())
    try:
        ray.get(ray.remote(lambda: None).remote(), timeout=timeout_s)
    except ray.exceptions.RayError as error:
        raise _cannot_start(error) from error
    finally:
        ray.shutdown()


def _environment() -> dict[str, str]:
    """Set the defaults of this process, and return the environment of workers."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    root = data_root()
    # On a cluster the data root is a folder that every node can read.
    return WORKER_ENVIRONMENT if root is None else {**WORKER_ENVIRONMENT, DATA_ROOT_VARIABLE: str(root)}


def cluster_address(address: str | None) -> str | None:
    """The address of an existing cluster, given or in the environment; None where this process starts its own Ray."""
    return address or os.environ.get("RAY_ADDRESS") or None


@contextmanager
def _own_handler() -> Iterator[None]:
    """Put the handler of SIGTERM back that `ray.init` replaces: by one in Python, then by one that prints a stack trace."""
    former = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, former)


def _join(address: str, environment: dict[str, str], access: Collection[str]) -> None:
    patience = {name: os.environ.setdefault(name, value) for name, value in _START_TIMEOUT.items()}
    runtime_env: dict[str, Any] = {"env_vars": {**environment, **patience}}
    if (hook := access_of_workers(access)) is not None:
        runtime_env["worker_process_setup_hook"] = hook
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", runtime_env=runtime_env)
    except (ConnectionError, RuntimeError, ValueError, AuthenticationError) as error:
        raise CannotRun(
            f"--address {address}: no Ray cluster answers there ({error}); check the address, or leave it out to run here"
        ) from error


def access_of_workers(names: Collection[str] = HUB_VARIABLES) -> Callable[[], None] | None:
    """What every worker of a cluster runs first, so that it reaches the hub and the bucket as this process does.

    None where no variable of these names is set.

    A function, because Ray logs the environment variables of a runtime environment and shows them on its dashboard, tokens and
    keys among them. Ray keeps the function in the memory of its control store. A node's own settings take precedence. Workers
    of a Ray on this machine inherit them from this process.
    """
    settings = {name: value for name in names if (value := os.environ.get(name))}
    if not settings:
        return None

    def set_access() -> None:
        for name, value in settings.items():
            os.environ.setdefault(name, value)

    return set_access


def _start(cpus: int, environment: dict[str, str]) -> None:
    """Start Ray here: "local" never joins another Ray of this machine.

    Every port is a free one but 52365, that of the agent which submitted jobs need. A Ray without jobs works where it is taken.
    """
    # Nobody preempts this machine, and the watcher is an extra process for every group.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    folder = ray_folder()
    for tries_left in reversed(range(PORT_TRIES)):
        try:
            with _changed_environment(folder.environment):
                _init(cpus, environment, folder.path, port=free_port())
            break
        except Exception as error:  # Ray raises many classes, `Exception` itself among them
            ray.shutdown()
            if not tries_left or not any(reason in str(error) for reason in PORT_TAKEN):
                raise _cannot_start(error) from error
    logging.getLogger("ray").setLevel("ERROR")


def _init(cpus: int, environment: dict[str, str], folder: Path, *, port: int) -> None:
    # The process that frees the cores of a stopped group calls the State API. That finds its cluster through a file of the last
    # `ray start` on the machine, possibly another cluster's or a dead one's, unless the environment names the address.
    ray.init(
        address="local",
        num_cpus=cpus,
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=True,
        dashboard_port=port,
        log_to_driver=False,
        logging_level="CRITICAL",  # Ray logs the end of its log files before it raises what says the same
        runtime_env={"env_vars": {**environment, "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{port}"}},
        _temp_dir=str(folder),
    )


@contextmanager
def _changed_environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for processes that start in the block."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _cannot_start(error: Exception) -> CannotRun:
    lines = [line.strip(" .") for line in str(error).splitlines() if line.strip(" .")]
    message = lines[-1] if "Traceback (most recent call last):" in lines else ". ".join(lines)
    logs = ray_folder().path / "session_latest" / "logs"
    return CannotRun(
        f"Ray cannot start on this machine ({type(error).__name__}: {redacted(message)[:400]}); see the logs in {logs}, or run "
        "on a cluster with --address"
    )
