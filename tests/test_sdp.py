"""What is read from a publisher's descriptions, as tables."""

import pytest

from trio_signal.errors import SdpError
from trio_signal.sdp import (
    Credentials,
    Fragment,
    check_offer,
    fragment_of,
    media_of,
    mids_of,
    read_fragment,
    refuses_some,
    restarted,
)

UFRAG, PASSWORD = "EsAw", "P2uYro0UCOQ4zxjKXaWCBui1"
CANDIDATE = "candidate:1387637174 1 udp 2122260223 192.0.2.1 61764 typ host generation 0 ufrag EsAw"
SESSION = """v=0
o=- 5228595038118931041 2 IN IP4 127.0.0.1
s=-
t=0 0
a=group:BUNDLE 0 1
"""
ICE = f"""c=IN IP4 0.0.0.0
a=ice-ufrag:{UFRAG}
a=ice-pwd:{PASSWORD}
a=fingerprint:sha-256 DA:7B:57
a=setup:actpass
"""
AUDIO = f"m=audio 9 UDP/TLS/RTP/SAVPF 111\n{ICE}a=mid:0\na=sendonly\n"
VIDEO = f"m=video 9 UDP/TLS/RTP/SAVPF 96\n{ICE}a=mid:1\na=sendonly\n"
OFFER = (SESSION + AUDIO + VIDEO).replace("\n", "\r\n")
#: As in RFC 9725: attributes shared by a bundle are in its first section only.
BUNDLED = "m=video 0 UDP/TLS/RTP/SAVPF 96\na=mid:1\na=bundle-only\na=sendonly\n"
BARE = "m=audio 9 UDP/TLS/RTP/SAVPF 111\na=mid:0\na=sendonly\n"


@pytest.mark.parametrize(
    "offer",
    [
        OFFER,
        OFFER.replace("\r\n", "\n"),
        SESSION + AUDIO,
        SESSION + VIDEO.replace("sendonly", "sendrecv"),
        SESSION + ICE + BARE,  # for all sections at once
        SESSION + AUDIO + BUNDLED,
    ],
)
def test_offer_gives_ice_credentials(offer: str) -> None:
    assert check_offer(offer) == Credentials(UFRAG, PASSWORD)


@pytest.mark.parametrize(
    ("offer", "why"),
    [
        ("", "v=0"),
        ("hello", "v=0"),
        ('{"type": "offer"}', "v=0"),
        (SESSION, "one audio or video"),
        (SESSION + AUDIO + AUDIO, "one audio or video"),
        (SESSION + AUDIO.replace("m=audio", "m=application"), "one audio or video"),
        (SESSION + AUDIO.replace("sendonly", "recvonly"), "sendonly"),
        (SESSION + AUDIO + BUNDLED.replace("a=bundle-only\n", ""), "fingerprint"),
        (SESSION + BUNDLED, "ice-ufrag"),
        (SESSION + VIDEO.replace("sendonly", "inactive"), "sendonly"),
        (SESSION + AUDIO.replace("a=fingerprint", "a=x"), "fingerprint"),
        (SESSION + AUDIO.replace("a=ice-ufrag", "a=x"), "ice-ufrag"),
        (SESSION + AUDIO.replace(UFRAG, "a b"), "ice-ufrag"),
        (SESSION + AUDIO.replace(PASSWORD, "short"), "ice-ufrag"),
    ],
)
def test_invalid_offer_is_refused(offer: str, why: str) -> None:
    with pytest.raises(SdpError, match=why):
        check_offer(offer)


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        (f"a=ice-ufrag:{UFRAG}\r\na=ice-pwd:{PASSWORD}\r\n", ((), False)),
        (
            f"a=ice-ufrag:{UFRAG}\na=ice-pwd:{PASSWORD}\nm=audio 9 RTP/AVP 0\na=mid:0\n"
            f"a={CANDIDATE}\na={CANDIDATE}\na=end-of-candidates\n",
            (((CANDIDATE, "0"), (CANDIDATE, "0")), True),
        ),
        (
            f"m=video 9 RTP/AVP 0\na=mid:x\na=ice-ufrag:{UFRAG}\na=ice-pwd:{PASSWORD}\n"
            f"a={CANDIDATE}\n",
            (((CANDIDATE, "x"),), False),
        ),
    ],
)
def test_fragment_is_read_with_its_candidates(text: str, fragment: tuple[object, bool]) -> None:
    read = read_fragment(text)
    assert read.credentials == Credentials(UFRAG, PASSWORD)
    assert (read.candidates, read.complete) == fragment
    assert PASSWORD not in repr(read)


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"a={CANDIDATE}",
        f"a=ice-ufrag:{UFRAG}",
        f"a=ice-ufrag:{UFRAG}\na=ice-pwd:{PASSWORD}\nm=audio 9 RTP/AVP 0\na={CANDIDATE}",
        f"a=ice-ufrag:{UFRAG}\na=ice-pwd:{PASSWORD}\nm=audio 9 RTP/AVP 0\na=mid:0\n"
        f"a=candidate:{'x' * 2000}",
        f"a=ice-ufrag:{UFRAG}\na=ice-pwd:{PASSWORD}\nm=audio 9 RTP/AVP 0\na=mid:0\n"
        + f"a={CANDIDATE}\n" * 101,
    ],
)
def test_invalid_fragment_is_refused(text: str) -> None:
    with pytest.raises(SdpError):
        read_fragment(text)


def test_ice_restart_changes_only_ice_in_the_offer() -> None:
    gathered = OFFER.replace("a=mid:0\r\n", f"a=mid:0\r\na={CANDIDATE}\r\na=end-of-candidates\r\n")
    fragment = Fragment(Credentials("ysXw", "vw5LmwG4y/e6dPP/zAP9Gp5k"), ((CANDIDATE, "1"),))
    again = restarted(gathered, fragment)
    assert check_offer(again) == fragment.credentials
    assert again == (
        OFFER.replace(UFRAG, "ysXw")
        .replace(PASSWORD, fragment.credentials.password)
        .replace("m=video", f"a={CANDIDATE}\r\nm=video")
        .replace("8931041 2 IN", "8931041 3 IN")
    )


def test_answer_to_a_restart_becomes_a_fragment() -> None:
    answer = OFFER.replace("a=group", "a=ice-lite\r\na=group").replace("sendonly", "recvonly")
    assert fragment_of(answer) == (f"a=ice-lite\r\na=ice-ufrag:{UFRAG}\r\na=ice-pwd:{PASSWORD}\r\n")
    trickling = answer.replace("a=setup", "a=ice-options:trickle ice2\r\na=setup")
    assert fragment_of(trickling) == (
        f"a=ice-lite\r\na=ice-options:trickle ice2\r\n"
        f"a=ice-ufrag:{UFRAG}\r\na=ice-pwd:{PASSWORD}\r\n"
    )
    gathered = answer.replace("a=mid:0\r\n", f"a=mid:0\r\na={CANDIDATE}\r\n")
    fragment = read_fragment(fragment_of(gathered))
    assert fragment == Fragment(Credentials(UFRAG, PASSWORD), ((CANDIDATE, "0"),), complete=True)
    with pytest.raises(SdpError):
        fragment_of("v=0\r\n")


def test_offered_and_refused_media() -> None:
    assert (media_of(OFFER), media_of(SESSION + AUDIO)) == ("video", "audio")
    assert mids_of(OFFER) == ["0", "1"]
    assert not refuses_some(OFFER)
    assert refuses_some(OFFER.replace("m=video 9", "m=video 0"))
    assert not refuses_some(SESSION + AUDIO + BUNDLED)
    assert refuses_some("v=0\r\n")
