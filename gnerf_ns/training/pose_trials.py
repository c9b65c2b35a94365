"""What runs of November 2026 name in their config.yml, so that these open: how few images were tried at other poses."""


class PoseTrialsConfig:
    """Its options have no effect any more."""


class ProbeFieldConfig:
    """Nor have these."""
