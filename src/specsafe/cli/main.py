"""Entry point: assembles the commands and turns errors into one line and exit code 2."""

from __future__ import annotations

import os
import select
import sys
from typing import Annotated, Any

import typer

from specsafe import __version__
from specsafe.cli import (
    audit,
    battery,
    compare,
    decode,
    doctor,
    models,
    report,
    score,
    screen,
    steer,
    study,
    view,
)
from specsafe.errors import UserError

# typer ships its own click and exposes only this class' child
_UsageError: Any = typer.BadParameter.__bases__[0]
_INTERRUPTED = 130  # what typer makes of Ctrl-C
_READER_GONE = 141  # what a shell says of a program whose reader went away

app = typer.Typer(
    name="specsafe",
    help="Does speculative decoding change how safe the answers are?",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"auto_envvar_prefix": "SPECSAFE", "help_option_names": ["-h", "--help"]},
)
app.command("screen")(screen.screen)
app.command("audit")(audit.audit)
app.command("compare")(compare.compare)
app.command("decode")(decode.decode)
app.command("doctor")(doctor.doctor)
app.command("steer")(steer.steer)
app.command("score")(score.score)
app.command("report")(report.report)
app.command("view")(view.view)
app.add_typer(study.app, name="study")
app.add_typer(models.app, name="models")
app.add_typer(battery.app, name="battery")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"specsafe {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """specsafe: paired evidence on speculative decoding and safety."""


def main() -> None:
    """Run the command line. Exit 2 with one line for anything that the user can mend."""
    try:
        code = _run()
        sys.stdout.flush()
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still to be flushed goes nowhere
        code = _READER_GONE
    except OSError as error:
        code = _fail(_unusable(error))
    sys.exit(code if isinstance(code, int) else 0)


def _run() -> object:
    try:
        code = app(standalone_mode=False)
        if code == _INTERRUPTED:
            code = _fail(
                UserError("interrupted", "finished answers are kept; run the same command to continue")
            )
        return code
    except UserError as error:
        return _fail(error)
    except typer.Exit as stop:
        return stop.exit_code
    except _UsageError as error:
        return _fail(UserError(str(error.format_message()), "see: specsafe --help"))
    except SystemExit as stop:  # typer makes this of any broken pipe, also of one that is not stdout
        raise stop.__context__ or stop from None


def _reader_is_gone() -> bool:
    """Whether stdout is a pipe that nobody reads any more, as behind `| head`."""
    poll = select.poll()
    poll.register(1, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _unusable(error: OSError) -> UserError:
    """What the system refused. An error that names no file came of writing, as to stdout on a full disk."""
    if error.filename is not None:
        return UserError(f"the system refused: {error}", "mend that, then run the same command")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still to be flushed goes nowhere
    return UserError(f"cannot write the output: {error}", "make room, or send it elsewhere")


def _fail(error: UserError) -> int:
    from specsafe.report.printable import error_line

    command = error_line(" ".join(sys.argv[1:2]))
    print(error_line(f"specsafe: {error}"), file=sys.stderr)
    if "--json" in sys.argv[1:] or os.environ.get(f"SPECSAFE_{command.upper()}_JSON"):
        from specsafe.report.envelope import Envelope, Failure, to_json

        failure = Failure(message=error_line(error.message), hint=error_line(error.hint))
        print(to_json(Envelope(command=command, exit_code=2, error=failure)))
    return 2


if __name__ == "__main__":
    main()
