"""The instruction, checked and put into OpenVLA's prompt, as token ids."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from gymnast_core.contents import unreadable
from gymnast_core.errors import CheckpointError, DataError

MAX_INSTRUCTION = 512
PROMPT = "In: What action should the robot take to {instruction}?\nOut:"
# OpenVLA was trained with this token behind "Out:"; the tokeniser itself does not give it there.
EMPTY_TOKEN = "▁"
ACTION = "<action_{}>"
FIRST_ACTION = ACTION.format(0)
MARKERS = re.compile(r"(?<![a-z0-9])(in|out)\s*:|</?s>|<pad>|<unk>|<image>", re.IGNORECASE)


def normalise_instruction(instruction: str) -> str:
    """Lower case, stripped, one space between words.

    Raises: DataError when it is empty, longer than 512 characters, holds a character that does not print, or the
        prompt's own markers ("In:", "Out:", "</s>" and the like).
    """
    if not isinstance(instruction, str):
        raise DataError(f"instruction: found {type(instruction).__name__}, needed text")
    if len(instruction) > MAX_INSTRUCTION:
        raise DataError(f"instruction: found {len(instruction)} characters, allowed are 1 to {MAX_INSTRUCTION}")
    text = " ".join(instruction.lower().split())
    if not text:
        raise DataError(f"instruction: it is empty, allowed are 1 to {MAX_INSTRUCTION} characters")
    if not text.isprintable():
        raise DataError("instruction: it holds a character that does not print; remove it")
    marker = MARKERS.search(text)
    if marker:
        raise DataError(f"instruction: found the prompt's own marker {marker.group()!r}; reword the instruction")
    return text


def same_instruction(one: str, other: str) -> bool:
    """Whether a policy takes both for the same. Raises: DataError for what is no instruction."""
    return normalise_instruction(one) == normalise_instruction(other)


class PromptTokens:
    """Token ids of the prompt of an instruction; each distinct instruction is tokenised once."""

    def __init__(
        self, tokenizer: Tokenizer, bos_token_id: int, first_action_id: int, max_tokens: int, source: str
    ) -> None:
        empty = tokenizer.token_to_id(EMPTY_TOKEN)
        if empty is None:
            raise CheckpointError(f"{source}: no token {EMPTY_TOKEN!r}, which ends OpenVLA's prompt: wrong vocabulary")
        self.tokenizer = tokenizer
        self.empty_token_id = int(empty)
        self._bos = bos_token_id
        self._unknown = tokenizer.token_to_id("<unk>")
        self._limit = first_action_id
        self._max_tokens = max_tokens
        self._known: dict[str, list[int]] = {}
        try:
            self("open the drawer")
        except DataError as error:
            raise CheckpointError(f"{source}: wrong vocabulary: {error}") from error

    def __call__(self, instruction: str) -> list[int]:
        """Ids, BOS first and the empty token last.

        Raises: DataError for a bad instruction, or one that this vocabulary cannot spell, only with action tokens, or
            with more tokens than the model has positions for.
        """
        text = normalise_instruction(instruction)
        if text not in self._known:
            self._known[text] = self._tokenise(text)
        return list(self._known[text])

    def _tokenise(self, text: str) -> list[int]:
        shown = repr(text if len(text) <= 60 else f"{text[:57]}...")
        try:
            encoding = self.tokenizer.encode(PROMPT.format(instruction=text), add_special_tokens=False)
        except Exception as error:  # the library raises bare Exception
            raise DataError(f"instruction: {shown} cannot be spelt in this vocabulary ({error})") from error
        for number, token in zip(encoding.ids, encoding.tokens):
            # Llama's last tokens, rare characters of many scripts, are OpenVLA's actions.
            if number == self._unknown or number >= self._limit:
                what = "a word it does not know" if number == self._unknown else f"{token!r}, which is an action here"
                raise DataError(f"instruction: {shown} cannot be spelt in this vocabulary: it has {what}; reword it")
        ids = list(encoding.ids)
        while ids and ids[0] == self._bos:
            ids = ids[1:]
        ids = [self._bos, *ids]
        if ids[-1] != self.empty_token_id:
            ids.append(self.empty_token_id)
        if len(ids) > self._max_tokens:
            raise DataError(
                f"instruction: {shown} makes a prompt of {len(ids)} tokens, allowed are {self._max_tokens}; shorten it"
            )
        return ids


def read_tokenizer(content: bytes | None, source: str) -> Tokenizer:
    """The tokenizer of the content of a `tokenizer.json`, without the truncation and padding of whoever saved it (the
    original code sets its own at each call); `source` names it in errors.

    Raises: CheckpointError when it is missing (None) or broken.
    """
    if content is None:
        raise CheckpointError(f"{source}: no such file; the tokenizer of the checkpoint is needed to build prompts")
    try:
        tokenizer = Tokenizer.from_buffer(content)
    except Exception as error:  # the library raises bare Exception
        raise CheckpointError(f"{source}: {unreadable(source, error, 'tokenizer', content)}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def build_tokenizer(words: Iterable[str], n_bins: int, multiple: int = 64) -> tuple[Tokenizer, int]:
    """A small tokeniser in Llama's layout, for models trained from nothing, and its vocabulary size without padding.

    Ids: 0 <unk>, 1 BOS, 2 stop, then the empty token, whole words, letters for everything else, and `n_bins` action
    tokens at the very end; the next id is <PAD>. The size is rounded up to `multiple`.
    """
    characters = sorted(set(string.ascii_lowercase + string.digits + string.punctuation))
    vocabulary = ["<unk>", "<s>", "</s>", EMPTY_TOKEN]
    prompt_words = re.findall(r"[a-z]+", PROMPT.format(instruction="").lower())
    for token in [*prompt_words, *sorted({w.lower() for w in words}), *characters, *(f"##{c}" for c in characters)]:
        if token not in vocabulary:
            vocabulary.append(token)
    size = -(-(len(vocabulary) + n_bins) // multiple) * multiple
    vocabulary += [f"<unused_{index}>" for index in range(size - n_bins - len(vocabulary))]
    vocabulary += [ACTION.format(index) for index in range(n_bins)]
    tokenizer = Tokenizer(
        models.WordPiece({token: index for index, token in enumerate(vocabulary)}, unk_token="<unk>")  # type: ignore[call-arg]
    )
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in ("<unk>", "<s>", "</s>", "<PAD>")])
    return tokenizer, size
