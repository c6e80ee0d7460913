"""Templates mean what they mean in bash, and never more than the limit."""

from __future__ import annotations

import shutil
import subprocess
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardgate import Client, TemplateError
from shardgate.braces import expand


def test_the_documents_template_gives_six_shards() -> None:
    client, template = Client("http://h:1"), "imagenet-val-{000000..000005}.tar"
    urls = client.expand_object_urls("gcp://b", template=template)
    assert urls == [f"http://h:1/v1/objects/b/imagenet-val-00000{i}.tar?provider=gcp" for i in range(6)]
    results = client.expand_object_urls("gcp://b", template=template, transform_id="t")
    assert results == [client.object_url("gcp://b", f"imagenet-val-00000{i}.tar", transform_id="t") for i in range(6)]


@pytest.mark.parametrize(
    ("template", "names"),
    [
        ("{0..10..5}", ["0", "5", "10"]),
        ("{03..1}", ["03", "02", "01"]),
        ("{-01..1}", ["-01", "000", "001"]),
        ("{a,b}{1..2}", ["a1", "a2", "b1", "b2"]),
        ("{{a,b},{1..2}x}", ["a", "b", "1x", "2x"]),
        ("{c..a}", ["c", "b", "a"]),
        ("plain", ["plain"]),
        ("{one}", ["{one}"]),
        (r"\{1,2\}", ["{1,2}"]),
    ],
)
def test_ranges_steps_padding_lists_and_nesting(template: str, names: list[str]) -> None:
    assert expand(template) == names


@pytest.mark.parametrize(
    "template", ["{1..1000000000}", "{1..99999}{1..99999}", "{a,b}" * 64, "{{1..1000000},{1..1000000}}"]
)
def test_a_template_beyond_the_limit_is_refused_at_once_and_without_memory(template: str) -> None:
    tracemalloc.start()
    with pytest.raises(TemplateError, match="more than 1,000,000 names"):
        expand(template)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_the_limit_counts_names_exactly() -> None:
    assert len(expand("{1..50}{a,b}", limit=100)) == 100
    with pytest.raises(TemplateError):
        expand("{1..50}{a,b}", limit=99)


def test_absurd_nesting_is_an_error_and_not_a_crash() -> None:
    with pytest.raises(TemplateError, match="deeply"):
        expand("{a," * 5000 + "}" * 5000)


number = st.integers(-20, 120).map(lambda n: f"{n:03d}") | st.integers(-20, 120).map(str)
leaf = (
    st.text("abX_.", min_size=1, max_size=3)
    | st.tuples(number, number).map(lambda ends: f"{{{ends[0]}..{ends[1]}}}")
    | st.tuples(number, number, st.integers(1, 9)).map(lambda parts: "{" + "..".join(map(str, parts)) + "}")
)
template = st.recursive(
    leaf,
    lambda inner: (
        st.lists(inner, min_size=2, max_size=3).map(lambda items: "{" + ",".join(items) + "}")
        | st.lists(inner, min_size=1, max_size=2).map("-".join)
    ),
    max_leaves=4,
)


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is what we compare with")
@settings(max_examples=60, deadline=None)
@given(template)
def test_templates_expand_as_in_bash(template: str) -> None:
    echoed = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {template}"], capture_output=True, text=True, check=True
    ).stdout
    assert expand(template) == echoed.splitlines()
