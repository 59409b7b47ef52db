"""The browser client's types and reference are generated from its comments and are up to date."""

import json
import re

import pytest

from tools import bundle_browser_client, print_browser_api
from trio_signal import __version__

SOURCE = print_browser_api.SOURCE.read_text()
REACT = print_browser_api.REACT.read_text()


def test_bundle_is_up_to_date() -> None:
    modules = {path.stem: path.read_text() for path in bundle_browser_client.SOURCE.glob("*.js")}
    assert bundle_browser_client.bundle(modules) == SOURCE, (
        "run: python -m tools.bundle_browser_client"
    )


def test_bundle_has_each_module_once_after_its_imports() -> None:
    modules = {
        "index": "/** All. */\n\nexport { a } from './a.js';\nexport { c } from './c.js';\n",
        "a": "import { b } from './b.js';\n\nexport function a() { return b + c; }\n",
        "b": "import { c } from './c.js';\n\nexport const b = c;\n",
        "c": "export const c = 1;\n",
    }
    assert bundle_browser_client.bundle(modules) == bundle_browser_client.NOTE + (
        "/** All. */\n\n"
        "export const c = 1;\n\nconst b = c;\n\nexport function a() { return b + c; }\n"
    )


def test_types_are_up_to_date() -> None:
    types = print_browser_api.TYPES.read_text()
    assert types == print_browser_api.types(SOURCE), "run: python -m tools.print_browser_api"
    types = print_browser_api.SERVER_TYPES.read_text()
    server = print_browser_api.SERVER.read_text()
    assert types == print_browser_api.types(server), "run: python -m tools.print_browser_api"
    types = print_browser_api.REACT_TYPES.read_text()
    assert types == print_browser_api.react_types(), "run: python -m tools.print_browser_api"


def test_reference_is_up_to_date() -> None:
    for place, source in (
        (print_browser_api.PAGE, SOURCE),
        (print_browser_api.REACT_PAGE, REACT),
    ):
        page = place.read_text()
        assert print_browser_api.printed(page, source) == page, (
            "run: python -m tools.print_browser_api"
        )


def test_page_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="no markers"):
        print_browser_api.printed("# The browser client\n", SOURCE)


def test_every_emitted_event_is_in_the_types() -> None:
    told = set(re.findall(r"#emit\('(\w+)'", SOURCE))
    (events,) = (e for e in print_browser_api.read(SOURCE) if e.name == "Events")
    assert {print_browser_api.named(text).name for text in events.all("property")} == told


def test_documented_parameters_exist_in_the_code() -> None:
    for entry in print_browser_api.read(SOURCE) + print_browser_api.read(REACT):
        if entry.all("param") and "(" in entry.code:
            names = {print_browser_api.named(text).name for text in entry.all("param")}
            assert names <= {*re.findall(r"\w+", entry.code), "options"}


def test_package_version_matches_the_server() -> None:
    package = json.loads(print_browser_api.SOURCE.with_name("package.json").read_text())
    assert package["version"] == __version__


SMALL = """
/**
 * What it is.
 *
 * @typedef {object} Thing
 * @property {number} [size] - How big, in {@link Unit}s.
 */

/** @typedef {'a' | 'b'} Unit */

/** Holds things. */
export class Box {
  /** How many. @type is in a line of its own. */
  #count = 0;
  /**
   * All of them.
   *
   * @type {Thing[]}
   */
  things = [];

  /**
   * Puts one in.
   *
   * @template {Thing} T
   * @param {T} thing - What.
   * @returns {T} The same.
   */
  put(thing) {}

  /** Of no concern. */
  #hidden() {}
}

/** Of no concern. */
class Inner {
  /** Of no concern. */
  method() {}
}
"""

SMALL_TYPES = """\
// Printed by python -m tools.print_browser_api.

/** What it is. */
export interface Thing {
  /** How big, in `Unit`s. */
  size?: number;
}

export type Unit = 'a' | 'b';

/** Holds things. */
export class Box {
  private constructor();
  /** All of them. */
  readonly things: Thing[];
  /** Puts one in. */
  put<T extends Thing>(thing: T): T;
}
"""


def test_comments_become_types() -> None:
    assert print_browser_api.types(SMALL) == SMALL_TYPES
