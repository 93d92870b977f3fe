"""The command `lrevopt`: every script as a subcommand."""

import itertools
import os
import signal
import sys
from collections.abc import Sequence

from lrevopt.runs.stopping import SIGNALS, Stopped, stoppable

USAGE = """usage: lrevopt COMMAND ...

Meta-train learned optimizers, and analyse them and any other optimizer with the same tools.

commands:
{commands}

lrevopt COMMAND --help describes a command and its options; lrevopt --version prints the version.
A task is a name (linear_regression, rosenbrock, two_moons, mnist) or module:factory; an
optimizer is the folder of a run, a shipped name, optax:name or module:factory."""


def main(words: Sequence[str] | None = None) -> int:
    """Run the command that the words on the command line name; its exit code.

    By default these are the words of this process, which ends with the command: once a signal has
    stopped it, others no longer change its exit code.
    """
    ends, words = words is None, sys.argv[1:] if words is None else words
    try:
        with stoppable(lambda: _continuation(words)):
            return _run(words)
    except Stopped as stopped:
        if ends:
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)
        print(stopped.sentence(_continuation(words)), file=sys.stderr)
        return stopped.exit_code


def _continuation(words: Sequence[str]) -> str:
    """How to continue after a signal."""
    if words[0] == "train" and "--resume" not in words:
        named = dict(itertools.pairwise(words)).get("--output", "runs/meta_train")
        begun = os.path.isfile(os.path.join(named, "settings.json"))
        return f"the same command {'with --resume continues' if begun else 'begins again'}"
    return "the same command continues"


def _run(words: Sequence[str]) -> int:
    name, rest = (words[0], words[1:]) if words else ("--help", ())
    if name == "--version":
        from importlib.metadata import version

        print(f"lrevopt {version('lrevopt')}")
        return 0
    from lrevopt.paper import commands as paper
    from lrevopt.runs import commands as general
    from lrevopt.runs.command_line import listing, run_command

    known = general.COMMANDS | paper.COMMANDS
    if name in ("-h", "--help", "help"):
        print(USAGE.format(commands=listing(known)))
        return 0 if words else 2
    if name not in known:
        said = f"`COMMAND` must be one of {', '.join(known)}, got {name!r}."
        print(f"error: {said}", file=sys.stderr)
        return 2
    return run_command(known[name], rest, f"lrevopt {name}")


if __name__ == "__main__":
    sys.exit(main())
