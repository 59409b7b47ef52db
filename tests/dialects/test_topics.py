"""The `topics` dialect: messages become commands, and published data are sent in two forms."""

import pytest
from msgspec import Raw

from trio_signal.dialects import dialect_at
from trio_signal.dialects.topics import TopicsDialect
from trio_signal.messages.commands import (
    Action,
    Authenticate,
    Malformed,
    Publish,
    Send,
    Subscribe,
    Unsubscribe,
)
from trio_signal.messages.events import Audience, Published
from trio_signal.messages.identity import PublishedForm


@pytest.mark.parametrize(
    ("target", "found"),
    [("/topics", True), ("/topics/a/b?x=1", True), ("/topic", False), ("/a/topics", False)],
)
def test_it_is_served_at_one_path_and_below(target: str, found: bool) -> None:
    assert isinstance(dialect_at(target, ["topics"]), TopicsDialect) is found


def test_the_handshake_has_the_identity() -> None:
    assert list(TopicsDialect().opened("p1")) == [Authenticate("p1")]


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ('{"type":"subscribe","topics":["a","b","a"]}', Subscribe(("a", "b"))),
        ('{"topic":"a","type":"subscribe"}', Subscribe(("a",))),
        ('{"type":"subscribe","topics":["a"],"topic":"b"}', Subscribe(("a", "b"))),
        ('{"type":"subscribe","topics":[]}', Subscribe(())),
        ('{"type":"unsubscribe","topics":["a"]}', Unsubscribe(("a",))),
        ('{"type":"unsubscribe","topic":"a"}', Unsubscribe(("a",))),
        ('{"type":"publish","topic":"a","data": {}}', Publish("a", "data", Raw(b"{}"))),
        ('{"type":"publish","topic":"a","data":null}', Publish("a", "data", Raw(b"null"))),
        ('{"type":"publish","topic":"a","payload":1.0}', Publish("a", "payload", Raw(b"1.0"))),
        ('{"type":"publish","topic":"a","payload":1,"data":2}', Publish("a", "data", Raw(b"2"))),
        ('{"type":"ping"}', Send(b'{"type":"pong"}')),
        ('{"type":"publish","topic":"a"}', Malformed(b"")),
        ('{"type":"publish","topic":"","data":1}', Malformed(b"")),
        ('{"type":"subscribe"}', Malformed(b"")),
        ('{"type":"subscribe","topics":[null]}', Malformed(b"")),
        ('{"type":"pong"}', Malformed(b"")),
        ("ping", Malformed(b"")),
    ],
)
def test_messages_become_actions(text: str, action: Action) -> None:
    assert list(TopicsDialect().received(text.encode(), "")) == [action]


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("data", b'{"type":"publish","topic":"a","data":[1.50],"clients":3}'),
        ("payload", b'{"topic":"a","payload":[1.50]}'),
    ],
)
def test_published_data_keep_their_form(form: PublishedForm, text: bytes) -> None:
    (notice,) = TopicsDialect.tell(Published("a", form, Raw(b"[1.50]"), 3))
    assert (notice.audience, notice.text) == (Audience.EVERYONE, text)


@pytest.mark.parametrize(
    "said",
    [
        rb'"\ud800"',
        rb'{"\udc00":1}',
        b"1e999",
        b"NaN",
        b"",
        b'"\x00"',
        b"[" * 900 + b"]" * 900,
        b"[" * 100_000 + b"]" * 100_000,
    ],
)
def test_everything_that_can_be_published_can_be_sent(said: bytes) -> None:
    """Otherwise one publisher could end the connections of all subscribers."""
    for text in (
        b'{"type":"publish","topic":"t","data":' + said + b"}",
        b'{"type":"publish","topic":"t","payload":' + said + b"}",
        b'{"type":"publish","topic":' + said + b',"data":1}',
    ):
        (action,) = TopicsDialect().received(text, "")
        if isinstance(action, Publish):
            published = Published(action.topic, action.form, action.content, 2)
            assert len(list(TopicsDialect.tell(published))) == 1
        else:
            assert isinstance(action, Malformed)
