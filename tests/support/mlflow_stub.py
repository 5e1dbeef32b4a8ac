"""A small MLflow tracking server in this process that can be slow, refuse requests, lose answers, or go away."""

from __future__ import annotations

import json
import re
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

API = "/api/2.0/mlflow/"
FILES = "/api/2.0/mlflow-artifacts/artifacts/"


class Stub:
    """The server's contents, and how it misbehaves.

    - `status`: every request gets this HTTP status, and has no effect.
    - `gate`: while cleared, every request waits.
    - `lose`: the next request of this call takes effect, but its answer is lost.
    - `delay`: the next request of this call takes effect once `late` is set; its answer is lost at once.
    - `broken`: this call gets status 500.
    - `on_request`: called with the name of each call.
    """

    def __init__(self) -> None:
        self.experiments: dict[str, dict[str, Any]] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.status: int | None = None
        self.gate, self.late = threading.Event(), threading.Event()
        self.gate.set()
        self.lose: str | None = None
        self.delay: str | None = None
        self.broken: str | None = None
        self.on_request: Any = lambda call: None
        self._lock = threading.RLock()
        self._server: ThreadingHTTPServer | None = None
        self.port = 0
        self.start()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen on the same port as before."""
        stub = self

        class Handler(BaseHTTPRequestHandler):
            """HTTP/1.0, one request a connection: a stopped server answers no open connection."""

            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                stub._handle(self)

            do_POST = do_PUT = do_GET  # noqa: N815

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Refuse connections."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def active(self) -> list[dict[str, Any]]:
        """Runs that are not deleted."""
        with self._lock:
            return [run for run in self.runs.values() if run["lifecycle_stage"] == "active"]

    def by_key(self) -> dict[str, dict[str, Any]]:
        """Active runs by their key tag, which must be unique."""
        runs = self.active()
        by_key = {run["tags"]["key"]: run for run in runs}
        assert len(by_key) == len(runs), "two runs share a key"
        return by_key

    def content(self) -> dict[str, Any]:
        """The contents of all runs, without ids that the server assigned."""
        return {
            key: {
                "params": run["params"],
                "metrics": sorted(run["metrics"]),
                "tags": {name: value for name, value in run["tags"].items() if name != "mlflow.parentRunId"},
                "parent": self.runs.get(run["tags"].get("mlflow.parentRunId", ""), {"tags": {}})["tags"].get("key"),
                **{name: run[name] for name in ("status", "start_time", "end_time")},
            }
            for key, run in self.by_key().items()
        }

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        path = urlsplit(handler.path)
        call = path.path.removeprefix(API)
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        self.requests.append(call)
        self.on_request(call)
        self.gate.wait(30)
        if self.status is not None or self.broken == call:
            self._answer(handler, self.status or 500, b"no")
            return
        if path.path.startswith(FILES):
            self.files[path.path.removeprefix(FILES)] = body
            self._answer(handler, 200, b"{}")
            return
        given = json.loads(body or b"{}") | {name: values[0] for name, values in parse_qs(path.query).items()}
        if self.delay == call:
            self.delay = None
            handler.connection.shutdown(socket.SHUT_RDWR)
            self.late.wait(30)
            self._do(call, given)
            return
        status, answer = self._do(call, given)
        if self.lose == call:
            self.lose = None
            handler.connection.shutdown(socket.SHUT_RDWR)
            return
        self._answer(handler, status, json.dumps(answer).encode())

    @staticmethod
    def _answer(handler: BaseHTTPRequestHandler, status: int, body: bytes) -> None:
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def _do(self, call: str, given: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        with self._lock:
            method = getattr(self, "_" + re.sub(r"[/-]", "_", call), None)
            if method is None:
                return 404, {"error_code": "ENDPOINT_NOT_FOUND", "message": call}
            try:
                return 200, method(given)
            except KeyError as error:
                return 404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": f"no {error}"}
            except ValueError as error:
                return 400, {"error_code": "INVALID_PARAMETER_VALUE", "message": str(error)}

    def _experiments_get_by_name(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"experiment": self._experiment(self.experiments[given["experiment_name"]])}

    def _experiments_search(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"experiments": [self._experiment(stored) for stored in self.experiments.values()]}

    def _experiments_create(self, given: dict[str, Any]) -> dict[str, Any]:
        experiment_id = str(len(self.experiments) + 1)
        tags = {tag["key"]: tag["value"] for tag in given.get("tags", [])}
        self.experiments[given["name"]] = {"experiment_id": experiment_id, "name": given["name"], "tags": tags}
        return {"experiment_id": experiment_id}

    def _experiments_set_experiment_tag(self, given: dict[str, Any]) -> dict[str, Any]:
        experiment = next(
            stored for stored in self.experiments.values() if stored["experiment_id"] == given["experiment_id"]
        )
        experiment["tags"][given["key"]] = given["value"]
        return {}

    def _runs_create(self, given: dict[str, Any]) -> dict[str, Any]:
        run_id = uuid.uuid4().hex
        self.runs[run_id] = {
            "run_id": run_id,
            "experiment_id": given["experiment_id"],
            "run_name": given["run_name"],
            "start_time": int(given["start_time"]),
            "end_time": None,
            "status": "RUNNING",
            "lifecycle_stage": "active",
            "tags": {tag["key"]: tag["value"] for tag in given["tags"]},
            "params": {},
            "metrics": set(),
        }
        return {"run": self._run(self.runs[run_id])}

    def _runs_get(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"run": self._run(self.runs[given["run_id"]])}

    def _runs_search(self, given: dict[str, Any]) -> dict[str, Any]:
        wanted = re.fullmatch(r"(?:tags\.key = '(.*)')?", given.get("filter", ""))
        assert wanted is not None, given
        runs = (run for run in self.active() if wanted[1] in (None, run["tags"].get("key")))
        return {"runs": [self._run(run) for run in runs]}

    def _runs_log_batch(self, given: dict[str, Any]) -> dict[str, Any]:
        run = self.runs[given["run_id"]]
        counts = [len(given.get(kind, [])) for kind in ("params", "tags", "metrics")]
        if max(counts[:2]) > 100 or sum(counts) > 1000:
            raise ValueError(f"too many at once: {counts}")
        for param in given.get("params", []):
            if run["params"].setdefault(param["key"], param["value"]) != param["value"]:
                raise ValueError(f"param {param['key']} has another value")
        # As in MLflow's own store, two equal points are one.
        run["metrics"] |= {(m["key"], m["step"], m["value"], m["timestamp"]) for m in given.get("metrics", [])}
        run["tags"] |= {tag["key"]: tag["value"] for tag in given.get("tags", [])}
        return {}

    def _runs_update(self, given: dict[str, Any]) -> dict[str, Any]:
        run = self.runs[given["run_id"]]
        run |= {"status": given["status"], "end_time": int(given["end_time"])}
        return {"run_info": self._run(run)["info"]}

    def _runs_delete(self, given: dict[str, Any]) -> dict[str, Any]:
        self.runs[given["run_id"]]["lifecycle_stage"] = "deleted"
        return {}

    @staticmethod
    def _experiment(stored: dict[str, Any]) -> dict[str, Any]:
        tags = [{"key": key, "value": value} for key, value in stored["tags"].items()]
        return {
            "experiment_id": stored["experiment_id"],
            "name": stored["name"],
            "lifecycle_stage": "active",
            "tags": tags,
        }

    @staticmethod
    def _run(stored: dict[str, Any]) -> dict[str, Any]:
        names = ("run_id", "experiment_id", "run_name", "start_time", "end_time", "status", "lifecycle_stage")
        info = {name: stored[name] for name in names if stored[name] is not None}
        info["artifact_uri"] = f"mlflow-artifacts:/{stored['run_id']}"
        tags = [{"key": key, "value": value} for key, value in stored["tags"].items()]
        params = [{"key": key, "value": value} for key, value in stored["params"].items()]
        points = sorted(stored["metrics"], key=lambda point: point[1])
        latest = {name: {"key": name, "value": v, "timestamp": at, "step": step} for name, step, v, at in points}
        return {"info": info, "data": {"tags": tags, "metrics": list(latest.values()), "params": params}}


@contextmanager
def stub_server() -> Iterator[Stub]:
    """A running server."""
    stub = Stub()
    try:
        yield stub
    finally:
        stub.gate.set()
        stub.late.set()
        stub.stop()
