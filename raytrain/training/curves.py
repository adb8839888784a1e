"""The learning curves of a run's report, from the records of metrics.jsonl."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

from raytrain.training.figures import FIRST, GOOD, GRID, MUTED, SECOND, SURFACE, figure, svg

Records = Sequence[dict[str, Any]]


def charts(records: Records, best_step: int | None) -> list[dict[str, Any]]:
    """title, caption, svg of each chart that the records can fill; [] for a model without steps."""
    train = [record for record in records if record["kind"] == "train"]
    valid = [record for record in records if record["kind"] == "valid"]
    chosen = next((record for record in valid if record["step"] == best_step), None)
    drawn: list[dict[str, Any]] = []

    def add(name: str, title: str, caption: str, draw: Callable[[Axes], None], marked: bool) -> None:
        made = _axes(draw, chosen["epoch"] if chosen and marked else None)
        drawn.append({"title": title, "caption": caption, "svg": svg(made, name, f"{title}. {caption}")})

    if train:
        add(
            "loss",
            "Loss",
            "Faint: each logged step. Lines: smoothed training loss, and validation.",
            lambda axes: _loss(axes, train, valid),
            True,
        )
    if valid:
        add("ranking", "Validation AUC and GAUC", _chosen_caption(chosen), lambda axes: _ranking(axes, valid, chosen), True)
        add(
            "pcoc",
            "Calibration on validation",
            "Predicted over observed (PCOC); the dashed line is calibrated.",
            lambda axes: _pcoc(axes, valid),
            True,
        )
    if train:
        add(
            "throughput", "Throughput", "Rows a second over all workers, evaluation left out.", lambda axes: _throughput(axes, train), False
        )
        add(
            "wait",
            "Waiting for data",
            "Share of training time so far that workers waited for rows.",
            lambda axes: _wait(axes, train),
            False,
        )
        add(
            "lr", "Learning rate", "Of the dense network; the tables' rate follows the same schedule.", lambda axes: _lr(axes, train), False
        )
    return drawn


def smoothed(values: Sequence[float], span: int) -> npt.NDArray[np.float64]:
    """Exponential moving mean with a half-life of ``span`` values, corrected for its start: float64, as long as ``values``."""
    keep = 0.5 ** (1 / span)
    total = weight = 0.0
    out = np.empty(len(values))
    for index, value in enumerate(values):
        total, weight = keep * total + value, keep * weight + 1
        out[index] = total / weight
    return out


def _axes(draw: Callable[[Axes], None], chosen_epoch: float | None) -> Figure:
    made = figure()
    axes = made.axes[0]
    if chosen_epoch is not None:
        axes.axvline(chosen_epoch, color=GOOD, linewidth=1.2, linestyle=(0, (3, 2)))
    draw(axes)
    axes.set_xlabel("epoch")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if len(axes.get_legend_handles_labels()[1]) > 1:
        axes.legend(frameon=True, facecolor=SURFACE, edgecolor=GRID, framealpha=0.85, labelcolor=MUTED, fontsize=9)
    return made


def _chosen_caption(chosen: dict[str, Any] | None) -> str:
    if chosen is None:
        return "No checkpoint was chosen."
    return f"Green, the chosen checkpoint: step {chosen['step']:,}, AUC {chosen['auc']:.4f}, GAUC {chosen['gauc']:.4f}."


def _loss(axes: Axes, train: Records, valid: Records) -> None:
    # Where a model adds losses of its own, the click's alone compares with validation.
    epochs, losses = _column(train, "epoch"), _column(train, "model/click_loss" if "model/click_loss" in train[0] else "loss")
    axes.plot(epochs, losses, color=FIRST, alpha=0.3, linewidth=0.9)
    axes.plot(epochs, smoothed(losses, max(1, len(losses) // 40)), color=FIRST, label="training")
    if valid:
        axes.plot(_column(valid, "epoch"), _column(valid, "logloss"), color=SECOND, marker="o", markersize=4, label="validation")
    # The first steps start far up and would flatten all that follows.
    settled = [*losses[len(losses) // 20 :], *_column(valid, "logloss")]
    low, high = float(np.nanmin(settled)), float(np.nanpercentile(settled, 99.5))
    if high > low:
        axes.set_ylim(low - 0.05 * (high - low), high + 0.08 * (high - low))


def _ranking(axes: Axes, valid: Records, chosen: dict[str, Any] | None) -> None:
    for name, title, colour in (("auc", "AUC", FIRST), ("gauc", "GAUC", SECOND)):
        axes.plot(_column(valid, "epoch"), _column(valid, name), color=colour, marker="o", markersize=4, label=title)
        if chosen is not None:
            axes.plot([chosen["epoch"]], [chosen[name]], color=GOOD, marker="o", markersize=9, markerfacecolor="none", markeredgewidth=2)


def _pcoc(axes: Axes, valid: Records) -> None:
    axes.axhline(1.0, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    axes.plot(_column(valid, "epoch"), _column(valid, "pcoc"), color=FIRST, marker="o", markersize=4)
    # Never zoomed in on noise around 1.
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0.95), max(high, 1.05))


def _throughput(axes: Axes, train: Records) -> None:
    axes.plot(_column(train, "epoch"), _column(train, "samples_per_s"), color=FIRST)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def _wait(axes: Axes, train: Records) -> None:
    shares = _column(train, "data_wait_share")
    axes.plot(_column(train, "epoch"), shares, color=FIRST)
    axes.set_ylim(0, max(0.1, 1.15 * max(shares)))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def _lr(axes: Axes, train: Records) -> None:
    axes.plot(_column(train, "epoch"), _column(train, "lr"), color=FIRST)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:.2g}"))


def _column(records: Records, name: str) -> list[float]:
    return [float(record[name]) for record in records]
