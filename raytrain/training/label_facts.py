"""What a model of amounts has to know of the internal training labels: read once, on the driver, and kept with the run.

Evaluating, predicting and going on take the file's word, so that a network's thresholds mean what they meant in training.
"""

import json

from raytrain.adsnet_config import BackboneModel
from raytrain.config import JobConfig
from raytrain.data.contract import Contract
from raytrain.data.labels import read_labels
from raytrain.data.manifest import read_manifest
from raytrain.models.adsnet.label_stats import LabelStats, label_stats
from raytrain.settings import Section
from raytrain.storage import Storage

FACTS_FILE = "label_facts.json"


class LabelFacts(Section):
    """Of the target domain's training rows."""

    stats: LabelStats
    slice_rows: dict[int, int]
    """slice -> its rows: the intervals of Gini by size"""


def read_facts(job: JobConfig, contract: Contract) -> LabelFacts | None:
    """From the data set; None where labels are clicks.

    Raises:
        ContractError: the split is not there.
        DataError: no training row has an amount above 0.
    """
    if contract.amount is None:
        return None
    found = read_labels(contract, job.data.path, read_manifest(contract, job.data.path, contract.target, "train"))
    # Plain baselines read the intervals alone.
    num_buckets = job.model.head.num_buckets if isinstance(job.model, BackboneModel) else 1
    return LabelFacts(stats=label_stats(found.labels, num_buckets), slice_rows=found.slice_rows)


def facts_of_run(storage: Storage, job: JobConfig, contract: Contract) -> LabelFacts | None:
    """As the run has kept them; from the data set for a run that has not begun. Raises what ``read_facts`` does."""
    if storage.exists(FACTS_FILE):
        return LabelFacts.parse(json.loads(storage.read_text(FACTS_FILE)), storage.join(FACTS_FILE))
    return read_facts(job, contract)


def save_facts(storage: Storage, facts: LabelFacts | None) -> None:
    if facts is not None and not storage.exists(FACTS_FILE):
        storage.write_text(FACTS_FILE, facts.model_dump_json(indent=2) + "\n")
