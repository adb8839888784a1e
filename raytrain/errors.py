"""Errors a user can act on. Every message reads "<what is required>. Received: <what>. <what to change>."

RaytrainError
 |- ConfigError      the YAML or an override
 |- ContractError    contract.yaml, or Parquet files that break it
 |- DataError        rows: unreadable, or more of them bad than allowed
 |- StreamError      a stream or its storage failed under way; a restart may help
 |- StorageError     a write that a file system refused; an OSError too
 |- CursorError      rows counted twice, or a cursor of other data
 |- ResourceError    more CPUs or memory asked for than there are
 |- ClusterError     a Ray cluster's dashboard that cannot be reached, or refuses
 |- TablesError      embedding tables and their backend
 |- RunError         a run directory: taken, missing, or not finished
"""


class RaytrainError(ValueError):
    """Base of every error that is the user's to fix; the command line prints it without a traceback."""

    retryable = False
    """Whether a restart from the last checkpoint may help."""


class ConfigError(RaytrainError):
    """A configuration key or value is not what the schema allows."""


class ContractError(RaytrainError):
    """A prepared data set breaks its contract."""


class DataError(RaytrainError):
    """Rows could not be read, or too large a share of them was quarantined."""


class StreamError(RaytrainError):
    """A stream ended early, or its storage could not be reached."""

    retryable = True


class StorageError(RaytrainError, OSError):
    """A file system refused a write: full, read-only or gone."""

    retryable = True


class CursorError(RaytrainError):
    """A row was trained twice, or a cursor does not fit the data."""


class ResourceError(RaytrainError):
    """The cluster has less than the job asks for."""


class ClusterError(RaytrainError):
    """The dashboard of a Ray cluster cannot be reached, or refused a request."""

    retryable = True


class TablesError(RaytrainError):
    """An embedding table or its backend cannot do what is asked."""


class RunError(RaytrainError):
    """A run directory is taken, missing or incomplete."""
