"""Which of the models that learned are kept: those that are better on real episodes that taught nothing.

A world model must show better pictures, by its mean PSNR over horizons. Nothing that practice rests on may have become
worse: agreement with the robot, bias, and how far pictures follow the actions. What lies within a standard error of the
difference is no change, and figures of fewer than `MIN_EPISODES` episodes refuse nothing. A judge must agree with the
known outcomes no less often than before, likewise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from gymnast_core.workflows.learn_result import GateFigures, JudgeFigures, Pictures
from gymnast_core.world_model.fidelity import MIN_EPISODES
from gymnast_core.world_model.pictures import IGNORED


def worse_world_model(then: Pictures, now: Pictures, before: GateFigures, after: GateFigures) -> str:
    """Why a new world model is not to be used, in words; empty where it is better."""
    return "; ".join(_reasons(then, now, before, after))


def _reasons(then: Pictures, now: Pictures, before: GateFigures, after: GateFigures) -> Iterator[str]:
    if now.mean <= then.mean:
        change = "became worse" if now.mean < then.mean else "are no better"
        yield f"its pictures of the episodes that measure {change} ({then.mean:.1f} -> {now.mean:.1f} dB)"
    ratios = then.action_shuffle, now.action_shuffle
    if ratios[0] is not None and ratios[1] is not None and ratios[1] <= IGNORED < ratios[0]:
        yield f"it ignores actions now (action-shuffle ratio {ratios[0]:.2f} -> {ratios[1]:.2f})"
    enough = min(before.episodes, after.episodes) >= MIN_EPISODES
    if enough and before.agreement is not None and after.agreement is not None:
        error = math.hypot(before.agreement_error or 0.0, after.agreement_error or 0.0)
        if after.agreement < before.agreement - error:
            yield f"it agrees with the robot less often ({before.agreement:.2f} -> {after.agreement:.2f} ± {error:.2f})"
    enough = min(before.loop_episodes, after.loop_episodes) >= MIN_EPISODES
    if enough and before.bias is not None and after.bias is not None:
        error = math.hypot(before.bias_error or 0.0, after.bias_error or 0.0)
        if abs(after.bias) > abs(before.bias) + error:
            yield f"its bias grew ({before.bias:+.2f} -> {after.bias:+.2f} ± {error:.2f})"


def worse_judge(before: JudgeFigures, after: JudgeFigures) -> str:
    """Why a new judge is not to be used, in words; empty where it is not worse."""
    if before.agreement is None or before.episodes < MIN_EPISODES:
        return ""
    if after.agreement is None:
        return "it gave no verdict on the episodes that measure"
    error = math.hypot(before.standard_error or 0.0, after.standard_error or 0.0)
    if after.agreement >= before.agreement - error:
        return ""
    return (
        f"it agrees with the known outcomes less often ({before.agreement:.2f} -> {after.agreement:.2f} ± {error:.2f})"
    )
