"""From how many unique rows an event on gathering beats all pairs: ``python -m tests.scale.event_scores``.

Forward and backward of scoring and pooling together, one thread, processor time, the best of several.
"""

import time

import torch
import typer

from raytrain.models.layers import event_scores
from raytrain.models.layers.event_bags import EventBags
from raytrain.models.layers.event_scores import pool_events, score_events

SHAPES = ((1024, 200), (256, 2000))
NUM_UNIQUE = (1_000, 3_000, 10_000, 30_000, 100_000, 300_000)
SIZE = 16
NUM_ROUNDS = 5
MAX_PAIRS = 1 << 28


def seconds(num_rows: int, length: int, num_unique: int, all_pairs: bool) -> float:
    event_scores.ALL_PAIRS_PER_EVENT = 1 << 30 if all_pairs else 0
    torch.manual_seed(0)
    query, rows = torch.randn(num_rows, SIZE, requires_grad=True), torch.randn(num_unique, SIZE, requires_grad=True)
    inverse, lengths = torch.randint(0, num_unique, (num_rows, length)), torch.randint(1, length + 1, (num_rows,))
    best = float("inf")
    for _ in range(NUM_ROUNDS):
        bags = EventBags(inverse, lengths)
        started = time.process_time()
        weights = torch.softmax(score_events(query, rows, bags), dim=1)
        pool_events(weights, rows, bags).sum().backward()
        best = min(best, time.process_time() - started)
    return best


def main() -> None:
    torch.set_num_threads(1)
    typer.echo("    B      L        U  pairs/event  all pairs ms  gathered ms")
    for num_rows, length in SHAPES:
        for num_unique in NUM_UNIQUE:
            fits = num_rows * num_unique <= MAX_PAIRS
            pairs = f"{1000 * seconds(num_rows, length, num_unique, True):13.1f}" if fits else f"{'too large':>13}"
            gathered = 1000 * seconds(num_rows, length, num_unique, False)
            typer.echo(f"{num_rows:5} {length:6} {num_unique:8} {2 * num_unique / length:12.0f} {pairs} {gathered:12.1f}")


if __name__ == "__main__":
    main()
