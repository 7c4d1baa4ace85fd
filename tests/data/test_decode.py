"""Pixels whose numbers have no plain reading are refused, not read as black."""

import numpy as np
import pytest
from PIL import Image

from ofatvm.data.decode import decoded
from ofatvm.errors import DatasetError


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_32_bit_tiffs_are_refused(tmp_path, kind):
    path = tmp_path / "odd.tiff"
    Image.fromarray(np.full((8, 8), 120, kind)).save(path)
    with pytest.raises(DatasetError, match=r"odd\.tiff cannot be decoded: .*32-bit numbers"):
        decoded(path, 1, 8)


def test_a_16_bit_tiff_is_read_by_its_upper_bits(tmp_path):
    path = tmp_path / "deep.tiff"
    Image.fromarray(np.full((8, 8), 120 << 8, np.uint16)).save(path)
    assert (decoded(path, 1, 8) == 120).all()
