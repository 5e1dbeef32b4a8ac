"""A study as a Ray job: submitted to a real head node, followed, stopped, resumed, with the exit code that it deserves."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Self

import psutil
import pytest
import ray

from tests.conftest import CANARIES, ROOT, Ran

# Token authentication, as on any cluster: whoever reaches a job server without it runs code there. Secrets besides, of the head
# and of who submits.
ENVIRONMENT = {
    **os.environ,
    **CANARIES,
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # a job's `python` is the one of the head's environment
}
RAY = [sys.executable, "-m", "ray.scripts.scripts"]
WORKER_PORTS = range(10002, 20000)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the job server of a head node of our own, as `clusters/local.sh` starts and stops it."""
    state, port = tmp_path_factory.mktemp("head"), _free_port()
    environment = {**ENVIRONMENT, "XSTILTS_LOCAL": str(state), "XSTILTS_PORT": str(port)}

    def local(*arguments: str) -> str:
        done = subprocess.run(
            [ROOT / "clusters" / "local.sh", *arguments], env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    try:
        address = local("start", "--num-cpus=2", "--object-store-memory=134217728")
        pid = int((state / "pid").read_text())
        assert address == f"http://127.0.0.1:{port}"
        _wait_for(f"{address}/api/version")
        assert local("start") == f"already running: {address}"
        noted = Path((state / "tmp").read_text().strip()) / "ray" / "ray_current_cluster"
        assert noted.read_text().endswith(":" + (state / "gcs").read_text().strip()), "jobs would go to another Ray"
        yield address
        assert "CPU" in local("status")
    finally:
        local("stop")
        if (state / "tmp").exists():
            shutil.rmtree((state / "tmp").read_text().strip())
    assert not list(_living(pid)), "`stop` ended the head and all of its own"


def _living(group: int) -> Iterator[int]:
    """Processes of the group that have not ended."""
    for process in psutil.process_iter(["status"]):
        with suppress(ProcessLookupError):
            if os.getpgid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE:
                yield process.pid


def _free_port() -> int:
    """Of those that Ray keeps for its workers unless it is told otherwise, and does not let the job server have."""
    for port in range(WORKER_PORTS.start + os.getpid() % 5000, WORKER_PORTS.stop):
        with socket.socket() as sock, suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + 90
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except urllib.error.HTTPError:
            return  # it answers; what it wants of clients is their business
        except OSError:
            assert time.monotonic() < deadline, "the job server did not come up"
            time.sleep(0.5)


def _submit(address: str, *arguments: str, environment: Mapping[str, str] = ENVIRONMENT) -> Ran:
    done = subprocess.run(
        [sys.executable, "-m", "study", "submit", *arguments, "--address", address],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def test_a_job_that_was_stopped_goes_on_when_submitted_again(head: str, tmp_path: Path) -> None:
    output = tmp_path / "out"
    command = ("tests/support/recipes.py:inline", "--trials", "2", "--output", str(output))
    first = _submit(head, *command, "--no-wait")
    assert first.code == 0, first.err
    job = first.document["job"]
    assert job.startswith("inline-")
    assert first.document["status"] in ("PENDING", "RUNNING")
    deadline = time.monotonic() + 180
    while not list(output.glob("stages/pretrain*/manifest.json")):
        assert time.monotonic() < deadline, "nothing was finished"
        time.sleep(0.1)
    stopped = _submit(head, "--stop", job)
    assert (stopped.code, stopped.document["status"]) == (0, "STOPPED"), stopped.err
    assert _submit(head, "--status", job).code == 130, "`ray job submit` would say 0"
    before = {path: path.stat().st_mtime_ns for path in output.glob("stages/*/manifest.json")}
    assert not (output / "report.html").exists()

    # Whatever the environment says of another cluster, the address that is given counts.
    again = _submit(head, *command, environment={**ENVIRONMENT, "RAY_ADDRESS": "http://127.0.0.1:1"})
    assert again.code == 0, again.err
    assert (again.document["status"], again.document["exit_code"]) == ("SUCCEEDED", 0)
    assert "searching 1x32" in again.err, "the job's log is followed"
    after = {path: path.stat().st_mtime_ns for path in output.glob("stages/*/manifest.json")}
    assert {path: after[path] for path in before} == before, "a finished stage was made again"
    assert (output / "report.html").is_file()
    for one in (job, again.document["job"]):
        _check_for_secrets(head, one, output, again.out + again.err)


# Asked in a process of its own: Ray's client takes address and token from the environment.
_KEPT_OF_A_JOB = """
import json, sys
from ray.job_submission import JobSubmissionClient

client = JobSubmissionClient(sys.argv[1])
kept = {one.submission_id: one.dict() for one in client.list_jobs() if one.submission_id == sys.argv[2]}
assert kept, "the job is not listed"
details = client.get_job_info(sys.argv[2]).dict()
print(json.dumps({"listed": kept, "details": details, "log": client.get_job_logs(sys.argv[2])}, default=str))
"""


def _check_for_secrets(address: str, job: str, output: Path, printed: str) -> None:
    """Neither the job server's entry, with entrypoint, runtime environment and metadata, nor the job's log, nor what the
    command printed holds a secret; nor does a file of the study, or of the head's session with all logs and what was
    uploaded."""
    environment = {**ENVIRONMENT, "RAY_ADDRESS": address}
    done = subprocess.run(
        [sys.executable, "-c", _KEPT_OF_A_JOB, address, job],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    kept = json.loads(done.stdout)
    details = kept["details"]
    assert details["entrypoint"].startswith("python -m study run")
    assert details["metadata"]["study"] == "inline"
    assert details["runtime_env"]["working_dir"].startswith("gcs://")
    assert f"entrypoint for job {job}" in kept["log"], "the log is the job's"
    hidden = [*CANARIES.values(), ENVIRONMENT["RAY_AUTH_TOKEN"]]
    assert [secret for secret in hidden if secret in done.stdout + printed] == []
    (session,) = {  # also by the name `session_latest`
        log.resolve().parents[1] for log in Path("/tmp").glob(f"xstilts-*/ray/session_*/logs/job-driver-{job}.log")
    }
    files = [path for folder in (output, session) for path in folder.rglob("*") if path.is_file()]
    assert any(path.name == "runtime_env.yaml" for path in files), "what was uploaded is there too"
    for path in files:
        content = path.read_bytes()
        assert [secret for secret in hidden if secret.encode() in content] == [], path


def test_a_failed_trial_fails_the_job(head: str, tmp_path: Path) -> None:
    ran = _submit(head, "tests/support/recipes.py:diverging", "--output", str(tmp_path / "out"))
    assert ran.code == 1, ran.err
    assert ran.document["status"] == "FAILED"
    assert "micro_topic" in ran.err
    assert "diverged" in ran.err


def test_ray_s_own_submission_fails_a_job_with_bad_input(head: str) -> None:
    """Without `study submit` and its checks: the driver's exit code 2 is a failed job."""
    arguments = ["--working-dir", ".", "--runtime-env", "clusters/runtime_env.yaml"]
    done = subprocess.run(
        [*RAY, "job", "submit", "--address", head, *arguments, "--", "python", "-m", "study", "run", "nope"],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode != 0
    assert "no recipe 'nope'" in done.stdout + done.stderr


def test_a_wrong_token_and_none_are_refused_before_anything_is_uploaded(head: str, tmp_path: Path) -> None:
    submits = ("quickstart", "--output", str(tmp_path / "out"))
    nobody = {name: value for name, value in ENVIRONMENT.items() if not name.startswith("RAY_AUTH")}

    def at_home(mode: int | None) -> dict[str, str]:
        """The environment of a user whose token, if there is one, lies in a file of that mode."""
        home = tmp_path / f"home-{mode}"
        token = home / ".ray" / "auth_token"
        token.parent.mkdir(parents=True)
        if mode is not None:
            token.write_text(ENVIRONMENT["RAY_AUTH_TOKEN"])
            token.chmod(mode)
        return {**nobody, "HOME": str(home)}

    cases = (
        (submits, {**ENVIRONMENT, "RAY_AUTH_TOKEN": secrets.token_hex(32)}, "the cluster does not know the token"),
        (submits, at_home(None), "the cluster wants a token (401)"),
        (submits, at_home(0o644), "chmod 600"),
        (("--status", "nobody-knows"), at_home(0o600), "no job 'nobody-knows'"),  # the token of the file was taken
    )
    with ThreadPoolExecutor(2) as pool:
        all_ran = list(pool.map(lambda case: _submit(head, *case[0], environment=case[1]), cases))
    for ran, (_, _, says) in zip(all_ran, cases, strict=True):
        assert ran.code == 2, ran.err
        assert says in ran.err
        assert "Traceback" not in ran.err
        assert ran.out == ""


@pytest.fixture
def other_server() -> Iterator[tuple[str, dict[str, str]]]:
    """Something that answers like a job server, and what it answers."""
    answer: dict[str, str] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", answer
    finally:
        server.shutdown()


def test_another_version_of_ray_is_refused(
    other_server: tuple[str, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from study.cluster.jobs import CannotSubmit, JobServer

    monkeypatch.setenv("HOME", str(tmp_path))  # without a token
    address, answer = other_server
    answer["ray_version"] = "2.9.3"
    with pytest.raises(CannotSubmit, match=rf"runs Ray 2\.9\.3 and this environment has {ray.__version__}"):
        JobServer(address)
    del answer["ray_version"]
    with pytest.raises(CannotSubmit, match="no job server of Ray"):
        JobServer(address)


class Breaking:
    """A job server that is not well: log streams break in the middle, and calls named in `broken` before an answer; the
    statuses in `errors` answer the next questions of how the job is, the last of them all that come after."""

    def __init__(self) -> None:
        self.log = ["first\n", "second\n", "third\n"]
        self.streams = 0
        self.broken: tuple[str, str] | None = None
        self.errors: list[int] = []
        self.asked = 0
        self._server = HTTPServer(("127.0.0.1", 0), self._handler())
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *arguments: object) -> None:
                pass

            def do_GET(self) -> None:
                if (self.command, self.path) == server.broken:
                    self._break()
                elif self.path.endswith("/logs/tail"):
                    self._stream()
                elif self.path == "/api/version":
                    self._answer({"ray_version": ray.__version__, "version": "4"})
                elif (self.command, self.path) == ("POST", "/api/jobs/"):
                    self._answer({"job_id": "1", "submission_id": "1"})
                elif server.errors and self.path.startswith("/api/jobs/"):
                    server.asked += 1
                    self.send_response(server.errors[0])
                    if len(server.errors) > 1 or server.errors[0] == 200:
                        server.errors.pop(0)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                else:
                    status = "SUCCEEDED" if server.streams >= len(server.log) else "RUNNING"
                    self._answer({"type": "SUBMISSION", "status": status, "entrypoint": "study"})

            do_POST = do_GET  # noqa: N815

            def _answer(self, content: dict[str, str]) -> None:
                body = json.dumps(content).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def _stream(self) -> None:
                """A web socket that sends a line more each time and is cut off."""
                server.streams += 1
                key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 4.2.2
                self.protocol_version = "HTTP/1.1"
                self.send_response(101)
                self.send_header("Upgrade", "websocket")
                self.send_header("Connection", "Upgrade")
                self.send_header("Sec-WebSocket-Accept", b64encode(hashlib.sha1(key.encode()).digest()).decode())
                self.end_headers()
                for line in server.log[: server.streams]:
                    self.wfile.write(bytes((0x81, len(line))) + line.encode())
                time.sleep(0.2)  # what was sent is read before the reset arrives
                self._break()

            def _break(self) -> None:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()

        return Handler


@pytest.fixture
def breaking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Breaking]:
    monkeypatch.setenv("HOME", str(tmp_path))  # without a token
    with Breaking() as server:
        yield server


def test_a_job_is_followed_further_when_its_log_breaks_off(
    breaking: Breaking, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from study.cluster import jobs as submit

    monkeypatch.setattr(submit, "POLL_S", 0.01)
    assert submit.JobServer(breaking.address).follow("job").status == "SUCCEEDED"
    assert breaking.streams > len(breaking.log)
    assert capsys.readouterr().err == "".join(breaking.log), "each line once"


def test_a_server_that_goes_away_is_told_with_the_way_to_ask_again(breaking: Breaking, tmp_path: Path) -> None:
    from study.cluster.jobs import ConnectionLost, JobServer

    server = JobServer(breaking.address)
    (tmp_path / "folder").mkdir()
    breaking.broken = ("POST", "/api/jobs/")
    with pytest.raises(ConnectionLost, match=rf"submit --status mine-\w+ --address {breaking.address}"):
        server.submit(["true"], "mine", tmp_path / "folder")
    breaking.broken = ("POST", "/api/jobs/job/stop")
    with pytest.raises(ConnectionLost, match="does not answer any more"):
        server.stop("job")


class Clock:
    """Time that passes in sleep alone."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def read(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def test_a_job_server_that_hiccups_is_asked_again(breaking: Breaking, capsys: pytest.CaptureFixture[str]) -> None:
    """Ray's dashboard answers 500 where it cannot reach its own parts; a proxy before it 502, or a page of its own."""
    from study.cluster.jobs import JobServer

    clock = Clock()
    server = JobServer(breaking.address, clock=clock.read, sleep=clock.sleep)
    breaking.errors = [500, 502, 503, 200]
    assert server.follow("job").code == 0
    assert breaking.asked == 4
    assert capsys.readouterr().err == "".join(breaking.log)


@pytest.mark.parametrize("broken", [("GET", "/api/jobs/job"), None])
def test_a_job_server_that_goes_on_hiccuping_is_given_up(breaking: Breaking, broken: tuple[str, str] | None) -> None:
    from study.cluster.jobs import PATIENCE_S, ConnectionLost, JobServer

    clock = Clock()
    server = JobServer(breaking.address, clock=clock.read, sleep=clock.sleep)
    breaking.errors, breaking.broken = [503], broken
    says = r"does not say how the job is \(503\)" if broken is None else "does not answer any more"
    with pytest.raises(ConnectionLost, match=rf"{says}.*submit --status job"):
        server.follow("job")
    assert clock.now_s == PATIENCE_S


def test_no_such_job_and_a_token_that_is_not_taken_are_told_apart(breaking: Breaking) -> None:
    from study.cluster.jobs import CannotSubmit, ConnectionLost, JobServer

    server = JobServer(breaking.address)
    breaking.errors = [404]
    with pytest.raises(CannotSubmit, match="no job 'job'"):
        server.describe("job")
    with pytest.raises(ConnectionLost, match="does not know job now: its head was started anew"):
        server.follow("job")
    for status in (401, 403):
        breaking.errors, breaking.asked = [status], 0
        with pytest.raises(ConnectionLost, match=rf"the cluster .* token.* \({status}\)"):
            server.describe("job")
        assert breaking.asked == 1, "another try would be answered alike"


@pytest.mark.parametrize("status", [500, 503, 401, 403, 404])
def test_a_followed_job_never_ends_as_refused_for_what_its_server_answers(
    breaking: Breaking, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2 is that of a study that was refused; this one may be running."""
    from typer.testing import CliRunner

    from study.cli.app import app
    from study.cluster import jobs as submit

    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path / "folder")  # what is uploaded
    monkeypatch.setattr(submit, "PATIENCE_S", 0.0)
    breaking.errors = [status]
    ran = CliRunner().invoke(app, ["submit", "quickstart", "--output", "/shared/x", "--address", breaking.address])
    assert ran.exit_code == 1, ran.stderr
    assert "submitted quickstart-" in ran.stderr
    assert "submit --status quickstart-" in ran.stderr or status == 404
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["quickstart"], "--output: where the study goes"),
        (["quickstart", "--output", "here"], "--output here: an absolute path"),
        (["quickstart", "--output", "/shared/x", "--data-root", "data"], "--data-root data: an absolute path"),
        (["nope", "--output", "/shared/x"], "no recipe 'nope'"),
        (["quickstart", "--output", "/shared/x", "--tracking-uri", "http://me:hidden@host:5000"], "holds a password"),
        (["quickstart", "--output", "/shared/x", "--sizes", "7x7"], "no size '7x7'"),
        (["/tmp/mine.py:study", "--output", "/shared/x"], "the folder that goes to the cluster"),
        (["quickstart", "--output", "/shared/x"], "no job server answers there"),
        (["quickstart", "--stop", "x"], "one of RECIPE, --status JOB and --stop JOB"),
        ([], "one of RECIPE, --status JOB and --stop JOB"),
    ],
)
def test_bad_input_is_refused_before_anything_is_uploaded(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from study.cli.app import app

    monkeypatch.setenv("HOME", str(tmp_path))  # without a token
    ran = CliRunner().invoke(app, ["submit", *arguments, "--address", "http://127.0.0.1:1"])
    assert ran.exit_code == 2
    assert says in ran.stderr
    assert ran.stdout == ""
