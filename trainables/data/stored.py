"""Examples as a table on disk: read from files or the hub once, then from a stage's folder by every process of a study.

One column names the set, the other holds the example's fields as JSON. Batches of one set follow each other, so reading a set
skips the others without decoding them; the file is mapped into memory.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, get_args

import pyarrow as pa

from trainables.data.examples import Example

CLASSES = {cls.__name__: cls for cls in get_args(Example)}
SCHEMA = pa.schema({"set": pa.string(), "class": pa.string(), "example": pa.string()})


class Write(Protocol):
    """Appends examples of a set; those of one set come one after another."""

    def __call__(self, name: str, examples: Sequence[Example]) -> None: ...


@contextmanager
def writing_examples(path: Path) -> Iterator[Write]:
    """A function that writes examples to a new file, which is complete at the end of the block."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as stream:

        def write(name: str, examples: Sequence[Example]) -> None:
            columns = {
                "set": [name] * len(examples),
                "class": [type(example).__name__ for example in examples],
                "example": [json.dumps(_values(example), ensure_ascii=False) for example in examples],
            }
            stream.write_batch(pa.record_batch(columns, schema=SCHEMA))

        yield write


def read_examples(path: Path, name: str) -> tuple[Example, ...]:
    """The examples of a set, in the order they were written."""
    examples: list[Example] = []
    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as stream:
        for batch in stream:
            if batch.num_rows and batch["set"][0].as_py() == name:
                rows = zip(batch["class"].to_pylist(), batch["example"].to_pylist(), strict=True)
                examples += [CLASSES[cls](*map(_tupled, json.loads(values))) for cls, values in rows]
    return tuple(examples)


@lru_cache(maxsize=64)
def read_examples_once(path: Path, name: str) -> tuple[Example, ...]:
    """As `read_examples`, kept for the next trial of the process: the file belongs to a finished stage and never changes."""
    return read_examples(path, name)


def _values(example: Example) -> list[Any]:
    return [getattr(example, field.name) for field in dataclasses.fields(example)]


def _tupled(value: Any) -> Any:
    """JSON's lists are the tuples of an example."""
    return tuple(map(_tupled, value)) if isinstance(value, list) else value
