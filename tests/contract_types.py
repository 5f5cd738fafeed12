"""Contracts that see through lazy packages: `from analyses import run` is an import of the module `run` lives in.

import-linter follows imports between files. A package that hands names on when they are asked for (PEP 562) would hide
what is behind it, or, since its names stand under TYPE_CHECKING, show all of it to whoever asks for one. The types of
contracts in pyproject.toml are import-linter's own, checked on a graph in which every name leads to where it lives.
"""

from __future__ import annotations

import ast
import copy
from functools import cache

from grimp import ImportGraph
from importlinter import Contract, ContractCheck
from importlinter.contracts.forbidden import ForbiddenContract
from importlinter.contracts.independence import IndependenceContract
from importlinter.contracts.layers import LayersContract
from importlinter.domain import fields

from analyses.core import keys


class Layers(LayersContract):
    """Import-linter's layers, on names seen through."""

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        return super().check(seen_through(graph), verbose)


class Forbidden(ForbiddenContract):
    """Import-linter's forbidden imports, on names seen through."""

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        return super().check(seen_through(graph), verbose)


class Independence(IndependenceContract):
    """Import-linter's independence, on names seen through."""

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        return super().check(seen_through(graph), verbose)


class Private(Contract):
    """Modules whose name begins with `_` are imported from their own package only, and by those allowed.

    Options:
        packages: where such modules lie.
        allowed_importers: packages that may import them all the same.
    """

    packages = fields.SetField(subfield=fields.StringField())
    allowed_importers = fields.SetField(subfield=fields.StringField(), required=False)

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        found = seen_through(graph)
        broken = [
            f"{user} imports {module} (l.{_line(found, user, module)})"
            for module in sorted(found.modules)
            if self._is_private(module)
            for user in sorted(found.find_modules_that_directly_import(module))
            if not keys.is_below(user, [module.rpartition(".")[0], *(self.allowed_importers or ())])
        ]
        return ContractCheck(kept=not broken, metadata={"broken": broken})

    def _is_private(self, module: str) -> bool:
        return keys.is_below(module, self.packages) and module.rpartition(".")[2].startswith("_")

    def render_broken_contract(self, check: ContractCheck) -> None:
        print("\n".join(check.metadata["broken"]))


def seen_through(graph: ImportGraph) -> ImportGraph:
    """The same graph with an edge from every importer of a name to the module the name lives in.

    Of what a lazy package says for typing nothing is left: it is said of its names, not of itself.
    """
    seen = copy.deepcopy(graph)
    for module in _lazy(frozenset(graph.modules)):
        for imported in graph.find_modules_directly_imported_by(module):
            seen.remove_import(importer=module, imported=imported)
    for edge in _named(frozenset(graph.modules)):
        seen.add_import(importer=edge[0], imported=edge[1], line_number=edge[2], line_contents=edge[3])
    return seen


@cache
def _lazy(modules: frozenset[str]) -> list[str]:
    """Packages that hand names on when they are asked for."""
    return sorted(m for m in modules if hands_on(_tree(m)))


def hands_on(tree: ast.Module) -> bool:
    """True of a package that hands names on when they are asked for: it says how in `__getattr__`."""
    stored = (n for node in tree.body if isinstance(node, ast.Assign) for n in ast.walk(node))
    return any(getattr(n, "name", getattr(n, "id", "")) == "__getattr__" for n in (*tree.body, *stored))


@cache
def _named(modules: frozenset[str]) -> list[tuple[str, str, int, str]]:
    """(importer, module a name lives in, line, what it says) of every import of ours in files that are not lazy."""
    lazy = set(_lazy(modules))
    return [
        (module, home, node.lineno, ast.unparse(node))
        for module in sorted(modules - lazy)
        if (file := keys.source_file(module))
        for node, package, name in keys.named_in(_tree(module), file)
        for home in sorted(keys.homes(package, name) - {module})
        if home in modules
    ]


@cache
def _tree(module: str) -> ast.Module:
    file = keys.source_file(module)
    return ast.parse(file.read_bytes() if file else "")


def _line(graph: ImportGraph, importer: str, imported: str) -> int | str:
    found = graph.get_import_details(importer=importer, imported=imported)
    return found[0]["line_number"] if found else "?"
