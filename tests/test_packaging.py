"""What a release is made of: the files that are built, their metadata, and that each fact is said once."""

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_bytes
from itertools import chain
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PACKAGES = ("schedules", "optim", "theory")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]
NAME = f"pure_schedules-{PROJECT['version']}"


def modules(*folders: str) -> set[str]:
    return {path.relative_to(ROOT).as_posix() for folder in folders for path in (ROOT / folder).rglob("*.py")}


def build(root: Path, target: str, folder: Path) -> None:
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", target, "-d", folder], cwd=root, check=True)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """The files of a source distribution, from which an editable install was made."""
    folder = tmp_path_factory.mktemp("checkout")
    build(ROOT, "sdist", folder)
    # Not tarfile, which wants a filter from Python 3.14 on, and knows none before 3.11.4.
    subprocess.run(["tar", "-xzf", folder / f"{NAME}.tar.gz", "-C", folder], check=True)
    build(folder / NAME, "wheel:editable", folder)
    return folder / NAME


@pytest.fixture(scope="module")
def built(checkout, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    build(checkout, "sdist", folder)
    build(checkout, "wheel", folder)
    return folder


def test_the_wheel_holds_the_packages_and_nothing_else(built):
    names = {*zipfile.ZipFile(built / f"{NAME}-py3-none-any.whl").namelist()}
    info = {f"{NAME}.dist-info/{name}" for name in ("METADATA", "WHEEL", "RECORD", "licenses/LICENSE")}
    assert names == modules(*PACKAGES) | {f"{package}/py.typed" for package in PACKAGES} | info


def test_the_sdist_holds_what_it_takes_to_build_and_test(built):
    with tarfile.open(built / f"{NAME}.tar.gz") as archive:
        sizes = {member.name.removeprefix(f"{NAME}/"): member.size for member in archive}
    assert modules(*PACKAGES, "experiments", "tests", "notebooks") <= sizes.keys()
    assert {"README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "pyproject.toml", ".ci/run"} <= sizes.keys()
    assert {"tests/golden/torch.json", "hatch_build.py"} <= sizes.keys()
    read_by_notebooks = [*ROOT.glob("experiments/results/**/history.npz"), *ROOT.glob("tests/curves/*")]
    assert {path.relative_to(ROOT).as_posix() for path in read_by_notebooks} <= sizes.keys()
    assert not [name for name in sizes if name.endswith((".bin", ".tar.gz", ".pyc")) or name.startswith(".editable")]
    assert sum(sizes.values()) < 25e6


def test_the_metadata_says_what_it_is(built):
    with zipfile.ZipFile(built / f"{NAME}-py3-none-any.whl") as wheel:
        metadata = message_from_bytes(wheel.read(f"{NAME}.dist-info/METADATA"))
    assert metadata["Name"] == "pure-schedules"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == PROJECT["requires-python"]
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert {*metadata.get_all("Provides-Extra")} == EXTRAS.keys()
    assert metadata.get_payload().startswith("# pure-schedules")


IMPORTABLE = """
import importlib.util, site, sys
site.addsitedir(sys.argv[1])
print(*(name for name in sys.argv[2:] if importlib.util.find_spec(name)))
"""


def test_an_editable_install_shows_the_packages_and_nothing_else(checkout, tmp_path):
    with zipfile.ZipFile(checkout.parent / f"{NAME}-py3-none-any.whl") as wheel:
        wheel.extractall(tmp_path)
    names = [path.stem for path in checkout.glob("[!.]*") if path.is_dir() or path.suffix == ".py"]
    assert {*PACKAGES, "experiments", "tests", "docs", "notebooks"} <= {*names}
    # -I and -S: without what this environment has installed.
    command = [sys.executable, "-I", "-S", "-c", IMPORTABLE, tmp_path, *names]
    assert {*subprocess.check_output(command, text=True).split()} == {*PACKAGES}


def test_an_editable_install_is_found_without_being_run(checkout):
    """By type checkers and editors, which read a .pth file but cannot run an import hook."""
    with zipfile.ZipFile(checkout.parent / f"{NAME}-py3-none-any.whl") as wheel:
        (pth,) = (name for name in wheel.namelist() if ".dist-info/" not in name)
        folder = Path(wheel.read(pth).decode())
    for package in PACKAGES:
        assert (folder / package / "py.typed").samefile(checkout / package / "py.typed")


# One fact, one place -------------------------------------------------------------------------------------


def test_the_changelog_begins_with_what_is_unreleased_or_with_this_version():
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert re.fullmatch(rf"Unreleased|{re.escape(PROJECT['version'])} - \d{{4}}-\d\d-\d\d", headings[0])
    assert all(re.fullmatch(r"\d+\.\d+\.\d+ - \d{4}-\d\d-\d\d", heading) for heading in headings[1:])


def test_the_citation_agrees_with_the_project_and_leaves_it_the_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["title"], citation["license"]) == (PROJECT["name"], PROJECT["license"])
    assert citation["authors"] == PROJECT["authors"]
    assert "version" not in citation


def jobs(workflow: str) -> dict:
    return yaml.safe_load((ROOT / ".github" / "workflows" / workflow).read_text())["jobs"]


def test_the_workflow_runs_what_a_developer_runs_and_nothing_else():
    (job,) = jobs("ci.yml").values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
    assert jobs("release.yml")["ci"]["uses"] == "./.github/workflows/ci.yml"


def test_pythons_that_are_promised_are_pythons_that_are_tested():
    (job,) = jobs("ci.yml").values()
    matrix = job["strategy"]["matrix"]
    promised = re.findall(r"Python :: (3\.\d+)$", "\n".join(PROJECT["classifiers"]), re.MULTILINE)
    assert matrix["python"] == promised
    assert matrix["include"] == [{"python": promised[0], "dependencies": "oldest"}]
    assert PROJECT["requires-python"] == f">={promised[0]}"


def test_the_oldest_versions_that_are_allowed_are_those_that_are_tested():
    lines = (ROOT / ".ci" / "oldest.txt").read_text().splitlines()
    pins = {Requirement(line).name: Requirement(line).specifier for line in lines if not line.startswith("#")}
    used = [*map(Requirement, chain(PROJECT["dependencies"], EXTRAS["experiments"], EXTRAS["test"]))]
    used = [requirement for requirement in used if requirement.name != PROJECT["name"]]
    assert pins.keys() == {requirement.name for requirement in used}
    for requirement in used:
        (bound,), (pin,) = requirement.specifier, pins[requirement.name]
        assert (bound.operator, pin.operator) == (">=", "==")
        assert pins[requirement.name].contains(bound.version), requirement
    assert {*PYPROJECT["build-system"]["requires"]} <= {*EXTRAS["test"]}
