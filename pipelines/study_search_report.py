"""What a study's search tried and chose, as text."""

from collections.abc import Mapping
from typing import Any

from raytrain.training.report import METRIC_TITLES, number


def search_table(searched: Mapping[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """(arm, its trials as text), in the study's order."""
    return [
        (
            name,
            [
                {"text": " ".join(trial["overrides"]) or "as it stands", "value": number(trial["value"]), "chosen": trial["chosen"]}
                for trial in trials
            ],
        )
        for name, trials in searched["arms"].items()
    ]


def search_note(searched: Mapping[str, Any]) -> str:
    return (
        f"Search: {searched['num_trials']} trials of every arm here, one run each with seed {searched['seed']}; the best "
        f"{METRIC_TITLES[searched['metric']]} on the validation split (bold) is what the arm's seeds run. "
        "The test split was not looked at."
    )


def search_markdown(searched: Mapping[str, Any]) -> list[list[str]]:
    """Titles, then a row a trial, with the chosen one's value in bold."""
    rows = [
        [name, trial["text"], f"**{trial['value']}**" if trial["chosen"] else trial["value"]]
        for name, trials in search_table(searched)
        for trial in trials
    ]
    return [["Arm", "Trial", "Validation"], *rows]
