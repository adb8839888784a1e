"""The gain ledger in a run's report: each slice's gain and what is let in over training, and every slice at the end."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from raytrain.training.figures import BAD, FIRST, INK, MUTED
from raytrain.training.gain_log import last_ledger

Record = Mapping[str, Any]

MAX_ROWS = 60
"""Of the table: who has more slices looks at the worst, and into result.json."""
MAX_NAME = 40
MAX_POINTS = 100
"""Of a line: with two hundred slices, a long run's page would take megabytes."""


def is_judged(ledger: Record) -> bool:
    """Whether a gain is known of any slice; mixing everything estimates none."""
    return any(gain is not None for gain in ledger["gain"])


def is_surprise_known(ledger: Record) -> bool:
    """Whether the ledger keeps slices out for their surprise, and has seen any."""
    return "max_surprise" in ledger and any(surprise is not None for surprise in ledger["surprise"])


def draw_gain(axes: Axes, records: Sequence[Record], steps_per_epoch: float) -> None:
    """A line a slice over epochs, and the thresholds; colours tell what the last record lets in."""
    last, records = records[-1], _thinned(records)
    axes.axhline(0.0, color=MUTED, linewidth=1, linestyle=(0, (1, 2)), label=f"0: {_zero(last)}")
    threshold, entry = last["threshold"], last["entry_threshold"]
    points = [(record["step"] / steps_per_epoch, record["threshold"]) for record in records]
    axes.plot(*zip(*points, strict=True), color=INK, linewidth=1.4, linestyle=(0, (4, 3)), label=f"threshold, {threshold:.3g} at the end")
    if entry != threshold:
        points = [(record["step"] / steps_per_epoch, record["entry_threshold"]) for record in records]
        axes.plot(*zip(*points, strict=True), color=INK, linewidth=1.0, linestyle=(0, (1, 2)), label=f"to get in, {entry:.3g} at the end")
    _draw_slices(axes, records, steps_per_epoch, "gain")


def draw_surprise(axes: Axes, records: Sequence[Record], steps_per_epoch: float) -> None:
    """A line a slice over epochs, and the limit; a slice that is let in keeps what it had."""
    limit = records[-1]["max_surprise"]
    axes.axhline(limit, color=INK, linewidth=1.4, linestyle=(0, (4, 3)), label=f"limit, {limit:g}")
    _draw_slices(axes, _thinned(records), steps_per_epoch, "surprise")


def _thinned(records: Sequence[Record]) -> Sequence[Record]:
    """From the end, so that the last is kept."""
    return records[::-1][:: math.ceil(len(records) / MAX_POINTS)][::-1]


def _draw_slices(axes: Axes, records: Sequence[Record], steps_per_epoch: float, column: str) -> None:
    labels = {True: "let in", False: "left out"}
    values = [dict(zip(record["slice"], record[column], strict=True)) for record in records]
    for number, weight in zip(records[-1]["slice"], records[-1]["weight"], strict=True):
        known = [
            (record["step"] / steps_per_epoch, value[number])
            for record, value in zip(records, values, strict=True)
            if value.get(number) is not None
        ]
        if known:
            # A mark where there are few: one record alone draws no line.
            axes.plot(
                *zip(*known, strict=True),
                color=FIRST if weight >= 0.5 else BAD,
                linewidth=1.0,
                marker="." if len(records) <= MAX_POINTS // 4 else None,
                markersize=3,
                alpha=0.75,
                label=labels.pop(weight >= 0.5, None),
            )


def draw_accepted(axes: Axes, records: Sequence[Record], steps_per_epoch: float) -> None:
    """Share of the external rows that was let in between one record and the next, over epochs."""
    windows = [last_ledger(records[max(0, number - 1) : number + 1]) for number in range(len(records))]
    shares = [
        (window["step"] / steps_per_epoch, sum(window["window_accepted"]) / sum(window["window_volume"]))
        for window in windows
        if sum(window["window_volume"])
    ]
    if shares:
        axes.plot(*zip(*shares, strict=True), color=FIRST, marker="o", markersize=4)
    axes.set_ylim(0, 1.05)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def ledger_table(ledger: Record | None) -> dict[str, Any] | None:
    """titles, rows (cells of text, and whether the slice is let in) worst first, and note; None without a ledger.

    ledger: ``model_logs.gain`` of result.json, with ``name`` of every slice or None.
    """
    if ledger is None:
        return None
    watched = ("watcher_gain",) if "watcher_gain" in ledger else ()
    surprises = ("surprise",) if any(known is not None for known in ledger["surprise"]) else ()
    columns = ("slice", "name", "gain", "volume", "accepted", "window_volume", "window_accepted", "weight", "barred", *watched, *surprises)
    slices = [dict(zip(columns, values, strict=True)) for values in zip(*(ledger[name] for name in columns), strict=True)]
    slices.sort(key=_badness)
    is_share = _is_share(ledger)
    rows = [
        {
            "cells": [
                _name(one),
                _gain(one["gain"], is_share),
                *(_gain(one[column], not is_share) for column in watched),
                *(_gain(one[column], True) for column in surprises),
                f"{one['volume']:,.0f}",
                _share(one["accepted"], one["volume"]),
                _share(one["window_accepted"], one["window_volume"]),
            ],
            "now": "left out, surprising" if one["barred"] else _now(one["weight"]),
            "is_in": one["weight"] >= 0.5,
        }
        for one in slices[:MAX_ROWS]
    ]
    titles = [
        "Slice",
        "Gain",
        *([f"Gain by {ledger['watcher']}"] if watched else []),
        *(["Surprise"] if surprises else []),
        "Rows seen",
        "Let in, all along",
        "Let in, last window",
    ]
    return {"titles": titles, "rows": rows, "note": _note(ledger, len(slices))}


def _badness(one: Record) -> tuple[bool, float]:
    """What surprises first, the most surprising of all; then by gain, the unknown last."""
    if one["barred"]:
        return False, -one["surprise"]
    return True, math.inf if one["gain"] is None else one["gain"]


def _note(ledger: Record, num_listed: int) -> str:
    parts = [f"Slices of external rows, worst first, at step {ledger['step']:,}."]
    shown = min(num_listed, MAX_ROWS)
    if ledger["num_slices"] > shown:
        which = "the" if num_listed == ledger["num_slices"] else f"of the {num_listed:,} largest the"
        parts.append(f"There are {ledger['num_slices']:,}; {which} {shown:,} worst are shown.")
    parts.append(f"{_meaning(ledger)}; {_rule(ledger)}." if is_judged(ledger) else "No gain is known.")
    if ledger["num_barred"]:
        parts.append(
            f"Left out whatever their gain: {ledger['num_barred']:,}, whose surprise is above {ledger['max_surprise']:g}. Surprise: how "
            "much worse the network predicts rows that it does not train on than unseen internal ones with such labels; 0 is as well, "
            "1 is as far off as those are from each other."
        )
    parts.append(
        f"{ledger['num_accepted']:,} of {ledger['num_slices']:,} slices are let in, {ledger['num_hurting']:,} hurt by their gain; "
        f"{ledger['accepted_share']:.1%} of all external rows were let in."
    )
    if "harm" in ledger:
        parts.append(
            f"An external row takes {ledger['harm']:.2f} of what an internal row moves on average"
            + (
                f"; the half of the slices with the better gains still does {ledger['residual_harm']:.0%} of that"
                if ledger["harm"] > 0
                else ""
            )
            + "."
        )
    parts.append(
        "The gain network learns from internal rows and those let in, and is the one that predicts; the vanilla network never sees an "
        "external row, but for what copies of the gain network bring."
    )
    return " ".join(parts)


def _rule(ledger: Record) -> str:
    threshold, entry = ledger["threshold"], ledger["entry_threshold"]
    return f"{entry:.3g} or more is let in" + (f", and stays in down to {threshold:.3g}" if entry != threshold else "")


def _name(one: Record) -> str:
    if one["name"] is None:
        return f"{one['slice']}" if one["slice"] else "unknown (0)"
    name = one["name"] if len(one["name"]) <= MAX_NAME else one["name"][: MAX_NAME - 1] + "\u2026"
    return f"{name} ({one['slice']})"


def _is_share(ledger: Record) -> bool:
    """Of ``ledger`` and ``grad``: gains of other estimators are differences of losses, and tell nothing of purity."""
    return "harm" in ledger


def _zero(ledger: Record) -> str:
    return "as good as an unseen internal row" if _is_share(ledger) else "no change of the loss"


def _meaning(ledger: Record) -> str:
    if not _is_share(ledger):
        return "Gain: by how much the loss on held-out internal rows is lower with the slice than without"
    return (
        "Gain: how far a row moves the network the way internal rows do, as a share of what one of those moves, less what an unseen "
        "internal row with such a label does; 0 is as good as that, and rows that are trained on lie a little below"
    )


def _gain(gain: float | None, is_share: bool) -> str:
    return "\u2013" if gain is None else f"{gain:+.3f}" if is_share else f"{gain:+.1e}"


def _now(weight: float) -> str:
    return {0.0: "left out", 1.0: "let in"}.get(weight, f"counts {weight:.2f}")


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if whole else "\u2013"
