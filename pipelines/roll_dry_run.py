"""`raytrain roll --dry-run`: every stage with its days and its state, without training anything."""

from collections import Counter
from collections.abc import Sequence
from datetime import date

from rich.console import Console
from rich.table import Table

from pipelines.roll_config import REFERENCE, chosen_arms, load_roll
from pipelines.roll_run import last_day
from pipelines.roll_stage import PlannedStage, RollPlan, plan_roll
from pipelines.roll_store import RollStore

TITLES = ("stage", "arm", "first day of rows", "last day", "rows", "from", "snapshots made on", "state")


def show_plan(
    path: str, overrides: Sequence[str], console: Console, first: date | None = None, last: date | None = None, arms: Sequence[str] = ()
) -> None:
    """Prints every stage once, in the order that they would run one after the other, under the first arm that has it."""
    rolls = chosen_arms(load_roll(path, overrides), arms)
    full = rolls[REFERENCE]
    store, states = RollStore(full.directory), Counter[str]()
    table = Table(box=None, pad_edge=False)
    for title in TITLES:
        table.add_column(title, justify="right" if title == "rows" else "left", no_wrap=True)
    shown: set[str] = set()
    for seed in full.all_seeds:
        for name, roll in rolls.items():
            plan = plan_roll(name, roll.with_seed(seed), first, last)
            for planned in plan.stages:
                if planned.name not in shown:
                    shown.add(planned.name)
                    row = _row(planned, plan, f"{name}, seed {seed}" if full.seeds else name, store)
                    states[row[-1].partition(",")[0]] += 1
                    table.add_row(*row)
    # A table that is piped into a file is not cut at 80 columns.
    (console if console.is_terminal else Console(file=console.file, width=180)).print(table)
    console.print(f"{len(shown)} stages: {states['finished']} finished, {states['due']} due", highlight=False)


def _row(planned: PlannedStage, plan: RollPlan, arm: str, store: RollStore) -> tuple[str, ...]:
    span, stage, data = planned.stage.train, planned.stage, planned.job.data
    rows = num_missing = 0
    for number in range((span.stop - span.start).days):
        day = date.fromordinal(span.start.toordinal() + number).isoformat()
        found = [days[day].num_rows for domain in _domains(planned, plan) if day in (days := plan.contract.domains[domain].days)]
        rows += sum(found)
        num_missing += day not in plan.contract.domains[str(data.domain)].days
    state = "finished" if store.is_finished(planned) else "due"
    if state == "due" and num_missing:
        state += f", {num_missing} days missing" + (" are skipped" if data.days is not None and data.days.skip_missing else "")
    months = " ".join(f"{snapshot.day:%Y-%m}" for snapshot in stage.snapshots)
    days_ = (str(span.start), str(last_day(span.stop)))
    return (planned.name, arm, *days_, f"{rows:,}", stage.start.name if stage.start else "-", months or "-", state)


def _domains(planned: PlannedStage, plan: RollPlan) -> tuple[str, ...]:
    """Whose rows the stage trains on."""
    domain = str(planned.job.data.domain)
    return (domain, *(other for other in plan.contract.domains if other != domain and planned.job.data.source_batch_size))
