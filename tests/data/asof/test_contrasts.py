import numpy as np
import pytest

from raytrain.data.asof.contrasts import contrasts

RAW = {
    "user/target/label": 0.7,
    "user/target/residual": 0.1,
    "user/target/log_age": 3.0,
    "user/all/label": 0.6,
    "user/all/residual": 0.05,
    "user/all/log_count": 4.0,
    "user/all/log_age": 2.0,
    "genre/all/label": 0.5,
    "user+genre/target/residual": 0.3,
    "user+genre/all/residual": 0.2,
    "user+genre/all/log_count": 1.5,
    "user/target/rating": 3.5,
    "item+genre/all/residual": 0.4,
}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("user/all/expected", 0.6 - 0.05, id="a mean less its residual"),
        pytest.param("user/target/expected", (0.7 - 0.1) - (0.6 - 0.05), id="that of a domain less that of all"),
        pytest.param("user/target/residual", 0.1 - 0.05, id="a residual in a domain less that in all"),
        pytest.param("user/target/log_age", 3.0 - 2.0, id="an age"),
        pytest.param("user/all/residual", 0.05, id="the widest stays"),
        pytest.param("genre/all/label", 0.5, id="a mean without a residual stays"),
        pytest.param("user+genre/target/residual", 0.3 - 0.2, id="a cross in a domain less the cross in all"),
        pytest.param("user+genre/all/residual", 0.2 - 0.05, id="a cross less its key"),
        pytest.param("user+genre/all/log_count", 1.5 - 4.0, id="a log count, so a log share"),
        pytest.param("user/target/rating", 3.5, id="side information has no wider one"),
        pytest.param("item+genre/all/residual", 0.4, id="nothing to take off"),
    ],
)
def test_every_column_is_what_it_adds_to_the_next_wider_one(name: str, expected: float):
    names, values = contrasts(tuple(RAW), np.array([list(RAW.values())] * 2, np.float32))
    assert values.shape == (2, len(RAW))
    assert dict(zip(names, values[1].tolist(), strict=True))[name] == pytest.approx(expected, abs=1e-6)


def test_nothing_is_lost():
    values = np.random.default_rng(0).normal(size=(100, len(RAW))).astype(np.float32)
    assert np.linalg.matrix_rank(contrasts(tuple(RAW), values)[1]) == len(RAW)
