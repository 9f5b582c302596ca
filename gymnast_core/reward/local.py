"""A vision-language model in this process as judge: the prompts and scales of the others, through `transformers`.

The folder is in Hugging Face layout with safetensors. Only code of the installed transformers runs, never code that a
folder brings along.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from gymnast_core.config import JudgeConfig
from gymnast_core.contents import name_folder, one_line
from gymnast_core.data.frames import resize_frame
from gymnast_core.device import choose_device, inference_dtype
from gymnast_core.errors import CheckpointError, JudgeError
from gymnast_core.files import read_json
from gymnast_core.reward.asking import Question, ScaledJudge
from gymnast_core.reward.prompts import TaskQuestion
from gymnast_core.reward.replies import Said
from gymnast_core.reward.scales import weigh_true
from gymnast_core.reward.spending import without_prices
from gymnast_core.reward.vlm import IMAGE_SIDE
from gymnast_core.seeds import derive_seed

SAFE = {"local_files_only": True, "trust_remote_code": False}
RATE = 1.0
"""Frames a second that a model is told of a film: those shown are far apart."""
INSTALL = "pip install 'gymnast[local-judge]'"


class LocalModel:
    """A model and its processor, from a folder.

    Raises: JudgeError when transformers is missing; CheckpointError when the folder holds no such model, lacks weights,
    or holds others than its config says; ConfigError for a device this machine lacks.
    """

    def __init__(self, folder: Path, device: str, dtype: str) -> None:
        self.folder = folder
        self.device = torch.device(choose_device(device))
        precision = inference_dtype(self.device) if dtype == "auto" else getattr(torch, dtype)
        if not (folder / "config.json").is_file():
            other = name_folder(folder)
            found = f"; found {other}" if other else ""
            raise CheckpointError(f"{folder / 'config.json'}: no such file; needed a vision-language model{found}")
        try:
            transformers = _transformers()
            kind = _known_kind(transformers, folder)
            self.processor = _open_processor(transformers, folder, kind)
            self.model, told = transformers.AutoModelForImageTextToText.from_pretrained(
                folder, dtype=precision, use_safetensors=True, output_loading_info=True, **SAFE
            )
        except CheckpointError:
            raise
        except ImportError as error:
            raise JudgeError(f"{folder}: model_type {kind!r}: {one_line(str(error))}; {INSTALL}") from error
        except Exception as error:  # whatever its files make of theirs
            raise CheckpointError(f"{folder}: no vision-language model ({one_line(_words(error))})") from error
        wrong = [*told["missing_keys"], *(name for name, *_ in told["mismatched_keys"])]
        if wrong:
            raise CheckpointError(f"{folder}: {len(wrong)} weights are missing or of another size, as {min(wrong)}")
        self.model = self.model.to(self.device).eval()
        self.tokenizer = self.processor.tokenizer
        if not self.tokenizer.encode("True", add_special_tokens=False):  # transformers makes one of nothing
            raise CheckpointError(f"{folder}: found no tokenizer that knows a word; needed tokenizer.json")
        self.words = {word: self._tokens(word) for word in ("True", "False")}

    def _tokens(self, word: str) -> list[int]:
        """Tokens that are this word alone, in any case, perhaps after a blank."""
        forms = (form for text in (word, word.lower(), word.upper()) for form in (text, f" {text}"))
        encoded = [self.tokenizer.encode(form, add_special_tokens=False) for form in forms]
        return sorted({tokens[0] for tokens in encoded if len(tokens) == 1})

    def inputs(self, text: str, frames: np.ndarray, frames_first: bool, as_video: bool) -> Any:
        """What the model reads: the chat's prompt with frames (n, H, W, 3) as pictures or as one film."""
        images = [Image.fromarray(frame) for frame in frames]
        parts: list[dict[str, Any]] = [{"type": "video"}] if as_video else [{"type": "image"} for _ in images]
        told = {"type": "text", "text": text}
        content = [*parts, told] if frames_first else [told, *parts]
        chat = [{"role": "user", "content": content}]
        prompt = self.processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        begins = self.tokenizer.bos_token is not None and prompt.startswith(self.tokenizer.bos_token)
        options: dict[str, Any] = {"return_tensors": "pt", "add_special_tokens": not begins}
        if as_video:
            options |= {"videos": [frames], "do_sample_frames": False, "video_metadata": [_metadata(len(frames))]}
        else:
            options["images"] = images
        return self.processor(text=[prompt], **options).to(self.device, self.model.dtype)

    def generate(self, inputs: Any, seed: int, longest: int, temperature: float, seconds: float) -> tuple[Any, Any]:
        """(tokens (T,) int64 that the model wrote, log-probabilities (V,) float32 of the first one)."""
        from transformers import GenerationConfig

        own = self.model.generation_config
        config = GenerationConfig(
            max_new_tokens=longest,
            max_time=seconds,
            do_sample=False,  # chance comes from `draw`
            eos_token_id=own.eos_token_id if own.eos_token_id is not None else self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.pad_token_id if own.pad_token_id is None else own.pad_token_id,
            output_logits=True,
            return_dict_in_generate=True,
        )
        generator = torch.Generator().manual_seed(seed)

        def draw(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            """Scores whose largest is a draw at `temperature` (Gumbel-max): no other thread's chance is touched."""
            noise = torch.empty(scores.shape).exponential_(generator=generator).log().neg()
            return scores.float() / temperature + noise.to(scores.device)

        with torch.inference_mode():
            said = self.model.generate(
                **inputs, generation_config=config, logits_processor=[draw] if temperature > 0 else None
            )
            first = said.logits[0][0].float().log_softmax(-1)
        return said.sequences[0, inputs["input_ids"].shape[1] :].cpu(), first.cpu()

    def ends(self) -> set[int]:
        """Tokens that end an answer."""
        found = self.model.generation_config.eos_token_id
        found = self.tokenizer.eos_token_id if found is None else found
        return set(found) if isinstance(found, (list, tuple)) else {found}


def _transformers() -> Any:
    """The package, quiet. Raises: ImportError."""
    import transformers

    for name in ("transformers", "transformers.generation.utils"):
        logging.getLogger(name).setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    return transformers


def _known_kind(transformers: Any, folder: Path) -> str:
    """The model type of a folder's config. Raises: CheckpointError where transformers has no such model of its own."""
    kind = read_json(folder / "config.json").get("model_type")
    names = transformers.models.auto.modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    if not isinstance(kind, str) or kind not in names:
        raise CheckpointError(
            f"{folder / 'config.json'}: model_type: found {kind!r}, no vision-language model that transformers "
            f"{transformers.__version__} has; needed one as qwen3_vl"
        )
    return kind


def _open_processor(transformers: Any, folder: Path, kind: str) -> Any:
    """The folder's processor; without torchvision, which only films need, one that reads pictures alone."""
    try:
        return transformers.AutoProcessor.from_pretrained(folder, **SAFE)
    except ImportError as error:
        if "torchvision" not in str(error).lower():
            raise
        names = transformers.models.auto.processing_auto.PROCESSOR_MAPPING_NAMES
        known = getattr(transformers, str(names.get(kind)), None)
        if known is None or not hasattr(known, "get_attributes"):
            raise
        read = [name for name in known.get_attributes() if name != "video_processor"]
        pictures = type(known.__name__, (known,), {"get_attributes": classmethod(lambda cls: read), "attributes": read})
        return pictures.from_pretrained(folder, **SAFE)  # type: ignore[attr-defined]


def _metadata(count: int) -> dict[str, Any]:
    """Of a film of `count` frames, none of which is left out."""
    return {"fps": RATE, "total_num_frames": count, "duration": count / RATE, "frames_indices": list(range(count))}


class LocalJudge(ScaledJudge):
    """`config.votes` answers of a model in this process, on `config.scale`; one question at a time.

    Each vote is drawn with a seed of its own from the question: the same video gets the same answers. At temperature 0,
    and where log-probabilities are asked for, there is one vote.

    The arguments: see `ScaledJudge`. Raises: what `LocalModel` raises, and from `judge`, see `AskingJudge`.
    """

    name = "transformers"

    def __init__(
        self,
        config: JudgeConfig,
        folder: str | os.PathLike[str],
        device: str,
        questions: Mapping[str, TaskQuestion] | None = None,
        raw: str | os.PathLike[str] | None = None,
        template: str = "",
    ) -> None:
        votes = 1 if config.scale == "log_p_true" or not config.temperature else config.votes
        config = dataclasses.replace(without_prices(config), votes=votes, concurrency=1, requests_per_minute=0.0)
        super().__init__(config, f"judge: {folder}", str(folder), questions, template, raw=raw)
        self.model = LocalModel(Path(folder), config.device or device, config.dtype)
        if config.frames_as == "video" and not hasattr(self.model.processor, "video_processor"):
            raise JudgeError(
                f"{folder}: judge.frames_as: found video; needed a model that reads films, and torchvision"
            )
        if config.scale == "log_p_true" and not all(self.model.words.values()):
            raise JudgeError(f"{folder}: judge.scale: found log_p_true, but its tokenizer has no token True or False")

    def question(self, video: np.ndarray, instruction: str) -> Question:
        """Text and frames (n, 256, 256, 3)."""
        text, partial = self.put(instruction)
        frames = np.stack([resize_frame(frame, IMAGE_SIDE) for frame in video])
        digest = hashlib.sha256(json.dumps([text, frames.shape]).encode())
        digest.update(frames.tobytes())
        return Question(instruction, (text, frames), digest.hexdigest(), partial, 0, len(frames))

    def say(self, question: Question, vote: int, taken: Callable[[int, int], None]) -> Said:
        """The model's answer. Raises: JudgeError where it cannot be asked."""
        config, model = self.config, self.model
        text, frames = question.content
        scored = config.scale == "log_p_true"
        try:
            inputs = model.inputs(text, frames, self.scale.prompt.frames_first, config.frames_as == "video")
            written, first = model.generate(
                inputs,
                derive_seed(int(question.digest[:12], 16), "vote", vote),
                1 if scored else config.answer_tokens,
                0.0 if scored else config.temperature,
                config.timeout_s,
            )
        except Exception as error:  # of a model's own code, whatever it is: the next video would fare no better
            raise JudgeError(f"judge: {model.folder}: {one_line(_words(error))}") from error
        taken(inputs["input_ids"].shape[1], len(written))
        return self._weigh(first) if scored else self._read(written)

    def _weigh(self, log_probs: torch.Tensor) -> Said:
        if not bool(torch.isfinite(log_probs.max())):
            return Said(None, "its log-probabilities are not finite")
        true, false = (float(log_probs[self.model.words[word]].logsumexp(0)) for word in ("True", "False"))
        likeliest = self.model.tokenizer.decode([int(log_probs.argmax())])
        return weigh_true(true, false, likeliest, unseen=-math.inf)

    def _read(self, written: torch.Tensor) -> Said:
        tokens, ends = written.tolist(), self.model.ends()
        whole = bool(tokens) and tokens[-1] in ends
        text = self.model.tokenizer.decode(tokens[:-1] if whole else tokens, skip_special_tokens=False)
        if whole:
            return Said(text) if text.strip() else Said(None, "an empty answer")
        return Said(text, "the answer was cut: raise judge.answer_tokens or judge.timeout_s")


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
