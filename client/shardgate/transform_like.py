"""What `transform_id=` takes beside the text of an id or name: a transform, or a pipeline of them."""

from __future__ import annotations


class TransformLike:
    """Something with an id that the gateway knows. Attributes: uuid: the id."""

    uuid: str


def id_of(transform: str | TransformLike) -> str:
    """The id or name that this means.

    Raises:
        TypeError: It is neither text nor a transform.
    """
    if isinstance(transform, TransformLike):
        return transform.uuid
    if isinstance(transform, str):
        return transform
    raise TypeError(f"transform_id is an id, a name or a transform, and not {transform!r:.100}")
