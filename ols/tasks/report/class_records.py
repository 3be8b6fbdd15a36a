"""What a report of classes holds: the form of its part of `report.json`, which is `asdict` of a `ClassReport`.

None stands for what is undefined, as JSON has no NaN. Intervals are of 95 %.
"""

from dataclasses import dataclass

Measured = dict[str, float | None]
"""Values by the names of `ols.metrics.measures.MEASURES`, and their intervals as `NAME_low` and `NAME_high`."""


@dataclass(frozen=True)
class Calibration:
    """How far the confidence of some images is from their accuracy.

    Args:
        mean_confidence: Mean of the highest probabilities.
        ece: Expected calibration error, 15 bins of equal width.
        ece_low: Lower end of its interval.
        ece_high: Upper end.
        ece_null: What a perfectly calibrated model with as many images would show.
    """

    mean_confidence: float | None
    ece: float | None
    ece_low: float | None
    ece_high: float | None
    ece_null: float | None


@dataclass(frozen=True)
class Accuracy:
    """How many of some images are right.

    Args:
        images: Their number.
        accuracy: Fraction that is right.
        accuracy_low: Lower end of its interval (Wilson).
        accuracy_high: Upper end.
    """

    images: int
    accuracy: float | None
    accuracy_low: float | None
    accuracy_high: float | None


@dataclass(frozen=True)
class Subset(Accuracy):
    """The images of a group or of a modality.

    Args:
        name: Of the group or modality.
        raw: Calibration of the probabilities as they are.
        scaled: Calibration of those of the logits divided by the temperature.
    """

    name: str
    raw: Calibration
    scaled: Calibration


@dataclass(frozen=True)
class AsPredicted:
    """The images that a class is predicted for.

    Args:
        images: Their number.
        precision: Fraction that is right; None where there are none.
        raw: Their calibration; None where there are none.
        scaled: The same after temperature scaling.
    """

    images: int
    precision: float | None = None
    raw: Calibration | None = None
    scaled: Calibration | None = None


@dataclass(frozen=True)
class AgainstTheRest:
    """How well a class is told from all others; its sensitivity is the accuracy of its images.

    Args:
        auc: Area under the ROC curve of its probability; None where it, or all else, does not occur.
        auc_low: Lower end of its interval (DeLong).
        auc_high: Upper end.
        specificity: Fraction of the other images for which it is not predicted.
        ppv: Positive predictive value: fraction right of the images that it is predicted for.
        npv: Negative predictive value: fraction right of the images that it is not predicted for.
    """

    auc: float | None
    auc_low: float | None
    auc_high: float | None
    specificity: float | None
    ppv: float | None
    npv: float | None


@dataclass(frozen=True)
class ClassRecord(Accuracy):
    """The images of a class.

    Args:
        name: Of the class.
        group: Modality and anatomy.
        predicted: The images that it is predicted for. Calibration is theirs: given the true class, not even a
            perfectly calibrated model is calibrated.
        rest: The class against all others.
    """

    name: str
    group: str
    predicted: AsPredicted
    rest: AgainstTheRest


@dataclass(frozen=True)
class ConfusedPair:
    """A class that is taken for another.

    Args:
        true: Class.
        true_group: Its modality and anatomy.
        predicted: What it is taken for.
        predicted_group: Modality and anatomy of that.
        images: How often.
        share: The same as a fraction of the images of the true class.
        reverse: How often it is the other way round.
    """

    true: str
    true_group: str
    predicted: str
    predicted_group: str
    images: int
    share: float
    reverse: int


@dataclass(frozen=True)
class ConfidentError:
    """An image that is predicted wrongly with high confidence.

    Args:
        index: In the data set.
        sample_id: Name of the image.
        true: Its class.
        predicted: What it is taken for.
        confidence: Probability of that.
        confidence_scaled: The same after temperature scaling.
        probability_of_true: Probability of its class.
    """

    index: int
    sample_id: str
    true: str
    predicted: str
    confidence: float
    confidence_scaled: float
    probability_of_true: float


@dataclass(frozen=True)
class ReliabilityBin:
    """The images whose confidence lies in one of 15 bins of equal width.

    Args:
        images: Their number.
        confidence: Mean confidence.
        accuracy: Fraction that is right.
        accuracy_low: Lower end of its interval (Wilson).
        accuracy_high: Upper end.
    """

    images: float
    confidence: float | None
    accuracy: float | None
    accuracy_low: float | None
    accuracy_high: float | None


@dataclass(frozen=True)
class Temperature:
    """What the logits are divided by.

    Args:
        images: Number of images that it is fitted to.
        value: The temperature; 1 where none fits.
        low: Lower end of its interval.
        high: Upper end.
        failure: Why none fits, as where every prediction is right.
        masked: Images that are left out as the model masks their class: their NLL is infinite at any temperature.
        fitted_on: The split of these images.
    """

    images: int
    value: float
    low: float | None
    high: float | None
    failure: str | None = None
    masked: int = 0
    fitted_on: str = "val"


@dataclass(frozen=True)
class SplitReport(Accuracy):
    """What the predictions of a split say.

    Args:
        raw: All measures of the predictions as they are, selective prediction by maximum probability among them.
        scaled: The same of the logits divided by the temperature.
        normalized_logit: Selective prediction by the normalised maximum logit.
        reliability: The 15 bins of confidence, under `raw` and `scaled`.
        groups: Of what an image shows, those that occur.
        modalities: The same by modality.
        classes: All of them.
        confused: The most frequent pairs first.
        errors: The most confident first.
        embeddings: Measures of the penultimate features.
    """

    raw: Measured
    scaled: Measured
    normalized_logit: Measured
    reliability: dict[str, list[ReliabilityBin]]
    groups: list[Subset]
    modalities: list[Subset]
    classes: list[ClassRecord]
    confused: list[ConfusedPair]
    errors: list[ConfidentError]
    embeddings: Measured


@dataclass(frozen=True)
class Neighbour:
    """A class that another one's soft label has mass on.

    Args:
        name: Of the class.
        group: Modality and anatomy.
        probability: The mass.
    """

    name: str
    group: str
    probability: float


@dataclass(frozen=True)
class SoftLabel:
    """What a class is trained towards.

    Args:
        name: Of the class.
        group: Modality and anatomy.
        own: Probability of the class itself.
        neighbours: The nearest other classes.
    """

    name: str
    group: str
    own: float
    neighbours: list[Neighbour]


@dataclass(frozen=True)
class SoftLabelReport:
    """What soft labels say of the classes.

    Args:
        within_group: Share of the probability off the diagonal that lies inside the group of its class.
        within_group_uniform: The share that lay there if all wrong classes were equal.
        classes: The row of each class.
    """

    within_group: float | None
    within_group_uniform: float | None
    classes: list[SoftLabel]


@dataclass(frozen=True)
class ClassReport:
    """What the predictions of classes say.

    Args:
        shown: The split that is reported in full.
        temperature: What `scaled` divides the logits by.
        splits: What is reported, the one shown first.
        soft_labels: For a loss that learns some.
    """

    shown: str
    temperature: Temperature
    splits: dict[str, SplitReport]
    soft_labels: SoftLabelReport | None

    @property
    def shown_split(self) -> SplitReport:
        """What the split that is reported in full says."""
        return self.splits[self.shown]
