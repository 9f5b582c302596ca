"""The contract that an arm behind gymnast's interface keeps, check by check.

Each check returns what it found, for people. It raises Broken where the contract is not kept, and Skipped where this
arm cannot be checked so. They are in an order in which each leaves the arm where the next can begin.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from gymnast_msgs.msg import ArmState

from gymnast_core.robot.arm_model import arm_model
from gymnast_core.robot.kinematics import forward_kinematics
from gymnast_nodes.arm_check_bench import ArmBench, Broken, Skipped, Stopwatch
from gymnast_nodes.messages import to_seconds

LISTEN_S = 1.5
MIN_STATE_HZ, MIN_JOINT_HZ = 18.0, 15.0
MAX_STAMP_AGE_S = 0.2
STEP_M, STEP_RAD = 0.01, 0.05
STEPS = 3
ARRIVED_M, ARRIVED_RAD = 0.012, 0.06
"""Gravity's droop changes on the way; units or axes that are wrong are off by far more."""
FAR_M = 0.2
EDGE_M = 0.012
HELD_M = 0.006
STOP_ANSWER_S = 0.5
STOPS_WITHIN_S = 0.6
"""One time profile of 250 ms, and the answers of two processes."""
FIRST_MOTION_S = 0.3
MOVED_RAD = 0.003
NEIGHBOURS_S = 0.05
"""Joint states no farther apart than this are neighbours."""
OPEN, CLOSED = 0.9, 0.5
GRIPPER_S = 4.0
SILENCE_S = 1.5
BOOT_S = 10.0
NOTHING = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)


def check_timing(bench: ArmBench) -> str:
    """arm/state and the driver's joint states come often enough, with stamps of now."""
    bench.measured()
    states, joints = len(bench.states), len(bench.joints)
    watch = Stopwatch()
    time.sleep(LISTEN_S)
    seconds = watch.seconds()
    state_hz, joint_hz = (len(bench.states) - states) / seconds, (len(bench.joints) - joints) / seconds
    ahead = time.time() - time.monotonic()
    ages = [at + ahead - to_seconds(message.header.stamp) for at, message in bench.joints[joints:]]
    age = float(np.percentile(np.abs(ages), 95)) if ages else float("inf")
    found = f"arm/state {state_hz:.0f} Hz, joint states {joint_hz:.0f} Hz, stamps {age * 1000:.0f} ms old"
    if state_hz < MIN_STATE_HZ or joint_hz < MIN_JOINT_HZ or age > MAX_STAMP_AGE_S:
        raise Broken(
            f"{found}; needed {MIN_STATE_HZ:g} Hz, {MIN_JOINT_HZ:g} Hz, {MAX_STAMP_AGE_S * 1000:.0f} ms at most"
        )
    return found


def check_joints(bench: ArmBench) -> str:
    """The six joints are there by name, in radians, within their limits, and say where arm/state says the arm is."""
    bench.measured()
    message = bench.joints[-1][1]
    arm = arm_model(bench.station.arm.model)
    missing = [name for name in arm.names if name not in message.name]
    if missing:
        raise Broken(f"joint states without {', '.join(missing)}")
    joints = np.array([message.position[list(message.name).index(name)] for name in arm.names])
    if (joints < arm.lower - 0.1).any() or (joints > arm.upper + 0.1).any():
        raise Broken(f"joints beyond their limits, or not in radians: {np.round(joints, 2).tolist()}")
    place = bench.state.pose.position
    apart = float(np.linalg.norm(forward_kinematics(joints, arm)[:3, 3] - [place.x, place.y, place.z]))
    if apart > 0.02:
        raise Broken(f"joint states and arm/state are {apart * 1000:.0f} mm apart")
    efforts = np.array(message.effort[:6], dtype=np.float64)
    if efforts.size and np.abs(efforts).max() > arm.effort.largest:
        raise Broken(f"an effort of {np.abs(efforts).max():.0f}: is it in {arm.effort.unit}?")
    told = f"{np.abs(efforts).max():.0f} {arm.effort.unit}" if efforts.size else "no efforts"
    return f"six joints in radians, {told}, {apart * 1000:.1f} mm from arm/state"


def check_motion(bench: ArmBench) -> str:
    """Each axis moves as the action says: metres and radians, base axes, and back again."""
    worst = ""
    largest = 0.0
    for axis, unit in ((0, STEP_M), (1, STEP_M), (2, -STEP_M), (5, STEP_RAD)):
        for sign in (1.0, -1.0):
            before = bench.pose
            action = list(NOTHING)
            action[axis] = sign * unit
            bench.run(action, STEPS)
            bench.settle()
            wanted = np.zeros(6)
            wanted[axis] = STEPS * sign * unit
            error = bench.pose - before - wanted
            metres, radians = float(np.abs(error[:3]).max()), float(np.abs(error[3:]).max())
            name = ("x", "y", "z", "roll", "pitch", "yaw")[axis]
            if metres > ARRIVED_M or radians > ARRIVED_RAD:
                raise Broken(
                    f"{STEPS} actions of {sign * unit:+g} along {name} moved the end effector by "
                    f"{np.round(bench.pose - before, 3).tolist()}"
                )
            if metres >= largest:
                largest, worst = metres, name
    return f"x, y, z and yaw there and back, within {largest * 1000:.1f} mm ({worst})"


def check_velocity(bench: ArmBench) -> str:
    """The driver's velocities are its positions' changes by the second."""
    names = arm_model(bench.station.arm.model).names
    first = len(bench.joints)
    bench.run([0, STEP_M, 0, 0, 0, 0, 1], STEPS)
    bench.settle()
    messages = [message for _, message in bench.joints[first:]]
    if any(len(message.velocity) < 6 for message in messages):
        raise Broken("joint states without velocities")
    stamps = np.array([to_seconds(message.header.stamp) for message in messages])
    speeds = np.array([list(message.velocity)[:6] for message in messages])
    places = np.array([list(message.position)[:6] for message in messages])
    lasted, moved = np.diff(stamps), np.diff(places, axis=0)
    near = lasted < NEIGHBOURS_S  # over a gap a velocity says nothing
    travelled = ((speeds[1:] + speeds[:-1]) / 2 * lasted[:, None])[near].sum(axis=0)
    way = moved[near].sum(axis=0)
    joint = int(np.argmax(np.abs(way)))
    if near.sum() < 2 or abs(way[joint]) < MOVED_RAD:
        raise Skipped("joint states came with gaps while the arm moved")
    ratio = float(travelled[joint] / way[joint])
    bench.run([0, -STEP_M, 0, 0, 0, 0, 1], STEPS)
    if not 0.7 < ratio < 1.4:
        raise Broken(f"the velocities of {names[joint]} sum up to {ratio:.2f} of its way: are they radians/s?")
    return f"they sum up to {ratio:.2f} of the way of {names[joint]}"


def check_latency(bench: ArmBench) -> str:
    """The arm begins to move soon after an action."""
    bench.settle()
    before = bench.measured()[:6]
    watch = Stopwatch()
    bench.send([0, 2 * STEP_M, 0, 0, 0, 0, 1])
    bench.wait(lambda: np.abs(bench.measured()[:6] - before).max() > MOVED_RAD, 2.0, "a first motion")
    took = watch.seconds()
    bench.run([0, -2 * STEP_M, 0, 0, 0, 0, 1], 1)
    if took > FIRST_MOTION_S:
        raise Broken(f"the arm moved {took * 1000:.0f} ms after the action; needed {FIRST_MOTION_S * 1000:.0f} ms")
    return f"first motion after {took * 1000:.0f} ms"


def check_gripper(bench: ArmBench) -> str:
    """1 opens the gripper, 0 closes it."""
    found = []
    for value, done in ((0.0, lambda: bench.state.gripper < CLOSED), (1.0, lambda: bench.state.gripper > OPEN)):
        watch = Stopwatch()
        while not done() and watch.seconds() < GRIPPER_S:
            bench.run([0, 0, 0, 0, 0, 0, value], 1)
        if not done():
            raise Broken(f"a gripper of {value:g} was commanded, and it is at {bench.state.gripper:.2f}")
        found.append(f"{bench.state.gripper:.2f}")
    return f"closed {found[0]}, open {found[1]}"


def check_limits(bench: ArmBench) -> str:
    """No action is larger than allowed, none leaves the workspace, none that is not finite is executed."""
    limit = bench.station.safety.max_translation
    result = bench.send([0, 10 * limit, 0, 0, 0, 0, 1])
    if result.accepted and abs(result.translation[1]) > limit + 1e-6:
        raise Broken(f"an action of {10 * limit:g} m was executed as {result.translation[1]:.3f} m")
    refused = bench.send([float("nan"), 0, 0, 0, 0, 0, 1])
    if refused.accepted:
        raise Broken("an action that is not a number was accepted")
    high = bench.station.safety.workspace_max[2]
    bench.run([0, 0, 2 * STEP_M, 0, 0, 0, 1], 15, until="workspace_clipped")
    bench.settle()
    height = float(bench.pose[2])
    if height > high + EDGE_M:
        raise Broken(f"the end effector is at z {height:.3f} m; the workspace ends at {high:.3f} m")
    return f"clipped to {limit:g} m, NaN refused, z ends at {height:.3f} of {high:.3f} m"


def check_old_actions(bench: ArmBench) -> str:
    """An action that is old, or comes twice, is refused."""
    bench.settle()
    stale = bench.send(NOTHING, age_s=bench.station.safety.command_timeout_s + 1.0)
    if stale.accepted or "stale" not in stale.safety_events:
        raise Broken(f"an old action: {', '.join(stale.safety_events) or 'accepted'}")
    bench.settle()
    bench.send(NOTHING)
    again = bench.send(NOTHING, step=1)
    if again.accepted or "out_of_order" not in again.safety_events:
        raise Broken(f"a repeated step: {', '.join(again.safety_events) or 'accepted'}")
    return "stale and out_of_order"


def check_hold(bench: ArmBench) -> str:
    """The arm holds where it is when actions stop coming, and when the watchdog says so."""
    bench.run([0, STEP_M, 0, 0, 0, 0, 1], 2)
    watch = Stopwatch()
    timeout = bench.station.safety.command_timeout_s
    bench.wait(lambda: bench.state.mode == ArmState.MODE_HOLDING, timeout + 1.0, "a hold when actions stop")
    took = watch.seconds()
    _stays(bench)
    bench.hold()
    bench.run([0, -STEP_M, 0, 0, 0, 0, 1], 2)
    return f"held {took:.2f} s after the last action, and by watchdog/hold"


def check_stop(bench: ArmBench) -> str:
    """The emergency stop ends a motion at once, outlasts actions, and is released by re-arming alone."""
    bench.run([0, 2 * STEP_M, 0, 0, 0, 0, 1], 2)
    took = bench.stop()
    if took > STOP_ANSWER_S:
        raise Broken(f"the stop took {took:.2f} s; needed {STOP_ANSWER_S:g} s")
    time.sleep(STOPS_WITHIN_S)
    _stays(bench)
    refused = bench.send(NOTHING)
    if refused.accepted or "emergency_stop" not in refused.safety_events:
        raise Broken(f"an action after the stop: {', '.join(refused.safety_events) or 'accepted'}")
    bench.rearm()
    bench.run(NOTHING, 2)
    return f"answered in {took * 1000:.0f} ms, nothing moves until it is re-armed"


def check_silence(bench: ArmBench) -> str:
    """An arm whose driver says nothing more is held, and takes no action until its driver speaks again."""
    bench.settle()
    watch = Stopwatch()
    with bench.fault("joint_states_stopped"):
        bench.wait(lambda: "no joint states" in bench.state.detail, SILENCE_S, "a hold without joint states")
        took = watch.seconds()
        refused = bench.send(NOTHING)
        if refused.accepted:
            raise Broken("an action was accepted without joint states")
    _goes_on(bench, BOOT_S, "an accepted action when joint states are back")
    return f"held after {took:.2f} s, goes on when they are back"


def check_reboot(bench: ArmBench) -> str:
    """A motor that was rebooted, and forgot its profile, gets it back before the arm moves."""
    wanted = bench.registers("group", "arm", "Profile_Velocity")
    bench.settle()
    bench.stop()
    bench.reboot(arm_model(bench.station.arm.model).names[-1])
    bench.rearm()
    found = bench.registers("group", "arm", "Profile_Velocity")
    if found != wanted or 0 in found:
        raise Broken(f"Profile_Velocity is {found} after a reboot, and was {wanted}: 0 is full speed")
    _goes_on(bench, BOOT_S, "an accepted action after a reboot")
    return f"Profile_Velocity is {found[0]} ms again on all six"


def _goes_on(bench: ArmBench, seconds: float, what: str) -> None:
    """Actions at the station's rate, until one is accepted. Raises: Broken where none is."""
    watch = Stopwatch()
    while not bench.send(NOTHING).accepted:
        if watch.seconds() > seconds:
            raise Broken(f"{what}: not within {seconds:g} s ({bench.state.detail})")
        time.sleep(bench.period)


def _stays(bench: ArmBench) -> None:
    """Raises: Broken where the end effector moves on."""
    before = bench.pose[:3]
    time.sleep(0.4)
    moved = float(np.linalg.norm(bench.pose[:3] - before))
    if moved > HELD_M:
        raise Broken(f"the held arm moved by {moved * 1000:.0f} mm")


CHECKS: dict[str, Callable[[ArmBench], str]] = {
    "timing": check_timing,
    "joints": check_joints,
    "motion": check_motion,
    "velocity": check_velocity,
    "latency": check_latency,
    "gripper": check_gripper,
    "limits": check_limits,
    "old actions": check_old_actions,
    "hold": check_hold,
    "stop": check_stop,
    "silence": check_silence,
    "reboot": check_reboot,
}
