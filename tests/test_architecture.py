"""The arrows between the folders, kept: who may import whom, and what importing the pack may cost."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "identity_lock"
HEAVY = ("torch", "diffusers", "peft", "insightface", "cv2", "onnxruntime")
COMFY = (
    "comfy", "comfy_api", "comfy_extras", "comfy_execution", "folder_paths", "latent_preview", "nodes", "server",
    "execution",
)  # fmt: skip
# Of the engines, whoever works with one sees the protocol, the LoRA file, the noising rule and what memory that ran out
# looks like, never an implementation.
ENGINE_PAGES = {"engines.protocol", "engines.lora_file", "engines.noising", "engines.memory"}
KNOW_COMFYUI = {("engines", f"{name}.py") for name in ("comfy", "comfy_demo", "comfy_sampling", "comfy_training")}
LEFT_OUT = {".git", ".venv", "build", "out", "node_modules", "__pycache__"}


def python_files(*parts: str) -> list[Path]:
    top = ROOT.joinpath(*parts)
    found = [top] if top.is_file() else sorted(top.rglob("*.py"))
    return [file for file in found if not LEFT_OUT & set(file.relative_to(ROOT).parts)]


def imports_of(file: Path, *, module_level: bool = False) -> Iterator[tuple[str, int]]:
    """(module, line): modules of this package without its name ('engines.protocol'), others as written.

    module_level: only what runs when the module is imported: not in functions, not under TYPE_CHECKING.
    """
    folder = file.relative_to(ROOT).parts[:-1]
    for node in _nodes(ast.parse(file.read_text(encoding="utf-8")), module_level):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield _own(alias.name), node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*folder[: len(folder) - node.level + 1], *filter(None, [base])])
            base = _own(base)
            yield base, node.lineno
            for alias in node.names:  # `from ..engines import diffusers` names a module as well
                if ROOT.joinpath(*base.split("."), f"{alias.name}.py").is_file() or not base:
                    yield f"{base}.{alias.name}".strip("."), node.lineno


def _nodes(tree: ast.AST, module_level: bool) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if module_level and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if module_level and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from _nodes(node, module_level)


def _own(module: str) -> str:
    return "" if module == PACKAGE else module.removeprefix(PACKAGE + ".")


def within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def offenders(folder: str, allowed: tuple[str, ...] | set[str]) -> list[str]:
    """Imports of other parts of the package that `folder` may not make."""
    parts = {path.name.removesuffix(".py") for path in ROOT.iterdir() if path.suffix == ".py" or path.is_dir()}
    found = []
    for file in python_files(folder):
        for module, line in imports_of(file):
            ours = module.split(".")[0] in parts and module != "engines"
            if ours and not within(module, folder, "errors", *allowed):
                found.append(f"{file.relative_to(ROOT)}:{line} imports {module}")
    return found


def test_the_reader_of_imports_reads_them(tmp_path):
    """The checks below are worth nothing if imports go unseen."""
    search = dict(imports_of(ROOT / "rendering" / "search.py"))
    assert {"engines.protocol", "identity.drift", "rendering.log", "errors", "numpy", "scipy.stats"} <= set(search)
    assert "scipy.stats" not in dict(imports_of(ROOT / "rendering" / "search.py", module_level=True))
    assert "engines.demo_base" in dict(imports_of(ROOT / "engines" / "diffusers.py"))


@pytest.mark.parametrize(
    ("folder", "allowed"),
    [
        ("safety", ()),
        ("identity", ("safety",)),
        ("engines", ("safety",)),
        ("training", {"identity", "safety", *ENGINE_PAGES}),
        ("rendering", {"identity", "safety", *ENGINE_PAGES}),
        ("comfy_client", ("safety",)),
    ],
)
def test_arrows_point_one_way(folder, allowed):
    assert offenders(folder, allowed) == []


@pytest.mark.parametrize("folder", ["identity", "safety"])
def test_no_torch_below_the_engines(folder):
    for file in python_files(folder):
        assert [line for module, line in imports_of(file) if within(module, "torch")] == [], file.name


def test_only_the_nodes_and_their_engine_know_comfyui():
    for file in python_files():
        place = file.relative_to(ROOT).parts
        if place[0] in ("nodes", "tests", "benchmarks") or place in KNOW_COMFYUI:
            continue
        known = [m for m, _ in imports_of(file) if m.split(".")[0] in COMFY and not within(m, "nodes")]
        if place == ("__init__.py",):
            known = [m for m in known if not within(m, "comfy_api")]  # the entry point that ComfyUI looks for
        assert known == [], f"{file.relative_to(ROOT)} imports {known}"
        if place not in (("__init__.py",),):
            entering = [m for m, _ in imports_of(file) if within(m, "engines.comfy", "engines.comfy_demo", "nodes")]
            assert entering == [], f"{file.relative_to(ROOT)} imports {entering}"


@pytest.mark.parametrize("folder", ["identity", "safety", "nodes"])
def test_what_comfyui_imports_at_start_imports_nothing_heavy(folder):
    for file in [*python_files(folder), ROOT / "__init__.py", ROOT / "errors.py"]:
        heavy = [m for m, _ in imports_of(file, module_level=True) if within(m, *HEAVY)]
        assert heavy == [], f"{file.relative_to(ROOT)} imports {heavy} when it is imported"


def test_importing_the_pack_is_light_and_quick():
    code = (
        "import sys, time\n"
        "start = time.perf_counter()\n"
        "import identity_lock\n"
        "spent = time.perf_counter() - start\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], spent)"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    loaded, spent = finished.stdout.rsplit(" ", 1)
    assert loaded == "[]"
    assert float(spent) < 2.0  # a host starts dozens of packs; the margin is for a busy test machine


def test_no_drawer_for_odds_and_ends():
    names = {"utils.py", "helpers.py", "manager.py", "util.py", "misc.py"}
    assert [str(file.relative_to(ROOT)) for file in python_files() if file.name in names] == []


def test_requirements_never_name_torch_nor_an_upper_bound():
    lines = [line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    wanted = [line for line in lines if line]
    names = [re.split(r"[\s;<>=!~\[]", line)[0].lower() for line in wanted]
    assert not {"torch", "torchvision", "torchaudio", "opencv-python"} & set(names)
    assert [line for line in wanted if re.search(r"<|==|~=|!=", line.split(";")[0])] == []
    assert {"diffusers", "peft", "insightface", "rembg", "safetensors", "numpy", "scipy"} <= set(names)
    (gpu,) = [line for line in wanted if line.startswith("onnxruntime-gpu")]
    (cpu,) = [line for line in wanted if re.match(r"onnxruntime\s*;", line)]
    assert "!= 'darwin'" in gpu.replace('"', "'") and "== 'darwin'" in cpu.replace('"', "'")


def test_requirements_name_everything_the_code_imports():
    text = (ROOT / "requirements.txt").read_text().lower()
    optional = {"dlib", "c2pa", "cryptography", "torch", "cv2"}  # pyproject's extras, the host's own, rembg's opencv
    pip_names = {"PIL": "pillow", "pytorch_optimizer": "pytorch-optimizer"}
    here = {path.name.removesuffix(".py") for path in ROOT.iterdir()}
    rooms = ("identity", "safety", "engines", "training", "rendering", "comfy_client", "demo")
    for folder in (*rooms, "pipeline.py", "own_photos.py"):
        for file in python_files(folder):
            for module, line in imports_of(file):
                name = module.split(".")[0]
                if not name or name in sys.stdlib_module_names or name in here or name in optional or name in COMFY:
                    continue
                assert pip_names.get(name, name) in text, f"{file.relative_to(ROOT)}:{line} imports {name}"


def test_no_path_of_a_developers_machine_in_the_repository():
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, capture_output=True, check=True,
        ).stdout.decode()  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout: there is no list of tracked files")
    homes = r"/(?:home|Users)/(?!user\b|you\b|runner\b|\$)[a-z][\w.-]*/|[A-Z]:\\\\?Users\\"
    private = re.compile(homes + "|/" + "root/|(?<![\\w.])/" + "work/", re.ASCII)
    found = []
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        if not path.is_file() or path.stat().st_size > 1_000_000:
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture or a model
        found += [f"{name}: {hit[0]}" for hit in private.finditer(text)]
    assert found == []
