"""Stage: what an encoder makes of a task's English units, which several estimates share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from trainables.estimators.units import TOKEN_HEADS, Row, Undefined, Unit, decisions, rows, spaced, tokens
from trainables.evaluation import batches_by_length
from trainables.heads.base import Pooling, mean_pool, pad_rows, padded_length
from trainables.models.encoder import hidden_states, load_encoder, load_tokenizer, pooling_of
from trainables.models.task_model import ENCODER
from trainables.stages.base import Root, Stage, Workplace
from trainables.stages.finetune import Tuned, root_of, tokenizer_of
from trainables.stages.tokenise import Tokenise, set_name
from trainables.tasks.base import HeadName, Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel

VECTORS = "vectors.npz"
Floats = npt.NDArray[np.float32]
Part = Literal["train", "dev"]
# decision: what the task's head decides about, with its classes. Without classes: row, pooled as the encoder does; text, its
# mean; token, some tokens of each row.
Kind = Literal["decision", "row", "text", "token"]
Place = tuple[Row, int | None]  # a row, and one of its tokens or the whole


@dataclass(frozen=True)
class Labelled:
    """Vectors (N, F) with their classes and the numbers of their examples (N)."""

    vectors: Floats
    labels: npt.NDArray[np.int64]
    groups: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Vectors(Stage):
    """The vectors of units of the task's English training or dev set, of at most `limit` features, evenly spaced.

    `task` is as the table of its part has it: `for_training` for the training set.
    """

    encoder: Root | Tuned
    task: Task
    part: Part
    unit: Kind
    max_length: int
    limit: int

    @property
    def label(self) -> str:
        return f"vectors-{self.task.name}-{root_of(self.encoder).short}"

    @property
    def parents(self) -> tuple[Stage, ...]:
        return (self.encoder, self.table)

    @property
    def table(self) -> Tokenise:
        """The table that the search trains on, or that its evaluations read."""
        part: Literal["train", "scored"] = "train" if self.part == "train" else "scored"
        return Tokenise(root_of(self.encoder).tokenizer, self.task, part, self.max_length)

    def produce(self, work: Workplace, folder: Path) -> Mapping[str, Any]:
        if not work.leads:
            return {}
        try:
            units = self._units(work)
        except Undefined as reason:
            return {"unavailable": str(reason)}
        encoder = load_encoder(work.store.local(self.encoder) / ENCODER, device=work.device).to(work.device).eval()
        others = [(unit.other, None) for unit in units if unit.other is not None]
        means = self.unit == "text" or bool(others)  # vectors of pairs are means, as the dual encoder's
        vectors_PD = encode(
            encoder,
            [*((unit.row, unit.position) for unit in units), *others],
            load_tokenizer(tokenizer_of(self.encoder, work)).pad_token_id,
            pooling="mean" if means else pooling_of(encoder),
            device=work.device,
            observe=lambda done, total: work.progress(self.label, done, total, None),
        )
        np.savez(
            folder / VECTORS,
            vectors=vectors_PD[: len(units)],
            others=vectors_PD[len(units) :],
            labels=np.array([unit.label for unit in units], dtype=np.int64),
            groups=np.array([unit.group for unit in units], dtype=np.int64),
        )
        return {"units": len(units)}

    def _units(self, work: Workplace) -> list[Unit]:
        try:
            table = self.table.table(work).of(set_name(self.part, "en"))
        except KeyError as error:
            raise Undefined(f"{self.task.name} has no English {self.part} set") from error
        features = table.take(spaced(range(len(table)), self.limit))
        if self.unit == "decision":
            units = decisions(self.task, features)
        else:
            units = tokens(features) if self.unit == "token" else rows(features)
        if not units:
            raise Undefined(f"the English {self.part} set of {self.task.name} has nothing to decide about")
        return units

    def read(
        self, work: Workplace, transform: Callable[[Floats], npt.NDArray[np.floating[Any]]] = lambda vectors: vectors
    ) -> Labelled:
        """The finished stage's vectors, each transformed. Of a pair of rows it is the product of both, scaled to length 1.

        A linear function of that product can be the cosine, by which pairs are ranked.

        Raises:
            Undefined: it has none.
        """
        finished = work.store.find(self)
        assert finished is not None  # callers have this stage as a parent
        if (reason := finished.metrics.get("unavailable")) is not None:
            raise Undefined(reason)
        with np.load(work.store.local(self) / VECTORS) as arrays:
            vectors = transform(arrays["vectors"])
            if len(arrays["others"]):
                vectors = _unit_length(vectors) * _unit_length(transform(arrays["others"]))
            return Labelled(vectors.astype(np.float32), arrays["labels"], arrays["groups"])


def text_kind(head: HeadName) -> Kind:
    """The unlabelled units that are made as the vectors of the head's decisions are."""
    if head in TOKEN_HEADS:
        return "token"
    return "text" if head == "dual_encoder" else "row"


def encode(
    encoder: PreTrainedModel,
    places: Sequence[Place],
    pad_id: int,
    *,
    pooling: Pooling,
    device: torch.device,
    observe: Callable[[int, int], None] = lambda done, total: None,
) -> Floats:
    """The encoder's state at each place, or its pooled row: (places, width). Each distinct row is encoded once."""
    by_row: defaultdict[Row, list[int]] = defaultdict(list)
    for number, (row, _) in enumerate(places):
        by_row[row].append(number)
    distinct = list(by_row)
    vectors_PD = np.empty((len(places), encoder.config.hidden_size), dtype=np.float32)
    done = 0
    for indices in batches_by_length([len(row) for row in distinct], range(len(distinct))):
        batch = [distinct[index] for index in indices]
        longest = padded_length(batch)
        mask_NL = (torch.arange(longest)[None] < torch.tensor([len(row) for row in batch])[:, None]).long().to(device)
        with torch.no_grad():
            hidden_NLD = hidden_states(encoder, pad_rows(batch, pad_id, longest).to(device), mask_NL).float()
            pooled_ND = hidden_NLD[:, 0] if pooling == "first" else mean_pool(hidden_NLD, mask_NL)
        states_NLD, rows_ND = hidden_NLD.cpu().numpy(), pooled_ND.cpu().numpy()
        for states_LD, row_D, row in zip(states_NLD, rows_ND, batch, strict=True):
            for number in by_row[row]:
                position = places[number][1]
                vectors_PD[number] = row_D if position is None else states_LD[position]
        done += len(batch)
        observe(done, len(distinct))
    return vectors_PD


def _unit_length(vectors_NF: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
    return vectors_NF / np.maximum(np.linalg.norm(vectors_NF, axis=1, keepdims=True), 1e-12)
