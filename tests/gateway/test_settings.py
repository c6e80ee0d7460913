"""Where settings come from, which of them wins, and what is said about those that can't be used."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from shardgate_gateway import settings, settings_page
from shardgate_gateway.errors import BadRequest

DOCS = Path(__file__).parents[2] / "docs" / "settings.md"


def test_the_settings_page_is_what_the_settings_say() -> None:
    assert DOCS.read_text() == settings_page.page()


def test_every_setting_says_what_it_is_for() -> None:
    groups = [f.annotation for f in settings.Settings.model_fields.values()]
    groups = [g for g in groups if isinstance(g, type) and issubclass(g, BaseModel)] + [settings.BucketSettings]
    undescribed = [f"{g.__name__}.{n}" for g in groups for n, f in g.model_fields.items() if not f.description]
    assert undescribed == []


def test_flags_beat_the_environment_beats_the_file_beats_the_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "shardgate.toml"
    config.write_text("[serve]\nport = 1\nworkers = 1\ndrain_seconds = 1\n")
    monkeypatch.setenv("SHARDGATE_SERVE__PORT", "2")
    monkeypatch.setenv("SHARDGATE_SERVE__WORKERS", "2")
    loaded = settings.load(config, {"serve": {"port": 3}})
    assert (loaded.serve.port, loaded.serve.workers, loaded.serve.drain_seconds) == (3, 2, 1)
    assert loaded.serve.keepalive_seconds == settings.ServeSettings().keepalive_seconds


def test_a_bucket_of_the_file_and_one_of_the_command_line_are_both_there(tmp_path: Path) -> None:
    config = tmp_path / "shardgate.toml"
    config.write_text('[buckets."s3://train"]\nwhere = "./t"\nfreshness = "immutable"\n')
    name, bucket = settings.parse_bucket("gs://val=./v")
    loaded = settings.load(config, {"buckets": {name: bucket.model_dump(exclude_unset=True)}})
    assert {name: b.where for name, b in loaded.buckets.items()} == {"aws://train": "./t", "gcp://val": "./v"}
    assert loaded.buckets["aws://train"].freshness == "immutable"


def test_a_flag_changes_where_a_bucket_of_the_file_lies_and_keeps_the_rest(tmp_path: Path) -> None:
    config = tmp_path / "shardgate.toml"
    config.write_text('[buckets."gs://train"]\nwhere = "./t"\nfreshness = "immutable"\n')
    loaded = settings.load(config, {"buckets": {"gcp://train": {"where": "./u"}}})
    assert loaded.buckets["gcp://train"].where == "./u"
    assert loaded.buckets["gcp://train"].freshness == "immutable"


@pytest.mark.parametrize("text", ["nonsense", "gcp://=x", "gcp://a", "gcp://a=", "ftp://a=b", "gcp://a/b=c"])
def test_a_bucket_flag_that_can_not_be_read_is_shown_with_the_right_form(text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        settings.parse_bucket(text)
    assert repr(text) in caught.value.message
    assert "PROVIDER://NAME=WHERE" in caught.value.hint


def test_a_location_may_contain_an_equals_sign() -> None:
    _, bucket = settings.parse_bucket("aws://b=s3://b?endpoint=http://127.0.0.1:9000")
    assert bucket.where == "s3://b?endpoint=http://127.0.0.1:9000"


def test_a_wrong_value_is_named_with_the_place_that_set_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "shardgate.toml"
    config.write_text("[serve]\nport = 99999\nprot = 1\n")
    monkeypatch.setenv("SHARDGATE_SERVE__WORKERS", "many")
    with pytest.raises(BadRequest) as caught:
        settings.load(config, {"cache": {"high_watermark": 2}})
    message = caught.value.message
    assert f"file {config}: serve.port: " in message
    assert f"file {config}: serve.prot: " in message
    assert "environment: serve.workers: " in message
    assert "command line: cache.high_watermark: " in message


def test_a_group_that_does_not_exist_in_the_environment_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARDGATE_CAHCE__DIR", "/tmp/x")
    with pytest.raises(BadRequest, match="SHARDGATE_CAHCE__DIR is no setting"):
        settings.load()


def test_the_clients_own_variables_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARDGATE_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("SHARDGATE_TOKEN", "secret")
    assert settings.load().serve.token == ""


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    config = tmp_path / "broken.toml"
    config.write_text("[serve\n")
    with pytest.raises(BadRequest, match=r"broken\.toml"):
        settings.load(config)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "gateway.example"])
def test_a_public_address_without_a_token_is_refused(host: str) -> None:
    with pytest.raises(BadRequest, match=r"serve\.token or auth\.tokens_file must be set"):
        settings.load(None, {"serve": {"host": host}})
    assert settings.load(None, {"serve": {"host": host, "token": "t"}}).serve.host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.8.8.8"])
def test_loopback_needs_no_token(host: str) -> None:
    assert settings.load(None, {"serve": {"host": host}}).serve.host == host


def test_folders_are_absolute_and_know_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    loaded = settings.load(None, {"cache": {"dir": "~/c"}, "state": {"dir": "s"}})
    assert (loaded.cache.dir, loaded.state.dir) == (tmp_path / "c", tmp_path / "s")


def test_settings_survive_the_way_to_a_worker_process() -> None:
    loaded = settings.load(None, {"buckets": {"gs://b": {"where": "mem://"}}, "serve": {"port": 1}})
    assert settings.Settings.model_validate_json(loaded.model_dump_json()) == loaded


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"membership": "static"}, "cluster.members must be set"),
        ({"membership": "dns"}, "cluster.dns must be set"),
        ({"membership": "kubernetes"}, "cluster.service must be set"),
        ({"membership": "static", "name": "a", "members": {"b": "http://b:1"}}, "lacks this gateway itself"),
    ],
)
def test_a_cluster_that_lacks_something_says_what(flags: dict[str, object], message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        settings.load(flags={"cluster": flags})


def test_gateways_that_ask_for_tokens_must_share_a_key() -> None:
    cluster = {"membership": "dns", "dns": "http://gateways:51080"}
    with pytest.raises(BadRequest, match="signing_key_file"):
        settings.load(flags={"cluster": cluster, "serve": {"token": "secret"}})
    settings.load(flags={"cluster": cluster, "serve": {"token": "secret"}, "auth": {"signing_key": "k" * 32}})


@pytest.mark.parametrize(
    ("table", "name", "meant"),
    [
        ("serve", "prot", "serve.port"),
        ("cache", "capacity", "cache.capacity_bytes"),
        ('buckets."gcp://b"', "freshnes", "buckets.gcp://b.freshness"),
        ("sevre", "port", "serve"),
    ],
)
def test_a_misspelt_setting_is_told_with_the_one_that_was_meant(
    tmp_path: Path, table: str, name: str, meant: str
) -> None:
    config = tmp_path / "shardgate.toml"
    config.write_text(f'[{table}]\n{name} = 1\nwhere = "x"\n' if "buckets" in table else f"[{table}]\n{name} = 1\n")
    with pytest.raises(BadRequest) as caught:
        settings.load(config)
    assert f"there is no such setting; did you mean {meant}?" in caught.value.message


def test_a_misspelt_variable_is_told_with_the_one_that_was_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARDGATE_SEVRE__PORT", "1")
    with pytest.raises(BadRequest, match="did you mean SHARDGATE_SERVE__PORT"):
        settings.load()
    monkeypatch.delenv("SHARDGATE_SEVRE__PORT")
    monkeypatch.setenv("SHARDGATE_SERVE__PROT", "1")
    with pytest.raises(BadRequest, match=r"environment: serve.prot: .*did you mean serve.port"):
        settings.load()


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("50GB", 50 * 10**9),
        ("50 GiB", 50 << 30),
        ("50Gi", 50 << 30),
        ("1.5TB", 15 * 10**11),
        ("8MiB", 8 << 20),
        ("1024", 1024),
        ("1k", 1000),
        ("2kib", 2048),
    ],
)
def test_a_size_may_have_a_unit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, size: int) -> None:
    config = tmp_path / "shardgate.toml"
    config.write_text(f'[cache]\ncapacity_bytes = "{text}"\n')
    assert settings.load(config).cache.capacity_bytes == size
    monkeypatch.setenv("SHARDGATE_CACHE__CAPACITY_BYTES", text)
    assert settings.load().cache.capacity_bytes == size


@pytest.mark.parametrize("text", ["much", "50 bananas", "-1", "1e9", "", "5 5", "\u0665"])
def test_what_is_no_size_is_refused_with_the_units_there_are(tmp_path: Path, text: str) -> None:
    config = tmp_path / "shardgate.toml"
    config.write_text(f'[cache]\ncapacity_bytes = "{text}"\n')
    with pytest.raises(BadRequest, match=r"cache.capacity_bytes: .*GiB"):
        settings.load(config)
