"""The learning curves of a run's report, from the records of metrics.jsonl."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

from raytrain.training.figures import FIRST, GOOD, GRID, MUTED, SECOND, SURFACE, figure, svg
from raytrain.training.gain_report import draw_accepted, draw_gain, draw_surprise, is_judged, is_surprise_known

Records = Sequence[dict[str, Any]]


def charts(records: Records, best_step: int | None) -> list[dict[str, Any]]:
    """title, caption, svg of each chart that the records can fill; [] for a model without steps."""
    train = [record for record in records if record["kind"] == "train"]
    valid = [record for record in records if record["kind"] == "valid"]
    of_amounts = bool(valid) and "norm_gini" in valid[0]
    chosen = next((record for record in valid if record["step"] == best_step), None)
    drawn: list[dict[str, Any]] = []

    def add(name: str, title: str, caption: str, draw: Callable[[Axes], None], marked: bool) -> None:
        made = _axes(draw, chosen["epoch"] if chosen and marked else None)
        drawn.append({"title": title, "caption": caption, "svg": svg(made, name, f"{title}. {caption}")})

    if train:
        add(
            "loss",
            "Loss",
            f"Faint: each logged step. Lines: smoothed training loss{'' if of_amounts else ', and validation'}.",
            lambda axes: _loss(axes, train, () if of_amounts else valid),
            True,
        )
    if valid:
        ranking = {"norm_gini": "Gini", "spearman": "Spearman"} if of_amounts else {"auc": "AUC", "gauc": "GAUC"}
        ratio, meaning = ("total_ratio", "total") if of_amounts else ("pcoc", "observed (PCOC)")
        title = f"Validation {' and '.join(ranking.values())}"
        add("ranking", title, _chosen_caption(chosen, ranking), lambda axes: _ranking(axes, valid, chosen, ranking), True)
        add(
            "pcoc",
            "Calibration on validation",
            f"Predicted over {meaning}; the dashed line is calibrated.",
            lambda axes: _ratio(axes, valid, ratio),
            True,
        )
    gain = [record for record in records if record["kind"] == "gain"]
    if gain and train:
        steps_per_epoch = train[-1]["step"] / train[-1]["epoch"]
    if gain and train and is_judged(gain[-1]):
        caption = "Each line a slice of external rows, by what it is worth to internal ones; red: left out at the end."
        add("gain", "Gain by slice", caption, lambda axes: draw_gain(axes, gain, steps_per_epoch), True)
    if gain and train and is_surprise_known(gain[-1]):
        caption = "How much worse each slice is predicted than unseen internal rows; red: left out at the end."
        add("surprise", "Surprise by slice", caption, lambda axes: draw_surprise(axes, gain, steps_per_epoch), True)
    if gain and train:
        caption = "Share of external rows let into the gain network since the last point; none in warmup."
        add("accepted", "External rows let in", caption, lambda axes: draw_accepted(axes, gain, steps_per_epoch), True)
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
    handles, labels = axes.get_legend_handles_labels()
    style: dict[str, Any] = {"facecolor": SURFACE, "edgecolor": GRID, "framealpha": 0.85, "labelcolor": MUTED, "fontsize": 9}
    if len(labels) > 3:
        # Inside, a long one hides lines.
        made.legend(handles, labels, loc="outside lower center", ncols=2, **style)
    elif len(labels) > 1:
        axes.legend(**style)
    return made


def _chosen_caption(chosen: dict[str, Any] | None, titles: Mapping[str, str]) -> str:
    if chosen is None:
        return "No checkpoint was chosen."
    values = ", ".join(f"{title} {chosen[name]:.4f}" for name, title in titles.items())
    return f"Green, the chosen checkpoint: step {chosen['step']:,}, {values}."


def _loss(axes: Axes, train: Records, valid: Records) -> None:
    # Where a model adds losses of its own, that of the target's labels alone compares with validation.
    own = next((name for name in ("model/click_loss", "model/internal_loss") if name in train[0]), "loss")
    epochs, losses = _column(train, "epoch"), _column(train, own)
    axes.plot(epochs, losses, color=FIRST, alpha=0.3, linewidth=0.9)
    axes.plot(epochs, smoothed(losses, max(1, len(losses) // 40)), color=FIRST, label="training")
    if valid:
        axes.plot(_column(valid, "epoch"), _column(valid, "logloss"), color=SECOND, marker="o", markersize=4, label="validation")
    # The first steps start far up and would flatten all that follows.
    settled = [*losses[len(losses) // 20 :], *_column(valid, "logloss")]
    low, high = float(np.nanmin(settled)), float(np.nanpercentile(settled, 99.5))
    if high > low:
        axes.set_ylim(low - 0.05 * (high - low), high + 0.08 * (high - low))


def _ranking(axes: Axes, valid: Records, chosen: dict[str, Any] | None, titles: Mapping[str, str]) -> None:
    for (name, title), colour in zip(titles.items(), (FIRST, SECOND), strict=True):
        axes.plot(_column(valid, "epoch"), _column(valid, name), color=colour, marker="o", markersize=4, label=title)
        if chosen is not None:
            axes.plot([chosen["epoch"]], [chosen[name]], color=GOOD, marker="o", markersize=9, markerfacecolor="none", markeredgewidth=2)


def _ratio(axes: Axes, valid: Records, name: str) -> None:
    axes.axhline(1.0, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    axes.plot(_column(valid, "epoch"), _column(valid, name), color=FIRST, marker="o", markersize=4)
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
