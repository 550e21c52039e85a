"""What each verb of dev.py runs. The commands themselves are replaced: no test of this file lints or installs."""

import re
import sys

import pytest

import dev


@pytest.fixture
def commands(monkeypatch):
    """The commands that dev.py runs, as words after `python -m`. A command whose words hold `failing` ends with 3."""
    ran = Ran()
    monkeypatch.setattr(dev, "run", lambda *words: ran.add(words))
    monkeypatch.setattr(dev, "side_by_side", lambda *all_words: [ran.add(words) for words in all_words])
    monkeypatch.setattr(dev, "setup", lambda arguments=(): 0)
    monkeypatch.setattr(dev, "tools", lambda: ran.lines.append("tools"))
    return ran


class Ran:
    def __init__(self):
        self.lines = []
        self.failing = None

    def add(self, words):
        words = list(map(str, words))
        self.lines.append(" ".join(words[2:] if words[1:2] == ["-m"] else words))
        return 3 if self.failing is not None and self.failing in self.lines[-1] else 0

    def pytest(self):
        (line,) = (line for line in self.lines if line.startswith(("pytest", "coverage run")))
        return line


def checks(ran):
    return [line for line in ran.lines if line.startswith(("ruff", "mypy"))]


def test_check_lints_formats_and_types(commands):
    assert dev.main(["check"]) == 0
    found = [re.match(r"ruff check|ruff format --check|mypy", line) for line in commands.lines]
    assert [match and match[0] for match in found] == ["ruff check", "ruff format --check", "mypy"]


@pytest.mark.parametrize("part", ["ruff check", "ruff format", "mypy", "pytest"])
def test_a_part_that_fails_gives_its_exit_code_after_all_have_run(commands, part):
    commands.failing = part
    assert dev.main(["test"]) == 3
    assert len(checks(commands)) == 3
    assert commands.pytest()


def test_the_whole_suite_runs_in_three_processes_and_prints_its_slowest_tests(commands):
    dev.main(["test"])
    assert commands.pytest() == "pytest -n 3 -rs --durations 20 --durations-min 1"
    assert "tools" in commands.lines
    assert "tests.journeys.clients" not in commands.lines


def test_all_adds_the_long_tests_and_the_clients_that_they_need(commands):
    dev.main(["test", "--all", "-x"])
    assert {"tools", "tests.journeys.clients"} <= set(commands.lines)
    assert commands.pytest() == "pytest -n 3 -rs --durations 20 --durations-min 1 -m long or not long -x"
    assert len(checks(commands)) == 3


@pytest.mark.parametrize(
    "arguments",
    [["tests/test_dev.py"], ["tests/model"], ["-k", "clip"], ["-kclip"], ["tests/model", "-k", "clip", "-x"]],
    ids=" ".join,
)
def test_a_path_or_a_name_runs_pytest_alone_in_one_process(commands, arguments):
    dev.main(["test", *arguments])
    assert commands.lines == [" ".join(["pytest", *arguments])]


def test_all_with_a_path_installs_what_its_long_tests_need(commands):
    dev.main(["test", "--all", "tests/test_dev.py"])
    assert commands.lines == ["tools", "tests.journeys.clients", "pytest -m long or not long tests/test_dev.py"]


def test_a_test_that_is_named_runs_even_if_it_is_long(commands):
    dev.main(["test", "tests/test_dev.py::test_x"])
    assert commands.lines == ["pytest -m long or not long tests/test_dev.py::test_x"]


def test_coverage_is_measured_combined_and_explained(commands, capsys):
    dev.main(["test", "--coverage", "-k", "clip"])
    assert commands.lines == [
        "coverage erase",
        "coverage run -m pytest -k clip",
        "coverage combine -q",
        "coverage report",
    ]
    assert dev.COVERED in capsys.readouterr().out


def test_docs_writes_the_stubs_before_the_pages(commands):
    assert dev.main(["docs"]) == 0
    assert commands.lines == ["docs.stubs", "docs.generate", "deploy.version", "deploy.locks"]


def test_a_step_that_fails_ends_dev_py_with_its_exit_code(commands, capsys):
    commands.failing = "docs.stubs"
    with pytest.raises(SystemExit) as ended:
        dev.main(["docs"])
    assert ended.value.code == 3
    assert commands.lines == ["docs.stubs"]
    assert "exit code 3" in capsys.readouterr().err


def test_fix_lints_before_it_formats(commands):
    commands.failing = "ruff check"
    assert dev.main(["fix"]) == 3
    assert [line.split(" ")[1] for line in commands.lines] == ["check", "format"]


def test_commands_side_by_side_print_one_after_the_other(capfd):
    script = "import sys; print(sys.argv[1]); sys.exit(int(sys.argv[2]))"
    words = [(sys.executable, "-c", script, name, code) for name, code in (("one", 4), ("two", 0))]
    assert dev.side_by_side(*words) == [4, 0]
    printed = [line for line in capfd.readouterr().out.splitlines() if not line.startswith("$")]
    assert printed == ["one", "two"]


def test_the_help_has_every_verb(capsys):
    assert dev.main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert set(re.findall(r"^python3 dev\.py (\w+)", printed, re.M)) == dev.VERBS.keys()


@pytest.mark.parametrize("arguments", [[], ["tset"]])
def test_no_verb_and_an_unknown_verb_print_the_help(arguments, capsys):
    assert dev.main(arguments) == 2
    assert "python3 dev.py check" in capsys.readouterr().out


def test_a_benchmark_that_does_not_exist_is_refused_with_those_that_do(commands, capsys):
    assert dev.main(["bench", "nothing"]) == 2
    assert "edge" in capsys.readouterr().err
    assert commands.lines == []


def test_an_older_python_is_refused_with_the_version_to_use(monkeypatch, capsys):
    monkeypatch.setattr(dev, "MINIMUM", (99, 0))
    assert dev.main(["check"]) == 2
    assert "Python 3.11 or newer" in capsys.readouterr().err
