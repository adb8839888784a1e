"""A study's arms by length of history, as text and as one chart a domain."""

from collections.abc import Mapping, Sequence
from typing import Any

from raytrain.metrics.order import HIGHER_IS_BETTER
from raytrain.training.figures import FIRST, GOOD, INK, MUTED, SECOND, SURFACE, figure, svg
from raytrain.training.report import METRIC_TITLES, best_of, number, signed

Result = Mapping[str, Any]

_SERIES = ((FIRST, "o"), (SECOND, "s"), (GOOD, "^"), (INK, "D"))
"""Comparisons in one chart: with more, nobody tells whiskers apart."""
_LEAST_SHARE = 0.02
"""Of the rows, for a bucket to set the chart's scale: a bucket of a hundred rows has whiskers as long as all others together."""


def history_note() -> str:
    """What a bucket is, in words."""
    return (
        "Test rows by how many events their user has in that domain's history before the row's time, whatever an arm reads of them. "
        "Arms: mean over seeds. Differences: A less B with the 95 % interval over the users who have rows in the bucket; a user can "
        "be in several. GAUC counts users with both labels inside the bucket. "
        "Green (A better) or red where the interval leaves out 0; of so many, some do so by chance."
    )


def history_table(result: Result, domain: str, order: Sequence[str]) -> dict[str, Any]:
    """titles (bucket, rows, users), pairs and arms: rows of name, metric and a cell a bucket (text, detail, mark)."""
    buckets, metrics = result["by_history"]["domains"][domain], result["by_history"]["metrics"]
    found = [{(one["a"], one["b"], one["metric"]): one for one in bucket["comparisons"]} for bucket in buckets]
    pairs = [
        {
            "name": f"{a} \u2212 {b}",
            "metric": METRIC_TITLES[metric],
            "cells": [_pair_cell(of_bucket.get((a, b, metric))) for of_bucket in found],
        }
        for a, b in dict.fromkeys((one["a"], one["b"]) for one in result["comparisons"])
        for metric in metrics
    ]
    names = [name for name in order if name in buckets[0]["arms"]]
    best = [[best_of(metric, [bucket["arms"][name][metric] for name in names]) for metric in metrics] for bucket in buckets]
    arms = [
        {
            "name": name,
            "metric": METRIC_TITLES[metric],
            "cells": [
                {"text": number(bucket["arms"][name][metric]), "detail": "", "mark": "best" if of_bucket[index] == position else ""}
                for bucket, of_bucket in zip(buckets, best, strict=True)
            ],
        }
        for position, name in enumerate(names)
        for index, metric in enumerate(metrics)
    ]
    titles = [(bucket_name(bucket), f"{bucket['num_rows']:,} rows", f"{bucket['num_users']:,} users") for bucket in buckets]
    return {"domain": domain, "titles": titles, "pairs": pairs, "arms": arms}


def history_markdown(result: Result, domain: str, order: Sequence[str]) -> list[list[list[str]]]:
    """The tables of one domain, titles first: differences where there are any, then arms."""
    table = history_table(result, domain, order)
    heads = [f"{name} ({num_rows}, {num_users})" for name, num_rows, num_users in table["titles"]]
    made = []
    for what, rows in (("A less B", table["pairs"]), ("Arm", table["arms"])):
        lines = [
            [
                row["name"],
                row["metric"],
                *(
                    f"**{cell['text']}**"
                    if cell["mark"] == "best"
                    else " ".join(filter(None, (cell["text"], cell["detail"], cell["mark"])))
                    for cell in row["cells"]
                ),
            ]
            for row in rows
        ]
        if lines:
            made.append([[f"{what}, by events in the {domain} history", "Metric", *heads], *lines])
    return made


def history_chart(result: Result, domain: str) -> dict[str, Any] | None:
    """The first metric's differences over buckets; None where nothing was compared."""
    buckets, metric = result["by_history"]["domains"][domain], result["by_history"]["metrics"][0]
    pairs = list(dict.fromkeys((one["a"], one["b"]) for bucket in buckets for one in bucket["comparisons"] if one["low"] is not None))
    drawn = pairs[: len(_SERIES)]
    if not drawn:
        return None
    made = figure(5.6, 3.4)
    axes = made.axes[0]
    axes.axhline(0, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    for index, ((a, b), (colour, marker)) in enumerate(zip(drawn, _SERIES, strict=False)):
        aside = 0.16 * (index - (len(drawn) - 1) / 2)
        label: str | None = f"{a} \u2212 {b}"
        for place, bucket in enumerate(buckets):
            found = [one for one in bucket["comparisons"] if (one["a"], one["b"], one["metric"]) == (a, b, metric)]
            for one in found:
                if one["low"] is None:
                    continue
                axes.plot([place + aside] * 2, [one["low"], one["high"]], color=colour, linewidth=1.8)
                fill = SURFACE if one["verdict"] == "undecided" else colour
                axes.plot(
                    [place + aside],
                    [one["difference"]],
                    color=colour,
                    marker=marker,
                    markersize=6,
                    markerfacecolor=fill,
                    linestyle="none",
                    label=label,
                )
                label = None  # One entry of the legend a pair.
    num_rows = sum(bucket["num_rows"] for bucket in buckets)
    scaling = [
        one[end]
        for bucket in buckets
        for one in bucket["comparisons"]
        for end in ("low", "high")
        if bucket["num_rows"] >= _LEAST_SHARE * num_rows
        and one["metric"] == metric
        and (one["a"], one["b"]) in drawn
        and one[end] is not None
    ]
    if scaling:
        least, most = min(0.0, *scaling), max(0.0, *scaling)
        axes.set_ylim(least - 0.1 * (most - least), most + 0.3 * (most - least))  # The legend stands above.
    axes.set_xticks(range(len(buckets)), [f"{bucket_name(bucket)}\n{_thousands(bucket['num_rows'])}" for bucket in buckets])
    axes.set_xlim(-0.5, len(buckets) - 0.5)
    axes.set_xlabel(f"events in the {domain} history (below: test rows)")
    axes.set_ylabel(f"difference in {METRIC_TITLES[metric]} (up: A is better)")
    if not HIGHER_IS_BETTER[metric]:
        axes.invert_yaxis()
    axes.legend(frameon=False, fontsize=8.5, loc="upper center", ncols=2)
    title = f"Difference in {METRIC_TITLES[metric]} by length of the {domain} history"
    caption = "Whisker: 95 % interval; hollow where it includes 0."
    if any(0 < bucket["num_rows"] < _LEAST_SHARE * num_rows for bucket in buckets):
        caption += f" Those of buckets with less than {_LEAST_SHARE:.0%} of the rows may be cut off."
    if len(pairs) > len(drawn):
        caption += f" The first {len(drawn)} of {len(pairs)} comparisons."
    return {"title": title, "caption": caption, "svg": svg(made, f"history-{domain}", f"{title}. {caption}")}


def bucket_name(bucket: Mapping[str, Any]) -> str:
    """0, 1-19, 20 or more."""
    first, last = bucket["first"], bucket["last"]
    if last is None:
        return f"{first:,}+"
    return f"{first:,}" if first == last else f"{first:,}\u2013{last:,}"


def _pair_cell(found: Mapping[str, Any] | None) -> dict[str, str]:
    if found is None:
        return {"text": "\u2013", "detail": "", "mark": ""}
    interval = "" if found["low"] is None else f"[{signed(found['low'])}, {signed(found['high'])}]"
    return {"text": signed(found["difference"]), "detail": interval, "mark": found["verdict"]}


def _thousands(count: int) -> str:
    return f"{count / 1000:.1f}k" if count >= 1000 else str(count)
