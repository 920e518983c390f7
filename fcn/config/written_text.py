"""Text that looks like a number or a truth value, such as name=2024_05_01, and stays what was written.

YAML and Hydra's grammar read `1_8` as 18, `1.10` as 1.1 and `true` as True, and a key of type text would become the
text of that. Keys of type text are therefore marked as text before they are parsed. Keys of other types do not change.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import omegaconf
import yaml
from omegaconf import _utils

from fcn.config.components import GROUPS, LIST_GROUPS
from fcn.config.overrides import split_override
from fcn.config.schema_keys import schema_fields

if TYPE_CHECKING:
    from hydra.grammar.gen.OverrideParser import OverrideParser

NUMBER_OR_BOOL = tuple(f"tag:yaml.org,2002:{name}" for name in ("int", "float", "bool"))
TEXT = "tag:yaml.org,2002:str"

NOT_OF_SCHEMA = (*GROUPS, *LIST_GROUPS, "dir", "subdir", "experiment", "study", "debug", "trainer", "search")
"""Names of text outside the schema: groups, whose options are names, and folders of Hydra."""

LOADER = "get_yaml_loader"
"""Name of the function of OmegaConf that returns its YAML loader."""


def text_names(schema: type) -> frozenset[str]:
    """Return the last names of all keys that hold text, lists of text or dicts with text, and those of the groups."""
    texts = [key for key, entry in schema_fields(schema).items() if re.search(r"\b(str|RunNames)\b", str(entry.type))]
    return frozenset([*(key.rpartition(".")[2] for key in texts), *NOT_OF_SCHEMA])


def quote_texts(overrides: Sequence[str], schema: type) -> list[str]:
    """Return overrides in which values of text keys that Hydra would read as another text are quoted.

    An override that cannot be parsed is returned as it is, for Hydra to report.

    >>> quote_texts(["name=1_8", "lr=1e3"], Config)
    ["name='1_8'", 'lr=1e3']
    """
    names = text_names(schema)
    return [_quote_text(override) if _last_name(override) in names else override for override in overrides]


def _last_name(override: str) -> str:
    """Return the last name of the key; an entry of a search space has the name of its key."""
    key, _ = split_override(override)
    return key.removesuffix(".choices").rpartition(".")[2]


def _quote_text(override: str) -> str:
    from hydra.errors import HydraException

    try:
        places = list(_changed_scalars(_parse(override)))
    except HydraException:
        return override
    for start, end in reversed(places):
        override = f"{override[:start]}'{override[start:end]}'{override[end:]}"
    return override


def _parse(override: str) -> Any:
    """Return the tree in which Hydra's parser puts an override; its public interface returns only the values."""
    from antlr4 import CommonTokenStream, InputStream
    from hydra.core.override_parser.overrides_visitor import HydraErrorListener
    from hydra.grammar.gen.OverrideLexer import OverrideLexer
    from hydra.grammar.gen.OverrideParser import OverrideParser

    lexer = OverrideLexer(InputStream(override))
    parser = OverrideParser(CommonTokenStream(lexer))
    for each in (lexer, parser):
        each.removeErrorListeners()
        each.addErrorListener(HydraErrorListener())
    return parser.override()  # type: ignore[no-untyped-call]


def _changed_scalars(node: Any) -> Iterator[tuple[int, int]]:
    """Yield start and end of every number or truth value whose text Python would write differently."""
    from hydra.grammar.gen.OverrideParser import OverrideParser

    if isinstance(node, OverrideParser.FunctionContext) and node.getChild(0).getText() in ("range", "interval"):
        return
    if isinstance(node, OverrideParser.PrimitiveContext):
        tokens = [child.symbol for child in node.getChildren() if child.symbol.type != OverrideParser.WS]
        if len(tokens) == 1 and _is_changed(tokens[0], OverrideParser):
            yield tokens[0].start, tokens[0].stop + 1
        return
    for child in getattr(node, "children", None) or ():
        yield from _changed_scalars(child)


def _is_changed(token: Any, grammar: type[OverrideParser]) -> bool:
    kinds: dict[int, Callable[[str], object]] = {
        grammar.INT: int,
        grammar.FLOAT: float,
        grammar.BOOL: lambda text: text.lower() == "true",
    }
    return token.type in kinds and str(kinds[token.type](token.text)) != token.text


@contextlib.contextmanager
def texts_as_written(schema: type) -> Iterator[None]:
    """Have OmegaConf, with which Hydra reads YAML files, read the values of text keys as text.

    The loader is a private function of OmegaConf (tested with 2.3.1), which has no option for it.
    """
    loader = functools.partial(yaml_loader, text_names(schema), _utils.get_yaml_loader())
    modules = [each for each in (_utils, omegaconf.omegaconf) if hasattr(each, LOADER)]  # the second in older versions
    before = [getattr(module, LOADER) for module in modules]
    for module in modules:
        setattr(module, LOADER, loader)
    try:
        yield
    finally:
        for module, original in zip(modules, before, strict=True):
            setattr(module, LOADER, original)


def yaml_loader(names: Collection[str], base: type[yaml.SafeLoader]) -> type[yaml.SafeLoader]:
    """Return a YAML loader that reads numbers and truth values below keys with one of these last names as text."""

    class Loader(base):  # type: ignore[misc]
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
            for key, value in node.value:
                if (name := str(key.value).rpartition(".")[2]) in names:
                    _mark_as_text(value, nested=name not in NOT_OF_SCHEMA)
                if key.value == "params" and isinstance(value, yaml.MappingNode):
                    _quote_parameters(value, names)
            return super().construct_mapping(node, deep=deep)

    return cast("type[yaml.SafeLoader]", Loader)


def _mark_as_text(node: yaml.Node, *, nested: bool) -> None:
    if isinstance(node, yaml.ScalarNode) and node.tag in NUMBER_OR_BOOL:
        node.tag = TEXT
    elif nested and isinstance(node, yaml.SequenceNode):
        for element in node.value:
            _mark_as_text(element, nested=True)
    elif nested and isinstance(node, yaml.MappingNode):
        for _, value in node.value:
            _mark_as_text(value, nested=True)


def _quote_parameters(node: yaml.MappingNode, names: Collection[str]) -> None:
    """Quote the texts in hydra.sweeper.params, whose values are parsed like overrides."""
    for key, value in node.value:
        override = f"{key.value}={value.value}"
        if isinstance(value, yaml.ScalarNode) and _last_name(override) in names:
            value.tag, value.value = TEXT, _quote_text(override).partition("=")[2]
