"""Command line: `python -m tools.people sheet --out FILE.png` and `python -m tools.people dataset --out FOLDER`."""

from __future__ import annotations

import argparse
from pathlib import Path

from tools.people.dataset import FRAMINGS, DatasetPlan, make_dataset
from tools.people.grade import LOOKS
from tools.people.sheet import make_sheet


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.people", description="Render synthetic adults.")
    commands = parser.add_subparsers(dest="command", required=True)
    sheet = commands.add_parser("sheet", help="one PNG, people down and views across")
    dataset = commands.add_parser("dataset", help="pictures and captions for training")
    for command, people, views in ((sheet, 6, 8), (dataset, 1200, 6)):
        command.add_argument("--out", type=Path, required=True)
        command.add_argument("--people", type=int, default=people)
        command.add_argument("--views", type=int, default=views)
        command.add_argument("--first-seed", type=int, default=0)
        command.add_argument("--size", type=int, default=128)
        command.add_argument("--look", choices=LOOKS, default=LOOKS[0])
    sheet.add_argument("--captions", action="store_true")
    dataset.add_argument("--framing", choices=FRAMINGS, default=FRAMINGS[0])
    dataset.add_argument("--workers", type=int, default=2)
    return parser


def main() -> None:
    """Run one command."""
    args = _parser().parse_args()
    if args.command == "sheet":
        make_sheet(args.out, args.first_seed, args.people, args.views, args.size, args.look, args.captions)
    else:
        plan = DatasetPlan(args.people, args.views, args.first_seed, args.size, args.look, args.framing)
        make_dataset(args.out, plan, args.workers)


if __name__ == "__main__":
    main()
