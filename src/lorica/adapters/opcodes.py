"""A reader of pickles that can run nothing: texts, numbers, lists, dicts, and calls that only its caller understands.

`pickle.Unpickler` with a strict `find_class` was the other way. It imports and calls whatever that method hands out,
sets attributes (BUILD), asks `copyreg` for registered extensions, and reserves as much memory as a number in the file
says (a memo index of 2^31, a text of 2^40 bytes). Here a name is a text, and stays one: there is no import, no call, no
attribute and no class in this module. `pickletools.genops` takes the opcodes apart; those below are all that torch.save
needs to describe tensors, and any other is refused by name. Lengths are those of bytes that are there, since the whole
pickle is in memory, and what is made of it is as large as it.
"""

from __future__ import annotations

import io
import pickletools
import struct
from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import Any

import msgspec

from lorica.adapters.json_document import short_text
from lorica.errors import AdapterError

MAX_OPCODES = 4_000_000  # a tensor takes 32
# Larger numbers than torch's own mark of 80 bits have no meaning here.
_MAX_BITS = 128
_MAX_INDEX = 2**32

_TRUST = (
    "where it was made, save it with save_pretrained(..., safe_serialization=True); do not load it unless you trust "
    "whoever made it"
)
_VALUES = frozenset(
    {
        "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "UNICODE",
        "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES",
        "BINBYTES8",
    }
)  # fmt: skip
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}

Call = Callable[[str, tuple[Any, ...]], Any]
Load = Callable[[Any], Any]


class Name(msgspec.Struct, frozen=True):
    """What a pickle would import, as a text: "torch._utils._rebuild_tensor_v2"."""

    text: str


class PickleError(AdapterError):
    """A pickle that is damaged, or that asks for what no tensor needs."""


def refuse_pickle(action: str) -> PickleError:
    """The error for a pickle that asks for what it should not."""
    return PickleError(f"is a pickle that {action}: nothing of it was run", fix=_TRUST)


def read_pickle(
    pickle_stream: io.BytesIO, allowed_names: Collection[str], call_function: Call, load_persistent: Load
) -> Any:
    """The value of the pickle that begins at the file's position, which is behind it afterwards.

    allowed_names: what it may name. call_function: (name, arguments) -> what REDUCE gives. load_persistent: the value
    of a persistent id. Raises PickleError for anything but plain values, names and such calls, for a damaged pickle and
    for one of too many opcodes.
    """
    machine = _Machine(allowed_names, call_function, load_persistent)
    try:
        for opcode_count, (opcode, argument, _) in enumerate(pickletools.genops(pickle_stream)):
            if opcode_count > MAX_OPCODES:
                raise PickleError(f"is a pickle of more than {MAX_OPCODES} opcodes", fix=_TRUST)
            if opcode.name == "STOP":
                return machine.pop()
            machine.step(opcode.name, argument)
    except (ValueError, OverflowError, EOFError, struct.error) as error:
        raise PickleError(f"is no whole pickle ({short_text(error)})", fix="fetch or save the file again") from None
    raise PickleError("is no whole pickle (its end is missing)", fix="fetch or save the file again")


class _Machine:
    def __init__(self, allowed_names: Collection[str], call_function: Call, load_persistent: Load) -> None:
        self._names, self._call, self._load = allowed_names, call_function, load_persistent
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._copied = 0

    def step(self, opcode_name: str, argument: Any) -> None:
        """Carry out one opcode."""
        if opcode_name in _VALUES:
            self._stack.append(_value(argument))
        elif opcode_name in _CONSTANTS:
            self._stack.append(_CONSTANTS[opcode_name])
        elif opcode_name in _TUPLES:
            self._stack.append(tuple(reversed([self.pop() for _ in range(_TUPLES[opcode_name])])))
        elif opcode_name in ("PUT", "BINPUT", "LONG_BINPUT"):
            if not 0 <= argument < _MAX_INDEX:
                raise refuse_pickle("keeps a value at an index that nothing needs")
            self._memo[argument] = self._top()
        elif opcode_name == "MEMOIZE":
            self._memo[len(self._memo)] = self._top()
        elif opcode_name in ("GET", "BINGET", "LONG_BINGET"):
            if argument not in self._memo:
                raise ValueError(f"memo {argument} is empty")
            self._stack.append(self._memo[argument])
        elif (opcode_action := _ACTS.get(opcode_name)) is not None:
            opcode_action(self)
        elif opcode_name == "GLOBAL":
            self._name(argument.replace(" ", ".", 1))
        elif opcode_name not in ("PROTO", "FRAME"):
            argument_text = f" of {short_text(argument)}" if isinstance(argument, str) else ""
            raise refuse_pickle(f"holds the opcode {opcode_name}{argument_text}, which tensors do not need")

    def pop(self) -> Any:
        """The value on top of the stack, taken away."""
        top_value = self._top()
        del self._stack[-1]
        return top_value

    def _top(self) -> Any:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise ValueError("more is taken from the stack than was put there")
        return self._stack[-1]

    def _marked(self) -> list[Any]:
        """What stands above the last mark, both taken away."""
        if not self._marks:
            raise ValueError("a mark is missing")
        mark_position = self._marks.pop()
        values = self._stack[mark_position:]
        del self._stack[mark_position:]
        return values

    def _name(self, name_text: str) -> None:
        if name_text not in self._names:
            raise refuse_pickle(f"would import {short_text(name_text)}")
        self._stack.append(Name(name_text))

    def _stack_global(self) -> None:
        attribute, module = self.pop(), self.pop()
        if not isinstance(module, str) or not isinstance(attribute, str):
            raise refuse_pickle("would import what it hides")
        self._name(f"{module}.{attribute}")

    def _reduce(self) -> None:
        arguments, qualified_name = self.pop(), self.pop()
        if not isinstance(qualified_name, Name) or not isinstance(arguments, tuple):
            raise refuse_pickle(f"calls a {_kind(qualified_name)} with a {_kind(arguments)}")
        if qualified_name.text == "collections.OrderedDict":
            self._stack.append(self._ordered(arguments))
        else:
            self._stack.append(self._call(qualified_name.text, arguments))

    def _ordered(self, arguments: tuple[Any, ...]) -> OrderedDict[Any, Any]:
        ordered: OrderedDict[Any, Any] = OrderedDict()
        key_value_pairs = arguments[0] if arguments else []
        if len(arguments) > 1 or type(key_value_pairs) is not list:
            raise refuse_pickle("makes an OrderedDict of something else than pairs")
        self._copied += len(key_value_pairs)  # one list may be named again and again
        if self._copied > MAX_OPCODES:
            raise refuse_pickle(f"fills OrderedDicts with more than {MAX_OPCODES} pairs")
        if any(type(pair) not in (list, tuple) or len(pair) != 2 for pair in key_value_pairs):
            raise refuse_pickle("makes an OrderedDict of something else than pairs")
        _put(ordered, [pair_item for pair in key_value_pairs for pair_item in pair])
        return ordered

    def _build(self) -> None:
        object_state, top_value = self.pop(), self._top()
        # state_dict() keeps its modules' versions so; nothing reads them.
        if type(top_value) is not OrderedDict or not isinstance(object_state, dict):
            raise refuse_pickle(f"sets the state of a {_kind(top_value)}")

    def _persistent(self) -> None:
        self._stack.append(self._load(self.pop()))

    def _append(self, values: list[Any]) -> None:
        target = self._top()
        if type(target) is not list:
            raise refuse_pickle(f"appends to a {_kind(target)}")
        target += values

    def _set(self, values: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, dict):
            raise refuse_pickle(f"sets items of a {_kind(target)}")
        _put(target, values)

    def _dict(self) -> None:
        dict_items: dict[Any, Any] = {}
        _put(dict_items, self._marked())
        self._stack.append(dict_items)


_ACTS: dict[str, Callable[[_Machine], Any]] = {
    "MARK": lambda machine: machine._marks.append(len(machine._stack)),
    "POP_MARK": _Machine._marked,
    "POP": lambda machine: machine._marked() if machine._marks[-1:] == [len(machine._stack)] else machine.pop(),
    "DUP": lambda machine: machine._stack.append(machine._top()),
    "EMPTY_LIST": lambda machine: machine._stack.append([]),
    "EMPTY_DICT": lambda machine: machine._stack.append({}),
    "LIST": lambda machine: machine._stack.append(machine._marked()),
    "TUPLE": lambda machine: machine._stack.append(tuple(machine._marked())),
    "DICT": _Machine._dict,
    "APPEND": lambda machine: machine._append([machine.pop()]),
    "APPENDS": lambda machine: machine._append(machine._marked()),
    "SETITEM": lambda machine: machine._set([machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine: machine._set(machine._marked()),
    "STACK_GLOBAL": _Machine._stack_global,
    "REDUCE": _Machine._reduce,
    "BUILD": _Machine._build,
    "BINPERSID": _Machine._persistent,
}


def _value(argument: Any) -> Any:
    if isinstance(argument, int) and argument.bit_length() > _MAX_BITS:
        raise refuse_pickle(f"holds a number of {argument.bit_length()} bits")
    return argument


def _put(target: dict[Any, Any], values: list[Any]) -> None:
    if len(values) % 2:
        raise ValueError("a key without a value")
    for item_key, item_value in zip(values[::2], values[1::2], strict=True):
        # The hash of a deeply nested tuple would exhaust the machine's stack; chosen large numbers share one.
        if type(item_key) is not str and not (type(item_key) is int and 0 <= item_key < _MAX_INDEX):
            raise refuse_pickle(f"holds a dict with a {_kind(item_key)} as key")
        if item_key in target:
            raise refuse_pickle(f"gives the key {short_text(item_key, quoted=True)} twice")
        target[item_key] = item_value


def _kind(shown_value: Any) -> str:
    return shown_value.text if isinstance(shown_value, Name) else type(shown_value).__name__
