"""Submits a study as a job of a Ray cluster: checks before it uploads, follows the job, and reports the job's own exit code.

It uses the same job server as `ray job submit`, which exits with 0 for a stopped job and 1 for every failure, prefers
RAY_ADDRESS to the address it is given, and uploads before it checks.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import aiohttp
import requests
import yaml

from study.errors import joined
from study.redact import holds_password
from trainables.store.bucket.location import is_url

POLL_S = 1.0
STOP_TIMEOUT_S = 60.0
PATIENCE_S = 60.0  # for a job server that does not report a job's status; a restarting one is back sooner
REQUEST_TIMEOUT_S = 10.0
STREAM_S = 120.0  # a log's stream is opened again after this
STOPPED, LOST = 130, 1  # exit codes: somebody stopped the job; it ended without an exit code
_RUNTIME_ENVIRONMENT = Path(__file__).parents[2] / "clusters" / "runtime_env.yaml"
_OVERRIDES = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")  # Ray prefers both to an explicit address


class CannotSubmit(RuntimeError):
    """Nothing was submitted. The message says why, and what to do."""


class NoSuchJob(CannotSubmit):
    """The job server has no job of that id."""


class ConnectionLost(RuntimeError):
    """The job server no longer reports the job's status, so its outcome is unknown."""


@dataclass(frozen=True)
class JobEnd:
    """How a job ended: Ray's status, the exit code for it, and Ray's message."""

    status: str
    code: int
    message: str


class JobServer:
    """The job server of a cluster; the constructor checks that a study can be submitted to it.

    Raises:
        CannotSubmit: no job server answers at the address, it refuses the token, or it runs another version of Ray.
    """

    def __init__(
        self,
        address: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.address, self._clock, self._sleep = address.rstrip("/"), clock, sleep
        parts = urlsplit(self.address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise CannotSubmit(f"--address {address}: not a URL; give the job server's, such as http://127.0.0.1:8265")
        self._check_token_file()
        with _using(self.address):
            self._check()
            from ray.exceptions import AuthenticationError
            from ray.job_submission import JobSubmissionClient

            try:
                self._client = JobSubmissionClient(self.address)
            except (ConnectionError, RuntimeError, requests.RequestException, AuthenticationError) as error:
                raise CannotSubmit(
                    f"--address {self.address}: the job server stopped answering ({error}); try again"
                ) from error

    def submit(self, entrypoint: Sequence[str], name: str, folder: Path) -> str:
        """Upload the folder and start the job in it; the job's id.

        Raises:
            CannotSubmit: the folder is too large, or the server refuses the job.
            ConnectionLost: the server stopped answering; the job may have started.
        """
        from ray.exceptions import AuthenticationError, RaySystemError

        settings = yaml.safe_load(_RUNTIME_ENVIRONMENT.read_text(encoding="utf-8"))
        job = f"{name}-{secrets.token_hex(4)}"
        try:
            with _using(self.address):
                self._client.submit_job(
                    entrypoint=shlex.join(entrypoint),
                    submission_id=job,
                    runtime_env={**settings, "working_dir": str(folder)},
                    metadata={"study": name},
                )
        except requests.RequestException as error:
            raise self._lost(job, f"the job server stopped answering ({type(error).__name__})") from error
        except (RuntimeError, RaySystemError, AuthenticationError, ValueError) as error:
            raise CannotSubmit(f"--address {self.address}: the job server refused the job: {error}") from error
        return job

    def describe(self, job: str) -> dict[str, Any]:
        """The server's record of a job. A server that does not answer, or answers with an error, is retried for PATIENCE_S.

        It bypasses Ray's client, which raises the same error for every status but 200.

        Raises:
            NoSuchJob: there is no job of that id.
            ConnectionLost: the server stopped answering, or refuses the token.
        """
        from ray.exceptions import AuthenticationError

        deadline = self._clock() + PATIENCE_S
        while True:
            try:
                answer, headers = self._get(f"/api/jobs/{quote(job, safe='')}")
            except AuthenticationError as error:
                raise self._lost(job, "the token is gone from this machine") from error
            except requests.RequestException as error:
                problem = f"the job server stopped answering ({type(error).__name__})"
            else:
                if answer.status_code == 404:
                    raise NoSuchJob(f"no job {job!r} at {self.address}")
                if answer.status_code in (401, 403):
                    raise self._lost(job, _not_allowed(answer.status_code, headers))
                if (details := _details(answer)) is not None:
                    return {
                        "job": job,
                        "status": str(details["status"]),
                        "entrypoint": details.get("entrypoint"),
                        "started": _utc(details.get("start_time")),
                        "ended": _utc(details.get("end_time")),
                        "exit_code": details.get("driver_exit_code"),
                        "message": details.get("message"),
                    }
                problem = f"the job server does not report the job's status ({answer.status_code})"
            if self._clock() >= deadline:
                raise self._lost(job, problem)
            self._sleep(POLL_S)

    def stop(self, job: str) -> JobEnd:
        """Stop a job and wait until it has stopped; a job that has ended stays as it is.

        Raises:
            CannotSubmit: there is no job of that id, or it does not stop.
            ConnectionLost: the server stopped answering.
        """
        from ray.exceptions import AuthenticationError

        self.describe(job)
        try:
            self._client.stop_job(job)
        except requests.RequestException as error:
            raise self._lost(job, f"the job server stopped answering ({type(error).__name__})") from error
        except (RuntimeError, AuthenticationError) as error:
            raise CannotSubmit(f"--address {self.address}: the job server did not stop {job}: {error}") from error
        deadline = self._clock() + STOP_TIMEOUT_S
        while (end := self.end_of(job)) is None:
            if self._clock() > deadline:
                raise CannotSubmit(f"{job} was told to stop {STOP_TIMEOUT_S:.0f} s ago and still runs; see its log")
            self._sleep(POLL_S)
        return end

    def follow(self, job: str) -> JobEnd:
        """Print the job's output as it arrives, until the job ends.

        Raises:
            ConnectionLost: the server no longer reports the job's status, or no longer has the job.
        """
        printed = 0
        while True:
            try:
                end = self.end_of(job)  # before the log is read, so that no output before the end is missed
            except NoSuchJob as error:  # not a refusal: the job was accepted
                raise ConnectionLost(
                    f"{self.address} no longer has {job}: its head was restarted; submit the study again to resume it"
                ) from error
            printed += asyncio.run(self._print_log(job, skip=printed))
            if end is not None:
                return end
            # The stream also ends when the connection breaks, while the job runs.
            self._sleep(POLL_S)

    def end_of(self, job: str) -> JobEnd | None:
        """How the job ended; None while it runs."""
        record = self.describe(job)
        status, message = record["status"], record["message"] or ""
        if status in ("PENDING", "RUNNING"):
            return None
        if status == "SUCCEEDED":
            return JobEnd(status, 0, message)
        if status == "STOPPED":
            return JobEnd(status, STOPPED, message)
        return JobEnd(status, record["exit_code"] or LOST, message)

    async def _print_log(self, job: str, *, skip: int) -> int:
        """Print the log after its first `skip` characters; how many were printed. Every stream starts at the log's start."""
        seen = 0
        # Ray raises RuntimeError for a broken connection; whether the server is gone shows at the next request. A connection
        # can also die in silence, and Ray's stream has no time-out of its own.
        with suppress(aiohttp.ClientError, TimeoutError, RuntimeError):
            async with asyncio.timeout(STREAM_S):
                async for text in self._client.tail_job_logs(job):
                    new = text[max(0, skip - seen) :]
                    seen += len(text)
                    print(new, end="", file=sys.stderr, flush=True)
        return max(0, seen - skip)

    def _lost(self, job: str, problem: str) -> ConnectionLost:
        return ConnectionLost(
            f"{self.address}: {problem}; {job} may still run. Once the connection works again: "
            f"python -m study submit --status {job} --address {self.address}"
        )

    def _get(self, path: str) -> tuple[requests.Response, Mapping[str, str]]:
        """The server's answer, and the request's headers: with the token, if there is one."""
        from ray._private.authentication.http_token_authentication import get_auth_headers_if_auth_enabled

        headers = get_auth_headers_if_auth_enabled({})
        return requests.get(f"{self.address}{path}", headers=headers, timeout=REQUEST_TIMEOUT_S), headers

    def _check_token_file(self) -> None:
        path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
        if "RAY_AUTH_TOKEN" in os.environ or not path.is_file():
            return
        if path.stat().st_mode & 0o077:
            raise CannotSubmit(f"{path} is readable by other users of this machine; chmod 600 {path}")
        if "RAY_AUTH_MODE" not in os.environ:  # with an explicit address, Ray's client does not look for a token
            from ray._private.authentication.authentication_token_setup import _enable_token_auth

            _enable_token_auth()

    def _check(self) -> None:
        import ray
        from ray.exceptions import AuthenticationError

        try:
            answer, headers = self._get("/api/version")
        except AuthenticationError as error:
            raise CannotSubmit(
                "RAY_AUTH_MODE is token and there is no token; copy the cluster's token to ~/.ray/auth_token (mode 600)"
            ) from error
        except requests.RequestException as error:
            raise CannotSubmit(
                f"--address {self.address}: no job server answers there ({type(error).__name__}); is the tunnel open?"
            ) from error
        if answer.status_code in (401, 403):
            raise CannotSubmit(
                f"--address {self.address}: {_not_allowed(answer.status_code, headers)}; copy the cluster's token "
                "to ~/.ray/auth_token (mode 600), or set RAY_AUTH_TOKEN"
            )
        try:
            theirs = str(answer.json()["ray_version"])
        except (requests.JSONDecodeError, KeyError, TypeError) as error:
            raise CannotSubmit(
                f"--address {self.address}: not a Ray job server (it answered {answer.status_code}); check the address"
            ) from error
        if theirs != ray.__version__:
            raise CannotSubmit(
                f"--address {self.address}: the cluster runs Ray {theirs} and this environment has {ray.__version__}; "
                f"driver and cluster need the same version: rebuild the cluster's image, or install {theirs} here"
            )


def checked_name(
    recipe: str,
    *,
    trials: int | None,
    sizes: tuple[str, ...] | None,
    seed: int | None,
    repeats: int | None,
    intermediates: tuple[str, ...] | None = None,
) -> str:
    """The study's name, if the recipe builds a valid study.

    Raises:
        CannotSubmit: the job would refuse the study.
    """
    from study.recipes import UnknownRecipe, load_recipe  # loads torch, which --status and --stop do not need
    from study.spec import InvalidStudy
    from trainables.data.source import DataError

    try:
        study = load_recipe(recipe).replace(
            trials=trials, sizes=sizes, intermediates=intermediates, seed=seed, repeats=repeats
        )
        return study.name
    except DataError:  # its data are on the cluster; the job checks them first
        return recipe.rpartition(":")[2]
    except UnknownRecipe as error:
        raise CannotSubmit(str(error)) from error
    except InvalidStudy as error:
        raise CannotSubmit(joined(error.errors)) from error


def entrypoint_of(recipe: str, options: Sequence[tuple[str, object]]) -> list[str]:
    """The job's command: `python -m study run` with the given options.

    Raises:
        CannotSubmit: the recipe's file is outside the uploaded folder, a path is relative, or a URI holds a password.
    """
    command = ["python", "-m", "study", "run", _portable(recipe)]
    for name, value in options:
        if value is None:
            continue
        in_bucket = name == "--output" and is_url(str(value))
        if name in ("--output", "--data-root") and not (in_bucket or Path(str(value)).is_absolute()):
            raise CannotSubmit(
                f"{name} {value}: a relative path; give an absolute one that every node of the cluster sees"
            )
        if name == "--tracking-uri" and holds_password(str(value)):
            raise CannotSubmit(
                "--tracking-uri holds a password, which Ray would store with the job; leave it out: the head reads its own "
                "from ~/.mlflow/credentials"
            )
        command += [name, str(value)]
    return command


def _portable(recipe: str) -> str:
    """The recipe, with a file's path relative to the current folder, which is uploaded."""
    path, colon, function = recipe.partition(":")
    if not colon:
        return recipe
    try:
        return f"{Path(path).resolve().relative_to(Path.cwd())}:{function}"
    except ValueError as error:
        raise CannotSubmit(
            f"{recipe}: outside {Path.cwd()}, the folder that is uploaded; move the file into it"
        ) from error


def _not_allowed(status: int, headers: Mapping[str, str]) -> str:
    return f"the cluster {'refuses the token' if headers else 'requires a token'} ({status})"


def _details(answer: requests.Response) -> Mapping[str, Any] | None:
    """The job's details in an answer; None where it is a server error or a proxy's page."""
    if answer.status_code != 200:
        return None
    try:
        details = answer.json()
    except requests.JSONDecodeError:
        return None
    return details if isinstance(details, dict) and "status" in details else None


@contextmanager
def _using(address: str) -> Iterator[None]:
    """Make Ray's client use this address, whatever the environment says."""
    before = {name: os.environ.pop(name) for name in _OVERRIDES if name in os.environ}
    os.environ["RAY_API_SERVER_ADDRESS"] = address
    try:
        yield
    finally:
        del os.environ["RAY_API_SERVER_ADDRESS"]
        os.environ.update(before)


def _utc(milliseconds: int | None) -> str | None:
    if not milliseconds:
        return None
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(milliseconds / 1000))
