"""What a job needs of the working tree, as one zip: the files that git has or would add, never data, runs or secrets."""

import fnmatch
import os
import stat
import subprocess
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from raytrain.errors import ConfigError

MIB = 1 << 20
LIMIT_MIB = 64.0
MAX_FILES = 20_000
NUM_NAMED = 5
GIT_LIMIT_S = 60.0
NEVER_ON_TOP = ("data", "runs")
"""Directories of the working tree; further down such a name is a package, like raytrain/data."""
NEVER = (".git", ".venv", "__pycache__", "node_modules")
SECRET_FILES = (
    *(".env", ".env.*", ".netrc", ".npmrc", ".pypirc", ".git-credentials", "credentials", "credentials.json", "kubeconfig", "*.kubeconfig"),
    *("*.pem", "*.key", "*.p12", "*.pfx", "id_rsa*", "id_ecdsa*", "id_ed25519*", "service-account*.json", "service_account*.json"),
)
"""Names that hold keys more often than code."""
FIRST_ZIP_DAY = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Package:
    """Files of one directory, to be unpacked as the working directory of a job."""

    root: Path
    files: tuple[str, ...]
    """Relative to the root, with "/", sorted."""
    num_bytes: int
    """Before compression."""
    left_out: tuple[str, ...] = ()
    """What stays behind although git has it: names of secrets, links that lead outside, nested checkouts."""

    def holds(self, path: str) -> bool:
        """Whether a relative path is a packed file, or a directory with one in it."""
        name = os.path.normpath(path).replace(os.sep, "/")
        return any(file == name or file.startswith(f"{name}/") for file in self.files)


def collect(root: Path, limit_mib: float = LIMIT_MIB) -> Package:
    """The files below ``root`` that a job gets: of a git checkout what is tracked or neither tracked nor ignored, else all of them.

    Raises:
        ConfigError: there are none, or more than ``limit_mib`` or MAX_FILES of them (the biggest are named), or git fails in a checkout.
    """
    sizes: dict[str, int] = {}
    left_out = []
    of_git = _git_files(root)
    for name in _walk(root) if of_git is None else of_git:
        path = root / name
        parts = name.rstrip("/").split("/")
        if parts[0] in NEVER_ON_TOP or any(part in NEVER for part in parts) or not os.path.lexists(path):
            continue
        if not path.is_file() or not path.resolve().is_relative_to(root.resolve()) or _is_secret(parts[-1]):
            left_out.append(name)
            continue
        sizes[name] = path.stat().st_size
        if len(sizes) > MAX_FILES:
            raise ConfigError(
                f"The working tree goes along with a job, so it has to be small. Received: more than {MAX_FILES:,} files in {root}. "
                "Submit from your project's own directory, or have git ignore what no job needs."
            )
    if not sizes:
        ignored = "" if of_git is None else ", where git may ignore them"
        raise ConfigError(
            f"A job needs the files of a project. Received: none to pack in {root}{ignored}. Submit from your project's directory."
        )
    if sum(sizes.values()) > limit_mib * MIB:
        biggest = sorted(sizes, key=lambda name: -sizes[name])[:NUM_NAMED]
        raise ConfigError(
            f"The working tree goes along with a job, so it has to be at most {limit_mib:g} MiB. Received: "
            f"{sum(sizes.values()) / MIB:.1f} MiB in {len(sizes)} files of {root}, most of them in "
            f"{', '.join(f'{name} ({sizes[name] / MIB:.1f} MiB)' for name in biggest)}. "
            "Have git ignore what no job needs, put data on storage that the cluster reads, or raise --limit-mib."
        )
    return Package(root, tuple(sorted(sizes)), sum(sizes.values()), tuple(sorted(left_out)))


def write_zip(package: Package, path: Path) -> None:
    """Writes the package; the same files give the same bytes, so that the cluster keeps one copy of an unchanged tree.

    Raises:
        ConfigError: a file cannot be read.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name in package.files:
            info = zipfile.ZipInfo(name, FIRST_ZIP_DAY)
            info.compress_type = zipfile.ZIP_DEFLATED
            try:
                executable = os.access(package.root / name, os.X_OK)
                # Unix permissions stand in the upper half.
                info.external_attr = (stat.S_IFREG | (0o755 if executable else 0o644)) << 16
                archive.writestr(info, (package.root / name).read_bytes())
            except OSError as err:
                raise ConfigError(
                    f"Every packed file has to be readable. Received: {name} ({err.strerror}). Have git ignore it, or make it readable."
                ) from None


def _is_secret(name: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in SECRET_FILES)


def _git_files(root: Path) -> list[str] | None:
    """Tracked and addable files below ``root``; null where it is in no checkout.

    Raises:
        ConfigError: it is in a checkout and git fails: to pack every file would send those that are ignored, secrets among them.
    """
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, capture_output=True, check=True, timeout=GIT_LIMIT_S).stdout
    except FileNotFoundError:
        reason = "there is no git"
    except subprocess.TimeoutExpired:
        reason = f"no answer within {GIT_LIMIT_S:g} s"
    except subprocess.CalledProcessError as err:
        reason = (os.fsdecode(err.stderr).strip().splitlines() or [f"exit code {err.returncode}"])[0]
    except OSError as err:
        reason = err.strerror or str(err)
    else:
        return sorted({os.fsdecode(name) for name in listed.split(b"\0") if name})
    here = root.resolve()
    if not any(os.path.lexists(folder / ".git") for folder in (here, *here.parents)):
        return None
    raise ConfigError(
        f"git has to say which files of a checkout it ignores, since those stay behind. Received: {reason.rstrip('.')}, in {root}. "
        "Make `git status` work there, or submit from a directory that is in no checkout."
    )


def _walk(root: Path) -> Iterator[str]:
    """Every file below ``root`` but those of hidden directories, virtual environments and built packages."""
    for folder, folders, files in os.walk(root):
        here = Path(folder)
        if here == root:
            folders[:] = [name for name in folders if name not in NEVER_ON_TOP]
        folders[:] = [name for name in sorted(folders) if not name.startswith(".") and not name.endswith(".egg-info")]
        folders[:] = [name for name in folders if name not in NEVER and not (here / name / "pyvenv.cfg").exists()]
        yield from ((here / name).relative_to(root).as_posix() for name in sorted(files))
