"""What `gymnast data check` found in all episodes; result.json of its run folder."""

from __future__ import annotations

from dataclasses import dataclass

from gymnast_core.evaluation.findings import Finding


@dataclass(frozen=True)
class Mended:
    """What mending did. codes: of the findings before it. told: in words, with the names under which the old files are
    kept."""

    episode: str
    codes: tuple[str, ...]
    told: str


@dataclass(frozen=True)
class CheckResult:
    """What a check found. planned, checked, clean: episodes. recording: episodes that are being recorded, left alone.
    findings: those that are left, errors first. mended: episodes that were changed."""

    planned: int
    checked: int
    clean: int
    findings: tuple[Finding, ...] = ()
    mended: tuple[Mended, ...] = ()
    recording: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """For people, in one line."""
        broken = self.checked - self.clean
        ended = f"interrupted after {self.checked} of {self.planned} episodes; " if self.interrupted else ""
        mended = f", {len(self.mended)} mended" if self.mended else ""
        open_now = f", {len(self.recording)} being recorded left alone" if self.recording else ""
        return f"{ended}{self.clean} of {self.checked} episodes are whole, {broken} have findings{mended}{open_now}"

    @property
    def interrupted(self) -> bool:
        """Whether episodes were left out since the run was asked to stop."""
        return self.checked + len(self.recording) < self.planned
