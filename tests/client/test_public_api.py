"""What users import is what is written here, and importing it costs nothing heavy."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib.metadata import version

import pytest

import shardgate
from shardgate import errors

PUBLIC = """
BadRequest Busy BytesTransform CaptureError CaptureWarning Client Conflict ContainerTransform EmbeddedGatewayError
GatewayError GatewayUnreachable InvalidName MissingExtra NotFound ObjectChanged ObjectInfo Pipeline ResultWarning
ShardgateError TemplateError TransferIncomplete TransformFailed Unauthorized UpstreamFailed WDTransform
display_loader_images display_shard_images embedded install_opener
"""
SIGNATURES = {
    shardgate.Client: "endpoint token *timeout",
    shardgate.Client.object_url: "self bucket object_name *provider *transform_id *args *seed *epoch *archpath",
    shardgate.Client.expand_object_urls: "self bucket *template *provider *transform_id *args *seed *epoch *limit",
    shardgate.Client.etl_from_image: "self image name *command *args *env *port *health *method *content_type *verbose"
    " options",
    shardgate.Client.etl_from_spec: "self spec name *port *health *method *content_type *verbose options",
    shardgate.WDTransform: "client transform_func transform_name wd_decoder verbose"
    " *on_error *sample_timeout *cache *workers *requirements pods",
    shardgate.BytesTransform: "client transform_func transform_name verbose *cache *workers *requirements pods",
    shardgate.display_shard_images: "client bucket object_name objects *save options",
    shardgate.display_loader_images: "loader objects *save",
    shardgate.embedded: "buckets *directory *workers *options *log",
}
HEAVY = (
    "torch",
    "numpy",
    "webdataset",
    "matplotlib",
    "PIL",
    "aiohttp",
    "sqlalchemy",
    "typer",
    "rich",
    "urllib3",
    "shardgate_gateway",
)


def test_the_public_names_are_these() -> None:
    assert sorted(shardgate.__all__) == sorted(PUBLIC.split())
    for name in shardgate.__all__:
        assert getattr(shardgate, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        shardgate.nothing  # noqa: B018


def test_completion_offers_the_public_names_and_no_others() -> None:
    assert {name for name in dir(shardgate) if not name.startswith("__")} == set(shardgate.__all__)
    assert shardgate.__version__ == version("shardgate")


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda function: function.__qualname__)
def test_the_public_signatures_are_these(function: object) -> None:
    parameters = inspect.signature(function).parameters.values()
    written = " ".join(("*" if p.kind is p.KEYWORD_ONLY else "") + p.name for p in parameters)
    assert written == SIGNATURES[function]


def test_importing_shardgate_imports_nothing_heavy() -> None:
    code = f"import sys, shardgate; print([name for name in {HEAVY} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True).stdout
    assert out == "[]\n"


def test_every_error_is_exported_and_drawn() -> None:
    classes = {name for name, value in vars(errors).items() if inspect.isclass(value)}
    assert classes <= set(shardgate.__all__)
    for name in classes:
        assert name in errors.__doc__, f"{name} is missing in the tree at the top of errors.py"


def test_the_clients_codes_are_the_gateways() -> None:
    gateway = pytest.importorskip("shardgate_gateway.errors")
    theirs = {kind.code for kind in vars(gateway).values() if inspect.isclass(kind) and hasattr(kind, "code")}
    assert theirs - set(errors.BY_CODE) == {"internal", "cache_corrupt", "local_storage"}, (
        "these are plain GatewayErrors"
    )
