"""What score a vision-language model's answer gives: models do not keep to the form they are asked for.

A verdict is a label, perhaps "(0 or 1)", signs and markup, the number, perhaps its scale, and nothing that makes it
something else ("0 or 1", "1.5", "0-1", "1st"). It counts only where a verdict stands: as a statement of its own that
ends the answer or opens it. The same words in the middle of a thought, a draft or a rubric are only spoken of.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, replace
from typing import Any

from gymnast_core.reward.thoughts import BOX, answer_of

READ = 200_000
"""Characters at an answer's end that are read: the score stands last."""
_SIGNS = (
    rf"[\s*_`:：=>\"'“”<()\[\]{{}}$|#{BOX}]{{0,40}}(?:\\\w+\{{?)?"
    rf"(?:[-–—+→]\s+|\+)?[\s*_`:：=>\"'“”(\[{{$|{BOX}]{{0,40}}"
)
_VALUE = re.compile(
    r"(?P<aside>[\s*_`]{0,5}[(\[][^()\[\]\n]{1,60}[)\]](?=[\s*_`\"']{0,5}[:：=]))?"
    + rf"(?P<signs>{_SIGNS}(?:(?:is|of|equals|therefore|thus)\b{_SIGNS}){{0,3}})"
    + r"(?<![\d.,-])(?P<number>\d+(?:[.,]\d+)?|[.,]\d+)"
    + r"(?:(?P<percent>\s*%)|\s*(?:/|\bout\s+of\b|\bof\b)\s*(?P<scale>\d+(?:[.,]\d+)?))?"
    + r"(?![\w%…]|[.,]\d|\s*(?:or|to|and|of|out\s+of|/|-|–|—|→|~|\||\.\.+|[,;&(\[])\s*[\d.])",
    re.IGNORECASE,
)
_BOXED = re.compile(
    rf"(?:{BOX}|\\f?boxed\{{)[\s*_`$\"'{{]{{0,10}}(?:\\text\{{)?"
    r"(?P<number>\d+(?:[.,]\d+)?)(?=[\s*_`$\"'}.]*$)",
    re.MULTILINE,
)
_ASSIGNED = re.compile(r"[\s*_`\"']{0,10}[:：=]")
_LIST_ITEM = re.compile(r"[.)][ \t]+\S")
_LEAD = re.compile(
    r"(?:(?:so|thus|therefore|hence|overall|in\s+(?:conclusion|summary|short)|to\s+conclude|conclusion|verdict|result|"
    r"answer|output|response|assistant|my|the|a|and|yes|no|i\s+(?:would\s+)?(?:give|assign)(?:\s+(?:it|this))?|"
    r"(?:this|that)\s+(?:gives|makes)|boxed|text|textbf|mathbf|fbox)\b[^\w\n]{0,6}){0,5}",
    re.IGNORECASE,
)
"""What may stand between the beginning of a sentence and its label."""
_SENTENCE_END = re.compile(r"[.!。！]['\"”’)*_`\]]{0,4}(?=\s)\s*|[。！]")
_FOLLOWS = re.compile(
    r"[^\w\n]*$|[\s*_`#~\"'”’\ufe0f\u20e3]*(?:[.!;；。,，)\]}|\\`]|[(\[–—]|-(?!>)|"
    r"(?:because|since|due\s+to|as(?!\s+(?:soon|long|asked)))\b)",
    re.MULTILINE | re.IGNORECASE,
)
"""What may follow a number that is stated: an end, an aside, another field, a reason; not "if", "means", "= closed"."""
_CONDITION = re.compile(
    r"\b(?:if|unless|assuming|supposing|provided|providing|given\s+that|subject\s+to|depending|depends|pending|when|where|whether|means?|meaning|otherwise|else|would|could|might|may|maybe|perhaps|possibly|"
    r"draft|tentative\w*|provisional\w*|preliminary|rubric|example|e\.g)\b|\?",
    re.IGNORECASE,
)
_RETRACTION = re.compile(
    r"\b(?:wait|hmm+|hold\s+on|reconsider\w*|re-?check\w*|re-?think\w*|re-?evaluat\w*|on\s+(?:second|reflection)|"
    r"scratch\s+that|correction|let\s+me(?!\s+know)|let's|can\s?not|can['’]t|could\s?n['’]t|unable|unclear|un-?sure|"
    r"not\s+(?:sure|certain|final|clear|determin\w+)|uncertain|undetermin\w+|draft|tentative\w*|provisional\w*|"
    r"preliminary|rubric|placeholder|guess\w*|i\s+(?:meant|mean|misread|misjudged|misspoke)|sorry|first\s+impression|"
    r"(?:made|is|was)\s+(?:a|an|my)\s+(?:mistake|error)|should\s+(?:actually\s+)?(?:be|have\s+been|read)\s+[\d.])\b|"
    r"\b(?:edit|update|erratum|revised|revision)\s*:|\?|(?:^|[.!…]\s+)\W{0,6}(?:but|however|actually|although|no(?=\s*[,.!…–—-]))\b",
    re.IGNORECASE | re.MULTILINE,
)
_REMARK = re.compile(
    r"\W{0,8}(?:note|n\.?b\b|remark|hope|let\s+me\s+know|confidence|certainty|reason|explanation|justification|"
    r"rationale|no\s+further|thank|end\s+of|this\s+score\s+reflects)",
    re.IGNORECASE,
)
"""How a line may begin that follows the verdict."""
_DRAFT = re.compile(r"\b(?:draft|tentative\w*|provisional\w*|preliminary)\b", re.IGNORECASE)
_QUOTING = re.compile(
    r"\b(?:draft|expected|sample|reference|ground\s+truth|previous|earlier|other|user|example|e\.g|format|form|template|rubric|criteri\w+|like\s+this|exactly|instruct\w*|prompt|task|asked|"
    r"guess|tentative\w*|might|could|would|maybe|perhaps|first)\b[^\n]*:\W*\Z",
    re.IGNORECASE,
)
"""A line that ends in a colon and says that what follows it is not the verdict."""


_BLIND = re.compile(
    r"\b(?:can\s?not|can['’]t|could\s+not|could\s?n['’]t|unable\s+to|not\s+able\s+to|lack\s+the\s+ability\s+to|"
    r"(?:do|does)(?:\s+not|n['’]t)\s+(?:have\s+the\s+ability\s+to|actually))\s+"
    r"(?:(?:actually|directly|currently|physically|really)\s+)?"
    r"(?:view|see|access|watch|open|display|process|analy[sz]e|interpret|perceive)\s+"
    r"(?:(?:any|the|these|those|this|your|provided|attached|actual|of|or)\s+){0,4}"
    r"(?:images?|frames?|pictures?|photos?|videos?|attachments?|visuals?|visual\s+(?:input|content|data))\b(?!\s+\d)|"
    r"\bno\s+(?:images?|frames?|pictures?|videos?|visual\s+(?:input|content|data))\s+(?:(?:is|are|was|were|has|have)\s+)?"
    r"(?:been\s+)?(?:provided|attached|included|given|shared|supplied|uploaded|received|visible|available|present)\b|"
    r"\b(?:images?|frames?|pictures?|videos?)\s+(?:is|are|was|were|has|have)(?:\s+not|n['’]t)\s+(?:been\s+)?"
    r"(?:provided|attached|included|shared|supplied|uploaded|received|available)\b|"
    r"\bas\s+a\s+text[- ](?:only|based)\s+(?:ai|model|assistant)",
    re.IGNORECASE,
)
"""What a model says that was shown nothing: its score is none, however it ends."""
_CONTRADICTS = {
    True: re.compile(
        r"\W*(?:(?:the\s+)?(?:task|attempt|goal)\s+(?:is|was)\s+)?(?:not\s+(?:yet\s+|fully\s+|quite\s+)?(?:complete|"
        r"done|success|achieved|finished)|(?:in|un)(?:complete|success|finished)|partial|fail)",
        re.IGNORECASE,
    ),
    False: re.compile(
        r"\W*(?:(?:the\s+)?(?:task|attempt|goal)\s+(?:is|was)\s+)?(?:fully\s+|successfully\s+)?(?:completed?|done|success|"
        r"successful|achieved)\W*$",
        re.IGNORECASE,
    ),
}
"""The words right behind 1 and 0 that say the opposite of the number."""


@dataclass(frozen=True)
class Form:
    """The form of a verdict that a model is asked for.

    label: before the number; its group `final` is the long one, which counts more. names: of the field of a JSON
    object, without blanks and signs. digits: the numbers begin with one of these. full: full marks; where they are 1 a
    number may name any scale ("10/10"), else only this one ("4/5"). allowed: the numbers that are verdicts.
    """

    label: re.Pattern[str]
    names: tuple[str, ...]
    digits: str
    full: float
    allowed: tuple[float, ...]

    def value(self, number: str, scale: str | None, percent: bool = False) -> float:
        """The number that is written so; NaN where it names another scale than this form's."""
        value = float(number.replace(",", "."))
        if self.full == 1.0:
            whole = 100.0 if percent else float((scale or "1").replace(",", "."))
            return value / whole if whole else math.nan
        return value if not percent and (scale is None or float(scale.replace(",", ".")) == self.full) else math.nan


ZERO_OR_ONE = Form(
    re.compile(r"(?P<final>final[\s_*-]{0,5}score)|score", re.IGNORECASE),
    ("finalscore", "score"),
    "01",
    1.0,
    (0.0, 1.0),
)
"""`Final Score: 1`."""
WITH_HALF = replace(ZERO_OR_ONE, allowed=(0.0, 0.5, 1.0))
"""The same, with partial credit."""
ONE_TO_FIVE = Form(
    re.compile(r"(?P<final>(?:final[\s_*-]{0,5})?answer)|(?:final[\s_*-]{0,5})?score", re.IGNORECASE),
    ("finalanswer", "answer", "finalscore", "score"),
    "1-5",
    5.0,
    (1.0, 2.0, 3.0, 4.0, 5.0),
)
"""`ANSWER: 4`, as RoboReward answers (arXiv 2601.00675)."""


_FENCE = re.compile(r"^[ \t]*(?:```|~~~)[ \t]*\w{0,20}[ \t]*$", re.MULTILINE)


@dataclass(frozen=True)
class _Statement:
    """A label with its value at a place of the text. value: NaN where it cannot be read. final: by the long label.
    stated: a statement of its own, not words within a sentence. end: of the line it is on. after: where what is said
    of its number begins, 0 for one in a box or in JSON."""

    begin: int
    end: int
    value: float
    final: bool
    stated: bool
    after: int = 0


def parse_score(answer: str, form: Form = ZERO_OR_ONE) -> float | None:
    """The number an answer gives, one of `form.allowed`; None where it gives none.

    Thoughts do not count, see `answer_of`. A verdict is the label ("Final Score", or "Score") at the beginning of a
    sentence, with its value; a JSON object with such a key; a number in a box (`\\boxed{1}`, `<answer>1</answer>`); or
    a number that is the whole answer. It must end the answer, with at most a remark behind it ("Note: ...", "Hope this
    helps"), or open it and not be taken back. Markup does not matter, and 1/1, 10/10 and 100% are full marks. Two
    verdicts side by side that differ are a rubric. Anything else ("0.7", "0 or 1", "1 of 10", "X", "Yes") is no score:
    nothing is guessed. The caller must not pass an answer that was cut short.
    """
    text = re.sub(r"~~[^~\n]{1,200}~~", "", answer_of(answer)[-READ:])  # struck out
    text = re.sub(r"\\[\[\]()]", "$", text).strip()
    if text.endswith("…"):
        return None
    if alone := re.fullmatch(rf"[\s*_`\"'${BOX}]*([{form.digits}](?:[.,]\d+)?)[\s*_`\"'$.]*", text):
        value: float | None = form.value(alone[1], None)
    elif _BLIND.search(text):
        value = None
    else:
        found = _objects(text, form) or _statements(text, form)
        value = None if any(_contradicts(text, one, form) for one in found) else _verdict(text, found)
    return value if value in form.allowed else None


def _verdict(text: str, found: list[_Statement]) -> float | None:
    """The value of the statement that stands where a verdict stands."""
    if any(one.final for one in found if one.stated):
        found = [one for one in found if one.final]
    elif len({one.value for one in found if one.stated}) > 1:  # the short label: all of them must agree
        return None
    stated = [one for one in found if one.stated]
    if not stated:
        return None
    last = stated[-1]
    near = (one for one in stated[:-1] if last.begin - one.end <= 4000)
    beside = [one for one in near if not re.search(r"[^\W\d_]", _FENCE.sub("", text[one.end : last.begin]))]
    beside += [one for one in found if last.begin < one.begin < last.end]
    beside = [one for one in beside if one.value != last.value]
    if beside or not math.isfinite(last.value):
        return None
    if _only_remarks(text[last.end :]) and not _is_quoted(text[: last.begin]):
        return last.value
    first = stated[0]
    opens = not _words(text[: first.begin]) and all(one.value == first.value for one in found)
    return first.value if opens and not _RETRACTION.search(text, first.end) else None


def _words(text: str) -> str:
    """From the first word to the last one, without the signs around them."""
    first = re.search(r"[^\W_]", text)
    end = len(text)
    while first is not None and not text[end - 1].isalnum():
        end -= 1
    return text[first.start() : end] if first is not None else ""


def _is_quoted(before: str) -> bool:
    """Whether what stands before a verdict announces a form, an example or a draft."""
    headings = re.findall(r"^.{0,300}:[^\w\n]*$", before[-2000:], re.MULTILINE)
    return bool(_QUOTING.search(before.rstrip()[-300:]) or (headings and _DRAFT.search(headings[-1])))


def _only_remarks(text: str) -> bool:
    lines = [line for line in text.splitlines() if _words(line)]
    return len(lines) <= 3 and not any(_RETRACTION.search(line) or not _REMARK.match(line) for line in lines)


def _statements(text: str, form: Form) -> list[_Statement]:
    """Every label that has a value, and every number in a box of its own, in the order of the text."""
    found = []
    for label in form.label.finditer(text):
        value = _value_after(text, label.end(), form)
        if value is None:
            continue
        number, end = value
        stated = _is_stated(text, label.start(), end)
        found.append(_Statement(label.start(), _line_end(text, end), number, bool(label["final"]), stated, end))
    for box in _BOXED.finditer(text):
        begin = text.rfind("\n", 0, box.start()) + 1
        if not _words(text[begin : box.start()]) and not any(one.begin <= box.start() < one.end for one in found):
            value_of = form.value(box["number"], None)
            found.append(_Statement(box.start(), _line_end(text, box.end()), value_of, True, True))
    return sorted(found, key=lambda one: one.begin)


def _line_end(text: str, place: int) -> int:
    end = text.find("\n", place)
    return len(text) if end < 0 else end


def _is_stated(text: str, begin: int, end: int) -> bool:
    """Whether the label that begins at `begin` and the value that ends at `end` are a statement of their own."""
    line = text.rfind("\n", 0, begin) + 1
    before = text[max(line, begin - 400) : begin]
    sentence = before[max((match.end() for match in _SENTENCE_END.finditer(before)), default=0) :]
    if not _LEAD.fullmatch(_words(sentence)) or "?" in sentence:
        return False
    after = text[end : min(_line_end(text, end), end + 2000)]
    if not _FOLLOWS.match(after):
        return False
    own = _SENTENCE_END.split(after, maxsplit=1)[0]
    return not _CONDITION.search(own) and not _RETRACTION.search(after)


def _contradicts(text: str, statement: _Statement, form: Form) -> bool:
    """Whether the words on a statement's line, behind its number, say the opposite of full marks or of none."""
    if form.full != 1.0 or statement.value not in (0.0, 1.0) or not statement.after:
        return False
    line = text[statement.after : statement.end].strip(" \t*_`|")
    return bool(_CONTRADICTS[statement.value == 1.0].match(line))


def _value_after(text: str, place: int, form: Form) -> tuple[float, int] | None:
    """The number after a label that ends at `place`, and where it ends; NaN where a value is announced but cannot be
    read, None where the label is only spoken of."""
    found = _VALUE.match(text, place)
    if (
        found is None
        or ("\n" in found["signs"] and _LIST_ITEM.match(text, found.end()))
        or ("[" in found["signs"] and found["scale"])  # "[0/1]" names the choice
    ):
        assigned = _ASSIGNED.match(text, place)
        return (math.nan, assigned.end()) if assigned else None
    bound = re.search(r"(?:^|[^-=–—<])([<>])\s*$", found["signs"])  # "< 1" is no number; "=> 1" and "<1>" are
    if bound and not (bound[1] == "<" and text.startswith(">", found.end())):
        return math.nan, found.end()
    return form.value(found["number"], found["scale"], bool(found["percent"])), found.end()


def _objects(text: str, form: Form) -> list[_Statement]:
    """The JSON objects of an answer whose last one ends it, remarks aside; none where it is not of that form."""
    decoder = json.JSONDecoder(object_pairs_hook=_each_once)
    found: list[_Statement] = []
    place = 0
    while (opening := text.find("{", place)) >= 0:
        try:
            content, end = decoder.raw_decode(text, opening)
        except (ValueError, RecursionError):
            place = opening + 1
            if place > READ // 10:
                break
            continue
        place = end
        value = _field(content, form)
        if value is not None:
            line = text.rfind("\n", 0, opening) + 1
            lead = text[line:opening]
            quoted = _CONDITION.search(lead) or _RETRACTION.search(lead) or _QUOTING.search(lead)
            found.append(_Statement(opening, end, value, True, not quoted))
    return found


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; a name that stands twice in it has no value that can be read."""
    content: dict[str, Any] = {}
    for name, value in pairs:
        content[name] = math.nan if name in content else value
    return content


def _field(content: Any, form: Form) -> float | None:
    """The score a JSON object holds; NaN where its field is no number, None where it has no such field."""
    if not isinstance(content, dict):
        return None
    names = {re.sub(r"[\s_-]", "", str(name)).lower(): value for name, value in content.items()}
    if len(names) == 1:
        ((name, inner),) = names.items()
        if isinstance(inner, dict):
            return None if _CONDITION.search(name) else _field(inner, form)
    for name in form.names:
        if name in names:
            value = names[name]
            if isinstance(value, str):
                read = _VALUE.fullmatch(value.strip())
                return form.value(read["number"], read["scale"]) if read else math.nan
            return math.nan if isinstance(value, bool) or not isinstance(value, (int, float)) else float(value)
    return None
