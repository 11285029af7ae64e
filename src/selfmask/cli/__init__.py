"""The command line: `selfmask COMMAND …`. Parse, do, print; what a command does stands in tasks/.

Here the commands are only named: their modules, and torch with them, are imported when one is called.
"""

from __future__ import annotations

import importlib
import inspect
import io
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from selfmask._common.escape import lines, one_line
from selfmask._common.near import did_you_mean
from selfmask.errors import ArchitectureWarning, SelfmaskError, SettingsError
from selfmask.version import VERSION


@dataclass(frozen=True)
class Command:
    """A command: what it does in a line, and where its settings, its task and what prints its result are."""

    about: str
    settings: str
    task: str
    show: str


COMMANDS = {
    "demo": Command(
        "the main job on handwritten digits, in minutes",
        "tasks.demo:DemoSettings", "tasks.demo:run", "cli.runs:show_run",
    ),
    "adapt": Command(
        "learn a mask for a backbone on your images",
        "run.settings:AdaptSettings", "tasks.adapt:run", "cli.runs:show_run",
    ),
    "evaluate": Command(
        "k-NN and linear probe, before and after",
        "tasks.evaluate:EvaluateSettings", "tasks.evaluate:run", "cli.runs:show_evaluation",
    ),
    "embed": Command(
        "an embedding of every image, into one file",
        "tasks.embed:EmbedSettings", "tasks.embed:run", "cli.use:show_embedded",
    ),
    "predict": Command(
        "the class of every image, into one table",
        "tasks.predict:PredictSettings", "tasks.predict:run", "cli.use:show_predicted",
    ),
    "search": Command(
        "the images that are nearest to a query",
        "tasks.search:SearchSettings", "tasks.search:run", "cli.use:show_found",
    ),
    "serve": Command(
        "many masks over one backbone, by HTTP",
        "serve.settings:ServeSettings", "serve.run:run", "cli.serving:show_served",
    ),
    "inspect": Command(
        "what a mask file holds, and what it costs",
        "tasks.inspect:InspectSettings", "tasks.inspect:run", "cli.masks:show_inspection",
    ),
    "apply": Command(
        "write the adapted weights as an ordinary file",
        "tasks.apply:ApplySettings", "tasks.apply:run", "cli.masks:show_applied",
    ),
    "export": Command(
        "the adapted network as ONNX or torch.export",
        "tasks.export:ExportSettings", "tasks.export:run", "cli.masks:show_exported",
    ),
    "compare": Command(
        "how alike two masks are",
        "tasks.compare:CompareSettings", "tasks.compare:run", "cli.masks:show_comparison",
    ),
    "combine": Command(
        "and, or, majority of several masks",
        "tasks.combine:CombineSettings", "tasks.combine:run", "cli.masks:show_combined",
    ),
    "analyze": Command(
        "densities and similarities of many masks",
        "tasks.analyze:AnalyzeSettings", "tasks.analyze:run", "cli.masks:show_analysis",
    ),
    "cascade": Command(
        "a dispatcher, a router and experts in one file",
        "cascades.settings:CascadeSettings", "tasks.cascade:run", "cli.runs:show_cascade",
    ),
    "compact": Command(
        "make a mask file smaller within a tolerance",
        "tasks.compact:CompactSettings", "tasks.compact:run", "cli.masks:show_compacted",
    ),
    "push": Command(
        "publish a mask on the hub, with a card",
        "tasks.publish:PushSettings", "tasks.publish:push", "cli.hub:show_pushed",
    ),
    "pull": Command(
        "fetch a mask from the hub",
        "tasks.publish:PullSettings", "tasks.publish:pull", "cli.hub:show_pulled",
    ),
    "data": Command(
        "list or download data sets by name", "tasks.data:DataSettings", "tasks.data:run", "cli.hub:show_data"
    ),
    "report": Command(
        "one self-contained page about a run",
        "tasks.report:ReportSettings", "tasks.report:run", "cli.runs:show_report",
    ),
}  # fmt: skip

ADVICE, USAGE, INTERRUPTED = 2, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Exit status: 0 it worked, 2 something to mend (one line says what), 130 interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # θ or a name, where the terminal's own letters are fewer
            stream.reconfigure(errors="backslashreplace")
    try:
        status = _main(arguments)
        sys.stdout.flush()  # so that a reader who has gone is noticed here
        return status
    except BrokenPipeError:  # as `| head` does
        # What is left would be written at the very end, and fail there.
        if isinstance(sys.stdout, io.TextIOWrapper):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0 if arguments else USAGE
    if arguments[0] in ("-V", "--version"):
        print(f"selfmask {VERSION}")
        return 0
    name, words = arguments[0], arguments[1:]
    if name not in COMMANDS:
        print(
            lines(f"selfmask: unknown command {name!r}{did_you_mean(name, COMMANDS)}\n\n{_overview()}"),
            file=sys.stderr,
        )
        return USAGE
    shown = warnings.showwarning
    warnings.showwarning = partial(_show_warning, name, shown)
    try:
        return _run(name, words)
    except SelfmaskError as error:
        return _advise(name, str(error))
    except BrokenPipeError:
        raise
    except OSError as error:
        return _advise(name, f"{error.strerror or error}: {error.filename or 'while writing'}")
    except KeyboardInterrupt:
        print(f"selfmask {name}: interrupted", file=sys.stderr)
        return INTERRUPTED
    finally:
        warnings.showwarning = shown


def _run(name: str, words: Sequence[str]) -> int:
    from selfmask._common.console import SafeConsole
    from selfmask.cli.parse import parse
    from selfmask.cli.printing import print_json

    command = COMMANDS[name]
    _look(name, words)
    parsed = parse(name, named(command.settings), words)
    if parsed is None:
        return 0
    from selfmask._common.processes import leave_processes
    from selfmask.features.passes import showing

    task = named(command.task)
    console = SafeConsole(stderr=True, quiet=parsed.json)
    speaks = {"console": console} if "console" in inspect.signature(task).parameters else {}
    try:
        with showing(console):
            result = task(parsed.settings, **speaks)
    finally:
        leave_processes()  # left to the interpreter's end, a process of several now and then aborts
    interrupted = getattr(result, "interrupted", False)
    if getattr(result, "silent", False):
        return 0  # one of several processes, and not the first, which says it all
    if parsed.json:
        print_json(result.document())
    else:
        named(command.show)(result)
    return INTERRUPTED if interrupted else 0


def _look(name: str, words: Sequence[str]) -> None:
    """Raise a `SelfmaskError` where the first value is plainly a path, and nothing is there.

    Here, before anything is imported that takes seconds; what only looks like a path is left to the task.
    """
    first = words[0] if words else ""
    if first and not first.startswith("-") and name in ("adapt", "cascade"):
        from selfmask.images.place import place_of

        place_of(first)
        return
    if first.startswith("-") or ":" in first or not (os.sep in first or first.endswith(_FILES)):
        return
    if first.count("/") == 1 and not first.endswith(("/", *_FILES)) and not first.startswith("."):
        return  # OWNER/NAME on a hub
    if not os.path.exists(os.path.expanduser(first)):
        raise SettingsError(f"there is no {first}: name a file or a folder that exists")


_FILES = (".safetensors", ".csv", ".tsv", ".jsonl")


def named(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(f"selfmask.{module}"), name)


def _show_warning(command: str, shown: Callable[..., None], message: Any, category: Any, *more: Any) -> None:
    """Ours in one line; others' as they are."""
    if issubclass(category, ArchitectureWarning):
        print(f"selfmask {command}: note: {one_line(str(message))}", file=sys.stderr)
    else:
        shown(message, category, *more)


def _advise(name: str, message: str) -> int:
    print(f"selfmask {name}: {one_line(message)}", file=sys.stderr)
    return ADVICE


def _overview() -> str:
    width = max(len(name) for name in COMMANDS)
    commands = [f"  {name:<{width}}  {command.about}" for name, command in COMMANDS.items()]
    return (
        "usage: selfmask COMMAND …   (selfmask COMMAND --help shows its flags)\n\n"
        "Adapt a pretrained vision model to your images by learning which of its weights to switch off.\n\n"
        + "\n".join(commands)
    )
