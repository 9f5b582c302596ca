"""What score an answer gives: a verdict counts only where a verdict stands."""

from __future__ import annotations

import time

import pytest

from gymnast_core.reward.scores import WITH_HALF, parse_score


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("Final Score: 1", 1.0),
        ("**Final Score:** 1", 1.0),
        ("Final Score: **1**", 1.0),
        ("final score : 0.0", 0.0),
        ("**Final Score: 1.**", 1.0),
        ("### Final Score:\n\n**0**", 0.0),
        ("Final Score: `1`", 1.0),
        ("Final Score: $1$", 1.0),
        ("Final_Score = 1", 1.0),
        ("The Final Score is 0.", 0.0),
        ("Final Score: 1/1", 1.0),
        ("Final Score: 1 / 10", None),
        ("Final Score: 10", None),
        ("Final Score: 0.5", None),
        ("Final Score: 0.51", None),
        ("Final Score: -1", None),
        ("Final Score: X", None),
        ("I would say it worked.", None),
        ("", None),
        ("I will end with 'Final Score: 0' or so. It opens.\nFinal Score: 1", 1.0),
        ("~~Final Score: 1~~", None),
        ("~~Final Score: 1~~ Final Score: 0", 0.0),
        # fences, JSON, tables, LaTeX, other signs
        ("```\nFinal Score: 1\n```", 1.0),
        ('```json\n{"reasoning": "it opened", "final_score": 1}\n```', 1.0),
        ('{"Final Score": "0", "confidence": 0.9}\nHope this helps!', 0.0),
        ('{"score": 1}', 1.0),
        ('{"frame": 1, "score": 0}\n{"frame": 2, "score": 1}', None),
        ('{"final_score": 0}\n{"final_score": 1}', None),
        ('{"final_score": true}', None),
        ("| Final Score | 1 |", 1.0),
        ("$$\\boxed{\\text{Final Score: } 1}$$", 1.0),
        ("Final Score: \\boxed{0}", 0.0),
        ("Final Score – 1", 1.0),
        ("Final Score：1", 1.0),
        ("Final Score: +1", 1.0),
        ("Final Score: 1️⃣", 1.0),
        ("**Score:** 0", 0.0),
        ("**1**", 1.0),
        # the scale named before or after the number
        ("Final Score (0 or 1): 1", 1.0),
        ("**Final Score (0 = not completed, 1 = completed):** 1", 1.0),
        ("Final Score [0-1]: 0", 0.0),
        ("Final Score: 1 out of 1", 1.0),
        ("Final Score: 1 out of 10", None),
        ("Final Score: 10/10", 1.0),
        ("Final Score: 100%", 1.0),
        ("Final Score: 1%", None),
        ("Final Score: 0 or 1, hard to tell", None),
        ("Final Score: 0-1", None),
        # words after it, before it, instead of it
        ("Yes. Final Score: 1. No further remarks.", 1.0),
        ("Final Score: 1\n\nNote: the final score reflects the last frame only.", 1.0),
        ("Final Score: 0. Had the drawer moved, the final score would be 1.", 0.0),
        ("Final Score: 1\nOn reflection, Final Score: cannot be determined", None),
        ("Final Score:\n1. The gripper closes\n2. The drawer moves", None),
        ("<think>Final Score: 0? No, wait.</think>\nIt is open.\nFinal Score: 1", 1.0),
        ("<think>Perhaps Final Score: 1, but let me look at frame 3 ag", None),
        ("... so Final Score: 0, I think.</think>Final Score: 1", 1.0),
        ("Final Score: 0…", None),
        ("Yes.", None),
        ("No, because the drawer stays closed.", None),
        ("I'm sorry, but I can't assist with that request.", None),
        ("La gaveta está abierta.\nPuntuación final: 1", None),
        ("最终得分：1", None),
        ("The answer is 1", None),
        ("Final Score: one", None),
        ("Score the attempt:\n0 = not completed\n1 = completed", None),
        ("blah " * 100_000 + "final score" + " " * 100_000 + "Final Score: 1", 1.0),
    ],
)  # fmt: skip
def test_answers_are_read_tolerantly_and_never_guessed(answer: str, score: float | None) -> None:
    assert parse_score(answer) == score


def test_half_points_only_where_partial_credit_is_asked_for() -> None:
    assert parse_score("Final Score: 0.5", WITH_HALF) == 0.5
    assert parse_score("Final Score: 0,5", WITH_HALF) == 0.5
    assert parse_score("Final Score: .5", WITH_HALF) == parse_score("Final Score: 5/10", WITH_HALF) == 0.5
    assert parse_score("Final Score: 50 %", WITH_HALF) == 0.5 and parse_score("Final Score: 50%") is None
    assert parse_score("Final Score: 0.7", WITH_HALF) is parse_score("Final Score: 0.5 or 1", WITH_HALF) is None


RUBRIC = "As asked, Final Score: 0 is for an open drawer and Final Score: 1 for a closed one. In frame 2 it"
FINAL = "<|end|><|start|>assistant<|channel|>final<|message|>"
NO_VERDICT = [
    f"Okay, let me look. {RUBRIC}",
    f"◁think▷{RUBRIC} is open, then",
    f"[THINK]{RUBRIC} is open.[/THINK]I cannot tell.",
    f"<thought>{RUBRIC} is open.</thought>I cannot tell.",
    "<reasoning>It closed.\nFinal Score: 1</reasoning>",
    "<reasoning>It closed.\nFinal Score: 1",
    "It closed.\nFinal Score: 1\n</reasoning>",
    "It closed.\nFinal Score: 1\n[/THINK]",
    "It closed.\nFinal Score: 1\n◁/think▷",
    "<|channel|>analysis<|message|>Final Score: 1<|end|>",
    "<|channel|>analysis<|message|>It closed.\nFinal Score: 1",
    f"<|channel|>analysis<|message|>Final Score: 1{FINAL}I cannot tell.<|return|>",
    "analysisIt closed.\nFinal Score: 1assistantfinalI cannot tell.",
    "analysisIt closed.\nFinal Score: 1",
    "<|begin_of_thought|>\nFinal Score: 1\n<|end_of_thought|>\nI cannot tell.",
    "<|START_THINKING|>Final Score: 1<|END_THINKING|><|START_RESPONSE|>unclear<|END_RESPONSE|>",
    "<|channel>thought\nFinal Score: 1<channel|>I can't tell",
    "<unused94>thought\nFinal Score: 1",
    "<seed:think>Final Score: 1</seed:think>",
    "<think time=3>Final Score: 1</think>hm",
    "&lt;think&gt;\nFinal Score: 1\n&lt;/think&gt;\nI cannot tell.",
    "< think >\nFinal Score: 1\n< /think >",
    "```thinking\nFinal Score: 1\n```\nI cannot tell.",
    "<!-- Final Score: 1 -->",
    "<details type='reasoning'><summary>Thoughts</summary>\nFinal Score: 1\n</details>I cannot tell",
    "<scratchpad>\nFinal Score: 0\n</scratchpad>",
    "<思考>\nFinal Score: 1\n</思考>",
    "<THINK>\nFinal Score: 1",
    "<antThinking>\nFinal Score: 1\n</antThinking>",
    "Here is my thought process:\nFinal Score: 1\n",
    "<|inner_prefix|>Final Score: 1<|inner_suffix|>",
    "Draft: Final Score: 1",
    "Draft:\nFinal Score: 1",
    "First I might say Final Score: 1",
    "First I might say\nFinal Score: 1\nbut I need to look again.",
    "Final Score: 1?\n",
    "Maybe Final Score: 1",
    "Final Score: 1 if the drawer is closed, 0 otherwise.",
    "score 1 if the drawer is closed, 0 if not",
    "Score 1 if closed\nScore 0 if open",
    "Final Score: 0 = not completed\nFinal Score: 1 = completed",
    "Final Score: 0 - not completed\nFinal Score: 1 - completed",
    "Score: 0: not completed\nScore: 1: completed",
    "0 = not completed\n1 = completed\nFinal Score: X",
    "The answer should end like this:\nFinal Score: 1",
    "The format is:\n```\nFinal Score: 1\n```",
    "My draft is\nFinal Score: 1\nWait, let me check frame 3.",
    "Final Score: 1\nWait, the drawer is open again.",
    "Final Score: 1. But wait, I cannot be sure.",
    "Final Score: 1\nActually, I cannot tell.",
    '{"draft": {"score": 1}}',
    'Draft: {"final_score": 1}',
    '{"final_score": 0}\n{"final_score": 1}',
    "If I had to guess, Final Score: 1",
    "I would tentatively say Final Score: 1.",
    "Final Score: 1 would mean it is closed.",
    "Final Score: 1 (if the drawer is closed)",
    "<answer>It closed",
    "So the final score should be 1 when closed.",
    "A final score of 1 is given when the drawer is closed.",
    "'Final Score: 1' means completed",
    "* Final Score: 1 means the drawer is closed",
    "The rubric:\n- Final Score: 1 -> completed\n- Final Score: 0 -> not completed",
    "It is closed. Final Sc",
    "Frame 1: Score: 1",
    "Is it Final Score: 1? Or 0?",
    "<think>a</think>\n<think>Final Score: 1</think>",
    "<think>The tag <think> nested</think> Final Score: 1",
    "Final Score: [0/1]",
    "Final Score: 0|1",
    "Final Score: ___",
    "Let me think step by step.\nFinal Score: 1\nLooking at frame 4, the handle is not moved yet.",
    "Final Score: 1\n\nFinal Score: 0",
    "**Final Score: 1** (tentative)",
    "Step 1: possible verdicts\nFinal Score: 1\nFinal Score: 0\n",
    "Score 0 would be wrong. I cannot tell",
    "To get Final Score: 1 the drawer must be closed.",
    "I was asked to write:\n\nFinal Score: 1",
    "Score: 1 point for closing",
    "1. Final Score: 0\n2. Final Score: 1",
    "Final Score: 1!? No.",
    "The drawer: <closed>\nFinal Score: 1 <unless",
    "Final Score: 1\n\nNote: this is only a draft.",
    "Possible answers:\n(a) Final Score: 0\n(b) Final Score: 1",
    "Final Score: 0 (not completed) or Final Score: 1 (completed)",
    "Final Score: 0 (not completed), Final Score: 1 (completed)",
    "Final Score: 0 (not completed)\nFinal Score: 1 (completed)",
    "Final Score: 0 for open, Final Score: 1 for closed.",
    "The user wants Final Score: 1",
    "I need to output\nFinal Score: X\nwhere X is 0 or 1. Score: 1 if closed.",
    "Score: 1\nScore: 0",
    "Let me verify. Final Score: 1... no, wait.",
    "Then write one last line exactly like this, with the number:\nFinal Score: 1",
    "Final Score: 1 -> completed",
    "Final Score: 1: completed",
    "Final Score: 1 = yes",
    "Final Score: 1 means yes",
    "Final Score: 1 is for completed",
    'I would write "Final Score: 1" if it were closed.',
    "<answer>Final Score: 1</answer>\nBut wait, I can't tell.",
    "Thinking Process:\n1. Look.\n2. Draft: Final Score: 1\n3. Check again",
    "Here's my draft answer:\n\nIt closed.\nFinal Score: 1",
    "### Reasoning\nIt closed. Final Score: 1 seems right.\n### Answer\nUnclear.",
    "Final Score: 0\n...\nRevised Final Score: 1",
    # two numbers, a bound, the opposite in words
    "Final Score: 1, 0",
    "Final Score: 0; 1",
    "Final Score: 1 (0)",
    "Final Score: 1 [0.4]",
    "Final Score: < 1",
    "Final Score: >0",
    "Final Score: 1 (not completed)",
    "Final Score: 1 - not completed",
    "**Final Score:** 1 (partially completed)",
    "Final Score: 1 (failure)",
    "Final Score: 1, unsuccessful",
    "Final Score: 0 (completed)",
    "Final Score: 0 (task was successfully completed)",
    # a condition, a correction
    "Final Score: 1, assuming the drawer is closed",
    "Final Score: 1, provided the last frame is right",
    "Final Score: 1, pending frame 5",
    "Final Score: 1. Sorry, I meant 0.",
    "Final Score: 1. That was my first impression; the drawer is open.",
    "Final Score: 1\n\nEDIT: 0",
    "Final Score: 1\n\nNote: I made an error above.",
    "Final Score: 1\n\nNote: the score should be 0",
    "Expected output:\nFinal Score: 1",
    "The previous judge said:\nFinal Score: 1",
    # JSON that says two things
    '```json\n{"final_score": 1}\n```\n```json\n{"final_score": 0}\n```',
    '{"final_score": 1, "final_score": 0}',
    # a model that was shown nothing
    "I'm unable to view the frames.\nFinal Score: 0",
    "I cannot see the images, so I cannot tell.\n\nFinal Score: 0",
    "I don't have the ability to analyze images.\n\nFinal Score: 0",
    "Since no images were provided, there is no evidence of success.\nFinal Score: 0",
    "The frames were not included in your message.\nFinal Score: 0",
    "As a text-based AI model I go by the instruction.\nFinal Score: 1",
]
"""Thoughts, drafts, rubrics, doubts: a score is spoken of, none is given."""

VERDICT = [
    ("Final Score: 1<|im_end|>\n<|im_start|>user\nNo.\n<|im_start|>assistant\nFinal Score: 0", 1),
    ("<|im_start|>assistant\nIt closed.\nFinal Score: 1<|im_end|>", 1),
    ("It closed.\nFinal Score: 1</s>", 1),
    ("It closed.\nFinal Score: 1<｜end▁of▁sentence｜>", 1),
    ("Final Score: 0<end_of_turn>", 0),
    ("Final Score: 1<end_of_utterance>", 1),
    ("**Score:** `1`", 1),
    ("It closed.\n\n\\boxed{1}", 1),
    ("It closed.\n$\\boxed{0}$", 0),
    ("It closed.\n<answer>1</answer>", 1),
    ("<think>x</think><answer>Final Score: 0</answer>", 0),
    ("<think>x</think>\n<answer>\n1\n</answer>", 1),
    ("Final Score: <|begin_of_box|>1<|end_of_box|>", 1),
    ("<|begin_of_box|>Final Score: 1<|end_of_box|>", 1),
    ("<think>..</think>It is closed. <|begin_of_box|>0<|end_of_box|>", 0),
    ("<score>1</score>", 1),
    ("<final_score>0</final_score>", 0),
    ("<b>Final Score:</b> 1", 1),
    ("<p>closed</p><p><strong>Final Score: 1</strong></p>", 1),
    ("◁think▷Final Score: 0?◁/think▷It closed.\n**Final Score: 1**", 1),
    ("[THINK]Final Score: 0[/THINK]Closed.\nFinal Score: 1", 1),
    (
        f"<|channel|>analysis<|message|>Final Score: 0?{FINAL}Closed.\nFinal Score: 1<|return|>",
        1,
    ),
    ("analysisFinal Score: 0assistantfinalClosed.\nFinal Score: 1", 1),
    ("<|begin_of_thought|>0<|end_of_thought|><|begin_of_solution|>Final Score: 1<|end_of_solution|>", 1),
    ("<|channel>thought\nFinal Score: 0<channel|>Closed. Final Score: 1<turn|>", 1),
    ('It closed.\n```json\n{"final_score": 1, "reasoning": "it could be further, but fine"}\n```', 1),
    ('{"reason": "maybe", "score": "1/1"}', 1),
    ("So, my final score is **1**.", 1),
    ("Therefore, the final score is: 1.", 1),
    ("Answer: Final Score: 0", 0),
    ("It closed. **Final Score: 1**", 1),
    ("Final\u200b Score: 1", 1),
    ("- Final Score: 1", 1),
    ("> Final Score: 0", 0),
    ("1. Closed in frame 4.\n2. Final Score: 1", 1),
    ("Final Score: 1\n\nThe drawer is closed in the last frame.", 1),
    ("I give it a final score of 1.", 1),
    ("Final Score: 1 (completed)", 1),
    ("Final Score: 1, because the drawer is closed.", 1),
    ("Final Score: 0 - the drawer stays open", 0),
    ("The drawer is not closed (frame 5 < frame 6 and x > 3).\nFinal Score: 0", 0),
    ("FINAL SCORE: 1", 1),
    ("Here is my thought process: Final Score: 0\nHere is my response: Closed.\nFinal Score: 1", 1),
    ("Closed.\nFinal Score: 1\n\n---", 1),
    ("Closed.\n\n## Final Score: 1 ##", 1),
    ("The image [frame 3] shows <image> it.\nFinal Score: 1", 1),
    ("Final Score: 1<|endoftext|>Final Score: 0", 1),
    ("The drawer slid shut [handle] fully.\nFinal Score: 1.0", 1),
    ("Initially I thought it was open, Final Score: 0, but it closed.\nFinal Score: 1", 1),
    ("Final Score:\n\\[\n\\boxed{1}\n\\]", 1),
    ("Final Score: <answer>1</answer>", 1),
    ("```\n1\n```", 1),
    ("<response>Closed.\nFinal Score: 1</response>", 1),
    ("The final score is 1 because the drawer is closed.", 1),
    ("\u2705 Final Score: 1 \u2705", 1),
    ("Here is the final answer:\nFinal Score: 1", 1),
    ("<think>hm</think>\n\nFinal Score: 1\n\n<think>wait, Final Score: 0</think>", 1),
    ("{'final_score': 1}", 1),
    ("Final Score: 1 (completed)", 1),
    ("Final Score: 0 (not completed)", 0),
    ("Final Score: 0 - failed", 0),
    ("Final Score: 1 (the drawer is not open any more)", 1),
    ("Final Score: 0 (completed only half of it)", 0),
    ("Final Score: 0. The drawer should be closed.", 0),
    ("Sorry, I made a mistake. Final Score: 0", 0),
    ("Final Score => 1", 1),
    ("Final Score: <1>", 1),
    ("The inside cannot be seen in the frames, but the drawer is shut.\nFinal Score: 1", 1),
    ("I cannot see any gap in frame 4.\nFinal Score: 1", 1),
    ('```json\n{"frame": 1}\n```\n```json\n{"final_score": 0}\n```', 0),
]
"""Markup, special tokens and boxes around a verdict, and thoughts before it."""


@pytest.mark.parametrize("answer", NO_VERDICT)
def test_thoughts_drafts_and_rubrics_never_score(answer: str) -> None:
    assert parse_score(answer) is None


@pytest.mark.parametrize(("answer", "score"), VERDICT)
def test_markup_and_tokens_around_a_verdict_do_not_hide_it(answer: str, score: float) -> None:
    assert parse_score(answer) == score


@pytest.mark.parametrize("name", ["think", "Thought", "seed:think", "ruminate", "思考", "analysis", "plan"])
@pytest.mark.parametrize(
    "form", ["<{}>|</{}>", "<{} n=1>|</{}>", "◁{}▷|◁/{}▷", "&lt;{}&gt;|&lt;/{}&gt;", "|</{}>", "|◁/{}▷"]
)
def test_what_stands_in_any_tag_is_not_read_and_what_stands_behind_it_is(name: str, form: str) -> None:
    begin, end = form.replace("{}", name).split("|")
    thought = f"{begin}\nIt moved.\nFinal Score: 1\n"
    assert parse_score(f"{thought}{end}\nI cannot tell.") is None
    assert parse_score(f"{thought}{end}\nIt is open.\nFinal Score: 0") == 0.0
    if begin:
        assert parse_score(thought) is None, "it has no end"


def test_reading_takes_time_in_proportion_to_the_text() -> None:
    def seconds(unit: str, times: int) -> float:
        began = time.process_time()
        parse_score(unit * times)
        return time.process_time() - began

    for unit in (
        "<",
        "{",
        '{"a":',
        "<a>",
        "</a>",
        "[think]",
        "[frame]",
        "Final Score: 1\n",
        "```think\n",
        "? ",
        "so ",
        "Final Score: 1. ",
        "a*** *",
        "x:\n",
    ):
        short, long = seconds(unit, 2_000), seconds(unit, 20_000)
        assert long < 40 * short + 0.25, unit
