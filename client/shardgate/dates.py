"""Dates in HTTP headers, which anybody may have written."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

MAX_DATE = 100
"""Characters of a date; the three forms that RFC 9110 knows have up to 33."""


def parse_http_date(text: str | None) -> datetime | None:
    """The moment that a header names, in UTC; None where it names none that a datetime can hold."""
    if text is None or len(text) > MAX_DATE:
        return None
    try:
        date = parsedate_to_datetime(text)
        # A date without a zone, or with -0000, is meant in UTC. Changing the zone may leave the years 1 to 9999.
        return date.replace(tzinfo=UTC) if date.tzinfo is None else date.astimezone(UTC)
    except (ValueError, OverflowError, TypeError, IndexError, AttributeError):
        return None
