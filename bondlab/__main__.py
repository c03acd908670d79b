"""The command line: `python -m bondlab COMMAND`, or `bondlab COMMAND`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence

from bondlab.assets import AssetError
from bondlab.report.notebook import ParameterError


def fetch(names: list[str]) -> None:
    from bondlab import assets

    for folder in assets.fetch(names or None):
        print(folder)


def list_assets() -> None:
    from bondlab import assets

    print(assets.listing().drop(columns="sha256").to_string(index=False))


def prepare(retrain: bool, only: str | None) -> None:
    from bondlab.making import prepare as module

    module.prepare(retrain, only)


def run(experiment: str, profile: str, workers: int | None) -> None:
    from bondlab.study import experiments
    from bondlab.study.run import select

    for name, chosen in select(experiments.EXPERIMENTS, [experiment]).items():
        folders = experiments.run(name, profile, workers)
        for folder in folders:
            print(folder.path)
        if not folders:
            print(f"{chosen.notebook} has no runs of its own: execute the notebook")


def study(profile: str, only: list[str], workers: int | None) -> int:
    from bondlab.study import run as module

    return module.study(profile, only, workers)


# Heavy imports wait until a command needs them.
COMMANDS = {"fetch": fetch, "assets": list_assets, "prepare": prepare, "run": run, "study": study}


def main(
    arguments: Sequence[str] | None = None,
    commands: Mapping[str, Callable[..., int | None]] = COMMANDS,
) -> int:
    """Run one of the commands; returns its exit code."""
    options = vars(_parser().parse_args(arguments))
    command = commands[options.pop("command")]
    try:
        return command(**options) or 0
    except KeyboardInterrupt:
        print("\nStopped. Finished work is kept: the same command goes on.", file=sys.stderr)
        return 130
    except (ParameterError, AssetError) as error:  # the message says what to change
        print(f"bondlab: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("bondlab", description="BOND, reproduced.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    sub = commands.add_parser("fetch", help="fetch, verify and convert models and data")
    sub.add_argument("names", nargs="*", help="assets by name; default: what the study needs")
    commands.add_parser("assets", help="list the models and data, and which are there")
    sub = commands.add_parser("prepare", help="make the adapters in bondlab/weights ready")
    sub.add_argument("--retrain", action="store_true", help="train them anew")
    sub.add_argument("--only", metavar="NAME", help="one of them, by the name of its folder")
    sub = commands.add_parser("run", help="compute the runs of one experiment")
    sub.add_argument("experiment", help="its name, or the first letters of its notebook")
    _scale(sub)
    sub = commands.add_parser("study", help="fetch, run, execute the notebooks, summarise")
    sub.add_argument("--only", nargs="+", default=[], metavar="NOTEBOOK", help="such as 00 02")
    _scale(sub)
    return parser


def _scale(parser: argparse.ArgumentParser) -> None:
    profiles = ("smoke", "laptop", "study", "paper")
    parser.add_argument("--profile", choices=profiles, default="laptop")
    parser.add_argument(
        "--workers", type=_count, help="runs at once; default: as the machine allows"
    )


def _count(text: str) -> int:
    """A number of workers; argparse turns the error into one line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
