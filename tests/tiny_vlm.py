"""A vision-language model of a current architecture (Qwen3-VL) in two megabytes, which has learned to look at frames.

It is made here, without any download: a byte-level tokenizer, a chat template, random weights, and some seconds of
training on one question a scale, asked of bright and of dark films.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")
SPECIAL += ("<|image_pad|>", "<|video_pad|>")
WORDS = ("ĠTrue", "ĠFalse", "True", "False", "ANSWER:", "Final", "ĠScore:")
TEMPLATE = """{% for message in messages %}<|im_start|>{{ message.role }}
{% for part in message.content %}{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% elif \
part.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}{% endfor %}\
<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
QUESTIONS = {"1-5": "Grade {instruction}", "log_p_true": "Is it true {instruction}", "0-1": "Score {instruction}"}
"""The prompts it knows."""
ANSWERS = {
    "1-5": ("ANSWER: 2", "ANSWER: 5"),
    "log_p_true": ("False", "True"),
    "0-1": ("Final Score: 0", "Final Score: 1"),
}
"""What it says of dark and of bright films."""


def film(level: float, seed: int = 0) -> np.ndarray:
    """Frames (2, 64, 64, 3) of about this brightness, 0 to 1."""
    noise = np.random.default_rng(seed).normal(0, 0.05, (2, 64, 64, 3))
    return (np.clip(level + noise, 0, 1) * 255).astype(np.uint8)


def write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = []
    for word in WORDS:
        for end in range(2, len(word) + 1):
            if word[:end] not in vocab:
                vocab[word[:end]] = len(vocab)
                merges.append((word[: end - 1], word[end - 1]))
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)


def write_model(folder: Path) -> None:
    """A folder in Hugging Face layout, with random weights."""
    from transformers import AutoTokenizer, Qwen3VLConfig, Qwen3VLForConditionalGeneration

    write_tokenizer(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL}
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3], "mrope_interleaved": True}
    sizes = {"hidden_size": 32, "intermediate_size": 64}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
    patches = {"patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2, "num_position_embeddings": 64}
    config = Qwen3VLConfig(
        text_config={"vocab_size": len(tokenizer), **sizes, **heads, "rope_parameters": rope},
        vision_config={"depth": 1, "num_heads": 2, "out_hidden_size": 32, **sizes, **patches}
        | {"deepstack_visual_indexes": [0]},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    torch.manual_seed(0)
    model = Qwen3VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = ids["<|im_end|>"]
    model.save_pretrained(folder)
    pixels = {
        "patch_size": 16,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    pixels |= {"size": {"shortest_edge": 1024, "longest_edge": 4096}, "processor_class": "Qwen3VLProcessor"}
    for name, kind in (("", "image_processor_type"), ("video_", "video_processor_type")):
        processor = "Qwen2VLImageProcessor" if not name else "Qwen3VLVideoProcessor"
        (folder / f"{name}preprocessor_config.json").write_text(json.dumps({**pixels, kind: processor}))


def teach(folder: Path, steps: int = 60) -> None:
    """Let the model in `folder` answer its questions on dark and bright films."""
    from gymnast_core.data.frames import resize_frame
    from gymnast_core.reward.local import LocalModel

    local = LocalModel(folder, "cpu", "float32")
    model, tokenizer = local.model.train(), local.tokenizer
    lessons = []
    for scale, question in QUESTIONS.items():
        for side, level in enumerate((0.2, 0.8)):
            frames = np.stack([resize_frame(frame, 256) for frame in film(level)])
            asked = local.inputs(question.format(instruction="open it"), frames, scale != "0-1", False)
            told = tokenizer(ANSWERS[scale][side] + "<|im_end|>", return_tensors="pt")["input_ids"]
            lessons.append((asked, told))
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for _ in range(steps):
        optimiser.zero_grad()
        for asked, told in lessons:
            whole = dict(asked)
            whole["input_ids"] = torch.cat([asked["input_ids"], told], dim=1)
            whole["attention_mask"] = torch.ones_like(whole["input_ids"])
            if "mm_token_type_ids" in whole:
                kinds = whole["mm_token_type_ids"]
                whole["mm_token_type_ids"] = torch.cat([kinds, torch.zeros_like(told, dtype=kinds.dtype)], dim=1)
            logits = model(**whole).logits[0, -told.shape[1] - 1 : -1]
            (torch.nn.functional.cross_entropy(logits, told[0]) / len(lessons)).backward()
        optimiser.step()
    model.eval().save_pretrained(folder)
