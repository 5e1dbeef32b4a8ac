"""`export`, `verify`, `merge` and `report` through the command line, on an output folder that an earlier version wrote."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from study.cli.app import app
from study.errors import CannotRun
from study.evidence.archive import INDEX, Archive, BadArchive
from study.evidence.bundle import read_bundle
from study.evidence.export import export
from study.evidence.verify import verify
from study.run.output_folder import locked
from study.run.report import load_study_frames
from tests.support.bundles import contents, resealed, rewritten, with_table
from trainables.store.answers import ANSWERS
from trainables.store.examples import EXAMPLES
from trainables.store.kept import sealed, unsealed
from trainables.store.manifests import MANIFEST

TABLES = "runs/0/tables.json"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(exported, tmp_path))


def test_export_then_verify(with_answers: Path, exported: Path, tmp_path: Path) -> None:
    """The same folder gives the same bytes, whichever way it is exported."""
    path = tmp_path / "bundle.zip"
    ran = run("export", with_answers, path)
    assert ran.exit_code == 0, ran.output
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert f"sha256 {digest}" in ran.stdout
    assert digest == hashlib.sha256(exported.read_bytes()).hexdigest()
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        assert names == [*sorted(names[:-1]), INDEX]
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    verified = run("verify", path)
    assert verified.exit_code == 0, verified.output
    evaluations = len(list(with_answers.glob(f"stages/*/{EXAMPLES}")))
    assert f"{evaluations} evaluations, {evaluations} of them recomputed: no faults" in verified.stdout


def test_neither_data_nor_models_travel_unless_they_are_asked_for(
    with_answers: Path, exported: Path, tmp_path: Path
) -> None:
    plain = set(contents(exported))
    assert {name.rpartition("/")[2] for name in plain if "/stages/" in name} == {MANIFEST, EXAMPLES, ANSWERS}
    export(load_study_frames(str(with_answers)), with_answers, tmp_path / "weights.zip", weights=True)
    assert run("export", with_answers, tmp_path / "small.zip", "--no-page").exit_code == 0
    assert plain - set(contents(tmp_path / "small.zip")) == {"report.html"}
    more = set(contents(tmp_path / "weights.zip")) - plain
    assert any(name.endswith(".safetensors") for name in more)
    assert not [name for name in more if "/stages/tokenise-" in name]


def test_what_an_earlier_version_made_is_said_not_to_be_recomputable(without_answers: Path, tmp_path: Path) -> None:
    path = tmp_path / "bundle.zip"
    assert "have no predictions to export" in run("export", without_answers, path).stdout
    verified = run("verify", path)
    assert verified.exit_code == 0, verified.output
    assert "not recomputable: made by an earlier version" in verified.stdout
    assert " 0 of them recomputed" in verified.stdout


def test_a_flipped_byte_of_any_member_is_found(bundle: Path) -> None:
    """Wherever it is in the file of a member; in the zip's own structure it is found, or changes no member."""
    whole, expected = bundle.read_bytes(), contents(bundle)
    rng, unused = random.Random(0), 0
    with zipfile.ZipFile(bundle) as archive:
        infos = archive.infolist()
    for info in infos:
        start = info.header_offset + 30 + len(info.filename.encode())
        at = start + rng.randrange(info.compress_size)
        bundle.write_bytes(whole[:at] + bytes([whole[at] ^ rng.randrange(1, 256)]) + whole[at + 1 :])
        if not _members_with_faults(bundle) & {info.filename, bundle.name}:
            unused += 1  # the last byte of a compressed member has bits without a meaning
            assert contents(bundle) == expected
    assert unused <= len(infos) // 20
    for _ in range(100):
        at = rng.randrange(len(whole))
        bundle.write_bytes(whole[:at] + bytes([whole[at] ^ rng.randrange(1, 256)]) + whole[at + 1 :])
        if not _members_with_faults(bundle):
            assert contents(bundle) == expected


def _members_with_faults(path: Path) -> set[str]:
    """As `verify` finds them first, without counting everything again."""
    try:
        with Archive(path) as archive:
            return {name for name, _ in archive.faults()}
    except BadArchive:
        return {path.name}


def _evaluations(members: dict[str, bytes], label: str = "evaluate-") -> list[str]:
    """The folders of evaluations whose name starts so."""
    folders = (name.removesuffix(ANSWERS) for name in sorted(members) if name.endswith(f"/{ANSWERS}"))
    return [folder for folder in folders if folder.split("/stages/")[1].startswith(label)]


def _other(prediction: str) -> str:
    """A prediction that counts otherwise, whatever the reference is: another label, or no tag where there were some."""
    value = json.loads(prediction)
    if isinstance(value, int):
        return str(1 - value)
    return json.dumps(["O" if any(tag != "O" for tag in value) else "B-A"] * len(value))


def test_a_changed_prediction_is_named_even_if_all_digests_were_made_again(bundle: Path, tmp_path: Path) -> None:
    """One prediction of every evaluation, drawn at random, is another one."""
    members, rng, changed = contents(bundle), random.Random(0), dict[str, int]()
    for folder in _evaluations(members):

        def change(table: pd.DataFrame, folder: str = folder) -> pd.DataFrame:
            row = rng.choice([n for n, prediction in enumerate(table["prediction"]) if prediction != "[]"])
            changed[folder] = row
            return _set(table, row, "prediction", _other(str(table.loc[row, "prediction"])))

        answers = with_table(members[folder + ANSWERS], change, tmp_path)
        members |= {folder + ANSWERS: answers, folder + MANIFEST: resealed(members[folder + MANIFEST], answers=answers)}
    ran = run("verify", rewritten(bundle, members))
    assert ran.exit_code == 1
    assert len(changed) > 10
    for folder, row in changed.items():
        lines = [line for line in ran.stdout.splitlines() if line.startswith(f"{folder}{ANSWERS}: ")]
        assert [f"(id id-{row})" in line for line in lines].count(True) == 1


def test_predictions_sums_and_manifest_changed_alike_differ_from_the_tables(bundle: Path, tmp_path: Path) -> None:
    """One answer more is right, in the predictions, the sums and the recorded scores: the study's tables tell."""
    members = contents(bundle)
    folder = _evaluations(members, "evaluate-micro_entailment")[0]
    (tmp_path / "sums.parquet").write_bytes(members[folder + EXAMPLES])
    wrong = pd.read_parquet(tmp_path / "sums.parquet").query("split == 'test' and correct == 0")
    row, language = int(wrong.index[0]), wrong.iloc[0]["language"]
    answers = with_table(members[folder + ANSWERS], lambda table: _set(table, row, "prediction", "0"), tmp_path)
    sums = with_table(members[folder + EXAMPLES], lambda table: _set(table, row, "correct", 1.0), tmp_path)
    content = unsealed(json.loads(resealed(members[folder + MANIFEST], answers=answers, examples=sums)))
    metrics = content["metrics"]
    metrics["test"][language] += 100 / metrics["examples"][language]
    metrics["test_mean"] = sum(metrics["test"].values()) / len(metrics["test"])
    others = [value for code, value in metrics["test"].items() if code != "en"]
    metrics["test_mean_without_english"] = sum(others) / len(others)
    manifest = json.dumps(sealed(content)).encode()
    members |= {folder + ANSWERS: answers, folder + EXAMPLES: sums, folder + MANIFEST: manifest}
    faults = verify(rewritten(bundle, members)).faults
    assert faults
    assert all(f"{TABLES}: trial" in fault and "micro_entailment" in fault for fault in faults)


def _set(table: pd.DataFrame, row: int, column: str, value: str | float) -> pd.DataFrame:
    table.loc[row, column] = value
    return table


def test_changed_numbers_of_tables_and_of_the_report_are_named(bundle: Path) -> None:
    members = contents(bundle)
    content = json.loads(members[TABLES])
    for table, column in (("scores", "value"), ("trials", "dev_score"), ("benchmarks", "p50_ms")):
        row = next(row for row in content[table] if row["size"] == "1x32" and row.get(column) is not None)
        row[column] += 0.5
    row = next(row for row in content["benchmarks"] if row["size"] == "1x64")
    row["test_score"] += 0.5
    name = next(name for name in sorted(members) if name.startswith("report/") and b"." in members[name])
    text = members[name].decode()
    digit = next(at for at in range(text.index("\n"), len(text)) if text[at].isdigit())
    text = text[:digit] + str((int(text[digit]) + 5) % 10) + text[digit + 1 :]
    ran = run("verify", rewritten(bundle, members | {TABLES: json.dumps(content).encode(), name: text.encode()}))
    assert ran.exit_code == 1
    for fault in (
        f"{TABLES}: trial t0000 of 1x32 on micro_tagging: ",
        f"{TABLES}: trial t0000 of 1x32: dev_score is ",
        f"{TABLES}: benchmark of 1x32 in fp32: p50_ms is ",
        f"{TABLES}: benchmark of 1x64 in fp32: test_score is ",
        f"report: {name.removeprefix('report/')}: row ",
    ):
        assert sum(line.startswith(fault) for line in ran.stdout.splitlines()) == 1, ran.stdout


def test_scores_by_example_of_the_tables_that_no_measurement_has_are_named(bundle: Path, tmp_path: Path) -> None:
    """A serving variant's: intervals between variants, and a cascade's changes by language, are computed from them."""
    members, name = contents(bundle), TABLES.replace(".json", ".examples.parquet")

    def change(table: pd.DataFrame) -> pd.DataFrame:
        served = table[(table["size"] == "1x32") & table["trial_id"].str.endswith("/fp32") & table["correct"].notna()]
        row = int(served.index[0])
        return _set(table, row, "correct", 1.0 - float(served["correct"].iloc[0]))

    members[name] = with_table(members[name], lambda table: change(table.astype({"trial_id": str})), tmp_path)
    fault = f"{TABLES}: benchmark of 1x32 in fp32: its scores by example are not those of its measurement"
    assert fault in verify(rewritten(bundle, members)).faults


def test_evidence_that_was_left_out_is_missed_and_swapped_evaluations_are_found(bundle: Path) -> None:
    members = contents(bundle)
    without_answers, without_sums = _evaluations(members, "evaluate-micro_entailment")[:2]
    del members[without_answers + ANSWERS], members[without_sums + EXAMPLES]
    content = json.loads(members[TABLES])
    named = [row for row in content["evaluations"] if row["task"] == "micro_tagging" and row["size"] == "1x32"]
    first, second = named[:2]
    assert first["stage"] != second["stage"]
    first["stage"], second["stage"] = second["stage"], first["stage"]
    faults = verify(rewritten(bundle, members | {TABLES: json.dumps(content).encode()})).faults
    assert f"{without_answers}{MANIFEST}: lists {ANSWERS}, which is missing" in faults
    assert f"{without_sums}{MANIFEST}: lists {EXAMPLES}, which is missing" in faults
    for row in (first, second):
        start = f"{TABLES}: trial {row['trial_id']} of 1x32 on micro_tagging: "
        assert sum(fault.startswith(start) for fault in faults) == 2, "by its scores, and by what it was trained on"


def test_a_trial_with_the_choice_of_another_is_found(bundle: Path) -> None:
    """Two trials exchanged their choices, and so their evaluations with all scores: every number follows from the evidence."""
    members = contents(bundle)
    content = json.loads(members[TABLES])
    trials = {row["trial_id"]: row for row in content["trials"] if row["size"] == "1x32"}
    for name in ("intermediate", "lr_intermediate"):
        trials["t0000"][name], trials["t0001"][name] = trials["t0001"][name], trials["t0000"][name]
    trials["t0002"]["seed"] = 7
    faults = verify(rewritten(bundle, members | {TABLES: json.dumps(content).encode()})).faults
    says = {
        "t0000": "micro_topic trains MicroTopic beside the target, and its evaluation nothing",
        "t0001": "none trains nothing beside the target, and its evaluation MicroTopic",
        "t0002": "seed 7 is not that of its evaluation's trainings",
    }
    of_trials = [fault for fault in faults if fault.startswith(f"{TABLES}: ")]
    assert {fault.split()[2] for fault in of_trials} == set(says)
    assert all(says[fault.split()[2]] in fault for fault in of_trials), of_trials


def test_what_is_not_checked_is_remarked_on(bundle: Path) -> None:
    members = contents(bundle)
    stage = next(name for name in members if name.endswith(f"/{MANIFEST}"))
    strays = ["runs/00/tables.json", "notes.txt", stage.replace(MANIFEST, "stray.bin")]
    ran = run("verify", rewritten(bundle, members | dict.fromkeys(strays, b"x")))
    assert ran.exit_code == 0, ran.output
    for name in strays:
        assert f"not part of a bundle, so not checked: {name}" in ran.stdout
    documents = [name for name in members if "/benchmarks/" in name and name.count("/") == 3]
    assert f"runs/0/benchmarks/: scores of {len(documents)} measurements have no predictions here" in ran.stdout
    assert "trials name no evaluation: choice and seed are not checked" in ran.stdout, "those of the earlier version"


def test_a_folder_that_a_run_is_using_is_not_exported(with_answers: Path, tmp_path: Path) -> None:
    with locked(with_answers):
        ran = run("export", with_answers, tmp_path / "bundle.zip")
    assert (ran.exit_code, ran.stderr.count("\n")) == (2, 1)
    assert "a run is using it" in ran.stderr
    assert not (tmp_path / "bundle.zip").exists()


def test_an_export_keeps_runs_out_until_it_is_written(
    with_answers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    def try_to_run(*arguments: Any, **options: Any) -> Any:
        with pytest.raises(CannotRun, match="another run is using it"), locked(with_answers):
            pass
        tried.append("locked")
        return export(*arguments, **options)

    monkeypatch.setattr("study.evidence.export.export", try_to_run)
    assert run("export", with_answers, tmp_path / "bundle.zip").exit_code == 0
    assert tried == ["locked"]


def test_a_report_reads_a_bundle_as_it_reads_the_folder(
    with_answers: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analysis.report.exports.vlc.vegalite_to_svg", lambda text: "<svg/>")
    monkeypatch.setattr("analysis.report.exports.vlc.vegalite_to_png", lambda text, scale: b"")
    ran = run("report", bundle)
    assert ran.exit_code == 0, ran.output
    assert ran.stdout.strip() == str(tmp_path / "bundle.html")
    assert (tmp_path / "bundle.html").read_bytes() == contents(bundle)["report.html"]
    pd.testing.assert_frame_equal(read_bundle(bundle).scores, load_study_frames(str(with_answers)).scores)


def _with_tables(bundle: Path, path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A bundle with other tables, as another machine would have exported it."""
    shutil.copy(bundle, path)
    members = contents(path)
    content = json.loads(members[TABLES])
    change(content)
    return rewritten(path, members | {TABLES: json.dumps(content).encode()})


def test_sizes_of_two_machines_become_one_study(bundle: Path, tmp_path: Path) -> None:
    def only(size: str) -> Callable[[dict[str, Any]], None]:
        def change(content: dict[str, Any]) -> None:
            for name, rows in content.items():
                if isinstance(rows, list):
                    content[name] = [row for row in rows if row["size"] == size]

        return change

    parts = [_with_tables(bundle, tmp_path / f"{size}.zip", only(size)) for size in ("1x64", "1x32")]
    merged = tmp_path / "merged.zip"
    ran = run("merge", *parts, "--output", merged)
    assert ran.exit_code == 0, ran.output
    assert read_bundle(merged).size_names == ["1x32", "1x64"]
    verified = run("verify", merged)
    assert verified.exit_code == 0, verified.output


def test_choices_of_two_machines_become_one_study(bundle: Path, tmp_path: Path) -> None:
    """The first machine trained without an intermediate task alone, the second with one too."""

    def only_none(content: dict[str, Any]) -> None:
        kept = {(row["size"], row["trial_id"]) for row in content["trials"] if row["intermediate"] == "none"}
        for name, rows in content.items():
            if isinstance(rows, list):
                content[name] = [row for row in rows if "trial_id" not in row or (row["size"], row["trial_id"]) in kept]

    merged = tmp_path / "merged.zip"
    ran = run("merge", _with_tables(bundle, tmp_path / "none.zip", only_none), bundle, "--output", merged)
    assert ran.exit_code == 0, ran.output
    one, both = read_bundle(bundle).trials, read_bundle(merged).trials
    choices = ["size", "intermediate", "lr_intermediate", "lr_target", "dev_score", "test_score"]
    pd.testing.assert_frame_equal(
        both[choices].sort_values(choices, ignore_index=True), one[choices].sort_values(choices, ignore_index=True)
    )
    assert verify(merged).faults == []


def test_benchmarks_of_another_machine_are_added_to_the_same_trials(bundle: Path, tmp_path: Path) -> None:
    def as_bf16(content: dict[str, Any]) -> None:
        for row in (*content["benchmarks"], *content["speed_by_language"]):
            row["variant"] = "bf16"

    second = _with_tables(bundle, tmp_path / "second.zip", as_bf16)
    members = contents(second)
    for name in [name for name in members if "/benchmarks/" in name and "fp32" in name]:
        content = members.pop(name)
        members[name.replace("fp32", "bf16")] = content
    merged = tmp_path / "merged.zip"
    ran = run("merge", bundle, rewritten(second, members), "--output", merged)
    assert ran.exit_code == 0, ran.output
    one, both = read_bundle(bundle), read_bundle(merged)
    assert set(both.benchmarks["variant"]) == {"fp32", "bf16"}
    pd.testing.assert_frame_equal(both.trials, one.trials)
    assert verify(merged).faults == []


def test_conflicts_of_a_merge_are_named(bundle: Path, tmp_path: Path) -> None:
    def other_data(content: dict[str, Any]) -> None:
        content["context"]["data"] = {"micro_tagging": "x"}

    def other_scores(content: dict[str, Any]) -> None:
        for row in content["trials"]:
            row["dev_score"] += 1

    for change, message in (
        (other_data, "the runs differ in data"),
        (other_scores, "in two runs: size 1x32 with seed 0, size 1x64 with seed 0"),
    ):
        other = _with_tables(bundle, tmp_path / "other.zip", change)
        ran = run("merge", bundle, other, "--output", tmp_path / "merged.zip")
        assert (ran.exit_code, ran.stderr.count("\n")) == (2, 1)
        assert message in ran.stderr
        assert not (tmp_path / "merged.zip").exists()
