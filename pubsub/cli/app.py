"""The tree of commands, and what a failure looks like: one line on stderr and an exit code.

Exit codes: 0 done; 1 an error, in one line; 2 a mistake on the command line; 130 Ctrl-C. A reader of our output
that goes away (`| head -1`) has seen enough: that is 0. A traceback is shown by -vv alone.

Start-up time counts: commands import what they need when they run, and rich only for a terminal.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from pubsub.cli import bench, demo, group, index, peer, publish, query, subscribe, subscription, topic
from pubsub.cli.options import Verbose
from pubsub.cli.output import on_terminal
from pubsub.cli.run import note
from pubsub.cli.stdout import abandon_stdout, occupy_standard_descriptors
from pubsub.errors import PubsubError, reason_of
from pubsub.version import __version__

log = logging.getLogger("pubsub.cli")

INTERRUPTED = 130
"""Exit code after Ctrl-C, as a shell reports it: 128 + SIGINT."""

app = typer.Typer(
    name="pubsub",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(index.app, name="index")
app.add_typer(peer.app, name="peer")
app.add_typer(topic.app, name="topic")
app.add_typer(group.app, name="group")
app.add_typer(subscription.app, name="subscription")
app.command("publish")(publish.publish)
app.command("subscribe")(subscribe.subscribe)
app.command("query")(query.query)
app.command("demo")(demo.demo)
app.command("bench")(bench.bench)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pubsub {__version__}")
        raise typer.Exit()


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
    verbose: Verbose = 0,
) -> None:
    """Durable publish/subscribe without a broker cluster: topics live in the files of the peers that own them.

    An index says who is alive and who owns which topic; publishers and subscribers talk to the owner.

    \b
    Examples, each in a terminal of its own:
      pubsub index serve
      pubsub peer serve alice --data ./alice
      pubsub topic create sensors.temp
      pubsub subscribe sensors.temp --from earliest
      pubsub publish sensors.temp 21.5 21.6
      pubsub demo                       # or see all of it at work, in about 12 seconds
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns: the exit code.
    """
    occupy_standard_descriptors()
    if on_terminal():
        app.rich_markup_mode = "rich"
    command = typer.main.get_command(app)
    try:
        code = command(arguments, prog_name="pubsub", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except typer.TyperException as error:
        return _complain(error.format_message() + _where_to_look(error), error.exit_code, error)
    except PubsubError as error:
        return _complain(error.message, 1, error)
    except BrokenPipeError:
        abandon_stdout()
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        return _complain(where + reason_of(error), 1, error)
    except Exception as error:
        return _complain(f"a fault in pubsub: {error!r}; -vv shows where", 1, error)
    return code if isinstance(code, int) else 0


def _complain(message: str, code: int, error: Exception) -> int:
    log.debug("the traceback:", exc_info=error)
    # One line whatever the text says.
    note(" ".join(message.split()))
    return code


def _where_to_look(error: typer.TyperException) -> str:
    path = getattr(getattr(error, "ctx", None), "command_path", None)
    return f" (see {path} --help)" if path else ""
