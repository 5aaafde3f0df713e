"""Every reader of files that somebody else may have made, as a function of a path."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from identity_lock.comfy_client.fan_out import fan_out, read_list
from identity_lock.comfy_client.graph import Graph, read_graph
from identity_lock.comfy_client.graph import Target as Input
from identity_lock.comfy_client.journal import Journal
from identity_lock.comfy_client.lock import only_client
from identity_lock.comfy_client.pictures import read_picture
from identity_lock.comfy_client.refusals import UsageRefused
from identity_lock.comfy_client.run import _table
from identity_lock.comfy_client.values import set_values
from identity_lock.doctor import _header_fault
from identity_lock.engines.checkpoints import inspect_checkpoint
from identity_lock.engines.demo_base import load_demo_base
from identity_lock.engines.diffusers import open_checkpoint
from identity_lock.engines.lora_file import read_lora, write_lora
from identity_lock.errors import PromptRefused
from identity_lock.identity.identity import load_identity
from identity_lock.identity.photo import read_photo
from identity_lock.identity.recognisers import arcface
from identity_lock.rendering.log import RenderLog
from identity_lock.rendering.passes import models_used
from identity_lock.rendering.search import SearchReport, SeedResult, _Journal
from identity_lock.safety import c2pa_signing, index
from identity_lock.safety.forget import carried, forget, people_in
from identity_lock.safety.lock import _holder
from identity_lock.safety.prompt import require_allowed
from identity_lock.safety.provenance import read_label, read_record, read_source_type
from identity_lock.safety.statement import read_statement
from identity_lock.safety.untrusted import FileRefused, read_regular
from identity_lock.tests.fixtures.tiny_engine import request
from identity_lock.training.loop import train

from . import corpus, hostile_server
from .worker import Target


def photo(path: Path, folder: Path) -> None:
    taken = read_photo(path)
    assert taken.pixels.ndim == 3 and taken.pixels.dtype == "uint8" and max(taken.pixels.shape) <= 4096


def upload(path: Path, folder: Path) -> None:
    picture = read_picture(path)
    assert "/" not in picture.upload_name


def provenance(path: Path, folder: Path) -> None:
    source = read_source_type(path)
    assert source is None or isinstance(source, str)
    read_label(path)
    json.dumps(read_record(path))


def manifest(path: Path, folder: Path) -> None:
    state = c2pa_signing.manifest_state(path)
    assert state.state in ("none", "remote", "valid", "expired", "broken")
    c2pa_signing.read_manifest(path)


def statement(path: Path, folder: Path) -> None:
    told = read_statement(path)
    told.text().encode()
    json.dumps(told.to_json())


def identity(path: Path, folder: Path) -> None:
    found = load_identity(path)
    found.summary().encode()
    found.drift_to(found)
    assert found.embedding(found.selection).dimension > 0


def lora(path: Path, folder: Path) -> None:
    weights = read_lora(path)
    assert len(weights.sha256) == 64
    record = corpus.record(models=models_used(corpus.engine(), weights))
    RenderLog(folder / "renders").write_next(corpus.PICTURE, "portrait", record)
    write_lora(weights, folder / "again.safetensors")
    engine = corpus.engine()
    engine.sample(request(engine, seeds=(1,), steps=1, cfg=1.0, lora=weights))


def training(path: Path, folder: Path) -> None:
    """Goes on from the checkpoint in `path`, as far as to the first step."""
    engine, data, meter = corpus.training_parts()
    train(engine, data, meter, corpus.PLAN, path.parent, size=64, should_stop=lambda: True)


def checkpoint(path: Path, folder: Path) -> None:
    inspect_checkpoint(path)
    engine = open_checkpoint(path)
    engine.encode_prompt("photo of a woman")


def demo_base(path: Path, folder: Path) -> None:
    _header_fault(path)
    load_demo_base(path).text.encode("photo of a woman, red shirt")


def seed_journal(path: Path, folder: Path) -> None:
    journal = _Journal(folder, corpus.SEARCH, "")
    report = SearchReport(tuple(journal.results.values()), (), 1.0, str(folder))
    for result in report.finished[:3]:
        report.picture(result)
    (folder / "seed_99.png").touch()
    journal.add([SeedResult(99, 0.2, True, None, (0.3,), None, True, "seed_99.png")], journal.row_steps + 1)
    assert 99 in _Journal(folder, corpus.SEARCH, "").results


def render_log(path: Path, folder: Path) -> None:
    log = RenderLog(folder)
    written = [log.write_next(corpus.PICTURE, "portrait", corpus.record(seed=seed)) for seed in (5, 6)]
    assert len(set(written)) == 2 and all(one.parent == folder for one in written)
    log.finished("portrait_00001", corpus.SEARCH)
    log.write(corpus.PICTURE, "portrait_00001", corpus.record(seed=7))
    log.picture("portrait_00001")


def queue_journal(path: Path, folder: Path) -> None:
    graph = Graph("graph.json", corpus.GRAPH)
    journal = Journal(folder, graph.name, "fingerprint")
    records = journal.plan(fan_out(graph, ['Keep.filename_prefix=["a", "b"]']).jobs)
    _table(records, set(), folder).encode()
    _table(records, {record.name for record in records}, folder).encode()
    journal.failed(records[0], "It was tried.")
    assert Journal(folder, graph.name, "fingerprint").records


def queue_lock(path: Path, folder: Path) -> None:
    with only_client(folder):
        pass
    _holder(path)


def graph(path: Path, folder: Path) -> None:
    found = read_graph(path)
    found.placeholders()
    found.pictures()
    for node, body in list(found.nodes.items())[:3]:
        for name in list(body["inputs"])[:3]:
            at = Input(node, name)
            found.takes_picture(at)
            with contextlib.suppress(UsageRefused):  # wired, or of another type
                changed, _ = set_values(found, [f"{found.spelled(at)}=5"])
                changed.fingerprint()
    json.dumps(found.to_send({})).encode()
    found.fingerprint().encode()
    found.require_filled()
    plan = fan_out(found, ())
    assert len(plan.jobs) == 1 and plan.jobs[0].label


def text_list(path: Path, folder: Path) -> None:
    """A list of values as a file, and the same text as a list on the command line."""
    target = Input("2", "filename_prefix")
    graph = Graph("graph.json", corpus.GRAPH)
    content = ""
    with contextlib.suppress(OSError, ValueError):
        if path.is_file():
            with open(path, encoding="utf-8") as file:
                content = file.read(1 << 20)
    for source in (str(path), content):
        if source.startswith(("[", str(folder))):
            plan = fan_out(graph, [f"2.{target.input}={source}"])
            for job in plan.jobs[:20]:
                json.dumps(job.values).encode()
                assert job.label.isascii() and "/" not in job.label and len(job.label) <= 40


def prompt(path: Path, folder: Path) -> None:
    """What a text of strangers says to the guard."""
    try:
        text = read_regular(path, 1 << 16).decode("utf-8", "replace")
    except (FileRefused, OSError, ValueError) as error:
        raise PromptRefused(f"There is no prompt to read ({error!r}).") from error
    require_allowed(text)


def picture_list(path: Path, folder: Path) -> None:
    read_list(Graph("graph.json", corpus.PHOTO_GRAPH), Input("1", "image"), str(path))


def made_index(path: Path, folder: Path) -> None:
    """The index of what was made from a person, and a forgetting that touches nothing."""
    for entry in index.people():
        forget(entry, rehearsal=True).text().encode()


def owner_of_files(path: Path, folder: Path) -> None:
    for person in people_in(path):
        person.encode()
    list(carried(folder, corpus.PERSON, frozenset({"one.png"})))


def recogniser(path: Path, folder: Path) -> None:
    arcface.ArcFace(folder)


def _all() -> list[Target]:
    return [
        Target("photo", photo, corpus.photos),
        Target("upload", upload, corpus.photos),
        Target("provenance", provenance, corpus.records),
        Target("statement", statement, corpus.records),
        *([Target("c2pa manifest", manifest, corpus.records)] if c2pa_signing.available() else []),
        Target("identity", identity, corpus.identities),
        Target("lora", lora, corpus.loras, warm=corpus.warm_engine),
        Target("training checkpoint", training, corpus.trainings, warm=corpus.warm_training),
        Target("checkpoint file", checkpoint, corpus.checkpoint_files, warm=corpus.warm_models),
        Target("checkpoint folder", checkpoint, corpus.checkpoint_folders, warm=corpus.warm_models),
        Target("demo base", demo_base, corpus.demo_bases, warm=corpus.warm_models),
        Target("seed journal", seed_journal, corpus.seed_journals),
        Target("render log", render_log, corpus.render_logs),
        Target("queue journal", queue_journal, corpus.queue_journals),
        Target("queue lock", queue_lock, corpus.queue_locks),
        Target("workflow", graph, corpus.workflows),
        Target("list of values", text_list, corpus.text_lists),
        Target("list of pictures", picture_list, corpus.picture_lists, reads_anywhere=True),
        Target("prompt", prompt, corpus.prompts),
        Target("index", made_index, corpus.indexes, reads_anywhere=True),
        Target("owner of a file", owner_of_files, corpus.owned),
        Target("recogniser", recogniser, corpus.recognisers),
        Target("server", hostile_server.talk, hostile_server.scripts),
    ]


TARGETS: dict[str, Target] = {target.name: target for target in _all()}
