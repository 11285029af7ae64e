"""The command line: `selfmask COMMAND …`. One small module a command; here they are only named."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from selfmask.cli.positions import placed
from selfmask.errors import SelfmaskError
from selfmask.version import VERSION


@dataclass(frozen=True)
class Command:
    """A command: what it does in a line, and where its settings class and its `run` are."""

    about: str
    module: str
    settings: str


COMMANDS = {
    "demo": Command("the main job on handwritten digits, in minutes", "selfmask.cli.demo", "DemoSettings"),
    "adapt": Command("learn a mask for a backbone on your images", "selfmask.cli.adapt", "AdaptSettings"),
    "evaluate": Command(
        "k-NN and linear probe, before and after", "selfmask.cli.evaluate", "EvaluateSettings"
    ),
    "inspect": Command(
        "what a mask file holds, and what it costs", "selfmask.cli.inspect", "InspectSettings"
    ),
    "apply": Command("write the adapted weights as an ordinary file", "selfmask.cli.apply", "ApplySettings"),
    "export": Command("the adapted network as ONNX or torch.export", "selfmask.cli.export", "ExportSettings"),
    "compare": Command("how alike two masks are", "selfmask.cli.compare", "CompareSettings"),
    "combine": Command("and, or, majority of several masks", "selfmask.cli.combine", "CombineSettings"),
    "analyze": Command("densities and similarities of many masks", "selfmask.cli.analyze", "AnalyzeSettings"),
    "cascade": Command(
        "a dispatcher, a router and experts in one file", "selfmask.cli.cascade", "CascadeSettings"
    ),
    "compact": Command(
        "make a mask file smaller within a tolerance", "selfmask.cli.compact", "CompactSettings"
    ),
    "push": Command("publish a mask on the hub, with a card", "selfmask.cli.push", "PushSettings"),
    "pull": Command("fetch a mask from the hub", "selfmask.cli.pull", "PullSettings"),
    "data": Command("list or download data sets by name", "selfmask.cli.data", "DataSettings"),
    "report": Command("one self-contained page about a run", "selfmask.cli.report", "ReportSettings"),
}

ADVICE, USAGE, INTERRUPTED = 2, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Exit status: 0 it worked, 2 something to mend (one line says what), 130 interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0 if arguments else USAGE
    if arguments[0] in ("-V", "--version"):
        print(f"selfmask {VERSION}")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        from selfmask._common.near import did_you_mean

        print(
            f"selfmask: unknown command {name!r}{did_you_mean(name, COMMANDS)}\n\n{_overview()}",
            file=sys.stderr,
        )
        return USAGE
    command = COMMANDS[name]
    module = importlib.import_module(command.module)  # only now: torch takes a second to import
    try:
        described = getattr(module, command.settings)
        settings = tyro.cli(
            described,
            prog=f"selfmask {name}",
            args=placed(described, rest),
            config=(tyro.conf.PositionalRequiredArgs,),
        )
        return module.run(settings)
    except SelfmaskError as error:
        print(f"selfmask {name}: {error}", file=sys.stderr)
        return ADVICE
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # the reader of our output has gone, as `| head` does
            return 0
        print(f"selfmask {name}: {error.strerror}: {error.filename or 'while writing'}", file=sys.stderr)
        return ADVICE
    except KeyboardInterrupt:
        print(f"selfmask {name}: interrupted", file=sys.stderr)
        return INTERRUPTED


def _overview() -> str:
    width = max(len(name) for name in COMMANDS)
    lines = [f"  {name:<{width}}  {command.about}" for name, command in COMMANDS.items()]
    return (
        "usage: selfmask COMMAND …   (selfmask COMMAND --help shows its flags)\n\n"
        "Adapt a pretrained vision model to your images by learning which of its weights to switch off.\n\n"
        + "\n".join(lines)
    )
