import logging
import ssl
from pathlib import Path

import pytest
import trustme

from trio_signal.redis.address import parse_address

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("url", "text", "username", "password", "db"),
    [
        ("redis://", "redis://localhost:6379/0", "default", None, 0),
        ("redis://h", "redis://h:6379/0", "default", None, 0),
        ("redis://h:1/2", "redis://h:1/2", "default", None, 2),
        ("redis://h?db=3", "redis://h:6379/3", "default", None, 3),
        ("redis://:hunter2@h", "redis://h:6379/0", "default", SECRET, 0),
        ("redis://me:a%2Fb%40@h", "redis://h:6379/0", "me", "a/b@", 0),
        ("redis://[::1]:1", "redis://[::1]:1/0", "default", None, 0),
        ("rediss://me:hunter2@h", "rediss://h:6379/0", "me", SECRET, 0),
        ("unix:///run/redis.sock?db=1", "unix:///run/redis.sock", "default", None, 1),
        ("valkey://h/1", "redis://h:6379/1", "default", None, 1),
        ("valkeys://:hunter2@h", "rediss://h:6379/0", "default", SECRET, 0),
        (
            "redis+sentinel://me:hunter2@a,[::1]:1/main/2?sentinel_password=x",
            "redis+sentinel://a:26379,::1:1/main/2",
            "me",
            SECRET,
            2,
        ),
        ("rediss+sentinel://a:1/main", "rediss+sentinel://a:1/main/0", "default", None, 0),
    ],
)
def test_a_url_is_parsed(url: str, text: str, username: str, password: str | None, db: int) -> None:
    address = parse_address(url)
    assert str(address) == text
    assert (address.username, address.password, address.db) == (username, password, db)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://:hunter2@h", "the Redis URL must look like"),
        ("redis://:hunter2/x@h:1", "the Redis URL must look like"),
        ("redis://:hunter2@h:port", "the Redis URL must look like"),
        ("redis://:hunter2@h/database", "the Redis URL must look like"),
        ("redis://:hunter2@h?db=one", "the Redis URL must look like"),
        ("redis+sentinel://:hunter2@a,b", "the Redis URL must look like"),
        ("redis+sentinel://:hunter2@/main", "the Redis URL must look like"),
        ("redis+sentinel://:hunter2@a:port/main", "the Redis URL must look like"),
        ("rediss://:hunter2@h?ssl_ca_cert=f", "unknown option in the Redis URL: ssl_ca_cert"),
        ("redis://:hunter2@h?ssl_cert_reqs=none", "need rediss://"),
        ("rediss://:hunter2@h?ssl_cert_reqs=optional", "`required` or `none`"),
    ],
)
def test_an_invalid_url_is_refused_without_quoting_it(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match="Redis URL") as caught:
        parse_address(url)
    assert reason in str(caught.value)
    shown: BaseException | None = caught.value
    while shown is not None:
        assert SECRET not in str(shown)
        shown = None if shown.__suppress_context__ else shown.__context__


def test_the_repr_of_an_address_hides_the_password() -> None:
    assert SECRET not in repr(parse_address("redis://:hunter2@h"))


def test_tls_checks_name_and_chain_unless_told_otherwise(caplog: pytest.LogCaptureFixture) -> None:
    context = parse_address("rediss://h").tls
    assert context is not None
    assert (context.check_hostname, context.verify_mode) == (True, ssl.CERT_REQUIRED)
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("option", "mode"),
    [("ssl_cert_reqs=none", ssl.CERT_NONE), ("ssl_check_hostname=no", ssl.CERT_REQUIRED)],
)
def test_reduced_checks_are_logged_as_a_warning(
    option: str, mode: ssl.VerifyMode, caplog: pytest.LogCaptureFixture
) -> None:
    context = parse_address(f"rediss://:hunter2@h?{option}").tls
    assert context is not None
    assert (context.check_hostname, context.verify_mode) == (False, mode)
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "NOT fully verified" in record.getMessage()
    assert SECRET not in record.getMessage()


def test_a_ca_file_replaces_the_systems_cas(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(file))
    for address in (
        parse_address("rediss://h", ca_file=str(file)),
        parse_address(f"rediss://h?ssl_ca_certs={file}", ca_file="/not/this/one"),
    ):
        assert address.tls is not None
        assert len(address.tls.get_ca_certs()) == 1


def test_a_missing_ca_file_raises_at_once() -> None:
    with pytest.raises(FileNotFoundError):
        parse_address("rediss://h", ca_file="/not/there.pem")
