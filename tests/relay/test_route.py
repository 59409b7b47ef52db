"""Table tests: which viewers are relayed, and how clients' descriptions are read."""

import pytest
from msgspec import Raw
from msgspec.structs import replace

from tests.members import member
from trio_signal.messages.identity import Live, Member, Route
from trio_signal.relay.route import (
    Candidate,
    Description,
    Places,
    has_free_place,
    is_relayed,
    keep_session,
    read_signal,
)


def caster(*direct: str, routed: bool = True) -> Member:
    route = Route("n", "f", 1, direct) if routed else None
    return replace(
        member("caster", dialect="stream"), live=Live("video", "2026", exclusive=True, route=route)
    )


def viewers(*ids: str, dialect: str = "stream") -> dict[str, Member]:
    """Viewers; the part of an id before a dash is the user."""
    return {id_: member(id_, id_.split("-")[0], dialect=dialect) for id_ in ids}


@pytest.mark.parametrize(
    ("came", "gone", "direct", "relayed"),
    [
        ("abc", "", "ab", "c"),
        ("abcd", "", "ab", "cd"),
        ("abc", "a", "b", "c"),  # nobody's connection is changed
        ("abc", "c", "ab", ""),
    ],
)
def test_the_first_viewers_are_direct_and_stay_direct(
    came: str, gone: str, direct: str, relayed: str
) -> None:
    places, members = Places(caster()), viewers(*came)
    for viewer in members.values():
        places.take(viewer, 2)
    for id_ in gone:
        del members[id_]
    places.forget_gone(members)
    assert ("".join(places.direct), "".join(places.relayed)) == (direct, relayed)


def test_a_free_place_goes_to_the_next_newcomer() -> None:
    places, members = Places(caster()), viewers(*"abcde")
    for id_ in "abc":
        places.take(members[id_], 2)
    del members["a"]
    places.forget_gone(members)
    assert not places.take(members["d"], 2)
    assert places.take(members["e"], 2)
    assert places.direct == ("b", "d")


def test_live_peers_and_the_broadcasters_own_get_no_place() -> None:
    places = Places(caster())
    assert not places.take(member("tab", "caster", dialect="stream"), 0)
    assert not places.take(member("other", dialect="stream", live="video"), 0)
    assert not places.direct
    assert not places.relayed


def test_viewers_of_dialects_without_relay_support_are_always_direct() -> None:
    places = Places(caster())
    assert not places.take(member("a", dialect="topics"), 0)
    assert places.direct == ("a",)


def test_a_relayed_viewer_is_promoted_if_a_place_is_free() -> None:
    places, members = Places(caster()), viewers(*"ab")
    for viewer in members.values():
        places.take(viewer, 1)
    assert not places.promote(members["b"], 1)
    assert places.promote(members["b"], 2)
    assert places.direct == ("a", "b")


def test_decisions_of_another_replica_are_kept() -> None:
    places, members = Places(caster()), viewers(*"abc")
    places.keep(("b", "gone"), members)
    assert (places.direct, [*places.relayed]) == (("b",), ["a", "c"])


@pytest.mark.parametrize(
    ("viewer", "relayed"),
    [
        (member("a", dialect="stream"), True),
        (member("b", dialect="stream"), False),  # it is direct
        (member("a", "caster", dialect="stream"), False),
        (member("a", dialect="stream", live="audio"), False),
        (member("a", dialect="topics"), False),
    ],
)
def test_the_route_says_who_is_relayed(viewer: Member, relayed: bool) -> None:
    assert is_relayed(viewer, caster("b"), Route("n", "f", 1, ("b",))) is relayed


def test_another_replica_sees_a_free_place_if_a_direct_viewer_left() -> None:
    assert has_free_place(viewers(*"ab"), caster("a"), 2)
    assert not has_free_place(viewers(*"ab"), caster("a", "b"), 2)
    assert has_free_place(viewers("b"), caster("a", "b"), 2)


SDP = "v=0\r\no=- 4611 2 IN IP4 127.0.0.1\r\na=ice-ufrag:Ab/1\r\nm=video 9 X 96\r\n{}\r\n"


WITHOUT_MID = {"candidate": "x", "sdpMid": None}


@pytest.mark.parametrize(
    ("kind", "payload", "said"),
    [
        ("offer", '{"type":"offer","sdp":"v=0"}', Description("offer", "v=0")),
        ("answer", '{"sdp":"v=0"}', Description("answer", "v=0")),
        ("signal", '{"type":"answer","sdp":"v=0"}', Description("answer", "v=0")),
        ("signal", '{"type":"ice-candidate","candidate":null}', Candidate(None)),
        ("candidate", '{"candidate":"x"}', Candidate({"candidate": "x"})),
        ("candidate", '{"candidate":"x","sdpMid":null,"new":[[]]}', Candidate(WITHOUT_MID)),
        ("candidate", f'{{"candidate":"{"x" * 5000}"}}', None),
        ("candidate", '{"candidate":"x","sdpMLineIndex":1e400}', None),
        ("candidate", '["x"]', None),
        ("signal", '{"type":"ice-candidate","candidate":{"candidate":1}}', None),
        ("candidate", "null", Candidate(None)),
        ("candidate", '""', Candidate(None)),
        ("offer", '"v=0"', None),
        ("offer", '{"type":"rollback","sdp":"v=0"}', None),
        ("offer", '{"type":"offer","sdp":1}', None),
        ("signal", '{"anything":1}', None),
        ("offer", "[" * 10_000, None),
    ],
)
def test_reading_signals(kind: str, payload: str, said: object) -> None:
    assert read_signal(kind, Raw(payload.encode())) == said


@pytest.mark.parametrize(
    ("line", "sends"),
    [("a=sendrecv", True), ("a=sendonly", True), ("a=recvonly", False), ("a=mid:0", True)],
)
def test_detecting_offers_with_media(line: str, sends: bool) -> None:
    assert Description("offer", SDP.format(line)).sends_media is sends
    assert not Description("offer", "v=0\r\nm=application 9 X 0\r\n").sends_media


def test_the_origin_line_identifies_a_connection() -> None:
    assert Description("offer", SDP).session == "4611"
    assert Description("offer", "nothing").session == ""


@pytest.mark.parametrize(
    ("candidate", "fits"),
    [
        ({"usernameFragment": "Ab/1"}, True),
        ({"usernameFragment": "old"}, False),
        ({"candidate": "x"}, True),
        (None, True),
    ],
)
def test_candidates_of_an_earlier_description_are_recognized(candidate: object, fits: bool) -> None:
    assert Description("answer", SDP).fits(candidate) is fits


def test_later_offers_keep_the_session_id() -> None:
    first, later = (f"v=0\r\no=- {id_} IN IP4 192.0.2.2\r\ns=-\r\n" for id_ in ("17 1", "18 2"))
    assert keep_session(later, first) == "v=0\r\no=- 17 2 IN IP4 192.0.2.2\r\ns=-\r\n"
    assert keep_session(first, first) == first
    assert keep_session("v=0", first) == "v=0"
    assert keep_session(later, "v=0") == later
