from __future__ import annotations

import pytest
from timm.models._efficientnet_builder import decode_arch_def

from supernet.nn.block_string import BlockString

STRINGS = (
    "ir_r1_k5_s1_e3_c40_se0.25_nre",
    "ir_r1_k3_s2_e2.3_c16_nhs",
    "ds_r1_k13_s2_e1_c8_nr6",
    "dsa_r1_k3_s1_e1_c8_nsw",
    "cn_r1_k1_s1_c960",
    "uir_r1_a3_k5_s2_e4_c80",
    "cn_r1_k3_s1_e1_c24_skip",
    "ir_r1_k3_s1_e8_c96_nre_noskip",
)


@pytest.mark.parametrize("text", STRINGS)
def test_it_reads_and_writes_the_same(text: str) -> None:
    assert str(BlockString.parse(text)) == text


@pytest.mark.parametrize("text", STRINGS)
def test_its_options_are_timms(text: str) -> None:
    options, ((timms,),) = BlockString.parse(text).options, decode_arch_def([[text]])
    names = {"width": "out_chs", "stride": "stride", "expand_ratio": "exp_ratio"}
    for ours, theirs in names.items():
        if ours in options and theirs in timms:
            assert options[ours] == timms[theirs]


def test_some_options_change_and_the_rest_stays() -> None:
    string = BlockString.parse("ir_r1_k5_s1_e3_c40_se0.25_nre")
    assert str(string.with_(kernel_size=3)) == "ir_r1_k3_s1_e3_c40_se0.25_nre"
    assert str(string.with_(expand_ratio=2 / 3)) == "ir_r1_k5_s1_e0.666667_c40_se0.25_nre"
    assert str(string) == "ir_r1_k5_s1_e3_c40_se0.25_nre"


@pytest.mark.parametrize(
    "text",
    ["", "ir", "ir_r2_k3", "ir_r999999999_k3_s1_e3_c16_nre", "ir_r1_k3_s3", "ir_r1_k_s1",
     "ir_r1_k3333", "ir_r1_c1234567", "ir_r1_nxx", "ir_r1_nskip", "ir_r1_k3_", "IR_r1_k3",
     "ir_r1_k3\n", "ir_r1_e1e9", "ir_r1_k³"],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="block string"):
        BlockString.parse(text)
