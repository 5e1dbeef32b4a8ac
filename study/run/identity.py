"""`study.json`: which study an output folder holds. A different study is refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from study.errors import CannotRun
from study.spec import Study
from study.spec.precision import explain_precision
from trainables.store.atomic import write_text
from trainables.store.fingerprint import canonical
from trainables.store.kept import KeptFileUnusable, read_object

STUDY_FILE = "study.json"
OF_A_SEARCH = ("trials", "intermediates")  # what a size's search tries


def check_identity(study: Study, output: Path, *, searches: bool = True) -> None:
    """Compare the study with the one in the folder, then write it there.

    Resources, repeats, the benchmark and `first_by` may change between runs. Sizes may come and go; what a size is may not
    change, nor what its search tries once there is one. Without `searches` the study is not searched now.

    Raises:
        CannotRun: the folder holds another study, or its `study.json` is damaged.
    """
    path = output / STUDY_FILE
    identity, sizes = _identity(study), _sizes(study)
    if not searches:
        sizes = {name: {key: own[key] for key in own if key not in OF_A_SEARCH} for name, own in sizes.items()}
    if path.exists():
        stored, stored_sizes = _read(path)
        differences = sorted(name for name in {*stored, *identity} if stored.get(name) != identity.get(name))
        for name in sizes.keys() & stored_sizes.keys():
            own, kept = sizes[name], stored_sizes[name]
            compared = list(dict.fromkeys([*own, *kept]))
            if not ("trials" in own and "trials" in kept):
                compared = [key for key in compared if key not in OF_A_SEARCH]
            differences += [f"{key} of size {name}" for key in compared if own.get(key) != kept.get(key)]
            sizes[name] = kept | own
        if differences:
            way_out = _precision_hint(study, stored) or (
                "choose another folder; with a copy of this one's stages/ it trains nothing again that both have"
            )
            raise CannotRun(f"--output {output}: holds another study (different {', '.join(differences)}); {way_out}")
        sizes = stored_sizes | sizes
    write_text(path, json.dumps({**identity, "sizes": sizes}, indent=1))


def _identity(study: Study) -> dict[str, Any]:
    """What must not change between runs, sizes apart."""
    identity: dict[str, Any] = canonical(dataclasses.replace(study, benchmark=type(study.benchmark)()))
    for field in ("sizes", "trials", "repeats", "benchmark"):
        del identity[field]
    identity.pop("first_by", None)  # decides what is tried first, and not what is tried
    return identity


def _sizes(study: Study) -> dict[str, dict[str, Any]]:
    return {
        size.name: {
            "encoder": canonical(size.encoder),
            "rate_factor": size.rate_factor,
            "trials": study.budget(size),
            **({} if size.intermediates is None else {"intermediates": list(size.intermediates)}),
        }
        for size in study.sizes
    }


def _read(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    try:
        stored = read_object(path, ("sizes",)) or {"sizes": {}}
        sizes = stored.pop("sizes")
        if not isinstance(sizes, dict) or not all(isinstance(size, dict) for size in sizes.values()):
            raise KeptFileUnusable(path, "its sizes are not JSON objects")
    except KeptFileUnusable as error:
        raise CannotRun(
            f"{path} is damaged ({error.reason}), so the study that the folder holds is unknown. If it is this one, remove the "
            "file"
        ) from error
    return stored, sizes


def _precision_hint(study: Study, stored: Mapping[str, Any]) -> str | None:
    """What to do where the stored study was started on a CPU with other instructions."""
    tuning = stored.get("tuning")
    precision = tuning.get("precision") if isinstance(tuning, dict) else None
    if precision == study.tuning.precision:
        return None
    return (
        f"it was started in {precision}, and here its training precision is {explain_precision(study)}: resume it on a machine "
        f"that trains in {precision}, or choose another folder"
    )
