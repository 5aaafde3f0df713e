"""The browser side without a browser: modules, help pages and translations fit together and fit the nodes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
WEB = ROOT / "web"
SCRIPTS = sorted((WEB / "js").glob("*.js"))
SCHEMA = ROOT / "tests/nodes/schema.json"
NODES = [
    "FacePrep", "IdentityEmbed", "PhasedLoRATrainer", "DriftSeedSearch", "ThreePassRender", "RescueBlend",
    "TwoPassStylize", "SaveIdentity", "LoadIdentity", "DriftScore", "DemoModelLoader",
]  # fmt: skip
LANGUAGES = sorted(folder.name for folder in (ROOT / "locales").iterdir() if folder.is_dir())
HOST_SCRIPTS = {"../../../scripts/app.js", "../../../scripts/api.js"}

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return {name: node for name, node in json.loads(SCHEMA.read_text()).items() if node["ours"]}


def translations(language: str, file: str) -> dict[str, Any]:
    return json.loads((ROOT / "locales" / language / file).read_text())


def leaves(tree: dict[str, Any], before: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in tree.items():
        found |= leaves(value, f"{before}{key}.") if isinstance(value, dict) else {f"{before}{key}": value}
    return found


def help_page(node: str, language: str) -> str:
    return (WEB / "docs" / (f"{node}.md" if language == "en" else f"{node}/{language}.md")).read_text()


# ---- modules -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def module_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy whose package.json says that .js files are modules, which a browser knows and older node does not."""
    tree = tmp_path_factory.mktemp("modules")
    shutil.copytree(WEB / "js", tree / "web/js")
    shutil.copytree(Path(__file__).parent, tree / "tests/web", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    (tree / "package.json").write_text('{"type": "module"}')
    return tree


@needs_node
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_each_module_parses(script: Path, module_tree: Path) -> None:
    ran = subprocess.run(["node", "--check", module_tree / "web/js" / script.name], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


@needs_node
def test_pure_functions(module_tree: Path) -> None:
    files = sorted((module_tree / "tests/web").glob("*.test.mjs"))
    ran = subprocess.run(["node", "--test", *files], capture_output=True, text=True, cwd=module_tree)
    assert ran.returncode == 0, ran.stdout[-4000:]
    assert int(re.findall(r"^(?:#|ℹ) pass (\d+)", ran.stdout, re.M)[0]) >= 25


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_each_module_imports_what_exists(script: Path) -> None:
    text = script.read_text()
    for source in re.findall(r"^import\b(?:[^';]*from )? ?'([^']+)'$", text, re.M):
        assert source in HOST_SCRIPTS or (script.parent / source).is_file(), source
    for link in re.findall(r"new URL\('([^']+)', import\.meta\.url\)", text):
        assert (script.parent / link).is_file(), link


def test_one_module_only_knows_the_host() -> None:
    assert [script.name for script in SCRIPTS if "scripts/app.js" in script.read_text()] == ["identity_lock.js"]


@pytest.mark.parametrize("file", [*SCRIPTS, *(WEB / "css").glob("*.css")], ids=lambda path: path.name)
def test_nothing_is_loaded_from_elsewhere(file: Path) -> None:
    assert not re.search(r"https?:|//cdn|@import", file.read_text())


def test_the_views_go_to_nodes_that_exist() -> None:
    table = re.search(r"KIND_OF = \{(.*?)\}", (WEB / "js/panels.js").read_text(), re.S)
    assert table and set(re.findall(r"(\w+): '", table[1])) < set(NODES)


# ---- help pages and translations -----------------------------------------------------------------------------------


def test_english_and_one_more_language() -> None:
    assert "en" in LANGUAGES and len(LANGUAGES) >= 2


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("node", NODES)
def test_each_node_has_a_help_page_that_names_its_inputs_and_outputs(node: str, language: str) -> None:
    page = help_page(node, language)
    words = translations(language, "nodeDefs.json")[node]
    assert page.startswith(f"# {words['display_name']}\n")
    assert set(words["inputs"]) <= set(re.findall(r"^\| `(\w+)` \|", page, re.M))


@pytest.mark.parametrize("file", ["main.json", "nodeDefs.json"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_each_language_has_the_same_texts(language: str, file: str) -> None:
    english, other = leaves(translations("en", file)), leaves(translations(language, file))
    assert set(english) == set(other)
    assert all(text.strip() for text in other.values())
    for key, text in other.items():
        assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", english[key])), key


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_text_upsets_the_message_compiler_of_the_front_end(language: str) -> None:
    """There, @ is a link, | a plural and { a value."""
    for key, text in leaves(translations(language, "nodeDefs.json")).items():
        assert not set(text) & set("@|{}"), key


def test_the_english_of_the_views_is_the_english_locale() -> None:
    texts = dict(re.findall(r"^  (\w+): '([^']*)',$", (WEB / "js/words.js").read_text(), re.M))
    assert texts == translations("en", "main.json")["identityLock"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_that_a_view_uses_is_translated(language: str) -> None:
    used = {key for script in SCRIPTS for key in re.findall(r"\bword\('(\w+)'", script.read_text())}
    assert used and used <= set(translations(language, "main.json")["identityLock"])


# ---- against the nodes ---------------------------------------------------------------------------------------------


def test_the_nodes_are_the_ones_that_are_documented(schema: dict[str, Any]) -> None:
    assert set(schema) == set(NODES)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("node", NODES)
def test_each_input_and_output_is_translated_and_documented(node: str, language: str, schema: dict[str, Any]) -> None:
    words, page = translations(language, "nodeDefs.json")[node], help_page(node, language)
    inputs = [one["name"] for one in schema[node]["inputs"]]
    outputs = [one["name"] for one in schema[node]["outputs"]]
    assert set(words["inputs"]) == set(inputs)
    assert list(words["outputs"]) == [str(index) for index in range(len(outputs))]
    rows = re.findall(r"^\| `(\w+)` \|", page, re.M)
    assert sorted(rows) == sorted([*inputs, *outputs])
    if language == "en":
        assert [one["name"] for one in words["outputs"].values()] == outputs
        assert all(name == one["name"] for name, one in words["inputs"].items())


@pytest.mark.parametrize("node", NODES)
def test_the_english_name_is_the_one_of_the_node(node: str) -> None:
    name = translations("en", "nodeDefs.json")[node]["display_name"]
    sources = "".join(path.read_text() for path in (ROOT / "nodes").glob("*.py"))
    assert re.search(rf'"{node}",\s*display_name="{name}"', sources)


@pytest.mark.parametrize("node", NODES)
def test_defaults_in_the_help_are_those_of_the_node(node: str, schema: dict[str, Any]) -> None:
    told = dict(re.findall(r"^\| `(\w+)` \| (?:INT|FLOAT), (-?[\d.]+)", help_page(node, "en"), re.M))
    known = {one["name"]: one["default"] for one in schema[node]["inputs"] if one["type"] in ("INT", "FLOAT")}
    assert {name: float(value) for name, value in told.items()} == known
