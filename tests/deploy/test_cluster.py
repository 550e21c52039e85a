"""The files of deploy/cluster name nodes, ports, paths and settings that there are, and ask for no rights.

No cluster of Kubernetes, container engine or Envoy runs in these tests; nginx does, in test_nginx.py.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from service.access import grants as access
from service.learning.spawned import STOP_S
from service.server.config import ServeConfig, load
from tests.deploy.reading import DEPLOY, documents, last, manifest, seconds, setting_of, understands

FOLDER = "cluster/kubernetes"


def of(kind: str, name: str = "freshet") -> Any:
    """An object of the cluster."""
    return manifest(kind, name, FOLDER)


STATEFUL = of("StatefulSet")
POD = STATEFUL["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
LABELS = STATEFUL["spec"]["template"]["metadata"]["labels"]
MOUNTS = {mount["name"]: mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
ENVIRONMENT = {variable["name"]: variable for variable in CONTAINER["env"]}
(COMPOSE,) = documents("cluster/compose.yaml")
NODES = {name: node for name, node in COMPOSE["services"].items() if name.startswith("node")}


@pytest.fixture
def config(tmp_path, monkeypatch):
    """The settings of the first pod, as the server reads them."""
    (tmp_path / "freshet.toml").write_text(of("ConfigMap")["data"]["freshet.toml"])
    monkeypatch.setenv(
        "FRESHET_ADVERTISE", ENVIRONMENT["FRESHET_ADVERTISE"]["value"].replace("$(POD_NAME)", "freshet-0")
    )
    return load({}, tmp_path / "freshet.toml")


def test_kustomize_takes_every_manifest_of_the_cluster_but_the_example_secrets():
    (kustomization,) = documents(f"{FOLDER}/kustomization.yaml")
    files = {path.name for path in (DEPLOY / FOLDER).glob("*.yaml")}
    assert set(kustomization["resources"]) == files - {"kustomization.yaml", "secret.example.yaml"}
    assert kustomization["namespace"] == of("Namespace")["metadata"]["name"]
    assert kustomization["images"][0]["name"] == CONTAINER["image"].partition(":")[0]


def test_a_pod_has_no_claim_and_its_folder_is_a_cache(config):
    assert "volumeClaimTemplates" not in STATEFUL["spec"]
    kinds = {volume["name"]: {kind for kind in volume if kind != "name"} for volume in POD["volumes"]}
    assert kinds == {"cache": {"emptyDir"}, "config": {"configMap"}, "secret": {"secret"}, "tmp": {"emptyDir"}}
    assert str(config.data).startswith(MOUNTS["cache"] + "/")
    assert MOUNTS["cache"] == last("VOLUME")
    assert config.store.startswith("s3://")


def test_each_pod_advertises_a_name_that_the_headless_service_gives_it(config):
    assert next(iter(ENVIRONMENT)) == "POD_NAME", "a variable is expanded from those before it"
    host, _, port = config.advertise.rpartition(":")
    pod, service, namespace = host.split(".")[:3]
    assert pod == "freshet-0"
    assert service == STATEFUL["spec"]["serviceName"]
    assert namespace == of("Namespace")["metadata"]["name"]
    headless = of("Service", service)["spec"]
    assert headless["clusterIP"] == "None"
    assert headless["publishNotReadyAddresses"] is True, "nodes ask a node that starts or drains"
    assert [each["port"] for each in headless["ports"]] == [int(port)]


def test_clients_get_the_addresses_of_ready_nodes_and_none_in_between(config):
    service = of("Service")["spec"]
    assert service["clusterIP"] == "None"
    assert "publishNotReadyAddresses" not in service
    ports = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    assert {"grpc": int(config.listen.rpartition(":")[2]), "http": int(config.http.rpartition(":")[2])} == ports
    for name in ("freshet", "freshet-nodes"):
        spec = of("Service", name)["spec"]
        assert spec["selector"].items() <= LABELS.items()
        assert all(port["port"] == ports[port["targetPort"]] for port in spec["ports"])


def test_credentials_come_from_the_secrets_and_are_no_settings(config):
    secret, store = of("Secret")["stringData"], of("Secret", "freshet-store")
    for path in (config.tls_cert, config.tls_key, config.tls_peer_ca, config.access):
        assert str(path.parent) == MOUNTS["secret"]
        assert path.name in secret
    access.parse(secret["access.toml"])
    for name, variable in ENVIRONMENT.items():
        if name.startswith("FRESHET_"):
            setting_of(name)
        elif name.startswith("AWS_"):
            source = variable["valueFrom"]["secretKeyRef"]
            assert source["name"] == store["metadata"]["name"]
            assert source["key"] in store["stringData"]
    understands(*CONTAINER["args"])


def test_a_node_is_asked_whether_it_is_ready_and_may_hand_its_shards_over(config):
    for probe, path in (("startupProbe", "/readyz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/healthz")):
        asked = CONTAINER[probe]["httpGet"]
        assert asked == {"path": path, "port": "http", "scheme": "HTTPS"}
    assert POD["terminationGracePeriodSeconds"] > 2 * config.drain_s + STOP_S


def test_one_node_at_a_time_may_be_taken_away_and_no_more_are_made_than_there_are_shards(config):
    budget, scaler = of("PodDisruptionBudget")["spec"], of("HorizontalPodAutoscaler")["spec"]
    assert budget["maxUnavailable"] == 1
    assert budget["selector"]["matchLabels"].items() <= LABELS.items()
    assert scaler["scaleTargetRef"] == {
        "apiVersion": STATEFUL["apiVersion"], "kind": "StatefulSet", "name": STATEFUL["metadata"]["name"]
    }  # fmt: skip
    assert 1 < scaler["minReplicas"] <= STATEFUL["spec"]["replicas"] <= scaler["maxReplicas"] <= config.shards
    (metric,) = scaler["metrics"]
    rule = (DEPLOY / FOLDER / "autoscaler.yaml").read_text()
    assert f"name: {{as: {metric['pods']['metric']['name']}}}" in rule
    assert "freshet_ticks_total" in rule


def test_the_pods_of_a_cluster_keep_to_the_restricted_profile_with_a_read_only_root():
    pod, container = POD["securityContext"], CONTAINER["securityContext"]
    assert pod["runAsNonRoot"] is True
    assert (str(pod["runAsUser"]), str(pod["runAsGroup"])) == tuple(last("USER").split(":"))
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}
    }  # fmt: skip
    assert POD["automountServiceAccountToken"] is False
    assert POD["enableServiceLinks"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & POD.keys()


def test_the_policy_lets_nodes_call_each_other_and_the_store():
    policy = of("NetworkPolicy")["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= LABELS.items()
    peers = [peer for rule in policy["ingress"] for peer in rule["from"]]
    assert {"podSelector": {"matchLabels": policy["podSelector"]["matchLabels"]}} in peers
    assert policy["egress"][0]["ports"] == [{"protocol": "TCP", "port": "grpc"}]
    assert {port["port"] for rule in policy["egress"][1:] for port in rule["ports"]} == {53, 443}


# ---- compose


def test_composes_nodes_differ_only_in_their_address_and_are_settings_that_are_taken(monkeypatch):
    assert len(NODES) == 3
    for name, node in NODES.items():
        environment = node["environment"]
        for variable, value in environment.items():
            if variable.startswith("FRESHET_"):
                setting_of(variable)
                monkeypatch.setenv(variable, value)
        config = ServeConfig()
        port = config.listen.rpartition(":")[2]
        assert config.advertise == f"{name}:{port}", "the same port inside and outside, so that both reach it"
        assert node["ports"] == [f"127.0.0.1:{port}:{port}"]
        assert node["volumes"] == [f"{name}:{last('VOLUME')}"]
        assert name in COMPOSE["volumes"]
        assert seconds(node["stop_grace_period"]) > 2 * config.drain_s
        assert (node["read_only"], node["cap_drop"]) == (True, ["ALL"])
        assert (DEPLOY / "cluster" / node["build"]["context"] / node["build"]["dockerfile"]).is_file()
    assert len({node["environment"]["FRESHET_STORE"] for node in NODES.values()}) == 1


def test_composes_store_knows_the_nodes_and_every_mounted_file_is_there():
    (identity,) = json.loads((DEPLOY / "cluster" / "s3.json").read_text())["identities"]
    (credentials,) = identity["credentials"]
    for node in NODES.values():
        environment = node["environment"]
        assert environment["AWS_ACCESS_KEY_ID"] == credentials["accessKey"]
        assert environment["AWS_SECRET_ACCESS_KEY"] == credentials["secretKey"]
        endpoint = re.search(r"endpoint=http://(\w+):8333$", environment["FRESHET_STORE"])
        assert endpoint
        assert endpoint[1] in COMPOSE["services"]
    for service in COMPOSE["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
        for mount in service.get("volumes", ()):
            source = mount.split(":")[0]
            assert (DEPLOY / "cluster" / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]


def test_prometheus_scrapes_every_node_under_one_job_and_has_both_files_of_rules():
    (scraping,) = documents("cluster/prometheus.yml")
    (job,) = scraping["scrape_configs"]
    port = ServeConfig().http.rpartition(":")[2]
    assert job["static_configs"] == [{"targets": [f"{name}:{port}" for name in NODES]}]
    for rules in scraping["rule_files"]:
        assert (DEPLOY / "prometheus" / rules).is_file()
        assert f"../prometheus/{rules}:/etc/prometheus/{rules}:ro" in COMPOSE["services"]["prometheus"]["volumes"]
    images = {service["image"] for service in documents("compose.yaml")[0]["services"].values()}
    assert COMPOSE["services"]["prometheus"]["image"] in images


# ---- Envoy


def test_envoy_hashes_the_model_ends_no_stream_by_time_and_knows_the_nodes():
    ((listener,), (cluster,)) = (
        documents("cluster/envoy.yaml")[0]["static_resources"][k] for k in ("listeners", "clusters")
    )
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    route = manager["route_config"]["virtual_hosts"][0]["routes"][0]["route"]
    assert route["hash_policy"] == [{"header": {"header_name": "x-freshet-model"}}]
    assert (route["timeout"], manager["stream_idle_timeout"], manager["request_timeout"]) == ("0s", "0s", "0s")
    assert route["cluster"] == cluster["name"]
    assert cluster["lb_policy"] == "RING_HASH"
    hosts = [each["endpoint"]["address"]["socket_address"]["address"]
             for each in cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]]  # fmt: skip
    assert hosts == list(NODES)
