"""What score a vision-language model's answer gives: models do not keep to the form they are asked for.

A label, perhaps "(0 or 1)", signs and markup, the number, perhaps its scale, and nothing after it that makes it
something else ("0 or 1", "1.5", "0-1", "1st", "0" cut short).
"""

from __future__ import annotations

import re

READ = 200_000
"""Characters at an answer's end that are read: the score stands last."""
CUT = "…"
"""Put after an answer that was cut short, so that "0" is not read where "0.5" was to come."""
_THOUGHT = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)|\A.*</think(?:ing)?>", re.IGNORECASE | re.DOTALL)
_LABEL = re.compile(r"final[\s_*-]{0,5}score", re.IGNORECASE)
_SHORT_LABEL = re.compile(r"(?:^|[{,])[\s*_`#>\"'-]{0,10}score", re.IGNORECASE | re.MULTILINE)
_SIGNS = r"[\s*_`:：=>\"'“”<()\[\]{}$|#]{0,40}(?:\\\w+\{?)?(?:[-–—+→]\s+|\+)?[\s*_`:：=>\"'“”(\[{$|]{0,40}"
_VALUE = re.compile(
    r"(?P<aside>[\s*_`]{0,5}[(\[][^()\[\]\n]{1,60}[)\]](?=[\s*_`\"']{0,5}[:：=]))?"
    + rf"(?P<signs>{_SIGNS}(?:(?:is|of|equals|therefore|thus)\b{_SIGNS}){{0,3}})"
    + r"(?<![\d.,-])(?P<number>\d+(?:[.,]\d+)?|[.,]\d+)"
    + r"(?:(?P<percent>\s*%)|\s*(?:/|\bout\s+of\b|\bof\b)\s*(?P<scale>\d+(?:[.,]\d+)?))?"
    + r"(?![\w%…]|[.,]\d|\s*(?:or|to|and|of|out\s+of|/|-|–|—|→|~|\.\.+)\s*[\d.])",
    re.IGNORECASE,
)
_ASSIGNED = re.compile(r"[\s*_`\"']{0,10}[:：=]")
_LIST_ITEM = re.compile(r"[.)][ \t]+\S")


def parse_score(answer: str, partial: bool = False) -> float | None:
    """The score an answer gives: 0 or 1, with partial credit also 0.5; None where it gives none.

    The last "Final Score" with a value counts (a model may first repeat the task, or speak of the score again); without
    that label, "Score" at the beginning of a line or in JSON where all of them agree, or a number that is the whole
    answer. Thoughts in <think> do not count. Markup does not matter, and 1/1, 10/10 and 100% are full marks. Anything
    else ("0.7", "0 or 1", "1 of 10", "X", "Yes", a number cut short) is no score: nothing is guessed.
    """
    text = _THOUGHT.sub("", answer)[-READ:]
    allowed = (0.0, 0.5, 1.0) if partial else (0.0, 1.0)
    found = [value for label in _LABEL.finditer(text) if (value := _value_after(text, label.end())) is not None]
    if not found:
        short = {
            value for label in _SHORT_LABEL.finditer(text) if (value := _value_after(text, label.end())) is not None
        }
        found = list(short) if len(short) == 1 else []
    if not found and (alone := re.fullmatch(r"[\s*_`\"'$]*([01](?:[.,]\d+)?)[\s*_`\"'$.]*", text)):
        found = [float(alone[1].replace(",", "."))]
    return found[-1] if found and found[-1] in allowed else None


def _value_after(text: str, place: int) -> float | None:
    """The number after a label that ends at `place`; NaN where a value is announced but cannot be read, None where the
    label is only spoken of."""
    found = _VALUE.match(text, place)
    if found is None or ("\n" in found["signs"] and _LIST_ITEM.match(text, found.end())):
        return float("nan") if _ASSIGNED.match(text, place) else None
    value, scale = (float((found[name] or "1").replace(",", ".")) for name in ("number", "scale"))
    if found["percent"]:
        scale = 100.0
    return value / scale if scale else float("nan")
