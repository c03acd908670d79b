"""The command line: `python -m bondlab COMMAND`, or `bondlab COMMAND`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from bondlab import assets
from bondlab.assets import AssetError
from bondlab.report.notebook import ParameterError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the commands; returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options) or 0
    except KeyboardInterrupt:
        print("\nStopped. Finished work is kept: the same command goes on.", file=sys.stderr)
        return 130
    except (ParameterError, AssetError) as error:  # the message says what to change
        print(f"bondlab: {error}", file=sys.stderr)
        return 2


def _run(options: argparse.Namespace) -> int | None:
    """Call the library. Heavy imports wait until a command needs them."""
    if options.command == "fetch":
        print(*assets.fetch(options.names or None), sep="\n")
    elif options.command == "assets":
        print(assets.listing().drop(columns="sha256").to_string(index=False))
    elif options.command == "prepare":
        from bondlab.making.prepare import prepare

        prepare(options.retrain, options.only)
    elif options.command == "study":
        from bondlab.study.run import study

        return study(options.profile, options.only, options.workers)
    elif options.command == "bench":
        from bondlab.bench.command import bench

        bench(options.profile, options.only)
    else:
        from bondlab.study import experiments
        from bondlab.study.run import select

        for name, chosen in select(experiments.EXPERIMENTS, [options.experiment]).items():
            folders = experiments.run(name, options.profile, options.workers)
            for folder in folders:
                print(folder.path)
            if not folders:
                print(f"{chosen.notebook} has no runs of its own: execute the notebook")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("bondlab", description="BOND, reproduced.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    sub = commands.add_parser("fetch", help="fetch, verify and convert models and data")
    sub.add_argument("names", nargs="*", help="assets by name; default: what the study needs")
    commands.add_parser("assets", help="list the models and data, and which are there")
    sub = commands.add_parser("prepare", help="make the adapters in bondlab/weights ready")
    sub.add_argument("--retrain", action="store_true", help="train them anew")
    sub.add_argument("--only", metavar="NAME", help="one of them, by the name of its folder")
    one = commands.add_parser("run", help="compute the runs of one experiment")
    one.add_argument("experiment", help="its name, or the first letters of its notebook")
    sub = commands.add_parser("study", help="fetch, run, execute the notebooks, summarise")
    sub.add_argument("--only", nargs="+", default=[], metavar="NOTEBOOK", help="such as 00 02")
    bench = commands.add_parser("bench", help="measure how fast it is, beside other libraries")
    parts = ("sampling", "steps", "floor", "growth")
    bench.add_argument("--only", nargs="+", default=[], choices=parts)
    bench.add_argument("--profile", choices=("smoke", "laptop", "study"), default="laptop")
    for each in (one, sub):
        profiles = ("smoke", "laptop", "study", "paper")
        each.add_argument("--profile", choices=profiles, default="laptop")
        text = "runs at once; default: as the machine allows"
        each.add_argument("--workers", type=_count, help=text)
    return parser


def _count(text: str) -> int:
    """A number of workers; argparse turns the error into one line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
