"""`raytrain lineage STAGE`: what a model was made from, down to the days of its rows, and whether all of it is still as it was.

raytrain lineage runs/rolls/complete_journey/stages/actr-2017-10-01-1f0c9a2b
"""

from rich.console import Console
from rich.tree import Tree

from pipelines.roll_run import last_day
from pipelines.roll_stage import STAGES
from pipelines.roll_store import MANIFEST, Manifest, RollStore
from raytrain.errors import RunError
from raytrain.storage import Storage


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
    tree = Tree(_label(read[0], ""))
    sound = _add(store, read[0], tree)
    console.print(tree, highlight=False)
    return sound


def _add(store: RollStore, manifest: Manifest, tree: Tree) -> bool:
    sound = True
    for name, digest in manifest.parents.items():
        read = store.read(name)
        if read is None:
            tree.add(f"[red]{name}: missing[/red]")
            sound = False
            continue
        is_same = read[1] == digest
        branch = tree.add(_label(read[0], "" if is_same else "  [yellow]made anew since[/yellow]"))
        sound = _add(store, read[0], branch) and is_same and sound
    return sound


def _label(manifest: Manifest, note: str) -> str:
    rows = ", ".join(f"{count:,} {domain}" for domain, count in manifest.result["rows_trained"].items())
    span = f"{manifest.train.start} to {last_day(manifest.train.stop)}"
    return f"[bold]{manifest.name}[/bold]  {rows} rows of {span}, code {manifest.code[:8]}{note}"
