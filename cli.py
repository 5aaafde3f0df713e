"""`identity-lock demo | run | queue | verify | forget | doctor`: the pipeline without ComfyUI, graphs for one; all
offline."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from .errors import IdentityLockError


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 on success, 1 on a refusal or error (one sentence on stderr), 130 when interrupted."""
    args = _parser().parse_args(arguments)
    from .safety.offline import enforce_offline, no_network

    enforce_offline()
    try:
        with nullcontext() if args.run is _queue else no_network():  # queue knows which host it may reach
            return int(args.run(args) or 0)
    except IdentityLockError as error:
        print(f"identity-lock: {error}", file=sys.stderr)
        return 130 if type(error).__name__.endswith("Stopped") else 1
    except KeyboardInterrupt:
        print("identity-lock: stopped; the same command goes on from the last checkpoint.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="identity-lock", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="the whole pipeline on a synthetic person and one real photograph")
    demo.add_argument("--out", type=Path, default=Path("out/demo"), help="folder for the report (default: out/demo)")
    demo.add_argument("--quick", action="store_true", help="the synthetic person only, under 4 minutes, lower quality")
    demo.add_argument("--threads", type=int, default=1, help="torch threads (default: 1, fastest for so small a model)")
    demo.set_defaults(run=_demo)

    run = commands.add_parser("run", help="your own one to three photos and your own checkpoint")
    run.add_argument("photos", nargs="+", type=Path, metavar="PHOTO")
    run.add_argument(
        "--checkpoint", type=Path, help="SD1.5 or SDXL: .safetensors or a diffusers folder; else the demo base"
    )
    run.add_argument("--style-checkpoint", type=Path, help="a second checkpoint for the two-pass mode")
    run.add_argument("--consent", required=True, help="who agreed to the use of these photos, and to what")
    run.add_argument("--name", default="subject", help="name of the identity and its files")
    run.add_argument("--description", default="", help='how prompts describe them, such as "woman, old, gray hair"')
    run.add_argument("--caption", action="append", default=[], help="what else a photo shows; once for each photo")
    run.add_argument("--scene", action="append", default=[], help="a scene to style into; may be repeated")
    run.add_argument("--seeds", type=int, default=64, help="how many seeds to search (default: 64)")
    run.add_argument("--first-seed", type=int, default=1187891159)
    run.add_argument("--size", type=int, help="side of the renders in pixels (default: the checkpoint's own)")
    run.add_argument("--max-steps", type=int, help="shorten every training phase so that they add up to this")
    run.add_argument("--models", type=Path, help="folder with face models, searched first")
    run.add_argument("--out", type=Path, default=Path("out/run"))
    run.add_argument(
        "--sign-certificate", type=Path, metavar="CHAIN.pem",
        help="sign every picture by C2PA: your certificate, and after it those that issued it (docs/signing.md)",
    )  # fmt: skip
    run.add_argument("--sign-key", type=Path, metavar="KEY.pem", help="the private key of that certificate")
    run.add_argument("--sign-algorithm", metavar="NAME", help="such as PS384 (default: the one the key is made for)")
    run.set_defaults(run=_run)

    queue = commands.add_parser("queue", help="queue an API-format graph on a running ComfyUI and fetch what it makes")
    queue.add_argument("graph", type=Path, metavar="GRAPH.json", help="a workflow in API format")
    queue.add_argument(
        "--set", action="append", default=[], metavar="NODE.INPUT=VALUE",
        help="a value, by node title, id or class; a LoadImage takes a picture of this machine; may be repeated",
    )  # fmt: skip
    queue.add_argument(
        "--each", action="append", default=[], metavar="NODE.INPUT=LIST",
        help="a job for each value: a text file with one a line, a JSON list, 1,2,3, or pictures as folder/*.jpg; "
        "several lists of one length go side by side",
    )  # fmt: skip
    queue.add_argument("--server", default="http://127.0.0.1:8188", metavar="URL", help="default: %(default)s")
    queue.add_argument("--allow-remote", action="store_true", help="let photos and prompts leave this machine")
    queue.add_argument("--out", type=Path, metavar="DIR", help="folder for results (default: out/queue/GRAPH)")
    queue.add_argument("--all", action="store_true", help="fetch temporary pictures (previews) too")
    queue.add_argument("--timeout", type=_seconds, metavar="S", help="interrupt a job after so long (default: never)")
    queue.add_argument(
        "--retries", type=_count, default=2, metavar="N",
        help="how often a job is queued again that was lost with a dying server (default: 2)",
    )  # fmt: skip
    queue.add_argument(
        "--reconnect", type=_seconds, default=60.0, metavar="S",
        help="how long to wait for a server that went away midway (default: 60)",
    )  # fmt: skip
    queue.set_defaults(run=_queue)

    verify = commands.add_parser(
        "verify", help="what a picture says of itself, and its drift against an identity, measured now"
    )
    verify.add_argument("image", type=Path)
    verify.add_argument("--identity", type=Path, help="identity.safetensors: measure the drift against it")
    verify.add_argument(
        "--provenance", action="store_true",
        help="print who, what, which models and which drift the picture states, and whether it is signed; exit code 1 "
        "where it has no record, contradicts itself, or its signature is broken",
    )  # fmt: skip
    verify.add_argument(
        "--trusted-root", type=Path, metavar="ROOT.pem",
        help="with --provenance: exit code 1 unless the picture is signed by a certificate that this one issued",
    )  # fmt: skip
    verify.add_argument("--json", action="store_true", help="the same as JSON")
    verify.add_argument("--models", type=Path, help="folder with face models, searched first")
    verify.set_defaults(run=_verify)

    forget = commands.add_parser("forget", help="remove everything that was made from a person, and list it")
    forget.add_argument("identity", metavar="IDENTITY", help="an identity file, the id of one, or the person's name")
    forget.add_argument("--every", action="store_true", help="where several identities have that name: all of them")
    forget.add_argument(
        "--also", action="append", default=[], type=Path, metavar="FOLDER",
        help="look through this folder too, for files that were moved there and say whose they are; may be repeated",
    )  # fmt: skip
    forget.add_argument("--dry-run", action="store_true", help="list what would be removed, and touch nothing")
    forget.set_defaults(run=_forget)

    doctor = commands.add_parser("doctor", help="what is installed, what is missing, and the command that mends it")
    doctor.add_argument("--models", type=Path, help="folder with face models, searched first")
    doctor.set_defaults(run=_doctor)
    return parser


def _demo(args: argparse.Namespace) -> None:
    from .demo.run import run_demo

    with stoppable():  # the subjects' own processes listen too, and stop at their next safe point
        run_demo(args.out, quick=args.quick, threads=args.threads)


def _run(args: argparse.Namespace) -> None:
    import torch

    from .own_photos import run_own_photos

    if args.checkpoint is None:  # as for the demo: the fastest for so small a model
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)
    with stoppable() as should_stop:
        run_own_photos(args, should_stop)


def _queue(args: argparse.Namespace) -> int:
    """Exit code 2 for a command that cannot be carried out, 1 where a job failed or the server is gone."""
    from .comfy_client.refusals import UsageRefused
    from .comfy_client.run import run_queue

    try:
        with stoppable(quiet=True) as should_stop:
            return run_queue(args, should_stop)
    except UsageRefused as error:
        print(f"identity-lock: {error}", file=sys.stderr)
        return 2


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError
    return value


def _verify(args: argparse.Namespace) -> int:
    if not args.identity and not args.provenance:
        raise IdentityLockError(
            "Say what to verify: --provenance for what the picture states of itself, --identity IDENTITY.safetensors "
            "for its drift, or both."
        )
    if args.trusted_root and not args.provenance:
        raise IdentityLockError("--trusted-root judges a signature: add --provenance.")
    told: dict[str, Any] = {}
    sound = True
    if args.provenance:
        from .safety.statement import read_statement

        told["provenance"] = statement = read_statement(args.image, args.trusted_root)
        sound = statement.sound
    if args.identity:
        from .verify import verify

        told["drift"] = verify(args.image, args.identity, args.models)
    if args.json:
        print(json.dumps({name: part.to_json() for name, part in told.items()}, indent=1, ensure_ascii=False))
    else:
        print("\n\n".join(part.text() for part in told.values()))
    return 0 if sound else 1


def _forget(args: argparse.Namespace) -> int:
    """Exit code 1 where something had to be kept; the list says what, and why."""
    from .safety.forget import forget, the_people

    done = [forget(who, args.also, rehearsal=args.dry_run) for who in the_people(args.identity, every=args.every)]
    print("\n\n".join(one.text() for one in done))
    return 0 if all(one.complete for one in done) else 1


def _doctor(args: argparse.Namespace) -> int:
    from .doctor import examine

    report = examine(args.models)
    print(report.text())
    return 0 if report.healthy else 1


@contextmanager
def stoppable(*, quiet: bool = False) -> Iterator[Callable[[], bool]]:
    """Ctrl-C asks the work to stop at its next safe point and keep everything; a second one stops at once."""
    asked = False

    def ask(signum: int, frame: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        if not quiet:
            print("\nStopping after this step; press Ctrl-C again to stop at once.", file=sys.stderr, flush=True)

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)


if __name__ == "__main__":
    sys.exit(main())
