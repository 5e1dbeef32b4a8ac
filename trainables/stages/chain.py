"""A trial's chain: targets are trained and scored in a fixed order, with a report after each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trainables.stages.base import Workplace, ensure
from trainables.stages.evaluate import Evaluate
from trainables.tasks.suites import SUITES, suite_score

Report = Callable[[dict[str, Any]], None]
# Prefixes of metric names: `<prefix>/<task>...` or `<prefix>/<suite>`.
SCORE_PREFIXES = (
    *("dev", "test", "test_without_english", "chance", "constant", "ceiling", "part"),
    *("suite", "suite_without_english"),
    *("confidence", "agreement", "first_loss", "final_loss"),
)


def run_chain(chain: Sequence[Evaluate], work: Workplace, report: Report) -> None:
    """Ensure every evaluation of the chain; after each, report the metrics of the targets finished so far.

    Metrics are in percent: `dev_score` (mean English dev score of the finished targets that have one), `test_score` (mean over
    finished targets of the mean over languages), `dev/<task>`, `test/<task>`, `test/<task>/<language>`, `part/<task>/<name>`
    (mean over languages of F1, EM, precision and so on), and `chance/<task>`. `constant/<task>` is the number of languages in
    which the model gives every example one answer, where there are any. `ceiling/<task>/<language>` is the highest score that
    a head can reach whose predictions are bounded (spans), and `ceiling/<task>` its mean over languages. `targets_finished` is
    their number: trials are compared after as many targets. Once every task and language of a suite is scored, `suite/<name>`
    and `suite_without_english/<name>` are its official averages. `confidence/<task>` and `agreement/<task>` say how sure the
    model is and how far languages agree, without labels (`trainables.unlabelled`); `first_loss/<task>` and `final_loss/<task>`
    are of the target's training. None of these four is ever ranked on.
    """
    metrics: dict[str, Any] = {}
    dev: list[float] = []
    test: list[float] = []
    by_language: dict[str, dict[str, float]] = {}
    for number, evaluate in enumerate(chain, 1):
        scored = ensure(evaluate, work).metrics
        name = scored["task"]
        if scored["dev"] is not None:
            dev.append(scored["dev"])
            metrics[f"dev/{name}"] = scored["dev"]
        test.append(scored["test_mean"])
        metrics |= _target_metrics(scored)
        metrics |= {f"{loss}/{name}": value for loss, value in _losses(evaluate, work).items()}
        by_language[name] = scored["test"]
        metrics |= official_averages(by_language)
        metrics |= {"targets_finished": number, "test_score": sum(test) / len(test)}
        if dev:
            metrics["dev_score"] = sum(dev) / len(dev)
        report(dict(metrics))


def _target_metrics(scored: Mapping[str, Any]) -> dict[str, float]:
    """What is reported of a target's evaluation besides its dev score. Stages of earlier versions lack some of it."""
    name = scored["task"]
    metrics = {f"test/{name}": scored["test_mean"], f"chance/{name}": scored["chance"]}
    if scored["test_mean_without_english"] is not None:
        metrics[f"test_without_english/{name}"] = scored["test_mean_without_english"]
    if constant := scored.get("constant"):
        metrics[f"constant/{name}"] = float(len(constant))
    if ceiling := scored.get("ceiling"):
        best = {language: values["score"] for language, values in ceiling.items()}
        metrics |= {f"ceiling/{name}/{language}": value for language, value in best.items()}
        metrics[f"ceiling/{name}"] = sum(best.values()) / len(best)
    metrics |= {f"{signal}/{name}": value for signal, value in scored.get("unlabelled", {}).items()}
    metrics |= {f"test/{name}/{language}": value for language, value in scored["test"].items()}
    return metrics | {f"part/{name}/{part}": value for part, value in _means(scored["parts"]).items()}


def _losses(evaluate: Evaluate, work: Workplace) -> dict[str, float]:
    """The first and the final loss of the target's training; empty for a target without training."""
    trained = work.from_leader(lambda: work.store.find(evaluate.model)) if evaluate.task.trained else None
    metrics = {} if trained is None else trained.metrics
    return {name: metrics[name] for name in ("first_loss", "final_loss") if name in metrics}


def official_averages(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """`suite/<name>` and `suite_without_english/<name>` for every suite whose tasks and languages are all scored."""
    return {
        f"{prefix}/{suite.name}": suite_score(suite, scores, english=english)
        for suite in SUITES.values()
        if all(set(task.languages) <= scores.get(task.name, {}).keys() for task in suite.tasks)
        for prefix, english in (("suite", True), ("suite_without_english", False))
    }


def _means(parts: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The plain mean over languages of each named part of a score."""
    names = {name for by_name in parts.values() for name in by_name}
    return {name: sum(by_name[name] for by_name in parts.values()) / len(parts) for name in sorted(names)}
