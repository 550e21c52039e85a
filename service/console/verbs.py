"""What the verbs of the command line share: how a failure is told, and what must be set before NumPy is imported.

Imports neither NumPy nor gRPC, so that `freshet --help` stays quick.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from service.console.remote import SYSTEM, Remote

USAGE_ERROR = 2
LOCAL = Remote("127.0.0.1:8300")
INTERRUPTED = 130

# Written out, so that --help need not import NumPy; a test compares it with ModelSpec.
SPEC_KEYS = (
    "channels, targets, horizon, interval, max_gap, cell, activation, layers, hidden, init, init_gain, window, "
    "learn_every, learn, task, classes, class_weights, label_range, label_horizon, loss, huber_delta, optimizer, "
    "momentum, weight_decay, learning_rate, schedule, warmup, schedule_updates, freeze, clip, scaler, head_init, seed, "
    "max_share, drift_reaction, drift_raise, drift_labels, missing"
)


def group(name: str, help: str) -> typer.Typer:
    """Verbs that belong together, behaving as all of ours do."""
    return typer.Typer(
        name=name,
        help=help,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,  # it would take [default: 32] for markup
        pretty_exceptions_enable=False,
    )


# Where a server is, who asks, and whom to trust; each also as a variable, `config.CLIENT_VARIABLES`.
_REMOTE = {
    "url": ("HOST:PORT", "The server."),
    "token": ("TOKEN", "Who asks. Better in the variable, as others can read a command line."),
    "ca": ("FILE", f"Speak TLS, trusting the authorities of this PEM file; {SYSTEM}: those of this machine."),
    "cert": ("FILE", "Certificate to show, PEM, for a server that asks (mTLS)."),
    "key": ("FILE", "Its key, PEM."),
}


def asking(verb: Callable[..., None]) -> Callable[..., None]:
    """A verb whose parameter `server`, a Remote, is made of options; without --url it is the parameter's default."""

    @functools.wraps(verb)
    def called(**given: Any) -> None:
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # a failure is one line, and it is ours
        remote = {name: given.pop(name) for name in _REMOTE}
        url = remote.pop("url") or default
        verb(**given, server=None if url is None else Remote(str(url), **remote))

    parameters = dict(inspect.signature(verb, eval_str=True).parameters)
    default: Remote | None = parameters.pop("server").default
    for name, (metavar, text) in _REMOTE.items():
        shown = f"{text} [default: {default}]" if name == "url" and default else text
        variable = None if name == "url" and default is None else f"FRESHET_{name.upper()}"
        option = typer.Option(help=shown, metavar=metavar, envvar=variable)
        parameters[name] = inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, option]
        )
    called.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
    called.__annotations__ = {name: parameter.annotation for name, parameter in parameters.items()}
    return called


def one_blas_thread() -> None:
    """As the trainer runs; before NumPy is imported, or it has no effect."""
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"


def guarded(work: Callable[[], int]) -> int:
    """The work's exit code; what users can cause is one clear line instead of a traceback."""
    from freshet import FreshetError
    from model.spec import SpecError
    from service.common.errors import Invalid
    from service.console.failures import ServerFailed, Stalled

    try:
        return work()
    except BrokenPipeError:  # whoever read our output has seen enough, as `head` does: typer ends quietly
        raise
    except (Invalid, SpecError, OSError) as error:
        raise refused(error) from None
    except (FreshetError, ServerFailed, Stalled) as error:
        print(f"freshet: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("freshet: interrupted", file=sys.stderr)
        return INTERRUPTED


def refused(error: Exception) -> typer.Exit:
    """Say what was wrong with what was asked, and give the exit to raise."""
    print(f"freshet: {error}", file=sys.stderr)
    return typer.Exit(USAGE_ERROR)
