"""Known and static columns of a file: what each row sends, in a backtest and in a training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model.network import Network
from model.offline.recorded import prepare
from service.common.errors import Invalid
from service.programs.backtest import core
from service.programs.backtest.covariates import regressors
from service.programs.backtest.plan import Plan, make_plan, model_keys
from service.programs.offline.plan import make_offline_plan
from service.programs.offline.run import each_recorded
from service.programs.tables.options import Options
from service.programs.tables.times.errors import TableError


def written(folder: Path, rows: int = 60) -> Path:
    """A file of two entities: x, a price, the kind of a day as text, and each one's region."""
    file, rng = folder / "series.csv", np.random.default_rng(0)
    lines = ["who,x,price,day,region"]
    for t in range(rows):
        for who, region in (("a", "north"), ("b", "south")):
            day = ("work", "free", "work")[t % 3]
            lines.append(f"{who},{rng.normal():.4f},{10 * t + ord(who)},{day},{region}")
    file.write_text("\n".join(lines) + "\n")
    return file


def plan(folder: Path, **keys: object) -> Plan:
    asked = model_keys(horizon=2, known="price,day", static="region", settings=["hidden=8", "forecaster=network"])
    columns = "x" if keys.get("known") == [] else "all"
    return make_plan(written(folder), options=Options(id="who"), columns=columns, model=asked | keys)


def test_a_row_sends_the_values_of_the_rows_after_it_and_holds_the_last_one(tmp_path: Path) -> None:
    made = plan(tmp_path)
    first, second = made.entities
    assert first.sent is not None
    assert second.sent is not None
    assert made.spec.channels == ("x",)
    assert made.spec.categories == ("day:2", "region:2")
    np.testing.assert_array_equal(first.sent[0], [10 + 97, 0, 20 + 97, 1, 0])  # free is 0, work is 1
    np.testing.assert_array_equal(second.sent[1], [20 + 98, 1, 30 + 98, 1, 1])
    np.testing.assert_array_equal(first.sent[-1], [590 + 97, 1, 590 + 97, 1, 0])
    assert first.rows.shape == (60, 6)


def test_the_first_rows_of_a_series_send_what_the_whole_file_knows(tmp_path: Path) -> None:
    whole = plan(tmp_path)
    assert whole.series.sent is not None
    head = make_plan(tmp_path / "series.csv", options=Options(id="who"), model=whole.spec.to_mapping(), rows=20)
    np.testing.assert_array_equal(head.series.sent, whole.series.sent[:20])


def test_no_forecast_depends_on_what_a_later_row_sends(tmp_path: Path) -> None:
    made = plan(tmp_path, head_init=0.3)
    before = [y for n, row, y in core.every_forecast(core.learner(made), made) if row <= 30]
    for series in made.entities:
        assert series.sent is not None
        series.sent[31:, :4] = 1 - series.sent[31:, :4].clip(0, 1)
        series.x[31:] += 1
    after = [y for n, row, y in core.every_forecast(core.learner(made), made) if row <= 30]
    np.testing.assert_array_equal(before, after)


def test_a_training_reads_what_serving_would_have(tmp_path: Path) -> None:
    keys = model_keys(known="price,day", static="region", settings=["hidden=8", "forecaster=network", "window=9"])
    made = make_offline_plan(written(tmp_path), options=Options(id="who"), model=keys)
    network = made.network()
    recorded = each_recorded(made, network)[1]
    own = made.plan.entities[1]
    twin = prepare(Network(made.spec), own.rows, np.full(60, np.nan))
    np.testing.assert_array_equal(recorded.X, twin.X)
    assert set(recorded.X[:, -network.covariates.raw + 2].tolist()) == {1.0}  # ids: day, then region


@pytest.mark.parametrize(("keys", "words"), [
    ({"static": ["price"]}, "static = price: it is 97 in row 0 and 107 in row 1 of a: it is known, not static"),
    ({"known": ["prize"], "static": []}, "known = prize"),
])  # fmt: skip
def test_columns_that_cannot_be_are_refused(tmp_path: Path, keys: dict[str, object], words: str) -> None:
    with pytest.raises((Invalid, TableError), match=words):
        plan(tmp_path, **({"known": [], "static": []} | keys))


def test_a_training_of_a_task_with_labels_leaves_known_and_label_columns_out_of_the_channels(tmp_path: Path) -> None:
    settings = ["hidden=8", "task=regress"]
    keys = model_keys(known="day", static="region", settings=settings)
    made = make_offline_plan(written(tmp_path), options=Options(id="who"), model=keys, labels="price")
    assert (made.spec.channels, made.spec.known, made.spec.targets) == (("x",), ("day",), ("price",))
    assert len(each_recorded(made, made.network())) == 2


def load(folder: Path, rows: int = 400) -> Path:
    """An hourly load, half of whose changes a price and a promotion of the same hour decide."""
    file, rng = folder / "load.csv", np.random.default_rng(0)
    price, promotion = rng.normal(100, 20, rows), rng.integers(0, 3, rows)
    x = 50 + np.cumsum(rng.normal(0, 0.3, rows)) + 0.05 * price + np.array([0, 2, -1])[promotion]
    times = np.datetime64("2024-01-01") + np.arange(rows) * np.timedelta64(1, "h")
    lines = [
        f"{t},{a:.5f},{b:.4f},{c}" for t, a, b, c in zip(times, x, price, np.array(list("abc"))[promotion], strict=True)
    ]
    file.write_text("\n".join(["time,load,price,promotion", *lines]) + "\n")
    return file


def squared_errors(made: Plan) -> dict[str, np.ndarray]:
    """Errors of the baselines from row 100 on, by step."""
    truth, H, errors = made.series.values[:, 0], made.spec.horizon, {}
    for name, baseline in core.baselines(made).items():
        forecasts = np.array(list(core.baseline_forecasts(baseline, made)))[100:-H, :, 0]
        ahead = np.stack([truth[100 + h : len(truth) - H + h] for h in range(1, H + 1)], axis=1)
        errors[name] = ((forecasts - ahead) ** 2).mean(axis=0)
    return errors


@pytest.mark.parametrize("horizon", [1, 3])
def test_least_squares_read_the_known_inputs_of_the_step_they_forecast(tmp_path: Path, horizon: int) -> None:
    file, settings = load(tmp_path), ["hidden=8"]
    known = model_keys(horizon=horizon, known="price,promotion", settings=settings)
    without = model_keys(horizon=horizon, settings=settings)
    with_inputs = squared_errors(make_plan(file, columns="load", model=known))
    alone = squared_errors(make_plan(file, columns="load", model=without))
    for name in ("rls", "rls_seasonal"):
        assert (with_inputs[name] < 0.55 * alone[name]).all()
    for name in ("persistence", "naive_day"):
        np.testing.assert_array_equal(with_inputs[name], alone[name])


def test_regressors_are_what_the_network_reads_and_a_column_for_each_category(tmp_path: Path) -> None:
    made = make_plan(load(tmp_path), columns="load", model=model_keys(horizon=2, known="price,promotion"))
    steps = regressors(made.spec, made.series.sent)
    assert steps.shape == (400, 2, 1 + 3)
    network, sent = Network(made.spec), made.series.sent
    assert sent is not None
    raw = prepare(network, made.series.rows, made.times).X[:, -network.covariates.raw :]
    np.testing.assert_allclose(steps[:, :, 0], raw[:, [0, 2]], rtol=1e-6)  # price, promotion, price of step 2, …
    np.testing.assert_array_equal(steps[:, :, 1:].argmax(axis=2), sent[:, [1, 3]])
    np.testing.assert_array_equal(steps[:, :, 1:].sum(axis=2), 1)


def test_a_category_of_many_levels_and_static_inputs_are_no_regressors(tmp_path: Path) -> None:
    made = plan(tmp_path, categories=["day:33", "region:2"])
    assert regressors(made.spec, made.series.sent).shape[2] == 1  # the price
    none = plan(tmp_path, known=[])
    assert regressors(none.spec, none.series.sent).shape[2] == 0


def test_no_forecast_of_a_baseline_depends_on_what_a_later_row_sends(tmp_path: Path) -> None:
    made = make_plan(load(tmp_path), columns="load", model=model_keys(horizon=2, known="price,promotion"))
    before = {n: list(core.baseline_forecasts(b, made))[:200] for n, b in core.baselines(made).items()}
    assert made.series.sent is not None
    made.series.sent[200:] = 0
    after = {n: list(core.baseline_forecasts(b, made)) for n, b in core.baselines(made).items()}
    for name, forecasts in before.items():
        np.testing.assert_array_equal(after[name][:200], forecasts)
