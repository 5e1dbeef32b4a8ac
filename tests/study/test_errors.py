"""Errors of storage are told from errors of the program."""

from __future__ import annotations

import resource
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import save_file

from study.errors import storage_problem
from trainables.launch.inline import run_inline
from trainables.launch.job import Job
from trainables.resources import Resources
from trainables.store.stage_store import OutputMissing


@pytest.mark.slow
def test_errors_of_a_full_disk_are_recognised_from_every_library(tmp_path: Path) -> None:
    """Some libraries raise errors that are no OSError. A limit of 4 KB a file stands for the full disk."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        problems = pool.submit(_problems_of_full_files, tmp_path).result()
    for library in ("safetensors", "torch", "pyarrow", "pandas", "python"):
        assert problems[library], f"{library} was not stopped, or its error not recognised"
    assert storage_problem(ValueError("no such encoder"), tmp_path) is None
    assert "No such file" in (storage_problem(ValueError("no such encoder"), tmp_path / "gone") or "")


def _problems_of_full_files(folder: Path) -> dict[str, str | None]:
    """By library, the storage problem that its error is taken for once the folder can be written again."""
    table = pa.table({"score": [1.0] * 10_000})
    writers: dict[str, Callable[[Path], object]] = {
        "safetensors": lambda path: save_file({"weights": torch.zeros(100_000)}, path),
        "torch": lambda path: torch.save({"weights": torch.zeros(100_000)}, path),
        "pyarrow": lambda path: pa.parquet.write_table(table, path, compression="none", use_dictionary=False),
        "pandas": lambda path: table.to_pandas().to_csv(path),
        "python": lambda path: path.write_bytes(bytes(100_000)),
    }
    problems: dict[str, str | None] = {}
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    for library, write in writers.items():
        wrapped = RuntimeError("a stage failed")
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, usual[1]))
        try:
            write(folder / library)
        except Exception as error:
            wrapped.__cause__ = error
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
        problems[library] = storage_problem(wrapped, folder)
    return problems


def test_an_output_folder_that_a_node_does_not_see_is_not_created(tmp_path: Path) -> None:
    missing = tmp_path / "not_mounted" / "out"
    with pytest.raises(OutputMissing, match="is the shared folder mounted") as caught:
        run_inline(Job(str(missing), Resources()), report=lambda metrics: None, progress=lambda *_: None)
    assert not missing.exists()
    assert storage_problem(caught.value, tmp_path) is not None
