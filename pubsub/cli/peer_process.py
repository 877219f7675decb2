"""The process of a peer: what `pubsub peer serve` turns into once its arguments are known to be good.

A peer runs for months, and should not carry for all that time what parsed its command line: typer and what typer loads,
with pydantic (from typer 0.29 on) a fifth of its memory. So the command replaces itself (exec): same process id, same
terminal, same signals, another program. Nothing here imports typer.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import NoReturn

import msgspec

from pubsub.cli.logs import set_up_logging
from pubsub.cli.run import announce, note, on_stop_signal, own_command, run, settle_memory
from pubsub.cli.stdout import abandon_stdout, occupy_standard_descriptors
from pubsub.errors import PubsubError
from pubsub.net.descriptors import raise_descriptor_limit


class PeerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The arguments of `pubsub peer serve`."""

    name: str
    data: str
    listen: str
    advertise: str | None
    zone: str
    index: str
    verbose: int
    set_damaged_aside: bool = False


def become_peer(options: PeerOptions) -> NoReturn:
    """Replace this process by a peer with these options."""
    command = [*own_command("pubsub.cli.peer_process"), msgspec.json.encode(options).decode()]
    if sys.stdout is not None:
        sys.stdout.flush()
    os.execv(sys.executable, command)


def main(options: PeerOptions) -> int:
    """Run a peer until it is told to stop.

    Returns: the exit code.
    """
    occupy_standard_descriptors()
    set_up_logging(options.verbose)
    raise_descriptor_limit()
    try:
        run(_serve(options))
    except PubsubError as error:
        note(" ".join(error.message.split()))
        return 1
    except BrokenPipeError:
        abandon_stdout()
    return 0


async def _serve(options: PeerOptions) -> None:
    from pubsub.peer.peer import Peer

    stop = asyncio.Event()
    on_stop_signal(stop.set)
    while not stop.is_set():  # again where the file cannot be mended otherwise
        peer = Peer(
            options.name,
            data=options.data,
            index=options.index,
            listen=options.listen,
            advertise=options.advertise,
            zone=options.zone,
            set_damaged_aside=options.set_damaged_aside,
        )
        async with peer:
            settle_memory()
            announce(f"peer {options.name} serves {peer.address}, data in {options.data}")
            await peer.serve_until(stop)


if __name__ == "__main__":
    sys.exit(main(msgspec.json.decode(sys.argv[1], type=PeerOptions)))
