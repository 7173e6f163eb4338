"""The recipes of docs/cookbook.md: each runs by itself, and prints what the page says."""

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("quick_compilation")
PAGE = (Path(__file__).parent.parent / "docs/cookbook.md").read_text()
RECIPE = re.compile(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.DOTALL)  # and its output, if shown
OTHERS = re.compile(r"^import (keras|torch)\b", re.MULTILINE)  # frameworks that take seconds to import


def recipes():
    for heading, text in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE):
        for number, (code, output) in enumerate(RECIPE.findall(text), 1):
            marks = [pytest.mark.slow] if OTHERS.search(code) else []
            yield pytest.param(code, output, id=f"{heading} {number}", marks=marks)


@pytest.mark.parametrize(("code", "output"), [*recipes()])
def test_a_recipe_runs_by_itself_and_prints_what_the_page_says(code, output, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))  # where Keras writes a configuration when it is imported
    for framework in OTHERS.findall(code):
        pytest.importorskip(framework)  # PyTorch is in no extra: its wheel for Linux brings gigabytes of CUDA
    exec(compile(code, "cookbook.md", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out == output


def test_every_recipe_is_in_the_index_and_warns_of_its_trap():
    index, *texts = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    headings = [text.partition("\n")[0] for text in texts]
    anchors = [re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading).lower()) for heading in headings]
    assert re.findall(r"\]\(#([\w-]+)\)", index) == anchors
    for text in texts:
        assert "```python" in text
        assert "**Gotcha:**" in text
