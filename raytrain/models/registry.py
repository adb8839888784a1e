"""Every neural model by name: what ``declared.py`` has of it, and its network."""

from raytrain.models.base import NetworkBuilder, NeuralModel
from raytrain.models.baselines.counter import CounterNetwork
from raytrain.models.baselines.din import DinNetwork
from raytrain.models.baselines.dnn import DnnNetwork
from raytrain.models.declared import DECLARED

NETWORKS: dict[str, NetworkBuilder] = {
    "din": DinNetwork,
    "single_domain": DinNetwork,
    "dnn": DnnNetwork,
    "counter": CounterNetwork,
}
NEURAL_MODELS: dict[str, NeuralModel] = {
    name: NeuralModel(declaration.histories, declaration.tables, NETWORKS[name]) for name, declaration in DECLARED.items()
}
