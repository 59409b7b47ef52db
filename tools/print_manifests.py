"""Print the Helm chart as plain Kubernetes manifests, with all options enabled.

    python -m tools.print_manifests [--check]

It needs the group `packages`. With `--check` it writes nothing, and exits with 1 if the page
differs from the chart, or if Helm finds a mistake in the chart.

The page contains a hash of the chart, so that a test without Helm notices changes of the chart.
"""

import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "deploy" / "chart"
PAGE = ROOT / "deploy" / "kubernetes" / "trio-signal.yaml"
NAME = "trio-signal"
VALUES: dict[str, Any] = {"autoscaling": {"enabled": True}, "ingress": {"enabled": True}}
ORDER = ("deployment", "service", "disruptions", "autoscaler", "ingress")
HEAD = """\
# trio-signal on Kubernetes: docs/deploy/kubernetes.md. Set the image and the host, then
# kubectl apply --filename deploy/kubernetes/trio-signal.yaml
#
# Printed by python -m tools.print_manifests from deploy/chart {digest}
"""


def digest() -> str:
    """The hash of the chart's files."""
    files = [path for path in sorted(CHART.rglob("*")) if path.is_file()]
    return sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()[:16]


def rendered(values: dict[str, Any]) -> dict[str, str]:
    """Helm's output by template name, without empty ones."""
    from helm_python import Chart

    with Chart.load(CHART) as chart:
        texts = chart.render(values, name=NAME, namespace="default")
    return {Path(path).stem: text.strip() for path, text in texts.items() if text.strip()}


def printed() -> str:
    """The page."""
    texts = rendered(VALUES)
    return "---\n".join([HEAD.format(digest=digest()), *(texts[name] + "\n" for name in ORDER)])


def mistakes() -> list[str]:
    """The mistakes that Helm finds in the chart."""
    from helm_python import lint

    return [
        f"{found['path']}: {found['error']}"
        for found in lint(CHART)["messages"]
        if found["severity"] > 1
    ]


def main(*options: str) -> int:
    """Write or check the page; the exit status."""
    for mistake in (found := mistakes()):
        print(mistake, file=sys.stderr)
    if "--check" not in options:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(printed())
    elif PAGE.read_text() != printed():
        print("run: python -m tools.print_manifests", file=sys.stderr)
        return 1
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
