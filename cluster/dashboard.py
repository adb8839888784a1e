"""The dashboard of a Ray cluster, which takes jobs: its address, and the client of it."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cluster.jobs import Jobs, first_line, within
from raytrain.errors import ClusterError, ConfigError
from raytrain.storage import has_credentials, masked

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
# Ray reads them in this order, and over the address that a caller gives.
ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
CONNECT_LIMIT_S = 5.0


def address_of(option: str | None, environment: Mapping[str, str] = os.environ) -> str:
    """The dashboard's address: the option, else what Ray's variables say, else this machine's.

    Raises:
        ConfigError: it holds credentials, or is a Ray Client's.
    """
    named = (option, *(environment.get(name) for name in ADDRESS_VARIABLES))
    address = next((text for text in named if text), DEFAULT_ADDRESS).rstrip("/")
    if has_credentials(address):
        raise ConfigError(
            "Credentials must not stand in an address. Received: a URL with a user or a token. "
            "Use a tunnel to the dashboard, or RAY_AUTH_TOKEN where the cluster asks for one."
        )
    if address.startswith("ray://"):
        raise ConfigError(f"Jobs are submitted to the dashboard, not to a Ray Client. Received: {address}. Write http://HEAD:8265 instead.")
    return address


def connect(address: str, limit_s: float = CONNECT_LIMIT_S) -> Jobs:
    """The jobs of a cluster whose dashboard answers.

    Args:
        address: ``http://HEAD:8265``; "auto" or ``HEAD:6379``, whose dashboard Ray looks up.

    Raises:
        ClusterError: nothing answers within ``limit_s``, or what does is no Ray of version 2.
    """
    if address.startswith("http"):
        reason = _silence(address, limit_s)
        if reason:
            raise _unreachable(address, reason)
    try:
        from ray.exceptions import AuthenticationError
        from ray.job_submission import JobSubmissionClient
    except ImportError:
        raise ClusterError(_missing_extra()) from None

    token = token_of(os.environ)

    def open_client() -> JobSubmissionClient:
        try:
            return JobSubmissionClient(address)
        except AuthenticationError:
            # A token is sent to a cluster that asks for one, and to no other.
            if token is None:
                raise
            return JobSubmissionClient(address, headers={"Authorization": f"Bearer {token}"})

    # They tell every upload and every closed stream.
    for name in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        with _named_address(address):
            client = within(limit_s, open_client)
    except TimeoutError:
        raise _unreachable(address, f"no answer within {limit_s:g} s") from None
    except AuthenticationError:
        raise ClusterError(
            f"The cluster asks for its token. Received: {masked(address)}, and {'no token' if token is None else 'a token it refuses'}. "
            "Set RAY_AUTH_TOKEN to the cluster's, or RAY_AUTH_TOKEN_PATH to a file with it (on the head node: ~/.ray/auth_token), "
            "and write --address http://HEAD:8265."
        ) from None
    # Also what Ray says of a cluster that it cannot find.
    except Exception as err:
        reason = first_line(err).rstrip(".")
        raise ClusterError(_missing_extra()) if "ray[default]" in reason else _unreachable(address, reason) from None
    return Jobs(client, client.get_address())


def token_of(environment: Mapping[str, str]) -> str | None:
    """The token of clusters that ask for one, from where Ray itself reads it; Ray's client of jobs does so only in RAY_AUTH_MODE=token."""
    if environment.get("RAY_AUTH_TOKEN"):
        return environment["RAY_AUTH_TOKEN"].strip()
    path = Path(environment.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


@contextmanager
def _named_address(address: str) -> Iterator[None]:
    """Ray's client would let its variables overrule the address that it is given."""
    name = ADDRESS_VARIABLES[0]
    before = os.environ.get(name)
    os.environ[name] = address
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _silence(address: str, limit_s: float) -> str:
    """Why nothing answers at the address, asked as Ray's client would, before seconds go into importing Ray; "" if it does."""
    import requests

    try:
        within(limit_s, lambda: requests.get(f"{address}/api/version", timeout=limit_s))
    except (TimeoutError, requests.Timeout):
        return f"no answer within {limit_s:g} s"
    except requests.ConnectionError:
        return "no connection"
    except requests.RequestException as err:
        return first_line(err).rstrip(".")
    return ""


def _unreachable(address: str, reason: str) -> ClusterError:
    return ClusterError(
        f"A cluster's dashboard has to answer at the address. Received: {masked(address)}, {masked(reason)}. Write --address "
        "http://HEAD:8265 (`ray start --head` prints it; of a cluster elsewhere open a tunnel: ssh -L 8265:127.0.0.1:8265 HEAD, or "
        "kubectl port-forward service/HEAD-SERVICE 8265), or run on this machine without `submit`."
    )


def _missing_extra() -> str:
    return "Jobs need Ray's dashboard client. Received: ray without [default]. Run `pip install 'ray[default]==2.60.0'`."
