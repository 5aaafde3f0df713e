"""python -m benchmarks [training_step] [embedding] [seed_search] [early_exit] [host_training] [host_seeds]"""

from __future__ import annotations

import argparse
import importlib
import os
import tempfile
from pathlib import Path

import torch

from .common import bench

NAMES = ("training_step", "embedding", "seed_search", "early_exit")
WITH_HOST = ("host_training", "host_seeds")  # only when named: they need a ComfyUI


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*NAMES, *WITH_HOST, []], default=[], metavar="NAME",
                        help=", ".join(NAMES + WITH_HOST))  # fmt: skip
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--lora", type=Path, help="the synthetic subject's LoRA, if trained already"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    os.environ["IDENTITY_LOCK_HOME"] = tempfile.mkdtemp(prefix="identity-lock-bench-")  # these people are nobody's
    names = args.names or NAMES
    shared = None if set(names) == {"host_training"} else bench(args.lora)  # that one needs nothing of the demo's
    print(f"{'measured':45}  {'value':>8}  {'goal':>10}  met")
    for name in names:
        for row in importlib.import_module(f"benchmarks.{name}").measure(shared):
            met = {True: "yes", False: "NO", None: "-"}[row.met]
            print(f"{row.name:45}  {row.value:>8}  {row.goal:>10}  {met:3}  {row.detail}", flush=True)


if __name__ == "__main__":
    main()
