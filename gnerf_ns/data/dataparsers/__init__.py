"""From a folder to nerfstudio's dataparser outputs."""
