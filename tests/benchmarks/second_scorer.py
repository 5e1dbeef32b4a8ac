"""Are the scores of a published encoder those that a second, independent program computes from the same weights and examples?

    python -m tests.benchmarks.second_scorer --data-root DIR [--encoder e5-small] [--layers 3] [--steps 60]

A target of each kind is trained for some steps and evaluated by the study. Then plain PyTorch and transformers read the stored
weights, one example at a time without padding, decode as the papers say and score with scikit-learn, seqeval's published rules
and SQuAD's. No module of `trainables.heads`, `.metrics`, `.evaluation` or `.models` takes part. Examples are read by
the study's readers, which tests compare with the files.

Predictions go to `FOLDER/TASK.LANGUAGE.jsonl` with `--predictions FOLDER`. The last line is one JSON document; exit code 1 if a
score differs by more than rounding (a tie that another batch breaks moves one example).
"""

from __future__ import annotations

import json
import os
import re
import string
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score
from torch import Tensor
from transformers import AutoModel, PreTrainedTokenizerFast

from trainables.benchmark.probes.hardware import hardware
from trainables.data.source import DATA_ROOT_VARIABLE
from trainables.hyperparameters import Training
from trainables.models.catalogue import published
from trainables.models.published_encoder import FOLDER, pinned_encoder
from trainables.stages.base import Workplace, ensure
from trainables.stages.evaluate import Evaluate
from trainables.stages.finetune import FineTune
from trainables.stages.import_encoder import ImportEncoder
from trainables.store.stage_store import StageStore
from trainables.store.versions import versions
from trainables.tasks.offline.xcopa_from_copa import XcopaFromCopa
from trainables.tasks.offline.xnli_from_cad_nli import XnliFromCadNli
from trainables.tasks.pinning import pinned
from trainables.tasks.xtreme.tatoeba import Tatoeba
from trainables.tasks.xtreme.tydiqa import TyDiQA
from trainables.tasks.xtreme.udpos import Udpos

MAX_LENGTH, READING_LENGTH, QUESTION, STRIDE, LONGEST_ANSWER = 128, 256, 64, 64, 30
QUERY = "query: "  # how texts of multilingual E5 begin in retrieval
ONE_EXAMPLE = 1.5  # a tie broken otherwise, in examples of a language's test set

console = Console(highlight=False, width=80)
Score = tuple[float, list[Any]]  # percent, and the predictions

DataRoot = Annotated[Path, typer.Option(help="folder with the encoder's and the tasks' files")]
Encoder = Annotated[str, typer.Option(help="a name of the catalogue, or a repository")]
Layers = Annotated[int, typer.Option(min=1, help="the first so many layers")]
Steps = Annotated[int, typer.Option(min=1, help="training steps of each target")]
Predictions = Annotated[Path | None, typer.Option(help="write the second program's predictions here")]


def main(
    data_root: DataRoot,
    encoder: Encoder = "e5-small",
    layers: Layers = 3,
    steps: Steps = 60,
    predictions: Predictions = None,
) -> None:
    """Print both scores by target and language, and one JSON line."""
    started = time.perf_counter()
    os.environ[DATA_ROOT_VARIABLE] = str(data_root.resolve())
    root = data_root / FOLDER / published(encoder).repository
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(root / "tokenizer.json"))
    base = ImportEncoder(pinned_encoder(published(encoder, layers=layers)))
    rows = []
    with tempfile.TemporaryDirectory() as name:
        work = Workplace(StageStore(Path(name)))
        for task, length, score in _targets():
            evaluate = _evaluation(base, pinned(task), steps, length)
            ours = ensure(evaluate, work).metrics["test"]
            model = work.store.find(evaluate.model)
            assert model is not None
            second = Second(model.folder, tokenizer)
            for language, value in ours.items():
                examples = evaluate.task.examples("test", language)
                again, predicted = score(second, examples)
                rows.append({"task": evaluate.task.name, "language": language, "examples": len(examples)})
                rows[-1] |= {"score": value, "second": again}
                console.print(f"{evaluate.task.name} {language}: {value:.4f} and {again:.4f}")
                if predictions is not None:
                    _write(predictions / f"{evaluate.task.name}.{language}.jsonl", predicted)
    differing = [row for row in rows if abs(row["score"] - row["second"]) > 100 * ONE_EXAMPLE / row["examples"]]
    _show(rows)
    document = {
        "encoder": encoder,
        "layers": layers,
        "steps": steps,
        "scores": rows,
        "equal": sum(abs(row["score"] - row["second"]) < 1e-9 for row in rows),
        "compared": len(rows),
        "max_difference": max(abs(row["score"] - row["second"]) for row in rows),
        "wall_s": round(time.perf_counter() - started, 1),
        "hardware": hardware().as_dict(),
        "versions": versions(),
        "command": " ".join(["python", "-m", "tests.benchmarks.second_scorer", *sys.argv[1:]]),
    }
    print(json.dumps(document))
    if differing:
        raise typer.Exit(1)


class Second:
    """The stored encoder and head, run on one row at a time."""

    def __init__(self, folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
        self.encoder = AutoModel.from_pretrained(folder / "encoder").eval()
        head = folder / "head.safetensors"
        self.head = load_file(head) if head.is_file() else {}
        self.tokenizer = tokenizer

    @torch.no_grad()
    def hidden(self, ids: Sequence[int]) -> Tensor:
        """(tokens, width) of one row."""
        states: Tensor = self.encoder(input_ids=torch.tensor([list(ids)])).last_hidden_state[0]
        return states

    def linear(self, layer: str, values: Tensor) -> Tensor:
        return values @ self.head[f"{layer}.weight"].T + self.head[f"{layer}.bias"]

    def pooled(self, ids: Sequence[int]) -> Tensor:
        """The head's outputs for the mean of a row's states."""
        return self.linear("out", torch.tanh(self.linear("dense", self.hidden(ids).mean(0))))

    def pair(self, first: str, second: str) -> list[int]:
        ids: list[int] = self.tokenizer(first, second, truncation="longest_first", max_length=MAX_LENGTH)["input_ids"]
        return ids


def classified(second: Second, examples: Sequence[Any]) -> Score:
    """XNLI: accuracy."""
    predicted = [int(second.pooled(second.pair(item.first, item.second)).argmax()) for item in examples]
    return 100 * float(accuracy_score([item.label for item in examples], predicted)), predicted


def chosen(second: Second, examples: Sequence[Any]) -> Score:
    """XCOPA: accuracy of the alternative with the highest score."""
    predicted = []
    for item in examples:
        scores = [float(second.pooled(second.pair(item.context, choice))[0]) for choice in item.choices]
        predicted.append(int(np.argmax(scores)))
    return 100 * float(accuracy_score([item.label for item in examples], predicted)), predicted


def tagged(second: Second, examples: Sequence[Any]) -> Score:
    """UDPOS: the tag at each word's first token; entity F1 as seqeval 0.0.12 computes it for tags without prefixes."""
    labels = Udpos.labels
    predicted = []
    for item in examples:
        encoded = second.tokenizer(list(item.words), is_split_into_words=True)
        assert len(encoded["input_ids"]) <= MAX_LENGTH, "this program has no windows; give shorter sentences"
        best = second.linear("out", second.hidden(encoded["input_ids"])).argmax(-1).tolist()
        first: dict[int, int] = {}
        for position, word in enumerate(encoded.word_ids()):
            if word is not None:
                first.setdefault(word, position)
        assert len(first) == len(item.words)
        predicted.append([labels[best[first[word]]] for word in range(len(item.words))])
    gold = [list(item.tags) for item in examples]
    found, right = (_entities([tag for sentence in tags for tag in (*sentence, "O")]) for tags in (predicted, gold))
    return 100 * 2 * len(found & right) / (len(found) + len(right)), predicted


def _entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """Runs of one tag. A tag that begins with S, as SYM and SCONJ do, is taken for the scheme's S: each is an entity alone."""
    entities, start = set(), 0
    for position in range(1, len(tags) + 1):
        inside = position < len(tags) and tags[position] == tags[start] and tags[start][0] not in "SE"
        if not inside:
            if tags[start] != "O":
                entities.add((tags[start], start, position - 1))
            start = position
    return entities


def answered(second: Second, examples: Sequence[Any]) -> Score:
    """TyDiQA: the likeliest span of at most 30 tokens over all windows; the mean of F1 and exact match."""
    scores, predicted = [], []
    for item in examples:
        best, answer = -np.inf, ""
        windows = second.tokenizer(
            *(item.question, item.context),
            truncation="only_second",
            max_length=READING_LENGTH,
            stride=STRIDE,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        for number, ids in enumerate(windows["input_ids"]):
            start, end = second.linear("out", second.hidden(ids)).T.tolist()
            offsets, sides = windows["offset_mapping"][number], windows.sequence_ids(number)
            for i in range(len(ids)):
                for j in range(i, min(i + LONGEST_ANSWER, len(ids))):
                    if sides[i] == sides[j] == 1 and start[i] + end[j] > best:
                        best, answer = start[i] + end[j], item.context[offsets[i][0] : offsets[j][1]]
        predicted.append(answer)
        gold = [text for text, _ in item.answers]
        scores.append(max(_f1(answer, text) for text in gold) / 2)
        scores[-1] += max(_normal(answer) == _normal(text) for text in gold) / 2
    return 100 * float(np.mean(scores)), predicted


def _normal(text: str) -> str:
    """SQuAD's answer normalisation: lower case, no ASCII punctuation, no English articles, single spaces."""
    text = "".join(letter for letter in text.lower() if letter not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def _f1(answer: str, gold: str) -> float:
    own, right = _normal(answer).split(), _normal(gold).split()
    common = sum((Counter(own) & Counter(right)).values())
    return 2 * common / (len(own) + len(right)) if common else 0.0


def translated(second: Second, examples: Sequence[Any]) -> Score:
    """Tatoeba: the nearest English sentence by cosine of mean states; right where it is at the same place."""

    def vectors(texts: Sequence[str]) -> np.ndarray:
        rows = (second.tokenizer(QUERY + text, truncation=True, max_length=MAX_LENGTH)["input_ids"] for text in texts)
        matrix = np.stack([second.hidden(ids).mean(0).numpy().astype(np.float64) for ids in rows])
        return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)

    sources, targets = (vectors([getattr(item, side) for item in examples]) for side in ("source", "target"))
    predicted = (sources @ targets.T).argmax(1)
    return 100 * float(np.mean(predicted == np.arange(len(examples)))), predicted.tolist()


def _targets() -> list[tuple[Any, int, Callable[[Second, Sequence[Any]], Score]]]:
    """Each kind of target, the longest row, and its second scorer."""
    return [
        (Udpos(languages_=("en", "de", "ar", "zh"), dev_size=50, test_size=100), MAX_LENGTH, tagged),
        (XnliFromCadNli(languages_=("en", "sw"), dev_size=50, test_size=300), MAX_LENGTH, classified),
        (XcopaFromCopa(languages_=("it", "th"), dev_size=50, test_size=150), MAX_LENGTH, chosen),
        (TyDiQA(languages_=("en", "fi", "ar"), dev_size=20, test_size=60), READING_LENGTH, answered),
        (Tatoeba(languages_=("de", "sw")), MAX_LENGTH, translated),
    ]


def _evaluation(base: ImportEncoder, task: Any, steps: int, length: int) -> Evaluate:
    if not task.trained:
        return Evaluate(base, task, length)
    training = Training(4e-4, steps, 16, seed=0, max_length=length)
    return Evaluate(FineTune(base, task.for_training(), training), task, length)


def _write(path: Path, predicted: Sequence[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in predicted), encoding="utf-8")


def _show(rows: Sequence[dict[str, Any]]) -> None:
    table = Table("target", "language", "examples", "the study's", "second")
    for row in rows:
        cells = (row["task"], row["language"], str(row["examples"]), f"{row['score']:.4f}", f"{row['second']:.4f}")
        table.add_row(*cells)
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
