"""A study as a job of a Ray cluster: checked before anything is uploaded, followed, and ended with the job's own exit code.

`ray job submit` says 0 of a job that was stopped and 1 of every failure, talks to RAY_ADDRESS whatever address it is given, and
uploads before it looks. This goes through the same job server.
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

from study.redact import holds_password

POLL_S = 1.0
STOP_TIMEOUT_S = 60.0
PATIENCE_S = 60.0  # with a job server that does not say how a job is: one that starts again is back before that
REQUEST_TIMEOUT_S = 10.0
STOPPED, LOST = 130, 1  # exit codes: somebody stopped the job; it ended and nobody knows how
_RUNTIME_ENVIRONMENT = Path(__file__).parents[2] / "clusters" / "runtime_env.yaml"
_OVERRIDES = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")  # Ray prefers them to an address that it is given


class CannotSubmit(RuntimeError):
    """Nothing was submitted; what is in the way, and the way out."""


class NoSuchJob(CannotSubmit):
    """The job server knows no job of that id."""


class ConnectionLost(RuntimeError):
    """The job server says no more how the job is; what became of it is not known."""


@dataclass(frozen=True)
class Ended:
    """A job's end: Ray's word for it, the exit code that stands for it, and Ray's message."""

    status: str
    code: int
    message: str


class JobServer:
    """The job server of a cluster, checked to be one that this study can be submitted to.

    Raises:
        CannotSubmit: no server at the address, one that does not take our token, or one of another version of Ray.
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
            raise CannotSubmit(f"--address {address}: the job server's URL, as http://127.0.0.1:8265")
        self._check_token_file()
        with _only(self.address):
            self._check()
            from ray.exceptions import AuthenticationError
            from ray.job_submission import JobSubmissionClient

            try:
                self._client = JobSubmissionClient(self.address)
            except (ConnectionError, RuntimeError, requests.RequestException, AuthenticationError) as error:
                raise CannotSubmit(
                    f"--address {self.address}: no job server answers there any more ({error})"
                ) from error

    def submit(self, entrypoint: Sequence[str], name: str, folder: Path) -> str:
        """Upload the folder and start the job in it; the job's id.

        Raises:
            CannotSubmit: the folder is too large, or the server refuses.
            ConnectionLost: it does not answer any more; the job may have been started.
        """
        from ray.exceptions import AuthenticationError, RaySystemError

        settings = yaml.safe_load(_RUNTIME_ENVIRONMENT.read_text(encoding="utf-8"))
        job = f"{name}-{secrets.token_hex(4)}"
        try:
            with _only(self.address):
                self._client.submit_job(
                    entrypoint=shlex.join(entrypoint),
                    submission_id=job,
                    runtime_env={**settings, "working_dir": str(folder)},
                    metadata={"study": name},
                )
        except requests.RequestException as error:
            raise self._lost(job, f"it does not answer any more ({type(error).__name__})") from error
        except (RuntimeError, RaySystemError, AuthenticationError, ValueError) as error:
            raise CannotSubmit(f"the job server at {self.address} did not take the job: {error}") from error
        return job

    def describe(self, job: str) -> dict[str, Any]:
        """What the server knows of a job. Asked again for PATIENCE_S where it does not answer, or with an error of its own.

        Ray's client has one error for every status but 200, so that the server is asked without it.

        Raises:
            NoSuchJob: it knows none of that id.
            ConnectionLost: it does not answer any more, or takes our token no longer.
        """
        from ray.exceptions import AuthenticationError

        deadline = self._clock() + PATIENCE_S
        while True:
            try:
                answer, headers = self._get(f"/api/jobs/{quote(job, safe='')}")
            except AuthenticationError as error:
                raise self._lost(job, "the token that it was given is gone") from error
            except requests.RequestException as error:
                problem = f"it does not answer any more ({type(error).__name__})"
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
                        "started": _moment(details.get("start_time")),
                        "ended": _moment(details.get("end_time")),
                        "exit_code": details.get("driver_exit_code"),
                        "message": details.get("message"),
                    }
                problem = f"it does not say how the job is ({answer.status_code})"
            if self._clock() >= deadline:
                raise self._lost(job, problem)
            self._sleep(POLL_S)

    def stop(self, job: str) -> Ended:
        """Stop a job and wait until it has stopped; one that has ended is left as it is.

        Raises:
            CannotSubmit: there is none of that id, or it does not stop.
            ConnectionLost: the server does not answer any more.
        """
        from ray.exceptions import AuthenticationError

        self.describe(job)
        try:
            self._client.stop_job(job)
        except requests.RequestException as error:
            raise self._lost(job, f"it does not answer any more ({type(error).__name__})") from error
        except (RuntimeError, AuthenticationError) as error:
            raise CannotSubmit(f"the job server at {self.address} did not stop {job}: {error}") from error
        deadline = self._clock() + STOP_TIMEOUT_S
        while (ended := self.ended(job)) is None:
            if self._clock() > deadline:
                raise CannotSubmit(f"{job} was told to stop {STOP_TIMEOUT_S:.0f} s ago and has not; see its log")
            self._sleep(POLL_S)
        return ended

    def follow(self, job: str) -> Ended:
        """Print the job's output as it comes, until the job has ended.

        Raises:
            ConnectionLost: the server says no more how the job is, or does not know it any more.
        """
        printed = 0
        while True:
            try:
                ended = self.ended(job)  # asked first: what a job printed before it ended is printed
            except NoSuchJob as error:  # which is no refusal of what was submitted
                raise ConnectionLost(
                    f"{self.address} does not know {job} now: its head was started anew; submitted again, the study goes on"
                ) from error
            printed += asyncio.run(self._print_log(job, skip=printed))
            if ended is not None:
                return ended
            # The stream also ends when the connection breaks; a job that goes on is followed further.
            self._sleep(POLL_S)

    def ended(self, job: str) -> Ended | None:
        """How the job ended, or None while it has not."""
        known = self.describe(job)
        status, message = known["status"], known["message"] or ""
        if status in ("PENDING", "RUNNING"):
            return None
        if status == "SUCCEEDED":
            return Ended(status, 0, message)
        if status == "STOPPED":
            return Ended(status, STOPPED, message)
        return Ended(status, known["exit_code"] or LOST, message)

    async def _print_log(self, job: str, *, skip: int) -> int:
        """Print what is new; how many characters that was. A stream begins at the log's beginning."""
        seen = 0
        # A RuntimeError is Ray's word for a connection that broke; whether the server is gone, the next look at the job says.
        with suppress(aiohttp.ClientError, TimeoutError, RuntimeError):
            async for text in self._client.tail_job_logs(job):
                new = text[max(0, skip - seen) :]
                seen += len(text)
                print(new, end="", file=sys.stderr, flush=True)
        return max(0, seen - skip)

    def _lost(self, job: str, problem: str) -> ConnectionLost:
        return ConnectionLost(
            f"{self.address}: {problem}, and {job} may go on all the same. Once that is mended: "
            f"python -m study submit --status {job} --address {self.address}"
        )

    def _get(self, path: str) -> tuple[requests.Response, Mapping[str, str]]:
        """The server's answer, and the headers with the token, if there is one, that it was asked with."""
        from ray._private.authentication.http_token_authentication import get_auth_headers_if_auth_enabled

        headers = get_auth_headers_if_auth_enabled({})
        return requests.get(f"{self.address}{path}", headers=headers, timeout=REQUEST_TIMEOUT_S), headers

    def _check_token_file(self) -> None:
        path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
        if "RAY_AUTH_TOKEN" in os.environ or not path.is_file():
            return
        if path.stat().st_mode & 0o077:
            raise CannotSubmit(f"{path} can be read by others of this machine; chmod 600 {path}")
        if "RAY_AUTH_MODE" not in os.environ:  # a client of an address does not look for its token by itself
            from ray._private.authentication.authentication_token_setup import _enable_token_auth

            _enable_token_auth()

    def _check(self) -> None:
        import ray
        from ray.exceptions import AuthenticationError

        try:
            answer, headers = self._get("/api/version")
        except AuthenticationError as error:
            raise CannotSubmit(
                "RAY_AUTH_MODE is token and there is no token; copy the cluster's to ~/.ray/auth_token (mode 600)"
            ) from error
        except requests.RequestException as error:
            raise CannotSubmit(
                f"--address {self.address}: no job server answers there ({type(error).__name__}); is the tunnel open?"
            ) from error
        if answer.status_code in (401, 403):
            raise CannotSubmit(
                f"--address {self.address}: {_not_allowed(answer.status_code, headers)}; copy the cluster's to "
                "~/.ray/auth_token (mode 600), or set RAY_AUTH_TOKEN"
            )
        try:
            theirs = str(answer.json()["ray_version"])
        except (requests.JSONDecodeError, KeyError, TypeError) as error:
            raise CannotSubmit(
                f"--address {self.address}: what answers there ({answer.status_code}) is no job server of Ray"
            ) from error
        if theirs != ray.__version__:
            raise CannotSubmit(
                f"--address {self.address}: the cluster runs Ray {theirs} and this environment has {ray.__version__}; a "
                "driver and its cluster must be of one version: rebuild the cluster's image, or install that version here"
            )


def checked_name(
    recipe: str, *, trials: int | None, sizes: tuple[str, ...] | None, seed: int | None, repeats: int | None
) -> str:
    """The study's name, once it is known to be a study.

    Raises:
        CannotSubmit: the job would refuse it.
    """
    from study.recipes import UnknownRecipe, load_recipe  # imports torch; --status and --stop do without
    from study.spec import InvalidStudy
    from trainables.data.source import DataError

    try:
        return load_recipe(recipe).replace(trials=trials, sizes=sizes, seed=seed, repeats=repeats).name
    except DataError:  # its data are over there; the job reads them before it starts anything
        return recipe.rpartition(":")[2]
    except UnknownRecipe as error:
        raise CannotSubmit(str(error)) from error
    except InvalidStudy as error:
        raise CannotSubmit("\nerror: ".join(error.errors)) from error


def entrypoint_of(recipe: str, options: Sequence[tuple[str, object]]) -> list[str]:
    """The command that the job runs: `python -m study run` with the options that were given.

    Raises:
        CannotSubmit: a recipe's file that is not in the uploaded folder, a path that is another there, or a password.
    """
    command = ["python", "-m", "study", "run", _portable(recipe)]
    for name, value in options:
        if value is None:
            continue
        if name in ("--output", "--data-root") and not Path(str(value)).is_absolute():
            raise CannotSubmit(f"{name} {value}: an absolute path, which every node of the cluster sees")
        if name == "--tracking-uri" and holds_password(str(value)):
            raise CannotSubmit(
                "--tracking-uri: holds a password, which Ray would keep with the job; leave it out: the head has its own in "
                "~/.mlflow/credentials"
            )
        command += [name, str(value)]
    return command


def _portable(recipe: str) -> str:
    """A recipe in a file by its path within the uploaded folder, which is the current one."""
    path, colon, function = recipe.partition(":")
    if not colon:
        return recipe
    try:
        return f"{Path(path).resolve().relative_to(Path.cwd())}:{function}"
    except ValueError as error:
        raise CannotSubmit(f"{recipe}: not in {Path.cwd()}, the folder that goes to the cluster") from error


def _not_allowed(status: int, headers: Mapping[str, str]) -> str:
    return f"the cluster {'does not know the token that it was given' if headers else 'wants a token'} ({status})"


def _details(answer: requests.Response) -> Mapping[str, Any] | None:
    """What an answer says of a job; None where it is an error of the server's, or some proxy's page."""
    if answer.status_code != 200:
        return None
    try:
        details = answer.json()
    except requests.JSONDecodeError:
        return None
    return details if isinstance(details, dict) and "status" in details else None


@contextmanager
def _only(address: str) -> Iterator[None]:
    """Ray's client for this address, whatever the environment says of others."""
    before = {name: os.environ.pop(name) for name in _OVERRIDES if name in os.environ}
    os.environ["RAY_API_SERVER_ADDRESS"] = address
    try:
        yield
    finally:
        del os.environ["RAY_API_SERVER_ADDRESS"]
        os.environ.update(before)


def _moment(milliseconds: int | None) -> str | None:
    if not milliseconds:
        return None
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(milliseconds / 1000))
