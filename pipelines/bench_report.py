"""What a bench found: a table on the screen, bench.json for machines, bench.md to quote, bench.png to show."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

Record = dict[str, Any]

_COLUMNS = {
    "stage": "stage",
    "table rows": "rows of all tables; none is the config as it is",
    "samples/s": "median over rounds, and half the way from the smallest to the largest",
    "of compute": "share of the rate of compute in the same round",
    "of smallest": "share of its own rate at the smallest tables in the same round",
    "wait": "time waited for data, the first batch left out, over the time of all steps",
    "start": "seconds from launch to the end of the first step",
    "RSS MiB": "peak of the largest worker; compute holds its batches in memory",
    "tables MiB": "weights held by the worker that holds most, and its share of all",
}


def write_json(directory: Path, result: Record) -> None:
    """bench.json, moved into place whole, so that a bench that is stopped leaves what it has measured."""
    part = directory / "bench.json.part"
    part.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")
    part.replace(directory / "bench.json")


def write_report(directory: Path, result: Record) -> None:
    """bench.md and bench.png."""
    (directory / "bench.md").write_text(markdown(result))
    draw(result["summary"]).savefig(directory / "bench.png", dpi=150)


def print_report(result: Record, console: Console) -> None:
    """A table of the config as it is and one of the sweep over table sizes, each within 80 columns."""
    console.print(_title(result), highlight=False, style="italic")
    for swept in (False, True):
        lines = [line for line in result["summary"] if (line["table_rows"] is not None) == swept]
        if not lines:
            continue
        shown = [name for name in _shown(lines) if not (swept and name == "start")]
        table = Table(box=SIMPLE_HEAD)
        for name in shown:
            table.add_column(name, justify="left" if name == "stage" else "right", overflow="fold")
        for line in lines:
            cells = _cells(line)
            table.add_row(*(cells[name] for name in shown))
        console.print(table)


def markdown(result: Record) -> str:
    """The table with the command, the machine and the versions it was measured on."""
    machine, shown = result["machine"], _shown(result["summary"])
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    rows = [_cells(line) for line in result["summary"]]
    lines = [
        "```",
        result["command"],
        "```",
        "",
        f"{_title(result)}. {result['started']}, {machine['cpus']} cores ({machine['processor']}), {machine['memory_gib']:.0f} GiB, "
        f"load {machine['load']:.1f} at the start; {versions}.",
        "",
        "| " + " | ".join(shown) + " |",
        "|---" + "|---:" * (len(shown) - 1) + "|",
        *("| " + " | ".join(row[name] for name in shown) + " |" for row in rows),
        "",
        "compute trains on batches held in memory, parquet reads and trains in one process without Ray, rayN is `raytrain train` with "
        "N workers.",
        "",
        *(f"- {name}: {_COLUMNS[name]}" for name in shown if name != "stage"),
        *(f"\nFailed: {failed['stage']}, round {failed['round']}: {failed['error'].splitlines()[0]}" for failed in result["failed"]),
    ]
    return "\n".join(lines) + "\n"


def draw(summary: Sequence[Record]) -> Figure:
    """Samples a second of every stage as bars with their spread, and of the sweep as lines over table rows."""
    plain = [line for line in summary if line["table_rows"] is None]
    swept = [line for line in summary if line["table_rows"] is not None]
    figure = Figure(figsize=(9.0 if plain and swept else 4.8, 3.2), layout="constrained")
    panels = list(figure.subplots(1, bool(plain) + bool(swept), squeeze=False)[0])
    if plain:
        axes = panels.pop(0)
        rates = [line["samples_per_s"] for line in plain]
        spread = [[rate["median"] - rate["min"] for rate in rates], [rate["max"] - rate["median"] for rate in rates]]
        bars = axes.bar([line["stage"] for line in plain], [rate["median"] for rate in rates], yerr=spread, color="#3b6ea5", capsize=4)
        axes.bar_label(bars, fmt="{:,.0f}", padding=3, fontsize=8)
        axes.set_ylabel("samples/s")
        axes.margins(y=0.15)
    for axes in panels:
        for stage in dict.fromkeys(line["stage"] for line in swept):
            lines = [line for line in swept if line["stage"] == stage]
            axes.plot([line["table_rows"] for line in lines], [line["samples_per_s"]["median"] for line in lines], marker="o", label=stage)
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("rows of all tables")
        axes.set_ylabel("samples/s")
        axes.legend(frameon=False)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _title(result: Record) -> str:
    config, num_measured = result["config"], result["num_steps"] - result["num_warmup_steps"]
    return (
        f"{config['model']['name']} on {result['dataset']}: batch {result['batch_size']:,}, {num_measured:,} "
        f"steps a round after {result['num_warmup_steps']:,} to warm up, {result['num_threads']} thread(s) a worker"
    )


def _shown(lines: Sequence[Record]) -> list[str]:
    """Columns that have something to say in these lines."""
    swept = any(line["table_rows"] is not None for line in lines)
    compared = any(line["of_compute"] is not None for line in lines)
    absent = {"table rows": not swept, "of smallest": not swept, "of compute": not compared}
    return [name for name in _COLUMNS if not absent.get(name)]


def _cells(line: Record) -> dict[str, str]:
    tables = line["table_mib"]
    return {
        "stage": line["stage"],
        "table rows": "" if line["table_rows"] is None else f"{line['table_rows']:,}",
        "samples/s": _spread(line["samples_per_s"], ",.0f"),
        "of compute": _spread(line["of_compute"], ".2f"),
        "of smallest": _spread(line["of_smallest_tables"], ".2f"),
        "wait": f"{line['data_wait_share']['median']:.1%}",
        "start": f"{line['startup_s']['median']:.1f}",
        "RSS MiB": f"{line['peak_rss_mib']:,.0f}",
        "tables MiB": f"{max(tables):,.1f}" + (f" ({line['largest_table_share']:.0%})" if len(tables) > 1 else ""),
    }


def _spread(spread: Record | None, form: str) -> str:
    if spread is None:
        return ""
    half = (spread["max"] - spread["min"]) / 2
    return f"{spread['median']:{form}}" + (f" \u00b1 {half:{form}}" if half else "")
