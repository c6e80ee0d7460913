"""Functions that draw random numbers from wherever they like, and readers that ask again."""

from __future__ import annotations

import os
import random
import signal

import numpy as np
import pytest
from shards import shard

from shardgate import WDTransform

pytestmark = pytest.mark.filterwarnings("ignore:.*without an epoch:shardgate.notices.ResultWarning")
"""The same request again is what is tested here."""

own_generator = np.random.default_rng(7)
own_random = random.Random(7)
calls = [0]


def draws_from_globals(sample):
    sample["bin"] = own_generator.bytes(200_000)
    sample["txt"] = str(own_random.random())
    return sample


def draws_from_new_generators(sample):
    sample["bin"] = np.random.default_rng().bytes(200_000)
    sample["txt"] = str(random.Random().random())
    return sample


class DrawsFromSetup:
    def setup(self):
        self.rng = np.random.default_rng()
        self.weights = np.random.default_rng().random()

    def __call__(self, sample):
        sample["bin"] = self.rng.bytes(200_000)
        sample["txt"] = str(self.weights)
        return sample


def draws_from_the_system(sample):
    sample["txt"] = os.urandom(8).hex()
    return sample


def counts_its_calls(sample):
    calls[0] += 1
    sample["txt"] = str(calls[0])
    return sample


SEEDED = [draws_from_globals, draws_from_new_generators, DrawsFromSetup]


@pytest.fixture(scope="module")
def gateway(start_shared_gateway, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bucket")
    for name in ("a.tar", "b.tar"):
        (folder / name).write_bytes(shard(60))
    return start_shared_gateway({"file://b": folder}, settings={"etl.ring_bytes": 1 << 20})


@pytest.fixture(scope="module", params=SEEDED, ids=lambda function: function.__name__)
def etl(gateway, request):
    name = request.param.__name__.lower().replace("_", "-")
    return WDTransform(gateway.client, request.param, name, "", workers=2, cache="never")


def test_the_same_request_gives_the_same_bytes_whichever_worker_draws(etl):
    first = etl.get("file://b", "a.tar")
    etl.get("file://b", "b.tar")
    assert [etl.get("file://b", "a.tar") == first for _ in range(4)] == [True] * 4


def test_another_epoch_seed_or_shard_draws_other_numbers(etl):
    requests = [("a.tar", {}), ("a.tar", {"epoch": 1}), ("a.tar", {"seed": 1}), ("b.tar", {})]
    assert len({etl.get("file://b", name, **query) for name, query in requests}) == 4


def test_a_worker_killed_in_the_middle_changes_no_draw(gateway, etl):
    whole = etl.get("file://b", "a.tar")
    with gateway.client.open("file://b", "a.tar", transform_id=etl.uuid) as response:
        got = response.read(200_000)
        for pid in gateway.etl_workers():
            os.kill(pid, signal.SIGKILL)
        assert got + response.read() == whole


@pytest.mark.parametrize("cache", ["never", "auto"])
@pytest.mark.parametrize("function", [draws_from_the_system, counts_its_calls], ids=lambda function: function.__name__)
def test_a_result_that_cannot_be_made_again_never_has_a_strong_etag(gateway, function, cache):
    name = f"{function.__name__}-{cache}".replace("_", "-")
    transform = WDTransform(gateway.client, function, name, "", workers=2, cache=cache)
    for key in ("a.tar", "a.tar", "b.tar"):
        with gateway.client.open("file://b", key, transform_id=transform.uuid) as response:
            assert response.etag.startswith('W/"')
            response.read()
