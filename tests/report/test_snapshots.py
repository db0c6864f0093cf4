"""Pooled snapshots: that they read back, how small they are kept, and what is refused."""

import dataclasses

import numpy as np
import pytest

from jattn.drawing.bins import pool_weights
from jattn.report.measures import measure
from jattn.report.record import Layer, read_record
from jattn.report.snapshots import Pooled, read_answers, read_snapshot, save_snapshot, snapshot_path
from tests.report.damage import assert_left_out

LAYER = Layer("block_0/attention", 1, oracle=True)


def pooled_arrays(examples=2, heads=1, queries=40, bins=16, k=8):
    shape = (examples, heads)
    rows = np.zeros((*shape, queries, k))
    measures = (np.full(shape, number) for number in (0.123456789, 0.5, 3.0))
    return Pooled(np.zeros((*shape, bins, bins)), rows, rows.astype(int), *measures)


def test_what_is_pooled_is_kept_in_few_bytes_and_its_measures_in_float32(tmp_path):
    pooled = dataclasses.replace(pooled_arrays(), top_keys=np.full((2, 1, 40, 8), 300))
    save_snapshot(tmp_path, 0, {"layer": pooled, "short": np.ones((2, 1, 3, 3))})
    with np.load(snapshot_path(tmp_path, 0)) as arrays:
        dtypes = {name: str(array.dtype) for name, array in arrays.items()}
    assert dtypes == {
        "layer:map": "float16",
        "layer:top_weights": "float16",
        "layer:top_keys": "uint16",
        "layer:mass": "float32",
        "layer:hit_rate": "float32",
        "layer:entropy": "float32",
        "short": "float32",
    }


def test_keys_that_are_missing_are_kept_as_any_key(tmp_path, make_pooled_run):
    run_dir = make_pooled_run()
    save_snapshot(
        run_dir, 50, {LAYER.name: dataclasses.replace(pooled_arrays(), top_keys=-np.ones((2, 1, 40, 8), int))}
    )
    assert (read_record(run_dir).snapshots[1][LAYER.name].top_keys == 0).all()


def test_a_pooled_run_reads_back_cut_to_the_length_of_each_example(make_pooled_run):
    record = read_record(make_pooled_run(lengths=(40, 12)))
    assert record.is_pooled(LAYER)
    assert [record.counts(LAYER, example) for example in (0, 1)] == [(40, 40), (12, 12)]
    assert [record.picture(0, LAYER, example).shape for example in (0, 1)] == [(1, 16, 16), (1, 12, 12)]
    np.testing.assert_allclose(record.picture(2, LAYER, 1)[0], np.eye(12)[::-1])
    assert record.pooling([LAYER], 0) == "pooled: each cell is 2 to 3 queries x 2 to 3 keys"
    assert record.pooling([LAYER], 1) == "pooled: each cell is 1 query x 1 key"
    with pytest.raises(ValueError, match="'block_0/attention' is kept pooled at step 50, expected weights"):
        record.filters(1, LAYER, 0)


def test_measures_are_those_from_before_the_pooling(make_pooled_run):
    measures = measure(read_record(make_pooled_run(lengths=(40, 24))), 1, LAYER, 1)
    assert {name: values.dtype for name, values in measures.items()} == dict.fromkeys(
        ("mass", "hit_rate", "entropy"), np.float32
    )
    # Half the weight is spread over 24 keys, the other half lies on the oracle; pooled it would be more.
    np.testing.assert_allclose(measures["mass"], [0.5 + 0.5 / 24], atol=0.01)
    assert measures["hit_rate"] == [1]


def test_a_run_whose_early_snapshots_are_whole_is_shown_pooled_throughout(make_pooled_run):
    run_dir = make_pooled_run(lengths=(40, 24))
    weights = np.random.default_rng(0).dirichlet(np.ones(40), (2, 1, 40))
    save_snapshot(run_dir, 0, {LAYER.name: weights})
    record = read_record(run_dir)
    np.testing.assert_allclose(record.picture(0, LAYER, 0), pool_weights(weights[0], (16, 16)), rtol=1e-5)
    assert record.picture(0, LAYER, 1).shape == (1, 16, 16)
    assert measure(record, 0, LAYER, 0)["mass"].shape == (1,)


def test_no_changed_bit_is_read_and_none_ends_in_another_error(tmp_path):
    weights = np.random.default_rng(0).random((2, 1, 3, 3), np.float32)
    save_snapshot(tmp_path, 0, {"a": weights}, np.full((2, 3), "x y"))
    path = snapshot_path(tmp_path, 0)
    whole = path.read_bytes()
    told = []
    for place in range(0, 8 * len(whole), 7):
        path.write_bytes(flipped(whole, place))
        try:
            np.testing.assert_array_equal(read_snapshot(path, {"a": weights.shape})["a"], weights)
            answers = read_answers(path, (2, 3))
            assert answers is None or (answers == "x y").all()
        except ValueError as error:
            told.append(str(error))
    assert all(text.startswith(f"{path}: ") for text in told)
    assert len(told) > len(whole) / 2


def flipped(data, place):
    return data[: place // 8] + bytes([data[place // 8] ^ 1 << place % 8]) + data[place // 8 + 1 :]


def test_a_snapshot_whose_answers_are_damaged_is_left_out_with_them(make_pooled_run):
    run_dir = make_pooled_run()
    path = snapshot_path(run_dir, 50)
    answers = np.full((2, 40), "a")
    save_snapshot(run_dir, 50, read_record(run_dir).snapshots[1], answers[:1])
    record = read_record(run_dir)
    assert 50 not in record.steps
    assert len(record.answers) == len(record.steps)
    expected = "expected texts of shape (2, 40) or padded beyond it, got <U1 of shape (1, 40)"
    assert record.problems == [f"{path}: answers: {expected}; it is left out"]


def changed(**fields):
    return {LAYER.name: dataclasses.replace(pooled_arrays(), **fields)}


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        (changed(map=np.zeros((1, 1, 16, 16))), r"expected a map of shape \(2, 1\) and bins, got \(1, 1, 16, 16\)"),
        (changed(map=np.zeros((2, 1, 16, 0))), r"expected a map"),
        (changed(map=np.zeros((2, 1, 16))), r"expected a map"),
        (changed(top_weights=np.zeros((2, 1, 39, 8)), top_keys=np.zeros((2, 1, 39, 8), int)), r"got \(2, 1, 39, 8\)"),
        (changed(top_keys=np.zeros((2, 1, 40, 7), int)), r"\(2, 1, 40, 8\) and \(2, 1, 40, 7\)"),
        (changed(mass=np.zeros(2)), r"expected mass of shape \(2, 1\), got \(2,\)"),
        (changed(entropy=np.zeros((2, 2))), r"expected entropy of shape \(2, 1\), got \(2, 2\)"),
    ],
)
def test_a_pooled_snapshot_of_another_shape_is_refused(make_pooled_run, filters, message):
    run_dir = make_pooled_run()
    save_snapshot(run_dir, 50, filters)
    assert_left_out(run_dir, rf"step_00000050\.npz: layer 'block_0/attention': .*{message}")


def test_a_pooled_snapshot_that_lacks_a_field_is_refused(make_pooled_run):
    run_dir = make_pooled_run()
    np.savez(snapshot_path(run_dir, 50), **{f"{LAYER.name}:map": np.zeros((2, 1, 16, 16))})
    assert_left_out(run_dir, r"step_00000050\.npz: .*block_0/attention:top_weights")


def test_keys_must_be_whole_numbers(make_pooled_run):
    run_dir = make_pooled_run()
    fields = dataclasses.asdict(pooled_arrays()) | {"top_keys": np.zeros((2, 1, 40, 8))}
    np.savez(snapshot_path(run_dir, 50), **{f"{LAYER.name}:{name}": array for name, array in fields.items()})
    assert_left_out(run_dir, r"expected the keys of the largest weights to be whole numbers, got float64")


def test_a_failed_write_leaves_the_old_pooled_file(make_pooled_run, monkeypatch):
    run_dir = make_pooled_run()
    before = snapshot_path(run_dir, 50).read_bytes()

    def refuse(file, **arrays):
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", refuse)
    with pytest.raises(OSError, match="no space left"):
        save_snapshot(run_dir, 50, {LAYER.name: pooled_arrays()})
    assert snapshot_path(run_dir, 50).read_bytes() == before
