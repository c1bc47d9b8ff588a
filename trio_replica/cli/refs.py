"""Refs as arguments of a command."""

from __future__ import annotations

import re

import click

from .._blob import REF_SIZE, Ref


def checked_prefix(context: click.Context, parameter: click.Parameter, text: str | None) -> str:
    """Return the first digits of a ref in lower case, or an empty text if there is none."""
    if text is None:
        return ""
    if re.fullmatch(rf"[0-9a-fA-F]{{1,{2 * REF_SIZE}}}", text) is None:
        raise click.BadParameter(f"{text!r} is not 1 to {2 * REF_SIZE} hexadecimal digits", context, parameter)
    return text.lower()


def checked_ref(context: click.Context, parameter: click.Parameter, text: str | None) -> Ref | None:
    """Return the ref in a text, or None if there is no text."""
    if text is None:
        return None
    digits = checked_prefix(context, parameter, text)
    if len(digits) < 2 * REF_SIZE:
        problem = f"{text!r} has {len(digits)} digits, but all {2 * REF_SIZE} of the ref are needed here"
        raise click.BadParameter(problem, context, parameter)
    return Ref.from_hex(digits)
