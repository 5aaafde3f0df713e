"""ruff and mypy are part of the tests: a clean tree stays clean. Both run under pyproject.toml's own settings."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = {"build", "out", "dist", "tests", "tools", "benchmarks", "node_modules"}


def run(*command: str, cwd: Path) -> tuple[int, str]:
    finished = subprocess.run([sys.executable, "-m", *command], cwd=cwd, capture_output=True, text=True, timeout=300)
    return finished.returncode, finished.stdout + finished.stderr


@pytest.mark.skipif(importlib.util.find_spec("ruff") is None, reason="ruff is not installed (pip install .[test])")
def test_ruff_finds_nothing():
    code, output = run("ruff", "check", "--no-fix", "--output-format", "concise", ".", cwd=ROOT)
    assert code == 0, output


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed (pip install .[test])")
def test_mypy_finds_nothing(tmp_path):
    """The repository is the package identity_lock whatever its folder is called: mypy sees it under that name."""
    (tmp_path / "identity_lock").symlink_to(ROOT, target_is_directory=True)
    modules = [
        option
        for path in sorted(ROOT.iterdir())
        for option in (
            ["-p", f"identity_lock.{path.name}"]
            if (path / "__init__.py").is_file() and path.name not in LEFT_OUT
            else ["-m", f"identity_lock.{path.stem}"] if path.suffix == ".py" and path.stem != "__init__" else []
        )
    ]
    assert "identity_lock.engines" in modules and "identity_lock.cli" in modules
    code, output = run(
        "mypy",
        "--config-file", str(ROOT / "pyproject.toml"),
        "--cache-dir", str(ROOT / ".mypy_cache"),
        "-m", "identity_lock",
        *modules,
        cwd=tmp_path,
    )  # fmt: skip
    assert code == 0, output
