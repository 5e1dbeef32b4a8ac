"""The study's answer in a few sentences, each computed from the tables and limited to what they support."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from statistics import mean
from typing import Any

import pandas as pd

from analysis.report.findings import Findings
from analysis.store.frames import AGGREGATE_NAMES, NONE, cascade_in, languages_in_words, zero_shot
from analysis.store.names import score_name
from analysis.tables.averages import ranks, transfer_pairs
from analysis.tables.formatting import counted, interval, p_in_words, signed
from analysis.tables.inference import ALPHA
from analysis.tables.seeds import searched_as, seed_runs, served_scores, trial_means
from analysis.tables.tradeoff import kinds_of_hardware

WITHIN_POINTS = 2.0
LEAST_POINTS = 0.05  # a smaller lead does not show with one decimal


@dataclass(frozen=True)
class Answer:
    """One paragraph each; "" where there is nothing to say."""

    best: str
    better: str = ""
    fastest: str = ""
    gain: str = ""
    left_out: str = ""

    @property
    def paragraphs(self) -> list[str]:
        return [text for text in (self.best, self.better, self.fastest, self.gain, self.left_out) if text]


def answer(findings: Findings) -> Answer:
    """In plain text: the best configuration, a better one that was not chosen, the fastest near it, the gain."""
    frames = findings.frames
    if frames.trials.empty and frames.benchmarks.empty:
        return Answer("This study has no trials and no benchmarks yet, so there is no answer.")
    gain, left_out = _gain(findings), _left_out(findings)
    served = [row for row in findings.served.to_dict("records") if pd.notna(row["score"])]
    if not served:
        return Answer(*_best_unserved(findings), gain=gain, left_out=left_out)
    chosen = [row for row in served if not row["baseline"]]
    score = _headline_score(findings, chosen)
    best = max(chosen, key=lambda row: (row[score], -row["p50_ms"] if pd.notna(row["p50_ms"]) else -math.inf))
    return Answer(
        _best(findings, best, score),
        _better_than_served(findings, best, score),
        _fastest(served, best, score),
        gain,
        left_out,
    )


def caveats(findings: Findings) -> list[str]:
    """How far the answer can be trusted."""
    gained = findings.tuned if findings.tuned_has_more_seeds else findings.gained
    seeds = gained.loc[gained["n"] > (1 if findings.tuned_has_more_seeds else 0), "n"]
    if not len(seeds) or seeds.min() > 1:
        return []
    if seeds.max() == 1:
        share = "Every gain rests on one seed"
    else:
        share = f"{int((seeds == 1).sum())} of {len(seeds)} gains rest on one seed"
    return [f"{share}: the spread over seeds is unknown, and a small difference may be noise."]


def trained_on(intermediate: str) -> str:
    """An intermediate task as a phrase."""
    if intermediate == NONE:
        return "without intermediate training"
    return f"after intermediate training on {intermediate}" if intermediate else "intermediate task unknown"


def _headline_score(findings: Findings, served: list[dict[Hashable, Any]]) -> str:
    """The column that configurations are ranked by: without targets at chance, if every configuration has that mean."""
    complete = all(pd.notna(row["score_above_chance"]) for row in served)
    return "score_above_chance" if findings.at_chance and complete else "score"


def _headline_tasks(findings: Findings, row: dict[Hashable, Any], score: str) -> list[str]:
    excluded = findings.at_chance if score == "score_above_chance" else []
    return [task for task in row["task_scores"] if task not in excluded]


def _best(findings: Findings, best: dict[Hashable, Any], score: str) -> str:
    languages = AGGREGATE_NAMES[best["judged_by"]]
    targets = counted(len(_headline_tasks(findings, best, score)), "target")
    if score == "score_above_chance":
        over = f"{targets} above chance, {languages}; {best['score']:.1f}% over all {len(best['task_scores'])}"
    else:
        over = f"{targets}, {languages}" if best["task_scores"] else languages
    several = len(kinds_of_hardware(findings.served)) > 1
    where = f" on {best['hardware']}" if several and best["hardware"] else ""
    speed = (
        f"at {best['p50_ms']:.1f} ms median latency{_of_task(best)}{where}"
        if pd.notna(best["p50_ms"])
        else "without a valid latency"
    )
    return (
        f"Of the configurations chosen on {_selection(findings)} and served, the most accurate is size {best['size']} "
        f"served as {best['variant']}, {trained_on(best['intermediate'])}: {score_name(best['judged_by'])} "
        f"{best[score]:.1f}% ({over}), {speed}."
        f"{_worth_little(findings, best)}{_seen(findings, best)}{_not_zero_shot(findings, best)}"
    )


def _seen(findings: Findings, best: dict[Hashable, Any]) -> str:
    """The targets whose data the configuration's encoder has seen, as a sentence; "" if there are none."""
    size, intermediate = str(best["size"]), str(best["intermediate"])
    flags = {task: findings.frames.seen(size, str(task), intermediate) for task in findings.scored_targets}
    named = ", ".join(f"{task} ({what})" for task, what in flags.items() if what)
    return f" Its encoder was trained on data of these targets before: {named}." if named else ""


def _not_zero_shot(findings: Findings, best: dict[Hashable, Any]) -> str:
    """The languages that the configuration's intermediate task is trained in, as a sentence; "" if English alone."""
    frames, intermediate = findings.frames, str(best["intermediate"])
    languages = {name for task in findings.scored_targets for name in frames.not_zero_shot(intermediate, task)}
    if frames.languages_unknown(intermediate):
        return f" The languages of {intermediate}'s labelled data are unknown: its scores may not be zero-shot."
    if not languages:
        return ""
    return f" {intermediate} is trained in {', '.join(sorted(languages))}: scores in these languages are not zero-shot."


def _worth_little(findings: Findings, best: dict[Hashable, Any]) -> str:
    """The targets on which the configuration is no better than chance, or gives one answer to everything; "" if none."""
    chances = findings.frames.scores.groupby("task")["chance"].max()
    low = [
        f"{task} ({value:.1f}%, chance {chances[task]:.1f}%)"
        for task, value in best["judged_scores"].items()
        if task in chances and value <= chances[task]
    ]
    trials = findings.frames.trials
    served = trials[(trials["size"] == best["size"]) & (trials["trial_id"] == best["trial_id"])]
    constant = next((text for text in served["constant"] if text), "")
    sentences = [f"It is no better than chance on {', '.join(low)}."] if low else []
    sentences += [f"It gives every example the same answer on {constant}."] if constant else []
    return "".join(f" {sentence}" for sentence in sentences)


def _selection(findings: Findings) -> str:
    return findings.frames.context["selection"] or "English dev"


def _better_than_served(findings: Findings, best: dict[Hashable, Any], score: str) -> str:
    """A better baseline that was served, and a trial that is better still and was not; "" if there is neither."""
    tasks = _headline_tasks(findings, best, score)
    own = _by_seed(findings, best, tasks)
    if not tasks or not own:
        return ""
    served = findings.served[findings.served["score"].notna()]
    keys = {
        searched_as(findings.frames, key) for key in served[["size", "trial_id"]].itertuples(index=False, name=None)
    }
    baseline, highest = _better_baseline(findings, best, tasks, than=mean(own))
    unserved = _better(
        findings,
        tasks=tasks,
        language=str(best["judged_by"]),
        than=mean(own),
        seeds=len(own),
        known=keys,
        lacks="and not served",
        above=highest,
    )
    return f"{baseline} {unserved}".strip()


def _by_seed(findings: Findings, row: dict[Hashable, Any], tasks: list[str]) -> list[float]:
    """The scores of a configuration over these tasks, one per seed."""
    runs = seed_runs(findings.frames, (str(row["size"]), str(row["trial_id"])), tasks, str(row["judged_by"]))
    return list(served_scores({str(name): value for name, value in row.items()}, tasks, runs).values())


def _better_baseline(
    findings: Findings, best: dict[Hashable, Any], tasks: list[str], *, than: float
) -> tuple[str, float]:
    """The best baseline in a sentence and its mean score over seeds, if it is above `than`; else "" and `than`."""
    served = findings.served[findings.served["baseline"] & findings.served["score"].notna()].to_dict("records")
    scored = [(row, scores) for row in served if (scores := _by_seed(findings, row, tasks))]
    row, scores = max(
        scored, key=lambda pair: (round(mean(pair[1]), 1), _served_alike(pair[0], best)), default=(best, [than])
    )
    if mean(scores) < than + LEAST_POINTS:
        return "", than
    if _served_alike(row, best):
        named = f"the same size, served as {row['variant']} at the same latency,"
    else:
        named = f"size {row['size']}, served as {row['variant']},"
    own = len(_by_seed(findings, best, tasks))
    return (
        f"Without an intermediate task {named} has {mean(scores):.1f}% (mean of {counted(len(scores), 'seed')}) against "
        f"{than:.1f}% (mean of {counted(own, 'seed')}).",
        mean(scores),
    )


def _served_alike(row: dict[Hashable, Any], other: dict[Hashable, Any]) -> bool:
    """Whether two configurations have the same size and serving variant, on the same hardware."""
    return all(row[name] == other[name] for name in ("size", "variant", "hardware"))


def _better(
    findings: Findings,
    *,
    tasks: list[str],
    language: str,
    than: float,
    seeds: int,
    known: set[tuple[str, str]],
    lacks: str,
    above: float = -math.inf,
) -> str:
    """The trial with the highest mean test score, if it is above `than` and `above` and not one of `known`; else ""."""
    means = trial_means(findings.frames, tasks, language=language)
    chosen = set(findings.best[["size", "trial_id"]].itertuples(index=False, name=None))
    others = [row for row in means.to_dict("records") if (row["size"], row["trial_id"]) not in known]
    top = max(others, key=lambda row: row["score"], default=None)
    if top is None or top["score"] < max(than, above) + LEAST_POINTS:
        return ""
    not_chosen = f"not chosen on {_selection(findings)} {lacks}".rstrip()
    is_chosen = (top["size"], top["trial_id"]) in chosen
    why = f"not served, though chosen on {_selection(findings)} for its size" if is_chosen else not_chosen
    return (
        f"A better one was measured, but {why}"
        f": trial {top['trial_id']} of size {top['size']}, {trained_on(top['intermediate'])}, has {top['score']:.1f}% "
        f"(mean of {counted(top['seeds'], 'seed')}) against {than:.1f}% (mean of {counted(seeds, 'seed')}). "
        "It is the highest of several test scores, so part of its lead may be luck."
    )


def _fastest(served: list[dict[Hashable, Any]], best: dict[Hashable, Any], score: str) -> str:
    if pd.isna(best["p50_ms"]):
        return ""
    # The p50 of a cascade is often of its smaller model, whatever the larger one costs.
    timed = [row for row in served if row["hardware"] == best["hardware"] and pd.notna(row["p50_ms"])]
    timed = [row for row in timed if not cascade_in(row)]
    if sum(not row["baseline"] for row in timed) == 1:
        return "No other configuration was timed on the same hardware."
    faster = [row for row in timed if row["p50_ms"] < best["p50_ms"]]
    if not faster:
        return "No configuration on the same hardware is faster."
    near = [row for row in faster if row[score] >= best[score] - WITHIN_POINTS]
    if not near:
        return f"No faster configuration on the same hardware comes within {WITHIN_POINTS:g} points of it."
    fast = min(near, key=lambda row: (row["p50_ms"], row["baseline"]))  # at the same cost the one that was chosen
    return (
        f"The fastest within {WITHIN_POINTS:g} points of it is size {fast['size']} served as {fast['variant']}, "
        f"{trained_on(fast['intermediate'])}: {fast[score]:.1f}% at {fast['p50_ms']:.1f} ms, "
        f"{best['p50_ms'] / fast['p50_ms']:.1f} times as fast."
    )


def _best_unserved(findings: Findings) -> tuple[str, str]:
    """The best trial by dev score, and a trial with a better test score."""
    frames = findings.frames
    judged_by, scores = zero_shot(frames.trials)
    best = findings.best.merge(frames.trials.assign(score=scores), on=["size", "trial_id"]).to_dict("records")
    best = [row for row in best if pd.notna(row["dev_score"])]
    if not best:
        return "No trial has a score yet and nothing was benchmarked, so no configuration can be named.", ""
    top = max(best, key=lambda row: row["dev_score"])
    test = (
        f", {score_name(judged_by)} {top['score']:.1f}% over {AGGREGATE_NAMES[judged_by]}"
        if pd.notna(top["score"])
        else ""
    )
    named = (
        f"The best trial on {_selection(findings)} is {top['trial_id']} of size {top['size']}, "
        f"{trained_on(top['intermediate'])} (dev {top['dev_score']:.1f}%{test}). "
        f"No benchmark has a score, so there is no answer about speed.{_seen(findings, top)}"
    )
    tasks = [task for task in findings.scored_targets if task not in findings.at_chance]
    means = trial_means(frames, tasks, language=judged_by)
    own = means[(means["size"] == top["size"]) & (means["trial_id"] == top["trial_id"])].to_dict("records")
    if not own or not tasks:
        return named, ""
    than, seeds = own[0]["score"], own[0]["seeds"]
    known = {(top["size"], top["trial_id"])}
    better = _better(findings, tasks=tasks, language=judged_by, than=than, seeds=seeds, known=known, lacks="")
    return named, better


def _gain(findings: Findings) -> str:
    tuned = findings.tuned_has_more_seeds
    gained = findings.tuned if tuned else findings.gained
    if tuned:  # only the choices that were repeated
        gained = gained[gained["n"] > 1]
    transfer = gained[gained["mark"] == ""]
    with_gain = transfer[transfer["gain"].notna()]
    above = with_gain[~with_gain["task"].isin(findings.at_chance)]
    if above.empty:
        return "No gain of intermediate training is known: no trial has a counterpart without one to compare with."
    judged_by = dict(zip(above["task"], above["judged_by"], strict=True))
    pairing = (
        "each at the learning rates best for it on English dev, paired by seed"
        if tuned
        else "at the same size, learning rate and seed"
    )
    comparisons = counted(len(above), "comparison")
    both = ""
    if len(above) < len(with_gain):
        both = f" above chance ({signed(with_gain['gain'].mean())} over all {len(with_gain)})"
    text = (
        f"Intermediate training changed the test score by {signed(above['gain'].mean())} points on average over "
        f"{comparisons}{both} with no intermediate task, {pairing}, over {languages_in_words(judged_by)} "
        f"(from {signed(above['gain'].min())} to {signed(above['gain'].max())}). {_tested(findings, above)}"
    )
    flagged = int((gained["gain"].notna() & (gained["mark"] != "")).sum())
    collapsed = int((transfer["reason"] == "collapsed").sum())
    missing = len(transfer) - len(with_gain) - collapsed
    uncounted = [f"{counted(flagged, 'gain')} with a contamination flag"] if flagged else []
    uncounted += [f"{counted(collapsed, 'comparison')} of runs at chance after training"] if collapsed else []
    uncounted += [f"{counted(missing, 'comparison')} not run, or without a score"] if missing else []
    return f"{text} Not counted: {'; '.join(uncounted)}." if uncounted else text


def _tested(findings: Findings, gained: pd.DataFrame) -> str:
    """Which mean gains over targets differ from zero, and the corrected p-value that rests on."""
    averages = findings.headline_averages
    if findings.tuned_has_more_seeds:
        averages = averages[averages["seeds"] > 1]
    ranking = _ranking(findings, gained)
    tested = averages[averages["p_holm"].notna()]
    if tested.empty:
        return f"{ranking}{'One seed: not tested' if averages['seeds'].max() <= 1 else 'Not tested'}."
    untested = len(averages) - len(tested)
    rest = f"; {untested} more rest on one seed and were not tested" if untested else ""
    different = tested[tested["p_holm"] < ALPHA].to_dict("records")
    means = counted(len(tested), "mean gain")
    if not different:
        smallest = p_in_words(tested["p_holm"].min())
        return f"{ranking}Of {means} over targets, none differs from zero after Holm's correction (smallest {smallest}){rest}."
    most = max(different, key=lambda row: abs(row["gain"]))
    return (
        f"{ranking}Of {means} over targets, {len(different)} {'differs' if len(different) == 1 else 'differ'} from zero after "
        f"Holm's correction, most of all {most['intermediate']} on size {most['size']}: {signed(most['gain'])} "
        f"{interval(most['low'], most['high'])}, corrected {p_in_words(most['p_holm'])}{rest}."
    )


def _ranking(findings: Findings, gained: pd.DataFrame) -> str:
    """The intermediate tasks with the best mean gain, those they are not told from and those they are, in sentences."""
    by_task = gained.groupby("intermediate")["gain"].mean().sort_values(ascending=False)
    if len(by_task) < 2:
        return ""
    best, *others = named = [f"{name} ({signed(value)})" for name, value in by_task.items()]
    if gained["n"].max() < 2:
        return f"The mean change is between {named[-1]} and {best}. "
    pairs = transfer_pairs(findings.frames, cells="tuned" if findings.tuned_has_more_seeds else "default")
    pairs = pairs[~pairs["task"].isin(findings.at_chance)]
    places = ranks(findings.frames, pairs, {str(name): float(value) for name, value in by_task.items()})
    tied, told = (
        [text for text, name in zip(others, list(by_task.index)[1:], strict=True) if (places[name] == 1) is share]
        for share in (True, False)
    )
    sentences = [f"The mean change is best with {best}."]
    sentences += [f"Not told from it: {', '.join(tied)}."] if tied else []
    sentences += [f"Told from it, corrected for all pairs: {', '.join(told)}."] if told else []
    return f"{' '.join(sentences)} "


def _left_out(findings: Findings) -> str:
    """The targets at chance, by name; "" if there is none."""
    table = findings.targets
    rows = table[table["at_chance"]].to_dict("records")
    named = ", ".join(
        f"{row['task']} (best size {row['size']}: {row['score']:.1f}%, chance {row['chance']:.1f}%)" for row in rows
    )
    if not rows:
        return ""
    if not findings.at_chance:
        return f"No size scores above chance on any target: {named}. These scores say nothing about transfer."
    return f"Left out of these means, because no size scores above chance on them: {named}."


def _of_task(row: dict[Hashable, Any]) -> str:
    timed = f" ({row['samples']:,.0f} timed)" if pd.notna(row["samples"]) else ""
    return f" of {row['timed_task']}'s queries{timed}" if row["timed_task"] else timed
