"""look.json for machines and look.html to read: what ``lcn_look`` found in one run, or in several side by side."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.lcn_look_charts import Bar, bars, legend_of, maps_of
from pipelines.lcn_map import ItemMap
from raytrain.json_text import json_text
from raytrain.storage import Storage
from raytrain.training.figures import FIRST, MUTED, SECOND
from raytrain.training.report import number, render

Numbers = Mapping[str, Any]
Table = dict[str, Any]

_COLOURS = (FIRST, SECOND)
"""Of the runs"""
_RANKINGS = {"after": "after the projection", "after_with_popularity": "after, times popularity", "before": "before, table rows"}
_BASELINES = {"popularity": "by popularity", "random": "at random", "best": "best possible"}
_RECALLS = ("beyond_chance@10", "beyond_chance@50", "co_liked@10", "co_liked@50")
_SPACES = {
    "alignment_beyond_chance": "Squared distance of partners beyond chance",
    "alignment_beyond_chance_independent": "\u2026 of independent pairs of the same items",
    "alignment_co_liked": "Squared distance of co-liked items",
    "alignment_co_liked_independent": "\u2026 of independent pairs of the same items",
    "uniformity_source": "Uniformity, source",
    "uniformity_target": "Uniformity, target",
    "uniformity_both": "Uniformity, both",
    "mmd_squared": "MMD\u00b2 of the domains",
    "mmd_squared_by_chance": "\u2026 of random splits, 95th percentile",
}
_COMPARED = {
    "complete": "complete scope's top {k2}",
    "median": "median scope's top {k2}",
    "handed_on": "complete scope's top {k1}",
    "complete_and_median": "complete against median, top {k2}",
}
_OUTPUTS = {
    "all": "all outputs",
    "complete": "complete scope's alone",
    "median": "median scope's alone",
    "focused": "focused scope's alone",
}


def write_look(storage: Storage, found: Sequence[Numbers], maps: Sequence[Mapping[str, ItemMap]], command: str) -> None:
    """Writes look.json and look.html.

    Args:
        found: what is known of each run. maps: of each run, by source domain. command: that made it, without credentials.
    """
    document = {"command": command, "runs": list(found)}
    storage.write_text("look.json", json_text(document))
    storage.write_text("look.html", page(found, maps, command))


def tags_of(found: Sequence[Numbers]) -> list[str]:
    """A short name for each run, where there are several: "A: ", "B: "."""
    return [f"{chr(ord('A') + index)}: " for index in range(len(found))] if len(found) > 1 else [""]


def page(found: Sequence[Numbers], maps: Sequence[Mapping[str, ItemMap]], command: str) -> str:
    """look.html as text."""
    first = found[0]
    sources = list(first["alignment"])
    return render(
        "look.html.j2",
        title=" beside ".join(one["run"] for one in found),
        dataset=first["dataset"],
        summary=[tag + _summary(one) for tag, one in zip(tags_of(found), found, strict=True)],
        runs=_runs(found),
        domains=[_domain(source, index, found, maps) for index, source in enumerate(sources)],
        consistency=_consistency(found),
        reach=_reach(found),
        planted=_planted(found),
        num_batches=first["num_batches"],
        batch_rows=first["batch_rows"],
        command=command,
    )


def _summary(one: Numbers) -> str:
    parts = []
    for source, aligned in one["alignment"].items():
        recall = {name: aligned["recall"][name]["beyond_chance@50"] for name in ("after", "before", "popularity", "random")}
        if not math.isnan(recall["after"]):
            parts.append(
                f"Of the target's items that go with an item of {source} beyond chance, the 50 nearest hold {recall['after']:.1%} after "
                f"the projection and {recall['before']:.1%} before it; {recall['popularity']:.1%} by popularity, "
                f"{recall['random']:.1%} at random."
            )
    reach = {domain: ways for domain, ways in one["gradient_reach"].items() if "focused" in ways}
    if reach:
        shares = [f"{domain} {ways['all']['events_share']:.1%} ({ways['focused']['events_share']:.1%})" for domain, ways in reach.items()]
        parts.append(
            "Events of a history that the click's gradient reaches, and in brackets through the focused scope's output alone: "
            f"{', '.join(shares)}."
        )
    return " ".join(parts)


def _runs(found: Sequence[Numbers]) -> Table:
    rows = []
    for tag, one in zip(tags_of(found), found, strict=True):
        model = one["model"]
        contrast = model["contrast"]
        rows.append(
            [
                tag + one["run"],
                str(one["seed"]),
                ", ".join(model["outputs"]),
                f"{model['median_events']}, {model['focused_events']}",
                f"{contrast['weight']:g} x {contrast['form']}" if contrast["weight"] else "none",
                number(one["test"]["auc"]),
                number(one["test"]["gauc"]),
            ]
        )
    return {"columns": ["Run", "Seed", "Outputs", "K1, K2", "Contrast", "Test AUC", "Test GAUC"], "rows": rows}


def _domain(source: str, index: int, found: Sequence[Numbers], maps: Sequence[Mapping[str, ItemMap]]) -> dict[str, Any]:
    """Everything between one source and the target."""
    shown = [(tag, one["alignment"][source]) for tag, one in zip(tags_of(found), found, strict=True) if source in one["alignment"]]
    first = shown[0][1]
    rankings: list[tuple[str, str, Mapping[str, float]]] = []
    for position, (tag, aligned) in enumerate(shown):
        recall, colour = aligned["recall"], _COLOURS[position % len(_COLOURS)]
        rankings += [(tag + title, colour, recall[name]) for name, title in _RANKINGS.items() if name in recall]
    rankings += [(title, MUTED, first["recall"][name]) for name, title in _BASELINES.items()]
    charts = []
    for metric, title in (
        ("beyond_chance@50", "Partners beyond chance among the 50 nearest"),
        ("co_liked@50", "Co-liked items among the 50 nearest"),
    ):
        drawn = [Bar(label, values[metric], colour) for label, colour, values in rankings if label != _BASELINES["best"]]
        best = first["recall"]["best"][metric]
        caption = f"Mean over items of {source}; the best possible is {best:.1%}."
        charts.append({"title": title, "caption": caption, "svg": bars(drawn, f"recall-{index}-{metric[:2]}", f"{title}. {caption}")})
    spaces = [
        [title, *(number(aligned["spaces"][space][name]) for _, aligned in shown for space in ("before", "after"))]
        for name, title in _SPACES.items()
    ]
    return {
        "source": source,
        "num_items": " and ".join(f"{count:,} of {domain}" for domain, count in first["num_items"].items()),
        "num_same_items": first["num_same_items"],
        "num_users": first["num_held_out_users"],
        "num_with_partners": first["num_items_with_partners"],
        "num_partners": first["num_partners"],
        "charts": charts,
        "recall": {
            "columns": ["Ranking", "Beyond chance @10", "@50", "Co-liked @10", "@50"],
            "rows": [[label, *(_percent(values[metric]) for metric in _RECALLS)] for label, _, values in rankings],
        },
        "spaces": {
            "columns": ["", *(tag + space for tag, _ in shown for space in ("before", "after"))],
            "rows": spaces,
        },
        "legend": legend_of(next(of_run[source] for of_run in maps if source in of_run), source),
        "maps": [
            chart
            for position, (tag, of_run) in enumerate(zip(tags_of(found), maps, strict=True))
            if source in of_run
            for chart in maps_of(of_run[source], f"map-{index}-{position}", tag)
        ],
    }


def _consistency(found: Sequence[Numbers]) -> dict[str, Any] | None:
    """A chart a history, and a table of all."""
    drawn: dict[str, list[Bar]] = {}
    rows = []
    for position, (tag, one) in enumerate(zip(tags_of(found), found, strict=True)):
        sizes = {"k1": one["model"]["median_events"], "k2": one["model"]["focused_events"]}
        for domain, compared in one["level_consistency"].items():
            for name, title in _COMPARED.items():
                if name in compared:
                    share, chance = compared[name]["share"], compared[name]["chance"]
                    label = title.format(**sizes)
                    shares = (share, chance, compared[name]["rows_left_out_share"])
                    rows.append([f"{tag}{domain}, {label}", *(_percent(value) for value in shares)])
                    drawn.setdefault(domain, []).append(Bar(tag + label, share, _COLOURS[position % len(_COLOURS)], chance))
    if not rows:
        return None
    caption = "Bars: overlap. Mark: as many events drawn at random."
    return {
        "columns": ["History, choice", "Overlap", "At random", "Rows left out"],
        "rows": rows,
        "charts": [
            {"title": f"History of {domain}", "caption": caption, "svg": bars(of_domain, f"consistency-{index}", f"{domain}. {caption}")}
            for index, (domain, of_domain) in enumerate(drawn.items())
        ],
    }


def _reach(found: Sequence[Numbers]) -> Table:
    rows = []
    for tag, one in zip(tags_of(found), found, strict=True):
        for domain, ways in one["gradient_reach"].items():
            for name, title in _OUTPUTS.items():
                if name in ways:
                    outside = ways[name].get("norm_share_outside_focus", math.nan)
                    shares = (ways[name]["events_share"], ways[name]["items_share"], outside)
                    rows.append([f"{tag}{domain}, {title}", *(_percent(share) for share in shares)])
    return {"columns": ["History, outputs", "Events reached", "Items reached", "Gradient outside the focus"], "rows": rows}


def _planted(found: Sequence[Numbers]) -> Table | None:
    ways = list(dict.fromkeys(way for one in found for recall in (one["planted_recall"] or {}).values() for way in recall))
    rows = [
        [tag + domain, *(number(recall.get(way), 3) for way in ways)]
        for tag, one in zip(tags_of(found), found, strict=True)
        for domain, recall in (one["planted_recall"] or {}).items()
    ]
    return {"columns": ["History", *ways], "rows": rows} if rows else None


def _percent(share: float) -> str:
    return "\u2013" if math.isnan(share) else f"{share:.1%}"
