"""A vision-language model in this process as judge: a tiny one of a current architecture, and folders without one."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from gymnast_core.config import JudgeConfig, StationConfig, parse_config
from gymnast_core.data.frames import resize_frame
from gymnast_core.doctor import check_judge, check_models
from gymnast_core.errors import CheckpointError, ConfigError, JudgeError
from gymnast_core.protocols import Judge
from gymnast_core.reward.factory import load_judge
from gymnast_core.reward.local import LocalJudge
from tests.tiny_vlm import QUESTIONS, film, teach, write_model

DARK, BRIGHT = film(0.2, 7), film(0.8, 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vlm")
    write_model(folder)
    teach(folder)
    return folder


def judge(folder: Path, scale: str, **fields: Any) -> LocalJudge:
    raw = fields.pop("raw", None)
    content = {"kind": "transformers", "scale": scale, "temperature": 0.0, "answer_tokens": 20, **fields}
    return LocalJudge(parse_config(JudgeConfig, content, "test"), folder, "cpu", raw=raw, template=QUESTIONS[scale])


@pytest.mark.parametrize("scale", list(QUESTIONS))
def test_it_answers_what_it_has_learned_to_see_on_every_scale(folder: Path, scale: str, tmp_path: Path) -> None:
    local = judge(folder, scale, raw=tmp_path / "raw.jsonl")
    assert isinstance(local, Judge) and local.tells_progress == (scale != "0-1")
    dark, bright = local.judge([DARK, BRIGHT], ["open it"] * 2)
    assert (dark.score, bright.score) == (0.0, 1.0)
    if scale == "1-5":
        assert (dark.grade, bright.grade) == (2.0, 5.0) and (dark.progress, bright.progress) == ((0.25,), (1.0,))
    lines = [json.loads(line) for line in (tmp_path / "raw.jsonl").read_text().splitlines()]
    assert len(lines) == 2 and all(line["model"] == str(folder) and line["input_tokens"] > 0 for line in lines)
    assert local.spending.dollars == 0.0 and "$" not in local.spending.line


def test_log_p_true_is_that_of_the_model_s_own_logits(folder: Path) -> None:
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    local = judge(folder, "log_p_true")
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for shown in (DARK, BRIGHT):
        frames = np.stack([resize_frame(frame, 256) for frame in shown])
        inputs = local.model.inputs("Is it true open it", frames, True, False)
        with torch.no_grad():
            probabilities = model(**inputs).logits[0, -1].double().softmax(-1)
        ids = [tokenizer.encode(word, add_special_tokens=False) for word in ("True", " True")]
        expected = sum(float(probabilities[token]) for (token,) in ids)
        (verdict,) = local.judge([shown], ["open it"])
        assert verdict.grade == pytest.approx(np.log(expected), abs=1e-4)
    for threshold, done in ((-0.001, False), (-20.0, True)):
        assert judge(folder, "log_p_true", threshold=threshold).judge([BRIGHT], ["open it"])[0].completed is done


def test_votes_are_drawn_from_the_question_alone_and_leave_chance_elsewhere_as_it_was(
    folder: Path, tmp_path: Path
) -> None:
    warm = {"temperature": 2.0, "votes": 6, "answer_tokens": 20}
    local = judge(folder, "1-5", **warm)
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    both = local.judge([DARK, BRIGHT], ["open it"] * 2)
    assert torch.equal(torch.rand(3), expected)
    again = judge(folder, "1-5", **warm, raw=tmp_path / "raw.jsonl").judge([BRIGHT, DARK], ["open it"] * 2)
    assert both == again[::-1]
    answers = [json.loads(line)["answer"] for line in (tmp_path / "raw.jsonl").read_text().splitlines()]
    assert len(answers) == 12 and len(set(answers)) > 4, "six votes each, by chance"


def test_votes_are_as_frequent_as_the_model_says_at_their_temperature(folder: Path) -> None:
    model = judge(folder, "0-1").model
    frames = np.stack([resize_frame(frame, 256) for frame in film(0.5, 3)])
    inputs = model.inputs(QUESTIONS["0-1"].format(instruction="open it"), frames, False, False)
    _, log_probs = model.generate(inputs, 0, 1, 0.0, 60.0)
    warm = (log_probs / 2.0).softmax(-1)
    likeliest = int(warm.argmax())
    drawn = [int(model.generate(inputs, seed, 1, 2.0, 60.0)[0][0]) for seed in range(150)]
    expected = float(warm[likeliest])
    error = (expected * (1 - expected) / len(drawn)) ** 0.5
    assert abs(drawn.count(likeliest) / len(drawn) - expected) < 4 * error + 1e-3 and 0.02 < expected < 0.98


def test_an_answer_that_is_cut_or_none_is_an_abstention(folder: Path) -> None:
    (cut,) = judge(folder, "1-5", answer_tokens=2).judge([BRIGHT], ["open it"])
    assert cut.score is None and "raise judge.answer_tokens" in cut.reason
    other = LocalJudge(judge(folder, "log_p_true").config, folder, "cpu", template="Grade {instruction}")
    (verdict,) = other.judge([BRIGHT], ["open it"])
    assert verdict.score is None and "begins with 'ANSWER" in verdict.reason


def test_the_station_file_chooses_it_and_the_doctor_looks_for_it(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text(QUESTIONS["1-5"])

    def station(**judging: Any) -> StationConfig:
        content = {"kind": "transformers", "checkpoint": str(folder), "scale": "1-5", "temperature": 0, **judging}
        content |= {"prompt": "prompt.txt", "answer_tokens": 20}
        models = {"device": "cpu", "policy": str(folder), "world_model": str(folder)}
        whole = {"name": "x", "tasks": {"t": {"instruction": "open it"}}, "judge": content, "models": models}
        return parse_config(StationConfig, whole, "x.yaml")

    path = tmp_path / "station.yaml"
    made = load_judge(station(), path, tmp_path / "run")
    assert isinstance(made, LocalJudge) and made.judge([BRIGHT], ["open it"])[0].grade == 5.0
    assert (tmp_path / "run" / "judge_answers.jsonl").exists()
    assert check_judge(station()).status == check_models(station(), path).status == "ok"
    assert "nowhere" in check_models(station(checkpoint="nowhere"), path).detail
    with pytest.raises(ConfigError, match="nowhere"):
        load_judge(station(checkpoint="nowhere"), path)
    with pytest.raises(ConfigError, match="device: found 'cuda:77'"):
        load_judge(station(device="cuda:77"), path)
    half = load_judge(station(dtype="bfloat16"), path)
    assert isinstance(half, LocalJudge) and half.model.model.dtype == torch.bfloat16
    assert half.judge([BRIGHT], ["open it"])[0].grade == 5.0


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="this machine has torchvision")
def test_a_film_needs_torchvision_and_pictures_do_not(folder: Path) -> None:
    with pytest.raises(JudgeError, match=r"judge.frames_as: found video.*torchvision"):
        judge(folder, "1-5", frames_as="video")


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="films need torchvision")
def test_frames_can_be_read_as_one_film(folder: Path) -> None:
    (verdict,) = judge(folder, "log_p_true", frames_as="video").judge([BRIGHT], ["open it"])
    assert verdict.grade is None or verdict.grade <= 0.0


# --- folders that hold no judge -------------------------------------------------------------------------------------


def config_of(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads((folder / "config.json").read_text())
    change(content)
    (folder / "config.json").write_text(json.dumps(content))


def without_one_tensor(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    state.pop("model.language_model.layers.1.mlp.up_proj.weight")
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def with_pickled_weights(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def with_code_of_its_own(folder: Path) -> None:
    (folder / "own.py").write_text(f"open({str(folder / 'ran')!r}, 'w').close()\nclass Own: pass\n")
    classes = {"AutoConfig": "own.Own", "AutoModelForImageTextToText": "own.Own", "AutoProcessor": "own.Own"}
    config_of(folder, lambda content: content.update(model_type="own", auto_map=classes))


FOLDERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "nothing": (lambda folder: (folder / "config.json").unlink(), r"config\.json: no such file"),
    "a weight less": (without_one_tensor, "1 weights are missing or of another size, as model.*up_proj"),
    "other sizes": (
        lambda folder: config_of(folder, lambda content: content["text_config"].update(intermediate_size=48)),
        "weights are missing or of another size|no vision-language model",
    ),
    "pickles": (with_pickled_weights, "no vision-language model"),
    "code": (with_code_of_its_own, "model_type: found 'own', no vision-language model"),
    "another model": (
        lambda folder: config_of(folder, lambda content: content.update(model_type="bert")),
        "model_type: found 'bert', no vision-language model",
    ),
    "damaged weights": (
        lambda folder: (folder / "model.safetensors").write_bytes(b"\x00" * 64),
        "no vision-language model",
    ),
    "no tokenizer": (
        lambda folder: [(folder / name).unlink() for name in ("tokenizer.json", "tokenizer_config.json")],
        "no vision-language model|found no tokenizer",
    ),
}


@pytest.mark.parametrize("name", list(FOLDERS))
def test_a_folder_that_holds_no_judge_is_refused_in_one_line(folder: Path, tmp_path: Path, name: str) -> None:
    spoil, told = FOLDERS[name]
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    spoil(copy)
    with pytest.raises((CheckpointError, JudgeError), match=told) as error:
        judge(copy, "1-5")
    assert "\n" not in str(error.value) and str(copy) in str(error.value)
    assert not (copy / "ran").exists(), "no code of a folder is run"


def test_a_template_that_fails_ends_the_run_in_one_line(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "chat_template.jinja").write_text("{{ raise_exception('no\nsuch role') }}")
    with pytest.raises(JudgeError, match="no such role") as error:
        judge(copy, "1-5").judge([BRIGHT], ["open it"])
    assert "\n" not in str(error.value)
