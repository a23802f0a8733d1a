"""The layouts that are known, one file each."""

from __future__ import annotations

from crossalign.convert.layout import Layout
from crossalign.convert.layouts.camera import CAMERA
from crossalign.convert.layouts.camera_selfalign import CAMERA_SELFALIGN
from crossalign.convert.layouts.scan import SCAN
from crossalign.convert.layouts.sgraf import SGRAF
from crossalign.convert.layouts.vse_infinity import VSE_INFINITY
from crossalign.convert.layouts.vse_infinity_bert import VSE_INFINITY_BERT
from crossalign.convert.layouts.vsrn import VSRN
from crossalign.convert.layouts.vsrn_selfalign import VSRN_SELFALIGN

__all__ = ["LAYOUTS"]

LAYOUTS: tuple[Layout, ...] = (
    VSE_INFINITY,
    VSE_INFINITY_BERT,
    VSRN,
    VSRN_SELFALIGN,
    CAMERA,
    CAMERA_SELFALIGN,
    SCAN,
    SGRAF,
)
