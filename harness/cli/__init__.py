"""The command line: `playbook`, or `python -m harness`."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import traceback

import typer

from harness.cli import catalogue, procedures, studies
from harness.records import InputError, did_you_mean

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Runs the experiments behind the Deep Learning Tuning Playbook and judges its claims.",
)

_COMMANDS = {
    "list": catalogue.list_experiments,
    "reproduce": catalogue.reproduce,
    "check": catalogue.check,
    "figures": catalogue.figures,
    "flips": catalogue.flip_maps,
    "train": studies.train,
    "diagnose": studies.diagnose,
    "plan": studies.plan,
    "tune": studies.tune,
    "instability": procedures.instability,
    "warmup": procedures.warmup,
    "clip": procedures.clip,
    "max-steps": procedures.max_steps,
    "next-round": procedures.next_round,
    "batch-size": procedures.batch_size,
    "doctor": studies.doctor,
    "record": catalogue.record,
    "report": catalogue.report,
    "search": studies.search,
}
for _name, _command in _COMMANDS.items():
    app.command(_name)(_command)


class _Terminated(SystemExit):
    """SIGTERM, as schedulers send it: ends like Ctrl-C, workers and all."""


def _terminate(*_: object) -> None:
    raise _Terminated(128 + signal.SIGTERM)


def main() -> None:
    """Runs the command; bad input is one line on standard error and exit status 2."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        status = app(standalone_mode=False)
        if status == 130:  # what later versions of Typer make of Ctrl-C
            raise KeyboardInterrupt
    except InputError as error:
        _fail(str(error))
    except _UsageError as error:
        _fail(_usage_line(error))
    except (KeyboardInterrupt, typer.Abort, _Terminated) as end:
        print("interrupted; finished trials are kept, the same command continues", file=sys.stderr)
        sys.exit(end.code if isinstance(end, _Terminated) else 130)
    except BrokenPipeError:
        _reader_gone()
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # what Typer makes of it: status 1, ours for `contradicted`
            _reader_gone()
        raise
    except Exception:
        # Python's own status for this, 1, would read as `contradicted`.
        traceback.print_exc()
        sys.exit(70)
    sys.exit(status or 0)


def _reader_gone() -> None:
    # The interpreter must not fail at shutdown on a pipe that nobody reads.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(128 + signal.SIGPIPE)


# Typer before 0.20 raises click's own exceptions, later ones those of a copy inside it.
_UsageError = typer.BadParameter.__base__


def _usage_line(error: Exception) -> str:
    line = " ".join(error.format_message().split())
    context = getattr(error, "ctx", None)
    commands = getattr(context.command, "commands", None) if context else None
    words = [part for word in sys.argv[1:] for part in word.split("=", 1)]
    given = next((word for word in words if not word.startswith("-")), None)
    if commands and given not in commands:
        near = "" if given is None or "Did you mean" in line else did_you_mean(given, commands)
        line += f"{near} Known: {', '.join(commands)}."
    options = getattr(getattr(error, "param", None), "opts", ())
    # Not every version of Typer names the value.
    line += "".join(f" Given: {after!r}." for word, after in itertools.pairwise(words) if word in options)
    return f"{line} See: {context.command_path if context else 'playbook'} --help"


def _fail(line: str) -> None:
    print(f"playbook: {' '.join(line.split())}", file=sys.stderr)
    sys.exit(2)
