"""The Kubernetes manifests name objects, ports, paths, settings and verbs that there are, and ask for no rights.

No cluster runs in these tests: that an API server takes them is not seen here.
"""

import tomllib

import pytest
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from service.access import grants as access
from service.edge.http import application
from service.learning.spawned import STOP_S
from service.observe.rendering import Registry
from service.server.config import ServeConfig, load
from tests.deploy.reading import DEPLOY, dockerfile, documents, image_environment, last, manifest, understands

STATEFUL = manifest("StatefulSet")
POD = STATEFUL["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
TEMPLATE_LABELS = STATEFUL["spec"]["template"]["metadata"]["labels"]
MOUNTS = {mount["name"]: mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
CONFIG = manifest("ConfigMap")["data"]["freshet.toml"]


@pytest.fixture
def config(tmp_path):
    """The settings of the ConfigMap, as the server reads them."""
    (tmp_path / "freshet.toml").write_text(CONFIG)
    return load({}, tmp_path / "freshet.toml")


def test_kustomize_takes_every_manifest_but_the_example_secret():
    (kustomization,) = documents("kubernetes/kustomization.yaml")
    files = {path.name for path in (DEPLOY / "kubernetes").glob("*.yaml")}
    assert set(kustomization["resources"]) == files - {"kustomization.yaml", "secret.example.yaml"}
    assert kustomization["namespace"] == manifest("Namespace")["metadata"]["name"]
    assert kustomization["images"][0]["name"] == CONTAINER["image"].partition(":")[0]


def test_the_configuration_is_taken_and_its_files_are_in_what_is_mounted(config):
    secret = manifest("Secret")["stringData"]
    for path in (config.tls_cert, config.tls_key, config.access):
        assert str(path.parent) == MOUNTS["secret"]
        assert path.name in secret
    words = CONTAINER["args"]
    understands(*words)
    assert words[words.index("--config") + 1] == f"{MOUNTS['config']}/freshet.toml"
    volumes = {volume["name"]: volume for volume in POD["volumes"]}
    assert volumes["secret"]["secret"]["secretName"] == manifest("Secret")["metadata"]["name"]
    assert volumes["config"]["configMap"]["name"] == manifest("ConfigMap")["metadata"]["name"]


def test_the_example_of_an_access_file_is_one():
    access.parse(manifest("Secret")["stringData"]["access.toml"])


def test_ports_agree_from_the_settings_to_the_services(config):
    ports = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    assert {"grpc": int(config.listen.rpartition(":")[2]), "http": int(config.http.rpartition(":")[2])} == ports
    for name in ("freshet", "freshet-headless"):
        service = manifest("Service", name)["spec"]
        assert {port["targetPort"] for port in service["ports"]} == set(ports)
        assert all(port["port"] == ports[port["targetPort"]] for port in service["ports"])
        assert service["selector"].items() <= TEMPLATE_LABELS.items()


def test_the_stateful_set_has_one_pod_a_headless_service_and_a_volume_with_room(config):
    spec = STATEFUL["spec"]
    assert spec["replicas"] == 1
    assert spec["selector"]["matchLabels"].items() <= TEMPLATE_LABELS.items()
    assert manifest("Service", spec["serviceName"])["spec"]["clusterIP"] == "None"
    (claim,) = spec["volumeClaimTemplates"]
    assert str(config.data).startswith(MOUNTS[claim["metadata"]["name"]] + "/")
    assert MOUNTS["data"] == last("VOLUME")
    size = claim["spec"]["resources"]["requests"]["storage"]
    assert size.endswith("Gi")
    assert int(size[:-2]) * 2**30 > config.journal_keep_bytes + config.journal_cap_bytes


def test_the_probes_ask_what_the_server_has_over_tls(config):
    routes = application(Registry().text, lambda: "", lambda authorization, peer: None, PlainTextResponse("")).routes
    paths = {route.path for route in routes if isinstance(route, Route)}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = CONTAINER[probe]["httpGet"]
        assert asked["path"] in paths
        assert asked["port"] == "http"
        assert (asked["scheme"] == "HTTPS") == (config.tls_cert is not None)
    assert CONTAINER["livenessProbe"]["httpGet"]["path"] == "/healthz", "a full disk must not end the process"


def test_it_may_drain_and_end_its_trainer_before_it_is_killed(config):
    assert POD["terminationGracePeriodSeconds"] > config.drain_s + STOP_S + 10


def test_the_pod_keeps_to_the_restricted_profile_with_a_read_only_root():
    pod, container = POD["securityContext"], CONTAINER["securityContext"]
    assert pod["runAsNonRoot"] is True
    assert (str(pod["runAsUser"]), str(pod["runAsGroup"])) == tuple(last("USER").split(":"))
    assert pod["fsGroup"] == pod["runAsGroup"]
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}
    }  # fmt: skip
    assert POD["automountServiceAccountToken"] is False
    kinds = {kind for volume in POD["volumes"] for kind in volume if kind != "name"}
    assert kinds <= {"configMap", "secret", "emptyDir"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & POD.keys()
    labels = manifest("Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_kubernetes_sets_no_variable_that_the_server_would_take_for_a_setting(monkeypatch):
    assert POD["enableServiceLinks"] is False
    monkeypatch.setenv("FRESHET_SERVICE_HOST", "10.0.0.1")  # what it would set for the Service `freshet`
    with pytest.raises(ValueError, match="FRESHET_SERVICE_HOST: no such setting"):
        load({})


def test_the_policy_lets_clients_in_by_label_and_nothing_out():
    policy = manifest("NetworkPolicy")["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= TEMPLATE_LABELS.items()
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    assert policy["egress"] == []
    names = {port["name"] for port in CONTAINER["ports"]}
    assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} == names
    assert all(rule["from"] for rule in policy["ingress"])


def test_the_disruption_budget_is_of_this_pod():
    assert manifest("PodDisruptionBudget")["spec"]["selector"]["matchLabels"].items() <= TEMPLATE_LABELS.items()


def test_the_configuration_differs_from_the_image_only_where_it_must(config):
    image = image_environment()
    assert (config.listen, config.http, str(config.data)) == tuple(
        image[name] for name in ("FRESHET_LISTEN", "FRESHET_HTTP", "FRESHET_DATA")
    )
    assert set(tomllib.loads(CONFIG)) <= set(ServeConfig.model_fields)
    assert ("ENTRYPOINT", '["freshet"]') in dockerfile()
