"""Torch files that are damaged, hold anything but tensors or ask to run code are refused, and nothing runs."""

import os
import struct
import zipfile

import pytest

from tests.pretrained.refusals import CANNOT, check_refusal, truncated
from tests.pretrained.test_sources import TENSORS, WRITERS, by_torch
from tests.pretrained.torch_writing import save_torch


class RunsCode:
    def __reduce__(self):
        return os.system, ("touch it-ran",)


def code_in_a_pickle(path, legacy=False):
    by_torch(path, legacy)
    save_torch(TENSORS, path / "pytorch_model.bin", legacy, {"more": RunsCode()})
    return path


STORAGE = "(S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI4\ntQ"

TENSOR = f"ctorch._utils\n_rebuild_tensor_v2\n({STORAGE}I0\n(I4\nt(I1\nttR"

CHANGED_STORAGE = STORAGE + "}S'count'\nI2000000\nsb"

OUTSIDE = {
    "its shape changed": TENSOR + "}S'shape'\n(I2000000\ntsb",
    "its slots changed": TENSOR + "(N}S'shape'\n(I2000000\ntstb",
    "its storage changed": TENSOR.replace(STORAGE, CHANGED_STORAGE),
}


def outside_a_storage(change):
    """Makes a writer of a pickle that changes an object after it was made (the opcode ``b``)."""

    def write(path):
        by_torch(path)
        with zipfile.ZipFile(path / "pytorch_model.bin", "w") as archive:
            archive.writestr("archive/data.pkl", "}S'norm.weight'\n" + OUTSIDE[change] + "s.")
            archive.writestr("archive/data/0", bytes(16))
        return path

    return write


def long_bytes_in_an_older_file(path):
    by_torch(path)
    (path / "pytorch_model.bin").write_bytes(b"\x80\x05\x8e" + struct.pack("<Q", 2**62) + b"abc.")
    return path


def number_in_a_pickle(path):
    by_torch(path)
    save_torch(TENSORS, path / "pytorch_model.bin", more={"epoch": 3})
    return path


def pickled(body):
    """Makes a writer of a torch file with this pickle."""

    def write(path):
        by_torch(path)
        with zipfile.ZipFile(path / "pytorch_model.bin", "w") as archive:
            archive.writestr("archive/data.pkl", body)
        return path

    return write


WRONG = {
    "a pickle that asks for memory": (
        pickled(b"\x80\x02K\x01r\xff\xff\xff\x7f."),
        f"{CANNOT}expected at most 2 things kept by now, got number 2147483647",
    ),
    "a pickle of a long array": (
        pickled(b"\x80\x05\x96" + struct.pack("<Q", 2**36) + b"abc."),
        "pytorch_model.bin: expected a whole torch file, got one that cannot be read: expected 68719476736 bytes",
    ),
    "an older pickle of long bytes": (
        long_bytes_in_an_older_file,
        f"{CANNOT}expected 4611686018427387904 bytes in a bytes8, but only 4 remain",
    ),
    "truncated torch": (truncated(by_torch), "pytorch_model.bin: expected a whole torch file, got one that "),
    "truncated older torch": (
        truncated(WRITERS["torch before 2020"]),
        "pytorch_model.bin: expected a whole torch file, got one that cannot be read: expected ",
    ),
    "code": (code_in_a_pickle, "it asks to run posix.system; only tensors are read and nothing is run"),
    "code in an older file": (
        lambda path: code_in_a_pickle(path, legacy=True),
        "it asks to run posix.system; only tensors are read and nothing is run",
    ),
    **{
        f"a tensor with {change}": (
            outside_a_storage(change),
            "expected tensors and storages as they were made, got one",
        )
        for change in OUTSIDE
    },
    "a number among tensors": (number_in_a_pickle, "expected tensors by name, got int for 'epoch'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_pickles_of_anything_else_are_refused_in_one_line(case, tmp_path, monkeypatch):
    check_refusal(WRONG[case], tmp_path, monkeypatch)
