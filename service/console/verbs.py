"""Shared parts of the command line's verbs: options of a server, failures in one line, settings for NumPy.

Imports neither NumPy nor gRPC, so that `freshet --help` stays fast.
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

# Written out, so that --help does not import NumPy; a test compares it with ModelSpec.
SPEC_KEYS = (
    "channels, targets, horizon, interval, max_gap, cell, activation, reset, layers, cells, hidden, layer_norm, "
    "residual, init, init_gain, attention_window, heads, positions, window, rule, learn_every, learn, task, "
    "forecaster, seasons, own_readout, zone, intervals, known, static, categories, holidays, classes, "
    "class_weights, label_range, label_horizon, loss, huber_delta, degrees, optimizer, momentum, weight_decay, "
    "learning_rate, rate_floor, schedule, warmup, schedule_updates, freeze, clip, clip_value, accumulate, "
    "layer_rates, scaler, head_init, seed, max_share, drift_reaction, drift_raise, drift_labels, shadow, missing"
)


def group(name: str, help: str) -> typer.Typer:
    """Return an empty group of verbs, configured as all of ours."""
    return typer.Typer(
        name=name,
        help=help,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,  # rich would read [default: 32] as markup
        pretty_exceptions_enable=False,
    )


# Options of a server; each also as a variable, `config.CLIENT_VARIABLES`.
_REMOTE = {
    "url": ("HOST:PORT", "Address of the server; of several nodes HOST:PORT,HOST:PORT or dns:///NAME:PORT."),
    "token": ("TOKEN", "Access token. Prefer the variable: other users can read a command line."),
    "ca": ("FILE", f"Use TLS and trust the authorities of this PEM file; {SYSTEM}: those of this machine."),
    "cert": ("FILE", "Client certificate, PEM, for a server that requires one (mTLS)."),
    "key": ("FILE", "Key of the client certificate, PEM."),
}


def asking(verb: Callable[..., None]) -> Callable[..., None]:
    """Replace a verb's parameter `server`, a Remote, by options; without --url it is the parameter's default."""

    @functools.wraps(verb)
    def called(**given: Any) -> None:
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # so that a failure is one line, ours
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
    """Limit BLAS to one thread, as in the trainer. Call it before NumPy is imported; later it has no effect."""
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"


def guarded(work: Callable[[], int]) -> int:
    """Run `work` and return its exit code; errors that users can cause become one line instead of a traceback."""
    from freshet import FreshetError
    from model.spec import SpecError
    from service.common.errors import Invalid
    from service.console.failures import ServerFailed, Stalled

    try:
        return work()
    except BrokenPipeError:  # the reader of our output closed it, as `head` does; typer then exits quietly
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
    """Print why a request was refused, and return the exit to raise."""
    print(f"freshet: {error}", file=sys.stderr)
    return typer.Exit(USAGE_ERROR)
