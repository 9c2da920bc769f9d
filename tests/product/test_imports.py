"""Which top-level folder imports which, as written and in a process of its own.

`common` is the ground floor: it imports none of the others. `captioner`, the relay and app2 stand
side by side on it, and app1 stands on `captioner`. Serving must not load TensorFlow (nine seconds,
hundreds of megabytes), the captioner must not import the web, and `import captioner` must cost
nothing.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from tests.kit import ROOT

TRAINING = {"tensorflow", "keras"}
WEB = {"flask", "flask_socketio", "socketio", "eventlet", "waitress", "werkzeug"}
FOLDERS = {"captioner", "common", "app1", "app2", "SocketIO_server"}
MAY_IMPORT = {
    "common": set[str](),
    "captioner": {"common"},
    "SocketIO_server": {"common"},
    "app2": {"common"},
    "app1": {"common", "captioner"},
}
# The modules of `captioner` that may import `common`: three commands read the settings, and the
# root of the errors is there.
READS_COMMON = {
    "errors.py", "collection/command.py", "collection/cluster.py", "training/evaluation.py",
}  # fmt: skip
RAY = {"ray", "pyarrow", "pandas"}
NATIVE = {"cv2", "numpy", "PIL", "ai_edge_litert"}


def loaded_by(statement: str) -> set[str]:
    """The top-level modules in a fresh interpreter after `statement`."""
    run = subprocess.run(
        [sys.executable, "-c", f"{statement}\nimport sys\nprint(*sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.partition(".")[0] for name in run.stdout.split()}


def imported_by(path: Path) -> Iterator[str]:
    """The modules that a file names in its import statements, wherever they are in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import, which this test does not read"
            yield node.module or ""


@pytest.mark.parametrize("folder", sorted(FOLDERS))
def test_a_folder_imports_only_what_is_below_it(folder: str) -> None:
    paths = sorted((ROOT / folder).rglob("*.py"))
    assert paths
    for path in paths:
        tops = {name.partition(".")[0] for name in imported_by(path)}
        assert tops & FOLDERS <= MAY_IMPORT[folder] | {folder}, path


def test_the_captioner_reads_settings_in_three_commands_only() -> None:
    package = ROOT / "captioner"
    readers = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if any(name.partition(".")[0] == "common" for name in imported_by(path))
    }
    assert readers == READS_COMMON


def modules_of(folder: str) -> list[str]:
    """The importable names of a folder's files."""
    paths = (path.relative_to(ROOT).with_suffix("") for path in (ROOT / folder).rglob("*.py"))
    return sorted(".".join(path.parts).removesuffix(".__init__") for path in paths)


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("common", FOLDERS - {"common"} | TRAINING | NATIVE),
        ("SocketIO_server", FOLDERS - {"common", "SocketIO_server"} | TRAINING | NATIVE),
        ("app2", FOLDERS - {"common", "app2"} | TRAINING | NATIVE),
        ("app1", FOLDERS - {"common", "captioner", "app1"} | TRAINING),
    ],
)
def test_what_all_of_a_folder_loads(folder: str, forbidden: set[str]) -> None:
    modules = modules_of(folder)
    assert len(modules) > 1
    assert not loaded_by(f"import {', '.join(modules)}") & forbidden


@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        ("import captioner", TRAINING | WEB | NATIVE),
        ("from captioner import CaptionerError", TRAINING | WEB | NATIVE),
        ("import captioner.cli", TRAINING | WEB | NATIVE | RAY),
        ("import captioner.collection.cluster", TRAINING | WEB | NATIVE | RAY),
        ("import captioner.tokenizer", TRAINING | WEB | NATIVE),
        ("import captioner.model_folder", TRAINING | WEB | NATIVE),
        ("import captioner.pictures.preprocess", TRAINING | WEB),
        ("from captioner import Captioner", TRAINING | WEB),
    ],
)
def test_what_an_import_brings(statement: str, forbidden: set[str]) -> None:
    assert not loaded_by(statement) & forbidden


def test_the_public_names() -> None:
    import captioner

    assert sorted(captioner.__all__) == ["Captioner", "CaptionerError"]
    assert set(captioner.__all__) <= set(dir(captioner))
    for name in captioner.__all__:
        assert getattr(captioner, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'captionner'"):
        captioner.captionner  # noqa: B018


@pytest.mark.parametrize("folder", [*sorted(FOLDERS), "benchmarks", "tests"])
def test_classes_of_http_server_are_imported_by_name(folder: str) -> None:
    """Eventlet, once loaded, leaves its own copy of `http.server` as the attribute of `http`.

    A server made of `http.server.HTTPServer` then waits for eventlet's locks, without end.
    """
    for path in (ROOT / folder).rglob("*.py"):
        names = {
            alias.name
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        assert "http.server" not in names, path


@pytest.mark.parametrize("name", sorted(FOLDERS))
def test_no_folder_of_the_tests_hides_one_of_the_product(name: str) -> None:
    """Some have the same names; a test imports the product's, and its own as `tests.NAME`."""
    assert [*import_module(name).__path__] == [str(ROOT / name)]
