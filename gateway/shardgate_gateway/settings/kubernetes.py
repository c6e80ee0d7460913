"""How transforms run as pods."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    Field,
)

from shardgate_gateway.settings.base import Group


class RuntimeImage(Group):
    """An image that ETL pods may run."""

    image: str = Field(min_length=1, description="Its name, as nodes pull it.")
    python: str = Field(pattern=r"^\d+\.\d+$", description="`major.minor` of its Python.")
    provides: tuple[str, ...] = Field(
        (), description="Distributions that only this image has; transforms that require one of them run in it."
    )


class KubernetesSettings(Group):
    """ETL pods, where `etl.runner` is `kubernetes`."""

    kubeconfig: str = Field(
        "", description="File that says how to reach the API server; empty takes the pod's service account, if in one."
    )
    namespace: str = Field("", description="Where ETL pods run; empty takes the gateway's own.")
    instance: str = Field(
        "shardgate",
        pattern=r"^[a-z]([a-z0-9-]*[a-z0-9])?$",
        max_length=53,
        description="Name of this installation: labels its objects, so that several can share a namespace.",
    )
    owner: str = Field(
        "", description="StatefulSet that owns the ETL objects: they go when it is deleted. Empty leaves them unowned."
    )
    gateway_url: str = Field(
        "", description="How ETL pods reach the gateway, a Service's address; empty takes `serve.public_url`."
    )
    images: tuple[RuntimeImage, ...] = Field(
        (), description="Runtime images, per Python version one or more, the plain one first."
    )
    allowed_images: tuple[str, ...] = Field(
        (), description="Patterns (`registry/team/*`) of other images that users may name. None by default."
    )
    allowed_secrets: tuple[str, ...] = Field(
        (), description="Patterns of Secrets that users may have in their pods' environment. None by default."
    )
    allowed_claims: tuple[str, ...] = Field(
        (),
        description="Patterns of PersistentVolumeClaims that pod templates may mount. None by default: the gateways "
        "and a database may have theirs in the same namespace.",
    )
    allowed_config_maps: tuple[str, ...] = Field(
        (), description="Patterns of ConfigMaps that pod templates may have. None by default."
    )
    allowed_labels: tuple[str, ...] = Field(
        (),
        description="Patterns of labels that pod templates may set. None by default: Services and policies of others "
        "select by labels.",
    )
    allowed_annotations: tuple[str, ...] = Field(
        (),
        description="Patterns of annotations that pod templates may set. None by default: injectors and networks obey "
        "them.",
    )
    cpu: str = Field("1", description="CPU limit of a pod whose owner says nothing; it has as many workers.")
    memory: str = Field("2Gi", description="Memory limit of a pod whose owner says nothing.")
    max_cpu: str = Field("64", description="The most CPU that a user may ask for, per pod.")
    max_memory: str = Field("256Gi", description="The most memory that a user may ask for, per pod.")
    max_gpus: int = Field(8, ge=0, description="The most GPUs that a user may ask for, per pod.")
    max_replicas: int = Field(16, ge=1, description="The most pods per transform, and how many one may scale up to.")
    cpu_request_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Share of its CPU limit that a pod reserves; the rest it takes where a node is idle.",
    )
    ephemeral_storage: str = Field("8Gi", description="Disk that a pod may use for its environment, logs and /tmp.")
    patience_seconds: float = Field(
        60,
        gt=0,
        description="Seconds that what may heal (no node fits, the registry does not answer) may keep pods from "
        "starting before a start fails. An autoscaler needs minutes.",
    )
    node: str = Field("", description="Node that the gateway runs on: pods there are preferred. Empty prefers none.")
    calm_seconds: float = Field(
        60, ge=0, description="Seconds that fewer pods must have been enough before a transform gets fewer."
    )
    grace_seconds: int = Field(
        60, ge=1, description="Seconds that a pod which is asked to end has for the shards it works on."
    )
    token_seconds: int = Field(
        3600, ge=600, description="Seconds that a pod's token for its package is good for; renewed at half time."
    )
    service_account: str = Field("default", description="Service account of ETL pods. They get no token of it.")
    priority_class: str = Field("", description="PriorityClass of ETL pods; empty takes the cluster's default.")
    pull_policy: Literal["IfNotPresent", "Always", "Never"] = Field(
        "IfNotPresent", description="When nodes pull an image."
    )
    pull_secrets: tuple[str, ...] = Field((), description="Secrets with credentials for the image registry.")
    pip_options: tuple[str, ...] = Field(
        (),
        description="Options for pip where requirements are installed that an image lacks, like "
        "`--index-url=https://pypi.example/simple`. Empty takes PyPI.",
    )
    requirements: Literal["wheels", "sources", "addresses"] = Field(
        "wheels",
        description="What may be installed of a transform's requirements. `wheels`: those of the index, so that "
        "no code of theirs runs meanwhile. `sources`: also what has to be built. `addresses`: also requirements that "
        "name where they come from (`name @ https://...`).",
    )
    environment_seconds: float = Field(
        900, ge=60, description="Seconds that installing the requirements of a transform may take."
    )
