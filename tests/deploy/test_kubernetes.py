"""The Kubernetes manifests are valid by its schemas, and fit the server and its image.

They are rendered from the Helm chart; `make packages` has Helm do that again.
"""

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tools import print_manifests
from tools.print_settings import variable
from trio_signal.config import Settings
from trio_signal.environment import load_settings
from trio_signal.web.gate import PROBES

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "chart"
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
MANIFESTS: dict[str, Any] = {
    manifest["kind"]: manifest
    for manifest in yaml.safe_load_all(print_manifests.PAGE.read_text())
    if manifest is not None
}
DEPLOYMENT = MANIFESTS["Deployment"]["spec"]
POD = DEPLOYMENT["template"]["spec"]
(CONTAINER,) = POD["containers"]
ENVIRONMENT = {entry["name"]: entry["value"] for entry in CONTAINER["env"]}
#: Of the versions that the chart supports: the oldest, and the newest that has a schema here.
VERSIONS = (
    re.findall(r'kubeVersion: ">=(\d+\.\d+)', (CHART / "Chart.yaml").read_text())[0],
    kubernetes_validate.latest_version(),
)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_manifests_are_valid(version: str) -> None:
    assert len(MANIFESTS) == len(print_manifests.ORDER)
    for manifest in MANIFESTS.values():
        kubernetes_validate.validate(manifest, version, strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(
            {**MANIFESTS["Service"], "spec": {"port": 80}}, version, strict=True
        )


def test_the_manifests_agree_with_the_chart() -> None:
    """If this fails: python -m tools.print_manifests, with the group `packages`."""
    assert f" {print_manifests.digest()}\n" in print_manifests.PAGE.read_text()


def test_the_chart_uses_exactly_its_values() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    templates = "".join(path.read_text() for path in (CHART / "templates").iterdir())
    blocks = set(re.findall(r"{{- with \.Values\.(\w+) }}", templates))
    used = set(re.findall(r"\.Values\.(\w+)", templates))
    assert used == values.keys()
    for block in blocks:
        fields = set(
            re.findall(r"[{ ]\.([a-z]\w+)", (CHART / "templates" / FILES[block]).read_text())
        )
        assert fields == values[block].keys()


FILES = {"autoscaling": "autoscaler.yaml", "ingress": "ingress.yaml"}


def test_the_environment_has_valid_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ENVIRONMENT.keys() <= {variable(name) for name in Settings.model_fields}
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    assert load_settings().port == int(ENVIRONMENT["PORT"])
    # Kubernetes would add TRIO_SIGNAL_SERVICE_HOST and others, because of the service's name.
    assert POD["enableServiceLinks"] is False


def test_probes_and_service_use_the_servers_port() -> None:
    (port,) = CONTAINER["ports"]
    assert port["containerPort"] == int(ENVIRONMENT["PORT"])
    assert f"EXPOSE {port['containerPort']}\n" in DOCKERFILE
    probes = {
        name: CONTAINER[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")
    }
    assert {probe["port"] for probe in probes.values()} == {port["name"]}
    assert {probe["path"] for probe in probes.values()} == PROBES
    assert probes["readiness"]["path"] == "/readyz"
    (service_port,) = MANIFESTS["Service"]["spec"]["ports"]
    assert service_port["targetPort"] == port["name"]
    (rule,) = MANIFESTS["Ingress"]["spec"]["rules"]
    backend = rule["http"]["paths"][0]["backend"]["service"]
    assert backend == {
        "name": MANIFESTS["Service"]["metadata"]["name"],
        "port": {"name": service_port["name"]},
    }


def test_selectors_match_the_pods() -> None:
    labels = DEPLOYMENT["template"]["metadata"]["labels"]
    assert DEPLOYMENT["selector"]["matchLabels"] == labels
    assert MANIFESTS["Service"]["spec"]["selector"] == labels
    assert MANIFESTS["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    target = MANIFESTS["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert target["name"] == MANIFESTS["Deployment"]["metadata"]["name"]


def test_a_pod_has_time_to_drain() -> None:
    pause, drain = (float(ENVIRONMENT[f"TRIO_SIGNAL_{name}"]) for name in ("DRAIN_PAUSE", "DRAIN"))
    # It exits at most two seconds after the drain time.
    assert POD["terminationGracePeriodSeconds"] > pause + drain + 2
    # Two probes at most must fail before the pod gets no more requests.
    assert pause >= 2 * CONTAINER["readinessProbe"]["periodSeconds"]
    assert DEPLOYMENT["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_a_pod_has_no_more_permissions_than_it_needs() -> None:
    assert re.search(r"^USER [1-9]\d*:", DOCKERFILE, re.MULTILINE)
    assert POD["securityContext"]["runAsNonRoot"] is True
    assert CONTAINER["securityContext"]["readOnlyRootFilesystem"] is True
    assert CONTAINER["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    (mount,) = CONTAINER["volumeMounts"]
    assert f"DATABASE_URL=sqlite:///{mount['mountPath']}/" in DOCKERFILE
