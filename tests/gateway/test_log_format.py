"""Whatever text is logged, a record is one line, and nothing else looks like a record."""

from __future__ import annotations

import io
import json
import logging
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardgate_gateway.log_format import INDENT, JsonFormatter, LineFormatter

RECORD = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ \S+\[\d+\]: ")
FORGED = "2026-01-01 00:00:00,000 ERROR shardgate_gateway.app[1]: all is lost"


class Hostile:
    def __str__(self) -> str:
        raise SystemExit("from __str__")

    __repr__ = __str__


def lines_of(*arguments: object, formatter: logging.Formatter | None = None, **options: object) -> list[str]:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(formatter or LineFormatter())
    logger = logging.Logger("test")  # noqa: LOG001 (it shall have no parent)
    logger.addHandler(handler)
    logger.error(*arguments, **options)  # type: ignore[arg-type]
    return out.getvalue().rstrip("\n").split("\n")


@given(
    st.text() | st.sampled_from([f"x\n{FORGED}", "\x1b[2J\x1b]0;title\x07", "\x9b31m", "a\r\nb", "\u2028", "\udce9"])
)
def test_the_text_of_a_record_never_leaves_its_line(text: str) -> None:
    for lines in (lines_of("said %s", text), lines_of(text.replace("%", "%%"))):
        assert len(lines) == 1
        assert RECORD.match(lines[0])
        assert lines[0].isprintable() or not re.search(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", lines[0])
        lines[0].encode()


def test_a_traceback_is_indented_whatever_the_exception_says() -> None:
    try:
        exec(f"raise ValueError('''oh\n{FORGED}\n\x1b[2J''')")
    except ValueError:
        record, *trace = lines_of("request %s failed", "r1", exc_info=True)
    assert record.endswith("request r1 failed")
    assert all(line.startswith(INDENT) and not RECORD.match(line) for line in trace)
    assert any(FORGED in line for line in trace)
    assert "\x1b" not in "".join(trace)


@pytest.mark.parametrize("argument", [Hostile(), b"\xff", "x" * (1 << 20)])
def test_what_cannot_be_shown_is_still_one_short_line(argument: object) -> None:
    (line,) = lines_of("said %s", argument)
    assert RECORD.match(line)
    assert len(line) < 20_000


def test_a_message_whose_arguments_do_not_fit_is_still_a_record() -> None:
    (line,) = lines_of("%d of %d", "x")
    assert RECORD.match(line)


@given(st.text() | st.sampled_from([f"x\n{FORGED}", "\x1b[2J", "\u2028", "\udce9", '"}\n{"level": "error"}']))
def test_as_json_every_record_is_one_object_whatever_text_is_in_it(text: str) -> None:
    (line,) = lines_of("said %s", text, formatter=JsonFormatter(), extra={"fields": {"path": text, "status": 502}})
    record = json.loads(line)
    assert record["status"] == 502
    assert record["level"] == "error"
    for value in (record["message"], record["path"]):
        assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028\ud800-\udfff]", value)


def test_as_json_a_traceback_stays_in_its_record() -> None:
    try:
        exec(f"raise ValueError('{FORGED}')")
    except ValueError:
        (line,) = lines_of("request %s failed", "r1", exc_info=True, formatter=JsonFormatter())
    assert json.loads(line)["traceback"].endswith(f"ValueError: {FORGED}")
