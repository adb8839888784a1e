"""Alignment of two domains' items by numbers a hand computes: who is a partner, how near it lies, and by chance."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from pipelines.discrepancy import BANDWIDTHS, discrepancy
from pipelines.lcn_alignment import (
    TOP,
    DomainVectors,
    alignment,
    alignment_numbers,
    chance_alignment,
    partner_recall,
    recall_at,
    recall_of_partners,
    uniformity,
)
from pipelines.lcn_partners import Partners, likes, partners, popular

NUM_GROUPS, USERS_PER_GROUP, ITEMS_PER_GROUP = 4, 10, 3
NUM_ITEMS = NUM_GROUPS * ITEMS_PER_GROUP


def grouped(first_target_item: int = 1 + NUM_ITEMS) -> Partners:
    """Users of a group like all items of their group in both domains, after training that saw every item once."""
    user = np.repeat(np.arange(NUM_GROUPS * USERS_PER_GROUP), ITEMS_PER_GROUP)
    item = user // USERS_PER_GROUP * ITEMS_PER_GROUP + np.tile(np.arange(ITEMS_PER_GROUP), NUM_GROUPS * USERS_PER_GROUP)

    def domain(first_item: int):
        trained = np.arange(NUM_ITEMS)
        is_held_out = np.repeat([True, False], [len(item), NUM_ITEMS])
        items = first_item + np.concatenate([item, trained])
        return likes(np.concatenate([user, trained]), items, is_held_out, np.ones(len(items), dtype=bool))

    return partners(domain(1), domain(first_target_item))


def one_hot_groups() -> torch.Tensor:
    return torch.eye(NUM_GROUPS).repeat_interleave(ITEMS_PER_GROUP, 0)


def test_partners_beyond_chance_are_the_planted_ones():
    found = grouped()
    same_group = np.kron(np.eye(NUM_GROUPS), np.ones((ITEMS_PER_GROUP, ITEMS_PER_GROUP)))
    assert found.num_users == NUM_GROUPS * USERS_PER_GROUP
    np.testing.assert_array_equal(found.shared_users, USERS_PER_GROUP * same_group)
    np.testing.assert_array_equal(found.is_beyond_chance, same_group > 0)


def test_what_only_popularity_brings_together_is_not_beyond_chance():
    """Two items that every user likes, beside the groups: shared with everything, and no more than expected."""
    users = np.repeat(np.arange(40), 2)
    popular_item = likes(
        np.concatenate([users, [0, 0]]),
        np.concatenate([np.tile([7, 8], 40), [7, 8]]),
        np.repeat([True, False], [80, 2]),
        np.ones(82, dtype=bool),
    )
    found = partners(popular_item, popular_item)
    assert found.shared_users.tolist() == [[0.0, 40.0], [40.0, 0.0]]
    assert not partners(popular_item, grouped().target).is_beyond_chance.any()


def test_planted_alignment_is_recalled_whole_and_chance_is_exact():
    found = grouped()
    scores = one_hot_groups() @ one_hot_groups().t()
    recall = partner_recall({"after": scores}, found)
    assert recall["after"] == dict.fromkeys(recall["random"], 1.0)
    assert recall_at(scores, torch.from_numpy(found.shared_users), ITEMS_PER_GROUP) == 1.0
    assert recall["random"]["co_liked@10"] == pytest.approx(10 / NUM_ITEMS)
    assert recall["random"]["beyond_chance@10"] == pytest.approx(10 / NUM_ITEMS)
    assert recall["random"]["co_liked@50"] == 1.0
    assert TOP == (10, 50)


def test_an_item_of_both_domains_is_not_its_own_partner():
    found = grouped(first_target_item=1)
    assert found.is_same_item.sum() == NUM_ITEMS
    assert not found.is_beyond_chance[found.is_same_item].any()
    # Itself scores highest, and is not counted among the two it has room for.
    scores = one_hot_groups() @ one_hot_groups().t() + torch.eye(NUM_ITEMS)
    allowed = scores.masked_fill(torch.from_numpy(found.is_same_item), -torch.inf)
    assert recall_of_partners(allowed, torch.from_numpy(found.is_beyond_chance), 2) == 1.0


def test_recall_weighs_partners_by_the_users_they_share():
    scores = torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [1.0, 1.0, 1.0]])
    shared = torch.tensor([[3.0, 1.0, 0.0], [4.0, 0.0, 4.0], [0.0, 0.0, 0.0]])
    # 3 of 4 and 4 of 8; the third item has no partner.
    assert recall_at(scores, shared, 1) == pytest.approx((3 / 4 + 4 / 8) / 2)
    assert math.isnan(recall_at(scores, torch.zeros(3, 3), 1))
    # One fits, and two.
    assert recall_of_partners(scores, shared > 0, 1) == 1.0
    assert recall_of_partners(scores, shared > 0, 2) == pytest.approx((2 / 2 + 1 / 2) / 2)


def test_likes_are_held_out_after_training_and_counted_before_it():
    user, item = np.array([1, 1, 1, 2, 2, 2]), np.array([5, 6, 5, 5, 9, 6])
    is_held_out = np.array([False, False, True, True, True, True])
    is_liked = np.array([True, False, True, True, True, False])
    found = likes(user, item, is_held_out, is_liked)
    # Item 9 was never in training; what user 2 thinks of item 6 is no like.
    assert (found.items.tolist(), found.num_trained.tolist()) == ([5, 6], [1, 0])
    assert (found.user.tolist(), found.item.tolist()) == ([1, 2], [0, 0])
    kept = popular(found, 1)
    assert (kept.items.tolist(), kept.user.tolist(), kept.item.tolist()) == ([5], [1, 2], [0, 0])


def test_alignment_by_hand():
    vectors = DomainVectors(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    # Squared distances 0, 4; 2, 2.
    assert alignment(vectors, torch.tensor([[1.0, 0.0], [0.0, 1.0]])) == pytest.approx((0 + 2) / 2)
    assert alignment(vectors, torch.tensor([[3.0, 1.0], [0.0, 0.0]])) == pytest.approx((3 * 0 + 1 * 4) / 4)
    # Margins (1, 1) and (1, 1): all four pairs alike.
    assert chance_alignment(vectors, torch.tensor([[1.0, 0.0], [0.0, 1.0]])) == pytest.approx((0 + 4 + 2 + 2) / 4)


def test_uniformity_by_hand():
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    assert uniformity(vectors) == pytest.approx(math.log((2 * math.exp(-2 * 2) + math.exp(-2 * 4)) / 3))
    assert uniformity(vectors[:1].repeat(4, 1)) == pytest.approx(0.0)


def test_discrepancy_by_hand():
    found = discrepancy(torch.zeros(2, 1), torch.ones(2, 1))
    # Median distance 1, as are four of six.
    across = sum(math.exp(-1 / (2 * width**2)) for width in BANDWIDTHS) / len(BANDWIDTHS)
    assert found.mmd_squared == pytest.approx(1 + 1 - 2 * across)


def test_discrepancy_tells_other_distributions_from_the_same():
    draw = torch.Generator().manual_seed(0)
    first, second = (normalize(torch.randn(80, 4, generator=draw), dim=1) for _ in range(2))
    alike, apart = discrepancy(first, second), discrepancy(first, normalize(second + 1.0, dim=1))
    assert alike.mmd_squared < alike.by_chance < 0.02
    assert apart.mmd_squared > 5 * apart.by_chance


def test_numbers_of_a_space_that_is_aligned_by_group():
    numbers = alignment_numbers(DomainVectors(one_hot_groups(), one_hot_groups()), grouped())
    assert numbers["alignment_beyond_chance"] == pytest.approx(0.0)
    assert numbers["alignment_beyond_chance_independent"] == pytest.approx(2 * 3 / 4)
    assert numbers["mmd_squared"] < numbers["mmd_squared_by_chance"]
