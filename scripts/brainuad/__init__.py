"""brainuad: the research library behind the benchmark of unsupervised anomaly detection in brain MRI.

A module imports only from modules above it in this list.

==================  ==============================================================================
configuration       the closed schema of a study's ``config.yaml`` and its cross-references
placement           where trainings run, and whether there are GPUs enough
extractors          programs that find the brain of a head: command lines, and whether they are here
faults              why a scan is left out: codes; ``docs/left_out.md`` is made of it
spreadsheet         a table that a user wrote, TSV or CSV → texts, uneven rows refused
manifest            datasets as tables of scans; subjects split by a seeded hash
patterns            path patterns → the files on disk that match
bids                a BIDS dataset → its scans
sources             datasets on disk → tables of scans, searched once by the main process
exclusions          what a person decided about scans
grouping            whether the groups of a dataset can be compared
leakage             whether a subject, a family or a scan is on two sides
phantom             simulated raw T1 volumes of known truth
reading             the file of a scan → one finite volume, or why there is none
partial_volume      the share of each voxel that lesions fill → a mask of the same volume
volumes             N4, brain mask, registration, normalisation: image → image
standard_brain      the template's brain on the grid of a picture
isolation           a function in a process of its own, whose crash ends no other
extraction          the brain of a scan: own mask, by the template, or by another program
quality             measures of a preprocessed scan; the table that decides in or out
page                blocks of text, tables and pictures → one page of HTML
quality_page        the page of a dataset's quality control, with the line to decide otherwise
preprocessing       raw scans of a dataset → scans in template space, bad ones set aside
intake              how many scans of each dataset are used, and why the others are not
sample_set          images, masks and table of a cohort, memory-mapped
samples             scans in template space → sample sets
anomalies           kinds of synthetic anomalies: image → image with one region changed
synthetic           sample sets with synthetic anomalies of known place
trunk               fetches networks for the perceptual distance that are not shipped
perceptual          smoothed LPIPS distance maps
equalisation        CLAHE of many slices at once
shares              the part of a batch that a process holds: shared draws and sums
models              the ``Detector`` contract and one file a model
conversion          weights trained with MONAI or monai-generative → this project's
schedule            learning rate over the epochs
augmentation        random affine maps of a batch, on its device
progress            how far a training is; its checkpoint
fingerprint         what decides the outcome of a training, as one digest
interruption        signals that ask a training to save or to stop
gpus                whether torch can use the GPU that a job was given
devices             the GPU a job got: code for it, precision
condensing          images that are never moved → what a model learns from, made once
ranks               several processes that train one model together
training            fits any ``Detector``: schedule, checkpoints, resume, cost
scoring             trained model × sample set → reconstructions and anomaly maps
catalogue           what each number is; ``docs/metrics.md`` is made of it
published           the numbers that a paper printed
similarity          image and reconstruction → SSIM and its like
counts              pixels counted by subject and score, any number of them
detection           scores and truth of pixels → areas, Dice, rates; exact or from counts
lesions             lesions as wholes: found or not, and false alarms
resampling          draws of subjects, and intervals of what they give
cohort              the test images of a dataset and the numbers drawn from them
thresholds          scores of healthy validation pixels → thresholds
measures            what the scores of one model on one dataset are worth
metrics             anomaly maps and masks → numbers in long format
results             the numbers of all models with their draws
tables              the comparison as a table of one protocol
typeset             that table in Markdown, LaTeX and HTML
comparison          the numbers of all models → the comparison
paper_difference    what a paper printed beside ours
costs               what the jobs of each rule took
figures             the qualitative grid and the learning curves
effects             two groups at many places: effect size, test, false discoveries
balance             whether groups differ in site, age or sex, too
regions             the regions of an atlas on the grid of maps
group_figure        mean maps and effects of groups in slices
groups              the calibrated maps of patients and controls → where they differ
significance        paired tests between models, and their ranks
response            what a model finds in each cell of a grid of anomalies
response_surface    the response of all models as heat maps
provenance          code, packages, machine and digests of a result
grids               values of samples → the template's voxels → the scan's own
calibration         maps of healthy validation subjects → z-scores of others
derivatives         maps of scans as a BIDS derivative
map_pictures        slices of maps for print, and a page to walk through them
maps                scores of a dataset → its maps as images
scan_files          files and folders that a person names → scans
advice              what messages say to the user of a study → what they say where there is none
own_scan            scans of no study, a trained model → maps and warnings
report_figures      the pictures that the report draws itself
report_study        what the report is made of
report_tables       the report's tables of numbers
report_results      the report's other sections about numbers
report_scans        the report's sections about scans
report_groups       the report's section about groups
report              the page with everything on it
runtime             what all jobs share: the log, the end with the workflow
slurm               what is asked of Slurm, and how its answers are read
records             the job of a run folder on record
starts              how often a training was begun without getting further
jobs                a training as a Slurm job or as processes of this machine
launching           where a training runs: one job at a time, found again, its end judged
__main__            the command ``brainuad``
==================  ==============================================================================

Nothing is imported here: every job of a cluster pays for what it imports.
"""
