"""Write the tables of metrics in README.md and docs/metrics.md from the facts on the classes.

    python docs/make_metrics_table.py

The tests compare what stands in the two files with what this script would write.
"""

import inspect
import math
from pathlib import Path

from regsim.metrics import REGISTRY, AbstractMetric

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- begin: metrics, written by docs/make_metrics_table.py -->", "<!-- end: metrics -->"
SHORT = ("name", "compares", "better", "range", "map", "two contrasts")
LONG = (*SHORT, "unit", "symmetric", "gradient", "settings")


def facts(metric: type[AbstractMetric]) -> dict[str, str]:
    """What a row of the tables says about one metric."""
    return {
        "name": f"`{metric.name}`",
        "compares": first_sentence(metric),
        "better": "higher" if metric.higher_is_better else "lower",
        "range": value_range(metric),
        "map": yes(metric.has_map),
        "two contrasts": yes(metric.multimodal),
        "unit": metric.unit or "none",
        "symmetric": yes(metric.symmetric),
        "gradient": yes(metric.differentiable),
        "settings": settings(metric),
    }


def yes(fact: bool) -> str:
    """A fact as a word that can be found by eye."""
    return "yes" if fact else "no"


def first_sentence(metric: type[AbstractMetric]) -> str:
    """The docstring up to its first full stop."""
    paragraph = " ".join((inspect.getdoc(metric) or "").split("\n\n")[0].split())
    return paragraph.rstrip(".")


def value_range(metric: type[AbstractMetric]) -> str:
    """`[0, 1]`, or `[0, inf)` where an end is never reached."""
    low, high = metric.value_range
    left = "(-inf" if math.isinf(low) else f"[{low:g}"
    right = "inf)" if math.isinf(high) else f"{high:g}]"
    return f"{left}, {right}"


def settings(metric: type[AbstractMetric]) -> str:
    """The names and defaults that `NAME:setting=value` takes."""
    own = [p for p in inspect.signature(metric).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    return ", ".join(f"`{setting.name}={_plain(setting.default)}`" for setting in own) or "none"


def _plain(value: object) -> str:
    return "none" if value is None else str(value)


def table(columns: tuple[str, ...]) -> str:
    """A Markdown table, one row a metric."""
    rows = [facts(REGISTRY[name]) for name in sorted(REGISTRY)]
    lines = [columns, ("---",) * len(columns), *[tuple(row[column] for column in columns) for row in rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def rewritten(text: str, columns: tuple[str, ...]) -> str:
    """The page with its table as the registry has it now."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table(columns)}\n{END}{after}"


PAGES = {ROOT / "README.md": SHORT, ROOT / "docs" / "metrics.md": LONG}

if __name__ == "__main__":
    for page, columns in PAGES.items():
        page.write_text(rewritten(page.read_text(encoding="utf-8"), columns), encoding="utf-8")
