import pytest

from raytrain.errors import ConfigError
from tests.data.prepare.cases import spec


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"features": [{"name": "a", "encoding": "hash"}]}, "num_rows goes with encoding hash", id="hash without rows"),
        pytest.param({"features": [{"name": "a", "num_rows": 9}]}, "num_rows goes with encoding hash", id="vocabulary with rows"),
        pytest.param({"features": [{"name": "a", "kind": "multi"}]}, "max_values goes with kind multi", id="multi without bound"),
        pytest.param({"features": [{"name": "a", "kind": "dense", "table": "t"}]}, "dense feature has no table", id="dense with table"),
        pytest.param({"features": ["label"]}, "may not be called time or label", id="reserved name"),
        pytest.param({"features": [{"name": "user", "table": "t"}]}, "Feature user is the key itself", id="key described twice"),
        pytest.param({"features": ["a", "a"]}, "Names under features have to differ", id="name twice"),
        pytest.param({"side": ["item"]}, "Side information may not be called", id="reserved side name"),
        pytest.param({"side": [{"name": "a", "num_values": 500}]}, "less than or equal to 128", id="side wider than int8"),
        pytest.param({"slice": "price"}, "slice has to name an id feature", id="slice of no id feature"),
        pytest.param({"group": "nobody"}, "group has to name an id feature", id="unknown group"),
        pytest.param({"split": {"valid_from": 0.9, "test_from": 0.8}}, "valid_from has to be below test_from", id="split out of order"),
        pytest.param({"split": {"column": "s", "test_from": 0.95}}, r"Received: column=s, test_from=0\.95", id="split twice"),
        pytest.param({"domains": {"a": {"role": "source", "path": "x"}}}, "Exactly one domain", id="no target"),
        pytest.param({"labels": 1}, "Did you mean label", id="unknown key"),
        pytest.param(
            {"features": ["country", {"name": "b", "table": "country", "encoding": "hash", "num_rows": 9}]}, "alike", id="table of two"
        ),
    ],
)  # fmt: skip
def test_specs_that_contradict_themselves_are_refused(changes, message):
    changes = {"slice": None} | changes
    with pytest.raises(ConfigError, match=message):
        spec(**changes)
