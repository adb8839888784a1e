"""Judges of several ranks in one process."""

from dataclasses import replace

import torch

from raytrain.models.adsnet.gain.judge import GainJudge
from raytrain.models.adsnet.gain.rows import JudgedRows


def part(rows: JudgedRows, start: int, stop: int) -> JudgedRows:
    """Rows ``start`` to ``stop`` of it."""
    names = ("label", "weight", "is_external", "slice", "fold", "tower_inputs")
    index = torch.arange(start, stop)
    inputs = {name: getattr(rows, name).rows(index) for name in ("vanilla_inputs", "gain_inputs")}
    return replace(rows, **{name: getattr(rows, name)[start:stop] for name in names}, **inputs)


def weigh_together(world, ranks: list[GainJudge], rows: list[JudgedRows], probes: list[JudgedRows]) -> list[torch.Tensor]:
    """Each rank's weights, every ``reduce`` being the sum of what all ranks bring to it: call by call, replayed until known."""
    states = [{name: value.clone() for name, value in rank.state_dict().items()} for rank in ranks]
    known: list[torch.Tensor] = []
    while True:
        brought: list[torch.Tensor] = []
        found = []
        for rank, state, own, probe in zip(ranks, states, rows, probes, strict=True):
            rank.load_state_dict(state)
            calls = iter(known)

            def reduce(value, calls=calls, brought=brought):
                total = next(calls, None)
                if total is None:
                    brought.append(value.clone())
                    raise StopIteration
                return total

            try:
                found.append(rank.weigh(world, own, probe, reduce))
            except StopIteration:
                continue
        if len(found) == len(ranks):
            return found
        known.append(torch.stack(brought).sum(0))
