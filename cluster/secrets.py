"""Secrets stand in no config, manifest or command: they are named, and Kubernetes hands them to the pods.

A refusal never repeats the value it refuses.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

NAMES_OF_SECRETS = {"env_from_secrets", "image_pull_secrets", "secret_name", "secretName"}
"""Keys that hold names of Kubernetes' secrets, in a config or in a manifest."""
_WORDS = {"password", "passwd", "passphrase", "pwd", "secret", "token", "credential", "credentials", "apikey"}
_KEYS = ("access", "account", "api", "encryption", "private", "shared", "signing")
_FILES = ("_file", "_path", "_dir", "google_application_credentials")
"""Ends of names that hold where a secret lies, not the secret."""
_IN_TEXT = re.compile(
    r"://[^/?\s]*@"  # a user in a URI
    r"|^[^/\s@]*:[^/\s@]+@(?!sha256:)"  # user:password@host, and not image:tag@sha256:digest
    r"|(?:[?&;]|^)\s*[\w-]*(key|secret|token|password|signature)[\w-]*="  # of a URI, or of a connection string
    r"|-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|\b(AKIA|ASIA)[0-9A-Z]{16}\b"
    r"|\bgh[pousr]_[0-9A-Za-z]{36}",
    re.IGNORECASE,
)


def is_secret_name(name: str) -> bool:
    """Whether what stands under this name is a secret: AWS_SECRET_ACCESS_KEY, redis_password, accountKey."""
    words = [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)]
    if name.lower().endswith(_FILES):
        return False
    keys = set(pairwise(words)) & {(kind, "key") for kind in _KEYS}
    return bool(_WORDS & set(words) or keys or ("connection", "string") in pairwise(words)) or (len(words) > 1 and words[-1] == "key")


def is_secret_text(text: str) -> bool:
    """Whether a value carries a secret whatever its name: a user in a URI, a private key, a cloud's access key."""
    return _IN_TEXT.search(text) is not None


def literal_secrets(values: Any, path: str = "") -> Iterator[str]:
    """Dotted paths of the secrets that stand in ``values``, a parsed YAML; names of secrets are none."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from _under(str(key), value, f"{path}.{key}" if path else str(key))
    elif isinstance(values, Sequence) and not isinstance(values, str):
        for index, value in enumerate(values):
            yield from literal_secrets(value, f"{path}.{index}")
    elif isinstance(values, str) and is_secret_text(values):
        yield path


def secrets_in_command(command: Sequence[str]) -> Iterator[str]:
    """Names of the ``key=value`` words, or the positions of others, that carry a secret."""
    for position, word in enumerate(command, start=1):
        key, equals, value = word.partition("=")
        if (equals and value and is_secret_name(key.rsplit(".", 1)[-1])) or is_secret_text(value if equals else word):
            yield key if equals else f"word {position}"


def _under(key: str, value: Any, path: str) -> Iterator[str]:
    if isinstance(value, Mapping) or key in NAMES_OF_SECRETS or not is_secret_name(key):
        yield from literal_secrets(value, path)
    elif value not in (None, "", [], ()):
        yield path
