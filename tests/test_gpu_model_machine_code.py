"""The machine code of GPUs as the model reads and runs it."""

from __future__ import annotations

import struct

import pytest

from bench.gpu_model import library, machine_code
from bench.gpu_model.execution import NotUnderstood, Program
from bench.gpu_model.integers import OPERATIONS
from bench.gpu_model.steps import POINTER, Thread

LISTING = """
        /*0000*/                   S2UR UR4, SR_CTAID.X ;
        /*0010*/                   LDC.64 R4, c[0x0][0x210] ;
        /*0020*/                   ULDC UR8, c[0x0][0x218] ;
        /*0030*/                   IMAD.U32 R3, RZ, RZ, UR4 ;
        /*0040*/                   IMAD.WIDE.U32 R4, R3, 0x8, R4 ;
        /*0050*/                   LDG.E.64 R6, desc[UR6][R4.64+0x8] ;
        /*0060*/                   ISETP.NE.U32.AND P0, PT, R6, 0x7, PT ;
        /*0070*/                   ISETP.NE.AND.EX P0, PT, R7, RZ, PT, P0 ;
        /*0080*/              @!P0 EXIT ;
.L_x_1:
        /*0090*/                   FADD R8, R8, R8 ;
        /*00a0*/                   IADD3 R3, R3, 0x3, RZ ;
        /*00b0*/                   ISETP.GE.AND P1, PT, R3, UR8, PT ;
        /*00c0*/              @!P1 BRA `(.L_x_1) ;
        /*00d0*/                   FSETP.GT.AND P2, PT, R8, RZ, PT ;
        /*00e0*/               @P2 STG.E desc[UR6][R4.64], R8 ;
        /*00f0*/                   EXIT ;
.L_x_2:
        /*0100*/                   BRA `(.L_x_2);
"""
POINTER_AND_20 = struct.pack("<qi", 1 << POINTER, 20)


def visits(listing: str, block: int, parameters: bytes) -> list[int]:
    """By the first thread; the seventh of the first array's integers is a 7."""
    code = machine_code.Code(32, 0, 0, (), machine_code.parse(listing))
    memory = {(0, 8 * i): 7 if i == 6 else 0 for i in range(20)}
    thread = Thread(
        0, (block, 0, 0), 32, (8, 1, 1), tuple(parameters), lambda array, at: memory[array, at]
    )
    return Program(code).visits(thread)


def test_how_often_a_loop_runs() -> None:
    """From block to 20 in steps of 3; block 5 finds a 7 in memory and leaves."""
    found = visits(LISTING, 2, POINTER_AND_20)
    assert found == [1] * 9 + [6] * 4 + [1] * 3 + [0]
    assert visits(LISTING, 5, POINTER_AND_20) == [1] * 9 + [0] * 8
    # A branch to itself fills the end.
    assert machine_code.loops(machine_code.parse(LISTING), found) == [machine_code.Loop(9, 12)]


def test_votes_are_those_of_the_thread() -> None:
    listing = LISTING.replace(
        "              @!P0 EXIT ;",
        "                   VOTEU.ALL UP0, P0 ;\n        /*0088*/              @!UP0 EXIT ;",
    )
    assert visits(listing, 2, POINTER_AND_20) == [1] * 10 + [6] * 4 + [1] * 3 + [0]
    assert visits(listing, 5, POINTER_AND_20) == [1] * 10 + [0] * 8


def test_what_depends_on_data_is_not_counted() -> None:
    listing = LISTING.replace("STG.E desc[UR6][R4.64], R8", "BRA `(.L_x_1)")
    with pytest.raises(NotUnderstood, match="instruction 14, BRA, depends on data"):
        visits(listing, 2, POINTER_AND_20)


# As nvcc divides unsigned integers; the loop then runs as often as the quotient says.
DIVISION = """
        /*0000*/                   LDC.64 R2, c[0x0][0x210] ;
        /*0010*/                   I2F.U32.RP R0, R3 ;
        /*0020*/                   ISETP.NE.U32.AND P2, PT, R3, RZ, PT ;
        /*0030*/                   MUFU.RCP R0, R0 ;
        /*0040*/                   VIADD R4, R0, 0xffffffe ;
        /*0050*/                   F2I.FTZ.U32.TRUNC.NTZ R5, R4 ;
        /*0060*/                   HFMA2.MMA R4, -RZ, RZ, 0, 0 ;
        /*0070*/                   IADD3 R7, RZ, -R5, RZ ;
        /*0080*/                   IMAD R7, R7, R3, RZ ;
        /*0090*/                   IMAD.HI.U32 R5, R5, R7, R4 ;
        /*00a0*/                   IMAD.HI.U32 R6, R5, R2, RZ ;
        /*00b0*/                   IMAD.MOV R5, RZ, RZ, -R6 ;
        /*00c0*/                   IMAD R2, R3, R5, R2 ;
        /*00d0*/                   ISETP.GE.U32.AND P0, PT, R2, R3, PT ;
        /*00e0*/               @P0 IADD3 R2, R2, -R3.reuse, RZ ;
        /*00f0*/               @P0 VIADD R6, R6, 0x1 ;
        /*0100*/                   ISETP.GE.U32.AND P1, PT, R2, R3, PT ;
        /*0110*/               @P1 VIADD R6, R6, 0x1 ;
        /*0120*/              @!P2 LOP3.LUT R6, RZ, R3, RZ, 0x33, !PT ;
.L_x_1:
        /*0130*/                   VIADD R6, R6, 0xffffffff ;
        /*0140*/                   ISETP.GE.AND P0, PT, R6, 0x1, PT ;
        /*0150*/               @P0 BRA `(.L_x_1) ;
        /*0160*/                   EXIT ;
"""


@pytest.mark.parametrize(
    ("a", "b"),
    [(1, 1), (99, 10), (100, 10), (101, 10), (2**24 * 7 + 6, 2**24), (2**32 - 1, 2**28 + 1)],
)
def test_division_of_integers(a: int, b: int) -> None:
    assert visits(DIVISION, 0, struct.pack("<II", a, b))[19] == a // b


@pytest.mark.parametrize(
    ("opcode", "sources", "flags", "results"),
    [
        ("IADD3", [5, 2**32 - 5, 0], [], (0, True, False)),  # 5 - 5 borrows nothing
        ("IADD3", [4, 2**32 - 5, 0], [], (2**32 - 1, False, False)),
        ("IADD3.X", [1, 2**32 - 2, 0], [1, 0], (0, True, False)),
        ("IMAD.WIDE", [2**32 - 1, 4, 100], [], (96, True)),
        ("IMAD.WIDE.U32", [2**32 - 1, 4, 100], [], (4 * (2**32 - 1) + 100, False)),
        ("LEA", [3, 10, 2], [], (22, False)),
        ("LEA.HI", [0x80000000, 1, 0, 1], [], (2, False)),
        ("LEA.HI.X.SX32", [2**32 - 8, 5, 3], [1], (5, True)),
        ("LOP3.LUT", [0b1100, 0b1010, 0, 0xC0], [0], (0b1000, 1)),
        ("SHF.R.S32.HI", [0, 31, 2**32 - 7], [], (2**32 - 1,)),
        ("SHF.R.U32.HI", [0, 4, 0x123], [], (0x12,)),
        ("SHF.L.U64.HI", [0xC0000000, 1, 2], [], (5,)),
        ("SHF.R.U64", [0x10, 4, 0xF], [], (0xF0000001,)),
        ("VIMNMX", [3, 2**32 - 1], [1], (2**32 - 1,)),
        ("VIMNMX.U32", [3, 2**32 - 1], [1], (3,)),
        ("VIADDMNMX", [2, 2**32 - 3, 0], [0], (0,)),
        ("PRMT", [0x44332211, 0x7610, 0x88776655], [], (0x88772211,)),
        ("SGXT", [1, 1], [], (2**32 - 1,)),
    ],
)
def test_integer_instructions(
    opcode: str, sources: list[int], flags: list[int], results: tuple[int, ...]
) -> None:
    name, *modifiers = opcode.split(".")
    assert OPERATIONS[name](modifiers, sources, flags) == results


def test_what_is_in_machine_code() -> None:
    listing = """
        /*0000*/                   LDC R1, c[0x0][0x28] ;
.L_x_1:
        /*0010*/              @!P0 LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0020*/                   HMMA.16816.F32.BF16 R8, R4, R6, R8 ;
        /*0030*/               @P1 BRA `(.L_x_1) ;
        /*0040*/                   UIADD3 UR4, UP0, UR4, UR8, URZ ;
        /*0050*/                   LDC.64 R8, c[0x0][0x228] ;
"""
    found = machine_code.parse(listing)
    load = machine_code.Instruction("LDG.E.128", "!P0", ("R4", "desc[UR4][R2.64]"))
    assert found[1] == load
    assert [one.name for one in found] == ["LDC", "LDG", "HMMA", "BRA", "IADD3", "LDC"]
    assert found[3].target == 1
    assert machine_code.operations(found[2].opcode) == 2 * 16 * 8 * 16
    # The first is none of the kernel's parameters.
    assert machine_code.Code(32, 0, 0, (), found).constants() == {0x28 - 0x210, 0x18}


def test_names_of_kernels() -> None:
    """As a profiler shows them, and as C++ spells them."""
    profiled = "void moce::(anonymous namespace)::forward_kernel<3, 4, 2>(moce::DepthwiseConv, m"
    mangled = (
        "_ZN4moce57_GLOBAL__N__95dcfed4_24_depthwise_conv_kernel_cu_13e1597414forward_kernel"
        "ILi3ELi4ELi2EEEvNS_13DepthwiseConvENS_8RowTilesE"
    )
    assert library.short_name(profiled) == "forward_kernel<3, 4, 2>"
    assert library.short_name(mangled) == "forward_kernel<3, 4, 2>"
    assert library.short_name("_pointwise_conv") == "_pointwise_conv"
