from __future__ import annotations

import uuid

import pytest
from benchmarks.pods import Seen, cpu_of, processes_of


def test_the_time_of_a_change_is_that_of_the_first_line_that_shows_it() -> None:
    seen = Seen([(1.0, "pod||Pending"), (2.0, "pod|node-1|Running"), (3.0, "pod|node-1|Running, Ready")])

    assert seen.first("Running") == 2.0
    with pytest.raises(RuntimeError, match="no change showed 'Failed' among 3"):
        seen.first("Failed")


def test_a_pod_that_is_not_on_this_machine_has_no_processes_here() -> None:
    unknown = [str(uuid.uuid4())]

    assert processes_of(unknown) == []
    assert cpu_of(unknown) == 0
