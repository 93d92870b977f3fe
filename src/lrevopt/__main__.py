"""The command `lrevopt`: every script as a subcommand."""

import sys
from collections.abc import Sequence

USAGE = """usage: lrevopt COMMAND ...

Learned optimizers: meta-train them, take them apart, and any other optimizer with them.

commands:
{commands}

lrevopt COMMAND --help says more of one; --version says which version this is.
A task is a name (linear_regression, rosenbrock, two_moons, mnist) or module:factory; an
optimizer is the folder of a run, a shipped name, optax:name or module:factory."""


def main(words: Sequence[str] | None = None) -> int:
    """Run the command that the words on the command line name; its exit code."""
    words = sys.argv[1:] if words is None else words
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
