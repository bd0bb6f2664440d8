"""Rows of several datasets in one, and the order in which they are drawn."""

from collections import Counter

import pytest
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler
from trl.trainer.utils import RepeatSampler

from aurora_trl.data import DataError
from aurora_trl.data.mixture import Source, mix_datasets, source_weights
from aurora_trl.data.schema import as_dataset, clip_key
from aurora_trl.generation.mixture_sampler import MixtureSampler
from aurora_trl.training.rollout_sampler import RolloutRows, RolloutSampler


def rows(count, per_clip=1, **columns):
    return as_dataset(
        [
            {"id": str(i), "reference": f"thing {i}", "is_null": False, "frames": [f"{i // per_clip}.jpg"], **columns}
            for i in range(count)
        ],
        "test",
    )


def mix(*parts):
    return mix_datasets([Source(name, weight, part) for name, weight, part in parts])


@pytest.fixture
def mixture():
    return mix(("large", 1.0, rows(60)), ("small", 2.0, rows(7)), ("middle", 1.0, rows(13)))


def names(mixture, order):
    known = list(mixture["mixture_source"])
    return [known[i] for i in order]


def test_rows_keep_what_they_have_and_get_ids_of_their_own():
    mixture = mix(("a", 1, rows(2, loudness=0.5)), ("b", 3, rows(2, mask_value=1, reference_kind="text")))
    assert mixture["id"] == ["a:0", "a:1", "b:0", "b:1"]
    assert mixture["loudness"] == [0.5, 0.5, None, None]
    assert mixture["mask_value"] == [None, None, 1, 1]
    assert mixture["reference_kind"] == [None, None, "text", "text"]
    assert source_weights(mixture) == {"a": 1.0, "b": 3.0}
    assert source_weights(rows(2)) == {}


def test_what_can_not_be_mixed_is_named():
    with pytest.raises(DataError, match="two datasets of the mixture are called 'a'; give each a `name`"):
        mix(("a", 1, rows(2)), ("a", 1, rows(2)))
    with pytest.raises(DataError, match="the column `loudness` is of one kind in 'a' and of another in 'b'"):
        mix(("a", 1, rows(2, loudness=0.5)), ("b", 1, rows(2, loudness="high")))


def test_each_source_has_its_share_of_every_batch(mixture):
    """Weights 1, 2 and 1: of 8 rows 2, 4 and 2, and of any number at most one more or less."""
    drawn = names(mixture, MixtureSampler(mixture, seed=3))
    assert len(drawn) == 80
    for start in range(0, 80, 8):
        assert Counter(drawn[start : start + 8]) == {"large": 2, "small": 4, "middle": 2}
    for size in (3, 5, 11):
        for start in range(0, 80 - size):
            found = Counter(drawn[start : start + size])
            assert abs(found["small"] - size / 2) <= 1
            assert abs(found["large"] - size / 4) <= 1


def test_a_source_comes_in_passes_and_epochs_go_on_from_each_other(mixture):
    sampler = MixtureSampler(mixture, seed=3)
    order = []
    for epoch in range(4):
        sampler.set_epoch(epoch)
        order += list(sampler)
    assert len(order) == 320
    sources = names(mixture, range(80))
    for name, size in (("large", 60), ("small", 7), ("middle", 13)):
        own = [i for i in order if sources[i] == name]
        passes = [own[start : start + size] for start in range(0, len(own) - size + 1, size)]
        assert all(len(set(part)) == size for part in passes)
        assert len({tuple(part) for part in passes}) == len(passes)  # each in another order
    # All of the large one come within three epochs, and none of it twice in one.
    assert len({i for i in order[:240] if sources[i] == "large"}) == 60


def test_the_order_is_the_seeds_alone_and_is_found_again_in_any_epoch(mixture):
    orders = []
    for seed in (3, 3, 4):
        sampler = MixtureSampler(mixture, seed=seed)
        sampler.set_epoch(2)  # as a run that goes on does
        orders.append(list(sampler))
    assert orders[0] == orders[1] != orders[2]
    whole = MixtureSampler(mixture, seed=3)
    for epoch in range(3):
        whole.set_epoch(epoch)
        last = list(whole)
    assert last == orders[0]


def test_the_rows_of_a_clip_stay_together():
    mixture = mix(("a", 1.0, rows(40, per_clip=4)), ("b", 1.0, rows(20, per_clip=2)))
    order = list(MixtureSampler(mixture, seed=1, by_clip=True))
    clips = [(name, clip_key(mixture[i])) for name, i in zip(names(mixture, order), order, strict=True)]
    runs = [clip for place, clip in enumerate(clips) if place == 0 or clips[place - 1] != clip]
    within = Counter(runs)
    # A clip comes once in each pass of its source: of the small one there is a pass and a half.
    assert {count for (source, _), count in within.items() if source == "a"} <= {1}
    assert {count for (source, _), count in within.items() if source == "b"} <= {1, 2}
    drawn = Counter(names(mixture, order))
    assert abs(drawn["a"] - 30) <= 4
    for start in range(0, 60, 12):
        assert 4 <= Counter(names(mixture, order[start : start + 12]))["a"] <= 8


def test_rollouts_have_the_order_of_the_mixture(mixture):
    own = RepeatSampler(RolloutRows(mixture), mini_repeat_count=3, batch_size=4, repeat_count=2, seed=5)
    sampler = RolloutSampler.like(own, MixtureSampler(mixture, 5))
    expected = MixtureSampler(mixture, 5)
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        expected.set_epoch(epoch)
        drawn = list(sampler)
        assert len(drawn) == len(sampler) == 80 * 3 * 2
        order = list(expected)
        for rollout in range(20):
            part = drawn[rollout * 24 : rollout * 24 + 24]
            questions = order[rollout * 4 : rollout * 4 + 4]
            assert part[:12] == [i for i in questions for _ in range(3)]
            assert part[12:] == [~i for i in part[:12]]
            assert Counter(names(mixture, questions))["small"] == 2


def test_processes_share_the_batches(mixture):
    """As accelerate deals them."""
    batches = BatchSampler(MixtureSampler(mixture, 7), batch_size=4, drop_last=False)
    shares = [list(BatchSamplerShard(batches, num_processes=2, process_index=process)) for process in range(2)]
    order = [i for pair in zip(*shares, strict=True) for batch in pair for i in batch]
    assert order == list(MixtureSampler(mixture, 7))
    for batch in (batch for share in shares for batch in share):
        assert Counter(names(mixture, batch)) == {"large": 1, "small": 2, "middle": 1}
