"""Where the contract suites take their parameters from, so that nothing in a registry escapes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Unproven(Exception):
    """A registry entry lacks what its contract is proven with. Raised while tests are collected."""


def proven(registry: Mapping[str, Any], **proofs: Mapping[str, Any]) -> list[str]:
    """The registry's names, sorted, to parametrize over. Raises Unproven unless each has an entry in every proof.

    proofs: what the contracts compare with, by name of the entry; the keyword says what it is, as plain_form=PLAIN.
    """
    for what, proof in proofs.items():
        missing, surplus = sorted(registry.keys() - proof.keys()), sorted(proof.keys() - registry.keys())
        if missing:
            raise Unproven(f"{', '.join(missing)}: registered without {what}; add it, or the contracts prove nothing")
        if surplus:
            raise Unproven(f"{', '.join(surplus)}: {what} of nothing that is registered; remove it")
    return sorted(registry)
