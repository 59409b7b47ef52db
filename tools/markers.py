"""The part of a page that a tool writes, between two comments."""

END = "<!-- end -->\n"


def printed(page: str, tool: str, text: str) -> str:
    """The page with `text` between the tool's comments; raises ValueError if they are missing."""
    mark = f"<!-- begin: printed by python -m tools.{tool} -->\n"
    before, begin, rest = page.partition(mark)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page has no markers of tools.{tool}")
    return before + begin + text + end + after
