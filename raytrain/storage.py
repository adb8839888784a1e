"""Files on any file system that pyarrow or fsspec knows: a bare path, file://, s3://, gs://, hdfs://, fsspec+<protocol>://.

S3-compatible stores are reached through the usual AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY
environment variables; credentials never enter a config.
"""

import errno
import os
import posixpath
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
from pyarrow import fs

from raytrain.errors import ConfigError, StorageError, StreamError

T = TypeVar("T")
NUM_ATTEMPTS = 4
FIRST_RETRY_S = 0.1
HOPELESS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
"""What a storage says that a moment later it would say again."""
_SECRET = re.compile(r"://[^/?]*@|[?&;][\w-]*(key|secret|token|password|signature)[\w-]*=", re.IGNORECASE)


def has_credentials(text: str) -> bool:
    """Whether a URI in the text carries a user, a key or a token."""
    return bool(_SECRET.search(text)) or masked(text) != text


def masked(text: str) -> str:
    """The text with credentials in URIs replaced by ***: user information, and query values whose name says they are secret."""
    # The first branch runs to the last @ of the word, since a password may hold one, or a slash, unquoted.
    text = re.sub(r"://(?:[^\s/@:]*:\S*@|[^\s/@]*@)", "://***@", text)
    return re.sub(r"(?i)([?&;][\w-]*(?:key|secret|token|password|sig|signature|credential)[\w-]*=)[^&;\s'\"]+", r"\1***", text)


def resolve(uri: str) -> tuple[fs.FileSystem, str]:
    """File system and path inside it; a bare path is made absolute.

    Raises:
        ConfigError: pyarrow knows no such file system, or cannot reach it.
    """
    if has_credentials(uri):
        raise ConfigError(
            "Credentials must not stand in a path, which is printed and saved. Received: a URI with a user, a key or a token. "
            "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or what your store reads from the environment."
        )
    if "://" not in uri:
        return fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(uri))
    try:
        filesystem, path = fs.FileSystem.from_uri(_with_endpoint(uri))
    except (pa.ArrowException, OSError, ImportError, ValueError) as err:
        raise ConfigError(
            "A path has to be on a file system that can be reached: a bare path, file://, s3://, gs://, hdfs:// or fsspec+<protocol>://. "
            f"Received: {uri} ({err}). Check the scheme, AWS_ENDPOINT_URL and the credentials."
        ) from None
    return filesystem, path.rstrip("/") or "/"


def joined(directory: str, name: str) -> str:
    """``Storage(directory).join(name)``, of a directory that need not be in reach."""
    whole = directory.rstrip("/") if "://" in directory else os.path.abspath(os.path.expanduser(directory))
    path, mark, query = whole.partition("?")
    return f"{path.rstrip('/')}/{name}{mark}{query}"


class Storage:
    """One directory. Names are relative to it, with "/" between parts."""

    def __init__(self, uri: str) -> None:
        self.filesystem, self.root = resolve(uri)
        # A relative path would mean another directory in a worker's process.
        self.uri = uri.rstrip("/") if "://" in uri else self.root

    def join(self, name: str) -> str:
        """The name as a user would write it, for messages and configs."""
        return joined(self.uri, name)

    def path(self, name: str) -> str:
        """The name inside ``self.filesystem``."""
        return posixpath.join(self.root, name) if name else self.root

    def read_bytes(self, name: str) -> bytes:
        """Raises FileNotFoundError when there is none."""
        with self.filesystem.open_input_file(self.path(name)) as file:
            return bytes(file.read())

    def read_text(self, name: str) -> str:
        return self.read_bytes(name).decode("utf-8")

    def write_bytes(self, name: str, data: bytes) -> None:
        """Replaces a file whole: a reader sees the old one or the new one, never half of one.

        Raises:
            StorageError: the file system is full, read-only or gone; an old file is as it was.
        """
        try:
            self.filesystem.create_dir(posixpath.dirname(self.path(name)), recursive=True)
            if isinstance(self.filesystem, fs.LocalFileSystem):
                _replace(Path(self.path(name)), data)
            else:
                # Object stores show an object only once its upload is complete.
                with self.filesystem.open_output_stream(self.path(name)) as file:
                    file.write(data)
        except OSError as err:
            refused = StorageError(
                f"{self.join(name)} has to be written. Received: {err}. Free space, or check the storage and your access."
            )
            refused.errno, refused.retryable = err.errno, err.errno not in HOPELESS
            raise refused from err

    def write_text(self, name: str, text: str) -> None:
        self.write_bytes(name, text.encode("utf-8"))

    def open_steady(self, name: str) -> pa.NativeFile:
        """Opens a file for random access such that a reader can tell an outage from damage, which Arrow reports alike.

        Remote reads are tried again and end in a StreamError; local ones fail with an errno. Any other error of a decoder is damage.

        Raises:
            FileNotFoundError: there is none.
            StreamError: the storage cannot be reached.
        """
        if isinstance(self.filesystem, fs.LocalFileSystem):
            return self.filesystem.open_input_file(self.path(name))
        return pa.PythonFile(_SteadyFile(self, name), mode="r")

    def delete_dir(self, name: str) -> None:
        """Deletes a directory and what is in it, if it is there."""
        if self.filesystem.get_file_info(self.path(name)).type == fs.FileType.Directory:
            self.filesystem.delete_dir(self.path(name))

    def exists(self, name: str = "") -> bool:
        return bool(self.filesystem.get_file_info(self.path(name)).type != fs.FileType.NotFound)

    def list_entries(self) -> list[str]:
        """Base names of everything directly below the directory; empty when it is missing."""
        selector = fs.FileSelector(self.root, allow_not_found=True)
        return sorted(info.base_name for info in self.filesystem.get_file_info(selector))

    def list_dirs(self, name: str = "") -> list[str]:
        """Names of the directories directly below ``name``, sorted; empty when it is missing."""
        selector = fs.FileSelector(self.path(name), allow_not_found=True)
        found = self.filesystem.get_file_info(selector)
        return sorted(posixpath.join(name, info.base_name) for info in found if info.type == fs.FileType.Directory)

    def list_files(self, name: str = "", suffix: str = "") -> list[str]:
        """Names of the files directly below ``name``, sorted; empty when the directory is missing."""
        selector = fs.FileSelector(self.path(name), allow_not_found=True)
        found = (posixpath.join(name, info.base_name) for info in self.filesystem.get_file_info(selector) if info.is_file)
        return sorted(file for file in found if file.endswith(suffix))


def sync(path: Path) -> None:
    """Makes a local file, or the names in a directory, outlast a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace(path: Path, data: bytes) -> None:
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            # A machine that loses power must not keep the new name and lose the bytes.
            os.fsync(file.fileno())
        partial.replace(path)
        sync(path.parent)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def retried(action: Callable[[], T]) -> T:
    """The result of ``action``, tried again after an OSError: storages slow down, drop connections and come back.

    Raises:
        FileNotFoundError, StorageError: at once, where another try cannot help.
        OSError: what the last of NUM_ATTEMPTS tries raised.
    """
    for attempt in range(NUM_ATTEMPTS):
        try:
            return action()
        except OSError as err:
            hopeless = isinstance(err, FileNotFoundError) or err.errno in HOPELESS
            if hopeless or attempt == NUM_ATTEMPTS - 1:
                raise
        time.sleep(FIRST_RETRY_S * 4**attempt)
    raise AssertionError("unreachable")


class _SteadyFile:
    """A remote file whose reads survive a storage that slows down or drops a connection."""

    def __init__(self, storage: Storage, name: str) -> None:
        self._storage, self._name = storage, name
        self._file = self._steadily(lambda: storage.filesystem.open_input_file(storage.path(name)))

    @property
    def closed(self) -> bool:
        return bool(self._file.closed)

    def close(self) -> None:
        self._file.close()

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def read(self, num_bytes: int = -1) -> bytes:
        position = self._file.tell()

        def attempt() -> bytes:
            self._file.seek(position)
            return bytes(self._file.read(None if num_bytes < 0 else num_bytes))

        return self._steadily(attempt)

    def _steadily(self, action: Callable[[], T]) -> T:
        try:
            return retried(action)
        except FileNotFoundError:
            raise
        except OSError as err:
            raise StreamError(
                f"{self._storage.join(self._name)} has to be readable. Received: {err}. Check the storage, then resume the run."
            ) from err


def _with_endpoint(uri: str) -> str:
    """Adds AWS_ENDPOINT_URL to an s3 URI, since pyarrow wants scheme and host apart."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
    if not uri.startswith("s3://") or not endpoint or "endpoint_override" in uri:
        return uri
    scheme, _, host = endpoint.partition("://")
    return f"{uri}{'&' if '?' in uri else '?'}scheme={scheme}&endpoint_override={host.rstrip('/')}"
