"""Whatever a date header holds, it is a moment that can be used, or none."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shardgate.dates import parse_http_date


@pytest.mark.parametrize(
    "text",
    [
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
        "Sun, 06 Nov 1994 08:49:37 -0000",
        "Sun, 06 Nov 1994 08:49:37",
        "Sun, 06 Nov 1994 10:49:37 +0200",
    ],
)
def test_the_forms_of_a_date_name_one_moment(text):
    assert parse_http_date(text) == datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "soon",
        "Fri, 31 Dec 9999 23:59:59 -1200",
        "Sun, 06 Nov 1994 08:49:37 +99999999999999",
        "Sun, 06 Nov 1994 08:49:37 -9999",
        "Sun, 06 Nov 99999999 08:49:37 GMT",
        f"Sun, 06 Nov {'9' * 5000} 08:49:37 GMT",
        "Sun, 99 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 25:61:61 GMT",
        "\udce9\udcff",
    ],
)
def test_what_is_no_moment_is_none(text):
    assert parse_http_date(text) is None


@given(
    st.one_of(
        st.text(max_size=120),
        st.from_regex(
            r"\A(\w{3}, )?[0-9]{1,12}[ -](Jan|Dec|Feb)[ -][0-9]{1,12} "
            r"[0-9]{1,9}(:[0-9]{1,9}){0,3} ?([+-][0-9]{1,16}|GMT|\w*)\Z"
        ),
    )
)
@example("Fri, 31 Dec 9999 23:59:59 -1200")
def test_no_date_is_too_odd_for_it(text):
    date = parse_http_date(text)
    if date is not None:
        assert date.tzinfo is UTC
        assert datetime.fromtimestamp(date.timestamp(), UTC) == date
        format_datetime(date, usegmt=True).encode("ascii")
