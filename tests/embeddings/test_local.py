"""LocalTables against torch's own optimizers and numbers by hand."""

from typing import Any

import pytest
import torch
from torch import nn

from raytrain.embeddings.local import LocalTables, fill_initial
from raytrain.embeddings.tables import TableConfig, TableOptimizer
from raytrain.errors import TablesError
from tests.embeddings.cases import CONFIGS, FROZEN, PADDED_USER, PAIR, PAIRS, global_batch, make_batch, row_loss, train_pair, train_step

KINDS = ("rowwise_adagrad", "adagrad", "sgd")


class TorchTables:
    """nn.Embedding for every table, with dense gradients."""

    def __init__(self, tables: LocalTables) -> None:
        state = tables.state_dict()
        self.embeddings = {
            config.name: nn.Embedding.from_pretrained(state[f"{config.name}.weight"].clone(), freeze=False) for config in CONFIGS
        }

    def __call__(self, batch: Any) -> Any:
        class Rows:
            def __init__(self, embedding: nn.Embedding) -> None:
                self.embedding = embedding

            def of(self, feature: str) -> torch.Tensor:
                domain, _, history = feature.partition("/")
                rows: torch.Tensor = self.embedding(batch.histories[history].items if history else batch.ids[domain])
                return rows

        return {name: Rows(embedding) for name, embedding in self.embeddings.items()}


@pytest.mark.parametrize("kind", ["adagrad", "sgd"])
def test_equals_torch_optim_on_dense_gradients(kind: str) -> None:
    tables = LocalTables(CONFIGS, TableOptimizer(kind, 0.1, eps=1e-8), seed=0)
    oracle = TorchTables(tables)
    weights = [embedding.weight for embedding in oracle.embeddings.values()]
    optimizer = torch.optim.Adagrad(weights, lr=0.1, eps=1e-8) if kind == "adagrad" else torch.optim.SGD(weights, lr=0.1)
    for step in range(5):
        train_step(tables, step)
        optimizer.zero_grad()
        train_step(oracle, step)  # type: ignore[arg-type]
        optimizer.step()
    for name, embedding in oracle.embeddings.items():
        torch.testing.assert_close(tables.state_dict()[f"{name}.weight"], embedding.weight.detach(), rtol=1e-5, atol=1e-6)


def test_rowwise_adagrad_by_hand() -> None:
    tables = LocalTables([TableConfig("t", 3, 2, ("a",))], TableOptimizer("rowwise_adagrad", lr=0.5, eps=1e-12), seed=0)
    tables.load_state_dict({"t.weight": torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])})
    batch = make_batch({"a": torch.tensor([1, 1, 2])})
    for _ in range(2):
        rows = tables(batch)["t"].of("a")
        # Row 1 is looked up twice: its gradient is the sum, (3, 4).
        rows.backward(torch.tensor([[1.0, 2.0], [2.0, 2.0], [0.0, 0.0]]))
    # State 12.5 then 25; row 1 moves by 0.5 * (3, 4) / sqrt(12.5), then by 0.5 * (3, 4) / 5.
    moved = 0.5 / 12.5**0.5 + 0.1
    torch.testing.assert_close(tables.optimizer_state_dict()["t.momentum1"], torch.tensor([0.0, 25.0, 0.0]))
    expected = torch.tensor([[1.0, 1.0], [2 - 3 * moved, 2 - 4 * moved], [3.0, 3.0]])
    torch.testing.assert_close(tables.state_dict()["t.weight"], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_without_gradient_and_frozen_tables_keep_their_bytes(kind: str) -> None:
    tables = LocalTables([*CONFIGS, FROZEN], TableOptimizer(kind, 0.1), seed=0)
    before = {key: value.clone() for key, value in (tables.state_dict() | tables.frozen_state_dict()).items()}
    for step in range(3):
        train_step(tables, step)
    after = tables.state_dict() | tables.frozen_state_dict()
    assert list(tables.frozen_state_dict()) == ["old_item.weight"]
    assert torch.equal(before["old_item.weight"], after["old_item.weight"])
    assert "old_item.momentum1" not in tables.optimizer_state_dict()
    assert torch.equal(before["user.weight"][PADDED_USER], after["user.weight"][PADDED_USER])
    assert torch.equal(before["user.weight"][6:], after["user.weight"][6:])
    assert not torch.equal(before["user.weight"][:6], after["user.weight"][:6])


@pytest.mark.parametrize("kind", ["rowwise_adagrad", "adagrad"])
def test_rows_that_no_gradient_has_reached_become_zero(kind: str) -> None:
    tables = LocalTables([*CONFIGS, FROZEN], TableOptimizer(kind, 0.1), seed=0)
    train_step(tables, 0)
    trained = global_batch(0).ids["user"][:-1].unique()
    before = {key: value.clone() for key, value in (tables.state_dict() | tables.frozen_state_dict()).items()}
    assert tables.zero_untrained_rows()["user"] == len(trained)
    others = torch.ones(41, dtype=torch.bool).index_fill(0, trained, False)
    after = tables.state_dict()["user.weight"]
    assert (after[others] == 0).all()
    assert torch.equal(after[trained], before["user.weight"][trained])
    assert torch.equal(tables.frozen_state_dict()["old_item.weight"], before["old_item.weight"])


def test_an_optimizer_without_state_cannot_tell_trained_rows() -> None:
    with pytest.raises(TablesError, match=r"tables.optimizer=sgd"):
        LocalTables(CONFIGS, TableOptimizer("sgd", 0.1), seed=0).zero_untrained_rows()


def test_evaluation_takes_no_gradient() -> None:
    tables = LocalTables(CONFIGS, TableOptimizer("sgd", 0.1), seed=0)
    batch = global_batch(0)
    assert not row_loss(tables.train(False)(batch), batch).requires_grad
    assert row_loss(tables.train()(batch), batch).requires_grad


def test_set_lr_rules_the_next_backward() -> None:
    tables = LocalTables(CONFIGS, TableOptimizer("sgd", 0.1), seed=0)
    before = tables.state_dict()["item.weight"].clone()
    tables.set_lr(0.0)
    train_step(tables, 0)
    assert torch.equal(tables.state_dict()["item.weight"], before)


def test_any_shard_starts_as_its_part_of_the_whole() -> None:
    config = TableConfig("t", 10_000, 4, init_std=0.1)
    whole = torch.empty(10_000, 4)
    fill_initial(whole, config, seed=3, first_row=0, first_column=0)
    part = torch.empty(5_000, 2)
    fill_initial(part, config, seed=3, first_row=4_000, first_column=2)
    assert torch.equal(part, whole[4_000:9_000, 2:])
    assert abs(whole.std().item() - 0.1) < 0.002
    other = torch.empty(10_000, 4)
    fill_initial(other, config, seed=4, first_row=0, first_column=0)
    assert not (other == whole).any()


def test_a_checkpoint_of_other_tables_is_refused() -> None:
    tables = LocalTables(CONFIGS[:1], TableOptimizer("sgd", 0.1), seed=0)
    with pytest.raises(TablesError, match=r"missing=user.weight, unknown=item.weight"):
        tables.load_state_dict({"item.weight": torch.zeros(50, 8)})


def test_two_tables_of_one_name_are_refused() -> None:
    with pytest.raises(TablesError, match="user twice"):
        LocalTables([CONFIGS[0], CONFIGS[0]], TableOptimizer("sgd", 0.1), seed=0)


@pytest.mark.parametrize("kind", ["rowwise_adagrad", "adagrad", "sgd"])
def test_tables_are_copied_and_blended_in_place(kind: str) -> None:
    tables = LocalTables(PAIR, TableOptimizer(kind, 0.1), seed=5)
    train_pair(tables, 0)
    before = {name: value.clone() for name, value in (tables.state_dict() | tables.optimizer_state_dict()).items()}
    tables.blend([PAIRS[0]], 0.25)
    after = tables.state_dict() | tables.optimizer_state_dict()
    expected = 0.75 * before["v/user.weight"] + 0.25 * before["g/user.weight"]
    torch.testing.assert_close(after["v/user.weight"], expected)
    assert all(torch.equal(after[name], value) for name, value in before.items() if name != "v/user.weight")
    tables.blend(PAIRS, 1.0, with_state=True)
    for name in ("user", "country"):
        for key in ("weight", "momentum1") if kind != "sgd" else ("weight",):
            assert torch.equal(after[f"v/{name}.{key}"], before[f"g/{name}.{key}"])
    with pytest.raises(TablesError, match=r"Received: g/usr\. Did you mean g/user"):
        tables.blend([("v/user", "g/usr")], 1.0)
