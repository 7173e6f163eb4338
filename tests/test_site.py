"""The site has every public name and every page, and an example of every schedule that is worth a look."""

import importlib.util
import inspect
import re
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optim
import schedules
import theory
from schedules import function, parse, tabulate
from schedules.formula import FORMULAS
from schedules.gallery import examples

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.usefixtures("quick_compilation")
PAGES = {path.relative_to(ROOT / "docs").as_posix(): path.read_text() for path in (ROOT / "docs").rglob("*.md")}
ELSEWHERE = (
    "index.md",
    "notebooks/README.md",
    "tests/golden/README.md",
    "tests/curves/README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
)
NAV = re.findall(r"^ +- (?:.*: )?(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)


EXAMPLES = examples(schedules)


def ours(room: str) -> set[str]:
    return {name for name, formula in FORMULAS.items() if formula.__module__.startswith(room)}


def test_every_schedule_has_an_example():
    assert EXAMPLES.keys() == ours("schedules.")


def test_an_example_is_of_its_schedule_and_moves():
    schedules = {name: parse(text) for name, (text, _) in EXAMPLES.items() if name != "function"}
    schedules["function"] = eval(EXAMPLES["function"][0], {"function": function, "jnp": jnp})
    of_all = jax.jit(lambda schedules: {name: tabulate(each, EXAMPLES[name][1]) for name, each in schedules.items()})
    for name, values in of_all(schedules).items():
        assert re.search(rf"\b{name}\(", EXAMPLES[name][0]), name
        assert np.isfinite(values).all(), name
        assert (np.ptp(values) == 0) == (name == "constant"), name


@pytest.mark.parametrize("module", [schedules, optim, theory])
def test_every_public_name_is_documented_once(module, site):
    public = [n for n, v in vars(module).items() if not n.startswith("_") and not inspect.ismodule(v)]
    api = "\n".join(site.with_formulas(text) for uri, text in PAGES.items() if uri.startswith("api/"))
    assert sorted(re.findall(rf"^::: {module.__name__}\.(\w+)$", api, re.MULTILINE)) == sorted(public)


@pytest.mark.parametrize("package", [schedules, optim, theory])
def test_no_module_has_the_name_of_what_its_package_exports(package):
    modules = {path.stem for path in Path(package.__file__).parent.glob("*.py")}
    public = {name for name, value in vars(package).items() if not inspect.ismodule(value)}
    assert modules & public == set()


def test_every_page_has_its_place():
    outside = [*(ROOT / "experiments/results").rglob("*.md"), *(ROOT / "notebooks").glob("*.ipynb")]
    pages = {path.relative_to(ROOT).as_posix().replace(".ipynb", ".md") for path in outside}
    assert sorted(NAV) == sorted({*PAGES, *pages, *ELSEWHERE})


@pytest.fixture(scope="module")
def site():
    pytest.importorskip("math_core")
    pytest.importorskip("mkdocs")
    pytest.importorskip("griffe")
    pytest.importorskip("nbconvert")
    spec = importlib.util.spec_from_file_location("_site", ROOT / "docs" / "_site.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_links_are_those_of_the_site(site):
    moved = site.rehomed("[a](../experiments/results/bench/bench.md#x) [b](https://c.d/e.md)", "docs/f.md", "f.md")
    assert moved == "[a](experiments/results/bench/bench.md#x) [b](https://c.d/e.md)"
    assert site.rehomed("[a](../docs/which.md)", "notebooks/n.md", "notebooks/n.md") == "[a](../which.md)"
    picture = '<source srcset="{0}b.svg"><img src="{0}a.svg">'
    assert site.rehomed(picture.format("docs/pictures/"), "README.md", "index.md") == picture.format("pictures/")
    assert site.rehomed("[a](../notebooks/n.ipynb)", "docs/f.md", "f.md") == "[a](notebooks/n.md)"


def test_names_in_the_text_are_links(site):
    assert site.linked("`cosine(1, 0, 9)`") == "[`cosine(1, 0, 9)`][schedules.cosine]"
    assert site.linked("`optim.ema`, `@schedule`") == "[`optim.ema`][optim.ema], [`@schedule`][schedules.schedule]"
    for untouched in ["`schedule(t)`", "`0.5 * cosine`", "# `cosine`", "```\n`cosine`\n```", "[`cosine`](a.md)"]:
        assert site.linked(untouched) == untouched
    assert site.linked("`table`", own=["table"]) == "`table`"


def test_every_coefficient_has_an_example(site):
    assert ours("optim.coefficients") <= site.COEFFICIENTS.keys()
    for name, (text, steps) in site.COEFFICIENTS.items():
        assert text.startswith(f"{name}(")
        # The plot begins after the first update: before it, nothing weighs.
        np.testing.assert_allclose(optim.weights_of(site.evaluated(text), steps)[1:].sum(), 1.0, rtol=1e-12)


def test_a_plot_is_the_same_picture_every_time(site):
    values = np.linspace(0.1, 0.0, 9)
    assert site.drawn(values, "light") == site.drawn(values, "light") != site.drawn(values, "dark")


def test_formulas_become_mathml(site):
    from math_core import LatexError

    def drawn(tex, tag="div"):
        return site.on_page_content(f'<{tag} class="arithmatex">{tex}</{tag}>', page=None, config=None, files=None)

    assert drawn(r"\[a &lt; b\]") == (
        '<div class="arithmatex"><math display="block"><mi>a</mi><mo>&lt;</mo><mi>b</mi></math></div>'
    )
    assert drawn(r"\(a\)", "span") == '<span class="arithmatex"><math><mi>a</mi></math></span>'
    with pytest.raises(LatexError):
        drawn(r"\[\frac{1}\]")


@pytest.mark.parametrize(
    ("uri", "boost"), [("which.md", 3), ("api/ramps.md", 1), ("experiments/results/README.md", 0.2)]
)
def test_a_search_finds_advice_before_records_and_results_open_large(site, uri, boost):
    page = SimpleNamespace(
        file=SimpleNamespace(src_uri=uri, generated_by="hook"), meta={"title": "A"}, is_homepage=False
    )
    markdown = "![Loss\nagainst steps](figure.png) [![A](a.png)](b.md) ![B](b.svg)"
    shown = site.on_page_markdown(markdown, page=page, config=None, files=None)
    assert shown == markdown.replace("figure.png)", "figure.png){.on-glb}")
    assert page.meta == {"title": "A", "search": {"boost": boost}}
