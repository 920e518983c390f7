"""Table of timm architectures in docs/networks.md.

`python -m fcn.models.timm_table` prints the table; `python -m fcn.models.timm_table NAME ...` prints that of other
architectures.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

import timm

from fcn.config import ConfigError
from fcn.models.cell_positions import measure_offsets
from fcn.models.timm_architectures import Architecture, find_architecture, output_strides

EXAMPLES = (
    "convmixer_768_32", "convnext_atto", "cpubone_nano", "cs3darknet_focus_s", "csatv2", "cspnext_tiny", "davit_tiny",
    "deit_tiny_patch16_224", "densenet121", "dla46x_c", "dpn48b", "edgenext_xx_small", "ese_vovnet19b_slim",
    "eva02_tiny_patch14_224", "fasternet_t0", "fastvit_t8", "focalnet_tiny_srf", "ghostnet_050", "hardcorenas_a",
    "hgnetv2_b0", "hieradet_small", "hrnet_w18_small", "iformer_t", "inception_next_atto", "lcnetv2_small",
    "legacy_seresnet18", "legacy_xception", "lowformer_b0", "mambaout_femto", "maxvit_pico_rw_256", "mobileone_s1",
    "mobilenetv3_small_050", "mobilevit_xxs", "mvitv2_tiny", "nf_regnet_b0", "poolformer_s12", "pvt_v2_b0",
    "rdnet_tiny", "regnety_002", "repghostnet_050", "repvit_m0_9", "res2next50", "resnest14d", "resnet18",
    "resnetv2_18", "rexnet_100", "selecsls42", "skresnet18", "starnet_s050", "swiftformer_xs",
    "swin_tiny_patch4_window7_224", "swinv2_cr_tiny_224", "swinv2_tiny_window8_256", "tf_efficientnet_lite0",
    "tiny_vit_5m_224", "tresnet_m", "twins_pcpvt_small", "vit_small_patch14_dinov2", "vitamin_small_224",
    "xception41p", "xcit_nano_12_p8_224",
)  # fmt: skip
"""A small architecture of each of 61 modules of timm."""

HEADER = """\
| architecture | module | strides | image size | `model.alignment` | `backbone.output_stride` |
|---|---|---|---|---|---|"""


def table(names: Iterable[str] = EXAMPLES) -> str:
    """Return the table in Markdown, with one row for each architecture."""
    return "\n".join([HEADER, *(row(name) for name in names)])


def row(name: str) -> str:
    """Return the row of an architecture; the reason if it cannot be used."""
    module = timm.models.model_entrypoint(timm.models.get_arch_name(name)).__module__.rpartition(".")[2]
    try:
        architecture = find_architecture(name)
    except ConfigError as error:
        reason = str(error).partition(" must ")[2].partition(";")[0]
        return f"| {name} | {module} | must {reason} | | | |"
    cells = [
        name,
        module,
        _listed(architecture.strides),
        _padding(architecture),
        "chapter" if None in measure_offsets(architecture) else "chapter, centered",
        _listed(output_strides(architecture)),
    ]
    return f"| {' | '.join(cells)} |"


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))


def _padding(architecture: Architecture) -> str:
    multiple, remainder = architecture.multiple, architecture.remainder
    if multiple == 1:
        return "any"
    return f"padded to {multiple}n{f' + {remainder}' if remainder else ''}"


if __name__ == "__main__":
    print(table(sys.argv[1:] or EXAMPLES))
