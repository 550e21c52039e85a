"""deploy/Dockerfile and compose.yaml name files, ports, users, variables and verbs that there are.

No container engine runs in these tests: that the image can be built is not seen here. What its commands do is, in
test_read_only.py.
"""

import json
import re
from fnmatch import fnmatch

import pytest

from service.server.config import ServeConfig
from tests.conftest import ROOT
from tests.deploy.reading import (
    DEPLOY,
    dockerfile,
    documents,
    image_environment,
    last,
    seconds,
    setting_of,
    understands,
)

(COMPOSE,) = documents("compose.yaml")
FRESHET = COMPOSE["services"]["freshet"]
TEXT = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")


def copied():
    """Sources of COPY, from the project's root."""
    lines = [text.split() for word, text in dockerfile() if word == "COPY" and not text.startswith("--from")]
    return [source for *sources, _ in lines for source in sources]


def test_the_image_copies_what_is_there_and_what_is_not_ignored():
    ignore = (DEPLOY / "Dockerfile.dockerignore").read_text().split("\n")
    let_in = [line[1:] for line in ignore if line.startswith("!")]
    assert sorted(copied()) == sorted(let_in)
    assert [source for source in copied() if not (ROOT / source).exists()] == []
    assert "*" in ignore
    assert any(fnmatch("model/__pycache__", line) for line in ignore)


def test_both_stages_are_of_one_small_image_and_what_is_installed_is_checked_by_hash():
    bases = {text.split()[0] for word, text in dockerfile() if word == "FROM"}
    assert len(bases) == 1
    assert "-slim" in bases.pop()
    for word, text in dockerfile():
        if word == "RUN":
            for command in re.split(r"&&", text):
                if " install " in command and "pip" in command:
                    assert "--require-hashes" in command or "--no-index" in command, command


def test_the_image_runs_as_a_user_without_rights_that_owns_its_volume():
    uid, gid = last("USER").split(":")
    assert int(uid) > 0
    assert int(gid) > 0
    assert f"--owner {uid} --group {gid}" in last("RUN")
    assert last("VOLUME") in last("RUN")
    data = image_environment()["FRESHET_DATA"]
    assert data.startswith(last("VOLUME") + "/"), "below it, so that a restored one can be put in its place"


def test_its_variables_are_settings_and_its_ports_those_that_are_exposed():
    environment = image_environment()
    for variable in environment:
        if variable.startswith("FRESHET_"):
            setting_of(variable)
    ports = {environment[name].rpartition(":")[2] for name in ("FRESHET_LISTEN", "FRESHET_HTTP")}
    assert set(last("EXPOSE").split()) == ports
    defaults = {ServeConfig().listen.rpartition(":")[2], ServeConfig().http.rpartition(":")[2]}
    assert ports == defaults


def test_its_commands_are_verbs_and_its_health_check_is_one():
    (script,) = json.loads(last("ENTRYPOINT"))
    assert f'{script} = "service.cli.main:main"' in (ROOT / "pyproject.toml").read_text()
    understands(*json.loads(last("CMD")))
    check = json.loads(last("HEALTHCHECK").partition("CMD ")[2])
    assert check[0] == script
    understands(*check[1:])


def test_as_it_is_the_image_listens_to_others_only_if_that_is_asked_for(monkeypatch):
    for variable, value in image_environment().items():
        if variable.startswith("FRESHET_"):
            monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match="without TLS"):
        ServeConfig()
    monkeypatch.setenv("FRESHET_INSECURE", FRESHET["environment"]["FRESHET_INSECURE"])
    assert ServeConfig().insecure


# ---- compose


def test_compose_builds_this_image_and_mounts_files_that_are_there():
    assert (
        DEPLOY / FRESHET["build"]["context"] / FRESHET["build"]["dockerfile"]
    ) == DEPLOY / ".." / "deploy/Dockerfile"
    for service in COMPOSE["services"].values():
        for mount in service.get("volumes", ()):
            source, target, *_ = mount.split(":")
            assert target.startswith("/")
            if source.startswith("."):
                assert (DEPLOY / source).exists(), source
            else:
                assert source in COMPOSE["volumes"], source


def test_compose_publishes_on_this_machine_alone_and_lets_the_server_drain():
    for service in COMPOSE["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    targets = {port.rpartition(":")[2] for port in FRESHET["ports"]}
    assert targets == set(last("EXPOSE").split())
    assert seconds(FRESHET["stop_grace_period"]) > 2 * ServeConfig().drain_s


def test_composes_variables_are_settings_also_those_that_are_comments():
    named = set(re.findall(r"\bFRESHET_[A-Z_]+(?=:)", TEXT))
    assert named >= set(FRESHET["environment"])
    known = {name for name in named if name.removeprefix("FRESHET_").lower() in ServeConfig.model_fields}
    assert named - known == set()


def test_composes_server_has_no_rights_and_writes_to_its_volume_and_tmp_only():
    assert FRESHET["read_only"] is True
    assert FRESHET["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in FRESHET["security_opt"]
    assert f"data:{last('VOLUME')}" in FRESHET["volumes"]
    assert FRESHET["tmpfs"][0].startswith("/tmp:")


def test_prometheus_scrapes_the_server_and_grafana_asks_prometheus_and_has_the_dashboard():
    (scraping,) = documents("prometheus/prometheus.yml")
    (job,) = scraping["scrape_configs"]
    assert job["static_configs"][0]["targets"] == [f"freshet:{ServeConfig().http.rpartition(':')[2]}"]
    mounts = COMPOSE["services"]["prometheus"]["volumes"]
    for rules in scraping["rule_files"]:
        assert f"./prometheus/{rules}:/etc/prometheus/{rules}:ro" in mounts
    ((source,),) = (d["datasources"] for d in documents("grafana/provisioning/datasources/prometheus.yaml"))
    prometheus = COMPOSE["services"]["prometheus"]["ports"][0].rpartition(":")[2]
    assert source["url"] == f"http://prometheus:{prometheus}"
    ((provider,),) = (d["providers"] for d in documents("grafana/provisioning/dashboards/freshet.yaml"))
    dashboard = COMPOSE["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert f"./grafana/freshet.json:{dashboard}:ro" in COMPOSE["services"]["grafana"]["volumes"]
    assert dashboard.startswith(provider["options"]["path"] + "/")
    assert (
        json.loads((DEPLOY / "grafana" / "freshet.json").read_text())["templating"]["list"][0]["query"]
        == source["type"]
    )
