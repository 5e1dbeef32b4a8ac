"""Another study beside this one."""

from __future__ import annotations

from analysis.charts.common import METRIC_NAMES, interval, quantity, signed
from analysis.report.findings import Findings
from analysis.report.page import Absent, Number, Page, number, paragraph, section
from analysis.store.frames import said_of


def compared_section(findings: Findings, page: Page) -> str:
    """Scores, speeds and settings of the other study; "" if none was given."""
    comparison = findings.comparison
    if comparison is None:
        return ""
    parts = []
    if comparison.scores.empty:
        parts.append(
            paragraph("The two have no default cell with the same size, task, learning rates and seed in common.")
        )
    else:
        rows = [
            [
                f"{row['size']} · {row['intermediate']} · {row['task']}",
                number(row["score"]),
                number(row["score_other"]),
                Number(signed(row["difference"])),
                interval(row["low"], row["high"]) or Absent("one seed, no examples"),
                number(row["p_holm"], 3, absent="one seed"),
                Number(row["n"]),
                row["verdict"],
            ]
            for row in comparison.scores.to_dict("records")
        ]
        columns = ["size · intermediate · target", "this (%)", "other (%)", "other - this", "95 % interval", "p (Holm)"]
        judged_by = dict(zip(comparison.scores["task"], comparison.scores["judged_by"], strict=True))
        caption = f"Test scores of default cells that both have, paired by seed, mean over {said_of(judged_by)}"
        data = comparison.scores
        parts.append(page.table("compared_scores", [*columns, "seeds", "verdict"], rows, caption=caption, data=data))
    if len(comparison.speeds):
        rows = [
            [
                f"{row['size']} · {row['variant']}",
                METRIC_NAMES[row["metric"]],
                Number(quantity(row["value"], 3)),
                Number(quantity(row["value_other"], 3)),
                Number(f"{row['ratio']:.2f}"),
                "yes" if row["same_hardware"] else "NO",
            ]
            for row in comparison.speeds.to_dict("records")
        ]
        columns = ["size · variant", "metric", "this", "other", "other / this", "same hardware"]
        caption = "Benchmarks that both have"
        parts.append(page.table("compared_speeds", columns, rows, caption=caption, data=comparison.speeds))
    if len(comparison.settings):
        rows = [[row["setting"], row["this"], row["other"]] for row in comparison.settings.to_dict("records")]
        caption = "What the two recorded of themselves that differs"
        parts.append(
            page.table(
                "compared_settings", ["setting", "this", "other"], rows, caption=caption, data=comparison.settings
            )
        )
    return section(f"Compared with {comparison.other}", *parts)
