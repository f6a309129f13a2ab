"""Texts that somebody made on purpose: XML, YAML, JSON, structures and tables."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from fuzzing.cases import Hostile, Seed
from fuzzing.worker import SENTINEL

Change = Callable[[bytes], bytes]


def _of_seed(change: Change, seed: Seed) -> bytes:
    return change(seed.content(seed.files[0]))


def _all(changes: dict[str, Change]) -> dict[str, Hostile]:
    return {name: partial(_of_seed, change) for name, change in changes.items()}


def _is(content: bytes) -> Change:
    return lambda _: content


#: What no reader of texts may take for a file of its own.
ALIENS: dict[str, Change] = {
    "nothing": _is(b""),
    "web page": _is(b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>\n"),
    "zeros": _is(bytes(4096)),
    "noise": _is(bytes(range(256)) * 16),
    "picture": _is(b"\x89PNG\r\n\x1a\n" + bytes(100)),
    "archive": _is(b"PK\x05\x06" + bytes(18)),
    "one line of a megabyte": _is(b"a" * 1_000_000),
    "a million lines": _is(b"\n" * 1_000_000),
    "escapes": _is(b"\x1b[2J\x1b]0;title\x07\n"),
    "utf-16": lambda data: data.decode("utf-8", "replace").encode("utf-16"),
}


# --- YAML and JSON ------------------------------------------------------------------------------


def _aliases(levels: int, width: int = 9) -> bytes:
    """Nested aliases: some hundred bytes that stand for `width` ** `levels` values."""
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * width)}]" for k in range(1, levels)]
    return "\n".join(rows).encode() + b"\n"


_DOCUMENTS: dict[str, bytes] = {
    "aliases": _aliases(9),
    "aliases as values": _aliases(9) + b"steps: *a8\n",
    "aliases merged": b"a: &a {x: 1}\n<<: [" + b"*a, " * 20_000 + b"*a]\n",
    "alias of itself": b"&a a: [*a]\n",
    "mapping in itself": b"&a\nb: *a\n",
    "deep lists": b"steps: " + b"[" * 20_000 + b"]" * 20_000 + b"\n",
    "deep mappings": b"steps: " + b"{a: " * 5_000 + b"1" + b"}" * 5_000 + b"\n",
    "deep blocks": b"".join(b" " * k + b"- \n" for k in range(2000)),
    "python object": f"steps: !!python/object/apply:os.mkdir ['{SENTINEL}']\n".encode(),
    "python name": b"steps: !!python/name:os.system\n",
    "unknown tag": b"steps: !other 3\n",
    "binary": b"steps: !!binary aGVsbG8=\n",
    "binary that is none": b"steps: !!binary '#'\n",
    "set": b"steps: !!set {1, 2}\n",
    "pairs": b"steps: !!pairs [a: 1, a: 2]\n",
    "list as a key": b"? [1, 2]\n: 3\n",
    "mapping as a key": b"? {a: 1}\n: 3\n",
    "date that is none": b"steps: 2026-13-45\n",
    "time that is none": b"steps: 2026-01-01 99:99:99\n",
    "digits": b"steps: " + b"9" * 6000 + b"\n",
    "hexadecimal digits": b"steps: 0x" + b"f" * 6000 + b"\n",
    "sexagesimal": b"steps: 1:30:99\n",
    "binary digits": b"steps: 0b2\n",
    "octal that is none": b"steps: 09\n",
    "exponent": b"temperature: 1e999\n",
    "not a number": b"temperature: .nan\n",
    "infinity": b"temperature: -.inf\n",
    "two documents": b"steps: 1\n---\nsteps: 2\n",
    "version": b"%YAML 9.9\n---\nsteps: 1\n",
    "a list": b"- 1\n- 2\n",
    "a text": b"hello\n",
    "a number": b"3\n",
    "nothing but null": b"~\n",
    "key null": b"~: 3\n",
    "keys twice": b"steps: 1\nsteps: 2\n",
    "keys equal": b"1: -1.0\n1.0: -2.0\n01: -3.0\n",
    "escapes in a key": b'"\\e[31mred": 3\n',
    "escapes in a value": b'steps: "\\e[31mred"\n',
    "separator in a key": b'"\\L": 3\n',
    "tabs": b"\tsteps: 1\n",
    "open text": b'steps: "1\n',
    "open list": b"steps: [1\n",
    "undefined alias": b"steps: *a\n",
    "surrogate": b'steps: "\\ud800"\n',
    "long key": b"k" * 100_000 + b": 1\n",
    "many keys": b"".join(b"k%d: 1\n" % k for k in range(20_000)),
    "block of blanks": b"steps: |\n" + b" " * 100_000 + b"\n",
    "fractional element": b"1.5: -3\n",
    "element 10^9": b"1000000000: -3\n",
    "element in other digits": "٣: -3\n".encode(),
    "element squared": "H²: -3\n²: -3\n".encode(),
    "energies of lists": b"H: [1]\nO: {a: 1}\n",
}


def documents() -> dict[str, Hostile]:
    """Documents of YAML, for files with settings or energies."""
    return _all(ALIENS | {name: _is(content) for name, content in _DOCUMENTS.items()})


# --- XML ----------------------------------------------------------------------------------------


class _Payload:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (SENTINEL,)

    def __call__(self, state: object) -> None:
        """Nothing; only a callable can be the body of a force."""


def _python_force(data: bytes) -> bytes:
    """The system with a force in it that runs code when it is read."""
    import openmm

    system = openmm.XmlSerializer.deserialize(data.decode())
    system.addForce(openmm.PythonForce(_Payload()))
    return openmm.XmlSerializer.serialize(system).encode()


def _collective(data: bytes) -> bytes:
    """The same force as a variable of another one."""
    import openmm

    system = openmm.XmlSerializer.deserialize(data.decode())
    force = openmm.CustomCVForce("x")
    force.addCollectiveVariable("x", openmm.PythonForce(_Payload()))
    system.addForce(force)
    return openmm.XmlSerializer.serialize(system).encode()


def _hidden(change: Callable[[Element], None], made: Change = _python_force) -> Change:
    """The hostile force, changed."""

    def changed(data: bytes) -> bytes:
        root = ElementTree.fromstring(made(data))
        for element in root.iter():
            if element.get("type") == "PythonForce":
                change(element)
        return ElementTree.tostring(root, xml_declaration=True, encoding="utf-8")

    return changed


def _tagged(tag: str) -> Callable[[Element], None]:
    def change(element: Element) -> None:
        element.tag = tag

    return change


def _typed(kind: str) -> Callable[[Element], None]:
    return lambda element: element.set("type", kind)


def _rooted(tag: str) -> Change:
    """The hostile force as the root of the file."""

    def changed(data: bytes) -> bytes:
        for element in ElementTree.fromstring(_python_force(data)).iter():
            if element.get("type") == "PythonForce":
                element.tag = tag
                return ElementTree.tostring(element, xml_declaration=True, encoding="utf-8")
        raise ValueError("OpenMM wrote no PythonForce")

    return changed


def _replaced(old: bytes, new: bytes) -> Change:
    return lambda data: _python_force(data).replace(old, new)


_ENTITIES = (
    b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">'
    + b"".join(b'<!ENTITY %c "%s">' % (98 + k, b"&%c;" % (97 + k) * 10) for k in range(9))
    + b"]><System>&j;</System>"
)


def systems() -> dict[str, Hostile]:
    """Systems of OpenMM that run code, swell, or are none."""
    return _all(
        ALIENS
        | {
            "PythonForce": _python_force,
            "PythonForce under another tag": _hidden(_tagged("Forse")),
            "PythonForce under a tag of OpenMM": _hidden(_tagged("Particle")),
            "PythonForce in small letters": _hidden(_typed("pythonforce")),
            "PythonForce with blanks": _hidden(_typed(" PythonForce ")),
            "PythonForce by a reference": _replaced(b'"PythonForce"', b'"&#80;ythonForce"'),
            "PythonForce by an entity": lambda data: (
                _python_force(data)
                .replace(b"?>", b'?><!DOCTYPE x [<!ENTITY p "PythonForce">]>', 1)
                .replace(b'"PythonForce"', b'"&p;"')
            ),
            "PythonForce in a namespace": _hidden(_tagged("{http://a.b}Force")),
            "PythonForce as the root": _rooted("Force"),
            "PythonForce as a System": _rooted("System"),
            "PythonForce in a variable": _collective,
            "PythonForce in a variable under another tag": _hidden(_tagged("X"), _collective),
            "PythonForce behind a comment": _replaced(b"<Forces>", b"<Forces><!-- <Force> -->"),
            "PythonForce in UTF-16": lambda data: (
                _python_force(data)
                .decode()
                .replace("?>", ' encoding="utf-16"?>', 1)
                .encode("utf-16")
            ),
            "entities": _is(_ENTITIES),
            "entity of a file": _is(
                b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
                b"<System>&a;</System>"
            ),
            "deep elements": _is(b"<System>" * 100_000 + b"</System>" * 100_000),
            "many attributes": _is(
                b"<System " + b"".join(b'a%d="" ' % k for k in range(50_000)) + b"/>"
            ),
            "integrator": _is(b'<?xml version="1.0"?><Integrator type="VerletIntegrator"/>'),
            "state": _is(b'<?xml version="1.0"?><State type="State" version="1"/>'),
            "no type": lambda data: data.replace(b'type="System"', b""),
            "version 99": lambda data: data.replace(b'version="1"', b'version="99"'),
            "another encoding": lambda data: data.replace(
                b'version="1.0"', b'version="1.0" encoding="utf-7"', 1
            ),
        }
    )


_CODE = f"import os; os.mkdir('{SENTINEL}')"
_CALL = f"__import__('os').mkdir('{SENTINEL}')"


_DECLARED = (
    f"<!DOCTYPE x [<!ENTITY s '<Script>import os; os.mkdir(&#34;{SENTINEL}&#34;)</Script>'>]>"
).encode()


def _with_element(text: str) -> Change:
    """The force field with one element more."""
    return lambda data: data.replace(b"<Residues>", text.encode() + b"<Residues>")


def force_fields() -> dict[str, Hostile]:
    """Force fields of OpenMM that run code, lead elsewhere or swell."""

    def evaluated(value: str) -> Change:
        new = f'<NonbondedForce useDispersionCorrection="{value}" '.encode()
        return lambda data: data.replace(b"<NonbondedForce ", new)

    patch = f"<InitializationScript>{_CODE}</InitializationScript>"
    return _all(
        ALIENS
        | {
            "script": _with_element(f"<Script>{_CODE}</Script>"),
            "initialization script": _with_element(patch),
            "script in a residue": lambda data: data.replace(
                b"</Residue>", f"<Script>{_CODE}</Script></Residue>".encode()
            ),
            "script by an entity": lambda data: (
                _DECLARED + data.replace(b"<Residues>", b"&s;<Residues>")
            ),
            "script in UTF-16": lambda data: (
                data.decode()
                .replace("<Residues>", f"<Script>{_CODE}</Script><Residues>")
                .encode("utf-16")
            ),
            "script as data": _with_element(f"<Script><![CDATA[{_CODE}]]></Script>"),
            "evaluated attribute": evaluated(_CALL),
            "evaluated attribute of another force": _with_element(
                f'<LennardJonesForce lj14scale="0.5" useDispersionCorrection="{_CALL}"/>'
            ),
            "includes itself": _with_element('<Include file="field.xml"/>'),
            "includes a password": _with_element('<Include file="/etc/passwd"/>'),
            "includes what is not there": _with_element('<Include file="nowhere.xml"/>'),
            "includes a device": _with_element('<Include file="/dev/zero"/>'),
            "entities": _is(_ENTITIES),
            "deep elements": _is(b"<ForceField>" * 100_000 + b"</ForceField>" * 100_000),
            "a patch of itself": _with_element('<Patches><Patch name="a"/></Patches>'),
            "a formula that swells": _with_element(
                '<CustomBondForce energy="r^9^9^9^9^9^9^9"><Bond class1="OW" class2="HW"/>'
                "</CustomBondForce>"
            ),
            "a formula deep": _with_element(
                f'<CustomBondForce energy="{"(" * 20_000}r{")" * 20_000}">'
                '<Bond class1="OW" class2="HW"/></CustomBondForce>'
            ),
            "mass of nan": lambda data: data.replace(b'mass="15.99943"', b'mass="nan"'),
            "mass below nothing": lambda data: data.replace(b'mass="15.99943"', b'mass="-1"'),
        }
    )


# --- structures, tables -------------------------------------------------------------------------


def structures() -> dict[str, Hostile]:
    """Structure files that lose atoms or have none."""

    def every(old: bytes, new: bytes) -> Change:
        return lambda data: data.replace(old, new)

    return _all(
        ALIENS
        | {
            "byte order mark": lambda data: b"\xef\xbb\xbf" + data,
            "byte order mark before the atoms": lambda data: (
                b"\xef\xbb\xbf"
                + b"".join(r for r in data.splitlines(True) if r.startswith((b"ATOM", b"HETATM")))
            ),
            "small letters": lambda data: data.lower(),
            "tabs": every(b"  ", b"\t"),
            "no ends of lines": every(b"\n", b" "),
            "coordinates not finite": every(b"0.", b"n."),
            "elements unknown": every(b" C  \n", b" Xx \n"),
            "no atoms": lambda data: b"".join(
                r for r in data.splitlines(True) if not r.startswith((b"ATOM", b"HETATM"))
            ),
            "box of nothing": lambda data: (
                b"CRYST1    0.000    0.000    0.000  90.00  90.00  90.00 P 1           1\n" + data
            ),
            "box without angles": lambda data: (
                b"CRYST1   30.000   30.000   30.000   0.00   0.00   0.00 P 1           1\n" + data
            ),
            "box of nan": lambda data: (
                b"CRYST1      nan      nan      nan  90.00  90.00  90.00 P 1           1\n" + data
            ),
            "many models": lambda data: b"".join(
                b"MODEL     %4d\n%sENDMDL\n" % (k, data.replace(b"END\n", b"")) for k in range(200)
            ),
            "bonds to nowhere": lambda data: data.replace(b"END\n", b"CONECT99999    1\nEND\n"),
            "one name for all": lambda data: b"".join(
                r[:12] + b" C  " + r[16:] if r.startswith((b"ATOM", b"HETATM")) else r
                for r in data.splitlines(True)
            ),
            "alternate locations": lambda data: b"".join(
                r[:16] + b"AB"[k % 2 : k % 2 + 1] + r[17:] if r.startswith(b"ATOM") else r
                for k, r in enumerate(data.splitlines(True))
            ),
        }
    )


def tables() -> dict[str, Hostile]:
    """Time series as text."""

    def strip_prefix(text: bytes) -> Change:
        return lambda data: data.splitlines(True)[0] + text

    return _all(
        ALIENS
        | {
            "header alone": strip_prefix(b""),
            "one row": lambda data: b"".join(data.splitlines(True)[:2]),
            "texts": strip_prefix(b"a,b,c,d,e\n"),
            "a row too short": lambda data: data + b"1,2\n",
            "time backwards": lambda data: (
                data.splitlines(True)[0] + b"".join(data.splitlines(True)[:0:-1])
            ),
            "time stands still": lambda data: (
                data.splitlines(True)[0] + data.splitlines(True)[1] * 64
            ),
            "not finite": lambda data: data.replace(b".", b"e999"),
            "many columns": _is(b"#" + b"a," * 300_000 + b"\n" + b"1," * 300_000 + b"\n"),
            "atoms by the million": lambda data: data.replace(b'"', b'"x', 1),
            "comments": lambda data: data + b"# \n" * 100_000,
        }
    )


def references() -> dict[str, Hostile]:
    """Extended XYZ files."""

    def first(text: bytes) -> Change:
        return lambda data: text + b"\n" + data.split(b"\n", 1)[1]

    return _all(
        ALIENS
        | {
            "10^9 atoms": first(b"1000000000"),
            "10^18 atoms": first(b"1000000000000000000"),
            "-1 atoms": first(b"-1"),
            "no atoms": first(b"0"),
            "digits": first(b"9" * 6000),
            "columns without end": lambda data: data.replace(b"pos:R:3", b"pos:R:300000000"),
            "negative columns": lambda data: data.replace(b"pos:R:3", b"pos:R:-3"),
            "other properties": lambda data: data.replace(b"species:S:1", b"species:R:1"),
            "deep info": lambda data: data.replace(b"energy=", b"x=" + b"[" * 5000 + b" energy="),
            "code in info": lambda data: data.replace(
                b"energy=", b'x="_JSON {\\"__import__(\'os\')\\": 1}" energy='
            ),
            "energy of nan": lambda data: data.replace(b"energy=", b"energy=nan old="),
            "energy of text": lambda data: data.replace(b"energy=", b"energy=low old="),
            "energy of many": lambda data: data.replace(b"energy=", b'energy="1 2 3" old='),
        }
    )
