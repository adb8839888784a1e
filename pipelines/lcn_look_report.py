"""look.json for machines and look.html to read: what ``lcn_look`` found in one run, or in several side by side."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.lcn_look_charts import Bar, bars, legend_of, maps_of
from pipelines.lcn_map import ItemMap
from raytrain.storage import Storage
from raytrain.training.figures import FIRST, MUTED, SECOND
from raytrain.training.report import number, render

Numbers = Mapping[str, Any]
Table = dict[str, Any]

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
_OUTPUTS = {"all": "all outputs", "complete": "complete scope's alone", "median": "median scope's alone", "focused": "focused scope's alone"}


def write_look(storage: Storage, found: Sequence[Numbers], maps: Sequence[Mapping[str, ItemMap]], command: str) -> None:
    """Writes look.json and look.html.

    Args:
        found: what is known of each run. maps: of each run, by source domain. command: that made it, without credentials.
    """
    document = {"command": command, "runs": [_without_nan(one) for one in found]}
    storage.write_text("look.json", json.dumps(document, indent=2, allow_nan=False) + "\n")
    storage.write_text("look.html", page(found, maps, command))


def page(found: Sequence[Numbers], maps: Sequence[Mapping[str, ItemMap]], command: str) -> str:
    """look.html as text."""
    first = found[0]
    sources = list(first["alignment"])
    return render(
        "look.html.j2",
        title=" beside ".join(one["run"] for one in found),
        dataset=first["dataset"],
        summary=[_summary(one) for one in found],
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
                f"Of the target's items that go with an item of {source} beyond chance, the 50 nearest hold {recall['after']:.1%} after the "
                f"projection and {recall['before']:.1%} before it ({recall['popularity']:.1%} by popularity, {recall['random']:.1%} at random)."
            )
    for domain, reach in one["gradient_reach"].items():
        if "focused" in reach and len(reach) > 2:
            parts.append(
                f"The click's gradient reaches {reach['all']['events_share']:.1%} of the {domain} history's events, "
                f"{reach['focused']['events_share']:.1%} through the focused scope's output alone."
            )
    return " ".join(parts)


def _runs(found: Sequence[Numbers]) -> Table:
    rows = []
    for one in found:
        model = one["model"]
        contrast = model["contrast"]
        rows.append(
            [
                one["run"],
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
    shown = [one for one in found if source in one["alignment"]]
    several, first = len(found) > 1, shown[0]["alignment"][source]
    rankings: list[tuple[str, str, Mapping[str, float], bool]] = []
    for one in shown:
        recall = one["alignment"][source]["recall"]
        run = f"{one['run']}: " if several else ""
        rankings += [(run + title, FIRST, recall[name], True) for name, title in _RANKINGS.items() if name in recall]
    rankings += [(title, MUTED, first["recall"][name], False) for name, title in _BASELINES.items()]
    charts = []
    for metric, title in (("beyond_chance@50", "Partners beyond chance among the 50 nearest"), ("co_liked@50", "Co-liked items among them")):
        drawn = [Bar(label, values[metric], colour) for label, colour, values, _ in rankings if label != _BASELINES["best"]]
        best = first["recall"]["best"][metric]
        caption = f"Mean over items of {source}; the best possible is {best:.1%}."
        charts.append({"title": title, "caption": caption, "svg": bars(drawn, f"recall-{index}-{metric[:2]}", f"{title}. {caption}")})
    spaces = [
        [title, *(number(one["alignment"][source]["spaces"][space][name]) for one in shown for space in ("before", "after"))]
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
            "rows": [[label, *(_percent(values[metric]) for metric in _RECALLS)] for label, _, values, _ in rankings],
        },
        "spaces": {
            "columns": ["", *(f"{one['run']}: {space}" if several else space for one in shown for space in ("before", "after"))],
            "rows": spaces,
        },
        "legend": legend_of(maps[0][source], source),
        "maps": [
            chart
            for number_of_run, (one, of_run) in enumerate(zip(found, maps, strict=True))
            if source in of_run
            for chart in maps_of(of_run[source], f"map-{index}-{number_of_run}", one["run"] if several else "")
        ],
    }


def _consistency(found: Sequence[Numbers]) -> dict[str, Any] | None:
    drawn, rows = [], []
    several = len(found) > 1
    for position, one in enumerate(found):
        sizes = {"k1": one["model"]["median_events"], "k2": one["model"]["focused_events"]}
        for domain, compared in one["level_consistency"].items():
            for name, title in _COMPARED.items():
                if name in compared:
                    share, chance = compared[name]["share"], compared[name]["chance"]
                    label = f"{domain}, {title.format(**sizes)}"
                    run = [one["run"]] if several else []
                    rows.append([*run, label, _percent(share), _percent(chance), _percent(compared[name]["rows_left_out_share"])])
                    of_run = f"{one['run']}: " if several else ""
                    drawn.append(Bar(of_run + label, share, (FIRST, SECOND)[position % 2], chance))
    if not rows:
        return None
    title, caption = "Overlap of the levels", "Bars: share of the events. Mark: as many drawn at random."
    return {
        "columns": [*(["Run"] if several else []), "History, choice", "Overlap", "At random", "Rows left out"],
        "rows": rows,
        "chart": {"title": title, "caption": caption, "svg": bars(drawn, "consistency", f"{title}. {caption}")},
    }


def _reach(found: Sequence[Numbers]) -> Table:
    several, rows = len(found) > 1, []
    for one in found:
        for domain, ways in one["gradient_reach"].items():
            for name, title in _OUTPUTS.items():
                if name in ways:
                    run = [one["run"]] if several else []
                    outside = ways[name].get("norm_share_outside_focus", math.nan)
                    shares = (ways[name]["events_share"], ways[name]["items_share"], outside)
                    rows.append([*run, f"{domain}, {title}", *(_percent(share) for share in shares)])
    columns = ["History, outputs", "Events reached", "Items reached", "Gradient outside the focus"]
    return {"columns": [*(["Run"] if several else []), *columns], "rows": rows}


def _planted(found: Sequence[Numbers]) -> Table | None:
    ways = list(dict.fromkeys(way for one in found for recall in (one["planted_recall"] or {}).values() for way in recall))
    rows = [
        [f"{one['run']}, {domain}" if len(found) > 1 else domain, *(number(recall.get(way), 3) for way in ways)]
        for one in found
        for domain, recall in (one["planted_recall"] or {}).items()
    ]
    return {"columns": ["History", *ways], "rows": rows} if rows else None


def _percent(share: float) -> str:
    return "\u2013" if math.isnan(share) else f"{share:.1%}"


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: what is undefined is null."""
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
