"""`raytrain lineage STAGE`: what a model was made from, down to the days of its rows, and whether all of it is still as it was.

raytrain lineage runs/rolls/complete_journey/stages/actr-2017-10-01-1f0c9a2b
"""

from rich.console import Console
from rich.segment import Segments
from rich.tree import Tree

from pipelines.roll_run import last_day
from pipelines.roll_stage import STAGES
from pipelines.roll_store import MANIFEST, Manifest, RollStore
from raytrain.errors import RunError
from raytrain.storage import Storage

WIDEST = 1 << 16
"""Characters of a line in a file, where nothing has to fit a screen."""


def show_lineage(path: str, console: Console) -> bool:
    """Prints the tree of a stage's ancestors; whether each is there and is what its child was made from.

    Raises:
        RunError: ``path`` is no finished stage of a roll.
    """
    directory, _, name = Storage(path).uri.rstrip("/").rpartition("/")
    if not directory.endswith(f"/{STAGES}"):
        raise RunError(f"A stage lies below {STAGES}/ of a roll. Received: {path}. Name one of its run directories.")
    store = RollStore(directory.removesuffix(f"/{STAGES}"))
    read = store.read(name)
    if read is None:
        raise RunError(f"A finished stage has {MANIFEST}. Received: {path}, without one. Roll it first, or check the path.")
    tree, sound = _tree(store, read[0])
    if console.is_terminal:
        console.print(tree, highlight=False)
    else:
        wide = console.options.update(width=WIDEST, highlight=False)
        console.print(Segments(console.render(tree, wide)), soft_wrap=True)
    return sound


def _tree(store: RollStore, manifest: Manifest) -> tuple[Tree, bool]:
    """A stage's ancestors, and whether they are sound. What an ancestor was made from is shown where it comes first.

    No recursion: a daily model that goes on from yesterday's has as many generations as there are days.
    """
    root, sound = Tree(_label(manifest)), True
    shown: set[str] = set()
    waiting = [(manifest, root)]
    while waiting:
        child, branch = waiting.pop()
        below = []
        for name, digest in child.parents.items():
            read = store.read(name)
            if read is None:
                branch.add(f"[red]{name}: missing[/red]")
                sound = False
                continue
            is_same, is_repeated = read[1] == digest, name in shown
            sound = sound and is_same
            note = "" if is_same else "  [yellow]made anew since[/yellow]"
            found = branch.add(_label(read[0]) + note + ("  [dim]see above[/dim]" if is_repeated and read[0].parents else ""))
            if not is_repeated:
                shown.add(name)
                below.append((read[0], found))
        waiting += below[::-1]
    return root, sound


def _label(manifest: Manifest) -> str:
    rows = ", ".join(f"{count:,} {domain}" for domain, count in manifest.result["rows_trained"].items())
    span = f"{manifest.train.start} to {last_day(manifest.train.stop)}"
    return f"[bold]{manifest.name}[/bold]  {rows} rows of {span}, code {manifest.code[:8]}"
