from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from lvad_training.data.sampling import TrainingStream


def stream(**changes):
    return TrainingStream(**{"count": 7, "batch_size": 3, "seed": 0, "first": 0, "last": 20, **changes})


@given(count=st.integers(1, 30), batch_size=st.integers(1, 8), seed=st.integers(0, 5))
def test_every_epoch_holds_every_image_once(count, batch_size, seed):
    keys = [key for batch in stream(count=count, batch_size=batch_size, seed=seed, last=40) for key in batch]
    whole = Counter(key for key in keys if key[0] < keys[-1][0])
    assert set(whole.values()) <= {1}
    assert len(whole) == keys[-1][0] * count


def test_a_resumed_stream_continues_where_it_stopped():
    assert list(stream(first=11)) == list(stream())[11:]
    assert len(stream(first=11)) == 9


def test_the_seed_decides():
    assert list(stream(seed=1)) == list(stream(seed=1))
    assert list(stream(seed=1)) != list(stream(seed=2))


def test_processes_share_each_step():
    together = list(stream(batch_size=6))
    parts = [list(stream(process=rank, processes=2)) for rank in range(2)]
    assert [first + second for first, second in zip(*parts, strict=True)] == together
