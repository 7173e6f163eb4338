"""What the site has beyond the pages of this folder, taken from where it lives when the site is built.

The README as its first page; pages for the results, the notebooks, the changelog and CONTRIBUTING; a plot of every
schedule; links between all of these. mkdocs calls the functions named `on_*`, mkdocstrings (of which griffe reads the
sources) the class at the end.
"""

import html
import importlib
import inspect
import io
import posixpath
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import griffe
import jax.numpy as jnp
import matplotlib
import nbformat
import numpy as np
from math_core import LatexToMathML
from matplotlib.figure import Figure
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter

import optim
import schedules
import theory
from schedules.gallery import examples

ROOT = Path(__file__).parent.parent
# What code in the text may name, and where it is documented. The decorators share their names with many an argument.
PUBLIC = {
    f"@{name}" if name in ("schedule", "recipe") else name: f"{module.__name__}.{name}"
    for module in (schedules, optim, theory)
    for name, value in vars(module).items()
    if not name.startswith("_") and not inspect.ismodule(value)
}
EXAMPLES, COEFFICIENTS = examples(schedules), examples(optim)
PICTURES = {
    "figure.png": "The losses in the tables, as a picture",
    "validation.png": "The validation losses in the tables, as a picture",
}
# What a search finds first, and after all else: pages by the beginning of their path.
BOOSTS = {"cookbook": 4, "which": 3, "coming-from": 2, "notebooks/": 0.5}
BOOSTS |= dict.fromkeys(("CHANGELOG", "CONTRIBUTING", "accelerator", "design", "experiments", "tests/"), 0.2)
MATHML = LatexToMathML(fancy_error=False)


# Pages ----------------------------------------------------------------------------------------------


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Adds files from outside of this folder under their paths in the repository, and the plots."""

    def add(uri: str, content: str | bytes) -> None:
        files.append(File.generated(config, uri, content=content))

    add("index.md", (ROOT / "README.md").read_text())
    for uri in (
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "notebooks/README.md",
        "tests/golden/README.md",
        "tests/curves/README.md",
    ):
        add(uri, (ROOT / uri).read_text())
    for path in sorted((ROOT / "experiments/results").rglob("*.md")):
        pictures = {name: path.with_name(name) for name in PICTURES if path.with_name(name).exists()}
        shown = "".join(f"\n![{PICTURES[name]}]({name})\n" for name in pictures)
        add(path.relative_to(ROOT).as_posix(), path.read_text().replace("\n", f"\n{shown}", 1))
        for picture in pictures.values():
            add(picture.relative_to(ROOT).as_posix(), picture.read_bytes())
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        text, pictures = notebook(path)
        add(f"notebooks/{path.stem}.md", text)
        for name, content in pictures.items():
            add(f"notebooks/{name}", content)
        picture = f"notebooks/pictures/{path.stem}.png"
        add(picture, (ROOT / picture).read_bytes())
    for name, (text, steps) in {**EXAMPLES, **COEFFICIENTS}.items():
        of, is_example = evaluated(text), name in EXAMPLES
        values = np.asarray(schedules.tabulate(of, steps)) if is_example else optim.weights_of(of, steps)[1:]
        for theme in INKS:
            add(f"api/plots/{name}-{theme}.svg", drawn(values, theme, "default" if is_example else "steps-mid"))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    uri = page.file.src_uri
    markdown = re.sub(r"!\[[^\]]*\]\([^)]*\.png\)(?!\])", r"\g<0>{.on-glb}", markdown)  # opens large on a click
    page.meta["search"] = {"boost": next((BOOSTS[start] for start in BOOSTS if uri.startswith(start)), 1)}
    if page.is_homepage:
        return linked(rehomed(markdown, "README.md", uri))
    if uri.startswith("api/"):
        markdown = with_formulas(markdown)
    if page.file.generated_by:
        return rehomed(markdown, uri, uri)
    return linked(rehomed(markdown, f"docs/{uri}", uri))


def on_page_content(content: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """TeX becomes MathML, which browsers draw without a script; an error in it ends the build."""

    def drawn(found: re.Match[str]) -> str:
        return found[1] + MATHML.convert_with_local_state(html.unescape(found[3]), displaystyle=found[2] == "[")

    return re.sub(r'(class="arithmatex">)\\([\[(])(.*?)\\[\])](?=</)', drawn, content, flags=re.DOTALL)


def with_formulas(markdown: str) -> str:
    """An entry for each public name in the place of a line "::: schedules.ramps.*"."""

    def entries(found: re.Match[str]) -> str:
        package, names = found[1].partition(".")[0], importlib.import_module(found[1]).__all__
        return "\n\n".join(f"::: {package}.{name}" for name in names)

    return re.sub(r"^::: ([\w.]+)\.\*$", entries, markdown, flags=re.MULTILINE)


def notebook(path: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook as it was run, in Markdown, and its pictures by name: pages like the others, in light and dark."""
    cells = nbformat.read(path, as_version=4)
    cells.cells = [cell for cell in cells.cells if "colab" not in cell.metadata.get("tags", [])]
    text, resources = MarkdownExporter().from_notebook_node(cells, {"unique_key": path.stem, "output_files_dir": ""})
    heading = ""

    def described(found: re.Match[str]) -> str:
        nonlocal heading
        heading = found[1] or heading
        return f"![Picture: {heading}]({Path(found[2]).name})" if found[2] else found[0]

    text = re.sub(r"^```.*?^```|^#+ ([^\n]*)|!\[png\]\(([^)]*)\)", described, text, flags=re.DOTALL | re.MULTILINE)
    return text, {Path(name).name: content for name, content in resources["outputs"].items()}


def rehomed(markdown: str, source: str, uri: str) -> str:
    """Relative links and pictures of a file at `source` in the repository, for the page at `uri` of the site."""

    def moved(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), found[2]))
        target = re.sub(r"\.ipynb$", ".md", target.removeprefix("docs/"))
        return found[1] + posixpath.relpath(target, posixpath.dirname(uri) or ".")

    return re.sub(r"""(\]\(|\bsrc(?:set)?=")(?![a-z]+:|[#/])([^)"#\s]+)""", moved, markdown)


def linked(markdown: str, own: Collection[str] = ()) -> str:
    """Code that names something public, or calls it, links to where that is documented; not names in `own`."""

    def link(found: re.Match[str]) -> str:
        name = re.fullmatch(r"(?:schedules\.|optim\.|theory\.)?(@?\w+)(\(.*\))?", found[1] or "", re.DOTALL)
        if not name or name[1] in own or name[1] not in PUBLIC:
            return found[0]
        return f"[{found[0]}][{PUBLIC[name[1]]}]"

    untouched = r"^```.*?^```|^    .*?$|^#.*?$|\[[^\]]*\][(\[]|``.*?``"
    return re.sub(rf"{untouched}|`([^`]+)`", link, markdown, flags=re.DOTALL | re.MULTILINE)


# Plots ----------------------------------------------------------------------------------------------

# Blues of Okabe and Ito that stand out on the paper of each theme.
INKS = {"light": ("#0072b2", "#595959"), "dark": ("#56b4e9", "#b4b4c0")}
STYLE = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 9,
    "svg.fonttype": "none",
    "svg.hashsalt": "pure-schedules",  # the same picture in every build
}


def evaluated(text: str) -> schedules.Schedule:
    return schedules.as_schedule(eval(text, {**vars(optim), **vars(schedules), "jnp": jnp}))


def drawn(values: np.ndarray, theme: str, drawstyle: str = "default") -> bytes:
    line, text = INKS[theme]
    colours = dict.fromkeys(["axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"], text)
    low, high = values.min(), values.max()
    picture = io.BytesIO()
    with matplotlib.rc_context(STYLE | colours):
        figure = Figure(figsize=(4.4, 1.9), layout="constrained")
        ax = figure.subplots()
        ax.plot(values, color=line, linewidth=1.8, drawstyle=drawstyle)
        ax.set(xlim=(0, len(values)), xlabel="step")
        ax.set_ylim(bottom=0.95 * low if 0.5 * high < low < 0.99 * high else min(0.0, low), top=1.05 * high)
        ax.locator_params(axis="y", nbins=4)
        figure.savefig(picture, format="svg", transparent=True, metadata={"Date": None})
    return picture.getvalue()


def plots(name: str) -> str:
    """The plot of what `name` makes, and of what expression it is; nothing where there is no example."""
    text, steps = {**EXAMPLES, **COEFFICIENTS}.get(name, ("", 0))
    if not text:
        return ""
    what = f" over {steps} steps" if name in EXAMPLES else f": weights in the average after {steps} updates"
    pictures = [f"![Plot of {text}{what}](plots/{name}-{theme}.svg#only-{theme})" for theme in INKS]
    caption = f"<figcaption markdown>`{text}`{what}</figcaption>"
    return "\n".join(["", "", '<figure class="plot" markdown="span">', *pictures, caption, "</figure>", ""])


# Signatures and docstrings --------------------------------------------------------------------------


class Vocabulary(griffe.Extension):
    """Formulas as they are called, kinds in words, and links between docstrings."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring and not obj.is_module:
            own = [obj.name, *(p.name for p in obj.parameters)] if obj.is_function else [obj.name, *obj.members]
            obj.docstring.value = linked(obj.docstring.value, own)
            if obj.path.count(".") == 2:  # not a method of that name
                obj.docstring.value += plots(obj.name)

    def on_function(self, *, func: griffe.Function, loader: griffe.GriffeLoader, **kwargs: Any) -> None:
        made_by = {re.match(r"\w*", str(decorator.value))[0] for decorator in func.decorators}
        if "schedule" in made_by:
            func.parameters = griffe.Parameters(*[*func.parameters][1:])
        if made_by & {"schedule", "recipe"}:
            func.returns = griffe.ExprName("Schedule", parent=loader.modules_collection["schedules.core"])

    def on_attribute(self, *, attr: griffe.Attribute, loader: griffe.GriffeLoader, **kwargs: Any) -> None:
        named = getattr(getattr(schedules, attr.name, getattr(optim, attr.name, None)), "__value__", None)
        if named is None or not isinstance(attr.value, griffe.ExprCall):
            return
        attr.value = attr.value.arguments[1]
        if kind := getattr(named, "__metadata__", None):
            attr.docstring = griffe.Docstring(f"{kind[0].expected[0].upper()}{kind[0].expected[1:]}.", parent=attr)
            attr.value = attr.value.slice.elements[0]
