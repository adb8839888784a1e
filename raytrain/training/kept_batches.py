"""A split that is read again and again: from memory once it is known to fit, since a small one takes longer to stream than to score."""

from collections.abc import Callable, Iterator

from raytrain.data.batch import Batch

MIB = 1 << 20


class KeptBatches:
    """Calls give the same batches each time. Ranks keep theirs together or not at all: reading a stream takes all of them."""

    def __init__(self, read: Callable[[], Iterator[Batch]], limit_mib: int, everyone: Callable[[bool], bool]) -> None:
        """
        Args:
            read: one pass over this rank's batches.
            limit_mib: of this rank's memory; 0 keeps nothing.
            everyone: whether it is so on every rank; a collective, called at the end of a pass that may be kept.
        """
        self._read, self._everyone = read, everyone
        self._limit, self._may_keep = limit_mib * MIB, limit_mib > 0
        self._kept: list[Batch] | None = None

    def __call__(self) -> Iterator[Batch]:
        if self._kept is not None:
            return iter(self._kept)
        return self._first_pass() if self._may_keep else self._read()

    def _first_pass(self) -> Iterator[Batch]:
        kept: list[Batch] = []
        num_bytes, fits = 0, True
        for batch in self._read():
            num_bytes += batch.num_bytes
            fits = num_bytes <= self._limit
            if fits:
                kept.append(batch)
            else:
                kept.clear()
            yield batch
        self._may_keep = self._everyone(fits)
        self._kept = kept if self._may_keep else None
