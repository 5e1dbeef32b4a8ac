"""What keeps a local Ray from starting is one line before anything starts, in `run` and in `doctor`."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from typer.testing import CliRunner

from study.cli.app import app
from study.cluster import connection, preflight
from study.cluster.ports import port_problem
from study.errors import CannotRun
from study.run.driver import RunOptions, run_study
from tests.support import recipes
from tests.support.commands import study_command

GB = 10**9
MISSING = "/no/such/folder"


@pytest.fixture(autouse=True)
def usual_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_TMPDIR", "TMPDIR", "RAY_GCS_SERVER_PORT", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def short(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a short path, for sockets."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="p", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def long_folder(parent: Path, length: int = 120) -> Path:
    """A new folder whose path has that many bytes."""
    folder = parent / ("x" * (length - len(str(parent)) - 1))
    folder.mkdir()
    assert len(str(folder)) == length
    return folder


# --- the temporary folder


def test_ray_s_own_folder_is_kept_where_it_works(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert preflight.ray_folder() == preflight.RayFolder(Path("/tmp/ray"), {})
    monkeypatch.setenv("TMPDIR", str(short))
    assert preflight.ray_folder() == preflight.RayFolder(short / "ray", {})
    monkeypatch.setenv("RAY_TMPDIR", MISSING)
    assert preflight.ray_folder().path == Path("/tmp/ray")


def test_the_longest_folder_still_holds_the_longest_socket(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """107 bytes, as the kernel allows (unix(7)). One byte more, and another folder is used."""
    longest = preflight.LONGEST_FOLDER_BYTES - len("/ray")
    fits, exceeds = long_folder(short, longest), long_folder(short, longest + 1)
    monkeypatch.setenv("RAY_TMPDIR", str(fits))
    folder = preflight.ray_folder().path
    assert folder == fits / "ray"
    sockets = folder / "session_2026-12-31_23-59-59_999999_4194304" / "sockets"
    sockets.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(sockets / "dash_MetricsHead"))
    monkeypatch.setenv("RAY_TMPDIR", str(exceeds))
    assert preflight.ray_folder().path == Path("/tmp/ray")


@pytest.mark.parametrize("length", [60, 120])
def test_a_long_tmpdir_is_replaced_and_said_so(length: int, short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 60 bytes the processes of Ray can still use it themselves, and only Ray's own folder moves."""
    monkeypatch.setenv("TMPDIR", str(long_folder(short, length)))
    folder = preflight.ray_folder()
    assert folder.path == Path("/tmp/ray")
    assert folder.environment == ({} if length == 60 else {"TMPDIR": "/tmp"})
    assert folder.remark is not None
    assert "bytes too long for the sockets of Ray" in folder.remark
    assert "/tmp instead" in folder.remark
    assert preflight.check_temporary_folder().warning == folder.remark


def test_a_long_tmpdir_is_replaced_also_beside_a_short_folder_of_ray(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(short))
    monkeypatch.setenv("TMPDIR", str(long_folder(short)))
    folder = preflight.ray_folder()
    assert (folder.path, folder.environment) == (short / "ray", {"TMPDIR": str(short)})


def test_a_folder_of_another_user_is_not_used(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (short / "ray").mkdir()
    monkeypatch.setenv("TMPDIR", str(short))
    monkeypatch.setattr("os.access", lambda path, _: Path(path) != short / "ray")  # root can write everywhere
    assert preflight.ray_folder().path == short / f"ray-{os.getuid()}"


def test_without_any_usable_folder_one_line_names_each(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("TMPDIR", MISSING)
    monkeypatch.setattr(preflight, "TEMPORARY_FOLDERS", (str(file), str(tmp_path / "read-only")))
    (tmp_path / "read-only").mkdir()
    monkeypatch.setattr(preflight, "_writable", lambda folder: False)
    with pytest.raises(CannotRun) as caught:
        preflight.ray_folder()
    message = str(caught.value)
    for part in (
        f"TMPDIR={MISSING} does not exist",
        f"{file} is no folder",
        "read-only is not writable",
        "set RAY_TMPDIR",
    ):
        assert part in message
    assert "\n" not in message


# --- space


def free_space(monkeypatch: pytest.MonkeyPatch, **free: float) -> None:
    """Replaces the free space by the folder's first name; others have plenty."""

    def disk_usage(folder: Path) -> SimpleNamespace:
        return SimpleNamespace(free=free.get(folder.parts[1], 100 * GB))

    monkeypatch.setattr("shutil.disk_usage", disk_usage)


@pytest.mark.parametrize(("free", "warns"), [(0.5 * GB, True), (20 * GB, False)])
def test_little_space_for_the_output_is_a_warning(
    free: float, warns: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free_space(monkeypatch, **{tmp_path.parts[1]: free})
    warning = preflight.check_disk(tmp_path / "not" / "there" / "yet").warning
    assert (warning is not None and "0.5 GB free" in warning) == warns


def test_a_study_on_a_full_disk_is_refused_before_its_folder_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free_space(monkeypatch, **{tmp_path.parts[1]: 5 * 10**6})
    with pytest.raises(CannotRun, match=r"5 MB free, and even a tiny study writes 16 MB; free some space"):
        run_study(recipes.inline(), RunOptions(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_no_space_for_ray_s_logs_is_refused_and_little_shared_memory_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    free_space(monkeypatch, tmp=10**6)
    with pytest.raises(CannotRun, match=r"/tmp/ray: 1 MB free, 4 MB needed"):
        preflight.check_temporary_folder()
    free_space(monkeypatch, tmp=200 * 10**6, dev=64 * 10**6)
    warning = preflight.check_temporary_folder().warning
    assert warning is not None
    assert warning.startswith("64 MB free in /dev/shm and 0.2 GB in /tmp/ray")
    free_space(monkeypatch, dev=64 * 10**6)  # Ray keeps its objects in its folder then
    assert preflight.check_temporary_folder().warning is None


# --- memory


class Machine:
    """Memory, swap and cgroups that the checks read."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.monkeypatch = root, monkeypatch
        monkeypatch.setattr(preflight, "CGROUPS", root)
        monkeypatch.setattr(preflight, "CGROUP_OF_PROCESS", root / "self")
        self.has(8 * GB)

    def has(self, available: float, swap: float = 0) -> None:
        amounts = SimpleNamespace(available=available, free=swap)
        self.monkeypatch.setattr("psutil.virtual_memory", lambda: amounts)
        self.monkeypatch.setattr("psutil.swap_memory", lambda: amounts)

    def process_in(self, *lines: str) -> None:
        (self.root / "self").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def limit_v2(self, cgroup: str, limit: str, used: int, cached: int) -> None:
        stat = f"anon 1\ninactive_file {cached}\n"
        self._write(self.root / cgroup, {"memory.max": limit, "memory.current": str(used), "memory.stat": stat})

    def limit_v1(self, cgroup: str, limit: int, used: int, cached: int) -> None:
        files = {"memory.limit_in_bytes": str(limit), "memory.usage_in_bytes": str(used)}
        stat = f"inactive_file 7\ntotal_inactive_file {cached}\n"
        self._write(self.root / "memory" / cgroup, {**files, "memory.stat": stat})

    @staticmethod
    def _write(folder: Path, files: dict[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name).write_text(content + "\n", encoding="utf-8")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_memory_is_refused_below_what_ray_needs_and_a_warning_below_the_quickstart_s_peak(machine: Machine) -> None:
    assert preflight.check_memory() == preflight.Checked("8.0 GB of memory available")
    machine.has(2 * GB)
    warning = preflight.check_memory().warning
    assert warning is not None
    assert warning.startswith("2.0 GB of memory available, and the quickstart takes 4 to 6 GB")
    machine.has(0.3 * GB, swap=2 * GB)  # slow, but it can start
    assert preflight.check_memory().warning is not None
    machine.has(0.3 * GB)
    with pytest.raises(CannotRun, match=r"0\.3 GB of memory available, and the driver and Ray need 1\.0 GB"):
        preflight.check_memory()


def test_a_limit_of_cgroup_v2_counts_also_where_it_is_set_further_up(machine: Machine) -> None:
    machine.process_in("0::/user.slice/job.scope")
    machine.limit_v2("user.slice/job.scope", "max", used=5 * GB, cached=0)
    assert preflight.available_memory() == (8 * GB, None)
    machine.limit_v2("user.slice", str(4 * GB), used=3 * GB, cached=2 * GB)
    assert preflight.available_memory() == (3 * GB, 4 * GB)
    machine.limit_v2("user.slice", str(4 * GB), used=4 * GB, cached=GB // 2)
    with pytest.raises(
        CannotRun, match=r"0\.5 GB of memory available under a cgroup limit of 4\.0 GB, .*container or job"
    ):
        preflight.check_memory()


def test_a_limit_of_cgroup_v1_counts_also_inside_a_container(machine: Machine) -> None:
    """There the kernel lists the host's path, which the container does not see; its own limits are at the root."""
    machine.process_in("5:cpu,cpuacct:/x", "4:memory:/docker/abc", "0::/")
    unlimited = 9223372036854771712  # what v1 says without a limit
    machine.limit_v1("docker/abc", unlimited, used=GB, cached=0)
    assert preflight.available_memory() == (8 * GB, None)
    machine.limit_v1("", 3 * GB, used=2 * GB, cached=GB)
    assert preflight.available_memory() == (2 * GB, 3 * GB)


def test_all_problems_of_a_local_start_are_said_at_once(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.has(0.1 * GB)
    monkeypatch.setattr(preflight, "SHARED_MEMORY", Path(MISSING))
    with pytest.raises(CannotRun, match=r"(?s)no such folder.*\nerror: 0\.1 GB of memory"):
        preflight.check_local_start()
    machine.has(2 * GB)
    monkeypatch.undo()
    monkeypatch.setenv("TMPDIR", MISSING)
    assert any(f"TMPDIR={MISSING} does not exist" in warning for warning in preflight.check_local_start())


# --- ports, and the start itself


def test_ui_refuses_a_taken_port(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        ran = CliRunner().invoke(app, ["ui", str(tmp_path), "--port", str(port)])
    assert ran.exit_code == 2
    assert ran.stderr == f"error: --port {port}: Address already in use; choose another port\n"
    assert port_problem(port) is None


def test_a_taken_port_that_the_environment_names_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert preflight.check_ports() == preflight.Checked("Ray takes free ones")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        monkeypatch.setenv("RAY_GCS_SERVER_PORT", str(port))
        with pytest.raises(CannotRun, match=rf"RAY_GCS_SERVER_PORT={port}: Address already in use; unset it"):
            preflight.check_local_start()


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (Exception("The node timed out\n.Please check gcs.out"), "Exception: The node timed out. Please check gcs.out"),
        (RuntimeError("log:\nTraceback (most recent call last):\n  f()\nOSError: x"), "RuntimeError: OSError: x"),
        (PermissionError(13, "Permission denied"), "PermissionError: [Errno 13] Permission denied"),
    ],
)
def test_whatever_keeps_ray_from_starting_is_one_sentence(
    error: Exception, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(**_: object) -> None:
        raise error

    monkeypatch.setattr("ray.init", fails)
    with pytest.raises(CannotRun) as caught, connection.connected(None):
        pass
    assert str(caught.value).startswith(f"Ray cannot start on this machine ({says}); see the logs in /tmp/ray/")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.ray
def test_a_local_ray_starts_beside_another_head_and_on_taken_ports(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TMPDIR is too long, Ray's default ports are taken, and the last `ray start` noted the address of a head that is gone."""
    monkeypatch.setenv("RAY_TMPDIR", str(short))
    monkeypatch.setenv("TMPDIR", str(long_folder(short)))
    (short / "ray").mkdir()
    (short / "ray" / "ray_current_cluster").write_text("127.0.0.1:6379", encoding="utf-8")
    taken = [socket.socket() for _ in range(3)]
    try:
        for holder, port in zip(taken, (6379, 8265, 52365), strict=True):
            if port_problem(port) is None:  # else another Ray has it
                holder.bind(("127.0.0.1", port))
                holder.listen()
        with connection.connected(None):
            assert ray.get_runtime_context().gcs_address.rpartition(":")[2] != "6379"
            assert ray.get(ray.remote(lambda: os.environ["TMPDIR"]).remote(), timeout=240) == str(short)
    finally:
        for holder in taken:
            holder.close()
    assert os.environ["TMPDIR"] != str(short)


@pytest.mark.slow
@pytest.mark.ray
def test_doctor_and_run_agree_where_ray_cannot_start(tmp_path: Path) -> None:
    """Ray demands a token, and its file cannot be read."""
    home = tmp_path / "file"
    home.touch()
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(home / "token")}
    output = str(tmp_path / "out")
    ran = study_command(
        "run", "tests/support/recipes.py:inline", "--output", output, environment=environment, timeout_s=240
    )
    assert ran.code == 2, ran.err
    assert "error: Ray cannot start on this machine (" in ran.err
    assert "Traceback" not in ran.err
    checked = study_command("doctor", environment=environment, timeout_s=240)
    assert checked.code == 1, checked.out
    assert "FAIL ray: Ray cannot start on this machine (" in checked.out
