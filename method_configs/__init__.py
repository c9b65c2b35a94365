"""The methods that the package registers with nerfstudio."""
