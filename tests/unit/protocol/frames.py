"""Hypothesis strategies for every frame of the protocol, derived from the types of the structs themselves."""

from __future__ import annotations

import types
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec
from hypothesis import strategies as st

from pubsub.protocol import messages as m

FRAME_TYPES: tuple[type, ...] = get_args(m.Frame)
"""Every frame struct."""

integers = st.integers(-(2**63), 2**64 - 1)
anything = st.recursive(
    st.none() | st.booleans() | integers | st.text(max_size=8) | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
_SIMPLE: dict[Any, st.SearchStrategy[Any]] = {
    int: integers,
    str: st.text(max_size=12),
    bytes: st.binary(max_size=12),
    bool: st.booleans(),
    float: st.floats(allow_nan=False),
    type(None): st.none(),
    Any: anything,
}


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a type as it may stand at a field of a frame."""
    if kind in _SIMPLE:
        return _SIMPLE[kind]
    if get_origin(kind) in (Union, types.UnionType):
        return st.one_of(*map(values_of, get_args(kind)))
    if get_origin(kind) is list:
        return st.lists(values_of(get_args(kind)[0]), max_size=3)
    if get_origin(kind) is dict:
        key, value = get_args(kind)
        return st.dictionaries(values_of(key), values_of(value), max_size=3)
    if get_origin(kind) is tuple:
        return st.tuples(*map(values_of, get_args(kind)))
    assert issubclass(kind, msgspec.Struct), f"no values are known of {kind}"
    return structs_of(kind)


def structs_of(kind: type) -> st.SearchStrategy[Any]:
    """Values of a struct, all fields given."""
    hints = get_type_hints(kind)
    names = kind.__struct_fields__  # type: ignore[attr-defined]
    return st.builds(
        lambda *fields: kind(**dict(zip(names, fields, strict=True))),
        *(values_of(hints[name]) for name in names),
    )


any_frame = st.one_of(*map(structs_of, FRAME_TYPES))


@st.composite
def batches(draw: st.DrawFn, min_size: int = 1) -> m.Batch:
    """Batches whose columns fit each other, as a server sends them."""
    count = draw(st.integers(min_size, 8))
    first = draw(st.integers(0, 2**40))
    offsets = None
    if count and draw(st.booleans()):
        steps = draw(st.lists(st.integers(1, 5), min_size=count - 1, max_size=count - 1))
        offsets = [first]
        for step in steps:
            offsets.append(offsets[-1] + step)

    def column(cells: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.lists(cells, min_size=count, max_size=count)

    texts = st.none() | column(st.none() | st.text(max_size=6))
    return m.Batch(
        first,
        offsets,
        draw(st.integers(0, 2**50) | column(st.integers(0, 2**50))),
        draw(texts),
        draw(texts),
        draw(column(st.none() | st.binary(max_size=9))),
    )
