"""`raytrain study STUDY.yaml` whose file has ``rolls``: chains of models on data sets that are prepared for them, over the same seeds.

    raytrain study pipelines/studies/ecdctr.yaml --preset full

A case is a roll with its arms on one data set; cases differ by what is planted in it, or by the roll. The same command resumes: a data
set that is whole is kept, a stage that is finished is not run twice, a case that failed is tried again.
"""

import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console

from pipelines.prepare import prepare
from pipelines.roll import run_roll
from pipelines.roll_config import REFERENCE
from pipelines.study_of_rolls_plan import RollCase, plan_study_of_rolls
from pipelines.study_of_rolls_report import write_report
from raytrain.data.contract import CONTRACT_FILE
from raytrain.errors import RaytrainError
from raytrain.storage import Storage, masked

RunRoll = Callable[[str, Sequence[str], Console, Sequence[str]], Mapping[str, Any]]
"""(file, overrides, console, arms) -> what roll.json holds"""


def run_study_of_rolls(path: str, preset: str, overrides: Sequence[str], console: Console, run: RunRoll | None = None) -> dict[str, Any]:
    """Prepares what is missing, rolls every case, and writes result.json, result.md and result.html.

    Args:
        overrides: a key of the study (``rolls.questions.arms=[mean]``) changes the study, any other (``calendar.cpm=null``) every roll.
        run: rolls one case; ``pipelines.roll.run_roll`` when None.

    Returns:
        The content of result.json; cases that failed, or have stages that did, are listed under ``failed``.

    Raises:
        ConfigError: the study, a prepare config or the roll of any case is not right; nothing has been run then.
    """
    study, planned = plan_study_of_rolls(path, preset, overrides)
    chosen, storage = study.presets[preset], Storage(study.directory)
    result: dict[str, Any] = {
        "name": study.name,
        "preset": preset,
        "command": masked(shlex.join(["raytrain", "study", path, "--preset", preset, *overrides])),
        "seeds": list(chosen.seeds),
        "cases": {},
        "failed": [],
    }
    for number, (name, (file, roll_overrides, data)) in enumerate(planned.items(), 1):
        console.print(f"[bold]case {number} of {len(planned)}: {name}[/bold]", highlight=False)
        try:
            if data is not None and not Storage(data.output).exists(CONTRACT_FILE):
                prepare(data, lambda line: console.print(line, markup=False, highlight=False))
            found = (run or _roll)(file, roll_overrides, console, study.rolls[name].arms)
        except Exception as err:  # Whatever it is, it must not cost the other cases.
            error = masked(str(err) if isinstance(err, RaytrainError) else f"{type(err).__name__}: {err}")
            result["failed"].append({"case": name, "error": error})
            console.print(f"{name} failed: {error}", style="red", markup=False, highlight=False)
            continue
        result["cases"][name] = _kept(found, study.rolls[name])
        if found["failed"]:
            result["failed"].append({"case": name, "error": f"{len(found['failed'])} stages are missing: {found['failed'][0]['error']}"})
        # So far: a kill leaves what was found.
        write_report(Storage(storage.join(preset)), result)
    output = Storage(chosen.output or storage.join(preset))
    write_report(output, result)
    console.print(f"wrote {', '.join(masked(output.join(f'result.{kind}')) for kind in ('json', 'md', 'html'))}", highlight=False)
    return result


def _roll(file: str, overrides: Sequence[str], console: Console, arms: Sequence[str]) -> dict[str, Any]:
    return run_roll(file, overrides, console, arms=arms)


def _kept(found: Mapping[str, Any], case: RollCase) -> dict[str, Any]:
    """Of roll.json what the study's tables show."""
    arms = found["arms"]
    return {
        "roll": case.roll,
        "overrides": list(case.overrides),
        "recipe": list(case.recipe),
        "num_days": arms[REFERENCE]["num_days"],
        "num_rows": arms[REFERENCE]["num_rows"],
        "arms": {
            name: {"changes": arm["changes"], "pooled": arm["pooled"], "spread": arm["spread"], "num_days": arm["num_days"]}
            for name, arm in arms.items()
        },
        "comparisons": found["comparisons"],
        "not_compared": found["not_compared"],
        "forgetting": found["forgetting"],
        "known_users": found["known_users"],
        "num_resamples": found["num_resamples"],
    }
