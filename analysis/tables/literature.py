"""Published scores, each checked at its source. They are shown beside measured scores and never enter a fit."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

FOLDER = Path(__file__).parents[1] / "literature"
_COLUMNS = {
    "model": "str",
    "params_m": "float64",
    "task": "str",
    "metric": "str",
    "value": "float64",
    "protocol": "str",
    "source": "str",
}
ZERO_SHOT = "zero-shot"


def published(folder: Path = FOLDER) -> pd.DataFrame:
    """All rows of the folder's CSV files.

    `params_m` counts millions of parameters with embeddings, NaN where not checked; `value` is percent.

    Raises:
        ValueError: a file lacks a column, or a row lacks its protocol or source.
    """
    tables = []
    for path in sorted(folder.glob("*.csv")):
        table = pd.read_csv(path, comment="#", keep_default_na=False, na_values={"params_m": [""]})
        if missing := set(_COLUMNS) - set(table.columns):
            raise ValueError(f"{path.name}: no column {', '.join(sorted(missing))}")
        blank = table[(table["protocol"] == "") | (table["source"] == "")]
        if len(blank):
            raise ValueError(f"{path.name}: row {int(blank.index[0]) + 1} has no protocol or no source")
        tables.append(table[list(_COLUMNS)])
    return pd.concat(tables, ignore_index=True).astype(_COLUMNS)


def comparable(table: pd.DataFrame, targets: list[str]) -> pd.DataFrame:
    """The zero-shot rows on a target of the study, in the unit of the study's scores.

    The study scores question answering by (F1 + EM) / 2: rows with both get that value, others are left out.
    """
    rows = table[table["task"].isin(targets) & (table["protocol"] == ZERO_SHOT)]
    wide = rows.pivot_table(
        index=["model", "params_m", "task", "source"], columns="metric", values="value", dropna=False
    )
    wide = wide.dropna(how="all").reset_index()
    for name in ("F1", "EM"):
        if name not in wide:
            wide[name] = float("nan")
    single = [name for name in wide.columns if name in ("accuracy", "span F1")]
    value = (wide["F1"] + wide["EM"]) / 2
    for name in single:
        value = value.fillna(wide[name])
    wide = wide.assign(value=value).dropna(subset=["value"])
    return wide[["model", "params_m", "task", "value", "source"]].reset_index(drop=True)
