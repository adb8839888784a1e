"""`raytrain roll ROLL.yaml`: the monthly, weekly and daily models of a span of days, each trained once.

    raytrain roll pipelines/rolls/complete_journey.yaml --dry-run
    raytrain roll pipelines/rolls/complete_journey.yaml --from 2017-08-07 --to 2017-08-13

The same command goes on where it was ended: a finished stage is kept, an interrupted one resumes from its cursor. Every stage is a run
of its own under ``<output>/stages/``, and can be scored like any other.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, timedelta
from typing import Any

from rich.console import Console

from pipelines.roll_config import REFERENCE, Roll, chosen_arms, load_roll
from pipelines.roll_lease import Lease
from pipelines.roll_report import write_roll_report
from pipelines.roll_run import Outcome, RollRunner, states, widest
from pipelines.roll_scores import score_late_days
from pipelines.roll_stage import PlannedStage, RollPlan, plan_roll
from pipelines.roll_store import RollStore
from pipelines.runs import OwnProcess, Runs, Train
from raytrain.config import JobConfig
from raytrain.storage import masked


def run_roll(
    path: str,
    overrides: Sequence[str],
    console: Console,
    first: date | None = None,
    last: date | None = None,
    arms: Sequence[str] = (),
    train: Train | None = None,
) -> dict[str, Any]:
    """Trains what is due and writes roll.json and roll.html.

    Args:
        first, last: days to serve, both included; None takes the calendar's.
        arms: of the file, beside the chain itself; none takes all of them.
        train: trains one stage after the other; ``raytrain.run.train`` when None, several at one time where there is room.

    Returns:
        The content of roll.json. Stages that failed, or were left out for it, are listed under ``failed``.

    Raises:
        ConfigError, ContractError: the file, or the data set, is not right; nothing has been run then.
        RunError: another roll works in this directory.
    """
    rolls = chosen_arms(load_roll(path, overrides), arms)
    full = rolls[REFERENCE]
    seeded = {(name, seed): roll.with_seed(seed) for seed in full.all_seeds for name, roll in rolls.items()}
    plans = {key: plan_roll(key[0], roll, first, last) for key, roll in seeded.items()}
    chain = plans[REFERENCE, full.all_seeds[0]]
    store = RollStore(full.directory)
    started = time.monotonic()
    with Lease(store.storage) as lease:
        due = {planned.name: planned for plan in plans.values() for planned in plan.stages if not store.is_finished(planned)}
        with _runs(list(due.values()), full.max_concurrent, train, console) as runs:
            runner = RollRunner(store, chain.contract, console, runs)
            for (name, seed), plan in plans.items():
                console.print(_announced(name, seed if full.seeds else None, plan, store), highlight=False)
            runner.run(plans.values(), lease)
            outcomes = {key: runner.of(plan) for key, plan in plans.items()}
            broken = {key: found for key in plans if (found := _weekly_failures(seeded[key], outcomes[key]))}
            for key, found in broken.items():
                days = [outcome.planned.stage.day for outcome in found]
                console.print(f"arm {key[0]}: {', '.join(map(str, days))} are served from the weekly models before", style="yellow")
                again = plan_roll(key[0], seeded[key], first, last, days)
                runner.run([again], lease)
                outcomes[key] = [*runner.of(again), *found]
        every = {outcome.planned.name: outcome for found in outcomes.values() for outcome in found}
        score_late_days(store, chain.contract, list(every.values()), console)
        lease.check()
        arms_of = {name: [outcomes[name, seed] for seed in full.all_seeds] for name in rolls}
        result = write_roll_report(store, full, chain, arms_of, console)
    for month in result["known_users"]:
        console.print(
            f"{month['month']}: {month['num_rows']:,} rows served, the user known to the newest snapshot in {month['newest']:.0%}, to any "
            f"that the model reads in {month['any']:.0%}",
            highlight=False,
        )
    # Days that were served otherwise after all are not left out.
    counts = states(list(every.values()))
    console.print(
        f"{counts['finished']} stages finished, {counts['failed']} failed, {counts['blocked']} left out; "
        f"wrote {masked(store.storage.join('roll.html'))}, {timedelta(seconds=round(time.monotonic() - started))} since the beginning",
        highlight=False,
    )
    return result


def _weekly_failures(roll: Roll, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Weekly models that failed, where the ones before them are to serve."""
    if roll.calendar.cpm is None or roll.calendar.cpm.on_failure == "stop":
        return []
    return [outcome for outcome in outcomes if outcome.state == "failed" and outcome.planned.stage.kind == "cpm"]


def _announced(name: str, seed: int | None, plan: RollPlan, store: RollStore) -> str:
    counts = {kind: sum(planned.stage.kind == kind for planned in plan.stages) for kind in ("tpm", "cpm", "actr")}
    num_done = sum(store.is_finished(planned) for planned in plan.stages)
    listed = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    of_seed = "" if seed is None else f", seed {seed}"
    return f"arm {name}{of_seed}: {len(plan.stages)} stages ({listed}), {num_done} finished earlier"


@contextmanager
def _runs(due: list[PlannedStage], asked: int | None, train: Train | None, console: Console) -> Iterator[Runs]:
    """Where stages are trained: in processes of one Ray instance where several have room, else in this one."""
    pool, most = None, widest(due)
    if train is None and asked != 1 and most > 1:
        from pipelines.run_pool import pool_of

        pool = pool_of([planned.job for planned in due], asked, most, "stage", console)
    if pool is None:
        yield OwnProcess(train or _train, console)
        return
    with pool:
        yield pool


def _train(job: JobConfig, console: Console, resume: bool) -> dict[str, Any]:
    from raytrain.run import train

    return train(job, console, resume=resume)
