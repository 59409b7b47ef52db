"""Reads settings from the environment, and describes its mistakes in sentences."""

from collections.abc import Iterable
from difflib import get_close_matches
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic import AliasChoices, SecretStr, ValidationError

from trio_signal.config import PREFIX, Settings
from trio_signal.errors import SettingError

#: Settings that are also options of `serve`.
_OPTIONS = frozenset({"host", "port", "workers", "redis_url", "database_url"})
#: Variables that the command line reads besides the settings.
_OF_COMMANDS = ("TRIO_SIGNAL_URL", "TRIO_SIGNAL_TOKEN")


def load_settings(**overrides: object) -> Settings:
    """Read the environment; an override that is None or empty counts as missing.

    Raises SettingError, which names the setting (or the option of `serve` that was given), the
    value and what is allowed.
    """
    given = {_key(name): value for name, value in overrides.items() if value not in (None, "")}
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        sentences = (_explain(each, given) for each in error.errors())
        raise SettingError("; ".join(sentences)) from None


def unknown_variables(environment: Iterable[str]) -> dict[str, str | None]:
    """Variables with our prefix that are no settings, each with the closest setting, if any."""
    known = {_variable(_key(name)): name.upper() for name in Settings.model_fields}
    known |= {variable: variable.removeprefix(PREFIX) for variable in _OF_COMMANDS}
    unknown = {}
    for variable in sorted(set(environment)):
        name = variable.upper()  # settings are read in either case
        if name.startswith(PREFIX) and name not in known:
            unknown[variable] = _nearest(name.removeprefix(PREFIX), known)
    return unknown


def _nearest(word: str, known: dict[str, str]) -> str | None:
    """The variable that was probably meant, compared by its full and its short name."""
    short = {name: variable for variable, name in known.items()}
    short |= {variable: variable for variable in known if not variable.startswith(PREFIX)}
    matches = get_close_matches(word, short, n=1)
    return short[matches[0]] if matches else None


def _explain(error: Any, given: dict[str, object]) -> str:
    """Describe what is wrong with a value, in one sentence."""
    if not error["loc"]:  # settings contradict each other
        return str(error["ctx"]["error"])
    key = str(error["loc"][0])
    variable = _variable(key)
    (name,) = (name for name in Settings.model_fields if _key(name) == key)
    called = f"--{name.replace('_', '-')}" if name in _OPTIONS and key in given else variable
    if error["type"] == "value_error":  # one of ours
        return f"{called} {error['ctx']['error']}"
    sentence = f"{called} must be {_allowed(name)}"
    return sentence if variable in _UNSAID else f"{sentence}, not {str(error['input'])!r}"


def _allowed(name: str) -> str:
    """Describe the allowed values of a setting."""
    field = Settings.model_fields[name]
    kinds = get_args(field.annotation)
    kind = kinds[0] if NoneType in kinds else field.annotation
    if get_origin(kind) is Literal:
        *words, last = get_args(kind)
        return f"{', '.join(words)} or {last}"
    if kind is bool:
        return "true or false"
    if kind not in (int, float):
        return "the path of an existing file"
    bounds = {
        bound: getattr(each, bound)
        for each in field.metadata
        for bound in ("ge", "le", "gt")
        if hasattr(each, bound)
    }
    number = "a whole number" if kind is int else "a number"
    if "le" in bounds:
        return f"{number} from {bounds['ge']} to {bounds['le']}"
    return (
        f"{number} above {bounds['gt']}" if "gt" in bounds else f"{number}, {bounds['ge']} or more"
    )


def _key(name: str) -> str:
    """Pydantic's key of a setting: its variable if it is a platform's, else its name."""
    alias = Settings.model_fields[name].validation_alias
    return str(alias.choices[0]) if isinstance(alias, AliasChoices) else name


def _variable(key: str) -> str:
    return key if key.isupper() else f"{PREFIX}{key.upper()}"


#: Variables whose values are never printed. A public key may be a private one by mistake, and a URL
#: may contain a password.
_UNSAID = {
    _variable(_key(name))
    for name, field in Settings.model_fields.items()
    if SecretStr in (field.annotation, *get_args(field.annotation))
    or name in {"jwt_public_key", "jwks_url", "relay_urls"}
}
