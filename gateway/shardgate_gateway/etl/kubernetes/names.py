"""What a transform's objects are called, and how they are found again.

A transform's id has up to 65 characters and may begin with a digit; the name of a Service has at most 63 and may not,
and the name of a pod, which is its host name, is that of its Deployment and 17 more. Names are cut in their readable
part only: the digest in the id keeps them apart. The whole id stands in an annotation.
"""

from __future__ import annotations

import hashlib

NOBODY = 65532
"""User and group of every pod."""
MAX_LABEL = 63
MAX_OBJECT = 46
"""With `-5d4f8c9b7c-x2x4z` behind it, still a label."""
MAX_INSTANCE = 20
DIGEST = 16

MANAGED_BY = "shardgate"
COMPONENT = "etl"
LABEL_TRANSFORM = "shardgate.io/transform"
LABEL_NAME = "shardgate.io/name"
ANNOTATION_ID = "shardgate.io/transform-id"
ANNOTATION_OPTIONS = "shardgate.io/options"
"""Digest of the owner's options that the Deployment was made with."""
ANNOTATION_SPEC = "shardgate.io/spec"
"""Digest of the pod template, at the Deployment and its pods: another one means that options or gateway changed."""
ANNOTATION_SCALING = "shardgate.io/scaling"
"""JSON `{"min", "max", "workers"}`: pods that there may be, and jobs that one has at a time."""
ANNOTATION_STOPPED = "shardgate.io/stopped"
"""When somebody stopped it, in ISO 8601. It stays stopped until somebody starts it."""
ANNOTATION_FAILED = "shardgate.io/failed"
"""JSON `{"message", "hint", "at"}` of a start that can't succeed; its pods were taken down."""
ANNOTATION_INSTALLING = "shardgate.io/installing"
"""JSON `{"what", "until"}`: there are no pods yet, for what they need is being installed; believed until then."""
ANNOTATION_IDLE = "shardgate.io/idle"
"""When it was scaled to zero because nobody asked, in ISO 8601."""
ANNOTATION_AWAKE = "shardgate.io/awake"
"""When it was last woken from zero, in ISO 8601: idle it can only have been since then."""

ANNOTATION_SUPERSEDED = "shardgate.io/superseded"
"""When its name began to mean a newer version, in ISO 8601: it gets no pods that nobody asks for."""


def object_name(instance: str, transform_id: str) -> str:
    """The name of the Deployment, Service and Secret: unique, and a DNS label that begins with a letter."""
    readable, digest = transform_id[: -DIGEST - 1], transform_id[-DIGEST:]
    room = MAX_OBJECT - len(instance) - DIGEST - 2
    return f"{instance}-{cut(readable, room)}-{digest}"


def transform_label(transform_id: str) -> str:
    """The id as a label's value: the whole id, unless it is too long for one."""
    readable, digest = transform_id[: -DIGEST - 1], transform_id[-DIGEST:]
    return f"{cut(readable, MAX_LABEL - DIGEST - 1)}-{digest}"


def instance_labels(instance: str) -> dict[str, str]:
    """What every object of this installation is labelled with."""
    return {
        "app.kubernetes.io/name": "shardgate",
        "app.kubernetes.io/instance": instance,
        "app.kubernetes.io/managed-by": MANAGED_BY,
    }


def labels(instance: str, transform_id: str) -> dict[str, str]:
    """What every object of a transform is labelled with."""
    return {
        **instance_labels(instance),
        "app.kubernetes.io/component": COMPONENT,
        LABEL_TRANSFORM: transform_label(transform_id),
        LABEL_NAME: transform_id[: -DIGEST - 1],
    }


def selector(instance: str) -> str:
    """A label selector for the objects of all transforms of this gateway."""
    return f"app.kubernetes.io/instance={instance},app.kubernetes.io/component={COMPONENT}"


def instance_name(release: str) -> str:
    """A release's name, short enough to stand before each object's name."""
    if len(release) <= MAX_INSTANCE:
        return release
    return f"{cut(release, MAX_INSTANCE - 7)}-{hashlib.sha256(release.encode()).hexdigest()[:6]}"


def cut(text: str, room: int) -> str:
    """At most `room` characters, the last of which is no dash."""
    return text[:room].rstrip("-")
