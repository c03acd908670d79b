"""The command line: `python -m bondlab COMMAND`, or `bondlab COMMAND`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from bondlab.assets import AssetError
from bondlab.study.notebook import ParameterError

PROFILES = ("smoke", "laptop", "study", "paper")
SHIPPED = (  # what `prepare` makes; named here because to import it takes seconds
    "xsum_reference",
    "xsum_reward",
    "sentiment_reward",
    "sentiment_judge",
    "chat_reward",
    "chat_judge",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. Heavy imports wait until a command needs them."""
    options = vars(_parser().parse_args(arguments))
    command: Callable[..., int | None] = options.pop("command")
    try:
        return command(**options) or 0
    except KeyboardInterrupt:
        print("\nStopped. Finished work is kept: the same command goes on.", file=sys.stderr)
        return 130
    except (ParameterError, AssetError) as error:  # the message says what to change
        print(f"bondlab: {error}", file=sys.stderr)
        return 2


def fetch(names: list[str]) -> None:
    from bondlab import assets

    for folder in assets.fetch(names or None):
        print(folder)


def list_assets() -> None:
    from bondlab import assets

    print(assets.listing().drop(columns="sha256").to_string(index=False))


def prepare(retrain: bool, only: str | None) -> None:
    from bondlab.making import prepare as module

    module.prepare(retrain=retrain, only=only)


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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("bondlab", description="BOND, reproduced.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(command: Callable[..., int | None], name: str, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=command)
        return sub

    sub = add(fetch, "fetch", "fetch, verify and convert models and data")
    sub.add_argument("names", nargs="*", help="assets by name; default: what the study needs")
    add(list_assets, "assets", "list the models and data, and which are there")
    sub = add(prepare, "prepare", "make the trained models ready: policy, rewards, judges")
    sub.add_argument("--retrain", action="store_true", help="train them anew")
    sub.add_argument("--only", choices=SHIPPED)
    sub = add(run, "run", "compute the runs of one experiment")
    sub.add_argument("experiment", help="its name, or the first letters of its notebook")
    _scale(sub)
    sub = add(study, "study", "the whole study: fetch, run, execute the notebooks, summarise")
    sub.add_argument("--only", nargs="+", default=[], metavar="NOTEBOOK", help="such as 00 02")
    _scale(sub)
    return parser


def _scale(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--profile", choices=PROFILES, default="laptop")
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
