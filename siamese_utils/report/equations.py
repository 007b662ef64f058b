"""LaTeX as MathML, which browsers set without a script."""

from __future__ import annotations

import re

from bs4 import BeautifulSoup, Tag
from latex2mathml.converter import convert as latex_to_mathml
from markupsafe import Markup


def equation(latex: str, *, block: bool) -> str:
    r"""Return LaTeX mathematics as MathML that browsers set without help.

    What cannot be translated, such as an unknown command, is shown as it was written and marked
    ``class="tex-error"``, which :func:`check_site` reports.

    Args:
        latex: the formula without its dollar signs.
        block: whether it stands on a line of its own.
    """
    source = latex.strip()
    text = re.sub(r"\\(begin|end)\{(aligned|split|align|eqnarray\*?)\}", r"\\\1{align*}", source)
    text = re.sub(r"\\(begin|end)\{equation\*?\}|\\label\{[^}]*\}|\\nonumber|\\displaystyle", "", text)
    # The converter knows the common functions, but not these.
    text = re.sub(r"\\(arg|sgn|sign)(?![a-zA-Z])", r"\\operatorname{\1}", text)
    try:
        soup = BeautifulSoup(latex_to_mathml(text, display="block" if block else "inline"), "html.parser")
    except Exception:  # the converter raises many kinds; whichever it was, the reader gets the source
        return _untranslated(source)
    if any(leaf.startswith("\\") or leaf == "&" for leaf in soup.stripped_strings):
        return _untranslated(source)
    math = soup.find("math")
    assert isinstance(math, Tag)
    math["alttext"] = source
    del math["xmlns"]
    for operator in math.select("mo"):
        # As an operator, "max" would get the wide spaces of a relation on both sides.
        if len(operator.text) > 1 and operator.text.isalpha() and not operator.has_attr("movablelimits"):
            operator.name = "mi"
    for letter in math.select("[mathvariant]"):
        _embolden(letter)
    for cell in math.select("mtd[columnalign]"):
        # MathML Core has no columnalign; the style does the same.
        cell["style"] = f"text-align: {cell['columnalign']}"
        del cell["columnalign"]
    return f'<span class="equation">{math}</span>' if block else str(math)


def _embolden(letter: Tag) -> None:
    """Write a bold letter as Unicode's own bold character, since MathML Core knows no bold variant."""
    starts = {"bold": (0x1D400, 0x1D41A, 0x1D7CE, 0x1D6C2), "bold-italic": (0x1D468, 0x1D482, 0x1D7CE, 0x1D736)}
    text, variant = letter.get_text(), str(letter["mathvariant"])
    if variant in starts and len(text) == 1:
        for first, last, start in zip("Aa0α", "Zz9ω", starts[variant]):
            if first <= text <= last:
                letter.string = chr(start + ord(text) - ord(first))
                del letter["mathvariant"]


def _untranslated(latex: str) -> str:
    return f'<code class="tex-error">{Markup.escape(latex)}</code>'
