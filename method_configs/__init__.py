"""Method specifications that the entry points name; imported as `gnerf_ns.method_configs`."""
