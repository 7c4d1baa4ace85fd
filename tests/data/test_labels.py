"""Labels are checked by value; a held-out part has every class's share."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofatvm.data.labels import check_distinct, check_training, checked_labels, hold_out
from ofatvm.errors import DatasetError


def test_labels_become_int64() -> None:
    assert checked_labels(np.array([0, 1], np.uint8), "x").dtype == np.int64


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (np.array([0, -3]), r"label -3 of image 1 in x\.npz is out of range \(0 to 9\)"),
        (np.array([0, 10, 3]), r"label 10 of image 1 in x\.npz"),
        (np.array([2**64 - 1], np.uint64), "label 18446744073709551615"),
        (np.array([0.0, 1.0]), "float64"),
        (np.array([True]), "bool"),
        (np.zeros((3, 1), int), r"\(3, 1\)"),
        (np.zeros(0, int), r"x\.npz holds no images"),
    ],
)
def test_wrong_labels_are_refused(labels: np.ndarray, said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        checked_labels(labels, "x.npz", classes=10)


def test_an_absurd_label_is_refused_without_knowing_the_classes() -> None:
    with pytest.raises(DatasetError, match="label 1000000 of image 0"):
        checked_labels(np.array([1_000_000]), "x")


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([0, 0, 2, 2], r"class 'b' \(label 1\) has no training image in x"),
        ([0, 0, 1, 2, 2], "class 'b' has 1 training image in x, at least 2"),
    ],
)
def test_classes_need_two_images(labels: list[int], said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        check_training(np.array(labels), ("a", "b", "c"), "x")


def test_one_class_is_not_enough() -> None:
    with pytest.raises(DatasetError, match=r"x has 1 class \(a\)"):
        check_training(np.array([0, 0]), ("a",), "x")


def split_counts(labels: np.ndarray, **options: object) -> tuple[list[int], list[int]]:
    train, val = hold_out(labels, **({"holdout": None, "seed": 0, "where": "x"} | options))  # type: ignore[arg-type]
    assert np.array_equal(np.sort(np.concatenate([train, val])), np.arange(len(labels)))
    return np.bincount(labels[train]).tolist(), np.bincount(labels[val]).tolist()


def test_a_sixth_is_held_out_of_every_class() -> None:
    assert split_counts(np.repeat([0, 1, 2], [60, 30, 6])) == ([50, 25, 5], [10, 5, 1])


def test_at_most_ten_thousand_are_held_out_by_default() -> None:
    assert split_counts(np.arange(90_000) % 2)[1] == [5000, 5000]


def test_holdout_is_a_number_or_a_share() -> None:
    labels = np.arange(100) % 2
    assert split_counts(labels, holdout=10)[1] == [5, 5]
    assert split_counts(labels, holdout=0.3)[1] == [15, 15]


def test_a_small_class_keeps_two_images() -> None:
    assert split_counts(np.repeat([0, 1], [20, 3]), holdout=18)[0] == [3, 2]


@pytest.mark.parametrize("holdout", [0, -1, 0.0, 1.0, 1.5, float("nan"), True, -0.1])
def test_a_holdout_out_of_range_is_refused(holdout: float) -> None:
    with pytest.raises(DatasetError, match=rf"--holdout must be .* got {holdout}"):
        hold_out(np.arange(100) % 2, holdout=holdout, seed=0, where="x")


@pytest.mark.parametrize("holdout", [17, 0.9, 0.01])
def test_a_holdout_that_leaves_too_little_is_refused(holdout: float) -> None:
    wanted = holdout if isinstance(holdout, int) else round(holdout * 20)
    with pytest.raises(DatasetError, match=f"holding out {wanted} of the 20 images of x") as error:
        hold_out(np.arange(20) % 2, holdout=holdout, seed=0, where="x")
    assert error.value.hint == "--holdout can be 1 to 16 here"


def test_nothing_can_be_held_out_of_two_images_a_class() -> None:
    with pytest.raises(DatasetError, match="holding out 1 of the 4 images") as error:
        hold_out(np.arange(4) % 2, holdout=None, seed=0, where="x")
    assert error.value.hint == "add images to every class"


def test_the_seed_decides_which_images_are_held_out() -> None:
    labels = np.arange(100) % 2
    one, again, other = (hold_out(labels, holdout=20, seed=s, where="x")[1] for s in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert len(set(one.tolist()) & set(other.tolist())) < 15


@given(counts=st.lists(st.integers(2, 40), min_size=2, max_size=8), data=st.data())
def test_every_split_has_the_size_asked_for_and_shares_within_one(
    counts: list[int], data: st.DataObject
) -> None:
    room = sum(counts) - 2 * len(counts)
    if room == 0:
        return
    labels = np.repeat(np.arange(len(counts)), counts)
    wanted = data.draw(st.integers(1, room))
    train, val = split_counts(labels, holdout=wanted)
    val += [0] * (len(counts) - len(val))
    assert sum(val) == wanted
    assert min(train) >= 2
    shares = [wanted * count / len(labels) for count in counts]
    if all(share <= count - 2 for share, count in zip(shares, counts, strict=True)):
        assert all(abs(v - share) <= 2 for v, share in zip(val, shares, strict=True))


@pytest.mark.parametrize("name", ["", "  ", "two\nlines", "bell\a", "\udcff", "x" * 256])
def test_a_class_name_is_one_line_of_text(name: str) -> None:
    with pytest.raises(DatasetError, match="a name must be one line of text"):
        check_training(np.array([0, 0, 1, 1]), ("fine", name), "here")


def test_two_of_very_many_names_that_are_alike_are_found() -> None:
    names = (*map(str, range(300_000)), "299999")
    with pytest.raises(DatasetError, match="'299999' is there twice"):
        check_distinct(names, "set.npz")
