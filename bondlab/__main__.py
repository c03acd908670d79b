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
        print(assets.listing().to_string(index=False))
    elif options.command == "prepare":
        from bondlab.making.prepare import prepare

        prepare(options.retrain, options.only)
    elif options.command == "plan":
        from bondlab.plan.command import command

        try:
            print(command(options))
        except ValueError as error:
            raise ParameterError(error) from error
    elif options.command == "study":
        from bondlab.study.run import study

        return study(options.profile, options.only, options.workers)
    elif options.command == "claims":
        from bondlab.study import ledger

        print(*ledger.write(), sep="\n")
    elif options.command == "report":
        from bondlab.study import pages

        print(pages.write(options.profile)[0])
    elif options.command == "bench":
        from bondlab.bench.measure import bench

        bench(options.profile, options.only)
    elif options.command == "tune":
        from bondlab.study import experiments

        found = experiments.tune(options.task, options.profile, options.only, options.workers)
        print(found.round(3).to_string(index=False))
    else:
        from bondlab.study import experiments
        from bondlab.study.run import select

        for chosen in select(experiments.EXPERIMENTS, [options.experiment]).values():
            folders = chosen.run(options.profile, options.workers)
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
    _add_plan(commands.add_parser("plan", help="what a run takes: memory, operations, seconds"))
    one = commands.add_parser("run", help="compute the runs of one experiment")
    one.add_argument("experiment", help="its name, or the number of its notebook: 02, 07b")
    text = "choose the study's learning rates on training prompts"
    tune = commands.add_parser("tune", help=text)
    tune.add_argument("task", choices=("sentiment", "chat", "xsum"))
    tune.add_argument("--only", nargs="+", default=[], metavar="SERIES", help="some methods")
    tune.add_argument("--profile", choices=("smoke", "study"), default="study")
    sub = commands.add_parser("study", help="execute the notebooks, their runs first, summarise")
    sub.add_argument("--only", nargs="+", default=[], metavar="NOTEBOOK", help="such as 00 02")
    commands.add_parser("claims", help="decide all claims on the committed tables: CLAIMS.md")
    report = commands.add_parser("report", help="notebooks and claims as web pages")
    bench = commands.add_parser("bench", help="measure how fast it is, beside other libraries")
    parts = ("sampling", "steps", "floor", "growth")
    bench.add_argument("--only", nargs="+", default=[], choices=parts)
    bench.add_argument("--profile", choices=("smoke", "laptop", "study"), default="laptop")
    profiles = ("laptop", "smoke", "study", "paper")
    shipped = ("shipped", *profiles)
    for each, choices in ((one, profiles), (sub, shipped), (report, shipped)):
        each.add_argument("--profile", choices=choices, default=choices[0])
    for each in (one, sub, tune):
        text = "runs at once; default: as the machine allows"
        each.add_argument("--workers", type=_count, help=text)
    return parser


def _add_plan(sub: argparse.ArgumentParser) -> None:
    """Settings that are not given are `Config`'s."""
    text = "gemma-2b, gemma-7b, a hub name, a folder or a JSON file; several: a table"
    sub.add_argument("models", nargs="+", metavar="MODEL", help=text)
    text = "and its settings, such as: bond n=4 quantile_model=learned"
    words = ("NAME", "SETTING=VALUE")
    sub.add_argument("--algorithm", nargs="+", default=["j_bond"], metavar=words, help=text)
    sub.add_argument("--prompts", type=_count, dest="prompts_per_step", help="of a step")
    sub.add_argument("--micro-batch", type=_count, help="prompts passed back together")
    sub.add_argument("--sampling-batch", type=_count, help="prompts sampled for together; or all")
    sub.add_argument("--prompt-tokens", type=_count, default=256)
    sub.add_argument("--completion-tokens", type=_count, default=128)
    sub.add_argument("--lora", type=_count, default=8, metavar="RANK", help="of the adapters")
    sub.add_argument("--all-weights", action="store_true", help="train these instead")
    sub.add_argument("--fresh", action="store_true", help="draw anew at each step, from no bank")
    sub.add_argument("--precision", choices=("bf16", "fp32"))
    text = "a100, h100, h200, l4, rtx4090, or here, measured in two seconds"
    sub.add_argument("--device", default="here", help=text)


def _count(text: str) -> int:
    """A whole number from 1; argparse turns the error into one line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
