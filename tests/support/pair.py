"""Two processes that form a gloo group, started once for all tests: their imports take longer than most tests."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Self

import torch
import torch.distributed as dist

WORKERS = 2
PATIENCE_S = 240.0  # for one call; a worker that waits for the other would wait forever


class Pair:
    """Runs `function(rank, *arguments)` on both; functions are pickled by name, results by value.

    A call that fails or hangs ends both processes, and the next call starts new ones: no test waits for a broken group.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._started = folder, 0
        self._processes: list[BaseProcess] = []
        self._pipes: list[Connection] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Each rank's result.

        Raises:
            AssertionError: a worker raised (with its trace), ended, or did not answer in time.
        """
        if not self._processes:
            self._start()
        for pipe in self._pipes:
            pipe.send((function, arguments))
        try:
            answers = [self._answer(rank, pipe) for rank, pipe in enumerate(self._pipes)]
        except AssertionError:
            self._end()
            raise
        return answers

    def _answer(self, rank: int, pipe: Connection) -> Any:
        assert pipe.poll(PATIENCE_S), f"worker {rank} did not answer"
        try:
            result, failure = pipe.recv()
        except EOFError:
            raise AssertionError(f"worker {rank} ended") from None
        assert failure is None, f"worker {rank}:\n{failure}"
        return result

    def _start(self) -> None:
        self._started += 1
        rendezvous, context = self._folder / f"rendezvous-{self._started}", get_context("spawn")
        for rank in range(WORKERS):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(rank, str(rendezvous), there), daemon=True)
            process.start()
            there.close()
            self._processes.append(process)
            self._pipes.append(here)

    def _end(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()
        for pipe in self._pipes:
            pipe.close()
        self._processes, self._pipes = [], []


def _serve(rank: int, rendezvous: str, pipe: Connection) -> None:
    os.environ["LOCAL_RANK"] = str(rank)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=WORKERS)
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((function(rank, *arguments), None))
        except Exception:  # fails the test
            pipe.send((None, traceback.format_exc()))
