"""Looks inside finished LCN runs: alignment of the domains, agreement of the levels, reach of the gradient, planted truth.

    python -m pipelines.lcn_look runs/lcn
    python -m pipelines.lcn_look runs/lcn runs/lcn_without_contrast --output runs/compared

Writes look.json and look.html into the first run's directory, or into --output.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from pipelines.lcn_alignment import alignment_numbers, partner_recall, rankings, vectors_of
from pipelines.lcn_consistency import level_consistency
from pipelines.lcn_gradient_reach import gradient_reach
from pipelines.lcn_look_report import write_look
from pipelines.lcn_map import ItemMap, item_map
from pipelines.lcn_partners import item_slice, partners_of_run
from pipelines.lcn_recall import planted_recall
from pipelines.lcn_run import LcnRun, open_lcn
from raytrain.data.planted import TRUTH_FILE
from raytrain.errors import RaytrainError, RunError
from raytrain.run import read_result
from raytrain.storage import Storage, masked

Numbers = dict[str, Any]


@dataclass(frozen=True)
class Look:
    """One run, looked at."""

    numbers: Numbers
    """What look.json holds of it"""
    maps: dict[str, ItemMap] = field(default_factory=dict)
    """source domain -> its items beside the target's"""


def look_inside(run: str, num_batches: int = 8, max_items: int = 4_000, max_points: int = 2_000) -> Look:
    """Everything there is to see in a run's best checkpoint.

    Args:
        num_batches: of validation rows, for levels and planted truth; gradients are of one training batch. max_items: the most
            popular of each domain that are compared. max_points: items on the map, both domains together.

    Raises:
        RunError: there is no run, it did not finish, or its model is not LCN.
    """
    opened = open_lcn(run)
    aligned = {source: _alignment(opened, source, max_items, max_points) for source in opened.sources}
    numbers: Numbers = {
        "run": masked(opened.storage.uri).rpartition("/")[2],
        "dataset": opened.contract.dataset,
        "content_hash": opened.contract.content_hash,
        "seed": opened.job.seed,
        "model": opened.model.model_dump(mode="json"),
        "test": read_result(run)["test"][opened.contract.target],
        "num_batches": num_batches,
        "batch_rows": opened.job.data.batch_size,
        "alignment": {source: found for source, (found, _) in aligned.items()},
        "level_consistency": level_consistency(opened.learner, opened.batches("valid", num_batches, shuffle=True)),
        "gradient_reach": gradient_reach(opened.learner, opened.batches("train", 1, shuffle=True)),
        "planted_recall": planted_recall(opened, num_batches) if Storage(opened.job.data.path).exists(TRUTH_FILE) else None,
    }
    return Look(numbers, {source: points for source, (_, points) in aligned.items()})


def _alignment(opened: LcnRun, source: str, max_items: int, max_points: int) -> tuple[Numbers, ItemMap]:
    found = partners_of_run(opened, source, max_items)
    vectors = vectors_of(opened, source, found)
    table = opened.contract.tables[opened.item_table]
    points = item_map(vectors, found, max_points, item_slice(opened, table.num_rows))
    return {
        "num_items": {source: len(found.source.items), opened.contract.target: len(found.target.items)},
        "num_same_items": int(found.is_same_item.sum()),
        "num_held_out_users": found.num_users,
        "num_items_with_partners": int(found.is_beyond_chance.any(1).sum()),
        "num_partners": int(found.is_beyond_chance.sum()),
        "recall": partner_recall(rankings(opened, vectors, found), found),
        "spaces": {name: alignment_numbers(space, found) for name, space in vectors.items()},
    }, points


def check_comparable(looks: list[Look]) -> None:
    """Raises RunError unless all are of the same data, with the same events counted as liked."""
    keys = {(look.numbers["content_hash"], str(look.numbers["model"]["contrast"]["pair_side"])) for look in looks}
    if len(keys) > 1:
        raise RunError(
            "Runs stand beside each other when they are of one data set and one model.contrast.pair_side. "
            f"Received: {', '.join(look.numbers['run'] for look in looks)}. Look at them one by one."
        )


def main(
    runs: list[str],
    batches: Annotated[int, typer.Option(help="Validation batches that the levels are compared on.")] = 8,
    output: Annotated[str | None, typer.Option(help="Directory for look.json and look.html; else the first run's.")] = None,
) -> None:
    try:
        looks = [look_inside(run, batches) for run in runs]
        check_comparable(looks)
    except RaytrainError as err:
        typer.echo(f"error: {err}", err=True)
        raise typer.Exit(2) from None
    storage = Storage(output or runs[0])
    write_look(storage, [look.numbers for look in looks], [look.maps for look in looks], _command(runs, batches))
    typer.echo(f"wrote {storage.join('look.json')} and {storage.join('look.html')}")


def _command(runs: list[str], batches: int) -> str:
    return masked(f"python -m pipelines.lcn_look {' '.join(runs)} --batches {batches}")


if __name__ == "__main__":
    typer.run(main)
