from unittest.mock import Mock

import pytest
import viser

from gnerf_ns.training.live_view import TrainingStatus
from gnerf_ns.training.schedule import PhaseScheduleConfig

SCHEDULE = PhaseScheduleConfig(phase_a_steps=10, interleaved_steps=6, phase_b_steps=20)


@pytest.mark.parametrize(
    "step, phase, end", [(0, "A", 10), (9, "A", 10), (10, "AB", 16), (11, "AB", 16), (16, "B", 36), (35, "B", 36)]
)
def test_says_phase_step_and_end(step, phase, end):
    status = TrainingStatus(SCHEDULE)
    status.report(step)
    assert status.text.startswith(f"**Phase {phase}**")
    assert f"Step {step + 1}, phase ends at {end} " in status.text


def test_panel_shows_what_was_reported_before_and_after_it_was_built():
    status = TrainingStatus(SCHEDULE)
    server = Mock(spec=viser.ViserServer)
    server.gui = Mock()
    markdown = server.gui.add_markdown.return_value = Mock(spec=viser.GuiMarkdownHandle)
    status.report(3)
    status.install(server)
    server.gui.add_markdown.assert_called_once_with(status.text)
    status.report(20)
    assert markdown.content == status.text
    assert "Phase B" in status.text
