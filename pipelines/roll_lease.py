"""Who may write the directory of a roll, or of a sweep: one at a time. Torch-free."""

import json
import os
import secrets
import socket
import threading
import time
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from raytrain.errors import RunError
from raytrain.storage import Storage, retried

LEASE = "lease.json"
LEASE_S = 60.0
"""A lease that was not renewed for so long has lost its holder."""
RENEWAL_S = 10.0


class LeaseLostError(RunError):
    """Another roll, or sweep, works in this directory now."""


class Lease(AbstractContextManager["Lease"]):
    """One at a time in a directory. It is renewed while it is held; a holder that died loses it after ``LEASE_S``, or at once where it ran
    on this machine."""

    def __init__(self, storage: Storage, kind: str = "roll") -> None:
        """``kind``: what messages call it, roll or sweep."""
        self._storage, self._kind = storage, kind
        self._owner = secrets.token_hex(8)
        self._stop = threading.Event()
        self._lost: str | None = None
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def __enter__(self) -> "Lease":
        holder = self._read()
        if holder is not None and _is_held(holder):
            raise RunError(
                f"One {self._kind} at a time works in a directory. Received: {self._storage.uri}, held by process {holder['pid']} on "
                f"{holder['host']} since {holder['since']}. Let it go on, or end it and {self._kind} again."
            )
        self._write(datetime.now(UTC).isoformat(timespec="seconds"))
        # Two that found it free at one time both wrote; the last one has it.
        time.sleep(0.5)
        self.check()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        holder = self._read()
        if holder is not None and holder["owner"] == self._owner:
            self._storage.filesystem.delete_file(self._storage.path(LEASE))

    def check_known(self) -> None:
        """Raises LeaseLostError where the lease is known to be lost, without asking the storage."""
        if self._lost is not None:
            self.check()

    def check(self) -> None:
        """Raises LeaseLostError unless the lease is still held."""
        holder = retried(self._read)
        if self._lost is None and (holder is None or holder["owner"] != self._owner):
            self._lost = f"process {holder['pid']} on {holder['host']}" if holder else "nobody"
        if self._lost is not None:
            raise LeaseLostError(
                f"One {self._kind} at a time works in a directory. Received: {self._storage.uri}, now held by {self._lost}. "
                f"Let that one go on, or {self._kind} again."
            )

    def _renew(self) -> None:
        since = datetime.now(UTC).isoformat(timespec="seconds")
        while not self._stop.wait(RENEWAL_S):
            try:
                self.check()
                self._write(since)
            except LeaseLostError:
                return
            except OSError:
                # A storage that is away for a while; whoever waits for the lease waits longer than that.
                continue

    def _write(self, since: str) -> None:
        holder = {"owner": self._owner, "host": socket.gethostname(), "pid": os.getpid(), "since": since, "renewed": time.time()}
        self._storage.write_text(LEASE, json.dumps(holder) + "\n")

    def _read(self) -> dict[str, Any] | None:
        try:
            holder: dict[str, Any] = json.loads(self._storage.read_text(LEASE))
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return holder


def _is_held(holder: dict[str, Any]) -> bool:
    if time.time() - float(holder["renewed"]) > LEASE_S:
        return False
    return holder["host"] != socket.gethostname() or _is_alive(int(holder["pid"]))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
