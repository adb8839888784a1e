"""Secrets stand in no config, manifest or command: they are named, and Kubernetes hands them to the pods.

A refusal never repeats the value it refuses.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

NAMES_OF_SECRETS = {"env_from_secrets", "image_pull_secrets", "secret_name", "secretName"}
"""Keys that hold names of Kubernetes' secrets, in a config or in a manifest."""
_WORDS = {"pwd", "secret", "token", "credential", "credentials", "apikey"}
_ENDS = ("password", "passwd", "passphrase")
"""Ends of words, since some programs write theirs before it: PGPASSWORD."""
_PASSES = {"backward", "by", "first", "forward", "num", "one", "over", "rate", "second", "single", "through", "two"}
"""Beside one of them, `pass` is a verb or a round and no password."""
_PAIRS = {
    *((kind, "key") for kind in ("access", "account", "api", "auth", "encryption", "private", "shared", "signing")),
    *(("connection", "string"), ("auth", "header"), ("auth", "headers")),
}
_COLUMNS = {"foreign", "group", "index", "item", "join", "partition", "primary", "public", "row", "sort", "user"}
"""A key of these alone finds rows, or is there to be shown."""
_PLACES = {"file", "path", "dir"}
"""Last words of names that hold where a secret lies, not the secret."""
_IN_TEXT = re.compile(
    r"://[^/?\s]*@"  # a user in a URI
    r"|^[^/\s@]*:[^/\s@]+@(?!sha256:)"  # user:password@host, and not image:tag@sha256:digest
    r"|(?:[?&;]|^)\s*[\w-]*(key|secret|token|password|signature)[\w-]*="  # of a URI, or of a connection string
    r"|[?&;]sig="  # what a SAS of Azure ends with
    r"|-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|\b(AKIA|ASIA)[0-9A-Z]{16}\b"
    r"|\bgh[pousr]_[0-9A-Za-z]{36}"
    r"|\bgithub_pat_[0-9A-Za-z_]{22}"
    r"|\bhf_[0-9A-Za-z]{30}"
    r"|\bxox[abcdeprs]-[0-9A-Za-z-]{10}",  # Slack's
    re.IGNORECASE,
)


def is_secret_name(name: str) -> bool:
    """Whether what stands under this name is a secret: AWS_SECRET_ACCESS_KEY, redis_password, accountKey, DB_PASS."""
    words = [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)]
    if not words or words[-1] in _PLACES or words[-3:] == ["google", "application", "credentials"]:
        return False
    return (
        bool(_WORDS & set(words) or _PAIRS & set(pairwise(words)))
        or any(word.endswith(_ENDS) for word in words)
        or ("pass" in words and not _PASSES & set(words))
        or words[-1] == "sas"
        or (words[-1] == "key" and not set(words[:-1]) <= _COLUMNS)
    )


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
    """Names of the ``key=value`` words, or the positions of others, that carry a secret; of ``--token value`` the option."""
    for position, (word, following) in enumerate(zip(command, (*command[1:], ""), strict=True), start=1):
        key, equals, value = word.partition("=")
        if not equals or "://" in key:
            # A URI's = is of its query.
            if is_secret_text(word):
                yield f"word {position}"
            elif word.startswith("-") and following and not following.startswith("-") and is_secret_name(word):
                yield word
        elif (value and is_secret_name(key.rsplit(".", 1)[-1])) or is_secret_text(value):
            yield key


def _under(key: str, value: Any, path: str) -> Iterator[str]:
    if isinstance(value, Mapping) or key in NAMES_OF_SECRETS or not is_secret_name(key):
        yield from literal_secrets(value, path)
    elif value not in (None, "", [], ()):
        yield path
