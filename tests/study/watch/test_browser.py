"""A run's page in a browser: it follows the store, and leaves its reader where the reader is."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

from mlflow.entities import Metric
from mlflow.tracking import MlflowClient

from study.watch.live import LivePage
from study.watch.server import Server, serve
from study.watch.status_file import STATUS_FILE
from tests.support.browser import Browser
from tests.support.studies import Planted, plant

SMALL = Planted(
    sizes={"2x128": 0.4, "6x256": 4.7},
    targets={"xnli": 55.0, "span": 30.0},
    gains={"topic": {"xnli": 2.0}},
    seeds=2,
    sampled=0,
    examples=20,
)
PAGE = "document.querySelector('iframe:not(.waiting)')"
STATE = """(() => {
  const frame = document.querySelector('iframe:not(.waiting)'), page = frame.contentDocument;
  const slider = page.getElementById('budget_limit'), heading = page.getElementById('what-intermediate-training-buys');
  return {address: frame.src, limit: Number(slider.dataset.limit), sentence: page.getElementById('budget_pick').textContent,
    step: Number(slider.value), last: Number(slider.max), hardware: page.getElementById('budget_hardware').selectedIndex,
    metric: page.getElementById('budget_metric').value, top: Math.round(heading.getBoundingClientRect().top),
    size: page.getElementById('chosen_size').value, focus: page.activeElement.id,
    open: [...page.querySelectorAll('details[open] > summary')].map((s) => s.textContent)};
})()"""
USE = """(() => {
  const frame = document.querySelector('iframe:not(.waiting)'), page = frame.contentDocument, Event = frame.contentWindow.Event;
  const slider = page.getElementById('budget_limit'), size = page.getElementById('chosen_size');
  const hardware = page.getElementById('budget_hardware');
  hardware.selectedIndex = 1; hardware.dispatchEvent(new Event('change'));
  slider.value = '2'; slider.dispatchEvent(new Event('input'));
  size.selectedIndex = 1; size.dispatchEvent(new Event('change'));
  for (const details of [...page.querySelectorAll('section details')].slice(0, 2)) details.open = true;
  slider.focus({preventScroll: true});
  page.getElementById('what-intermediate-training-buys').scrollIntoView();
  frame.contentWindow.scrollBy(0, 40);
})()"""


def _say(folder: Path, **more: Any) -> None:
    said: dict[str, Any] = {
        "state": "running",
        "phase": "search",
        "study": "3/9 stages",
        "sizes": [],
        "stages": [],
        "reason": "",
    }
    said |= {"host": "elsewhere", "started_s": time.time(), "written_s": time.time()}
    (folder / STATUS_FILE).write_text(json.dumps(said | more))


def _another_machine(folder: Path) -> None:
    """Everything was also measured on a machine that takes twice as long."""
    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("planted")
    for run in client.search_runs([experiment.experiment_id], "tags.kind = 'benchmark'"):
        tags = {name: value for name, value in run.data.tags.items() if not name.startswith("mlflow.")}
        copy = client.create_run(experiment.experiment_id, tags=tags | {"hardware": "B processor, cpu, 2 threads"})
        slower = {name: value * (2 if "_ms" in name else 1) for name, value in run.data.metrics.items()}
        client.log_batch(copy.info.run_id, metrics=[Metric(name, value, 0, 1) for name, value in slower.items()])


def _another_result(folder: Path) -> None:
    """Another trial ends: the page gets a row more."""
    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("planted")
    run = client.create_run(experiment.experiment_id, tags={"kind": "trial", "size": "2x128", "trial_id": "late"})
    client.log_param(run.info.run_id, "intermediate", "none")
    client.set_tag(run.info.run_id, "outcome", "complete")
    for name, score in (("dev/score", 50.0), ("test/score", 40.0), ("targets_finished", 2)):
        client.log_metric(run.info.run_id, name, score)


def test_a_newer_page_leaves_its_reader_in_place(browser: Browser, tmp_path: Path) -> None:
    plant(tmp_path, SMALL)
    _another_machine(tmp_path)
    _say(tmp_path)
    server, ended = Server(LivePage(tmp_path, every_s=1, share=1.0)), threading.Event()
    thread = threading.Thread(target=serve, args=(server,), kwargs={"ended": ended.is_set, "linger_s": 0})
    thread.start()
    try:
        browser.visit(server.url, width=1280)
        browser.wait_for_text("Running: search. 3/9 stages.")
        browser.wait_for(f"{PAGE}?.contentDocument.documentElement.dataset.drawn > 0", timeout_s=300)
        browser.evaluate(USE)
        time.sleep(0.5)
        before = browser.evaluate(STATE)
        _another_result(tmp_path)
        browser.wait_for(f"{PAGE}.src !== {json.dumps(before['address'])}", timeout_s=300)
        after = browser.evaluate(STATE)
        assert after.pop("address") != before.pop("address")
        assert abs(after.pop("top") - before.pop("top")) <= 2
        assert before["limit"] > 0
        assert 0 < before["step"] < before["last"], "neither the first step nor the last, at which a slider comes"
        assert before["hardware"] == 1, "not the hardware with which the page comes"
        assert len(before["open"]) == 2
        assert before["focus"] == "budget_limit"
        assert after == before
        assert browser.evaluate("document.querySelectorAll('iframe').length") == 1
        late = f"{PAGE}.contentDocument.body.textContent.includes('late')"
        assert browser.evaluate(late), "the newer page has the newer result"
        _say(tmp_path, state="interrupted")
        browser.wait_for_text("The run was interrupted; the same command resumes it.")
    finally:
        ended.set()
        thread.join()
    browser.wait_for_text("No longer served")
    assert [text for text in browser.messages if "Content Security Policy" in text] == []
