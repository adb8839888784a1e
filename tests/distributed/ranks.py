"""Runs a function on R gloo ranks, one process each, over loopback.

``run_ranks(fn, 2, *args)`` returns ``[fn(*args) on rank 0, fn(*args) on rank 1]``. ``fn`` is a module-level function of a
test file; it finds the default process group initialised and reads its rank from ``torch.distributed``. Arguments and
results are pickled.
"""

import multiprocessing
import os
import pickle
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from time import monotonic
from typing import Any

import torch
import torch.distributed as dist

TIMEOUT_S = 120.0

# A fork server imports torch and TorchRec once (5 s) and each rank is a fork of it: 0.1 s. A package that is not
# installed is skipped. The server itself runs no kernel, so no thread pool is forked.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "pytest",
        "torch.distributed.checkpoint",
        "raytrain.data.contract",
        "fbgemm_gpu",
        "torchrec.distributed.model_parallel",
        "torchrec.distributed.planner",
    ]
)


def run_ranks(fn: Callable[..., Any], num_ranks: int, *args: Any, timeout_s: float = TIMEOUT_S) -> list[Any]:
    """Returns ``fn(*args)`` of each rank, by rank.

    Raises:
        Exception: the first one a rank raised, with that rank's traceback as a note; the other ranks are stopped.
        ChildProcessError: a rank died without raising.
        TimeoutError: a rank was not done after ``timeout_s``.
    """
    # The store lives here and picks its own port, so that no other process can take the port in between.
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    ranks = []
    for rank in range(num_ranks):
        ours, theirs = _CONTEXT.Pipe()
        process = _CONTEXT.Process(target=_serve, args=(theirs, rank, num_ranks, store.port, fn, args, timeout_s), daemon=True)
        process.start()
        theirs.close()
        ranks.append((process, ours))
    results: dict[int, Any] = {}
    pending = {ours: rank for rank, (_, ours) in enumerate(ranks)}
    deadline = monotonic() + timeout_s
    try:
        while pending:
            ready = wait(list(pending), timeout=max(0.0, deadline - monotonic()))
            if not ready:
                raise TimeoutError(f"ranks {sorted(pending.values())} of {num_ranks} were not done after {timeout_s} s")
            for connection in ready:
                assert isinstance(connection, Connection)
                rank = pending.pop(connection)
                results[rank] = _receive(connection, rank)
        for _, ours in ranks:
            ours.send_bytes(b"done")
        for process, _ in ranks:
            process.join(timeout=10)
    finally:
        for process, ours in ranks:
            ours.close()
            if process.is_alive():
                process.kill()
            process.join()
    return [results[rank] for rank in range(num_ranks)]


def _receive(connection: Connection, rank: int) -> Any:
    try:
        error, trace, result = pickle.loads(connection.recv_bytes())
    except EOFError:
        raise ChildProcessError(f"rank {rank} died without raising (a signal or os._exit)") from None
    if error is None:
        return result
    error.add_note(f"on rank {rank}:\n{trace}")
    raise error


def _serve(connection: Connection, rank: int, num_ranks: int, port: int, fn: Callable[..., Any], args: Any, timeout_s: float) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(num_ranks), LOCAL_WORLD_SIZE=str(num_ranks))
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    try:
        timeout = timedelta(seconds=timeout_s)
        store = dist.TCPStore("127.0.0.1", port, is_master=False, timeout=timeout)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=num_ranks, timeout=timeout)
        # Plain pickle: torch's own reductions would share memory that dies with this process.
        message = pickle.dumps((None, "", fn(*args)))
    # Not only Exception: a failed checkpoint raises CheckpointException, which is none.
    except BaseException as err:
        message = pickle.dumps((_picklable(err), traceback.format_exc(), None))
    connection.send_bytes(message)
    # Kept open until every rank is done: a rank that left early would make the others fail first, with its noise.
    try:
        connection.recv_bytes()
    except EOFError:
        return
    dist.destroy_process_group()


def _picklable(error: BaseException) -> BaseException:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
