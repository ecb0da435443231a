"""The commands, and what happens when one fails: one line, exit code 2 for bad input and 1 for a failure."""

import os
import sys
import traceback
from typing import Annotated

import typer

from regsim.cli.calibrate import calibrate
from regsim.cli.check import check
from regsim.cli.demo import demo
from regsim.cli.landscape import landscape
from regsim.cli.models import models
from regsim.cli.register import register
from regsim.cli.report import report
from regsim.cli.score import score
from regsim.cli.sweep import sweep
from regsim.cli.train import train
from regsim.cli.translate import translate
from regsim.cli.warp import warp
from regsim.errors import RegistrationError, RegsimError, TrainingError

BAD_INPUT, FAILURE, INTERRUPTED = 2, 1, 130
NO_MEMORY = "out of memory; try a coarser --finest or --spacing (train: smaller pairs.size or batch), or --device cpu"

app = typer.Typer(
    help="Similarity metrics for image registration: score, register, look.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (demo, score, register, check, calibrate, sweep, warp, translate, train, landscape, models, report):
    app.command()(command)


def _version(wanted: bool) -> None:
    if wanted:
        import importlib.metadata

        sys.stdout.write(importlib.metadata.version("regsim") + "\n")
        raise typer.Exit


@app.callback()
def top(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """Similarity metrics for image registration: score, register, look."""


def run(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code."""
    try:
        code = app(args=arguments, prog_name="regsim", standalone_mode=False)
        sys.stdout.flush()
    except (RegistrationError, TrainingError) as problem:
        return _fail(problem, FAILURE)
    except (RegsimError, typer.TyperException) as problem:
        return _fail(problem, BAD_INPUT)
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except MemoryError:
        return _fail(NO_MEMORY, FAILURE)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains once more
        return _fail("standard output was closed before all of it was written", FAILURE)
    except OSError as problem:
        return _fail(problem, FAILURE)
    except Exception as problem:
        if isinstance(problem, RuntimeError) and "allocate" in str(problem):  # torch's own way to say it
            return _fail(NO_MEMORY, FAILURE)
        if os.environ.get("REGSIM_DEBUG"):
            traceback.print_exc()
        return _fail(f"{type(problem).__name__}: {problem} (set REGSIM_DEBUG=1 to see where)", FAILURE)
    if code == INTERRUPTED:  # Typer has caught Ctrl-C itself
        return _interrupted()
    return code if isinstance(code, int) else 0


def _interrupted() -> int:
    return _fail("interrupted; nothing half-written is left", INTERRUPTED)


def _fail(problem: object, code: int) -> int:
    message = _usage(problem) if isinstance(problem, typer.TyperException) else str(problem)
    if message:
        sys.stderr.write("regsim: " + " ".join(message.split()) + "\n")
    return code


def _usage(problem: typer.TyperException) -> str:
    """What was wrong on the command line; a value that could not be read in our words, not in pydantic's."""
    from pydantic import ValidationError

    from regsim.settings import in_plain_words

    message = problem.format_message()
    if not isinstance(problem.__cause__, ValidationError):
        return message
    return message.partition(": ")[0] + ": " + in_plain_words(problem.__cause__.errors(include_url=False)[0])
