"""The systemd unit: taken by systemd, hardened, and in agreement with the server that it starts."""

import re
import shutil
import subprocess

import pytest

from service.console.verbs import USAGE_ERROR
from service.learning.spawned import STOP_S
from service.server.config import ServeConfig
from tests.deploy.reading import DEPLOY, seconds, setting_of, understands, unit

FILE = DEPLOY / "systemd" / "freshet.service"
SERVICE = {key: values[-1] for key, values in unit()["Service"].items()}
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def test_it_starts_a_verb_that_there_is_and_gives_settings_that_there_are():
    program, *words = SERVICE["ExecStart"].split()
    assert program == "/opt/freshet/bin/freshet"
    understands(*words)
    for pair in SERVICE["Environment"].split():
        if pair.startswith("FRESHET_"):
            setting_of(pair.split("=")[0])
    assert f"/var/lib/{SERVICE['StateDirectory']}/" in SERVICE["Environment"]


def test_it_lets_the_server_drain_and_does_not_start_again_what_was_refused():
    assert seconds(SERVICE["TimeoutStopSec"]) > ServeConfig().drain_s + STOP_S + 10
    assert SERVICE["KillMode"] == "mixed", "the trainer is ended by the server, not by systemd"
    assert SERVICE["RestartPreventExitStatus"] == str(USAGE_ERROR)
    assert int(SERVICE["LimitNOFILE"]) > ServeConfig().max_connections


def test_its_user_is_made_by_sysusers():
    line = (DEPLOY / "systemd" / "sysusers.conf").read_text().splitlines()[-1]
    assert line.split()[:2] == ["u", SERVICE["User"]]


@needs_systemd
def test_systemd_finds_nothing_wrong_with_it(tmp_path):
    (tmp_path / "freshet.service").write_text(FILE.read_text().replace("/opt/freshet/bin/freshet", "/bin/true"))
    told = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / "freshet.service"], capture_output=True, text=True, timeout=60
    )
    about_it = [line for line in told.stderr.splitlines() if "freshet" in line]
    assert (told.returncode, about_it) == (0, [])


@needs_systemd
def test_systemd_calls_its_exposure_low():
    told = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", FILE],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert told.returncode == 0, told.stdout[-400:]
    exposure = re.search(r"Overall exposure level for freshet.service: ([\d.]+)", told.stdout)
    assert exposure
    assert float(exposure[1]) <= 2.0
