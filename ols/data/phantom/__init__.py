"""Phantom radiology: 165 procedurally rendered classes in the groups and the on-disk form of RadImageNet.

An image is painted in four steps. (1) Its anatomy: a dozen or two soft ellipses and boxes (`Shape`), each jittered,
under a random rotation, scale and smooth warp. (2) Its lesion: a few small shapes (`LESIONS`) at the site that its
class names, or a change of the site itself; 'normal' has none. A lesion is bright on dark tissue and dark on bright
tissue, so that it never vanishes. (3) What the machine does: CT is windowed, noisy and shows its couch; MR has a bias
field and Rician noise; ultrasound is a speckled sector that fades with depth. (4) Rounding to 8 bits.

Image `index` is a pure function of (seed, index, class): its random numbers come from a counter-based generator keyed
by (seed, index), the geometry is drawn before the noise, and the class only selects which lesion is painted. The same
index rendered as two classes of one anatomy therefore shows the same patient with and without the lesion, and at two
sizes the same patient. (NumPy may change how it draws normal numbers from one release to another, and the images then
change with it.)
"""

from ols.data.phantom.anatomy import ANATOMIES, LESIONS, Anatomy, Lesion, Shape
from ols.data.phantom.classes import PHANTOM_CLASSES, PhantomClass, PhantomConfig, class_sizes, draw_classes
from ols.data.phantom.rendering import render_phantoms
from ols.data.phantom.writing import write_phantoms

__all__ = [
    "ANATOMIES",
    "LESIONS",
    "PHANTOM_CLASSES",
    "Anatomy",
    "Lesion",
    "PhantomClass",
    "PhantomConfig",
    "Shape",
    "class_sizes",
    "draw_classes",
    "render_phantoms",
    "write_phantoms",
]
