"""What each number of the comparison is; ``python -m brainuad.catalogue`` writes ``docs/metrics.md`` from it.

A number is named by metric, region and pooling. The region is one mask for both what is scored and what is true; the
pooling says what is averaged or put together. The prevalence, the share of abnormal pixels in the region, is written
beside it, since average precision and Dice move with it.
"""

import sys
from dataclasses import dataclass

__all__ = ["CATALOGUE", "PROTOCOLS", "REGIONS", "Metric", "column", "documentation"]

REGIONS = {"frame": "every pixel of the sample", "brain": "the pixels of the brain mask"}
POOLINGS = {
    "pixels": "the pixels of all test images together",
    "subjects": "each subject by itself (the pixels of its images together), then the mean over subjects",
    "images": "each image by itself, then the mean over images; of image_auroc, all images ranked together",
    "lesions": "each lesion by itself, whatever its size",
}
HIGHER, LOWER = "higher is better", "lower is better"
WANG_2004 = (
    "Wang, Bovik, Sheikh, Simoncelli: Image quality assessment: from error visibility to structural similarity. IEEE "
    "Transactions on Image Processing 13 (2004)"
)
HANLEY = (
    "Hanley, McNeil: The meaning and use of the area under a receiver operating characteristic (ROC) curve. Radiology "
    "143 (1982)"
)
MEISSEN = (
    "Meissen, Kaissis, Rueckert: Challenging current semi-supervised anomaly segmentation methods for brain MRI (2021)"
)


@dataclass(frozen=True)
class Metric:
    """One metric: its name, its title in tables, and what a reader has to know of it.

    ``merit`` says whether a better value makes a better model. Few false positives do not: a map that is the same
    everywhere has none. ``share`` says whether it is a share of the things that its number's ``n`` counts, see
    :func:`brainuad.resampling.share_interval`.
    """

    name: str
    title: str
    formula: str
    range: str
    direction: str
    regions: str
    pooling: str
    citation: str = ""
    merit: bool = True
    share: bool = False


def dice_at(rate: int) -> Metric:
    """Dice at the threshold of a false-positive rate in percent."""
    return Metric(
        name=f"dice_{rate}",
        title=f"Dice at {rate} % FPR",
        formula=f"2 TP / (TP + FP + abnormal pixels) at the threshold above which {rate} % of the pixels of healthy "
        "validation subjects lie: no test image had a say in it",
        range="0 to 1",
        direction=HIGHER,
        regions="frame, brain",
        pooling="pixels, subjects",
    )


def false_positives_at(rate: int) -> Metric:
    """What that threshold does to healthy tissue of the test subjects."""
    return Metric(
        name=f"false_positive_rate_{rate}",
        title=f"False positives at {rate} %",
        formula=f"share of normal pixels above the threshold above which {rate} % of those of healthy validation "
        f"subjects lie; more than {rate / 100:g} says that the threshold does not hold for these scans",
        range="0 to 1",
        direction=LOWER,
        regions="brain",
        pooling="subjects",
        citation="Bercea, Wiestler, Rueckert, Schnabel: Bias in unsupervised anomaly detection in brain MRI (2023)",
        merit=False,
    )


def sensitivity(size: str, diameters: str) -> Metric:
    """Lesions found, of one class of size."""
    return Metric(
        name=f"lesion_sensitivity_{size}",
        title=f"Sensitivity, {size} lesions",
        formula=f"largest share of the lesions with an equivalent diameter {diameters} that a threshold with no more "
        "than one false alarm per image finds; lesions, false alarms and thresholds as of FROC, "
        "for whose value by size this one stands: of few lesions a size, one point of the curve is what they can bear",
        range="0 to 1",
        direction=HIGHER,
        regions="brain",
        pooling="lesions",
        share=True,
    )


CATALOGUE = {
    metric.name: metric
    for metric in (
        Metric(
            name="ssim",
            title="SSIM",
            formula="mean over the region's pixels of (2 m_x m_y + C1) (2 s_xy + C2) / "
            "((m_x² + m_y² + C1) (s_x² + s_y² + C2)), with means m, sample variances s² and covariance s_xy "
            "of image x and reconstruction y, clamped to [0, 1], in a uniform window of 7 pixels an axis; "
            "C1 = 0.01², C2 = 0.03²; the border of 3 pixels, where windows are incomplete, is left out",
            range="-1 to 1; 1 for equal images",
            direction=HIGHER,
            regions="frame (as scikit-image does), brain",
            pooling="images",
            citation=WANG_2004,
        ),
        Metric(
            name="ms_ssim",
            title="MS-SSIM",
            formula="product over scales, each half as fine as the one before, of the mean contrast and structure "
            "term (and, at the last, luminance) of SSIM in Gaussian windows of 11 pixels, sigma 1.5, to the power of "
            "0.0448, 0.2856, 0.3001, 0.2363, 0.1333; of images below 176 pixels as many scales as fit, their powers "
            "scaled to sum 1",
            range="0 to 1; 1 for equal images",
            direction=HIGHER,
            regions="frame, brain",
            pooling="images",
            citation="Wang, Simoncelli, Bovik: Multiscale structural similarity for image quality assessment. "
            "Asilomar (2003)",
        ),
        Metric(
            name="psnr",
            title="PSNR",
            formula="-10 log10 of the mean squared difference of image and reconstruction, in dB; undefined if an "
            "image equals its reconstruction: the mean would be infinite",
            range="0 dB upwards",
            direction=HIGHER,
            regions="frame, brain",
            pooling="images",
        ),
        Metric(
            name="mae",
            title="MAE",
            formula="mean absolute difference of image and reconstruction",
            range="0 to 1; 0 for equal images",
            direction=LOWER,
            regions="frame, brain",
            pooling="images",
        ),
        Metric(
            name="lpips",
            title="LPIPS",
            formula="mean over the region of the distance of the features of image and reconstruction in a trained "
            "network (`scoring.trunk`), layer by layer at the resolution of the image; in the brain of the map "
            "smoothed as for scoring",
            range="0 upwards; 0 for equal images",
            direction=LOWER,
            regions="frame, brain",
            pooling="images",
            citation="Zhang, Isola, Efros, Shechtman, Wang: The unreasonable effectiveness of deep features as a "
            "perceptual metric. CVPR 2018",
        ),
        Metric(
            name="restoration_error_inside",
            title="Error inside",
            formula="mean absolute difference of the reconstruction and the clean original, which is known of "
            "synthetic anomalies alone, over the anomaly inside the brain: small if the model restores what was there",
            range="0 to 1",
            direction=LOWER,
            regions="brain",
            pooling="images",
            citation="Bercea, Wiestler, Rueckert, Schnabel: Evaluating normative representation learning in "
            "generative AI for robust anomaly detection in brain imaging (2025), whose question it asks",
        ),
        Metric(
            name="restoration_error_outside",
            title="Error outside",
            formula="the same over the brain without the anomaly: small if the model keeps what is healthy",
            range="0 to 1",
            direction=LOWER,
            regions="brain",
            pooling="images",
        ),
        Metric(
            name="copy_error_inside",
            title="Error of a copy inside",
            formula="mean absolute difference of the image with its anomaly and the clean original over the anomaly "
            "inside the brain: what a model that copies its input would have as its error inside",
            range="0 to 1",
            direction=HIGHER,
            regions="brain",
            pooling="images",
            merit=False,
        ),
        Metric(
            name="auroc",
            title="AUROC",
            formula="P(score of an abnormal pixel > score of a normal one) + ½ P(both equal)",
            range="0 to 1; 0.5 for scores that know nothing",
            direction=HIGHER,
            regions="frame, brain",
            pooling="pixels, subjects",
            citation=HANLEY,
        ),
        Metric(
            name="average_precision",
            title="AUPRC",
            formula="average precision: Σ (R_k - R_(k-1)) P_k over the distinct scores in falling order, "
            "with precision P_k and recall R_k of the pixels that score at least as high; no interpolation",
            range="0 to 1; the prevalence for scores that know nothing",
            direction=HIGHER,
            regions="frame, brain",
            pooling="pixels, subjects",
            citation="Davis, Goadrich: The relationship between Precision-Recall and ROC curves. ICML 2006",
        ),
        Metric(
            name="precision_gain",
            title="AUPRC / prevalence",
            formula="average precision / prevalence: how many times better than scores that know nothing",
            range="0 upwards; 1 for scores that know nothing",
            direction=HIGHER,
            regions="frame, brain",
            pooling="pixels",
        ),
        Metric(
            name="best_dice",
            title="Best Dice",
            formula="largest 2 TP / (TP + FP + abnormal pixels) that any one threshold gives; the threshold is chosen "
            "on the test images, so it is optimistic",
            range="0 to 1",
            direction=HIGHER,
            regions="frame, brain",
            pooling="pixels, subjects (one threshold for all)",
            citation="Dice: Measures of the amount of ecologic association between species. Ecology 26 (1945)",
        ),
        dice_at(1),
        dice_at(5),
        Metric(
            name="optimism",
            title="Optimism",
            formula="best Dice - Dice at 5 % FPR: what choosing the threshold on the test images adds",
            range="about 0 to 1",
            direction=LOWER,
            regions="frame, brain",
            pooling="pixels, subjects",
            citation=MEISSEN,
        ),
        Metric(
            name="fpr_at_95_tpr",
            title="FPR at 95 % TPR",
            formula="share of normal pixels above the threshold above which 95 % of the abnormal ones lie",
            range="0 to 1",
            direction=LOWER,
            regions="frame, brain",
            pooling="pixels",
        ),
        Metric(
            name="aupro",
            title="AUPRO",
            formula="mean over lesions of the share of the lesion found, integrated over false-positive rates from 0 "
            "to 0.3 and divided by 0.3",
            range="0 to 1; 0.15 for scores that know nothing",
            direction=HIGHER,
            regions="frame, brain",
            pooling="lesions",
            citation="Bergmann, Batzner, Fauser, Sattlegger, Steger: The MVTec anomaly detection dataset. "
            "International Journal of Computer Vision 129 (2021)",
        ),
        Metric(
            name="froc",
            title="FROC",
            formula="mean, over ¼, ½, 1, 2 and 4 false alarms per image, of the largest share of lesions that a "
            "threshold with no more of them finds; a lesion is found if a tenth of its pixels score above the "
            "threshold, a false alarm is a connected region above it that touches no lesion; thresholds just below "
            "each score at which one more lesion is found (200 of them at the most), as far as at most a tenth of the "
            "normal pixels exceed them",
            range="0 to 1",
            direction=HIGHER,
            regions="brain",
            pooling="lesions",
            citation="Setio et al.: Validation, comparison, and combination of algorithms for automatic detection of "
            "pulmonary nodules. Medical Image Analysis 42 (2017)",
            share=True,
        ),
        sensitivity("small", "below 10 mm"),
        sensitivity("medium", "of 10 to 20 mm"),
        sensitivity("large", "of 20 mm or more"),
        Metric(
            name="image_auroc",
            title="Image AUROC",
            formula="AUROC of images with and without a lesion, an image scored by the mean of its map over the "
            "brain; of a synthetic cohort the healthy images are its originals; a scan whose lesion none of its "
            "samples shows is neither, and left out",
            range="0 to 1; 0.5 for scores that know nothing",
            direction=HIGHER,
            regions="brain",
            pooling="images",
            citation=HANLEY,
        ),
        Metric(
            name="subject_auroc",
            title="Subject AUROC",
            formula="the same of subjects, a subject scored by the mean of its images' scores",
            range="0 to 1; 0.5 for scores that know nothing",
            direction=HIGHER,
            regions="brain",
            pooling="subjects",
            citation=HANLEY,
        ),
        false_positives_at(1),
        false_positives_at(5),
        Metric(
            name="lesion_outside_brain",
            title="Lesion outside brain",
            formula="abnormal pixels outside the brain mask / all abnormal pixels: what region brain misses",
            range="0 to 1",
            direction=LOWER,
            regions="frame",
            pooling="pixels",
            merit=False,
            share=True,
        ),
    )
}

# Metric, region and pooling of each column: what a table of that protocol shows of healthy and of anomalous datasets.
# All are taken from the same maps.
PROTOCOLS = {
    "paper": {
        "healthy": [("ssim", "frame", "images")],
        "anomalous": [
            ("auroc", "frame", "pixels"),
            ("average_precision", "frame", "pixels"),
            ("best_dice", "frame", "pixels"),
        ],
    },
    "strict": {
        "healthy": [("ssim", "brain", "images"), ("false_positive_rate_5", "brain", "subjects")],
        "anomalous": [
            ("average_precision", "brain", "subjects"),
            ("dice_5", "brain", "subjects"),
            ("froc", "brain", "lesions"),
        ],
    },
}


def column(metric: str, region: str, pooling: str) -> str:
    """Name of a number in wide tables."""
    return f"{metric}/{region}/{pooling}"


def documentation() -> str:
    """The page of all metrics in Markdown."""
    lines = [
        "# Metrics",
        "",
        "Made from the catalogue by `python -m brainuad.catalogue`. A number is named by its metric, its region and "
        "its pooling,",
        "as in the column `average_precision/brain/subjects`.",
        "",
        *(f"* Region `{name}`: {meaning}." for name, meaning in REGIONS.items()),
        *(f"* Pooling `{name}`: {meaning}." for name, meaning in POOLINGS.items()),
        "",
        "What is undefined (no abnormal pixel, one class only, a map that is constant or not finite) is empty, with "
        "its `reason`.",
        "Intervals are of a bootstrap of the subjects, from the same draws for every model; those of shares of lesions "
        "are Wilson's:",
        "see [evaluation.md](evaluation.md).",
        "",
    ]
    for metric in CATALOGUE.values():
        lines += [f"## {metric.title}: `{metric.name}`", "", f"{metric.formula[0].upper()}{metric.formula[1:]}.", ""]
        lines += [
            f"* Range: {metric.range}; {metric.direction}",
            f"* Regions: {metric.regions}",
            f"* Pooling: {metric.pooling}",
        ]
        lines += [f"* Source: {metric.citation}"] if metric.citation else []
        lines.append("")
    for name, groups in PROTOCOLS.items():
        lines += [f"## Protocol `{name}`", ""]
        for kind, columns in groups.items():
            lines.append(f"* {kind} datasets: {', '.join(f'`{column(*key)}`' for key in columns)}")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    sys.stdout.write(documentation())
