"""What commands share: a command line, one sentence for bad input, exit codes.

A command is a frozen dataclass: its fields are the options, its docstring is the help text, and
`main` does the work and gives the exit code. Modules of commands import JAX inside `main` alone, so
that help and refusals come at once. Exit code 2 stands for bad input, or for what the machine does
not have, and 128 + n for a run that signal n stopped.
"""

import ast
import dataclasses
import inspect
import io
import itertools
import os
import re
import signal
import sys
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from types import MappingProxyType
from typing import Any, TypeVar, cast

import tyro

from lrevopt.host_devices import start_host_devices
from lrevopt.meta_training.settings import Preset
from lrevopt.runs.errors import sentence
from lrevopt.runs.experiment import task_defaults
from lrevopt.runs.numbers import check_numbers

Settings = TypeVar("Settings")


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn errors that are not ours into one sentence on standard error and exit code 2.

    These are `ValueError`, what the file system refuses, and memory that is not there. Anything
    else is a defect of the package and keeps its traceback.
    """
    try:
        yield
    except BrokenPipeError:  # whoever read our output has ended
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # nothing is flushed at exit
        raise SystemExit(128 + signal.SIGPIPE) from None
    except Exception as error:
        said = sentence(error)
        if said is None:
            raise
        print(f"error: {said}", file=sys.stderr)
        raise SystemExit(2) from None


def _read(settings: type[Settings], **options: Any) -> Settings:
    """Settings by tyro, whose messages become one line and exit code 2."""
    said = io.StringIO()
    words = options.get("args")
    if {"-h", "--help"} & set(sys.argv[1:] if words is None else words):
        _write_help(settings)
    try:
        with redirect_stderr(said):
            return tyro.cli(settings, **options)
    except SystemExit as stop:
        if stop.code and options.get("console_outputs", True):
            lines = (line.strip(BOX) for line in said.getvalue().splitlines())
            # The first line is a heading, and what follows a rule points to the help text.
            body = list(itertools.takewhile(bool, list(lines)[1:]))
            print(f"error: {' '.join(' '.join(body).split())}", file=sys.stderr)
        raise


def _write_help(settings: type) -> None:
    """Make the docstring of each field, inherited and nested ones too, the help text of its option.

    tyro takes the text from the field's metadata and wraps it; in docstrings it keeps line breaks.
    It appends the default, so what `None` or no word stands for is marked as that.
    """
    fields = {field.name: field for field in dataclasses.fields(settings)}
    for name, text in _docstrings(settings):
        said = " ".join(text.split())
        for default, stands in ((None, "(None: "), ((), "(without any: ")):
            if fields[name].default == default:
                said = said.replace("(default: ", stands)
        fields[name].metadata = MappingProxyType({**fields[name].metadata, "help": said})
    for field in fields.values():
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            _write_help(field.type)
            said = _for_users(field.type)
            field.metadata = MappingProxyType({"help": said, **field.metadata})


RAISES = re.compile(r"\s*\bRaises `.*?(?=\n\n|\Z)", re.DOTALL)
"""What a docstring says, up to the end of its paragraph, about exceptions."""


def _for_users(settings: type) -> str:
    """The docstring of settings without exceptions, which a command turns into sentences."""
    return RAISES.sub("", inspect.cleandoc(settings.__doc__ or ""))


def _docstrings(settings: type) -> Iterator[tuple[str, str]]:
    """Names of the fields of a class and of its bases, with their docstrings."""
    for kind in settings.__mro__:
        if not dataclasses.is_dataclass(kind):
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
        for statement, text in itertools.pairwise(cast(ast.ClassDef, tree.body[0]).body):
            match statement, text:
                case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str(words))):
                    yield name, words


BOX = " \N{BOX DRAWINGS LIGHT VERTICAL}\N{BOX DRAWINGS LIGHT HORIZONTAL}"
"""What tyro draws around its messages."""


def parse(
    settings: type[Settings],
    default: Settings | None = None,
    *,
    words: Sequence[str] | None = None,
    prog: str | None = None,
) -> Settings:
    """Settings from the command line; exit code 2 and one message for what cannot be used.

    `words` are those after the name of the program, by default the ones of this process; `prog` is
    the name to say.
    """
    options: dict[str, Any] = {"args": words, "prog": prog}
    if default is not None:
        options["default"] = default
    with plain_errors(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _read(settings, **options)


def parse_by_task(
    settings: type[Settings], *, words: Sequence[str] | None = None, prog: str | None = None
) -> Settings:
    """As `parse`, with defaults that depend on the tasks and the preset on the command line.

    The command line is read twice: once to learn these, and again with their defaults. `settings`
    has a method `suited`, which gives itself with these defaults, or it begins with a `task` and
    has any of the fields `preset`, `optimizer`, `training` and `tuning`.
    """
    words = sys.argv[1:] if words is None else words
    asked = [word for word in words if word not in ("-h", "--help")]
    try:
        with plain_errors():
            named: Any = _read(settings, args=asked, prog=prog, console_outputs=asked == words)
    except SystemExit:
        if asked == words:
            raise
        return parse(settings, words=words, prog=prog)
    default = named.suited() if hasattr(named, "suited") else _with_task_defaults(named)
    return parse(settings, default, words=words, prog=prog)


def _with_task_defaults(named: Any) -> Any:
    """Settings with the defaults for the task and the preset that they name."""
    preset: Preset = getattr(named, "preset", "quick")
    chosen = task_defaults(named.task, preset)
    known: dict[str, Any] = {"preset": preset} | {
        field.name: getattr(chosen, field.name) for field in dataclasses.fields(chosen)
    }
    fields = {field.name for field in dataclasses.fields(named)}
    defaults = {name: value for name, value in known.items() if name in fields}
    return type(named)(named.task, **defaults)


def run_command(command: type[Any], words: Sequence[str], prog: str) -> int:
    """Read a command's options and run it; its exit code."""
    names = {field.name for field in dataclasses.fields(command)}
    by_task = hasattr(command, "suited") or ("task" in names and names & {"training", "tuning"})
    read = parse_by_task if by_task else parse
    settings: Any = read(command, words=words, prog=prog)
    with plain_errors():
        check_numbers(settings)
        refuse_overridden(words)
        start_host_devices()

        def work() -> int:
            refuse_ignored(words, settings)
            return settings.main() or 0

        if getattr(settings, "distributed", False):
            from lrevopt.runs.hosts import distributed

            code = distributed(work, settings.hosts)
        else:
            code = work()
        sys.stdout.flush()
    return code


OVERRIDES = {"start": "trained on", "optimizer": "taken"}
"""Options that name an optimizer, and what happens to it. It has the settings that it has."""


def refuse_ignored(words: Sequence[str], settings: Any) -> None:
    """Raise `ValueError` for settings of an optimizer of a run that goes on with another run's."""
    given = [word.partition("=")[0][2:] for word in words if word.startswith("--optimizer.")]
    output = getattr(settings, "output", None)
    goes_on = getattr(settings, "resume", not getattr(settings, "overwrite", True))
    if not given or not goes_on or output is None or not (output / "settings.json").is_file():
        return
    from lrevopt import storage

    start = storage.load_settings(output).get("start")
    if start is not None:
        raise ValueError(
            f"`{given[0]}` must be left out: the run in `{output}` trains the optimizer of "
            f"`{start}` as it is."
        )


def refuse_overridden(words: Sequence[str]) -> None:
    """Raise `ValueError` for settings of an optimizer beside the name of another one."""
    given = [word.partition("=")[0][2:].replace("_", "-") for word in words if word[:2] == "--"]
    for name, does in OVERRIDES.items():
        if name not in given:
            continue
        ignored = [other for other in given if other.startswith("optimizer.")]
        ignored += [other for other in given if other in ("optimizer", "kwargs")] * (
            name == "start"
        )
        if ignored:
            raise ValueError(
                f"`{ignored[0]}` must be left out with `{name}`, whose optimizer is {does} as it "
                f"is."
            )


def summary(command: type[Any]) -> str:
    """First line of a command's help text."""
    return (command.__doc__ or "").strip().splitlines()[0]


def listing(commands: Mapping[str, type[Any]]) -> str:
    """All commands, each with the first line of its help text."""
    widest = max(map(len, commands))
    return "\n".join(f"  {name:{widest}}  {summary(command)}" for name, command in commands.items())


def exit_code(outcome: str) -> int:
    """Exit code of a run with this outcome: 0, or 128 + the signal that stopped it."""
    return 128 + signal.Signals[outcome].value if outcome.startswith("SIG") else 0
