"""What a report does about a snapshot that cannot be read."""

import re

from jattn.report import read_record


def assert_left_out(run_dir, message, step=50):
    """Asserts that a record leaves out the snapshot of a step, names its file, and holds the others."""
    record = read_record(run_dir)
    assert record.steps
    assert step not in record.steps
    assert len(record.snapshots) == len(record.steps)
    assert [bool(re.search(message, problem)) for problem in record.problems] == [True]
    assert record.problems[0].endswith("; it is left out")
