"""Settings of all tests, the fixtures that several packages share, and which markers tests get for using them."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import Browser, chromium
from tests.support.mlflow_stub import stub_server
from tests.support.object_server import ObjectServer, served_objects
from tests.support.pair import Pair
from tests.support.shared_runs import FaultyRun, TinyRun, run_tiny, run_with_faults
from trainables.launch.process import NO_GPU

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # of a shell's background job, whose commands would ignore Ctrl-C too
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("DS_ACCELERATOR", "cpu")  # for tests that import DeepSpeed themselves on a machine with a GPU


# Markers of every test that uses the fixture; `pytestmark` and decorators mark the others.
MARKERS_BY_FIXTURE = {
    "tiny_run": ("slow", "ray"),
    "faulty_run": ("slow", "ray"),
    "pair": ("slow",),
    "browser": ("slow", "browser"),
}
WORKER = "PYTEST_XDIST_WORKER"  # set in the processes of `make test`


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--nightly", action="store_true", help="also run the tests that are marked nightly")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--nightly"):
        for_the_night = [item for item in items if item.get_closest_marker("nightly")]
        items[:] = [item for item in items if item not in for_the_night]
        config.hook.pytest_deselected(items=for_the_night)
    for item in items:
        for fixture in MARKERS_BY_FIXTURE.keys() & set(getattr(item, "fixturenames", ())):
            for marker in MARKERS_BY_FIXTURE[fixture]:
                item.add_marker(marker)
    if WORKER in os.environ:  # what takes longest comes first, so that no process is left alone with it
        items.sort(key=lambda item: [item.get_closest_marker(marker) is None for marker in ("ray", "slow")])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Tests of `make test`'s processes: modules that share an expensive fixture are not divided between them."""
    from tests.support.side_by_side import ModuleScheduling

    return ModuleScheduling(config, log)


@pytest.fixture(scope="module", autouse=True)
def frozen_heap() -> None:
    """What is imported so far is not collected again: an engine collects at each release, over millions of objects."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def visible_gpus() -> Iterator[None]:
    """Restores what an inline job hides from its process for good: the next test may start a process that needs a GPU."""
    before = {name: os.environ.get(name) for name in NO_GPU}
    yield
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One thread for torch: on a busy machine the threads of a small model wait for each other far longer than they work."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Two workers of a gloo group."""
    with Pair(tmp_path_factory.mktemp("pair")) as workers:
        yield workers


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One browser for every test that opens a page."""
    executable = chromium()
    if executable is None:
        assert not os.environ.get("CI"), "continuous integration installs Chromium"
        pytest.skip("no Chromium here: apt-get install chromium (continuous integration does)")
    with Browser(executable) as opened:
        yield opened


@pytest.fixture(scope="session")
def one_object_server() -> Iterator[ObjectServer]:
    with served_objects() as server:
        yield server


@pytest.fixture
def object_server(one_object_server: ObjectServer) -> ObjectServer:
    """An S3 on loopback without faults, and the environment to reach it."""
    one_object_server.reset()
    return one_object_server


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """The cut-down study with both launchers, run once."""
    return run_tiny(tmp_path_factory.mktemp("tiny") / "out")


@pytest.fixture(scope="session")
def faulty_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyRun]:
    """A study with a trial that diverges and an MLflow server that goes away, run once."""
    with stub_server() as server:
        yield run_with_faults(tmp_path_factory.mktemp("faulty") / "out", server)


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a synthetic study whose truth is known (`tests.support.studies.Planted`), in MLflow."""
    from tests.support.studies import Planted, plant

    folder = tmp_path_factory.mktemp("planted")
    plant(folder, Planted())
    return folder
