"""`ns-train` on a tiny set, as a program of its own: its arguments are data, output and what the run is to come to.

All that `ns-train` does once it has read its own arguments, which takes as long as all the rest.
"""

import sys
from pathlib import Path
from typing import Any, List

if __name__ == "__main__":
    data, output, fate = sys.argv[1:]
    sys.argv = ["ns-train", "gnerf-ns-tiny", "--data", data, "--output-dir", output]

    import torch
    from nerfstudio.scripts import train
    from tiny_run import trainer_config

    from gnerf_ns.runs import progress_display
    from gnerf_ns.training import trust
    from gnerf_ns.training.placement import PoseOrigin
    from gnerf_ns.training.pose_status import PoseStatus

    def good(costs: Any, image_set: Any, poses: Any, origins: torch.Tensor, *others: Any) -> List[PoseStatus]:
        """Twelve steps do not get there, and of seven that only a field speaks for nobody is sure."""
        return [PoseStatus(PoseOrigin.MATCHES, 0.95, False) for _ in origins]

    config = trainer_config(Path(data), Path(output), "transport", steps_per_eval_image=10**9)
    config.logging = progress_display.progress_logging()
    config.viewer.quit_on_train_completion = True
    if fate == "fails":
        config.pipeline.restarts.min_explained_variance, config.pipeline.restarts.max_restarts = 0.999, 0
    else:
        trust.pose_statuses = good
    if fate == "is slow":
        progress_display.SECONDS_PER_LINE = 0.0
    if fate == "is interrupted":
        config.max_num_iterations, config.pipeline.schedule.phase_b_steps = 10_000, 10_000
    train.main(config)
