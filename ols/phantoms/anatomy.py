"""What is painted: the shapes of each anatomy, and what each kind of lesion does to its site."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Shape(NamedTuple):
    """A soft ellipse or box; x runs from -1 (left) to 1, y from -1 (top) to 1, levels from 0 (black) to 1 (white)."""

    name: str  # what a class calls its site
    x: float
    y: float
    rx: float  # half axes before rotation
    ry: float
    level: float
    angle: float = 0.0  # degrees, clockwise on the screen
    rim: float = 0.0  # thickness of a border painted in `rim_level`: cortical bone, a vessel wall
    rim_level: float = 0.0
    box: bool = False
    mirror: bool = False  # painted on both sides of x = 0; the lesion sits on the one given
    fused: bool = False  # one bone with its fused neighbours in the table: no rim between them
    tied: str = ""  # an earlier shape whose jitter it shares


class Lesion(NamedTuple):
    """What a pathology paints, in units of the lesion's radius, or what it does to its site."""

    marks: tuple[tuple[float, ...], ...] = ()  # (dx, dy, rx, ry, angle, weight, softness) of each added ellipse
    grow: float = 1.0  # factor on the site's half axes
    shift: float = 0.0  # change of the site's level, in units of `contrast`


MARKS_PER_LESION = 4
LESIONS = {
    "none": Lesion(),
    "cyst": Lesion(((0, 0, 1.0, 1.0, 0, 1.1, 0.0),)),
    "mass": Lesion(
        ((0, 0, 1.7, 1.3, 15, 0.9, 0.3), (0.9, -0.7, 0.8, 0.7, 0, 0.6, 0.2), (-0.3, 0.2, 0.6, 0.5, 0, -1.1, 0.2))
    ),
    "ring": Lesion(((0, 0, 1.6, 1.6, 0, 1.2, 0.0), (0, 0, 1.0, 1.0, 0, -1.5, 0.0))),
    "nodules": Lesion(
        tuple((dx, dy, 0.5, 0.5, 0, 1.3, 0.0) for dx, dy in ((-1.3, -0.5), (1.1, -1.0), (0.3, 1.2), (-0.2, 0)))
    ),
    "edema": Lesion(((0, 0, 2.3, 1.9, 20, 1.0, 1.6),)),
    "calcification": Lesion(
        tuple((dx, dy, 0.42, 0.42, 0, 2.4, 0.0) for dx, dy in ((-0.7, 0.2), (0.45, -0.5), (0.5, 0.6)))
    ),
    "line": Lesion(((0, 0, 2.2, 0.3, 55, 1.5, 0.0),)),
    "scar": Lesion(tuple((0, 0, 1.8, 0.28, angle, 1.1, 0.0) for angle in (0, 60, 120))),
    "stripes": Lesion(tuple((dx, 0, 0.22, 1.8, 15, 1.2, 0.0) for dx in (-1.1, 0, 1.1))),
    "effusion": Lesion(((0, 0, 2.1, 1.7, 0, 1.4, 0.0), (0, -0.55, 1.6, 1.05, 0, -1.4, 0.0))),
    "swelling": Lesion(grow=1.6),
    "atrophy": Lesion(grow=0.5),
    "diffuse": Lesion(shift=1.0),
}


@dataclass(frozen=True)
class Anatomy:
    """One group of RadImageNet: a modality, a body region, its shapes in painting order and its pathologies."""

    modality: str
    folder: str  # below radiology_ai; ultrasound has no anatomy folder, as in RadImageNet
    prefix: str  # of its labels
    shapes: tuple[Shape, ...]
    pathologies: tuple[tuple[str, str], ...]  # (site, "lesion=class_folder lesion=class_folder ...")


_COUCH = Shape("couch", 0, -0.6, 1.5, 1.5, 0.0, rim=0.05, rim_level=0.45)

_CT_ABDOMEN = (
    _COUCH,
    Shape("body", 0, 0.02, 0.93, 0.70, 0.24, rim=0.025, rim_level=0.42),
    Shape("wall", 0, 0.02, 0.82, 0.58, 0.24, rim=0.05, rim_level=0.46),
    Shape("back_muscle", -0.24, 0.50, 0.20, 0.13, 0.47, mirror=True),
    Shape("psoas", -0.22, 0.30, 0.11, 0.13, 0.48, mirror=True),
    Shape("liver", -0.46, -0.10, 0.31, 0.38, 0.60, 12),
    Shape("left_lobe", -0.14, -0.30, 0.32, 0.17, 0.60, -8),
    Shape("spleen", 0.62, 0.08, 0.14, 0.27, 0.64, -14),
    Shape("stomach", 0.36, -0.24, 0.25, 0.20, 0.44, -20, rim=0.03, rim_level=0.55),
    Shape("air", 0.36, -0.34, 0.13, 0.05, 0.02),
    Shape("kidney", -0.47, 0.30, 0.13, 0.17, 0.78, 20, mirror=True),
    Shape("renal_pelvis", -0.42, 0.30, 0.05, 0.08, 0.40, 20, mirror=True),
    Shape("bowel", 0.10, -0.10, 0.13, 0.10, 0.42, rim=0.03, rim_level=0.60),
    Shape("pancreas", 0.16, 0.03, 0.24, 0.07, 0.54, -18),
    Shape("gallbladder", -0.22, -0.06, 0.10, 0.13, 0.34, 20),
    Shape("vena_cava", -0.13, 0.13, 0.08, 0.06, 0.66),
    Shape("spinous", 0, 0.53, 0.035, 0.12, 0.95, box=True),
    Shape("vertebra", 0, 0.31, 0.16, 0.13, 0.76, rim=0.03, rim_level=1.05),
    Shape("canal", 0, 0.455, 0.07, 0.05, 0.42),
    Shape("aorta", 0.06, 0.125, 0.07, 0.07, 0.86),
)

_CT_LUNG = (
    _COUCH,
    Shape("body", 0, 0.04, 0.95, 0.72, 0.36, rim=0.025, rim_level=0.5),
    Shape("chest_wall", 0, 0.04, 0.84, 0.62, 0.52),
    Shape("rib", -0.54, -0.47, 0.13, 0.035, 1.0, -36, mirror=True),
    Shape("side_rib", -0.80, -0.05, 0.035, 0.14, 1.0, 6, mirror=True),
    Shape("back_rib", -0.60, 0.46, 0.14, 0.035, 1.0, 36, mirror=True),
    Shape("scapula", -0.72, 0.42, 0.04, 0.17, 0.95, 50, mirror=True),
    Shape("sternum", 0, -0.53, 0.13, 0.035, 0.95),
    Shape("lung", -0.44, 0.02, 0.32, 0.46, 0.09, 8, mirror=True),
    Shape("vessel", -0.50, 0.16, 0.12, 0.022, 0.40, 50, mirror=True),
    Shape("upper_vessel", -0.46, -0.14, 0.12, 0.022, 0.40, -40, mirror=True),
    Shape("hilum", -0.20, 0.02, 0.11, 0.08, 0.62, mirror=True),
    Shape("heart", 0.10, -0.12, 0.25, 0.27, 0.62, 30),
    Shape("spinous", 0, 0.60, 0.03, 0.09, 0.95, box=True),
    Shape("vertebra", 0, 0.43, 0.14, 0.12, 0.80, rim=0.03, rim_level=1.05),
    Shape("canal", 0, 0.55, 0.06, 0.045, 0.50),
    Shape("aorta", 0.15, 0.28, 0.08, 0.08, 0.78),
    Shape("bronchus", -0.07, 0.10, 0.045, 0.045, 0.03, mirror=True),
)

_MR_ANKLE = (
    Shape("leg", 0.24, -0.60, 0.40, 0.92, 0.72, box=True),
    Shape("foot", -0.14, 0.40, 0.86, 0.36, 0.72, -8),
    Shape("calf", 0.36, -0.72, 0.16, 0.45, 0.30, -6),
    Shape("extensor", -0.06, -0.62, 0.05, 0.50, 0.26, -4),
    Shape("plantar_muscle", -0.16, 0.52, 0.50, 0.09, 0.30, -14),
    Shape("heel_pad", 0.46, 0.62, 0.24, 0.10, 0.84),
    Shape("metatarsal", -0.70, 0.40, 0.27, 0.075, 0.60, -22, rim=0.02, rim_level=0.06),
    Shape("cuneiform", -0.38, 0.24, 0.13, 0.11, 0.60, -18, rim=0.02, rim_level=0.06, box=True),
    Shape("navicular", -0.18, 0.14, 0.09, 0.14, 0.60, -8, rim=0.02, rim_level=0.06),
    Shape("cuboid", -0.10, 0.36, 0.15, 0.10, 0.60, -12, rim=0.02, rim_level=0.06),
    Shape("calcaneus", 0.36, 0.37, 0.30, 0.17, 0.60, 14, rim=0.02, rim_level=0.06),
    Shape("joint", 0.14, -0.15, 0.20, 0.045, 0.95),
    Shape("tibia", 0.14, -0.66, 0.16, 0.48, 0.60, rim=0.025, rim_level=0.06, box=True),
    Shape("talus", 0.14, 0.04, 0.24, 0.15, 0.60, -6, rim=0.02, rim_level=0.06),
    Shape("achilles", 0.57, -0.22, 0.035, 0.48, 0.05, -5),
    Shape("plantar_fascia", -0.06, 0.64, 0.58, 0.03, 0.05, -12),
)

_MR_BRAIN = (
    Shape("scalp", 0, 0, 0.77, 0.94, 0.84),
    Shape("skull", 0, 0, 0.715, 0.885, 0.05, tied="scalp"),
    Shape("csf", 0, 0, 0.655, 0.825, 0.15, tied="scalp"),
    Shape("cortex", 0, 0, 0.625, 0.795, 0.44, tied="scalp"),
    Shape("white_matter", -0.27, 0.02, 0.22, 0.58, 0.68, 3, mirror=True),
    *(
        Shape(
            f"gyrus{a}", -0.44 * np.cos(np.deg2rad(a)), -0.60 * np.sin(np.deg2rad(a)), 0.13, 0.06, 0.66, a, mirror=True
        )
        for a in (-60, -25, 10, 45, 75)
    ),
    *(
        Shape(
            f"sulcus{a}",
            -0.56 * np.cos(np.deg2rad(a)),
            -0.72 * np.sin(np.deg2rad(a)),
            0.09,
            0.018,
            0.12,
            a,
            mirror=True,
        )
        for a in (-75, -42, -8, 28, 60)
    ),
    Shape("falx", 0, 0, 0.018, 0.80, 0.14, box=True),
    Shape("corpus_callosum", 0, -0.06, 0.16, 0.36, 0.66),
    Shape("ganglia", -0.22, -0.06, 0.08, 0.15, 0.46, 12, mirror=True),
    Shape("thalamus", -0.10, 0.10, 0.09, 0.13, 0.48, mirror=True),
    Shape("posterior_horn", -0.17, 0.32, 0.045, 0.16, 0.08, 18, mirror=True),
    Shape("ventricle", -0.09, -0.18, 0.055, 0.20, 0.08, -14, mirror=True),
    Shape("third_ventricle", 0, 0.10, 0.018, 0.10, 0.08),
)

_MR_HIP = (
    Shape("body", 0.30, 0.05, 1.20, 1.25, 0.74),
    Shape("gluteus", -0.46, -0.52, 0.24, 0.40, 0.30, 24),
    Shape("iliopsoas", 0.62, -0.62, 0.20, 0.34, 0.32, -14),
    Shape("adductor", 0.20, 0.72, 0.24, 0.42, 0.30, 18),
    Shape("vastus", -0.70, 0.66, 0.12, 0.44, 0.30),
    Shape("bladder", 0.92, 0.02, 0.24, 0.30, 0.95),
    Shape("ilium", 0.22, -0.66, 0.17, 0.42, 0.58, 12, rim=0.03, rim_level=0.06),
    Shape("acetabulum", 0.48, -0.16, 0.13, 0.32, 0.58, -12, rim=0.03, rim_level=0.06),
    Shape("ischium", 0.50, 0.44, 0.14, 0.22, 0.58, rim=0.03, rim_level=0.06),
    Shape("joint", 0.10, -0.14, 0.35, 0.34, 0.34, rim=0.04, rim_level=0.10),
    Shape("shaft", -0.40, 0.74, 0.15, 0.60, 0.60, 3, rim=0.04, rim_level=0.05, box=True, fused=True),
    Shape("trochanter", -0.42, 0.16, 0.17, 0.22, 0.62, 10, rim=0.03, rim_level=0.06, fused=True),
    Shape("neck", -0.18, 0.10, 0.30, 0.15, 0.62, -42, rim=0.03, rim_level=0.06, fused=True),
    Shape("femoral_head", 0.10, -0.14, 0.27, 0.27, 0.64, rim=0.03, rim_level=0.06, fused=True),
)

_MR_KNEE = (
    Shape("leg", 0.02, 0, 0.74, 1.40, 0.72, box=True),
    Shape("hamstring", 0.46, -0.72, 0.18, 0.46, 0.30, -6),
    Shape("calf", 0.46, 0.66, 0.20, 0.46, 0.30, 6),
    Shape("vessel", 0.50, 0.0, 0.05, 0.30, 0.10, 4),
    Shape("joint", -0.24, -0.56, 0.05, 0.24, 0.97, 6),
    Shape("quadriceps", -0.40, -0.76, 0.05, 0.34, 0.08, -6),
    Shape("cartilage", 0.08, -0.18, 0.39, 0.31, 0.44),
    Shape("femur_shaft", 0.04, -0.74, 0.17, 0.48, 0.60, rim=0.03, rim_level=0.05, box=True, fused=True),
    Shape("femur", 0.08, -0.22, 0.35, 0.28, 0.62, rim=0.025, rim_level=0.06, fused=True),
    Shape("tibia_shaft", 0.04, 0.80, 0.19, 0.48, 0.60, rim=0.03, rim_level=0.05, box=True, fused=True),
    Shape("tibia", 0.06, 0.34, 0.36, 0.15, 0.62, rim=0.025, rim_level=0.06, box=True, fused=True),
    Shape("fat_pad", -0.34, 0.06, 0.12, 0.17, 0.88, -20),
    Shape("meniscus", 0.30, 0.135, 0.12, 0.05, 0.05),
    Shape("front_meniscus", -0.18, 0.135, 0.10, 0.045, 0.05),
    Shape("cruciate", 0.08, 0.09, 0.16, 0.035, 0.08, 50),
    Shape("patella", -0.46, -0.28, 0.11, 0.19, 0.62, 4, rim=0.025, rim_level=0.06),
    Shape("patellar_tendon", -0.46, 0.14, 0.035, 0.27, 0.05, -14),
)

_MR_ABDOMEN = (
    Shape("body", 0, 0.02, 0.90, 0.74, 0.86),
    Shape("wall", 0, 0.02, 0.76, 0.60, 0.70, rim=0.06, rim_level=0.22),
    Shape("back_muscle", -0.24, 0.50, 0.20, 0.14, 0.20, mirror=True),
    Shape("psoas", -0.22, 0.31, 0.11, 0.13, 0.20, mirror=True),
    Shape("liver", -0.42, -0.08, 0.32, 0.40, 0.38, 12),
    Shape("left_lobe", -0.12, -0.32, 0.30, 0.17, 0.38, -8),
    Shape("hepatic_vein", -0.40, -0.16, 0.16, 0.02, 0.12, 40),
    Shape("spleen", 0.58, 0.06, 0.13, 0.27, 0.58, -14),
    Shape("stomach", 0.32, -0.26, 0.22, 0.18, 0.30, -20, rim=0.03, rim_level=0.45),
    Shape("kidney", -0.44, 0.30, 0.14, 0.17, 0.64, 20, mirror=True),
    Shape("renal_pelvis", -0.39, 0.30, 0.05, 0.09, 0.95, 20, mirror=True),
    Shape("bowel", 0.08, -0.11, 0.14, 0.10, 0.85, rim=0.03, rim_level=0.35),
    Shape("pancreas", 0.16, 0.03, 0.23, 0.07, 0.44, -18),
    Shape("gallbladder", -0.18, -0.06, 0.10, 0.14, 0.98, 20),
    Shape("vena_cava", -0.13, 0.14, 0.08, 0.06, 0.06),
    Shape("vertebra", 0, 0.32, 0.16, 0.13, 0.48, rim=0.025, rim_level=0.10),
    Shape("canal", 0, 0.47, 0.08, 0.05, 0.97),
    Shape("cord", 0, 0.47, 0.035, 0.025, 0.45),
    Shape("aorta", 0.06, 0.13, 0.07, 0.07, 0.04),
)

_MR_SHOULDER = (
    Shape("body", 0.30, 0.26, 1.12, 1.08, 0.72),
    Shape("lung", 0.92, 0.82, 0.32, 0.50, 0.04),
    Shape("trapezius", 0.62, -0.66, 0.34, 0.10, 0.30, 10),
    Shape("subscapularis", 0.48, 0.36, 0.30, 0.22, 0.30, 24),
    Shape("scapula", 0.62, 0.08, 0.30, 0.07, 0.58, 14, rim=0.025, rim_level=0.06),
    Shape("muscle", 0.52, -0.22, 0.36, 0.11, 0.32, 4),
    Shape("deltoid", -0.64, 0.10, 0.12, 0.58, 0.30, 8),
    Shape("clavicle", 0.48, -0.50, 0.26, 0.08, 0.58, 6, rim=0.025, rim_level=0.06),
    Shape("acromion", -0.04, -0.54, 0.24, 0.09, 0.58, -10, rim=0.025, rim_level=0.06),
    Shape("glenoid", 0.30, 0.02, 0.11, 0.26, 0.60, -8, rim=0.025, rim_level=0.06),
    Shape("joint", 0.16, 0.02, 0.05, 0.27, 0.97, -6),
    Shape("shaft", -0.28, 0.74, 0.16, 0.56, 0.60, 2, rim=0.035, rim_level=0.05, box=True, fused=True),
    Shape("humeral_head", -0.20, 0.0, 0.34, 0.34, 0.62, rim=0.03, rim_level=0.06, fused=True),
    Shape("supraspinatus", 0.0, -0.34, 0.32, 0.05, 0.06, -12),
)

_MR_SPINE = (
    Shape("soft_tissue", -0.10, 0, 1.00, 1.50, 0.26, box=True),
    Shape("belly", -0.72, -0.10, 0.22, 0.90, 0.42),
    Shape("vessel", -0.42, -0.30, 0.05, 0.85, 0.06, -4),
    Shape("back_fat", 0.76, 0, 0.18, 1.50, 0.84, 4, box=True),
    Shape("sacrum", 0.06, 0.94, 0.17, 0.16, 0.56, -34, rim=0.025, rim_level=0.08, box=True),
    Shape("canal", 0.15, -0.10, 0.085, 1.10, 0.95, 2, box=True),
    Shape("cord", 0.16, -0.50, 0.035, 0.75, 0.42, 2, box=True),
    *(Shape(f"spinous{i}", 0.42, -0.72 + 0.30 * i, 0.15, 0.06, 0.52, 24) for i in range(5)),
    *(Shape(f"disc{i}", -0.10 - 0.02 * i * (4 - i) / 2, -0.73 + 0.29 * i, 0.17, 0.04, 0.72) for i in range(6)),
    *(
        Shape(f"vertebra{i}", -0.10 - 0.02 * i * (4 - i) / 2, -0.875 + 0.29 * i, 0.18, 0.11, 0.54, 0, 0.025, 0.08, True)
        for i in range(6)
    ),
)

_ULTRASOUND = (
    Shape("tissue", 0, 0.20, 1.40, 1.40, 0.26),
    Shape("skin", 0, -0.93, 1.20, 0.05, 0.85, box=True),
    Shape("muscle", 0, -0.72, 1.20, 0.07, 0.34, box=True),
    Shape("fascia", 0, -0.63, 1.20, 0.025, 0.75, box=True),
    Shape("liver", -0.34, 0.0, 0.95, 0.62, 0.46, 10, rim=0.03, rim_level=0.90),
    Shape("hepatic_vein", -0.36, 0.12, 0.18, 0.035, 0.06, -50),
    Shape("portal_vein", -0.10, -0.24, 0.19, 0.05, 0.05, -18, rim=0.03, rim_level=0.90),
    Shape("vena_cava", -0.16, 0.64, 0.30, 0.06, 0.05, 12),
    Shape("gallbladder", 0.06, 0.12, 0.22, 0.11, 0.03, 28, rim=0.025, rim_level=0.80),
    Shape("pouch", 0.34, 0.26, 0.26, 0.03, 0.80, -26),
    Shape("kidney", 0.42, 0.48, 0.29, 0.17, 0.30, -24, rim=0.025, rim_level=0.80),
    Shape("sinus", 0.42, 0.48, 0.15, 0.06, 0.95, -24),
)

ANATOMIES = (
    Anatomy(
        "CT",
        "CT/abd",
        "abd",
        _CT_ABDOMEN,
        (
            (
                "liver",
                "cyst=liver_cyst_ mass=liver_mass ring=liver_abscess nodules=liver_metastases diffuse=fatty_liver",
            ),
            ("spleen", "swelling=splenomegaly cyst=splenic_cyst line=splenic_laceration"),
            ("kidney", "cyst=renal_cyst mass=renal_mass calcification=renal_stone atrophy=small_kidney_"),
            ("pancreas", "swelling=pancreatitis cyst=pseudocyst calcification=Pancreas_calcified"),
            ("gallbladder", "calcification=gallstone swelling=hydrops"),
            ("stomach", "mass=gastric_tumor scar=gastric_ulcer"),
            ("aorta", "swelling=aneurysm ring=ca++_plaque line=dissection"),
            ("bowel", "mass=bowel_mass nodules=bowel_polyps effusion=free-fluid_"),
            ("vertebra", "line=spine_fracture nodules=bone_metastases"),
        ),
    ),
    Anatomy(
        "CT",
        "CT/lung",
        "lung",
        _CT_LUNG,
        (
            ("lung", "mass=lung_mass nodules=lung_nodules edema=ground-glass_ effusion=pleural_effusion"),
            ("heart", "swelling=Cardiomegaly"),
        ),
    ),
    Anatomy(
        "MR",
        "MR/af",
        "af",
        _MR_ANKLE,
        (
            ("tibia", "edema=tibial_edema line=tibial_fracture cyst=tibial_cyst"),
            ("talus", "edema=talar_edema line=talar_fracture ring=osteochondral_lesion cyst=talar_cyst"),
            ("calcaneus", "edema=calcaneal_edema line=calcaneal_fracture cyst=calcaneal_cyst scar=calcaneal_infarct"),
            ("navicular", "edema=navicular_edema line=Navicular_fracture"),
            ("metatarsal", "edema=metatarsal_edema line=metatarsal_fracture_ mass=forefoot_mass"),
            ("achilles", "swelling=achilles_tendinosis line=achilles_tear calcification=ca++_achilles"),
            ("plantar_fascia", "swelling=plantar_fascitis nodules=plantar_fibroma"),
            ("heel_pad", "edema=heel_pad_edema"),
            ("joint", "effusion=ankle_effusion_ nodules=loose_bodies"),
        ),
    ),
    Anatomy(
        "MR",
        "MR/brain",
        "brain",
        _MR_BRAIN,
        (
            ("white_matter", "mass=glial_tumor ring=abscess nodules=White_matter_foci edema=infarct_"),
            ("ventricle", "swelling=hydrocephalus"),
            ("cortex", "atrophy=cortical_atrophy"),
            ("falx", "mass=falx_meningeoma"),
            ("ganglia", "calcification=ca++_ganglia"),
            ("thalamus", "cyst=thalamic_cyst"),
        ),
    ),
    Anatomy(
        "MR",
        "MR/hip",
        "hip",
        _MR_HIP,
        (
            ("femoral_head", "edema=bone_edema ring=osteonecrosis_ cyst=subchondral_cyst line=head_fracture"),
            ("neck", "edema=neck_edema line=stress_fracture"),
            ("acetabulum", "edema=acetabular_edema cyst=paralabral_cyst"),
            ("trochanter", "edema=trochanter_bursitis line=gluteal_tear"),
            ("gluteus", "edema=muscle_strain mass=soft-tissue_mass"),
            ("joint", "effusion=hip_effusion"),
        ),
    ),
    Anatomy(
        "MR",
        "MR/knee",
        "knee",
        _MR_KNEE,
        (
            ("femur", "edema=femoral_edema cyst=femoral_cyst ring=osteochondral_lesion"),
            ("tibia", "edema=tibial_edema line=plateau_fracture nodules=bone_infarct"),
            ("patella", "edema=patellar_edema line=patellar_fracture scar=chondral_fissures"),
            ("meniscus", "line=meniscal_tear cyst=meniscal_cyst"),
            ("cruciate", "line=acl_tear swelling=mucoid_acl_"),
            ("patellar_tendon", "swelling=patellar_tendinosis calcification=ca++_tendinosis"),
            ("fat_pad", "edema=hoffa_edema"),
            ("joint", "swelling=knee_effusion"),
        ),
    ),
    Anatomy(
        "MR",
        "MR/abd",
        "mriabd",
        _MR_ABDOMEN,
        (
            ("liver", "cyst=liver_cyst mass=liver_mass ring=liver_abscess nodules=liver_metastases"),
            ("left_lobe", "diffuse=Iron_overload stripes=liver_fibrosis_"),
            ("spleen", "swelling=splenomegaly cyst=splenic_cyst nodules=splenic_nodules"),
            ("kidney", "cyst=renal_cyst mass=renal_mass atrophy=small_kidney ring=renal_abscess"),
            ("pancreas", "cyst=ipmn swelling=pancreatitis_ mass=pancreatic_mass"),
            ("gallbladder", "calcification=gallstone swelling=hydrops"),
            ("aorta", "swelling=aneurysm line=dissection"),
            ("bowel", "mass=bowel_mass swelling=ileus nodules=bowel_polyps"),
            ("vertebra", "edema=marrow_edema nodules=bone-metastases"),
        ),
    ),
    Anatomy(
        "MR",
        "MR/shoulder",
        "shoulder",
        _MR_SHOULDER,
        (
            ("humeral_head", "edema=humeral_edema cyst=humeral_cyst line=impaction_fracture ring=osteonecrosis"),
            ("supraspinatus", "line=supraspinatus_tear calcification=ca++_tendinosis swelling=tendinosis_"),
            ("glenoid", "edema=glenoid_edema cyst=labral_cyst line=glenoid_fracture"),
            ("acromion", "edema=ac-joint_oa"),
            ("deltoid", "mass=Lipoma"),
            ("joint", "swelling=shoulder_effusion"),
        ),
    ),
    Anatomy(
        "MR",
        "MR/spine",
        "spine",
        _MR_SPINE,
        (
            ("vertebra3", "line=vertebral_fracture edema=endplate_edema nodules=metastases_"),
            ("disc3", "swelling=disc_bulge diffuse=Disc_desiccation"),
            ("cord", "mass=cord_tumor line=syrinx"),
            ("sacrum", "cyst=sacral_cyst"),
        ),
    ),
    Anatomy(
        "US",
        "US",
        "us",
        _ULTRASOUND,
        (
            ("liver", "cyst=liver_cyst mass=liver_mass nodules=liver_nodules diffuse=fatty_liver stripes=Cirrhosis"),
            ("gallbladder", "calcification=gallstone_ swelling=hydrops edema=sludge"),
            ("kidney", "cyst=renal_cyst calcification=renal_ca++_stone swelling=big_kidney"),
            ("portal_vein", "swelling=portal_dilatation line=portal-thrombus"),
            ("pouch", "effusion=free_fluid"),
        ),
    ),
)
