"""Which part of a model's text is its answer. What the model thought first, in whatever tags, is not part of it.

An element is read only where its name is known to hold an answer or to be markup. Everything else in tags is hidden:
an unclosed element hides what follows it, and a closing tag without an opening one hides what came before it.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, field

BOX = "\ue000"
"""Stands in the text returned where an element that holds the answer began (`<answer>`, a box token)."""

_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff\ue000]")
_HIDDEN_BLOCK = re.compile(
    r"<!--.*?(?:-->|\Z)|^[ \t]*(?P<fence>```|~~~)[ \t]*(?:think|thought|reason|scratch|draft|analysis)\w*[ \t]*$.*?"
    r"(?:^[ \t]*(?P=fence)[ \t]*$|\Z)",
    re.DOTALL | re.IGNORECASE | re.MULTILINE,
)
_TAG = re.compile(
    r"<(?P<bar>[|｜])?(?P<close>/)?(?P<name>[^\W\d][\w:.▁-]{0,59})(?P<rest>[^<>\n]{0,200}?)(?P<end_bar>[|｜])?>"
    r"|<\s*(?P<spaced_close>/)?\s*(?P<spaced>(?:think|thought|reason)\w{0,20})\s*>"
    r"|◁(?P<wide_close>/)?(?P<wide>[\w :.-]{1,40})▷"
    r"|\[(?P<square_close>/)?(?P<square>[A-Za-z][A-Za-z_]{1,30})\]",
    re.IGNORECASE,
)
_THOUGHT = re.compile(
    r"think|thought|reason|reflect|analy[sz]|scratch|draft|inner|internal|monolog|cot\b|deliber|ponder|plan|unused94",
    re.IGNORECASE,
)
_ENDING = re.compile(r"end|suffix|stop|close|unused95", re.IGNORECASE)
_ANSWER = re.compile(
    r"(?:final[_-]?)?(?:answer|response|output|result|verdict|score|solution|conclusion|judge?ment)s?|final",
    re.IGNORECASE,
)
_BLOCK = re.compile(r"br|hr|p|div|li|ul|ol|tr|table|tbody|thead|h[1-6]|html|body|pre|section|center", re.IGNORECASE)
_INLINE = re.compile(
    r"b|i|u|s|em|strong|code|span|td|th|mark|font|small|big|sub|sup|kbd|tt|color|size|"
    r"(?:image|img|video|frame|audio|pad|unk|bos|bot)[\w-]*",
    re.IGNORECASE,
)
_TURN_OVER = re.compile(
    r"/?s|eos|eot|eom|end|stop|return|call|turn|im_end|eot_id|eom_id|end_?of_?(?:turn|text|sentence|utterance|message)|"
    r"end_of_turn_token|eos_token|endofprompt",
    re.IGNORECASE,
)
_ROLE = re.compile(r"\s*(?:<[|｜])?(user|human|system|tool)\b", re.IGNORECASE)
_UNTAGGED = (
    re.compile(r"\A\s*(?:analysis|commentary)(?=[A-Z\s]).*?(?:assistant\s*final(?!ly)|\Z)", re.DOTALL),
    re.compile(r"\A.*assistantfinal(?!ly)", re.DOTALL),
    re.compile(
        r"\A\s*Here(?:'s| is) my thought process:.*?(?:Here(?:'s| is) my response:|\Z)", re.DOTALL | re.IGNORECASE
    ),
)
"""Frames of thoughts whose tags a server has swallowed: gpt-oss and Granite."""


def answer_of(text: str) -> str:
    """The answer within a model's text, with markup tags taken out; empty where all of it is thought.

    Sources of the forms: chat templates of Qwen3, DeepSeek, Kimi, Magistral, gpt-oss, GLM, Gemma, Command A, Granite.
    """
    text = _INVISIBLE.sub("", html.unescape(text))
    text = _channels(_HIDDEN_BLOCK.sub("\n", text))
    for frame in _UNTAGGED:
        text = frame.sub("", text, count=1)
    reading = _Reading(text)
    for tag in _TAG.finditer(text):
        if not reading.take(tag):
            break
    else:
        reading.rest()
    return "".join(reading.visible)


@dataclass
class _Reading:
    """A walk over the tags of a text. visible: what is read. hidden: names of the elements that are open and hide."""

    text: str
    visible: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    place: int = 0

    def __post_init__(self) -> None:
        self.begins = len(self.text) - len(self.text.lstrip())
        self.square_ends = {end[1].lower(): end.start() for end in re.finditer(r"\[/([A-Za-z_]{2,31})\]", self.text)}

    def rest(self) -> None:
        if not self.hidden:
            self.visible.append(self.text[self.place :])

    def take(self, tag: re.Match[str]) -> bool:
        """Go on to behind a tag; False where the answer is over there."""
        name = next(tag[group] for group in ("name", "spaced", "wide", "square") if tag[group]).strip().lower()
        closing = any(tag[group] for group in ("close", "spaced_close", "wide_close", "square_close"))
        special = bool(tag["bar"] or tag["end_bar"])
        if special and not (tag["bar"] and tag["end_bar"]):  # Gemma's <|channel> ... <channel|>
            closing = not tag["bar"]
            name = "thought" if name == "channel" else name
        unpaired = tag["square"] and not closing and self.square_ends.get(name, -1) < tag.end()
        if unpaired and not _THOUGHT.search(name):
            return True  # brackets around a word of the text
        began = self.begins < tag.start()
        if not self.hidden:
            self.visible.append(self.text[self.place : tag.start()])
        self.place = tag.end()
        if (special or closing or name.startswith("e")) and _TURN_OVER.fullmatch(name):
            return not began
        if special and name in ("im_start", "start", "start_header_id", "turn") and _ROLE.match(self.text, tag.end()):
            return not began
        if special:
            self._special(name, closing)
        elif _ANSWER.fullmatch(name):
            self._show("\n" if closing else f"\n{BOX}")
        elif _BLOCK.fullmatch(name):
            self._show("\n")
        elif not _INLINE.fullmatch(name) and not (tag["rest"] or "").endswith("/"):
            self._hide(name, closing)
        return True

    def _special(self, name: str, closing: bool) -> None:
        if _THOUGHT.search(name):
            self._hide("thought", closing or bool(_ENDING.search(name)))
        elif re.search(r"begin_of_(?:box|solution)", name):
            self._show(f"\n{BOX}")
        else:
            self._show("\n")

    def _show(self, text: str) -> None:
        if not self.hidden:
            self.visible.append(text)

    def _hide(self, name: str, closing: bool) -> None:
        if not closing:
            self.hidden.append(name)
        elif name in self.hidden:
            del self.hidden[len(self.hidden) - 1 - self.hidden[::-1].index(name) :]
        elif self.hidden and _THOUGHT.search(name) and _THOUGHT.search(self.hidden[0]):
            self.hidden.clear()  # <think> ... </thinking>
        elif not self.hidden:
            self.visible.clear()


def _channels(text: str) -> str:
    """The last message of gpt-oss's final channel; the text itself where it names no channels."""
    _, *messages = re.split(r"<[|｜]channel[|｜]>", text)
    if not messages:
        return text
    found = ""
    for message in messages:
        head, _, content = message.partition("<|message|>")
        if re.match(r"\s*final\b", head):
            found = re.split(r"<\|(?:end|return|start|call)\|>", content)[0]
    return found
