"""brainuad: the research library behind the benchmark of unsupervised anomaly detection in brain MRI.

A module imports only from modules above it in this list.

==================  ==============================================================================
configuration       the closed schema of a study's ``config.yaml`` and its cross-references
manifest            datasets as tables of scans; subjects split by a seeded hash
phantom             simulated raw T1 volumes of known truth
volumes             N4, brain mask, registration, normalisation: image → image
quality             measures of a preprocessed scan; the table that decides in or out
preprocessing       raw scans of a dataset → scans in template space, bad ones set aside
sample_set          images, masks and table of a cohort, memory-mapped
samples             scans in template space → sample sets
synthetic           sample sets with synthetic anomalies of known place
trunk               fetches networks for the perceptual distance that are not shipped
perceptual          smoothed LPIPS distance maps
models              the ``Detector`` contract and one file a model
conversion          weights trained with MONAI or monai-generative → this project's
schedule            learning rate over the epochs
augmentation        random affine maps of a batch, on its device
progress            how far a training is; its checkpoint
fingerprint         what decides the outcome of a training, as one digest
interruption        signals that ask a training to save or to stop
devices             the GPU a job got: code for it, precision
ranks               several processes that train one model together
training            fits any ``Detector``: schedule, checkpoints, resume, cost
scoring             trained model × sample set → reconstructions and anomaly maps
metrics             anomaly maps and masks → numbers in long format
table2              the paper's Table 2 in Markdown, LaTeX, HTML and numbers
comparison          the numbers of all models → the comparison table
costs               what the jobs of each rule took
figures             the qualitative grid and the learning curves
runtime             what all jobs share: the log, the end with the workflow
slurm               what is asked of Slurm, and how its answers are read
starts              how often a training was begun without getting further
jobs                a training as a Slurm job or as processes of this machine
launching           where a training runs: one job at a time, found again, its end judged
==================  ==============================================================================

Nothing is imported here: every job of a cluster pays for what it imports.
"""
