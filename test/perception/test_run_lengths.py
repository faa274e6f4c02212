import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvad_perception.datasets.run_lengths import Rle, decode_rle, rle_to_mask
from lvad_perception.errors import LabelError


@given(st.integers(1, 12), st.integers(1, 12), st.randoms(use_true_random=False), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_run_lengths_equal_pycocotools(height, width, random, density):
    coco = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    mask = np.array([[random.random() < density for _ in range(width)] for _ in range(height)], np.uint8)
    compressed = coco.encode(np.asfortranarray(mask))["counts"].decode()
    np.testing.assert_array_equal(rle_to_mask(Rle(compressed, (height, width))), mask.astype(bool))
    flat = mask.T.ravel()
    changes = np.flatnonzero(np.diff(np.concatenate([[0], flat]))).tolist()
    runs = np.diff([0, *changes, flat.size]).tolist()
    np.testing.assert_array_equal(rle_to_mask(Rle(runs, (height, width))), mask.astype(bool))


def test_long_runs_survive_compression():
    coco = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    mask = np.zeros((720, 1280), np.uint8)
    mask[100:700, 5:1200], mask[300:302] = 1, 0
    rle = Rle(coco.encode(np.asfortranarray(mask))["counts"].decode(), (720, 1280))
    np.testing.assert_array_equal(rle_to_mask(rle), mask.astype(bool))


@pytest.mark.parametrize("counts", [[3, 2], "zz", "O", "\x01", "é", [-1, 13]])
def test_run_lengths_that_do_not_fill_their_size_are_refused(counts):
    with pytest.raises(LabelError, match="'rle'"):
        rle_to_mask(Rle(counts, (3, 4)))


def test_what_are_no_run_lengths_is_refused():
    assert decode_rle(b"null") is None
    with pytest.raises(LabelError, match="'rle' is not COCO run lengths"):
        decode_rle(b'{"counts": 3}')


def test_real_run_lengths_agree_in_both_spellings(format_cases):
    plain, compressed = (
        rle_to_mask(decode_rle((format_cases / "seg" / name).read_bytes()))
        for name in ("coco_rle.json", "scalabel_rle.json")
    )
    np.testing.assert_array_equal(plain, compressed)
    assert plain.any()


@pytest.mark.parametrize("counts", [[2**63 - 1, 2**63 - 1, 2 + 12], [2**70], [-1, 13]])
def test_counts_beyond_any_image_are_refused_before_memory_is_taken(counts):
    with pytest.raises(LabelError, match=r"'rle' (covers|counts are beyond)"):
        rle_to_mask(Rle(counts, (3, 4)))
