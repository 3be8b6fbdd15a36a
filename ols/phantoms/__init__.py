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

With `reader_noise` above 0 the class that is drawn, the latent class z, is not the label: the label y is what a reader
makes of the image, drawn from row z of a confusion matrix Q, independently from image to image. So P(y | image) = Q[z],
exactly, for every image of validation and test: a model's confidence can be compared with the truth, and no model can
be right more often than Q's diagonal. The set ships Q and every z (`load_reader_confusion`, `load_latent_classes`).

Q follows from how the classes are painted. In the average patient of each anatomy, d(a, b) is the distance between the
blurred changes that two classes paint, and c(a, b) = d(a, b) + half of what b shows more than a, so that missing a
lesion is likelier than inventing one, and Q is not symmetric. Off the diagonal Q[a, b] is proportional to
exp(-c(a, b) / t) within the anatomy (t: the median over its classes of the smallest c) and 0 across. A row's mass off
the diagonal is `reader_noise` times 0.15 (the least confusable class) to 0.30 (the most, by rank of the row's sum), so
that the class drawn is always the likeliest label.
"""

from ols.phantoms.anatomy import ANATOMIES, LESIONS, Anatomy, Lesion, Shape
from ols.phantoms.classes import PHANTOM_CLASSES, PhantomClass, PhantomConfig, class_sizes, draw_classes
from ols.phantoms.readers import (
    draw_readings,
    known_posterior,
    load_latent_classes,
    load_reader_confusion,
    read_labels,
    reader_confusion,
)
from ols.phantoms.rendering import render_phantoms
from ols.phantoms.writing import write_phantoms

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
    "draw_readings",
    "known_posterior",
    "load_latent_classes",
    "load_reader_confusion",
    "read_labels",
    "reader_confusion",
    "render_phantoms",
    "write_phantoms",
]
