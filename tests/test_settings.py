import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from raytrain.errors import ConfigError
from raytrain.settings import Section, nearest, parse_yaml, with_overrides
from tests.messages import assert_three_parts


class Inner(Section):
    rate: float = 0.5


class Outer(Section):
    name: str
    inner: Inner = Inner()
    sizes: tuple[int, ...] = ()


def test_an_unknown_key_of_a_section_with_a_name_is_told_its_neighbours():
    with pytest.raises(ConfigError) as error:
        Outer.parse({"name": "x", "iner": {}}, "job.yaml")
    assert_three_parts(error.value, "Received: iner={}. Did you mean inner?")


def test_a_section_is_frozen():
    with pytest.raises(ValidationError):
        Outer(name="x").name = "y"


def test_every_problem_is_named_at_once():
    with pytest.raises(ConfigError) as error:
        Outer.parse({"inner": {"rats": 1, "rate": "fast"}, "sizes": [1, "two"]}, "job.yaml")
    lines = str(error.value).removeprefix("job.yaml: ").splitlines()
    assert len(lines) == 4
    for line in lines:
        assert_three_parts(ConfigError(line))
    assert "name has to be set" in str(error.value)
    assert "Received: inner.rats=1. Did you mean rate?" in str(error.value)
    assert "Received: inner.rate='fast'." in str(error.value)
    assert "Received: sizes.1='two'." in str(error.value)


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf"])
def test_a_number_is_finite(value):
    with pytest.raises(ConfigError, match=r"inner\.rate"):
        Outer.parse({"name": "x", **with_overrides({}, [f"inner.rate={value}"])}, "overrides")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("a.b=3", {"a": {"b": 3, "kept": 1}}),
        ("a.b=1e-3", {"a": {"b": "1e-3", "kept": 1}}),
        ("a.b=[x, y]", {"a": {"b": ["x", "y"], "kept": 1}}),
        ("a.b=null", {"a": {"b": None, "kept": 1}}),
        ("a.b=", {"a": {"b": None, "kept": 1}}),
        ("a.b={c: 1}", {"a": {"b": {"c": 1}, "kept": 1}}),
        ("a.b=x=y", {"a": {"b": "x=y", "kept": 1}}),
        ("n.e.w=1", {"a": {"kept": 1}, "n": {"e": {"w": 1}}}),
        ("a=2", {"a": 2}),
    ],
    ids=[
        "a number", "an exponent, which YAML leaves text", "a list", "null", "nothing", "a mapping", "an equals sign in the value",
        "new sections", "a section replaced",
    ],
)  # fmt: skip
def test_an_override_sets_one_value(override, expected):
    values = {"a": {"kept": 1}}
    assert with_overrides(values, [override]) == expected
    assert values == {"a": {"kept": 1}}


def test_the_last_override_wins():
    assert with_overrides({}, ["a.b=1", "a.b=2"]) == {"a": {"b": 2}}


def test_an_exponent_is_read_as_a_number():
    assert Outer.parse({"name": "x", **with_overrides({}, ["inner.rate=1e-3"])}, "overrides").inner.rate == 0.001


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.epochs", "'training.epochs'"),
        ("=3", "'=3'"),
        ("a..b=3", "'a..b=3'"),
        (".a=3", "'.a=3'"),
        ("", "''"),
        ("a.b=[1, 2", "'a.b=[1, 2'"),
        ("number.b=3", "number=5"),
        ("number.b.c=3", "number=5"),
    ],
    ids=[
        "without an equals sign", "without a key", "with an empty part", "with an empty first part", "empty", "with broken YAML",
        "through a value", "deep through a value",
    ],
)  # fmt: skip
def test_a_bad_override_is_refused(override, expected):
    with pytest.raises(ConfigError) as error:
        with_overrides({"number": 5}, [override])
    assert_three_parts(error.value, expected)


@pytest.mark.parametrize("text", ["a: [1", "a: b: c", "\tx: 1", "a: !!python/object/apply:os.getcwd []"])
def test_what_is_no_safe_yaml_is_refused(text):
    with pytest.raises(ConfigError) as error:
        parse_yaml(text, "job.yaml")
    assert_three_parts(error.value, "job.yaml has to be YAML")


@pytest.mark.parametrize("text", ["- 1", "hello", "3"])
def test_yaml_has_to_hold_a_mapping(text):
    with pytest.raises(ConfigError) as error:
        parse_yaml(text, "job.yaml")
    assert_three_parts(error.value, "job.yaml has to hold a mapping")


def test_an_empty_file_is_an_empty_mapping():
    assert parse_yaml("# nothing\n", "job.yaml") == {}


def test_nearest_names_one_or_all():
    assert nearest("batchsize", ["batch_size", "path"]) == "Did you mean batch_size?"
    assert nearest("zzz", ["b", "a"]) == "Choose one of: a, b."


@given(st.dictionaries(st.sampled_from("abc"), st.integers()), st.lists(st.tuples(st.sampled_from("abc"), st.integers()), max_size=4))
def test_overrides_are_assignments_in_order(values, assignments):
    expected = dict(values)
    for key, value in assignments:
        expected[key] = value
    assert with_overrides(values, [f"{key}={value}" for key, value in assignments]) == expected
