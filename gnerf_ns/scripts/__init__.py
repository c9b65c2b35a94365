"""Console commands."""

import warnings

# nerfstudio and torch warn of their own deprecations, as they are imported and later: it would tear progress displays.
warnings.filterwarnings("ignore", module=r"(nerfstudio|torch)\b")
