r"""Bash brace expansion of object names: `{000000..000005}`, steps, letters, lists, nesting.

bracex does the work and counts before it expands, so that `{1..1000000000}` is refused at once and costs no memory.
Unlike a shell we have no quotes and no variables, but backslash escapes hold: `\{` is a brace of the name.
"""

from __future__ import annotations

from itertools import islice

import bracex

from shardgate.errors import TemplateError

LIMIT = 1_000_000


def expand(template: str, *, limit: int = LIMIT, keep_escapes: bool = False) -> list[str]:
    """Expand a template to at most `limit` names, in bash's order.

    Args:
        template: See above.
        limit: Names.
        keep_escapes: Leave backslashes in, for who reads the names as patterns.

    Raises:
        TemplateError: It expands to more, or nests too deeply.
    """
    try:
        return list(islice(bracex.iexpand(template, limit=limit, keep_escapes=keep_escapes), limit))
    except bracex.ExpansionLimitException as error:
        raise TemplateError(
            f"template {template!r} expands to more than {limit:,} names", hint="narrow the range, or raise `limit`"
        ) from error
    except RecursionError as error:
        raise TemplateError(f"template of {len(template)} characters nests too deeply") from error
