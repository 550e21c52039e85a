import csv
import math

import numpy as np
import pytest

from service.common.errors import Invalid
from service.programs.backtest.scoring import ForecastFile, Scorer, Scores
from service.programs.backtest.series import read_series


def series(rows=40, channels=3, seed=0):
    return (100 + np.random.default_rng(seed).standard_normal((rows, channels)).cumsum(axis=0)).astype(np.float32)


def made(x, horizon, seed=1):
    """Some forecasts for every origin, (N, H, C)."""
    return x[:, None] + np.random.default_rng(seed).standard_normal((len(x), horizon, x.shape[1]))


@pytest.mark.parametrize("horizon", [1, 4])
def test_errors_are_those_of_the_definition(horizon):
    x, forecast = series(), made(series(), horizon)
    scorer = Scorer(x, 8, 12, 30, horizon)
    for origin in range(len(x)):
        scorer.add(origin, forecast[origin])

    unit = x[:8].std(axis=0, dtype=np.float64)
    errors = [(forecast[row - h, h - 1] - x[row]) / unit for h in range(1, horizon + 1) for row in range(12, 30)]

    assert scorer.mse == pytest.approx(np.mean(np.square(errors)), rel=1e-12)
    assert scorer.mae == pytest.approx(np.mean(np.abs(errors)), rel=1e-12)
    assert scorer.scored == 18


@pytest.mark.parametrize("horizon", [1, 4])
def test_errors_of_the_first_rows_and_of_each_step_are_those_of_the_definition(horizon):
    x = series(1100, 2)
    x[np.random.default_rng(2).random(x.shape) < 0.1] = np.nan
    forecast = made(series(1100, 2), horizon)
    scorer = Scorer(x, 200, 300, 1050, horizon)
    for origin in range(len(x)):
        scorer.add(origin, forecast[origin])
    scores = Scores.of([scorer.tally])

    def expected(steps, rows):
        pairs = [(row - h, h, row) for h in steps for row in rows if row >= h]
        errors = np.array([(forecast[o, h - 1] - x[row]) / scorer.unit for o, h, row in pairs])
        return pytest.approx([np.nanmean(errors**2), np.nanmean(np.abs(errors))], rel=1e-12)

    every = range(1, horizon + 1)
    for rows, errors in zip((200, 1000), scores.first, strict=True):
        assert [errors.mse, errors.mae] == expected(every, range(1, rows))
    assert len(scores.steps) == horizon
    for h, errors in zip(every, scores.steps, strict=True):
        assert [errors.mse, errors.mae] == expected([h], range(300, 1050))
    assert [scores.overall.mse, scores.overall.mae] == expected(every, range(300, 1050))
    assert (scores.overall.mse, scores.overall.mae) == (scorer.mse, scorer.mae)


def test_the_first_rows_end_where_the_scored_ones_do():
    x, forecast = series(60), made(series(60), 2)
    scorers = [Scorer(x[:rows], 8, 12, 30, 2) for rows in (30, 60)]
    for scorer in scorers:
        for origin in range(len(scorer.truth)):
            scorer.add(origin, forecast[origin])
    assert Scores.of([scorers[0].tally]) == Scores.of([scorers[1].tally])


def test_another_scorer_of_the_same_rows_starts_without_errors():
    x = series()
    scorer = Scorer(x)
    scorer.add(20, x[20:21])
    other = scorer.again()
    assert np.isnan(other.mse)
    assert other.scored == 0
    other.add(20, x[20:21])
    assert (other.mse, other.scored) == (scorer.mse, scorer.scored)
    assert other.truth is scorer.truth


def test_the_defaults_are_a_fifth_to_train_and_from_a_quarter_to_the_end():
    scorer = Scorer(series(40))
    assert (scorer.train_rows, scorer.score_from, scorer.score_to) == (8, 10, 40)


def test_only_targets_are_scored():
    x, forecast = series(), made(series(), 1)
    chosen, whole = Scorer(x, targets=(2, 0)), Scorer(x[:, [2, 0]])
    for origin in range(len(x)):
        chosen.add(origin, forecast[origin][:, [2, 0]])
        whole.add(origin, forecast[origin][:, [2, 0]])
    assert chosen.mse == whole.mse


@pytest.mark.parametrize("horizon", [1, 4])
def test_values_that_are_missing_are_neither_scored_nor_part_of_a_unit(horizon):
    whole, forecast = series(), made(series(), horizon)
    x = np.where(np.random.default_rng(2).random(whole.shape) < 0.3, np.float32(np.nan), whole)
    x[20] = np.nan
    scorer = Scorer(x, 8, 12, 30, horizon)
    for origin in range(len(x)):
        scorer.add(origin, forecast[origin])

    unit = [np.std([v for v in x[:8, c].tolist() if not math.isnan(v)]) for c in range(3)]
    errors = np.array(
        [(forecast[row - h, h - 1] - x[row]) / unit for h in range(1, horizon + 1) for row in range(12, 30)]
    )
    scored = errors[~np.isnan(errors)]
    assert scorer.mse == pytest.approx(np.mean(np.square(scored)), rel=1e-12)
    assert scorer.mae == pytest.approx(np.mean(np.abs(scored)), rel=1e-12)
    assert scorer.scored == 18 - np.isnan(x[12:30]).all(axis=1).sum() < 18


def test_a_channel_of_which_nothing_came_in_the_train_rows_is_measured_by_all_its_rows():
    x = series()
    x[:8, 1] = x[:, 2] = np.nan
    scorer = Scorer(x, 8)
    np.testing.assert_allclose(scorer.unit, [x[:8, 0].std(), x[8:, 1].std(), 1], rtol=1e-6)
    assert scorer.constant == (1, 2)


def test_a_channel_that_is_constant_in_the_train_rows_is_measured_by_all_its_rows():
    x = series()
    x[:8, 1] = 0.1
    x[:, 2] = 0.1
    scorer = Scorer(x, 8)
    np.testing.assert_allclose(scorer.unit, [x[:8, 0].std(), x[:, 1].std(), 1], rtol=1e-6)  # float32 against float64
    assert scorer.constant == (1, 2)
    assert Scorer(series()).constant == ()


def test_before_the_first_scored_row_there_is_no_error_to_report():
    scorer = Scorer(series(), score_from=20)
    scorer.add(18, series()[18:19])
    assert np.isnan(scorer.mse)
    assert scorer.scored == 0


def test_a_forecast_that_is_not_finite_shows():
    scorer = Scorer(series())
    scorer.add(20, np.full((1, 3), np.nan))
    assert np.isnan(scorer.mse)


def test_an_origin_counts_once_and_in_its_shape():
    scorer = Scorer(series())
    scorer.add(20, series()[20:21])
    with pytest.raises(ValueError, match="row 20 was counted before"):
        scorer.add(20, series()[20:21])
    with pytest.raises(ValueError, match=r"need a forecast \(1, 3\)"):
        scorer.add(21, series()[21])


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"train_rows": 0}, "train_rows"),
        ({"train_rows": 41}, "train_rows"),
        ({"score_from": 0}, "score_from"),
        ({"score_from": 40}, "score_from"),
        ({"score_from": 20, "score_to": 20}, "score_from"),
        ({"score_to": 41}, "score_to"),
        ({"horizon": 40}, "horizon"),
    ],
)
def test_rows_that_the_file_does_not_have_are_refused(arguments, field):
    with pytest.raises(Invalid) as caught:
        Scorer(series(40), **arguments)
    assert caught.value.field == field


def test_two_rows_are_enough_to_score_one():
    scorer = Scorer(series(2))
    scorer.add(0, series(2)[:1])
    assert scorer.scored == 1


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_forecast_file_has_a_line_per_scored_target_row(tmp_path):
    x, forecast = series(), made(series(), 1).astype(np.float32)
    scorer = Scorer(x, score_from=30, score_to=35)
    with ForecastFile(tmp_path / "out.csv", scorer, ["a", "b", "c"]) as file:
        for origin in range(len(x)):
            file.add(origin, forecast[origin])

    lines = read(tmp_path / "out.csv")

    assert list(lines[0]) == ["row", "truth_a", "forecast_a", "truth_b", "forecast_b", "truth_c", "forecast_c"]
    assert [int(line["row"]) for line in lines] == [30, 31, 32, 33, 34]
    for line in lines:  # bit for bit, so that anyone can recompute the errors
        row = int(line["row"])
        assert [np.float32(line[f"truth_{c}"]) for c in "abc"] == list(x[row])
        assert [np.float32(line[f"forecast_{c}"]) for c in "abc"] == list(forecast[row - 1, 0])


def test_above_horizon_one_the_forecast_file_has_a_line_per_origin_and_step(tmp_path):
    x, forecast = series(), made(series(), 3).astype(np.float32)
    scorer = Scorer(x, score_from=30, score_to=32, horizon=3)
    with ForecastFile(tmp_path / "out.csv", scorer, ["a", "b", "c"]) as file:
        for origin in range(len(x)):
            file.add(origin, forecast[origin])

    lines = read(tmp_path / "out.csv")

    places = [(int(line["origin"]), int(line["step"]), int(line["row"])) for line in lines]
    assert places == [(27, 3, 30), (28, 2, 30), (28, 3, 31), (29, 1, 30), (29, 2, 31), (30, 1, 31)]
    assert all(
        np.float32(line["forecast_b"]) == forecast[o, h - 1, 1] for line, (o, h, _) in zip(lines, places, strict=True)
    )


@pytest.mark.parametrize(
    ("file", "rows", "mse", "mae"),
    [("ETTh2.csv", (2880, 3600, 14400), 0.4043, 0.3363), ("ETTm1_head.csv", (2880, 3600, 14400), 0.0914, 0.1855),
     ("nyc_taxi.csv", (None, None, None), 0.0657, 0.1920)],
)  # fmt: skip
def test_persistence_scores_what_was_published_for_it(shared_data, file, rows, mse, mae):
    x = read_series(shared_data / file).x
    scorer = Scorer(x, *rows)
    for origin in range(len(x) - 1):
        scorer.add(origin, x[origin : origin + 1])
    assert round(scorer.mse, 4) == mse
    assert round(scorer.mae, 4) == mae
