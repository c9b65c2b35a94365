"""The run-time type checker of the test suite; named in pyproject.toml's pytest settings."""

from beartype import BeartypeConf, beartype

# As for static checkers, an int will do where a float is asked for.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
