"""Each alert fires where it should and nowhere else, as promtool's own rule evaluation says."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

PROMETHEUS = Path(__file__).parents[2] / "deploy" / "prometheus"
ALERTS = (PROMETHEUS / "alerts.yml").read_text()
NAMES = re.findall(r"^ *- alert: (\w+)$", ALERTS, re.MULTILINE)
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not there (Debian: prometheus)")

END = 40  # minutes: more than any `for` plus what it takes to see an increase
ON = 'job="freshet", instance="a"'
OF = f'{ON}, tenant="acme", model="flow"'


@dataclass(frozen=True)
class Scenario:
    """What a server's metrics are, minute by minute, and which alert fires in the last minute; empty: none does."""

    says: str
    series: dict[str, str]  # in promtool's notation: "first+step x times"
    fires: str = ""
    about: dict[str, str] = field(default_factory=dict)  # labels of the alert, beside instance

    @property
    def alert(self) -> str:
        """The alert's labels, as Prometheus writes them."""
        pairs = {"alertname": self.fires, **self.about}
        return "{" + ", ".join(f'{name}="{value}"' for name, value in pairs.items()) + "}"


def lately(minutes: int, before: float, now: float) -> str:
    """Another value since so many minutes before the end."""
    return f"{before:g}x{END - minutes - 1} {now:g}x{minutes}"


def latency(metric: str, slow: float) -> dict[str, str]:
    """A histogram of which, each minute, 100 observations are below 50 ms and `slow` take up to 2.5 s."""
    at = [("0.05", 100), ("2.5", 100 + slow), ("+Inf", 100 + slow)]
    return {f'{metric}_bucket{{{ON}, le="{le}"}}': f"0+{n}x60" for le, n in at}


def learning(loss: str, persistence: str, labels: str = "0+1000x60") -> dict[str, str]:
    """A model's losses, and the labels that it has learned."""
    return {
        f"freshet_loss_prequential{{{OF}}}": loss,
        f"freshet_loss_persistence{{{OF}}}": persistence,
        f"freshet_labels_learned_total{{{OF}}}": labels,
    }


def coverage(covered: float) -> dict[str, str]:
    """Label values inside the intervals of level 0.9, of 100 per minute."""
    return {
        f'freshet_interval_covered_total{{{OF}, level="0.9"}}': f"0+{covered:g}x60",
        f'freshet_interval_asked_total{{{OF}, level="0.9"}}': "0+90x60",
    }


def verdicts(published: str, vetoed: str) -> dict[str, str]:
    """A model's verdicts."""
    counts = {"publish": published, "veto": vetoed}
    return {f'freshet_verdicts_total{{{OF}, kind="{kind}"}}': values for kind, values in counts.items()}


CERTIFICATE = f'freshet_certificate_expiry_timestamp_seconds{{{ON}, file="certificate"}}'
WELL = {
    f"up{{{ON}}}": "1x60",
    f"freshet_ready{{{ON}}}": "1x60",
    f"freshet_trainer_ready{{{ON}}}": "1x60",
    f"freshet_trainer_restarts_total{{{ON}}}": "0x60",
    f"freshet_trainer_backlog_entries{{{OF}}}": "100x60",
    f"freshet_unjudged_seconds{{{OF}}}": "2x60",
    f"freshet_fresh_target_seconds{{{ON}}}": "30x60",
    f"freshet_journal_no_space{{{ON}}}": "0x60",
    f"freshet_disk_free_bytes{{{ON}}}": "5e9x60",
    f'freshet_disk_full_total{{{ON}, what="journal"}}': "0x60",
    f"freshet_rollbacks_total{{{OF}}}": "0x60",
    f'freshet_labels_quarantined_total{{{OF}, reason="late"}}': "0x60",
    f'freshet_labels_quarantined_total{{{OF}, reason="range"}}': "0x60",
    f'freshet_learner_refused_total{{{OF}, reason="non-finite"}}': "0x60",
    f"freshet_entries_skipped_total{{{OF}}}": "0x60",
    f"freshet_quarantine_dropped_total{{{OF}}}": "0x60",
    f'freshet_file_invalid{{{ON}, file="access"}}': "0x60",
    CERTIFICATE: "4e6x60",  # the time of these tests begins in 1970
    **latency("freshet_message_seconds", 0),
    **latency("freshet_journal_durable_lag_seconds", 0),
    **learning("0.2x60", "0.5x60"),
    **verdicts("0+60x60", "0x60"),
    **coverage(90),
}
FLOW = {"tenant": "acme", "model": "flow"}
SCENARIOS = [
    Scenario("a server is well", {}),
    Scenario("nobody answers the scrape", {f"up{{{ON}}}": lately(1, 1, 0)}, "FreshetNotReady"),
    Scenario("one scrape is lost", {f"up{{{ON}}}": lately(0, 1, 0)}),
    Scenario("it takes no streams", {f"freshet_ready{{{ON}}}": lately(1, 1, 0)}, "FreshetNotReady"),
    Scenario("one in fifty forecasts is slow", latency("freshet_message_seconds", 2), "FreshetForecastsSlow"),
    Scenario("one in two hundred forecasts is slow", latency("freshet_message_seconds", 0.5)),
    Scenario("the trainer is away", {f"freshet_trainer_ready{{{ON}}}": lately(5, 1, 0)}, "FreshetTrainerBehind"),
    Scenario("the trainer starts", {f"freshet_trainer_ready{{{ON}}}": lately(3, 1, 0)}),
    Scenario(
        "the trainer of a shard with a model is away",
        {f'freshet_trainer_ready{{{ON}, shard="003"}}': "0x60",
         f'freshet_trainer_backlog_entries{{{OF}, shard="003"}}': "0x60"},
        "FreshetTrainerBehind",
    ),
    Scenario("a shard without models has no trainer", {f'freshet_trainer_ready{{{ON}, shard="003"}}': "0x60"}),
    Scenario("the trainer dies on", {f"freshet_trainer_restarts_total{{{ON}}}": "0+1x60"}, "FreshetTrainerBehind"),
    Scenario("the trainer died twice", {f"freshet_trainer_restarts_total{{{ON}}}": lately(9, 0, 2)}),
    Scenario(
        "the backlog grows", {f"freshet_trainer_backlog_entries{{{OF}}}": "0+2000x60"}, "FreshetTrainerBehind",
        about=FLOW,
    ),
    Scenario("a large backlog shrinks", {f"freshet_trainer_backlog_entries{{{OF}}}": "500000-500x60"}),
    Scenario("a small backlog grows", {f"freshet_trainer_backlog_entries{{{OF}}}": "0+50x60"}),
    Scenario("labels wait", {f"freshet_unjudged_seconds{{{OF}}}": "0+10x60"}, "FreshetModelBehind", about=FLOW),
    Scenario("labels waited for a moment", {f"freshet_unjudged_seconds{{{OF}}}": lately(3, 2, 100)}),
    Scenario(
        "labels wait for as long as they may",
        {f"freshet_unjudged_seconds{{{OF}}}": "300x60", f"freshet_fresh_target_seconds{{{ON}}}": "600x60"},
    ),
    Scenario("persistence is better", learning("0.6x60", "0.5x60"), "FreshetModelWorse", about=FLOW),
    Scenario("persistence is as good", learning("0.51x60", "0.5x60")),
    Scenario("persistence was better, and nothing is learned now", learning("0.6x60", "0.5x60", "9000x60")),
    Scenario(
        "it is rolled back on", {f"freshet_rollbacks_total{{{OF}}}": "0+1x60"}, "FreshetModelWorse", about=FLOW
    ),
    Scenario("it was rolled back once", {f"freshet_rollbacks_total{{{OF}}}": lately(19, 0, 1)}),
    Scenario("it is vetoed and not published", verdicts("50x60", "0+1x60"), "FreshetModelWorse", about=FLOW),
    Scenario("it is vetoed now and then", verdicts("0+60x60", "0+1x60")),
    Scenario("intervals are too narrow", coverage(80), "FreshetCoverageOff", about={**FLOW, "level": "0.9"}),
    Scenario("intervals are a little narrow", coverage(86)),
    Scenario("intervals are wide, because most errors are zero", coverage(99)),
    Scenario("the journal has no room", {f"freshet_journal_no_space{{{ON}}}": lately(3, 0, 1)}, "FreshetDisk"),
    Scenario("there is soon no room", {f"freshet_disk_free_bytes{{{ON}}}": "1e8x60"}, "FreshetDisk"),
    Scenario(
        "no checkpoint fits", {f'freshet_disk_full_total{{{ON}, what="checkpoint"}}': "0x30 1+1x30"}, "FreshetDisk"
    ),
    Scenario("the disk is slow", latency("freshet_journal_durable_lag_seconds", 2), "FreshetDisk"),
    Scenario("the disk is slow at times", latency("freshet_journal_durable_lag_seconds", 0.5)),
    Scenario(
        "the quarantine fills from two sides",
        {f'freshet_labels_quarantined_total{{{OF}, reason="{why}"}}': "0+5x60" for why in ("late", "range")},
        "FreshetLabelsNotLearned", about=FLOW,
    ),
    Scenario("some labels are late", {f'freshet_labels_quarantined_total{{{OF}, reason="late"}}': "0+5x60"}),
    Scenario(
        "updates are refused", {f'freshet_learner_refused_total{{{OF}, reason="non-finite"}}': "0+1x60"},
        "FreshetLabelsNotLearned", about={**FLOW, "reason": "non-finite"},
    ),
    Scenario("an update was refused", {f'freshet_learner_refused_total{{{OF}, reason="non-finite"}}': lately(7, 0, 1)}),
    Scenario(
        "records are skipped", {f"freshet_entries_skipped_total{{{OF}}}": lately(7, 0, 1)}, "FreshetLabelsNotLearned",
        about=FLOW,
    ),
    Scenario(
        "the quarantine overflows", {f"freshet_quarantine_dropped_total{{{OF}}}": lately(7, 0, 1)},
        "FreshetLabelsNotLearned", about=FLOW,
    ),
    Scenario("the certificate ends in eleven days", {CERTIFICATE: "1e6x60"}, "FreshetCredentials"),
    Scenario("the certificate ends in seventeen days", {CERTIFICATE: "1.5e6x60"}),
    Scenario(
        "a new access file is no good", {f'freshet_file_invalid{{{ON}, file="access"}}': lately(6, 0, 1)},
        "FreshetCredentials",
    ),
    Scenario("a file is half written", {f'freshet_file_invalid{{{ON}, file="access"}}': lately(3, 0, 1)}),
]  # fmt: skip


def promtool(*arguments: object) -> subprocess.CompletedProcess[str]:
    assert PROMTOOL
    return subprocess.run(
        [PROMTOOL, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )


def evaluated(
    folder: Path, rules: str, scenarios: list[Scenario], well: dict[str, str] = WELL
) -> subprocess.CompletedProcess[str]:
    """promtool's judgement of what fires under these rules in each scenario, beside the series of `well`."""
    (folder / "alerts.yml").write_text(rules)
    tests = [
        {
            "name": one.says,
            "interval": "1m",
            "input_series": [{"series": s, "values": v} for s, v in (well | one.series).items()],
            "promql_expr_test": [
                {
                    "expr": 'sum by (alertname, tenant, model, reason, level) (ALERTS{alertstate="firing"})',
                    "eval_time": f"{END}m",
                    "exp_samples": [{"labels": one.alert, "value": 1}] * bool(one.fires),
                }
            ],
        }
        for one in scenarios
    ]
    config = {"rule_files": ["alerts.yml"], "evaluation_interval": "1m", "tests": tests}
    (folder / "test.yml").write_text(json.dumps(config))  # which is YAML too
    return promtool("test", "rules", folder / "test.yml")


@needs_promtool
def test_each_alert_fires_where_it_should_and_no_other_does(tmp_path):
    done = evaluated(tmp_path, ALERTS, SCENARIOS)

    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("expression", ["vector(0) > 1", "vector(1)"], ids=["never", "always"])
def test_an_alert_that_never_fires_or_always_does_is_found(tmp_path, name, expression):
    head, _, tail = ALERTS.partition(f"- alert: {name}\n")
    mutant = re.sub(r"expr: .*?(?=\n +for:)", f"expr: {expression}", tail, count=1, flags=re.DOTALL)
    assert mutant != tail

    concerned = [one for one in SCENARIOS if one.fires == name]
    done = evaluated(tmp_path, f"{head}- alert: {name}\n{mutant}", [SCENARIOS[0], concerned[0]])

    assert done.returncode == 1, done.stdout + done.stderr
    assert "exp:" in done.stdout + done.stderr, "it failed for another reason"


@needs_promtool
def test_prometheus_accepts_configuration_and_rules():
    for done in (
        promtool("check", "config", PROMETHEUS / "prometheus.yml"),
        promtool("check", "rules", PROMETHEUS / "alerts.yml"),
    ):
        assert done.returncode == 0, done.stdout + done.stderr


def test_there_are_nine_and_each_names_its_place_in_the_runbook():
    runbooks = re.findall(r"runbook: docs/operations\.md#(\w+)", ALERTS)

    assert len(NAMES) == 9
    assert runbooks == [name.lower() for name in NAMES]


def test_every_alert_has_scenarios():
    assert {one.fires for one in SCENARIOS} == {"", *NAMES}
