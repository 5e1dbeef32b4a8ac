"""The links that `study ui` prints, and what MLflow's own pages show when a browser opens them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from study.run.mlflow_records import record_study
from study.tracking.links import links
from study.tracking.tracker import Tracker, default_uri
from study.tracking.views import ui_tags
from tests.support import recipes
from tests.support.browser import Browser
from tests.support.commands import ROOT

ADDRESS = "http://127.0.0.1:5000"
PARAMS = {"intermediate": "none", "lr_intermediate": None, "lr_target": 1e-3, "seed": 0}


def write_study(output: Path, *, tags: bool = True, benchmarks: bool = True) -> dict[str, str]:
    """Two sizes with two trials each, and their links; without `tags` as an earlier version wrote it."""
    with Tracker(default_uri(output), "tiny", output=output) as tracker:
        if tags:
            record_study(recipes.tiny(), tracker)
        else:
            tracker.describe({"study.seed": 0})
        for size in ("1x32", "1x64"):
            for trial_id in ("t0", "t1"):
                run = tracker.trial(size, trial_id, default_cell=False, params=PARAMS)
                tracker.metrics(run, {"dev/score": 40.0, "test/score": 30.0})
            tracker.tags(tracker.size(size), {"best_trial": "t1"})
            if benchmarks:
                run = tracker.benchmark(size, "fp32@abc", tags={"variant": "fp32", "trial_id": "t1"})
                tracker.metrics(run, {"test/score": 30.0, "bench/p50_ms": 1.5, "bench/p99_ms": 2.5})
                tracker.tags(tracker.size(size), {"benchmark:fp32": run})
            if tags:
                tracker.mark_best(size, "t1")
        assert tracker.flush()
        return links(tracker.uri, address=ADDRESS)


def _query(link: str) -> dict[str, str]:
    """The parameters of a link, which MLflow keeps after the #."""
    return {name: values[0] for name, values in parse_qs(urlsplit(urlsplit(link).fragment).query).items()}


def test_links_open_the_saved_views_and_compare_the_benchmarks(tmp_path: Path) -> None:
    best, trials, compare = write_study(tmp_path).values()
    assert best.startswith(f"{ADDRESS}/#/experiments/1/runs?")
    for link, key in ((best, "study-best"), (trials, "study-trials")):
        assert _query(link) == {"viewStateShareKey": key, "workflowType": "machine_learning"}
        assert f"mlflow.sharedViewState.{key}" in ui_tags()
    assert len(_query(compare)["runs"].split(",")) == 2
    assert _query(compare)["experiments"] == '["1"]'


def test_without_benchmarks_the_best_trials_are_compared(tmp_path: Path) -> None:
    shown = write_study(tmp_path, benchmarks=False)
    assert "The trials side by side" in shown
    assert len(_query(shown["The trials side by side"])["runs"].split(",")) == 2


def test_a_store_of_an_earlier_version_is_filtered_without_a_view(tmp_path: Path) -> None:
    best, trials, compare = write_study(tmp_path, tags=False).values()
    assert _query(best)["searchFilter"] == "tags.kind = 'benchmark'"
    assert _query(trials)["searchFilter"] == "tags.kind = 'trial'"
    assert len(_query(compare)["runs"].split(",")) == 2


def test_mlflows_pages_show_what_the_links_say(browser: Browser, tmp_path: Path) -> None:
    write_study(tmp_path)
    port = 25000 + os.getpid() % 10000
    with subprocess.Popen(
        [sys.executable, "-m", "study", "ui", str(tmp_path), "--port", str(port)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as server:
        try:
            assert server.stdout is not None
            printed = [server.stdout.readline().strip() for _ in range(7)]
            address, (best, trials, compare) = printed[0], printed[2::2]
            browser.visit(address, timeout_s=300)
            browser.visit(best)
            for text in ("Study tiny", "Best trials and benchmarks", "bench/p50_ms", "bench/p99_ms", "4 matching runs"):
                browser.wait_for_text(text)
            browser.visit(trials)
            for text in ("dev/score", "outcome", "lr_target", "4 matching runs"):
                browser.wait_for_text(text)
            browser.visit(compare)
            browser.wait_for_text("Comparing 2 Runs from 1 Experiment")
        finally:
            os.killpg(server.pid, 15)
