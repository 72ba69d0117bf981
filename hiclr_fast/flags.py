"""How settings show on the command line, beyond their type."""

import tyro


def default(text: str):
    """For a setting that is None where nothing is given, `Annotated[T | None, default("...")]`: what then holds."""
    return tyro.conf.arg(help_behavior_hint=lambda shown: f"(default: {text if shown == 'None' else shown})")


def called(flag: str):
    """Another flag, as "--eager", where the one of the field's name would negate itself twice."""
    return tyro.conf.arg(name=flag.removeprefix("--"))
