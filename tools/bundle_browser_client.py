"""Bundle the modules of the browser client into the one file that is served and packaged.

    python -m tools.bundle_browser_client

Reads trio_signal/browser/src/ and writes trio_signal/browser/trio-signal.js. The modules are in the
order of their imports; only the exports of index.js stay exported.
"""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "trio_signal" / "browser" / "src"
BUNDLE = ROOT / "trio_signal" / "browser" / "trio-signal.js"
NOTE = "// Made of src/ by python -m tools.bundle_browser_client.\n\n"

IMPORT = re.compile(r"^import [^;]* from '\./(\w+)\.js';\n", re.MULTILINE)
REEXPORT = re.compile(r"^export {([^}]*)} from '\./(\w+)\.js';\n", re.MULTILINE)
EXPORT = re.compile(r"^export ((?:async )?(?:class|function|const) (\w+))", re.MULTILINE)


def bundle(modules: dict[str, str]) -> str:
    """One module that does what `index` does; all modules are given by name."""
    index = modules["index"]
    public = {name.strip() for names, _ in REEXPORT.findall(index) for name in names.split(",")}
    parts = [NOTE + REEXPORT.sub("", index).strip() + "\n"]
    for name in _in_order(modules, [name for _, name in REEXPORT.findall(index)]):
        text = IMPORT.sub("", modules[name])
        text = EXPORT.sub(lambda match: match[0] if match[2] in public else match[1], text)
        parts.append(re.sub(r"\n{3,}", "\n\n", text).strip() + "\n")
    return "\n".join(parts)


def classic(text: str) -> str:
    """The same as a classic script, which browsers can also load from a file."""
    return EXPORT.sub(lambda match: match[1], text)


def _in_order(modules: dict[str, str], wanted: list[str]) -> Iterator[str]:
    """These modules and those that they need, each once, after its imports."""
    done: set[str] = set()

    def visit(name: str) -> Iterator[str]:
        if name in done:
            return
        done.add(name)
        for needed in IMPORT.findall(modules[name]):
            yield from visit(needed)
        yield name

    for name in wanted:
        yield from visit(name)


def main() -> None:
    """Write the file."""
    BUNDLE.write_text(bundle({path.stem: path.read_text() for path in SOURCE.glob("*.js")}))


if __name__ == "__main__":
    main()
