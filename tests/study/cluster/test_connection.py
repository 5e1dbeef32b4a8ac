"""What the workers of a cluster are told when a study connects."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import ray
import ray.cloudpickle

from study.cluster.connection import connected
from study.errors import CannotRun
from trainables.data.hub import HUB_VARIABLES

TOKEN = "hf_canary"


class Context:
    """Of a process that is connected to Ray."""

    def get_node_id(self) -> str:
        return "own"


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of each `ray.init`, which does nothing; the hub's variables are unset."""
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(ray, "init", lambda **arguments: calls.append(arguments))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray, "get_runtime_context", Context)  # the real one starts a Ray where there is none
    for name in HUB_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return calls


def test_workers_get_the_hubs_token_where_ray_does_not_log_it(
    joined: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_HOME", "/shared/hub")
    with connected("10.0.0.1:6379"):
        pass
    (arguments,) = joined
    assert TOKEN not in repr(arguments)
    hook = ray.cloudpickle.dumps(arguments["runtime_env"]["worker_process_setup_hook"])
    # Another node: it has a cache of its own, and runs the function before it can import the project.
    shown = subprocess.run(
        [
            *(sys.executable, "-c"),
            "import os, pickle, sys; pickle.load(sys.stdin.buffer)(); print(os.environ['HF_TOKEN'], os.environ['HF_HOME'])",
        ],
        **{"input": hook, "capture_output": True, "check": True, "cwd": "/"},
        env={name: value for name, value in os.environ.items() if name not in ("HF_TOKEN", "PYTHONPATH")}
        | {"HF_HOME": "/local/hub"},
    )
    assert shown.stdout.decode().split() == [TOKEN, "/local/hub"]


def test_nothing_is_passed_on_where_nothing_is_set(joined: list[dict[str, Any]]) -> None:
    with connected("10.0.0.1:6379"):
        pass
    assert "worker_process_setup_hook" not in joined[0]["runtime_env"]


# What Ray raises: the first where its server finds the port taken, the second where Ray looks before it starts the server.
SERVER_FAILED = Exception("[Errno 98] bind on ('127.0.0.1', 41341): address already in use")
LOOKED_BEFORE = ValueError(
    "Failed to bind to 127.0.0.1:41341 because it's already occupied. You can use `ray start ..."
)


@pytest.mark.parametrize("error", [SERVER_FAILED, LOOKED_BEFORE])
@pytest.mark.parametrize(("taken", "starts"), [(2, True), (3, False)])
def test_a_port_that_another_process_took_first_is_chosen_again(
    taken: int, starts: bool, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports: list[int] = []

    def init(*, dashboard_port: int, **_: object) -> None:
        ports.append(dashboard_port)
        if len(ports) <= taken:
            raise error

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray, "get_runtime_context", Context)
    if starts:
        with connected(None):
            pass
    else:
        with pytest.raises(CannotRun, match="already"), connected(None):
            pass
    assert len(ports) == 3
