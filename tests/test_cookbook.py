"""The recipes of docs/cookbook.md: each runs by itself, and prints what the page says."""

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("quick_compilation")
PAGE = (Path(__file__).parent.parent / "docs/cookbook.md").read_text()
RECIPE = re.compile(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.DOTALL)  # and its output, if shown
RECIPES = [
    (f"{heading} {number}", *recipe)
    for heading, text in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    for number, recipe in enumerate(RECIPE.findall(text), 1)
]


@pytest.mark.parametrize(("code", "output"), [each[1:] for each in RECIPES], ids=[each[0] for each in RECIPES])
def test_a_recipe_runs_by_itself_and_prints_what_the_page_says(code, output, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    for library in re.findall(r"^import (torch|keras)$", code, re.MULTILINE):  # which the extra "test" does not install
        pytest.importorskip(library)
    exec(compile(code, "cookbook.md", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out == output


def test_every_recipe_is_in_the_index_and_warns_of_its_trap():
    index, *recipes = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    headings = [recipe.partition("\n")[0] for recipe in recipes]
    links = re.findall(r"\]\(#([\w-]+)\)", index)
    assert links == [re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading).lower()) for heading in headings]
    for recipe in recipes:
        assert "```python" in recipe
        assert "**Gotcha:**" in recipe, recipe
