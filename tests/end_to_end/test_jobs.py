"""A study as a Ray job on a real head node: submitted, followed, stopped and resumed, with the right exit codes."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import optuna
import psutil
import pytest

from study.search.journal import open_journal
from tests.support.commands import ROOT, CommandResult
from tests.support.shared_runs import CANARIES

pytestmark = [pytest.mark.slow, pytest.mark.ray]

# Token authentication as on any cluster, since whoever reaches an open job server can run code there; and secrets in the
# environment of the head and of the submitter.
ENVIRONMENT = {
    **os.environ,
    **CANARIES,
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # a job's `python` is that of the head's environment
}
RAY = [sys.executable, "-m", "ray.scripts.scripts"]
WORKER_PORTS = range(10002, 20000)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of our own head's job server; `clusters/local.sh` starts and stops it."""
    state, port = tmp_path_factory.mktemp("head"), _free_port()
    environment = {**ENVIRONMENT, "XSTILTS_LOCAL": str(state), "XSTILTS_PORT": str(port)}

    def local(*arguments: str) -> str:
        done = subprocess.run(
            [ROOT / "clusters" / "local.sh", *arguments], env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    try:
        address = local("start", "--num-cpus=2", "--object-store-memory=134217728")
        pid = int((state / "pid").read_text())
        assert address == f"http://127.0.0.1:{port}"
        _wait_for(f"{address}/api/version")
        assert local("start") == f"already running: {address}"
        current = Path((state / "tmp").read_text().strip()) / "ray" / "ray_current_cluster"
        assert current.read_text().endswith(":" + (state / "gcs").read_text().strip()), "jobs would go to another Ray"
        yield address
        assert "CPU" in local("status")
    finally:
        local("stop")
        if (state / "tmp").exists():
            shutil.rmtree((state / "tmp").read_text().strip())
    assert not list(_living(pid)), "`stop` left processes of the head"


def _living(group: int) -> Iterator[int]:
    """Processes of the group that still run."""
    for process in psutil.process_iter(["status"]):
        with suppress(ProcessLookupError):
            if os.getpgid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE:
                yield process.pid


def _free_port() -> int:
    """A port from the range that Ray reserves for its workers by default, and refuses to the job server."""
    for port in range(WORKER_PORTS.start + os.getpid() % 5000, WORKER_PORTS.stop):
        with socket.socket() as sock, suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + 240
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except urllib.error.HTTPError:
            return  # it answers, if only to ask for a token
        except OSError:
            assert time.monotonic() < deadline, "the job server did not come up"
            time.sleep(0.5)


def _submit(address: str, *arguments: str, environment: Mapping[str, str] = ENVIRONMENT) -> CommandResult:
    done = subprocess.run(
        [sys.executable, "-m", "study", "submit", *arguments, "--address", address],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    return CommandResult(done.returncode, done.stdout, done.stderr)


def test_a_stopped_job_resumes_when_submitted_again(head: str, tmp_path: Path) -> None:
    output = tmp_path / "out"
    command = ("tests/support/recipes.py:inline", "--trials", "2", "--output", str(output))
    first = _submit(head, *command, "--no-wait")
    assert first.code == 0, first.err
    job = first.document["job"]
    assert job.startswith("inline-")
    assert first.document["status"] in ("PENDING", "RUNNING")
    deadline = time.monotonic() + 480
    while not list(output.glob("stages/pretrain*/manifest.json")):  # `--stop` would find a search ended
        assert time.monotonic() < deadline, "no stage finished"
        time.sleep(0.1)
    stopped = _submit(head, "--stop", job)
    assert (stopped.code, stopped.document["status"]) == (0, "STOPPED"), stopped.err
    assert _submit(head, "--status", job).code == 130, "`ray job submit` would say 0"
    before = {path: path.stat().st_mtime_ns for path in output.glob("stages/*/manifest.json")}
    assert not (output / "report.html").exists()

    # --address overrides the cluster that the environment names.
    again = _submit(head, *command, environment={**ENVIRONMENT, "RAY_ADDRESS": "http://127.0.0.1:1"})
    assert again.code == 0, again.err
    assert (again.document["status"], again.document["exit_code"]) == ("SUCCEEDED", 0)
    assert "searching 1x32" in again.err, "the job's log is followed"
    after = {path: path.stat().st_mtime_ns for path in output.glob("stages/*/manifest.json")}
    assert {path: after[path] for path in before} == before, "a finished stage was trained again"
    assert (output / "report.html").is_file()
    assert len(optuna.load_study(study_name="1x32", storage=open_journal(output)).trials) == 2, "a trial too many"
    for submitted in (job, again.document["job"]):
        _check_for_secrets(head, submitted, output, again.out + again.err)


# Runs in a process of its own: Ray's client takes address and token from the environment.
_PRINT_JOB = """
import json, sys
from ray.job_submission import JobSubmissionClient

client = JobSubmissionClient(sys.argv[1])
listed = {job.submission_id: job.dict() for job in client.list_jobs() if job.submission_id == sys.argv[2]}
assert listed, "the job is not listed"
details = client.get_job_info(sys.argv[2]).dict()
print(json.dumps({"listed": listed, "details": details, "log": client.get_job_logs(sys.argv[2])}, default=str))
"""


def _check_for_secrets(address: str, job: str, output: Path, printed: str) -> None:
    """No secret is in the job server's entry (entrypoint, runtime environment, metadata), in the job's log, or in what the
    command printed; nor in a file of the study or of the head's session, which has all logs and the uploaded package."""
    environment = {**ENVIRONMENT, "RAY_ADDRESS": address}
    done = subprocess.run(
        [sys.executable, "-c", _PRINT_JOB, address, job],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    entry = json.loads(done.stdout)
    details = entry["details"]
    assert details["entrypoint"].startswith("python -m study run")
    assert details["metadata"]["study"] == "inline"
    assert details["runtime_env"]["working_dir"].startswith("gcs://")
    assert f"entrypoint for job {job}" in entry["log"], "the log is not the job's"
    hidden = [*CANARIES.values(), ENVIRONMENT["RAY_AUTH_TOKEN"]]
    assert [secret for secret in hidden if secret in done.stdout + printed] == []
    (session,) = {  # also by the name `session_latest`
        log.resolve().parents[1] for log in Path("/tmp").glob(f"xstilts-*/ray/session_*/logs/job-driver-{job}.log")
    }
    files = [path for folder in (output, session) for path in folder.rglob("*") if path.is_file()]
    assert any(path.name == "runtime_env.yaml" for path in files), "the uploaded package is not there"
    for path in files:
        content = path.read_bytes()
        assert [secret for secret in hidden if secret.encode() in content] == [], path


def test_a_study_with_a_failure_fails_the_job(head: str, tmp_path: Path) -> None:
    """The size's pre-training diverges, so that it has no search."""
    ran = _submit(head, "tests/support/recipes.py:diverging", "--sizes", "1x64", "--output", str(tmp_path / "out"))
    assert ran.code == 1, ran.err
    assert ran.document["status"] == "FAILED"
    assert "failed: 1x64 pre-training: Diverged" in ran.err


def test_ray_s_own_submission_fails_a_job_with_bad_input(head: str) -> None:
    """Without the checks of `study submit`, the driver's exit code 2 fails the job."""
    arguments = ["--working-dir", ".", "--runtime-env", "clusters/runtime_env.yaml"]
    done = subprocess.run(
        [*RAY, "job", "submit", "--address", head, *arguments, "--", "python", "-m", "study", "run", "nope"],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode != 0
    assert "no recipe 'nope'" in done.stdout + done.stderr


def test_a_wrong_or_missing_token_is_refused_before_anything_is_uploaded(head: str, tmp_path: Path) -> None:
    submits = ("quickstart", "--output", str(tmp_path / "out"))
    without_token = {name: value for name, value in ENVIRONMENT.items() if not name.startswith("RAY_AUTH")}

    def at_home(mode: int | None) -> dict[str, str]:
        """The environment of a user with a token in a file of that mode, or with none."""
        home = tmp_path / f"home-{mode}"
        token = home / ".ray" / "auth_token"
        token.parent.mkdir(parents=True)
        if mode is not None:
            token.write_text(ENVIRONMENT["RAY_AUTH_TOKEN"])
            token.chmod(mode)
        return {**without_token, "HOME": str(home)}

    cases = (
        (submits, {**ENVIRONMENT, "RAY_AUTH_TOKEN": secrets.token_hex(32)}, "the cluster refuses the token"),
        (submits, at_home(None), "the cluster requires a token (401)"),
        (submits, at_home(0o644), "chmod 600"),
        (("--status", "nobody-knows"), at_home(0o600), "no job 'nobody-knows'"),  # the file's token was used
    )
    with ThreadPoolExecutor(2) as pool:
        all_ran = list(pool.map(lambda case: _submit(head, *case[0], environment=case[1]), cases))
    for ran, (_, _, says) in zip(all_ran, cases, strict=True):
        assert ran.code == 2, ran.err
        assert says in ran.err
        assert "Traceback" not in ran.err
        assert ran.out == ""
