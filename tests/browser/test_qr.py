"""The pages' QR codes equal those of another program, in each version and with each mask."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import segno

HERE = Path(__file__).parent
#: The capacity of versions 1 to 10; the other program pads shorter texts differently.
FULL = (17, 32, 53, 78, 106, 134, 154, 192, 230, 271)
LINK = "https://192.168.1.5:8000/demo/call?room=Müßiggang&more="
TEXTS = [(LINK.encode() * 5)[:n].decode(errors="replace").replace("\ufffd", "?") for n in FULL]


def test_codes_equal_those_of_another_program(tmp_path: Path) -> None:
    texts = [*TEXTS, "short", "x" * 272]
    command = ["node", str(HERE / "qr.mjs"), str(tmp_path), *texts]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    *codes, short, too_long = json.loads(run.stdout)
    for version, (text, masks) in enumerate(zip(TEXTS, codes, strict=True), 1):
        for mask, code in enumerate(masks):
            other = segno.make_qr(
                text, error="l", mask=mask, mode="byte", encoding="utf-8", boost_error=False
            )
            assert other.version == version
            assert code == [list(row) for row in other.matrix], (text, mask)
    assert [len(code) for code in short] == [21] * 8
    assert too_long == [None] * 8
