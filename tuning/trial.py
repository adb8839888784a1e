"""A trial in its own Ray process: a task a seed, one after the other, each evaluation handed to Ray Tune.

Tune's way to end a trial is to end its process, which would leave the run's workers where they are and the next trial waiting for
their CPUs. So nobody is killed: the workers wait at each evaluation for a word, and end by themselves when Tune has stopped the trial.
"""

import math
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any

from ray import tune

from raytrain.errors import RunError
from raytrain.storage import masked
from raytrain.training.stopping import Watch
from tuning.plan import Task
from tuning.tasks import Pulse, Values, run_task

END_LIMIT_S = 180.0
"""For a run that has fallen silent to end after all."""
Event = dict[str, Any]
RunTask = Callable[[Task, Watch, Pulse, Sequence[str]], Values]


class TrialRun(tune.Trainable):
    """What Tune drives: ``step`` lasts from one evaluation to the next. The process is used again for the next trial."""

    def setup(self, config: dict[str, Any]) -> None:
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Raises RunError where the last run could not be ended: for False, Tune would forget the trial without a word to anybody."""
        # It saves first, and a checkpoint takes as long as its storage does: no less patience than with any other silence.
        limit_s = new_config["silence_limit_s"]
        if not self._runs.end(limit_s):
            raise RunError(
                "A process has to end its run before the next trial. "
                f"Received: a run that went on for {limit_s:,.0f} s. Raise silence_limit_s if a checkpoint takes longer."
            )
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Raises RunError where a run neither speaks nor ends: a process whose trial has an error is not used again."""
        told = self._runs.next()
        if told["status"] == "failed" and not self._runs.end(END_LIMIT_S):
            raise RunError(f"{told['error']}, and its run did not end in {END_LIMIT_S:.0f} s either.")
        return told

    def cleanup(self) -> None:
        self._runs.end(END_LIMIT_S)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the runs have checkpoints of their own."""

    def _begin(self, config: dict[str, Any]) -> None:
        self._runs = SeedRuns(config["tasks"], config["objectives"], config["silence_limit_s"], config["so_far"])


class SeedRuns:
    """One trial's runs in a thread.

    ``next`` gives: the objectives (of what the first seed's run would serve so far, in the end means over seeds), ``evaluations``,
    ``epoch``, ``status`` (running, finished or failed), ``done``, and ``error``.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        objectives: Sequence[str],
        silence_limit_s: float,
        so_far: Event | None = None,
        run_one: RunTask = run_task,
    ) -> None:
        """
        Args:
            so_far: what ``next`` gave last before a kill of the sweep; evaluations up to its epoch are not given again.
            run_one: does one task.
        """
        self._tasks, self._objectives, self._silence_limit_s = list(tasks), list(objectives), silence_limit_s
        self._run_one = run_one
        self._events: queue.Queue[Event] = queue.Queue()
        self._answers: queue.Queue[bool] = queue.Queue()
        self._ending = threading.Event()
        self._asking = False
        self._latest: Event = {"evaluations": 0, "epoch": 0.0, **dict.fromkeys(objectives, math.nan), **(so_far or {})}
        self._last_epoch: float = self._latest["epoch"]
        self._thread = threading.Thread(target=self._run, daemon=True, name="trial")
        self._thread.start()

    def next(self) -> Event:
        """Lets training go on, and waits for the next evaluation or the end."""
        if self._asking:
            self._asking = False
            self._answers.put(True)
        event = {"status": "pulse"}
        while event["status"] == "pulse":
            try:
                event = self._events.get(timeout=self._silence_limit_s)
            except queue.Empty:
                error = f"no sign of life for {self._silence_limit_s:,.0f} s; raise silence_limit_s if steps take longer"
                event = {"status": "failed", "error": error}
                self._ending.set()
        self._asking = event["status"] == "running"
        self._latest |= event
        return {"error": "", **self._latest, "done": event["status"] != "running"}

    def end(self, limit_s: float) -> bool:
        """Tells the workers to end, and waits for it; whether they have."""
        self._ending.set()
        self._answers.put(False)
        self._thread.join(limit_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        values: list[dict[str, float]] = []
        try:
            for task in self._tasks:
                if self._ending.is_set():
                    return
                watch = self._watch if task is self._tasks[0] else lambda _: self._pulse()
                values.append(self._run_one(task, watch, self._pulse, self._objectives))
        except BaseException as err:
            self._events.put({"status": "failed", "error": masked(f"{type(err).__name__}: {err}")})
            return
        means = {objective: sum(found[objective] for found in values) / len(values) for objective in self._objectives}
        undefined = [objective for objective, value in means.items() if math.isnan(value)]
        if undefined:
            self._events.put({"status": "failed", "error": f"{', '.join(undefined)} of the validation split is NaN", "seed_values": values})
        else:
            self._events.put({"status": "finished", "seed_values": values, **means})

    def _watch(self, record: dict[str, Any]) -> bool:
        """In the run's own thread: hands the evaluation out and waits until Tune has made up its mind."""
        if self._ending.is_set() or record["epoch"] <= self._last_epoch:
            # A worker group that was restarted comes by evaluations that have been handed out.
            return self._pulse()
        self._last_epoch = record["epoch"]
        objective = self._objectives[0]
        # What the run would serve: its own early stopping chooses the step, and leaves out evaluations that do not count.
        best = record.get(objective, math.nan) if record["best"] else self._latest[objective]
        evaluations = self._latest["evaluations"] + 1
        self._events.put({"status": "running", "evaluations": evaluations, "epoch": record["epoch"], objective: best})
        while not self._ending.is_set():
            try:
                return self._answers.get(timeout=1.0)
            except queue.Empty:
                continue
        return False

    def _pulse(self) -> bool:
        """Of what is no evaluation to decide by, but no silence either: a line of progress, a stage of a roll."""
        self._events.put({"status": "pulse"})
        return not self._ending.is_set()
