"""The public sets that can be prepared, by name."""

from collections.abc import Callable

from ols.data.preparation.chest import prepare_chexpert, prepare_covid_radiography, prepare_nih
from ols.data.preparation.folders import prepare_brain_tumour, prepare_folders
from ols.data.preparation.knee import prepare_acl, prepare_meniscus
from ols.data.preparation.lung_slices import prepare_luna16
from ols.data.preparation.patches import prepare_pcam
from ols.data.preparation.prepared import Prepared
from ols.data.preparation.rsna import prepare_bone_age, prepare_rsna_pneumonia
from ols.data.preparation.skin import prepare_isic
from ols.data.preparation.ultrasound import prepare_busi, prepare_ddti
from ols.data.preparation.wrist import prepare_grazpedwri

SETS: dict[str, Callable[..., Prepared]] = {
    "busi": prepare_busi,
    "ddti": prepare_ddti,
    "acl": prepare_acl,
    "meniscus": prepare_meniscus,
    "nih": prepare_nih,
    "chexpert": prepare_chexpert,
    "rsna_pneumonia": prepare_rsna_pneumonia,
    "bone_age": prepare_bone_age,
    "grazpedwri": prepare_grazpedwri,
    "covid_radiography": prepare_covid_radiography,
    "brain_tumour": prepare_brain_tumour,
    "luna16": prepare_luna16,
    "isic": prepare_isic,
    "pcam": prepare_pcam,
    "folders": prepare_folders,
}
