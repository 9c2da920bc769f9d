"""The command line: `captioner caption`, `ray`, `watch`, `up`, and those that train a model.

Each command is a module that is imported when it is called, so `captioner --help` and `captioner
up` load no model runtime, and nothing but training and export loads TensorFlow. Errors meant for a
person are printed as their one sentence.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from captioner.errors import CaptionerError

# Each module has `add_arguments(parser)` and `main(args) -> exit status`.
COMMANDS = {
    "caption": ("captioner.collection.command", "caption pictures and folders of pictures"),
    "ray": ("captioner.collection.cluster", "caption a collection on a Ray cluster"),
    "watch": ("app1.watch", "caption what comes: a folder, a camera, a stream, a video"),
    "train": ("captioner.training.train", "train a model on captioned photos"),
    "evaluate": ("captioner.training.evaluation", "score a model on captioned photos"),
    "calibrate": ("captioner.training.calibration", "fit the confidence of a model's captions"),
    "export": ("captioner.training.export", "write the files that serve a trained model"),
    "up": ("common.supervisor", "start the relay and both pages, and restart what fails"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status (2 for wrong arguments or settings)."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog="captioner",
        description="Captions photos, trains captioning models, and runs the three servers.",
    )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # warnings of TensorFlow and LiteRT, no news
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    try:
        for name, (module, about) in COMMANDS.items():
            subparser = subparsers.add_parser(
                name, help=about, description=f"{about[0].upper()}{about[1:]}."
            )
            if [name] == list(argv[:1]):  # the others' arguments would cost their imports
                command = import_module(module)
                command.add_arguments(subparser)
                # An option may stand between two paths; that parser fails where "--" comes first.
                parse = subparser.parse_intermixed_args
                if "--" in argv:
                    parse = subparser.parse_args
                return int(command.main(parse(argv[1:])))
        parser.parse_args(argv)  # ends with help or an error
        parser.error("name a command first")
    except CaptionerError as error:
        print(f"captioner: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `captioner caption ... | head`; Python would complain again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
