"""Is evaluation as fast as it should be? Scoring a suite, scoring Tatoeba and tokenising, each against its peers.

    python -m tests.benchmarks.evaluation [--data-root ../shared/data]

Reads the files of the recipe `real_offline`. The encoder has the shape of its larger size and random weights: speed does not
depend on them, and scores are only compared with the peer's. Contestants take turns in every round. A ratio is the peer's time
over ours, above 1 where ours is faster: the median over rounds, with its range. CPU seconds of all threads are printed with
wall-clock seconds; they vary less on a busy machine, except where one side runs two threads on a core.

1. Suite: `evaluation.score` (rows of all languages sorted by length together, duplicate rows computed once, 4,096 padded tokens
   a batch) against the same model run set by set in file order, padded to the longest row of a batch. The peer's batch (32, 64
   or 128 rows, or 4,096 padded tokens) is the fastest of the four in a first pass, chosen for each task. A second peer sorts by
   length within each language: `evaluation.score` called once a set.
2. Tatoeba: search and scoring of all sentences of all languages on the same vectors in memory, `score_outputs` against the
   search of MTEB's `BitextMiningEvaluator` (by dot product, the cheaper choice on unit vectors) and the accuracy of its result.
   MTEB's task computes four metrics; that has its own row and is not the reported ratio.
3. Tokenising: `Head.features` on 1,000 examples at a time, as the stage `tokenise` calls it, against the same function on one
   example at a time (the reported ratio). Two more peers do less work, since they drop the tokenizer's result (no labels, no
   layout): the tokenizer on one example at a time, and `datasets.map(batched=True)` over it, in memory. The tokenizer uses all
   free cores, whatever --threads says.

MTEB is optional (`pip install -e '.[peers]'`); without it both Tatoeba keys are null. The last line is one JSON document.
"""

from __future__ import annotations

import dataclasses
import gc
import importlib
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import datasets
import faiss
import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from sklearn.metrics import accuracy_score
from transformers import PreTrainedTokenizerFast, XLMRobertaModel

from study.recipes.real_offline import real_offline
from study.spec import LadderEncoder
from trainables.data.examples import Example
from trainables.data.source import DATA_ROOT_VARIABLE, DataError
from trainables.evaluation import TOKENS_A_BATCH, ExampleSet, Forward, Score, predict, score_outputs, score_sets
from trainables.heads import HEADS, Feature, Outputs
from trainables.heads.base import pad_rows
from trainables.heads.span import STRIDE
from trainables.models.encoder import Shape
from trainables.models.task_model import TaskModel, new_head
from trainables.models.vocabulary import train_vocabulary
from trainables.stages.tokenise import EXAMPLES_A_CALL, scored_sets
from trainables.store.versions import versions
from trainables.tasks.base import Task
from trainables.training.batching import Share

console = Console(highlight=False, markup=False, width=128)
ALONE, CPU = Share(0, 1, 1), torch.device("cpu")
# Examples a set in the suite: about a tenth of the recipe's, in roughly its proportions of tokens.
SAMPLES = {"udpos": 40, "xnli_from_cad_nli": 150, "xquad_from_tydiqa": 12, "tatoeba": 100}
BATCHES: dict[str, int | None] = {"32 rows": 32, "64 rows": 64, "128 rows": 128, f"{TOKENS_A_BATCH} tokens": None}
OURS = "ours"

DataRoot = Annotated[Path, typer.Option(help="folder of published files")]
Rounds = Annotated[int, typer.Option(min=1, help="how many times each contestant runs")]
Scale = Annotated[float, typer.Option(min=0.05, help="factor on the number of examples in the suite")]
Threads = Annotated[int, typer.Option(min=1, help="threads of PyTorch and faiss; the recipe's CPU workers have one")]
Row = tuple[int, ...]


@dataclass(frozen=True)
class Scored:
    """A task and its maximum length in the recipe."""

    task: Task
    max_length: int

    def sets(self, tokenizer: PreTrainedTokenizerFast) -> list[ExampleSet]:
        """The sets an evaluation scores, with features in memory."""
        sets = []
        for split, language in scored_sets(self.task):
            examples = self.task.examples(split, language)
            sets.append(ExampleSet(split, language, examples, self.features(examples, tokenizer)))
        return sets

    def features(self, examples: Sequence[Example], tokenizer: PreTrainedTokenizerFast) -> list[Feature]:
        head = HEADS[self.task.head]
        return head.features(examples, task=self.task, tokenizer=tokenizer, max_length=self.max_length)

    def sampled(self, scale: float) -> Scored:
        size = max(1, round(SAMPLES[self.task.name] * scale))
        sizes = {"test_size": size, "dev_size": size} if self.task.trained else {"test_size": size}
        return dataclasses.replace(self, task=dataclasses.replace(self.task, **sizes))

    def forward(self, encoder: XLMRobertaModel) -> Forward:
        forward: Forward = TaskModel(encoder, new_head(encoder, self.task, seed=0)).eval().logits
        return forward


@dataclass(frozen=True)
class Timed:
    """Seconds by contestant and round, "ours" first."""

    wall: Mapping[str, Sequence[float]]
    cpu: Mapping[str, Sequence[float]]

    def __add__(self, other: Timed) -> Timed:
        return Timed(_added(self.wall, other.wall), _added(self.cpu, other.cpu))

    def ratio(self, peer: str) -> float:
        """The peer's wall time over ours."""
        return median(_ratios(self.wall, peer))

    def report(self) -> dict[str, Any]:
        """Median seconds of each contestant, with median and range of its ratios."""
        return {
            name: {
                "wall_s": round(median(self.wall[name]), 4),
                "cpu_s": round(median(self.cpu[name]), 4),
                **({} if name == OURS else {"ratio": _range(self.wall, name), "cpu_ratio": _range(self.cpu, name)}),
            }
            for name in self.wall
        }


def main(
    data_root: DataRoot = Path("../shared/data"), rounds: Rounds = 5, scale: Scale = 1.0, threads: Threads = 1
) -> None:
    """Print a table and one JSON line."""
    if not data_root.is_dir():
        print(f"error: --data-root {data_root}: no such folder; give the one with the recipe's files", file=sys.stderr)
        raise typer.Exit(2)
    os.environ[DATA_ROOT_VARIABLE] = str(data_root.resolve())
    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
    datasets.disable_progress_bars()
    started = time.perf_counter()
    try:
        study = real_offline()
        assert study.corpus is not None
        assert study.vocabulary_size is not None
        texts = (text for sentence in study.corpus.parallel() for text in sentence.values())
        tokenizer = train_vocabulary(texts, study.vocabulary_size)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from error
    size = study.sizes[-1]
    assert isinstance(size.encoder, LadderEncoder)
    shape = size.encoder.shape
    evaluations = study.chain(size, study.space.defaults()[0])
    scored = [
        Scored(evaluation.task, evaluation.max_length) for evaluation in evaluations if evaluation.task.name in SAMPLES
    ]
    parts = {
        "tokenise": _tokenising(scored, tokenizer, rounds),
        "tatoeba": _tatoeba(scored, tokenizer, shape.width, rounds),
        "suite": _suite([task.sampled(scale) for task in scored], tokenizer, shape, rounds),
    }
    keys = {key: value for part in parts.values() for key, value in part.pop("keys").items()}
    context = {
        "rounds": rounds,
        "scale": scale,
        "threads": threads,
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg(),
        "wall_s": round(time.perf_counter() - started, 1),
        "versions": versions(),
    }
    print(json.dumps({**keys, **parts, **context}))


# --- the suite


def _suite(scored: Sequence[Scored], tokenizer: PreTrainedTokenizerFast, shape: Shape, rounds: int) -> dict[str, Any]:
    encoder, pad_id = shape.build(tokenizer, seed=0), tokenizer.pad_token_id
    timed: dict[str, Timed] = {}
    tasks, difference = {}, 0.0
    for item in scored:
        task, sets, forward = item.task, item.sets(tokenizer), item.forward(encoder)
        ours = partial(score_sets, forward, task, pad_id=pad_id, share=ALONE, device=CPU)
        batch, differing = _quickest_batch(forward, task, sets, pad_id)
        difference = max(difference, differing)
        timed[task.name] = _interleaved(
            {
                OURS: partial(ours, sets),
                "file order": partial(_score_in_file_order, forward, task, sets, pad_id, size=BATCHES[batch]),
                "sorted by set": partial(_each, ours, [[examples] for examples in sets]),
            },
            rounds,
        )
        rows = [row for examples in sets for feature in examples.features for row in feature.rows]
        counts = {"sets": len(sets), "rows": len(rows), "different_rows": len(set(rows)), "tokens": sum(map(len, rows))}
        tasks[task.name] = {**counts, "file_order_batch": batch, **timed[task.name].report()}
    total = _show("suite", timed)
    for name, about in tasks.items():
        console.print(
            f"{name}: {about['tokens']:,} tokens in {about['rows']:,} rows; peer: {about['file_order_batch']}"
        )
    console.print(f"largest difference between a score of ours and of file order: {difference:.3g} percentage points\n")
    keys = {"suite_ratio": total.ratio("file order")}
    about = {"shape": f"{shape.layers}x{shape.width}", "largest_score_difference": difference}
    return {"keys": keys, **about, "all": total.report(), "tasks": tasks}


def _each(function: Callable[[Any], object], arguments: Sequence[Any]) -> None:
    for argument in arguments:
        function(argument)


def _quickest_batch(forward: Forward, task: Task, sets: Sequence[ExampleSet], pad_id: int) -> tuple[str, float]:
    """The peer's fastest batch, and the largest difference of its scores from ours over all batches and sets."""
    ours = score_sets(forward, task, sets, pad_id, share=ALONE, device=CPU)
    seconds, difference = {}, 0.0
    for name, size in BATCHES.items():
        start = time.process_time()
        scores = _score_in_file_order(forward, task, sets, pad_id, size=size)
        seconds[name] = time.process_time() - start
        difference = max(difference, *(abs(our.value - their.value) for our, their in zip(ours, scores, strict=True)))
    return min(seconds, key=lambda name: seconds[name]), difference


def _score_in_file_order(
    forward: Forward, task: Task, sets: Sequence[ExampleSet], pad_id: int, *, size: int | None
) -> list[Score]:
    """The usual loop: set after set, batches of `size` rows in file order (None: as many as fit our tokens a batch)."""
    outputs = []
    for examples in sets:
        values_by_row: list[np.ndarray] = []
        for batch in _batches([row for feature in examples.features for row in feature.rows], size):
            lengths = torch.tensor([len(row) for row in batch])
            longest = int(lengths.max())
            real = torch.arange(longest)[None] < lengths[:, None]
            with torch.inference_mode():
                values = forward(pad_rows(batch, pad_id, longest), real.long()).float().numpy()
            values_by_row += [
                value[: len(row)] if values.ndim == 3 else value for row, value in zip(batch, values, strict=True)
            ]
        rows = iter(values_by_row)
        logits = [np.stack([next(rows) for _ in feature.rows]) for feature in examples.features]
        outputs.append(Outputs(examples.split, examples.language, examples.examples, examples.features, logits))
    return score_outputs(outputs, task)


def _batches(rows: Sequence[Row], size: int | None) -> Iterator[list[Row]]:
    batch: list[Row] = []
    longest = 0
    for row in rows:
        longest = max(longest, len(row))
        if batch and ((len(batch) + 1) * longest > TOKENS_A_BATCH if size is None else len(batch) == size):
            yield batch
            batch, longest = [], len(row)
        batch.append(row)
    if batch:
        yield batch


# --- Tatoeba


class Mteb:
    """MTEB's search and metrics on vectors in memory (written for 2.26, where both are private methods).

    Raises:
        ImportError: MTEB is not installed.
    """

    def __init__(self) -> None:
        library = importlib.import_module("mteb")
        evaluators, timing = (importlib.import_module(f"mteb.{name}") for name in ("_evaluators", "timing"))
        self.version: str = library.__version__
        self.similarity = importlib.import_module("mteb.similarity_functions").dot_score  # as MTEB's encoders have one
        self._evaluator = evaluators.BitextMiningEvaluator([], None, "test", "all", [("a", "b")], timing.TimingStack())
        self._task = library.get_task("Tatoeba")

    def search(self, sources_ND: torch.Tensor, targets_ND: torch.Tensor) -> list[dict[str, float]]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # it copies a tensor with torch.tensor
            neighbours: list[dict[str, float]] = self._evaluator._similarity_search(sources_ND, targets_ND, self)
        return neighbours

    def accuracy(self, sources_ND: torch.Tensor, targets_ND: torch.Tensor) -> float:
        """Accuracy in percent as MTEB's task computes it, without its other metrics."""
        neighbours = self.search(sources_ND, targets_ND)
        return 100 * float(accuracy_score(range(len(neighbours)), [nearest["corpus_id"] for nearest in neighbours]))

    def metrics(self, sources_ND: torch.Tensor, targets_ND: torch.Tensor) -> Mapping[str, float]:
        """Precision, recall, F1 and accuracy."""
        neighbours = self.search(sources_ND, targets_ND)
        gold = [(row, row) for row in range(len(neighbours))]
        scores: Mapping[str, float] = self._task._compute_metrics(neighbours, gold)
        return scores


def _tatoeba(scored: Sequence[Scored], tokenizer: PreTrainedTokenizerFast, width: int, rounds: int) -> dict[str, Any]:
    try:
        mteb = Mteb()
    except ImportError as error:
        console.print(f"Tatoeba is left out: no peer ({error}); pip install -e '.[peers]'\n")
        return {"keys": {"tatoeba_ratio_mteb": None, "tatoeba_scores_equal": None}}
    tatoeba = next(item for item in scored if item.task.name == "tatoeba")
    # One layer encodes 40,000 sentences fast; the comparison starts from the vectors.
    forward = tatoeba.forward(Shape(1, width).build(tokenizer, seed=0))
    outputs = predict(forward, tatoeba.sets(tokenizer), tokenizer.pad_token_id, share=ALONE, device=CPU)
    vectors = [torch.from_numpy(np.stack(output.logits)) for output in outputs]
    pairs = [(both_N2D[:, 0].contiguous(), both_N2D[:, 1].contiguous()) for both_N2D in vectors]
    peer = "MTEB, accuracy"
    timed = _interleaved(
        {
            OURS: lambda: score_outputs(outputs, tatoeba.task),
            peer: lambda: [mteb.accuracy(*pair) for pair in pairs],
            "MTEB, four metrics": lambda: [mteb.metrics(*pair) for pair in pairs],
        },
        max(10, rounds),  # rounds are short
    )
    ours = [result.value for result in score_outputs(outputs, tatoeba.task)]
    difference = max(abs(value - mteb.accuracy(*pair)) for value, pair in zip(ours, pairs, strict=True))
    _show("Tatoeba, search and scoring", {f"{len(pairs)} languages": timed})
    console.print(f"mean accuracy {sum(ours) / len(ours):.2f}; largest difference in a language: {difference:.3g}\n")
    about = {"languages": len(pairs), "sentences": sum(map(len, vectors)), "width": width, "mteb": mteb.version}
    # One side divides sums, the other averages zeros and ones: the last bit may differ.
    keys = {"tatoeba_ratio_mteb": timed.ratio(peer), "tatoeba_scores_equal": difference < 1e-9}
    return {"keys": keys, **about, "largest_difference": difference, "all": timed.report()}


# --- tokenising


def _tokenising(scored: Sequence[Scored], tokenizer: PreTrainedTokenizerFast, rounds: int) -> dict[str, Any]:
    timed: dict[str, Timed] = {}
    counts: dict[str, int] = {}
    for item in scored:
        sets = [item.task.examples(split, language) for split, language in scored_sets(item.task)]
        texts = [_texts(example) for examples in sets for example in examples]
        singles = [{name: [value] for name, value in text.items()} for text in texts]
        encode = partial(_encoded, tokenizer=tokenizer, max_length=item.max_length)
        features = partial(_each, partial(item.features, tokenizer=tokenizer))
        timed[item.task.name] = _interleaved(
            {
                OURS: partial(features, _cut(sets, EXAMPLES_A_CALL)),
                "one at a time": partial(features, _cut(sets, 1)),
                "tokenizer alone, one at a time": partial(_each, encode, singles),
                "tokenizer alone, datasets.map": partial(_mapped, datasets.Dataset.from_list(texts), encode),
            },
            rounds,
        )
        counts[item.task.name] = len(texts)
    total = _show("tokenising", timed)
    console.print(f"examples: {', '.join(f'{name} {count:,}' for name, count in counts.items())}\n")
    tasks = {name: {"examples": count, **timed[name].report()} for name, count in counts.items()}
    return {"keys": {"tokenise_ratio": total.ratio("one at a time")}, "all": total.report(), "tasks": tasks}


def _cut(sets: Sequence[Sequence[Example]], count: int) -> list[Sequence[Example]]:
    return [examples[first : first + count] for examples in sets for first in range(0, len(examples), count)]


def _mapped(columns: datasets.Dataset, encode: Callable[[Mapping[str, Sequence[Any]]], object]) -> None:
    columns.map(
        encode,
        batched=True,
        batch_size=EXAMPLES_A_CALL,
        remove_columns=columns.column_names,
        keep_in_memory=True,
        new_fingerprint=str(time.perf_counter_ns()),  # else it pickles the function to look for a cached result
    )


def _texts(example: Example) -> dict[str, Any]:
    """The texts of an example that the tokenizer reads, by field."""
    fields = ("words", "first", "second", "source", "target", "question", "context")
    return {name: getattr(example, name) for name in fields if hasattr(example, name)}


def _encoded(
    texts: Mapping[str, Sequence[Any]], *, tokenizer: PreTrainedTokenizerFast, max_length: int
) -> dict[str, Sequence[Any]]:
    """The tokenizer calls that the heads make, without the work on their results."""
    cut = {"truncation": True, "max_length": max_length}
    if "words" in texts:
        words = [list(sentence) for sentence in texts["words"]]
        return {"rows": tokenizer(words, is_split_into_words=True, add_special_tokens=False)["input_ids"]}
    if "first" in texts:
        return {"rows": tokenizer(texts["first"], texts["second"], **cut)["input_ids"]}
    if "source" in texts:
        return {name: tokenizer(texts[name], **cut)["input_ids"] for name in ("source", "target")}
    windows = tokenizer(
        texts["question"],
        texts["context"],
        truncation="only_second",
        max_length=max_length,
        stride=min(STRIDE, max_length // 4),
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    return {name: windows[name] for name in ("input_ids", "offset_mapping", "overflow_to_sample_mapping")}


# --- timing and tables, for all three parts


def _interleaved(contestants: Mapping[str, Callable[[], object]], rounds: int) -> Timed:
    """Every contestant once a round, after one warm-up; another contestant is first in each round."""
    names = list(contestants)
    wall: dict[str, list[float]] = {name: [] for name in names}
    cpu: dict[str, list[float]] = {name: [] for name in names}
    gc.collect()
    gc.freeze()  # otherwise a contestant that creates many objects pays for passes over everything in this process
    for turn in range(rounds + 1):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start, start_cpu = time.perf_counter(), time.process_time()
            contestants[name]()
            if turn:
                wall[name].append(time.perf_counter() - start)
                cpu[name].append(time.process_time() - start_cpu)
    return Timed(wall, cpu)


def _added(one: Mapping[str, Sequence[float]], two: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    return {name: [a + b for a, b in zip(one[name], two[name], strict=True)] for name in one}


def _ratios(seconds: Mapping[str, Sequence[float]], peer: str) -> list[float]:
    return [theirs / ours for theirs, ours in zip(seconds[peer], seconds[OURS], strict=True)]


def _range(seconds: Mapping[str, Sequence[float]], peer: str) -> dict[str, float]:
    ratios = _ratios(seconds, peer)
    return {name: round(of(ratios), 3) for name, of in (("median", median), ("low", min), ("high", max))}


def _show(title: str, timed: Mapping[str, Timed]) -> Timed:
    """Print the times of each task, and of all together where there are several; return the total."""
    first, *others = timed.values()
    total = sum(others, first)
    table = Table(title, "", "wall s", "ratio", "CPU s", "ratio")
    for name, times in {**timed, **({"all": total} if others else {})}.items():
        for contestant, about in times.report().items():
            ratios = [_shown(about[key]) if key in about else "" for key in ("ratio", "cpu_ratio")]
            cells = [f"{about['wall_s']:.3g}", ratios[0], f"{about['cpu_s']:.3g}", ratios[1]]
            table.add_row(name if contestant == OURS else "", contestant, *cells)
    console.print(table)
    return total


def _shown(ratio: Mapping[str, float]) -> str:
    return f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"


if __name__ == "__main__":
    typer.run(main)
