"""A line in the viewer's panel that says where training stands."""

from __future__ import annotations

from typing import Optional

import viser
from nerfstudio.viewer.viewer_elements import ViewerElement

from gnerf_ns.model_components.phase_schedule import PhaseScheduleConfig

PHASES = {
    "A": "renderings at random poses against the photographs",
    "AB": "the phases A and B take turns",
    "B": "each photograph at its own pose",
}


class TrainingStatus(ViewerElement[str]):
    """Phase and step; nerfstudio puts it under "Custom Elements", as a public attribute of the pipeline."""

    def __init__(self, schedule: PhaseScheduleConfig) -> None:
        super().__init__("Training status")
        self._schedule = schedule
        self._markdown: Optional[viser.GuiMarkdownHandle] = None
        self.text = "Not trained yet."

    def install(self, viser_server: viser.ViserServer) -> None:
        """Called by nerfstudio inside the panel's folder."""
        self._markdown = viser_server.gui.add_markdown(self.text)

    def report(self, step: int) -> None:
        """Say that a step, counted from 0, is done."""
        schedule = self._schedule
        plan = schedule.at(step)
        end = {"A": schedule.interleaved_start, "AB": schedule.phase_a_end, "B": schedule.total_steps}[plan.name]
        self.text = (
            f"**Phase {plan.name}**: {PHASES[plan.name]}  \n"
            f"Step {step + 1}, phase ends at {end}  \n"
            f"Photographs at {plan.image_side} pixels"
        )
        if self._markdown is not None:
            self._markdown.content = self.text
