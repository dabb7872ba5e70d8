"""Folds part the images, whatever their order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.test_batches import Numbered
from vitpe.data.folds import folds_of, only_fold, without_fold
from vitpe.errors import UsageError

names = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), min_size=2, max_size=40, unique=True)


@given(names, st.integers(2, 8), st.randoms())
@settings(deadline=None)
def test_they_are_equal_in_size_and_go_by_name(names, num_folds, random):
    if len(names) < num_folds:
        with pytest.raises(UsageError, match="cannot be parted into"):
            folds_of(names, num_folds)
        return
    folds = folds_of(names, num_folds)
    sizes = np.bincount(folds, minlength=num_folds + 1)
    assert sizes[0] == 0
    assert len(sizes) == num_folds + 1
    assert max(sizes[1:]) - min(sizes[1:]) <= 1
    order = random.sample(range(len(names)), len(names))
    assert folds_of([names[i] for i in order], num_folds).tolist() == folds[order].tolist()


def test_what_is_left_out_and_the_rest_are_all_images():
    samples = Numbered(50)
    seen = []
    for number in (1, 2, 3):
        inside, chosen = only_fold(samples, number, 3)
        rest = without_fold(samples, number, 3)
        assert {*inside.names} | {*rest.names} == {*samples.names}
        assert not {*inside.names} & {*rest.names}
        for part in (inside, rest):
            at = [samples.names.index(name) for name in part.names]
            assert np.array_equal(part.labels, samples.labels[at])
            assert np.array_equal(part.read([3, 0, 3]), samples.pixels[[at[3], at[0], at[3]]])
            assert np.array_equal([*part.read_each([2, 1])], samples.pixels[[at[2], at[1]]])
        assert [samples.names[i] for i in chosen] == inside.names
        assert f"fold {number} of 3: {len(inside.names)} images are left out of training" in rest.notes
        seen += inside.names
    assert sorted(seen) == sorted(samples.names)
