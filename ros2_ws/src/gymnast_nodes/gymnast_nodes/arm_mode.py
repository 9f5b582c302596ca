"""What the arm does now, and why, as arm/state says it."""

from __future__ import annotations

from gymnast_msgs.msg import ArmState

NAMES = {
    ArmState.MODE_UNCONFIGURED: "not active",
    ArmState.MODE_READY: "ready",
    ArmState.MODE_MOVING: "resetting",
    ArmState.MODE_HOLDING: "holding",
    ArmState.MODE_STOPPED: "stopped",
}


class Mode:
    """One of ArmState.MODE_*, with a reason for people."""

    def __init__(self) -> None:
        self.value: int = ArmState.MODE_UNCONFIGURED
        self.detail = "not configured"
        self.resting = False
        """Whether the arm lies with its motors let go; to others it is then not active."""

    def __str__(self) -> str:
        return ("resting" if self.resting else NAMES[self.value]) + (f": {self.detail}" if self.detail else "")

    def set(self, value: int, detail: str) -> None:
        """Whatever it was before."""
        self.value, self.detail, self.resting = value, detail, False

    def rest(self) -> None:
        """The arm lies; nobody keeps it where it is."""
        self.set(ArmState.MODE_UNCONFIGURED, "it rests with its motors let go; arm/reset wakes it")
        self.resting = True

    def set_unless_stopped(self, value: int, detail: str) -> None:
        """A stopped arm stays stopped until it is re-armed."""
        if not self.stopped:
            self.set(value, detail)

    @property
    def stopped(self) -> bool:
        """Whether only a person may go on."""
        return self.value == ArmState.MODE_STOPPED

    @property
    def moving(self) -> bool:
        """Whether a reset is under way."""
        return self.value == ArmState.MODE_MOVING

    @property
    def at_work(self) -> bool:
        """Whether motion is commanded."""
        return self.value in (ArmState.MODE_READY, ArmState.MODE_MOVING)

    @property
    def in_charge(self) -> bool:
        """Whether the arm is kept where it was commanded to."""
        return self.at_work or self.value == ArmState.MODE_HOLDING
