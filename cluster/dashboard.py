"""The dashboard of a Ray cluster, which takes jobs: its address, and the client of it."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from cluster.jobs import Jobs, first_line, within
from raytrain.errors import ClusterError, ConfigError
from raytrain.storage import has_credentials, masked

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
# Ray reads them in this order, and over the address that a caller gives.
ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
CONNECT_LIMIT_S = 8.0


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
        ClusterError: nothing answers within ``limit_s`` (Ray is imported before), or what does is no Ray of version 2.
    """
    try:
        from ray.job_submission import JobSubmissionClient
    except ImportError:
        raise ClusterError(_missing_extra()) from None

    # It tells every upload and every closed stream.
    logging.getLogger("ray.dashboard").setLevel(logging.WARNING)
    try:
        with _named_address(address):
            client = within(limit_s, lambda: JobSubmissionClient(address))
    except TimeoutError:
        reason = f"no answer within {limit_s:g} s"
    # Also what requests says of an address that is none, and Ray of a cluster that it cannot find.
    except Exception as err:
        reason = first_line(err).rstrip(".")
        if "ray[default]" in reason:
            raise ClusterError(_missing_extra()) from None
    else:
        return Jobs(client, client.get_address())
    raise ClusterError(
        f"A cluster's dashboard has to answer at the address. Received: {masked(address)}, {masked(reason)}. Write --address "
        "http://HEAD:8265 (`ray start --head` prints it; of a cluster elsewhere open a tunnel: ssh -L 8265:127.0.0.1:8265 HEAD, or "
        "kubectl port-forward service/HEAD-SERVICE 8265), or run on this machine without `submit`."
    )


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


def _missing_extra() -> str:
    return "Jobs need Ray's dashboard client. Received: ray without [default]. Run `pip install 'ray[default]==2.60.0'`."
